"""Time of planning: a thousand rules on SDXL in one process, and ``elemental plan`` of two files as a whole process.

Run ``python -m benchmarks.plan_speed [--dir DIR]``. The limit to compare with is starting Python itself.
"""

from __future__ import annotations

import argparse
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from elemental.architectures.blocks import SDXL
from elemental.demo.layout import SDXL_LAYOUT, tensor_shapes
from elemental.merge.files.tensor_info import TensorInfo
from elemental.merge.plan import Role
from elemental.merge.planner import plan_tensors
from elemental.recipe.recipe import MergeRecipe, ModelSource
from elemental.recipe.spec_parser import parse_rules

from .synthetic import write_checkpoint

_RUNS = 7


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(tempfile.gettempdir()) / "elemental-benchmarks"
    parser.add_argument("--dir", type=Path, default=default, help="where checkpoints are kept (default: %(default)s)")
    folder = parser.parse_args().dir
    folder.mkdir(parents=True, exist_ok=True)
    pair = [str(write_checkpoint(folder, "sdxl", dtype="F16", seed=seed)) for seed in (1, 2)]
    spec = thousand_rules()
    rules = parse_rules(spec)
    infos = {key: TensorInfo("F16", shape) for key, shape in tensor_shapes(SDXL_LAYOUT).items()}
    recipe = MergeRecipe(ModelSource("a"), ModelSource("b"), rules=rules)
    plan_command = [sys.executable, "-m", "elemental", "plan", *pair, "--elemental", "OUT05:attn2:0.5"]
    rows: dict[str, Callable[[], object]] = {
        "parse 1,000 rules": lambda: parse_rules(spec),
        "plan 1,000 rules on SDXL, 2,515 tensors": lambda: plan_tensors(recipe, {Role.A: infos, Role.B: infos}),
        "`elemental plan` of two SDXL files, whole process": lambda: run(plan_command),
        "`python -c pass`, whole process": lambda: run([sys.executable, "-c", "pass"]),
    }
    print("| | median, ms | least | most |\n|---|---|---|---|")
    for name, work in rows.items():
        times = [measure(work) for _ in range(_RUNS)]
        print(f"| {name} | {statistics.median(times):.1f} | {min(times):.1f} | {max(times):.1f} |")


def thousand_rules() -> str:
    """Make a spec of a thousand different rules: blocks, ranges, NOT, and pieces of real element names."""
    draw = random.Random(1)
    elements = [key.split("_blocks.")[-1] for key in tensor_shapes(SDXL_LAYOUT)]
    rules = []
    for index in range(1000):
        blocks = draw.choice([draw.choice(SDXL.blocks), f"IN03-{draw.choice(SDXL.blocks)}", "NOT M00 OUT01", ""])
        element = draw.choice(elements)
        start = draw.randrange(len(element))
        part = element[start : start + draw.randint(3, 25)].strip(".") or "attn"
        rules.append(f"{blocks}:{draw.choice(['', 'NOT '])}{part}:{index / 1000}")
    return "\n".join(rules)


def run(command: list[str]) -> None:
    """Run a command to its end."""
    subprocess.run(command, check=True, capture_output=True)


def measure(work: Callable[[], object]) -> float:
    """Time one call in milliseconds."""
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) * 1000


if __name__ == "__main__":
    main()
