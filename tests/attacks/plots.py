"""Plots and checks killed or stopped at random moments, and gone on with until they are whole.

Each ends as one that nothing disturbed: every image, grid, table and GIF the same byte for byte, no image made
twice, no temporary file left, and the record readable after every kill. Run as ``python -m tests.attacks.plots``: 50
kills. What is killed is a process that runs the whole command, forked from one that has imported everything.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import signal
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elemental.cli.main import FAILED, STOPPED
from elemental.errors import ImageError
from elemental.merge.files.hashes import CACHE_VARIABLE
from elemental.runs.run_files import RunFiles, latest_run
from elemental.runs.run_record import read_record

from .processes import ROOT, Command, Tally, warm_up

_STOPPED = 0.2
"""How often a run is stopped by SIGTERM rather than killed."""

WARM = (
    "cli.main",
    "runs.xy_plot_run",
    "runs.element_check_run",
    "runs.resume",
    "merge.live_merge",
    "merge.execute",
    "hosts.standalone.host",
)
_MODELS = [str(ROOT / "elemental" / "demo" / f"{name}.safetensors") for name in "ab"]
_REQUEST = ["--width", "64", "--height", "64", "--steps", "1", "--prompt", "a red circle"]
RUNS: dict[str, list[str]] = {
    "short plot": ["plot", "--x-type", "alpha", "--x", "0, 1", "--y-type", "seed", "--y", "1, 2"],
    "short check": ["check", "--elements", "IN07:attn1, M00", "--ratio", "1"],
    "elements": [
        *["plot", "--compare", "--x-type", "alpha", "--x", "0, 0.3, 0.6, 1"],
        *["--y-type", "pinpoint-element", "--y", "IN07:attn1, OUT05:attn2, M00"],
    ],
    "two grids": ["plot", "--x-type", "seed", "--x", "1, 2 | 3, 4", "--y-type", "alpha", "--y", "0, 0.5, 1"],
    "models": ["plot", "--x-type", "model-a", "--x", ", ".join(_MODELS), "--y-type", "seed", "--y", "1,2,3,4,5,6,7"],
    "check": ["check", "--elements", "IN07:attn1, OUT05, M00, OUT08:ff | OUT03, :attn2, TE, IN01:ff", "--ratio", "1"],
    "samplers": [
        *["plot", "--x-type", "sampler", "--x", "Euler, DDIM, UniPC, DPM++ 2M Karras"],
        *["--y-type", "cfg", "--y", "1, 4, 7", "--steps", "2", "--width", "96"],
    ],
}


@dataclass(frozen=True)
class Whole:
    """A run that nothing disturbed.

    Attributes:
        name: Of it.
        argv: The command, without a folder.
        files: Everything that it made, by name, but the record.
        record: Its record.
        before: Seconds that the process takes for all but its images.
        each: Seconds for an image.
        drawing: Seconds from the last image to the end.
    """

    name: str
    argv: list[str]
    files: dict[str, bytes]
    record: dict[str, Any]
    before: float
    each: float
    drawing: float

    @property
    def cells(self) -> int:
        return len(self.record["cells"])


def main() -> int:
    """Attack, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=50, help="kills (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=list(RUNS), help="what to kill")
    args = parser.parse_args()
    warm_up(*(f"elemental.{name}" for name in WARM))
    with tempfile.TemporaryDirectory() as folder:
        return attack(Path(folder), rounds=args.rounds, seed=args.seed, names=args.only or list(RUNS)[2:])


