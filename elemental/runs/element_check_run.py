"""An element check as a run: which elements matter to an image, in figures, images, GIFs and a ranking."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ..errors import ImageError
from ..images.diff import Difference, compare_images, draw_difference
from ..images.files import read_image, write_gif, write_png, write_whole
from ..images.grid_drawing import GridCell, GridSheet
from ..images.image_request import GeneratedImage
from ..images.ranking import ElementEffect, describe_share, draw_ranking, format_csv, rank_effects
from ..merge.files.metadata import without_folders
from ..recipe.recipe import MergeRecipe
from ..recipe.rules import format_ratio
from .cells import Cell, Place, group_ranges, place_name
from .element_check import BASE_COLUMN, DIFFERENCE_COLUMN, PROBE_COLUMN, ElementCheck
from .grid_contents import describe_setting, grid_cell, write_grid
from .run_record import RunRecord

CHECK_FIELD = "elemental_check"
"""The PNG text that holds a whole element check, so that it can be run again."""

_BASE_NAME = place_name(BASE_COLUMN, 0)


def folder_of_check(folder: Path, recipe: MergeRecipe) -> Path:
    """Give the folder of the element checks of two models: ``FOLDER/A-B/diff``, with the names of their files."""
    names = "-".join(Path(source.name).stem for source in (recipe.model_a, recipe.model_b))
    return folder / names / "diff"


@dataclass(frozen=True)
class CheckRun:
    """An element check as a run.

    Attributes:
        check: The element check.
        kind: What a record calls it.
    """

    check: ElementCheck
    kind = "check"

    def rounds(self) -> Sequence[Sequence[Cell]]:
        """Compute the cells, grid by grid; the base comes first."""
        base, *probes = self.check.cells()
        groups = [[probes[row] for row in rows] for rows in group_ranges(self.check.groups)]
        return [[base, *groups[0]], *groups[1:]]

    def labels(self, cell: Cell) -> Mapping[str, str]:
        """Say which elements a cell shows."""
        return {"elements": "" if cell.x == BASE_COLUMN else str(self.check.targets[cell.y])}

    def to_dict(self) -> dict[str, Any]:
        """Give the element check as plain data."""
        return self.check.to_dict()

    def finish(self, record: RunRecord) -> Sequence[Path]:
        """Compare the images, and write the differences, GIFs, grids, the table and the chart.

        Returns:
            The grids; and if there is anything to compare, the chart, the table, and the folder of the GIFs.

        Raises:
            ImageError: A file or the folder of GIFs cannot be written, or the images differ in size.
        """
        compared = self._compare_probes(record)
        groups = group_ranges(self.check.groups)
        grids = [record.files.grid(index, len(groups)) for index in range(len(groups))]
        shared = {**record.definition, "recipe": without_folders(record.definition["recipe"])}
        fields = {CHECK_FIELD: json.dumps(shared)}
        for path, rows in zip(grids, groups, strict=True):
            sheet = self._sheet(rows, compared, record)
            write_grid(path, sheet, record, self.check.base, fields=fields, first=Place(0, rows.start))
        effects = [self._effect(row, difference, record) for row, difference in compared.items()]
        return [*grids, *self._write_ranking(effects, record)] if effects else grids

    def list_effects(self, record: RunRecord) -> list[tuple[ElementEffect, Path]]:
        """List the effects that are in the record, the largest first, each with its GIF."""
        gifs: dict[ElementEffect, Path] = {}
        for row in range(len(self.check.targets)):
            cell = record.cells.get(place_name(PROBE_COLUMN, row))
            if cell is not None and cell.figures is not None:
                gifs[self._effect(row, cell.figures, record)] = self._gif_path(row, record)
        return [(effect, gifs[effect]) for effect in rank_effects(list(gifs))]

    def _compare_probes(self, record: RunRecord) -> dict[int, Difference]:
        """Compare the probes whose images exist with the base, and note the differences; they are given by row."""
        gifs = record.files.path("gif")
        try:
            base = read_image(record.files.cell(_BASE_NAME))
            gifs.mkdir(exist_ok=True)
        except ImageError:
            return {}
        except OSError as exc:
            raise ImageError(f"Cannot make the folder {gifs}: {exc.strerror or exc}.") from exc
        rows = range(len(self.check.targets))
        compared = {row: self._compare_probe(row, base, record) for row in rows}
        return {row: difference for row, difference in compared.items() if difference is not None}

    def _compare_probe(self, row: int, base: Image.Image, record: RunRecord) -> Difference | None:
        """Compare one probe, and write its difference and its GIF; None if there is no image."""
        name = place_name(PROBE_COLUMN, row)
        try:
            probe = read_image(record.files.cell(name))
        except ImageError:
            return None
        difference = compare_images(base, probe)
        drawn = GeneratedImage(draw_difference(base, probe), 0, "")
        write_png(record.files.cell(place_name(DIFFERENCE_COLUMN, row)), drawn, replace=True, quick=True)
        write_gif(self._gif_path(row, record), base, probe)
        record.cells[name].figures = difference
        return difference

    def _effect(self, row: int, difference: Difference, record: RunRecord) -> ElementEffect:
        image = record.files.cell(place_name(PROBE_COLUMN, row)).relative_to(record.files.folder).as_posix()
        return ElementEffect(str(self.check.targets[row]), self.check.ratio, difference, image)

    def _gif_path(self, row: int, record: RunRecord) -> Path:
        return record.files.path("gif") / f"{row:02}-{_as_file_name(str(self.check.targets[row]))}.gif"

    def _write_ranking(self, effects: Sequence[ElementEffect], record: RunRecord) -> list[Path]:
        """Write the chart and the table of the effects; give them, and the folder of the GIFs."""
        table, chart = record.files.path("diff", ".csv"), record.files.path("ranking", ".png")
        write_whole(table, format_csv(effects), replace=True)
        title = f"{self._ratio_text}, share of channel values that change by more than 20 of 255\n{self._legend}"
        write_png(chart, GeneratedImage(draw_ranking(effects, title=title), 0, ""), replace=True)
        return [chart, table, record.files.path("gif")]

    @property
    def _ratio_text(self) -> str:
        return f"each element at {format_ratio(self.check.ratio)}"

    @property
    def _legend(self) -> str:
        return describe_setting(self.check.base)

    def _sheet(self, rows: range, compared: Mapping[int, Difference], record: RunRecord) -> GridSheet:
        request, base = self.check.base.request, grid_cell(_BASE_NAME, record)
        return GridSheet(
            rows=[[base, *_grid_row(row, record, has_difference=row in compared)] for row in rows],
            columns=["without", self._ratio_text, "difference, three times as bright"],
            row_labels=[self._row_label(row, compared.get(row)) for row in rows],
            legend=self._legend,
            size=(request.width, request.height),
        )

    def _row_label(self, row: int, difference: Difference | None) -> str:
        target = str(self.check.targets[row])
        return target if difference is None else f"{target}\n{describe_share(difference)}"


def _grid_row(row: int, record: RunRecord, *, has_difference: bool) -> Iterator[GridCell]:
    yield grid_cell(place_name(PROBE_COLUMN, row), record)
    file = record.files.cell(place_name(DIFFERENCE_COLUMN, row))
    yield GridCell(read_image(file) if has_difference else None)


def _as_file_name(text: str) -> str:
    """Keep of a text what any system allows in a file name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text)[:80].strip("._") or "all"
