"""Checkpoints with the real keys and shapes and random numbers, written once and kept for later runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from elemental.demo.layout import SD1_LAYOUT, SD2_LAYOUT, SDXL_LAYOUT, Layout, tensor_shapes
from elemental.merge.files.tensor_info import TensorInfo
from elemental.merge.files.writer import SafetensorsWriter

LAYOUTS = {"sd15": SD1_LAYOUT, "sd21": SD2_LAYOUT, "sdxl": SDXL_LAYOUT}
_POOL = 1 << 24


def write_checkpoint(folder: Path, layout_name: str, *, dtype: str, seed: int) -> Path:
    """Write a checkpoint unless it is there.

    Args:
        folder: Where.
        layout_name: sd15 (2.13 GB in fp16), sd21 or sdxl (6.94 GB in fp16).
        dtype: F16, BF16 or F32.
        seed: Decides the numbers, which are normal with a deviation of 0.02.
    """
    path = folder / f"{layout_name}-{dtype.lower()}-{seed}.safetensors"
    if not path.exists():
        infos = _infos(LAYOUTS[layout_name], dtype)
        with SafetensorsWriter(path, infos, room={"format": "pt"}, overwrite=False) as writer:
            _fill(writer, infos, np.random.default_rng(seed))
            writer.commit({"format": "pt"})
    return path


def _infos(layout: Layout, dtype: str) -> dict[str, TensorInfo]:
    shapes = tensor_shapes(layout)
    return {key: TensorInfo("I64" if key.endswith("position_ids") else dtype, shape) for key, shape in shapes.items()}


def _fill(writer: SafetensorsWriter, infos: dict[str, TensorInfo], generator: np.random.Generator) -> None:
    # Drawing billions of normal numbers takes longer than merging them; pieces of one pool do as well.
    pool = generator.standard_normal(_POOL, dtype=np.float32) * np.float32(0.02)
    pools = {"F32": pool, "F16": pool.astype(np.float16), "BF16": _to_bfloat16(pool)}
    for key, info in infos.items():
        if info.dtype == "I64":
            writer.write(key, 0, np.arange(info.numel, dtype=np.int64).view(np.uint8).data)
            continue
        numbers, size = pools[info.dtype], info.nbytes // info.numel
        done = 0
        while done < info.numel:
            start = int(generator.integers(_POOL // 2))
            piece = numbers[start : start + min(_POOL // 2, info.numel - done)]
            writer.write(key, done * size, piece.view(np.uint8).data)
            done += len(piece)


def _to_bfloat16(numbers: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Keep the upper half of each float32, which is its bfloat16 rounded towards zero."""
    halves: NDArray[np.uint16] = (numbers.view(np.uint32) >> np.uint32(16)).astype(np.uint16)
    return halves
