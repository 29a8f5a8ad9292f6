"""The history of merges, images, saves and runs: a file with one line of JSON for each."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
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
    """

    kind: str
    name: str
    result: str
    form: Mapping[str, Any]
    recipe: Mapping[str, Any]
    when: float = field(default_factory=time.time)
    number: int = field(default_factory=time.time_ns)


class History:
    """The history in a file, to which several programs may add; the latest entries are kept.

    Args:
        path: The file; created with the first entry.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()

    def add(self, entry: HistoryEntry) -> None:
        """Add an entry; if it cannot be written, this is only logged, because what it tells of is done."""
        line = json.dumps(asdict(entry), ensure_ascii=True) + "\n"
        try:
            with self._lock:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with _open_alone(self._path) as file:
                    file.write(line.encode())
                    file.flush()
                    if fcntl is not None:
                        self._trim()
                if fcntl is None:  # an open file cannot be replaced there
                    self._trim()
        except (OSError, ImageError) as exc:
            _log.warning("The history cannot be written to %s: %s", self._path, exc)

    def _trim(self) -> None:
        """Leave nothing in the file but what is kept; it is replaced as a whole."""
        data = self._path.read_bytes()
        kept = b"".join(line + b"\n" for line in _latest(data))
        if len(kept) < len(data):
            write_whole(self._path, kept, replace=True)

    def entries(self) -> list[HistoryEntry]:
        """Give the entries, newest first; unreadable lines are left out."""
        try:
            with self._path.open("rb") as file:
                file.seek(max(0, self._path.stat().st_size - _LARGEST - 1))
                lines = _latest(file.read())
        except FileNotFoundError:
            return []
        except OSError as exc:
            _log.warning("The history cannot be read from %s: %s", self._path, exc)
            return []
        return [entry for line in reversed(lines) if (entry := _parse(line)) is not None]

    def find(self, number: int) -> HistoryEntry | None:
        """Give the entry with a number; None if it is not kept any more."""
        return next((entry for entry in self.entries() if entry.number == number), None)


def _latest(data: bytes) -> list[bytes]:
    """Give the last lines of a file: at most 500, and 8 MB."""
    if len(data) > _LARGEST:
        data = data[-_LARGEST - 1 :].partition(b"\n")[2]  # the first line may not be whole
    return data.splitlines()[-MOST:]


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
    return valid_texts and isinstance(entry.number, int) and mappings
