"""How far merged checkpoints of real size are from their formula in float64, tensor by tensor.

Run ``python -m benchmarks.exactness [--dir DIR] [--layouts sd15 sdxl] [--dtypes F16] [--modes weight-sum]``. Each merge
is opened with the ``safetensors`` library, and compared with a second opinion on its ratios (``tests/reference.py``).
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

import elemental
from tests.reference import float64_formula, slow_ratio, ulps

from .synthetic import LAYOUTS, write_checkpoint

SPEC = "IN03-OUT05:attn2:0.7,OUT06:attn1 ff.net:0.2,NOT BASE:norm:0.45,TE:mlp:1,VAE:conv_in:0"
ALPHA, BETA = 0.3, 0.25


def main() -> None:
    """Merge, compare, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(tempfile.gettempdir()) / "elemental-benchmarks"
    parser.add_argument("--dir", type=Path, default=default, help="where checkpoints are kept (default: %(default)s)")
    parser.add_argument("--layouts", nargs="+", choices=list(LAYOUTS), default=["sd15", "sdxl"])
    parser.add_argument("--dtypes", nargs="+", choices=["F16", "BF16", "F32"], default=["F16"])
    parser.add_argument("--modes", nargs="+", default=["weight-sum"])
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    args.dir.mkdir(parents=True, exist_ok=True)
    print("| | tensors | set by rules | numbers | largest distance, units in the last place |\n|---|---|---|---|---|")
    for layout in args.layouts:
        for dtype in args.dtypes:
            for mode in map(elemental.MergeMode, args.modes):
                print(f"| {layout} {dtype} {mode.value} | {' | '.join(check(args, layout, dtype, mode))} |", flush=True)


def check(args: argparse.Namespace, layout: str, dtype: str, mode: elemental.MergeMode) -> tuple[str, ...]:
    """Merge one pair, or three, and compare the result; gives the figures of one row."""
    count = 3 if mode.uses_c else 2
    paths = [write_checkpoint(args.dir, layout, dtype=dtype, seed=seed) for seed in range(1, count + 1)]
    a, b, *rest = map(elemental.model_source, paths)
    recipe = elemental.MergeRecipe(
        a,
        b,
        rest[0] if rest else None,
        mode=mode,
        alpha=ALPHA,
        beta=BETA if mode.uses_beta else None,
        rules=elemental.parse_rules(SPEC),
    )
    out = args.dir / "exactness.safetensors"
    plan = elemental.merge_to_file(recipe, out, overwrite=True, device=args.device, with_hashes=False).plan
    worst, numbers = compare(out, paths, mode, depth=plan.architecture.depth)
    out.unlink()
    ruled = sum(tensor.rule is not None for tensor in plan.tensors)
    return str(len(plan.tensors)), str(ruled), f"{numbers:,}", f"{worst:.3f}"


def compare(out: Path, paths: list[Path], mode: elemental.MergeMode, *, depth: int) -> tuple[float, int]:
    """Compare a merged file with the formula; gives the largest distance and how many numbers were compared."""
    worst, numbers = 0.0, 0
    sources: list[Any] = [safe_open(path, framework="pt") for path in paths]
    merged: Any = safe_open(out, framework="pt")
    bounds = elemental.read_recipe(out).numbers  # of modes that measure them, and that have no other numbers
    with merged:
        keys = list(merged.keys())
        if set(keys) != set(sources[0].keys()):
            raise SystemExit("the result's keys are not those of A")
        for key in keys:
            result = merged.get_tensor(key)
            tensors = [source.get_tensor(key) for source in sources]
            if not result.is_floating_point():
                if not torch.equal(result, tensors[0]):
                    raise SystemExit(f"{key} is not A's")
                continue
            ratio = slow_ratio(SPEC, key, depth)
            exact = float64_formula(mode.value, tensors, ALPHA if ratio is None else ratio, BETA, key, bounds)
            worst = max(worst, ulps(result, exact))
            numbers += result.numel()
    return worst, numbers


if __name__ == "__main__":
    main()
