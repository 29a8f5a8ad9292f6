"""The files of a run of many images: their names, and the record of what was done, from which it can go on."""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ..errors import ImageError
from ..images.files import write_whole

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_log = logging.getLogger(__name__)

VERSION = 1
_ENTRIES = ("kind", "definition", "options", "models", "cells")
_STEMS = ("run", "grid", "cells", "diff", "ranking", "gif")
_SECONDS_BETWEEN = 2.0


@dataclass(frozen=True)
class RunFiles:
    """Names in a folder for what one run makes; the runs of a folder are numbered, and the first has no number.

    Attributes:
        folder: Where everything goes.
        number: Of the run, from 1.
    """

    folder: Path
    number: int = 1

    def path(self, stem: str, ending: str = "") -> Path:
        """Give a name such as ``grid.png``, or ``grid-2.png`` in the second run."""
        return self.folder / (f"{stem}{ending}" if self.number == 1 else f"{stem}-{self.number}{ending}")

    @property
    def record(self) -> Path:
        """The file that tells what the run is and how far it is."""
        return self.path("run", ".json")

    def cell(self, name: str) -> Path:
        """Give the file of one image."""
        return self.path("cells") / f"{name}.png"

    def grid(self, index: int, count: int) -> Path:
        """Give the file of one grid of so many."""
        return self.path("grid" if count == 1 else f"grid-{index + 1}of{count}", ".png")


@contextmanager
def new_run(folder: Path) -> Iterator[RunFiles]:
    """Take the next free number in a folder, for a run whose record is written before the block ends.

    The folder is made if it does not exist. The last number is free, too, if a run took it that was killed before it
    had a record.

    Raises:
        ImageError: It cannot be written to.
    """
    claim = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        while claim is None:
            last = max(_numbers(folder), default=0)
            files = RunFiles(folder, last)
            claim = _claim(files, is_left=True) if fcntl is not None and last else None
            if claim is None:
                files = RunFiles(folder, last + 1)
                claim = _claim(files, is_left=False)
        files.path("cells").mkdir(exist_ok=True)
    except OSError as exc:
        raise ImageError(f"Cannot write to the folder {folder}: {exc.strerror or exc}.") from exc
    try:
        yield files
    finally:
        claim.close()


def _claim(files: RunFiles, *, is_left: bool) -> IO[bytes] | None:
    """Open the empty record of a run that begins, and lock it; None if it is another's.

    Args:
        files: The run's.
        is_left: Whether the record exists, maybe of a run that was killed before it wrote it.
    """
    try:
        file = files.record.open("r+b" if is_left else "xb")
    except FileExistsError:
        return None
    except OSError:
        if is_left:
            return None
        raise
    if fcntl is None:  # Windows, where an open file cannot be replaced
        file.close()
        return file
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        is_free = True
    except OSError as exc:  # another's, or a file system without locks
        is_free = not is_left and not isinstance(exc, BlockingIOError)
    found = os.fstat(file.fileno())
    if is_free and not found.st_size and found.st_nlink:
        return file
    file.close()
    return None


def latest_run(folder: Path) -> RunFiles:
    """Find the last run of a folder; if it has none, of the folders that checks have in it, ``A-B/diff``.

    Raises:
        ImageError: There is none, or the folder cannot be read.
    """
    try:
        runs = _runs_in(folder)
        if runs:
            return runs[max(runs)]
        below = [run for inner in folder.glob("*/diff") for run in _runs_in(inner).values()]
        if below:
            return max(below, key=lambda run: run.record.stat().st_mtime_ns)
    except OSError as exc:
        raise ImageError(f"Cannot read the folder {folder}: {exc.strerror or exc}.") from exc
    raise ImageError(f"{folder} holds no run to go on with: there is no run.json in it.")


def _runs_in(folder: Path) -> dict[int, RunFiles]:
    runs = {number: RunFiles(folder, number) for number in _numbers(folder)}
    # an empty record is that of a run which was killed before it began
    return {number: run for number, run in runs.items() if run.record.is_file() and run.record.stat().st_size}


def _numbers(folder: Path) -> Iterator[int]:
    """Yield the numbers of runs whose names are taken, whoever took them."""
    pattern = re.compile(rf"(?:{'|'.join(_STEMS)})(?:-\d+of\d+)?(?:-(\d+))?(?:\.\w+)?", re.IGNORECASE)
    for path in folder.iterdir() if folder.is_dir() else ():
        if found := pattern.fullmatch(path.name):
            yield int(found[1] or 1)


class RunRecord:
    """What is known of a run; kept in its ``run.json``.

    Args:
        files: The run's.
        data: What is in the file, or shall be.

    Attributes:
        files: The run's.
        data: What is known.
    """

    def __init__(self, files: RunFiles, data: dict[str, Any]) -> None:
        self.files = files
        self.data = data
        self._written = 0.0

    @property
    def cells(self) -> dict[str, dict[str, Any]]:
        """What is known of each image, by its place."""
        cells: dict[str, dict[str, Any]] = self.data["cells"]
        return cells

    def note(self, name: str, facts: Mapping[str, Any]) -> None:
        """Note something about an image; written at once, unless the file was written a moment ago.

        What cannot be written now is written with the next note.
        """
        self.cells[name].update(facts)
        if time.monotonic() - self._written > _SECONDS_BETWEEN:
            try:
                self.write()
            except ImageError as exc:
                _log.warning("%s", exc)

    def write(self) -> None:
        """Write the file.

        Raises:
            ImageError: It cannot be written.
        """
        write_whole(self.files.record, json.dumps(self.data, indent=1).encode(), replace=True)
        self._written = time.monotonic()


def _is_whole(data: dict[str, Any]) -> bool:
    """Tell whether all entries of a record are there and of the right kind."""
    dicts = [data.get(name) for name in _ENTRIES if name != "kind"]
    if not isinstance(data.get("kind"), str) or not all(isinstance(entry, dict) for entry in dicts):
        return False
    right = all(isinstance(facts, dict) and "state" in facts for facts in data["cells"].values())
    return right and all(re.fullmatch(r"x\d+-y\d+", name) for name in data["cells"])  # they are names of files


def read_record(files: RunFiles) -> RunRecord:
    """Read the record of a run.

    Raises:
        ImageError: It cannot be read, or is of a later version.
    """
    try:
        data = json.loads(files.record.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise ImageError(f"Cannot read {files.record}: {exc}.") from exc
    if not isinstance(data, dict) or data.get("version") != VERSION or not _is_whole(data):
        raise ImageError(f"{files.record} is no record of a run that this program knows.")
    return RunRecord(files, data)
