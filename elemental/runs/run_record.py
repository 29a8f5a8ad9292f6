"""The record of a run, its ``run.json``: what the run makes and how far it is, so that it can go on."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import ImageError
from ..images.files import write_whole
from ..merge.files.checkpoint import Signature
from ..recipe.text_files import read_text
from .run_files import RunFiles

if TYPE_CHECKING:
    from ..images.diff import Difference

_log = logging.getLogger(__name__)

VERSION = 1
"""The version of the file format."""

_LABELS = ("x", "y", "z", "elements")
_SECONDS_BETWEEN = 2.0

_Kind = TypeVar("_Kind")


class CellState(Enum):
    """How far a cell is; the values are those of the file."""

    WAITING = "waiting"
    DONE = "done"
    FAILED = "failed"


@dataclass
class CellRecord:
    """What the record says of one cell.

    Attributes:
        labels: What the cell shows: by the sides of its axes in a plot, by "elements" in an element check.
        recipe: The merge, as plain data.
        request: The image, as plain data.
        state: How far the cell is.
        error: Why the last try failed.
        seconds: Time spent in each stage of making the image.
        figures: The difference from the image that this one is compared with.
        device: What made the image, if it was one of the devices of a cluster.
        as_read: The entry in the file, with whatever else it holds.
    """

    labels: Mapping[str, str]
    recipe: Mapping[str, Any]
    request: Mapping[str, Any]
    state: CellState = CellState.WAITING
    error: str | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    figures: Difference | None = None
    device: str | None = None
    as_read: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def set_done(self, seconds: Mapping[str, float] | None = None, device: str | None = None) -> None:
        """Note that the image exists.

        Args:
            seconds: Time spent in each stage of making it; None if it was not made now.
            device: What made it now, if it was one of the devices of a cluster.
        """
        self.state, self.error = CellState.DONE, None
        if seconds is not None:
            self.seconds, self.device = seconds, device

    def set_failed(self, error: str) -> None:
        """Note that the image could not be made."""
        self.state, self.error = CellState.FAILED, error

    def to_dict(self, *, with_device: bool = False) -> dict[str, Any]:
        """Give the entry in the file; what it held before keeps its place.

        Args:
            with_device: Whether it says what made the image.
        """
        data: dict[str, Any] = {**self.as_read, **self.labels, "state": self.state.value}
        data.update({name: value for name, value in (("recipe", self.recipe), ("request", self.request)) if value})
        if self.state is not CellState.WAITING:
            data["error"] = self.error
        if self.seconds:
            data["seconds"] = self.seconds
        data.pop("device", None)
        if with_device and self.device is not None:
            data["device"] = self.device
        if self.figures is not None:
            data["figures"] = self.figures._asdict()
        return data


@dataclass(frozen=True)
class SessionRecord:
    """What the record says of one session: of the time from a start or resume to its end.

    Attributes:
        made: How many images were made.
        outside: The share of the time in which the host was not generating, in percent.
        seconds: Time spent in each stage, and in the "whole" session.
        as_read: The entry in the file, with whatever else it holds.
    """

    made: int
    outside: float
    seconds: Mapping[str, float]
    as_read: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Give the entry in the file."""
        figures = {"made": self.made, "outside_generating_percent": self.outside, "seconds": self.seconds}
        return {**self.as_read, **figures}


@dataclass(frozen=True)
class PageRecord:
    """What the record keeps of the page that a run was begun on.

    Attributes:
        settings: What the host's own page said of the images besides their requests, as plain data.
        notes: What the user was told about the run.
    """

    settings: Mapping[str, Any] | None = None
    notes: Sequence[str] = ()


