"""The record of a search, its ``search.json``: what it is made of, and what was said of each round, so it can go on."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import ImageError, RecipeError
from ..images.files import make_folder, write_whole
from ..recipe.text_files import read_text
from ..runs.run_record import PageRecord
from .search_order import SearchOrder, order_from_dict

VERSION = 1
"""The version of the file format."""

_NAME = "search.json"


@dataclass(frozen=True)
class SaidPick:
    """What was picked in a round.

    Attributes:
        order: Numbers of candidates, the best first, as in :class:`.steering.Picked`.
        scores: By candidate, where a score decided; larger is better.
    """

    order: tuple[int, ...]
    scores: Mapping[int, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Give the entry in the file; a score that is no number is left out, as JSON has none."""
        scores = {str(number): score for number, score in self.scores.items() if math.isfinite(score)}
        return {"picked": list(self.order), **({"scores": scores} if scores else {})}


@dataclass(frozen=True)
class SaidRestart:
    """That the search goes on from a candidate.

    Attributes:
        round: The candidate's round.
        number: Its number; 0 is the best so far of that round.
        step: The standard deviation of the new candidates, as a share of each number's range.

    Raises:
        RecipeError: The step is out of its range.
    """

    round: int
    number: int
    step: float

    def __post_init__(self) -> None:
        if not 0 < self.step <= 1:
            raise RecipeError(f"The step is {self.step:g}; it must be above 0 and at most 1.")

    def to_dict(self) -> dict[str, Any]:
        """Give the entry in the file."""
        return {"from": [self.round, self.number], "step": self.step}


Said = SaidPick | SaidRestart


@dataclass(frozen=True)
class SearchRecord:
    """The record of a search.

    Attributes:
        folder: Where it is.
        order: What it is made of.
        said: What was said of each round but the last.
        options: What the caller needs to go on with the search, as plain data.
        page: What it keeps of the page that it was begun on.
    """

    folder: Path
    order: SearchOrder
    said: tuple[Said, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    page: PageRecord = field(default_factory=PageRecord)

    def to_dict(self) -> dict[str, Any]:
        """Give what is in the file."""
        data: dict[str, Any] = {
            "version": VERSION,
            "kind": "search",
            "order": self.order.to_dict(),
            "said": [said.to_dict() for said in self.said],
            "options": dict(self.options),
        }
        if self.page.settings is not None:
            data["settings"] = self.page.settings
        if self.page.notes:
            data["notes"] = list(self.page.notes)
        return data

    def write(self) -> None:
        """Write the file.

        Raises:
            ImageError: It cannot be written.
        """
        self._write(replace=True)

    def write_first(self) -> None:
        """Write the file of a new search.

        Raises:
            ImageError: There is a search in the folder, or it cannot be written to.
        """
        make_folder(self.folder)
        refuse_search(self.folder)
        # an empty one is that of a search which was killed before it began
        self._write(replace=(self.folder / _NAME).exists())

    def _write(self, *, replace: bool) -> None:
        write_whole(self.folder / _NAME, json.dumps(self.to_dict(), indent=1).encode(), replace=replace)


def holds_search(folder: Path) -> bool:
    """Tell whether there is a search in a folder."""
    try:
        return (folder / _NAME).stat().st_size > 0
    except OSError:
        return False


def refuse_search(folder: Path) -> None:
    """Refuse to begin a search in a folder that has one.

    Raises:
        ImageError: It has one.
    """
    if holds_search(folder):
        raise ImageError(f"{folder} holds a search already: go on with that one, or choose another folder.")


def read_search(folder: Path) -> SearchRecord:
    """Read the record of the search in a folder.

    Raises:
        ImageError: There is none, or it cannot be read, is damaged, or is of another version.
        ElementalError: Something in it does not fit together.
    """
    path = folder / _NAME
    if not holds_search(folder):
        raise ImageError(f"{folder} holds no search to go on with: there is no {_NAME} in it.")
    try:
        data = json.loads(read_text(path))
    except (OSError, ValueError, RecursionError) as exc:
        raise ImageError(f"Cannot read {path}: {exc}.") from exc
    version = data.get("version") if isinstance(data, dict) else None
    if version != VERSION:
        raise ImageError(f"{path} is no record of a search that this program knows.")
    try:
        return _parse_record(folder, data)
    except (LookupError, TypeError, ValueError, AttributeError) as exc:
        raise ImageError(f"{path} is damaged: start a new search in another folder.") from exc


def _parse_record(folder: Path, data: Mapping[str, Any]) -> SearchRecord:
    notes, settings = [str(note) for note in data.get("notes", [])], data.get("settings")
    if not (isinstance(data["options"], dict) and (settings is None or isinstance(settings, dict))):
        raise TypeError("options or settings are no tables")
    return SearchRecord(
        folder,
        order_from_dict(data["order"]),
        tuple(_parse_said(said) for said in data["said"]),
        data["options"],
        PageRecord(settings, notes),
    )


def _parse_said(data: Mapping[str, Any]) -> Said:
    if "picked" in data:
        scores = {int(number): float(score) for number, score in data.get("scores", {}).items()}
        return SaidPick(tuple(map(int, data["picked"])), scores)
    round_number, number = data["from"]
    return SaidRestart(int(round_number), int(number), float(data["step"]))
