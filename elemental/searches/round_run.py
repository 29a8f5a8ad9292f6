"""A round of a search as a run: its images, and the sheet that shows them beside those of the best so far."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
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
        order, proposed = self.order, self.proposed.round
        request = order.requests[0]
        several = len(order.requests) > 1
        best = "0\nthe start" if self._makes_best else "0\nbest so far"
        return GridSheet(
            rows=[self._row(row, record) for row in range(len(order.requests))],
            columns=[best, *(str(each.number) for each in proposed.candidates)],
            row_labels=[self._row_label(row) for row in range(len(order.requests))] if several else (),
            legend=describe_setting(Setting(order.recipe, request), varied=("prompt", "seed") if several else ()),
            size=(request.width, request.height),
            heading=f"round {proposed.number}",
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
