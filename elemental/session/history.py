"""The history of merges, images, saves and runs: a file with one line of JSON for each."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

_log = logging.getLogger(__name__)

_MOST = 500
_LARGEST = 8_000_000  # bytes read from the end


@dataclass(frozen=True)
class HistoryEntry:
    """An entry of the history.

    Attributes:
        kind: "merge", "generate", "save", "plot" or "check".
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
    """The history in a file, to which several programs may add.

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
                with self._path.open("ab") as file:
                    file.write(line.encode())
        except OSError as exc:
            _log.warning("The history cannot be written to %s: %s", self._path, exc)

    def entries(self) -> list[HistoryEntry]:
        """Give the latest entries, newest first: at most 500, from the last 8 MB; unreadable lines are left out."""
        try:
            with self._path.open("rb") as file:
                file.seek(max(0, self._path.stat().st_size - _LARGEST))
                lines = file.read().splitlines()
        except FileNotFoundError:
            return []
        except OSError as exc:
            _log.warning("The history cannot be read from %s: %s", self._path, exc)
            return []
        return [entry for line in reversed(lines[-_MOST:]) if (entry := _parse(line)) is not None]

    def find(self, number: int) -> HistoryEntry | None:
        """Give the entry with a number; None if it is not among the latest."""
        return next((entry for entry in self.entries() if entry.number == number), None)


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
