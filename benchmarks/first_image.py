"""Time of the first image: ``elemental generate`` of the two demo models as a whole process, and what bounds it.

Run ``python -m benchmarks.first_image [--runs N]``. Beside the command stand the imports that it cannot do without.
Times are elapsed time, and the processor time of the process, which other programs disturb less.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import elemental.demo

_HOST = "elemental.hosts.standalone.host"


class Times(NamedTuple):
    """Times of one run in seconds.

    Attributes:
        elapsed: From start to end.
        cpu: Of all its threads.
    """

    elapsed: float
    cpu: float


def main() -> None:
    """Measure in turns, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="how often each is run (default: %(default)s)")
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as folder:
        commands = dict(_commands(Path(folder)))
        times: dict[str, list[Times]] = {name: [] for name in commands}
        for _ in range(runs):
            for name, command in commands.items():
                times[name].append(measure(command))
                for image in Path(folder).iterdir():
                    image.unlink()
    print("| seconds | elapsed, median | least | most | processor, least |\n|---|---|---|---|---|")
    for name, found in times.items():
        elapsed = [each.elapsed for each in found]
        figures = (statistics.median(elapsed), min(elapsed), max(elapsed), min(each.cpu for each in found))
        print(f"| {name} | {' | '.join(f'{figure:.2f}' for figure in figures)} |")


def _commands(folder: Path) -> Iterator[tuple[str, Sequence[str]]]:
    """Give what is timed: the command, the same with one sampling step, and imports."""
    pair = [str(Path(elemental.demo.__file__).with_name(f"{name}.safetensors")) for name in "ab"]
    generate = [sys.executable, "-m", "elemental", "generate", *pair, "-o", str(folder)]
    yield "`elemental generate A B -o DIR`", generate
    yield "the same with `--steps 1`", [*generate, "--steps", "1"]
    yield f"`import {_HOST}`", [sys.executable, "-c", f"import {_HOST}"]
    libraries = (
        "from diffusers import AutoencoderKL, UNet2DConditionModel, StableDiffusionPipeline; "
        "from transformers import CLIPTextModel"
    )
    yield "`import torch`, diffusers, transformers", [sys.executable, "-c", f"import torch; {libraries}"]
    yield "`import torch`", [sys.executable, "-c", "import torch"]
    yield "`pass`", [sys.executable, "-c", "pass"]


def measure(command: Sequence[str]) -> Times:
    """Run a command to its end.

    Raises:
        RuntimeError: It failed.
    """
    start, before = time.perf_counter(), os.times()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    after = os.times()
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    cpu = after.children_user - before.children_user + after.children_system - before.children_system
    return Times(time.perf_counter() - start, cpu)


if __name__ == "__main__":
    main()
