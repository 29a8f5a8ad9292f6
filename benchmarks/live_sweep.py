"""Time of one cell after another of a sweep in a live model, against merging the whole model for each.

Run ``python -m benchmarks.live_sweep [--dir DIR] [--device cuda]``. A live model with the real tensors of SD 1.5
follows 25 recipes, an element of five blocks at five ratios each. A cell moves bytes: what it reads of the models'
files and what it writes. Beside it stand the machine's copy speed, and in the same run two ways to merge the whole
model: this project's own, and ``load_file``, ``torch.lerp``, ``load_state_dict``.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import elemental
from elemental.hosts.base import CheckpointRef
from elemental.merge.live_merge import LiveMerge, Written
from tests.fake_host import FakeModel

from .synthetic import write_checkpoint

BLOCKS = ("OUT03", "OUT04", "OUT05", "OUT06", "OUT07")
RATIOS = (0.2, 0.4, 0.6, 0.8, 1.0)
ELEMENT = "attn2"
_ALLOWANCE = 0.002  # seconds that a cell may take whatever it moves
_BUFFER = 1 << 28


class Cell(NamedTuple):
    """What one step of the sweep took: seconds, bytes read and written together, bytes written."""

    name: str
    seconds: float
    moved: int
    written: int

    def allowed(self, speed: float) -> float:
        """Give the seconds that half of the machine's copy speed and the allowance make."""
        return 2 * self.moved / speed + _ALLOWANCE


def main() -> None:
    """Run the sweep and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(tempfile.gettempdir()) / "elemental-benchmarks"
    parser.add_argument("--dir", type=Path, default=default, help="where checkpoints are kept (default: %(default)s)")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    args.dir.mkdir(parents=True, exist_ok=True)
    a, b = (write_checkpoint(args.dir, "sd15", dtype="F16", seed=seed) for seed in (1, 2))
    tensors = {key: (tensor.to(args.device).clone(),) for key, tensor in load_file(a).items()}
    model = FakeModel(CheckpointRef(a.stem, a), tensors)
    recipe = elemental.MergeRecipe(elemental.model_source(a), elemental.model_source(b), alpha=0.0)
    with elemental.live_merge(model) as merge:
        first = _timed(lambda: merge.apply(recipe))
        wholes = [_timed(partial(merge.apply, replace(recipe, alpha=alpha))) for alpha in (0.2, 0.4, 0.6)]
        merge.apply(recipe)
        speed = copy_speed(args.device)
        cells = list(sweep(merge, recipe))
    rivals = [_timed(lambda: load_lerp_load(a, b, tensors)) for _ in range(2)]
    _print(first, wholes, rivals, cells, speed)


def sweep(merge: LiveMerge, recipe: elemental.MergeRecipe) -> Iterator[Cell]:
    """Follow the recipes, and time each step."""
    for block in BLOCKS:
        for ratio in RATIOS:
            spec = f"{block}:{ELEMENT}:{ratio}"
            start = time.perf_counter()
            written = merge.apply(replace(recipe, rules=elemental.parse_rules(spec)))
            _wait()
            yield _cell(spec, time.perf_counter() - start, written)


def _cell(name: str, seconds: float, written: Written) -> Cell:
    moved = sum((len(tensor.inputs) + 1) * tensor.info.nbytes for tensor in written.plan.tensors)
    return Cell(name, seconds, moved, written.nbytes)


def copy_speed(device: str) -> float:
    """Measure how many bytes a second copying moves, each read and written, from memory rather than caches."""
    source = torch.ones(_BUFFER, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    return 2 * _BUFFER / statistics.median(_timed(lambda: target.copy_(source)) for _ in range(9))


def load_lerp_load(a: Path, b: Path, tensors: dict[str, tuple[Tensor]]) -> None:
    """Merge the whole model the usual way."""
    module = nn.Module()
    for key, (tensor,) in tensors.items():
        module.register_buffer(key.replace(".", "/"), tensor)
    first, second = load_file(a), load_file(b)
    merged = {
        key: torch.lerp(tensor.float(), second[key].float(), 0.3).to(tensor.dtype)
        if tensor.is_floating_point()
        else tensor
        for key, tensor in first.items()
    }
    module.load_state_dict({key.replace(".", "/"): tensor for key, tensor in merged.items()})


def _timed(job: Callable[[], object]) -> float:
    start = time.perf_counter()
    job()
    _wait()
    return time.perf_counter() - start


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _print(first: float, wholes: Sequence[float], rivals: Sequence[float], cells: Sequence[Cell], speed: float) -> None:
    whole, rival = statistics.median(wholes), statistics.median(rivals)
    print("| | seconds | times a cell |\n|---|---|---|")
    median = statistics.median(cell.seconds for cell in cells)
    print(f"| a cell, median of {len(cells)} | {median:.4f} | 1 |")
    print(f"| first recipe, which compares the live model with its file | {first:.2f} | {first / median:.0f} |")
    print(f"| whole model, this | {whole:.2f} | {whole / median:.0f} |")
    print(f"| whole model, load_file, lerp, load_state_dict | {rival:.2f} | {rival / median:.0f} |")
    print(f"\nCopying moves {speed / 1e9:.1f} GB/s, reading and writing.\n")
    print("| cell | ms | MB written | MB moved | at half the copy's speed, and 2 ms |\n|---|---|---|---|---|")
    for cell in cells:
        figures = f"{cell.seconds * 1e3:.1f} | {cell.written / 1e6:.1f} | {cell.moved / 1e6:.1f}"
        print(f"| {cell.name} | {figures} | {cell.allowed(speed) * 1e3:.1f} |")
    within = sum(cell.seconds <= cell.allowed(speed) for cell in cells)
    print(f"\n{within} of {len(cells)} cells are as fast.")


if __name__ == "__main__":
    main()
