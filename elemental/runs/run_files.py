"""The files of a run: their names in its folder, and the numbers of the runs that share a folder."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ..errors import ImageError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_STEMS = ("run", "grid", "cells", "diff", "ranking", "gif")


@dataclass(frozen=True)
class RunFiles:
    """Names of the files of one run; the runs of a folder are numbered, and names of the first have no number.

    Attributes:
        folder: The folder of the run.
        number: The run's number in its folder, from 1.
    """

    folder: Path
    number: int = 1

    def path(self, stem: str, ending: str = "") -> Path:
        """Give a name such as ``grid.png``, or ``grid-2.png`` in the second run."""
        return self.folder / (f"{stem}{ending}" if self.number == 1 else f"{stem}-{self.number}{ending}")

    @property
    def record(self) -> Path:
        """The file that says what the run makes and how far it is."""
        return self.path("run", ".json")

    def cell(self, name: str) -> Path:
        """Give the file of one cell's image."""
        return self.path("cells") / f"{name}.png"

    def grid(self, index: int, count: int) -> Path:
        """Give the file of one grid.

        Args:
            index: The number of the grid, from 0.
            count: How many grids the run has.
        """
        return self.path("grid" if count == 1 else f"grid-{index + 1}of{count}", ".png")


@contextmanager
def new_run(folder: Path) -> Iterator[RunFiles]:
    """Take the next free number in a folder, for a run whose record is written before the block ends.

    The folder is made if it does not exist. The last number is also free if a run took it and was killed before it
    wrote its record.

    Raises:
        ImageError: The folder cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files, claim = _claim_number(folder)
        files.path("cells").mkdir(exist_ok=True)
    except OSError as exc:
        raise ImageError(f"Cannot write to the folder {folder}: {exc.strerror or exc}.") from exc
    try:
        yield files
    finally:
        claim.close()


def latest_run(folder: Path) -> RunFiles:
    """Find the last run of a folder; if it has none, that of the element checks in it, ``A-B/diff``.

    Raises:
        ImageError: There is no run, or the folder cannot be read.
    """
    try:
        runs = runs_in(folder)
        if runs:
            return runs[max(runs)]
        checks = [run for inner in folder.glob("*/diff") for run in runs_in(inner).values()]
        if checks:
            return max(checks, key=lambda run: run.record.stat().st_mtime_ns)
    except OSError as exc:
        raise ImageError(f"Cannot read the folder {folder}: {exc.strerror or exc}.") from exc
    raise ImageError(f"{folder} holds no run to go on with: there is no run.json in it.")


def _claim_number(folder: Path) -> tuple[RunFiles, IO[bytes]]:
    """Take a number; the run's record is made, empty, and locked while the file is open."""
    while True:
        last = max(_numbers(folder), default=0)
        claim = _claim_record(RunFiles(folder, last), exists=True) if fcntl is not None and last else None
        if claim is not None:
            return RunFiles(folder, last), claim
        claim = _claim_record(RunFiles(folder, last + 1), exists=False)
        if claim is not None:
            return RunFiles(folder, last + 1), claim


def _claim_record(files: RunFiles, *, exists: bool) -> IO[bytes] | None:
    """Open the empty record of a new run and lock it; None if it belongs to another run.

    Args:
        files: The names of the new run.
        exists: Whether to take a record that exists, in case its run was killed before it wrote it.
    """
    try:
        file = files.record.open("r+b" if exists else "xb")
    except FileExistsError:
        return None
    except OSError:
        if exists:
            return None
        raise
    if fcntl is None:  # Windows, where an open file cannot be replaced
        file.close()
        return file
    if _lock(file, is_new=not exists) and _is_empty(file):
        return file
    file.close()
    return None


def _lock(file: IO[bytes], *, is_new: bool) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:  # locked by another run, or on a file system without locks
        return is_new and not isinstance(exc, BlockingIOError)
    return True


def _is_empty(file: IO[bytes]) -> bool:
    """Tell whether a file is empty and still has its name: another run may have replaced it."""
    status = os.fstat(file.fileno())
    return not status.st_size and bool(status.st_nlink)


def runs_in(folder: Path) -> dict[int, RunFiles]:
    """Find the runs of a folder, by their numbers.

    Raises:
        OSError: The folder cannot be read.
    """
    runs = {number: RunFiles(folder, number) for number in _numbers(folder)}
    # an empty record is that of a run which was killed before it began
    return {number: run for number, run in runs.items() if run.record.is_file() and run.record.stat().st_size}


def _numbers(folder: Path) -> Iterator[int]:
    """Yield the numbers that runs have taken, from the names of files."""
    pattern = re.compile(rf"(?:{'|'.join(_STEMS)})(?:-\d+of\d+)?(?:-(\d+))?(?:\.\w+)?", re.IGNORECASE)
    for path in folder.iterdir() if folder.is_dir() else ():
        if match := pattern.fullmatch(path.name):
            yield int(match[1] or 1)
