"""Time of a merge to a file against copying one of its inputs, and against other ways to merge.

Run ``python -m benchmarks.merge_speed --help``. The contestants take turns, each in a process of its own, with
the models' files in the page cache:

- this merge, flushed to the disk, with remembered hashes; importing torch is told apart;
- the first mode as a command, ``elemental merge``: the whole process, from its start to its end;
- with ``--arithmetic`` the same, computed from the files and thrown away: what the mode's formula costs;
- ``cp`` of model A and ``sync`` of the copy: the limit, for the same bytes reach the same disk;
- load both, ``torch.lerp``, ``safetensors.torch.save_file``, not flushed;
- sd-mecha, if installed in some Python, not flushed.

With ``--cold`` the models' files are dropped from the page cache before each start, where the system can, and the limit
also reads model B.

Before each start two and a half times the memory that the result takes is touched and freed, since a virtual machine's
free memory may have to be fetched from its host first. Memory is anonymous memory (``RssAnon``), what a process needs
beside mapped files, in one run more that is not timed: watching a process slows it.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from elemental import MergeMode

from .synthetic import LAYOUTS, write_checkpoint

SPEC = "IN03-OUT05:attn2:0.7,OUT06:attn1 ff.net:0.2,NOT BASE:norm:0.45"

_OURS = """
import json, sys, time
start = time.perf_counter()
import torch
imported = time.perf_counter() - start
import elemental
from elemental.merge.execute import execute
from elemental.merge.files.open_models import OpenModels
from elemental.merge.measuring import with_measured_numbers

class Nowhere:
    def write(self, tensor, start, values):
        pass

    def room(self, tensor, start, count):
        return None

print("ready", flush=True), input()
options = json.loads(sys.argv[1])
start = time.perf_counter()
recipe = elemental.MergeRecipe(
    *map(elemental.model_source, options["models"]),
    mode=elemental.MergeMode(options["mode"]),
    alpha=0.3,
    beta=options["beta"],
    rules=elemental.parse_rules(options["spec"]),
)
if options["saved"]:
    elemental.merge_to_file(recipe, options["out"], device=options["device"])
else:
    with OpenModels() as models:
        recipe = with_measured_numbers(recipe, models)
        execute(models.planner(recipe).plan(recipe), models.open(recipe), Nowhere(), device=options["device"])
print(json.dumps({"import": imported, "seconds": time.perf_counter() - start}))
"""

_COPY = """
import json, subprocess, sys, time
a, out, *others = sys.argv[1:]
print("ready", flush=True), input()
start = time.perf_counter()
subprocess.run(["cp", a, out], check=True)
subprocess.run(["cat", "/dev/null", *others], check=True, stdout=subprocess.DEVNULL)
subprocess.run(["sync", out], check=True)
print(json.dumps({"seconds": time.perf_counter() - start}))
"""

_COMMAND = """
import json, subprocess, sys, time
print("ready", flush=True), input()
start = time.perf_counter()
subprocess.run([sys.executable, "-m", "elemental", "merge", *sys.argv[1:]], check=True, stdout=subprocess.DEVNULL)
print(json.dumps({"seconds": time.perf_counter() - start}))
"""

_LOAD_LERP_SAVE = """
import json, sys, time
import torch
from safetensors.torch import load_file, save_file
a, b, out = sys.argv[1:]
print("ready", flush=True), input()
start = time.perf_counter()
A, B = load_file(a), load_file(b)
for key, tensor in A.items():
    if tensor.is_floating_point():
        A[key] = torch.lerp(tensor.float(), B[key].float(), 0.3).to(tensor.dtype)
