"""What an estimate of effects costs with the tensors of a real model: seconds, and memory beside the model.

Run ``python -m benchmarks.effect_cost [--layout sd15] [--device cpu] [--passes N] [--size N] [--steps N]``. The
checkpoints are synthetic: the keys and shapes of the real ones and random numbers, so images show nothing, and what
is estimated means nothing; only time and memory count. ``demo`` is the demo's pair, to try the benchmark itself. On a
GPU memory is torch's largest amount, the model's included; on a CPU it is the process's largest.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import torch

from elemental import MergeError, MergeRecipe, model_source
from elemental.cli.standalone_host import make_host
from elemental.demo.checkpoint_pair import copy_pair
from elemental.images.image_request import ImageRequest
from elemental.runs.effect_estimate import EffectOrder, EffectWatcher, Method, estimate_effects

from .synthetic import write_checkpoint

_SIZES = {"demo": 128, "sd15": 512, "sdxl": 1024}


def main() -> None:
    """Estimate by both methods, and print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(tempfile.gettempdir()) / "elemental-benchmarks"
    parser.add_argument("--dir", type=Path, default=default, help="where checkpoints are kept (default: %(default)s)")
    parser.add_argument("--layout", choices=list(_SIZES), default="sd15")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--passes", type=int, default=2, help="backward passes (default: %(default)s)")
    parser.add_argument("--size", type=int, help="pixels of a side (default: the model's usual)")
    parser.add_argument("--steps", type=int, default=20, help="sampling steps (default: %(default)s)")
    args = parser.parse_args()
    args.dir.mkdir(parents=True, exist_ok=True)
    a, b = _models(args.dir, args.layout)
    recipe = MergeRecipe(model_source(a), model_source(b), alpha=0)
    size = args.size or _SIZES[args.layout]
    request = ImageRequest("a red circle", seed=1, steps=args.steps, width=size, height=size, cfg=4.0)
    print("| model | device | what | passes | seconds in all | seconds a pass | MB at most |")
    print("|---|---|---|---|---|---|---|")
    for method in (Method.STEPS, Method.WHOLE):
        order = EffectOrder(recipe, (request,), args.passes, method)
        whole, each, memory = _estimate(order, args.device)
        figures = f"{args.passes} | {whole:.2f} | {each:.3f} | {memory / 1e6:,.0f}"
        print(f"| {args.layout}, {size} pixels, {args.steps} steps | {args.device} | {method.value} | {figures} |")


def _models(folder: Path, layout: str) -> tuple[Path, Path]:
    if layout == "demo":
        a, b = copy_pair(folder / "demo")
        return a, b
    a, b = (write_checkpoint(folder, layout, dtype="F16", seed=seed) for seed in (1, 2))
    return a, b


def _estimate(order: EffectOrder, device: str) -> tuple[float, float, int]:
    """Estimate, and give the seconds of all, those of a pass, and the bytes at most."""
    is_gpu = torch.device(device).type == "cuda"
    if is_gpu:
        torch.cuda.reset_peak_memory_stats()
    moments: list[tuple[float, str]] = []
    watcher = EffectWatcher(on_progress=lambda _done, _total, text: moments.append((time.perf_counter(), text)))
    start = time.perf_counter()
    try:
        estimate_effects(make_host(device), order, watcher=watcher)
    except MergeError as exc:  # random numbers may be without effect; what that costs is the same
        print(f"<!-- {exc} -->")
    whole = time.perf_counter() - start
    ends = [moment for moment, _ in moments[1:]] + [start + whole]
    passes = sum(end - moment for (moment, text), end in zip(moments, ends, strict=True) if text.startswith("pass"))
    most = torch.cuda.max_memory_allocated() if is_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return whole, passes / order.passes, most


if __name__ == "__main__":
    main()
