"""Make a small pair of checkpoints with the layout of a real one, to try everything on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ..errors import MergeError
from .layout import SD1_LAYOUT, Layout, shrink, tensor_shapes

DEMO_SPEC = """\
OUT03-OUT05:attn2:1              # cross attention of three blocks from B
IN07 M00:ff.net norm:0.25        # a quarter of B's feed-forward and norm layers
NOT BASE:time_embed out.2:0      # these stay A's"""


_MARK = {"made_by": "elemental demo"}


def make_demo(folder: Path) -> tuple[Path, Path, Path]:
    """Write the pair and a spec into a folder of their own.

    Args:
        folder: Where; empty, or made by an earlier demo.

    Returns:
        The paths of A, of B and of the spec.

    Raises:
        MergeError: The folder holds something else, or cannot be written.
    """
    try:
        if folder.exists() and any(folder.iterdir()) and not _is_demo(folder):
            raise MergeError(f"{folder} holds files that are not the demo's; name another folder with -o.")
        a, b = make_pair(folder)
        spec = folder / "spec.txt"
        spec.write_text(DEMO_SPEC + "\n", encoding="utf-8")
    except (OSError, SafetensorError) as exc:
        raise MergeError(f"Cannot write the demo to {folder}: {getattr(exc, 'strerror', None) or exc}.") from exc
    return a, b, spec


def _is_demo(folder: Path) -> bool:
    try:
        with safe_open(folder / "a.safetensors", framework="numpy") as file:
            return bool(file.metadata() == _MARK)
    except (OSError, SafetensorError):
        return False


def make_pair(folder: Path) -> tuple[Path, Path]:
    """Write two SD 1.x checkpoints of 28 MB in fp16, random and the same every time.

    Args:
        folder: Where; made if it does not exist.

    Returns:
        The paths of A and of B.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / "a.safetensors", folder / "b.safetensors"
    for seed, path in enumerate(paths):
        save_file(random_tensors(shrink(SD1_LAYOUT), seed=seed), path, metadata=_MARK)
    return paths


def random_tensors(layout: Layout, *, seed: int) -> dict[str, NDArray[np.generic]]:
    """Fill a layout with numbers of the size that trained models have, fp16, and int64 for ``position_ids``.

    Args:
        layout: What to fill.
        seed: Decides the numbers.
    """
    generator = np.random.default_rng(seed)
    tensors: dict[str, NDArray[np.generic]] = {}
    for key, shape in tensor_shapes(layout).items():
        if key.endswith("position_ids"):
            tensors[key] = np.arange(shape[1], dtype=np.int64).reshape(shape)
            continue
        fan_in = max(1, int(np.prod(shape[1:])))
        numbers = generator.standard_normal(shape, dtype=np.float32) / np.sqrt(fan_in)
        # 1-D weights are those of norm layers, around one.
        offset = 1.0 if len(shape) == 1 and key.endswith("weight") else 0.0
        tensors[key] = np.asarray(numbers * (0.1 if len(shape) == 1 else 1.0) + offset, dtype=np.float16)
    return tensors