save_file(A, out)
print(json.dumps({"seconds": time.perf_counter() - start}))
"""

_MECHA = """
import json, os, sys, time
import sd_mecha, torch
a, b, out = (os.path.abspath(path) for path in sys.argv[1:])
print("ready", flush=True), input()
start = time.perf_counter()
recipe = sd_mecha.weighted_sum(sd_mecha.model(a), sd_mecha.model(b), alpha=0.3)
sd_mecha.merge(
    recipe, merge_device="cpu", merge_dtype=torch.float32, output_device="cpu", output_dtype=torch.float16, output=out
)
print(json.dumps({"seconds": time.perf_counter() - start}))
"""


@dataclass
class Contestant:
    """One way to do the job, and what it took in each run.

    Attributes:
        name: As shown in the table.
        command: Makes the file that it is given.
        runs: Run this many times at the most.
        seconds: Of each run, without imports.
        imports: What importing torch took in each run, where it is told.
        memory: Peak anonymous memory in bytes.
    """

    name: str
    command: Callable[[Path], Sequence[str]]
    runs: int
    seconds: list[float] = field(default_factory=list)
    imports: list[float] = field(default_factory=list)
    memory: int = 0


def main() -> None:
    """Run the benchmark that the command line asks for and print its table."""
    args = _parser().parse_args()
    args.dir.mkdir(parents=True, exist_ok=True)
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    for layout in args.layouts:
        for dtype in args.dtypes:
            models = [write_checkpoint(args.dir, layout, dtype=dtype, seed=seed) for seed in (1, 2, 3)[: _needed(args)]]
            _remember_hashes(models)
            contestants = _contestants(args, models, dtype)
            _compete(contestants, models, args)
            _print_table(f"{layout} {dtype}, {models[0].stat().st_size / 1e9:.2f} GB", contestants)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(tempfile.gettempdir()) / "elemental-benchmarks"
    parser.add_argument(
        "--dir", type=Path, default=default, help="where the checkpoints are kept (default: %(default)s)"
    )
    parser.add_argument("--layouts", nargs="+", choices=list(LAYOUTS), default=["sd15"])
    parser.add_argument("--dtypes", nargs="+", choices=["F16", "BF16", "F32"], default=["F16"])
    parser.add_argument("--modes", nargs="+", default=["weight-sum"], help="merge modes (default: weight-sum)")
    parser.add_argument("--arithmetic", action="store_true", help="also compute each mode without writing")
    parser.add_argument("--no-memory", action="store_true", help="leave out the run in which memory is measured")
    parser.add_argument("--cold", action="store_true", help="drop the models from the page cache before each start")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--slow-runs", type=int, default=2, help="runs of the slower rivals; 0 leaves them out")
    parser.add_argument("--mecha-python", default=sys.executable, help="a Python that has sd-mecha")
    parser.add_argument("--device", default="cpu")
    return parser


def _needed(args: argparse.Namespace) -> int:
    return 3 if any(MergeMode(mode).uses_c for mode in args.modes) else 2


def _remember_hashes(models: Sequence[Path]) -> None:
    from elemental.merge.files.hashes import file_sha256

    for model in models:
        file_sha256(model)


def _contestants(args: argparse.Namespace, models: Sequence[Path], dtype: str) -> list[Contestant]:
    a, b = map(str, models[:2])
    others = [b] if args.cold else []
    name = "cp A; read B; sync" if args.cold else "cp A; sync"
    copy = Contestant(name, lambda out: [sys.executable, "-c", _COPY, a, str(out), *others], args.runs)
    kinds = (True, False) if args.arithmetic else (True,)
    found = [copy, *(_ours(args, MergeMode(mode), models, saved=saved) for mode in args.modes for saved in kinds)]
    found.append(_command(args, MergeMode(args.modes[0]), models))
    if args.slow_runs:
        lerp = [sys.executable, "-c", _LOAD_LERP_SAVE, a, b]
        found.append(Contestant("load, lerp, save_file", lambda out: [*lerp, str(out)], args.slow_runs))
        mecha = [args.mecha_python, "-c", _MECHA, a, b]
        if dtype == "F16" and _has_mecha(args.mecha_python):
            found.append(Contestant("sd-mecha", lambda out: [*mecha, str(out)], args.slow_runs))
    return found


def _ours(args: argparse.Namespace, mode: MergeMode, models: Sequence[Path], *, saved: bool) -> Contestant:
    options = {
        "models": [str(model) for model in models[: 3 if mode.uses_c else 2]],
        "mode": mode.value,
        "beta": 0.25 if mode.uses_beta else None,
        "spec": SPEC,
        "device": args.device,
        "saved": saved,
    }

    def command(out: Path) -> list[str]:
        return [sys.executable, "-c", _OURS, json.dumps({**options, "out": str(out)})]

    return Contestant(f"{'this' if saved else 'arithmetic'}, {mode.value}", command, args.runs)


def _command(args: argparse.Namespace, mode: MergeMode, models: Sequence[Path]) -> Contestant:
    words = ["--mode", mode.value, "--alpha", "0.3", "--elemental", SPEC, "--device", args.device, "--overwrite"]
    words += ["--beta", "0.25"] if mode.uses_beta else []
    inputs = [str(model) for model in models[: 3 if mode.uses_c else 2]]

    def command(out: Path) -> list[str]:
        return [sys.executable, "-c", _COMMAND, *inputs, *words, "-o", str(out)]

    return Contestant(f"whole process, {mode.value}", command, args.runs)


def _has_mecha(python: str) -> bool:
    return subprocess.run([python, "-c", "import sd_mecha"], capture_output=True, check=False).returncode == 0


def _compete(contestants: Sequence[Contestant], models: Sequence[Path], args: argparse.Namespace) -> None:
    out = args.dir / "out.safetensors"
    for run in range(args.runs + (not args.no_memory)):
        for contestant in contestants:
            if run < contestant.runs or run == args.runs:
                (_drop if args.cold else _warm)(models)
                _race(contestant, out, timed=run < args.runs, room=models[0].stat().st_size)
                out.unlink(missing_ok=True)
                os.sync()


def _warm(models: Sequence[Path]) -> None:
    """Read the files, so that they lie in the page cache as far as memory allows."""
    buffer = bytearray(16 << 20)
    for model in models:
        with model.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def _drop(models: Sequence[Path]) -> None:
    """Have the system forget what it holds of the files."""
    for model in models:
        with model.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _touch(size: int) -> None:
    """Make the system have this much memory at hand, as far as that is free."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemFree"))
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
    mmap.mmap(-1, min(size, free * 4 // 5), flags=flags).close()


def _race(contestant: Contestant, out: Path, *, timed: bool, room: int) -> None:
    process = subprocess.Popen(
        contestant.command(out), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    _touch(5 * room // 2)
    peak = None if timed else _PeakMemory(process.pid)
    printed, _ = process.communicate("go\n")
    if process.returncode:
        raise SystemExit(f"{contestant.name} failed with exit code {process.returncode}")
    told = json.loads(printed.splitlines()[-1])
    if peak is not None:
        contestant.memory = peak.finish()
        return
    contestant.seconds.append(told["seconds"])
    if "import" in told:
        contestant.imports.append(told["import"])


class _PeakMemory:
    """Watches the anonymous memory of a process and of those that it started, from a thread."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._peak = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def finish(self) -> int:
        """Stop watching and give the peak in bytes."""
        self._ended.set()
        self._thread.join()
        return self._peak

    def _watch(self) -> None:
        while not self._ended.wait(0.01):
            try:
                children = Path(f"/proc/{self._pid}/task/{self._pid}/children").read_text().split()
                statuses = [Path(f"/proc/{pid}/status").read_text() for pid in (self._pid, *children)]
            except OSError:
                continue  # one has just ended
            lines = [line for status in statuses for line in status.splitlines() if line.startswith("RssAnon")]
            self._peak = max(self._peak, sum(int(line.split()[1]) * 1024 for line in lines))


def _print_table(title: str, contestants: Sequence[Contestant]) -> None:
    copy = contestants[0]
    print(f"\n### {title}\n")
    print("| | runs | seconds: median | least | most | times the copy: median | least | most | anonymous memory, MB |")
    print("|---|---|---|---|---|---|---|---|---|")
    for contestant in contestants:
        seconds = contestant.seconds
        ratios = [own / limit for own, limit in zip(seconds, copy.seconds, strict=False)]
        cells = [contestant.name, str(len(seconds))]
        for numbers in (seconds, ratios):
            cells += [f"{figure(numbers):.2f}" for figure in (statistics.median, min, max)]
        print("|", " | ".join([*cells, f"{contestant.memory / 1e6:.0f}" if contestant.memory else "-"]), "|")
    imports = [second for contestant in contestants for second in contestant.imports]
    if imports:
        print(f"\nImporting torch took {statistics.median(imports):.2f} s beside.")


if __name__ == "__main__":
    main()
