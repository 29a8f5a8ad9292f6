"""A round of a search as a run: its images, and the sheet that shows them beside those of the best so far."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import ImageError
from ..images.files import read_image
from ..images.grid_drawing import GridCell, GridSheet
from ..recipe.rules import format_ratio
from ..runs.axes.base import Setting
from ..runs.cells import Cell, place_name
from ..runs.grid_contents import describe_setting, grid_cell, write_grid
from ..runs.run_record import RunRecord
from .replay import Proposed
from .search import Candidate
from .search_order import SearchOrder
from .steering import BEST


@dataclass(frozen=True)
class RoundRun:
    """A round of a search as a run; columns are candidates by their numbers, rows the requests.

    Attributes:
        order: What the search is made of.
        proposed: The round.
        names: What users call the numbers that vary.
        best_images: The images of the best so far, which another round has made; None where one is not there. Not of
            the first round, which makes them.
        kind: What a record calls it.
    """

    order: SearchOrder
    proposed: Proposed
    names: tuple[str, ...]
    best_images: tuple[Path | None, ...] = ()
    kind = "search"

    def rounds(self) -> Sequence[Sequence[Cell]]:
        """Compute the cells of the candidates, in the first round also those of the merge that the search begins at."""
        candidates = self.proposed.round.candidates
        made = (self.proposed.round.best, *candidates) if self._makes_best else candidates
        requests = list(enumerate(self.order.requests))
        return [[Cell(each.number, row, each.recipe, request) for each in made for row, request in requests]]

    def labels(self, cell: Cell) -> Mapping[str, str]:
        """Say which candidate a cell shows, and of which request."""
        words = ", ".join(words_of(self.names, self.proposed.candidate(cell.x)))
        return {"x": f"{cell.x}: {words}", "y": self._row_label(cell.y)}

    def describe(self, cell: Cell) -> str:
        """Name a cell in warnings and errors."""
        return f"candidate {cell.x}" if cell.x != BEST else "the merge that the search begins at"

    def to_dict(self) -> dict[str, Any]:
        """Give the round as plain data: equal data are the same images."""
        proposed = self.proposed.round
        definition = {
            **self.order.to_dict(),
            "round": proposed.number,
            "best": {"values": proposed.best.values, "from": self.proposed.best_is_from},
            "candidates": [each.values for each in proposed.candidates],
        }
        plain: dict[str, Any] = json.loads(json.dumps(definition))  # lists for tuples, as a file has them
        return plain

    def finish(self, record: RunRecord) -> Sequence[Path]:
        """Draw the sheet.

        Raises:
            ImageError: It cannot be written.
        """
        path = record.files.grid(0, 1)
        write_grid(path, self._sheet(record), record, Setting(self.order.recipe, self.order.requests[0]))
        return [path]

    def _sheet(self, record: RunRecord) -> GridSheet:
        """Give a column for each candidate; those of a single request stand in several short rows."""
        requests = self.order.requests
        rows = [self._row(row, record) for row in range(len(requests))]
        several = len(rows) > 1
        best = "the start" if self._makes_best else "best so far"
        names = [f"{BEST}, {best}", *(str(each.number) for each in self.proposed.round.candidates)]
        if not several:
            rows = _wrapped([_named(cell, name) for cell, name in zip(rows[0], names, strict=True)])
        return GridSheet(
            rows=rows,
            columns=names if several else [""] * len(rows[0]),
            row_labels=[self._row_label(row) for row in range(len(rows))] if several else (),
            legend=describe_setting(Setting(self.order.recipe, requests[0]), varied=("prompt", "seed") * several),
            size=(requests[0].width, requests[0].height),
            heading=f"round {self.proposed.round.number}",
        )

    def _row(self, row: int, record: RunRecord) -> list[GridCell]:
        first = grid_cell(place_name(BEST, row), record) if self._makes_best else _best_cell(self.best_images[row])
        numbers = [each.number for each in self.proposed.round.candidates]
        return [first, *(grid_cell(place_name(number, row), record) for number in numbers)]

    @property
    def _makes_best(self) -> bool:
        return self.proposed.best_is_from.round == self.proposed.round.number

    def _row_label(self, row: int) -> str:
        request = self.order.requests[row]
        return f"{request.prompt}\nseed {request.seed}"


def words_of(names: Sequence[str], candidate: Candidate) -> tuple[str, ...]:
    """Give a candidate's numbers in words: the name of each, and its value."""
    return tuple(f"{name} {format_ratio(value)}" for name, value in zip(names, candidate.values, strict=True))


def _best_cell(path: Path | None) -> GridCell:
    with suppress(ImageError):
        return GridCell(None, "no longer there") if path is None else GridCell(read_image(path))
    return GridCell(None, "cannot be read")


def _named(cell: GridCell, name: str) -> GridCell:
    """Write a candidate's number below its image, or before the words in its place."""
    return replace(cell, note=": ".join(filter(None, (name, cell.note))))


def _wrapped(cells: Sequence[GridCell]) -> list[list[GridCell]]:
    """Break a row into several, about as many as each is long; with few places that stay blank."""
    side = math.ceil(math.sqrt(len(cells)))
    length = min(range(side, side + 3), key=lambda length: (-len(cells) % length, length))
    rows = [list(cells[start : start + length]) for start in range(0, len(cells), length)]
    return [row + [GridCell(None)] * (length - len(row)) for row in rows]
