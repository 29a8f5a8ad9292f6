"""What was merged, drawn and saved before: one line of JSON for each, in a file of the user's."""

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
    """Something that was done.

    Attributes:
        kind: "merge", "generate", "save", "plot" or "check".
        name: What was merged, in words.
        result: What came of it, in words.
        form: What the form said, by the names of its fields, from which it can be filled again.
        recipe: The merge, as plain data.
        when: In seconds since the epoch.
        number: Its own, by which it is asked for.
    """

    kind: str
    name: str
    result: str
    form: Mapping[str, Any]
    recipe: Mapping[str, Any]
    when: float = field(default_factory=time.time)
    number: int = field(default_factory=time.time_ns)


class History:
    """The entries of a file; several programs may add to it.

    Args:
        path: The file; made when the first entry is added.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()

    def add(self, entry: HistoryEntry) -> None:
        """Add an entry; what cannot be written is logged, since it is no reason to lose what was done."""
        line = json.dumps(asdict(entry), ensure_ascii=True) + "\n"
        try:
            with self._lock:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with self._path.open("ab") as file:
                    file.write(line.encode())
        except OSError as exc:
            _log.warning("The history cannot be written to %s: %s", self._path, exc)

    def entries(self) -> list[HistoryEntry]:
        """Give the latest entries, at most 500 of the last 8 MB, the newest first; what cannot be read is left out."""
        try:
            with self._path.open("rb") as file:
                file.seek(max(0, self._path.stat().st_size - _LARGEST))
                lines = file.read().splitlines()
        except FileNotFoundError:
            return []
        except OSError as exc:
            _log.warning("The history cannot be read from %s: %s", self._path, exc)
            return []
        found = [entry for line in lines[-_MOST:] if (entry := _read(line)) is not None]
        return found[::-1]

    def find(self, number: int) -> HistoryEntry | None:
        """Give the entry of a number; None if it is not among the latest."""
        return next((entry for entry in self.entries() if entry.number == number), None)


def _read(line: bytes) -> HistoryEntry | None:
    try:
        entry = HistoryEntry(**json.loads(line))
        time.localtime(entry.when)
    except (ValueError, TypeError, OverflowError, OSError):
        return None  # cut off, or another version's
    texts = (entry.kind, entry.name, entry.result)
    right = all(isinstance(text, str) for text in texts) and isinstance(entry.number, int)
    return entry if right and isinstance(entry.form, dict) and isinstance(entry.recipe, dict) else None