def attack(folder: Path, *, rounds: int, seed: int, names: list[str]) -> int:
    """Kill plots and checks; gives 1 if anything was lost.

    Args:
        folder: To work in.
        rounds: How many kills.
        seed: Decides all that is drawn.
        names: Of the runs to kill, one after the other.
    """
    started, rng, tally = time.monotonic(), random.Random(seed), Tally()
    os.environ[CACHE_VARIABLE] = str(folder / "cache")
    wholes = [make_whole(name, folder / f"whole-{name}") for name in names]
    number = 0
    while tally.counts["kills"] < rounds:
        most = min(rounds, tally.counts["kills"] + -(-rounds // len(wholes)))
        Trial(wholes[number % len(wholes)], folder / f"trial-{number}", tally, rng, most=most).go_through()
        number += 1
    return tally.report(time.monotonic() - started)


def make_whole(name: str, folder: Path) -> Whole:
    command, *options = RUNS[name]
    argv = [command, *_MODELS, *(["--alpha", "0.2"] if "alpha" not in options else []), *_REQUEST, *options]
    process = Command([*argv, "-o", folder], folder.with_suffix(".log"))
    run = latest_run(run_folder(folder)) if process.wait() == 0 else None
    if run is None:
        raise RuntimeError(f"the run that nothing disturbs fails: {process.errors}")
    life = process.age
    record = read_record(run).to_dict()
    count = len(record["cells"])
    seconds = record["sessions"][0]["seconds"]
    each = (seconds["merging"] + seconds["generating"]) / count
    return Whole(name, argv, read_products(run), record, life - count * each, each, seconds["drawing"])


def run_folder(folder: Path) -> Path:
    """Give the folder of the run that a command was given a folder for."""
    return next(folder.glob("*/diff"), folder)


def read_products(run: RunFiles) -> dict[str, bytes]:
    """Read all that is in the folder of a run, but its record."""
    paths = [path for path in run.folder.rglob("*") if path.is_file() and path != run.record]
    return {path.relative_to(run.folder).as_posix(): path.read_bytes() for path in paths}


class Trial:
    """One run, killed again and again, until there are so many kills in all."""

    def __init__(self, whole: Whole, folder: Path, tally: Tally, rng: random.Random, *, most: int) -> None:
        self._whole = whole
        self._folder = folder
        self._tally = tally
        self._rng = rng
        self._most = most
        self._seen: dict[Path, tuple[int, int]] = {}
        self._what = f"{whole.name} in {folder.name}"

    def go_through(self) -> None:
        """Start it, kill it, go on with it, until it is whole; and then once more."""
        counts = self._tally.counts
        while True:
            known = len(self._seen)
            command = self._begin()
            blow = "kills"
            is_spared = known == self._whole.cells and self._rng.random() < 0.5
            if counts["kills"] < self._most and not is_spared:
                blow = self._strike(command)
            code = command.wait()
            self._look(code)
            if code == STOPPED:
                self._listen(command, made=len(self._seen) - known)
            elif self._is_over(command):
                break
            elif code == FAILED:
                continue
            counts[blow] += 1
            counts[f"{blow} {self._phase(known)}"] += 1
            counts[f"{blow}, {self._whole.argv[0]}"] += 1
        counts[f"{self._whole.argv[0]}s finished"] += 1
        self._tally.check(code == 0, f"{self._what}: exit code {code}, {command.errors}")
        self._compare(made=self._whole.cells - known)
        self._tally.check(self._begin().wait() == 0, f"{self._what}: going on with what is done fails")
        self._compare(made=self._whole.cells - known)

    @property
    def _run(self) -> RunFiles | None:
        try:
            return latest_run(run_folder(self._folder))
        except ImageError:
            return None

    def _begin(self) -> Command:
        return self._command([])

    def _command(self, options: list[object]) -> Command:
        run = self._run
        more = [*self._whole.argv, "-o", self._folder] if run is None else [self._whole.argv[0], "--resume", run.folder]
        return Command([*more, *options], self._folder.with_suffix(".log"))

    def _strike(self, command: Command) -> str:
        """Kill it at some moment, or ask it to end, and tell which."""
        self._wait_for_moment(command)
        if self._rng.random() < _STOPPED:
            command.terminate()
            return "stops"
        command.kill()
        return "kills"

    def _is_over(self, command: Command) -> bool:
        """Tell whether a run that nobody stopped has come to its end, which may be an error."""
        return command.code not in (-signal.SIGKILL, -signal.SIGTERM)

    def _wait_for_moment(self, command: Command) -> None:
        """Wait for a moment: any, one soon after the last image was made, or one at which a run has just begun."""
        missing = self._whole.cells - len(self._seen)
        kind = self._rng.random()
        if kind < 0.25:
            command.sleep_until(lambda: len(self._cells()) == self._whole.cells)
            time.sleep(self._rng.uniform(0, 1.2 * self._whole.drawing))
        elif kind < 0.4 and self._run is None:
            command.sleep_until(lambda: list(self._folder.rglob("run.json")))
            time.sleep(self._rng.uniform(0, 0.005))
        else:
            life = self._whole.before + missing * self._whole.each
            time.sleep(max(0.0, self._rng.uniform(0, 0.7 * life) - command.age))

    def _cells(self) -> list[Path]:
        run = self._run
        paths = [] if run is None else [run.cell(name) for name in self._whole.record["cells"]]
        return [path for path in paths if path.exists()]

    def _phase(self, known: int) -> str:
        if self._run is None:
            return "before there was a record"
        if len(self._seen) < self._whole.cells:
            return "before or between images"
        return "while drawing, after the last image" if known < self._whole.cells else "when all images were there"

    def _look(self, code: int) -> None:
        """Check that what was there before is there, and that the rest can be read."""
        check, run = self._tally.check, self._run
        if run is None:
            check(not list(self._folder.rglob("*.png")), f"{self._what}: there are images and no record")
            return
        record = read_record(run)
        check(len(record.cells) == self._whole.cells, f"{self._what}: the record is not whole after {code}")
        for path, known in self._seen.items():
            check(_identity(path) == known, f"{self._what}: {path.name} was made again")
        for path in self._cells():
            self._seen[path] = _identity(path)
        wanted = self._whole.files
        for name, data in read_products(run).items():
            if name.startswith("cells/x") or name.endswith(".gif"):
                check(data == wanted[name], f"{self._what}: {name} differs after {code}")
            elif name.endswith(".png") and "/." not in f"/{name}":
                _load(data)

    def _listen(self, command: Command, *, made: int) -> None:
        """Check that a run that was stopped says what is true."""
        text, missing = command.errors.splitlines()[-1], self._whole.cells - len(self._seen)
        good = text == "Stopped; nothing was changed." and not made
        good |= text.startswith("Stopped. To go on: ")
        good |= missing > 0 and text.startswith(f"Stopped; {missing} image{'s' * (missing > 1)} not made. To go on: ")
        self._tally.check(good, f"{self._what}: stopped when {made} were made and {missing} missing: {text!r}")

    def _compare(self, *, made: int) -> None:
        """Compare everything with the run that nothing disturbed."""
        check, run, whole = self._tally.check, self._run, self._whole
        if run is None:
            check(False, f"{self._what}: there is no run")
            return
        files = read_products(run)
        check(set(files) == set(whole.files), f"{self._what}: {sorted(set(files) ^ set(whole.files))}")
        for name, data in whole.files.items():
            check(files.get(name) == data, f"{self._what}: {name} differs in the end")
        record = json.loads(run.record.read_text(encoding="utf-8"))
        for name, facts in whole.record["cells"].items():
            same = {part: value for part, value in record["cells"][name].items() if part != "seconds"}
            check(same == {part: value for part, value in facts.items() if part != "seconds"}, f"{self._what}: {name}")
        sessions = [session["made"] for session in record.get("sessions", [])]
        check(sum(sessions) <= whole.cells, f"{self._what}: {sessions} images made")
        check(not made or sessions[-1] == made, f"{self._what}: {sessions}, though {made} were missing")


def _identity(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_ino, found.st_mtime_ns


def _load(data: bytes) -> None:
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        image.load()


if __name__ == "__main__":
    raise SystemExit(main())
