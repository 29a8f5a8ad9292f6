"""The history of merges, images, saves and runs: a file with one line of JSON for each."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from ..errors import ImageError
from ..images.files import write_whole

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_log = logging.getLogger(__name__)

MOST = 500
"""Entries that are kept and shown."""
_LARGEST = 8_000_000  # bytes
_STARRED = b'"starred": true'


@dataclass(frozen=True)
class HistoryEntry:
    """An entry of the history.

    Attributes:
        kind: "merge", "generate", "save", "plot", "check", "effects", "simplify", "simplified" (its result), or "form".
        name: The merge, as a text.
        result: The result, as a text.
        form: The values of the form by field name, to fill it again.
        recipe: The recipe, as plain data.
        when: The time, in seconds since the epoch.
        number: Identifies the entry.
        image: The image or grid that was made, as a path; empty for none.
        starred: Whether it stays when there are more entries than are kept.
    """

    kind: str
    name: str
    result: str
    form: Mapping[str, Any]
    recipe: Mapping[str, Any]
    when: float = field(default_factory=time.time)
    number: int = field(default_factory=time.time_ns)
    image: str = ""
    starred: bool = False


class History:
    """The history in a file, to which several programs may add; the latest entries are kept.

    Args:
        path: The file; created with the first entry.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()

    @property
    def thumbnails(self) -> Path:
        """The folder of the small images of the entries, whose names are the numbers of these."""
        return self._path.with_name("history_thumbnails")

    def add(self, entry: HistoryEntry) -> None:
        """Add an entry; if it cannot be written, this is only logged, because what it tells of is done."""
        self._change(_line(entry), _latest)

    def star(self, number: int, *, starred: bool) -> None:
        """Star an entry, or take its star away."""

        def change(lines: list[bytes]) -> list[bytes]:
            entries = ((line, _parse(line)) for line in lines)
            return [
                _line(replace(entry, starred=starred)).rstrip() if entry and entry.number == number else line
                for line, entry in entries
            ]

        self._change(b"", change)

    def delete(self, number: int) -> None:
        """Delete an entry and its small image; what it tells of stays."""

        def change(lines: list[bytes]) -> list[bytes]:
            entries = ((line, _parse(line)) for line in lines)
            return [line for line, entry in entries if not entry or entry.number != number]

        self._change(b"", change)
        with suppress(OSError):
            self.thumbnail_of(number).unlink()

    def thumbnail_of(self, number: int) -> Path:
        """Give the file of the small image of an entry; it may not exist."""
        return self.thumbnails / f"{number}.jpg"

    def _change(self, line: bytes, change: Callable[[list[bytes]], list[bytes]]) -> None:
        """Add a line, and replace the file by what a change makes of its lines; a failure is only logged."""
        try:
            with self._lock:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with _open_alone(self._path) as file:
                    file.write(line)
                    file.flush()
                    if fcntl is not None:
                        self._replace(change)
                if fcntl is None:  # an open file cannot be replaced there
                    self._replace(change)
        except (OSError, ImageError) as exc:
            _log.warning("The history cannot be written to %s: %s", self._path, exc)

    def _replace(self, change: Callable[[list[bytes]], list[bytes]]) -> None:
        data = self._path.read_bytes()
        kept = b"".join(line + b"\n" for line in change(data.splitlines()))
        if kept != data:
            write_whole(self._path, kept, replace=True)

    def entries(self) -> list[HistoryEntry]:
        """Give the entries, newest first; unreadable lines are left out."""
        try:
            with self._path.open("rb") as file:
                lines = _latest(file.read().splitlines())
        except FileNotFoundError:
            return []
        except OSError as exc:
            _log.warning("The history cannot be read from %s: %s", self._path, exc)
            return []
        return [entry for line in reversed(lines) if (entry := _parse(line)) is not None]

    def find(self, number: int) -> HistoryEntry | None:
        """Give the entry with a number; None if it is not kept any more."""
        return next((entry for entry in self.entries() if entry.number == number), None)


def _line(entry: HistoryEntry) -> bytes:
    return (json.dumps(asdict(entry), ensure_ascii=True) + "\n").encode()


def _latest(lines: list[bytes]) -> list[bytes]:
    """Give the last lines: at most 500, and 8 MB; and before them those that are starred, as many again."""
    size, first = 0, len(lines)
    while first > 0 and len(lines) - first < MOST and size + len(lines[first - 1]) < _LARGEST:
        first -= 1
        size += len(lines[first]) + 1
    starred = [line for line in lines[:first] if _STARRED in line]
    return [*starred[-MOST:], *lines[first:]]


@contextmanager
def _open_alone(path: Path) -> Iterator[IO[bytes]]:
    """Open a file to append to, while no other process of this program does; another may replace it before."""
    while True:
        with path.open("ab") as file:
            if fcntl is not None:
                with suppress(OSError):  # some file systems have no locks
                    fcntl.flock(file, fcntl.LOCK_EX)
                if not _is_at(file, path):
                    continue
            yield file
            return


def _is_at(file: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _parse(line: bytes) -> HistoryEntry | None:
    try:
        entry = HistoryEntry(**json.loads(line))
        time.localtime(entry.when)
    except (ValueError, TypeError, OverflowError, OSError):
        return None  # damaged, or written by another version
    return entry if _has_valid_types(entry) else None


def _has_valid_types(entry: HistoryEntry) -> bool:
    texts = (entry.kind, entry.name, entry.result)
    valid_texts = all(isinstance(text, str) for text in texts)
    mappings = isinstance(entry.form, dict) and isinstance(entry.recipe, dict)
    rest = isinstance(entry.number, int) and isinstance(entry.image, str) and isinstance(entry.starred, bool)
    return valid_texts and rest and mappings
