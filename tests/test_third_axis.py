"""Plots of three axes: a grid for each value of the third, the same bytes after a stop, and no merge made twice."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from PIL import Image

from elemental import ImageError, RecipeError
from elemental.hosts.base import CheckpointRef
from elemental.images.files import read_image, read_texts
from elemental.images.infotext import find_value
from elemental.runs.axes.base import Setting
from elemental.runs.cells import Cell, Place, order_cells
from elemental.runs.estimate import estimate_plot
from elemental.runs.grid_contents import CELLS_FIELD, cell_at
from elemental.runs.run_files import latest_run
from elemental.runs.run_record import read_record
from elemental.runs.runner import Progress
from elemental.runs.xy_plot_run import PlotRun, read_stored_plot

from .fake_host import FakeHost
from .plotting import plot, resume, run

ALPHA, SEED, CFG = ("alpha", "0.5, 1"), ("seed", "1, 2"), ("cfg", "1, 4, 7")


def test_each_value_is_a_grid(fake: FakeHost, base: Setting, tmp_path: Path) -> None:
    plotted = plot(fake, base, ALPHA, SEED, CFG)
    assert plotted.count == 12
    result = run(fake, plotted, tmp_path)
    assert [path.name for path in result.products] == [f"grid-{number}of3.png" for number in (1, 2, 3)]
    record = read_record(latest_run(tmp_path))
    assert list(record.cells)[:3] == ["x00-y00-z00", "x01-y00-z00", "x00-y01-z00"]
    cell = record.cells["x01-y00-z02"]
    assert cell.labels == {"x": "alpha 1", "y": "seed 1", "z": "cfg 7"}
    assert (cell.recipe["alpha"], cell.request["seed"], cell.request["cfg"]) == (1, 1, 7)
    assert len({path.read_bytes() for path in (tmp_path / "cells").iterdir()}) == 12


def test_cells_are_at_the_same_places_in_all_grids(fake: FakeHost, base: Setting, tmp_path: Path) -> None:
    """So that the eye stays where it is when one grid is shown after the other."""
    long = ", ".join(f"OUT0{number}:attn{kind}:0.25" for number in range(3, 9) for kind in (1, 2))
    result = run(fake, plot(fake, base, ALPHA, SEED, ("elemental", f"OUT03::1\n\n{long}")), tmp_path)
    texts = [read_texts(path) for path in result.products]
    one, other = (json.loads(text[CELLS_FIELD]) for text in texts)
    assert (one.pop("z"), other.pop("z")) == (0, 1)
    assert one == other
    middle = [sum(one[name][1]) / 2 / side for name, side in zip(("columns", "rows"), one["size"], strict=True)]
    assert [cell_at(text[CELLS_FIELD], *middle) for text in texts] == [Place(1, 1, 0), Place(1, 1, 1)]
    assert [find_value(text["parameters"], "Z value") for text in texts] == ["OUT03::1", long.replace(", ", "\n")]
    stored = read_stored_plot(result.products[1])
    assert stored is not None
    assert stored.data["z"]["type"] == "elemental"


def test_no_merge_is_made_twice_for_the_grids(fake: FakeHost, base: Setting, tmp_path: Path) -> None:
    live = fake.open_model(CheckpointRef("a", Path(base.recipe.model_a.path)))
    run(fake, plot(fake, base, ("seed", "1, 2"), ALPHA, CFG), tmp_path / "request")
    assert len(live.moved) == 3  # the two recipes, and the way back
    live.moved.clear()
    specs = ("add-elemental", "OUT05:attn2:0.7\n\nOUT06:attn2:0.7")
    run(fake, plot(fake, base, ("seed", "1, 2"), specs, ALPHA), tmp_path / "recipe")
    assert len(live.moved) == 5


def test_what_is_expensive_changes_least_often_on_whichever_side(base: Setting, fake: FakeHost) -> None:
    for axes in (
        (ALPHA, ("add-elemental", "OUT05::1\n\nOUT06::1"), SEED),
        (SEED, ALPHA, ("elemental", ":ff:1\n\n:attn:1")),
    ):
        cells = order_cells(list(plot(fake, base, *axes).cells()))
        alphas, recipes = [cell.recipe.alpha for cell in cells], [cell.recipe for cell in cells]
        assert sum(one != other for one, other in pairwise(alphas)) == 1
        assert sum(one != other for one, other in pairwise(recipes)) == 3


def test_stop_and_resume_give_the_same_bytes(fake: FakeHost, base: Setting, tmp_path: Path) -> None:
    plotted = plot(fake, base, ALPHA, None, ("seed", "1, 2, 3"))

    def stop(_cell: Cell, _image: Image.Image | None, progress: Progress) -> None:
        fake.stopped = progress.done == 2

    result = run(fake, plotted, tmp_path / "stopped", stop)
    fake.stopped = False
    assert (result.made, result.waiting, len(result.products)) == (2, 4, 3)
    again = resume(fake, tmp_path / "stopped")
    assert (again.made, again.waiting) == (4, 0)
    whole = run(fake, plotted, tmp_path / "whole")
    assert [path.read_bytes() for path in again.products] == [path.read_bytes() for path in whole.products]
    names = sorted(path.name for path in (tmp_path / "whole" / "cells").iterdir())
    for name in names:
        assert len({(tmp_path / folder / "cells" / name).read_bytes() for folder in ("stopped", "whole")}) == 1
    assert names[0] == "x00-y00-z00.png"


def test_bars_on_x_and_y_cut_each_grid(fake: FakeHost, base: Setting, tmp_path: Path) -> None:
    plotted = plot(fake, base, ("alpha", "0 | 1"), SEED, CFG)
    assert [[cell.name for cell in part[::5]] for part in PlotRun(plotted).rounds()] == [
        ["x00-y00-z00", "x00-y01-z02"],
        ["x01-y00-z00", "x01-y01-z02"],
    ]
    assert len(run(fake, plotted, tmp_path).products) == 6


def test_what_does_not_go_together(fake: FakeHost, base: Setting) -> None:
    for axes, message in (
        ((ALPHA, SEED, ("seed", "3")), "The y and the z axis both set seed: seed and seed"),
        ((("pinpoint-element", "OUT05"), SEED, CFG), "the other axis must be alpha, not seed or cfg"),
        ((ALPHA, SEED, ("cfg", "1 | 2")), 'z axis, cfg: each of its values is a grid already; leave out the "|"'),
    ):
        with pytest.raises(ImageError, match=message.replace("|", r"\|")):
            plot(fake, base, *axes)
    pinned = plot(fake, base, ("pinpoint-element", "OUT05"), SEED, ALPHA)
    assert {str(cell.recipe.rules.rules[-1]) for cell in pinned.cells()} == {"OUT05::0.5", "OUT05::1"}
    idle = plot(fake, base, SEED, CFG, ("elemental", "OUT05::0.3\n\nOUT06::0.3"))
    with pytest.raises(RecipeError, match="z axis, elemental: its values make no difference"):
        estimate_plot(idle)


def test_grids_of_two_axes_say_nothing_of_a_third(fake: FakeHost, base: Setting, tmp_path: Path) -> None:
    """What is written for them stays as it was, byte for byte."""
    (grid,) = run(fake, plot(fake, base, ALPHA, SEED), tmp_path).products
    texts = read_texts(grid)
    assert "z" not in json.loads(texts[CELLS_FIELD])
    assert find_value(texts["parameters"], "Z axis") is None
    assert all("z" not in cell for cell in json.loads((tmp_path / "run.json").read_text())["cells"].values())
    assert read_image(grid).size == tuple(json.loads(texts[CELLS_FIELD])["size"])