@dataclass
class RunRecord:
    """The record of a run.

    Attributes:
        files: The names of the run's files.
        kind: What the run makes: "plot" or "check".
        definition: The plot or the element check, as plain data.
        options: What the caller needs to go on with the run, as plain data.
        models: What each model file looked like when the run began, by its path.
        cells: The cells by name.
        settings: What the host's own page said of the images besides their requests, as plain data of
            :meth:`~..hosts.base.HostSettings.to_dict`; None if it has none, in records of runs of the command line, and
            in those of version 0.1.0.
        notes: What the user was told about the run: what is made otherwise than the page said.
        sessions: The sessions in which images were made.
        as_read: The record as it was in the file, with whatever else it holds.
    """

    files: RunFiles
    kind: str
    definition: Mapping[str, Any]
    options: Mapping[str, Any]
    models: Mapping[str, Signature]
    cells: Mapping[str, CellRecord]
    settings: Mapping[str, Any] | None = None
    notes: list[str] = field(default_factory=list)
    sessions: list[SessionRecord] = field(default_factory=list)
    as_read: Mapping[str, Any] = field(default_factory=dict, repr=False)
    _written: float = field(default=0.0, init=False, repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Give what is in the file; what it held before keeps its place."""
        differ = len({cell.device for cell in self.cells.values() if cell.device is not None}) > 1
        data = {
            **self.as_read,
            "version": VERSION,
            "kind": self.kind,
            "definition": self.definition,
            "options": self.options,
            "models": {path: list(signature) for path, signature in self.models.items()},
            "cells": {name: cell.to_dict(with_device=differ) for name, cell in self.cells.items()},
        }
        if self.settings is not None:
            data["settings"] = self.settings
        if self.notes:
            data["notes"] = self.notes
        if self.sessions:
            data["sessions"] = [session.to_dict() for session in self.sessions]
        return data

    def note(self, notes: Iterable[str]) -> None:
        """Add notes, each once."""
        self.notes += [note for note in dict.fromkeys(notes) if note not in self.notes]

    def count(self, state: CellState) -> int:
        """Count the cells in a state."""
        return sum(cell.state is state for cell in self.cells.values())

    def write_sometimes(self) -> None:
        """Write the file unless it was written a moment ago; a failure is logged, and the next call tries again."""
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
        write_whole(self.files.record, json.dumps(self.to_dict(), indent=1).encode(), replace=True)
        self._written = time.monotonic()


def read_record(files: RunFiles) -> RunRecord:
    """Read the record of a run.

    Raises:
        ImageError: The file cannot be read, is damaged, or is of a later version.
    """
    try:
        data = json.loads(read_text(files.record))
    except (OSError, ValueError, RecursionError) as exc:
        raise ImageError(f"Cannot read {files.record}: {exc}.") from exc
    try:
        return _parse_record(files, data)
    except (LookupError, TypeError, ValueError) as exc:
        raise ImageError(f"{files.record} is no record of a run that this program knows.") from exc


def _parse_record(files: RunFiles, data: object) -> RunRecord:
    """Read a record from plain data, of which anything may be missing or of another kind.

    Raises:
        LookupError, TypeError, ValueError: It is damaged, or of another version.
    """
    entries = _expect(data, dict)
    if entries["version"] != VERSION:
        raise ValueError("another version")
    return RunRecord(
        files,
        kind=_expect(entries["kind"], str),
        definition=_expect(entries["definition"], dict),
        options=_expect(entries["options"], dict),
        models={path: _parse_signature(signature) for path, signature in _expect(entries["models"], dict).items()},
        cells={_check_name(name): _parse_cell(cell) for name, cell in _expect(entries["cells"], dict).items()},
        settings=None if entries.get("settings") is None else _expect(entries["settings"], dict),
        notes=[_expect(note, str) for note in _expect(entries.get("notes", []), list)],
        sessions=[_parse_session(session) for session in _expect(entries.get("sessions", []), list)],
        as_read=entries,
    )


def _check_name(name: str) -> str:
    """Refuse names of cells that are not places: they become names of files."""
    if not re.fullmatch(r"x\d+-y\d+(?:-z\d+)?", name):
        raise ValueError(f"{name} is no place")
    return name


def _parse_cell(data: object) -> CellRecord:
    entries = _expect(data, dict)
    state = CellState(entries["state"])
    return CellRecord(
        labels={name: _expect(entries[name], str) for name in _LABELS if name in entries},
        recipe=_expect(entries.get("recipe", {}), dict),
        request=_expect(entries.get("request", {}), dict),
        state=state,
        error=_expect(entries["error"], str) if state is CellState.FAILED else None,
        seconds=_parse_seconds(entries.get("seconds", {})),
        figures=_parse_figures(entries["figures"]) if "figures" in entries else None,
        device=_expect(entries["device"], str) if "device" in entries else None,
        as_read=entries,
    )


def _parse_session(data: object) -> SessionRecord:
    entries = _expect(data, dict)
    outside = _expect_number(entries["outside_generating_percent"])
    return SessionRecord(_expect(entries["made"], int), outside, _parse_seconds(entries["seconds"]), entries)


def _parse_signature(data: object) -> Signature:
    size, mtime = _expect(data, list)
    return Signature(_expect(size, int), _expect(mtime, int))


def _parse_seconds(data: object) -> dict[str, float]:
    return {stage: _expect_number(seconds) for stage, seconds in _expect(data, dict).items()}


def _parse_figures(data: object) -> Difference:
    from ..images.diff import Difference  # numpy, with threads of its own, is not for everybody who lists runs

    figures = Difference(**_expect(data, dict))
    for figure in figures[:3] if figures.similarity is None else figures:
        _expect_number(figure)
    return figures


def _expect_number(value: object) -> float:
    """Give a number as it is, so that it is written as it was read."""
    return value if isinstance(value, int) else _expect(value, float)


def _expect(value: object, kind: type[_Kind]) -> _Kind:
    if not isinstance(value, kind):
        raise TypeError(f"{type(value).__name__} instead of {kind.__name__}")
    return value
