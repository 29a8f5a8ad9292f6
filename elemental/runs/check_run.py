"""The effective element check: which elements matter to an image, in figures, images, GIFs and a ranking."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ImageError
from ..images.diff import Difference, compare_images, draw_difference
from ..images.files import read_image, write_gif, write_png, write_whole
from ..images.grid import GridCell, GridSheet, draw_grid
from ..images.infotext import format_infotext
from ..images.ranking import ElementEffect, describe_share, draw_ranking, format_csv, rank_effects
from ..images.request import GeneratedImage
from ..merge.files.metadata import LABEL_FIELD, RECIPE_FIELD, name_recipe
from ..recipe.recipe import MergeRecipe
from ..recipe.rules import format_ratio
from .cells import Cell, group_ranges, place_name
from .element_check import BASE_COLUMN, DIFFERENCE_COLUMN, PROBE_COLUMN, ElementCheck
from .grid_sheet import describe_setting, grid_cell
from .record import RunRecord


def folder_of_check(folder: Path, recipe: MergeRecipe) -> Path:
    """Give the folder of the checks of two models: ``FOLDER/A-B/diff``, with the names of their files."""
    names = "-".join(Path(source.name).stem for source in (recipe.model_a, recipe.model_b))
    return folder / names / "diff"


def list_effects(record: RunRecord) -> list[tuple[ElementEffect, Path]]:
    """List what a check has found so far, the largest effect first, each with its GIF."""
    found = {}
    for row, name, facts in _probes(record):
        if "figures" in facts:
            ratio = float(record.data["definition"]["ratio"])
            effect = ElementEffect(facts["elements"], ratio, Difference(**facts["figures"]), _image_name(record, name))
            found[effect] = _gif_path(record, row, effect.elements)
    return [(effect, found[effect]) for effect in rank_effects(list(found))]


@dataclass(frozen=True)
class CheckRun:
    """A check as a run.

    Attributes:
        check: What to make.
        kind: What it is called in a record.
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
        """Give the check as plain data."""
        return self.check.to_dict()

    def finish(self, record: RunRecord) -> Sequence[Path]:
        """Compare the images, and write the differences, GIFs, grids, the table and the chart.

        Returns:
            The grids; and if there is anything to compare, the chart, the table, and the folder of the GIFs.

        Raises:
            ImageError: A file or the folder of GIFs cannot be written, or the images differ in size.
        """
        files = record.files
        effects = dict(self._compare(record))
        grids = [
            self._write_grid(index, rows, effects, record) for index, rows in enumerate(group_ranges(self.check.groups))
        ]
        if not effects:
            return grids
        table, chart = files.path("diff", ".csv"), files.path("ranking", ".png")
        write_whole(table, format_csv(list(effects.values())), replace=True)
        title = f"{self._ratio_text}, share of channel values that change by more than 20 of 255\n{self._legend}"
        write_png(chart, GeneratedImage(draw_ranking(list(effects.values()), title=title), 0, ""), replace=True)
        return [*grids, chart, table, files.path("gif")]

    @property
    def _ratio_text(self) -> str:
        return f"each element at {format_ratio(self.check.ratio)}"

    @property
    def _legend(self) -> str:
        return describe_setting(self.check.base)

    def _compare(self, record: RunRecord) -> Iterator[tuple[int, ElementEffect]]:
        """Compare each probe that there is with the base; gives the effects by row."""
        files = record.files
        try:
            base = read_image(files.cell(place_name(BASE_COLUMN, 0)))
            files.path("gif").mkdir(exist_ok=True)
        except ImageError:
            return
        except OSError as exc:
            raise ImageError(f"Cannot make the folder {files.path('gif')}: {exc.strerror or exc}.") from exc
        for row, target in enumerate(self.check.targets):
            name = place_name(PROBE_COLUMN, row)
            try:
                probe = read_image(files.cell(name))
            except ImageError:
                continue
            difference = compare_images(base, probe)
            shown = GeneratedImage(draw_difference(base, probe), 0, "")
            write_png(files.cell(place_name(DIFFERENCE_COLUMN, row)), shown, replace=True)
            write_gif(_gif_path(record, row, str(target)), base, probe)
            record.cells[name]["figures"] = difference._asdict()
            yield row, ElementEffect(str(target), self.check.ratio, difference, _image_name(record, name))

    def _write_grid(self, index: int, rows: range, effects: Mapping[int, ElementEffect], record: RunRecord) -> Path:
        request = self.check.base.request
        sheet = GridSheet(
            rows=[
                [
                    grid_cell(place_name(BASE_COLUMN, 0), record),
                    grid_cell(place_name(PROBE_COLUMN, row), record),
                    GridCell(
                        read_image(record.files.cell(place_name(DIFFERENCE_COLUMN, row))) if row in effects else None
                    ),
                ]
                for row in rows
            ],
            columns=["without", self._ratio_text, "difference, three times as bright"],
            row_labels=["\n".join([str(self.check.targets[row]), *_share_line(effects.get(row))]) for row in rows],
            legend=self._legend,
            size=(request.width, request.height),
        )
        path = record.files.grid(index, len(self.check.groups))
        recipe = record.data["definition"]["recipe"]
        infotext = format_infotext(request, seed=request.seed, model={LABEL_FIELD: name_recipe(self.check.base.recipe)})
        image = GeneratedImage(draw_grid(sheet), request.seed, infotext, {RECIPE_FIELD: json.dumps(recipe)})
        write_png(path, image, replace=True)
        return path


def _probes(record: RunRecord) -> Iterator[tuple[int, str, Mapping[str, Any]]]:
    rows = sum(map(len, record.data["definition"]["elements"]))
    for row in range(rows):
        name = place_name(PROBE_COLUMN, row)
        if name in record.cells:
            yield row, name, record.cells[name]


def _gif_path(record: RunRecord, row: int, elements: str) -> Path:
    return record.files.path("gif") / f"{row:02}-{_as_file_name(elements)}.gif"


def _image_name(record: RunRecord, name: str) -> str:
    return record.files.cell(name).relative_to(record.files.folder).as_posix()


def _share_line(effect: ElementEffect | None) -> list[str]:
    return [] if effect is None else [describe_share(effect.difference)]


def _as_file_name(text: str) -> str:
    """Keep of a text what any system takes in a file name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text)[:80].strip("._") or "all"
