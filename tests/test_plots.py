"""Plots and checks on hosts: each cell shows its value, and what cannot be is said before."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from elemental import (
    CheckpointError,
    HostError,
    ImageError,
    MergeMode,
    MergeRecipe,
    RecipeError,
    live_merge,
    make_images,
    model_source,
    parse_rules,
)
from elemental.hosts.base import CheckpointRef, Host
from elemental.images.diff import compare_images
from elemental.images.files import read_image, read_texts
from elemental.merge.files.metadata import without_folders
from elemental.recipe.block_weights import parse_block_weights
from elemental.runs.axes.base import Setting
from elemental.runs.axes.context import make_axis_context
from elemental.runs.cells import Cell
from elemental.runs.element_check import parse_check
from elemental.runs.element_check_run import CheckRun, folder_of_check
from elemental.runs.estimate import estimate_check, estimate_plot
from elemental.runs.runner import Progress, RunResult, start_run
from elemental.runs.xy_plot_run import PLOT_FIELD

from .fake_host import FakeHost

pytest.importorskip("diffusers")

from elemental.hosts.standalone.host import StandaloneHost

from .plotting import REQUEST, plot, resume, run

HALVES = ",".join(["0.5"] * 13 + ["0"] * 13)


@pytest.fixture(scope="module")
def standalone() -> StandaloneHost:
    return StandaloneHost()


@pytest.fixture
def drawn(drawable: Mapping[str, Path]) -> Setting:
    """Start from small models that a real host can draw with."""
    a, b, c = (model_source(drawable[name]) for name in "abc")
    rules = parse_rules("IN01::0.2:0.3")  # all else is A's, so that there is little to merge
    recipe = MergeRecipe(a, b, c, mode=MergeMode.TRIPLE_SUM, alpha=0, beta=0, rules=rules)
    return Setting(recipe, REQUEST)


@pytest.mark.parametrize(
    ("name", "text", "changes"),
    [
        (
            "elemental",
            "\n\n:attn2:1\n\nOUT05:ff:0.7",
            [{"rules": ""}, {"rules": ":attn2:1"}, {"rules": "OUT05:ff:0.7"}],
        ),
        ("add-elemental", ":attn2:1", [{"rules": "IN01::0.2:0.3,:attn2:1"}]),
        ("alpha", "0.5, 0.9", [{"alpha": 0.5}, {"alpha": 0.9}]),
        ("beta", "0.9", [{"beta": 0.9}]),
        ("alpha-beta", "0.1 0.9", [{"alpha": 0.1, "beta": 0.9}]),
        ("mbw-alpha", HALVES, [{"block_alpha": HALVES}]),
        ("mbw-beta", HALVES, [{"block_beta": HALVES}]),
        ("mode", "weight-sum", [{"mode": MergeMode.WEIGHT_SUM, "model_c": None, "beta": None, "rules": "IN01::0.2"}]),
        ("model-a", "b", [{"model_a": "b"}]),
        ("model-b", "c", [{"model_b": "c"}]),
        ("model-c", "a", [{"model_c": "a"}]),
        ("seed", "8", [{"seed": 8}]),
        ("prompt", "a star", [{"prompt": "a star"}]),
        ("negative", "blue", [{"negative": "blue"}]),
        ("steps", "2", [{"steps": 2}]),
        ("cfg", "3", [{"cfg": 3.0}]),
        ("sampler", "ddim", [{"sampler": "DDIM"}]),
    ],
)
def test_each_axis_shows_in_images(
    standalone: StandaloneHost,
    drawn: Setting,
    drawable: Mapping[str, Path],
    tmp_path: Path,
    name: str,
    text: str,
    changes: list[dict[str, Any]],
) -> None:
    """A cell's image is that of a recipe and a request written out by hand, and not the base's."""
    if name.startswith("model-"):
        text = str(drawable[text])
    run(standalone, plot(standalone, drawn, (name, text)), tmp_path)
    (plain,) = make_images(standalone, drawn.request, drawn.recipe)
    for column, parts in enumerate(changes):
        recipe, request = drawn.recipe, drawn.request
        read: dict[str, Callable[[Any], Any]] = {"rules": parse_rules}
        read |= dict.fromkeys(("block_alpha", "block_beta"), parse_block_weights)
        read |= dict.fromkeys(("model_a", "model_b", "model_c"), lambda found: found and model_source(drawable[found]))
        values = {part: read[part](value) if part in read else value for part, value in parts.items()}
        on_recipe = {part: value for part, value in values.items() if hasattr(recipe, part)}
        recipe = replace(recipe, **on_recipe)
        request = replace(request, **{part: value for part, value in values.items() if part not in on_recipe})
        (wanted,) = make_images(standalone, request, recipe)
        cell = read_image(tmp_path / "cells" / f"x{column:02}-y00.png")
        assert cell.tobytes() == wanted.image.tobytes()
        assert cell.tobytes() != plain.image.tobytes()


@pytest.mark.parametrize(
    ("name", "text", "rules"),
    [
        ("pinpoint-element", ":attn2, :ff", [":attn2:{}", ":ff:{}"]),
        ("pinpoint-blocks", "IN03 IN04, NOT M00", ["IN03 IN04::{}", "NOT M00::{}"]),
    ],
)
def test_pinpoint_axes_show_in_images(
    standalone: StandaloneHost, drawn: Setting, tmp_path: Path, name: str, text: str, rules: list[str]
) -> None:
    run(standalone, plot(standalone, drawn, ("alpha", "0, 1"), (name, text)), tmp_path)
    images = {path.name: read_image(path).tobytes() for path in (tmp_path / "cells").iterdir()}
    assert len(set(images.values())) >= 3  # at 0 both rows may be alike
    for row, rule in enumerate(rules):
        for column, ratio in enumerate((0, 1)):
            recipe = replace(drawn.recipe, rules=parse_rules(f"IN01::0.2:0.3,{rule.format(ratio)}"))
            (wanted,) = make_images(standalone, drawn.request, recipe)
            cell = read_image(tmp_path / "cells" / f"x{column:02}-y{row:02}.png")
            assert cell.tobytes() == wanted.image.tobytes()


def test_a_folder_tells_all_and_a_grid_runs_again(fake: FakeHost, base: Setting, tmp_path: Path) -> None:
    plotted = plot(fake, base, ("elemental", "\n\nOUT05:attn2:1"), ("seed", "1, 2"))
    result = run(fake, plotted, tmp_path / "one")
    assert result.products == (tmp_path / "one" / "grid.png",)
    names = ["x00-y00", "x00-y01", "x01-y00", "x01-y01"]
    assert sorted(path.stem for path in (tmp_path / "one" / "cells").iterdir()) == names
    record = json.loads((tmp_path / "one" / "run.json").read_text())
    assert {facts["state"] for facts in record["cells"].values()} == {"done"}
    assert record["cells"]["x01-y00"]["recipe"]["rules"] == "OUT05:attn2:1"
    assert record["cells"]["x01-y01"]["request"]["seed"] == 2
    assert set(record["cells"]["x01-y01"]["seconds"]) == {"merging", "generating", "saving"}
    (session,) = record["sessions"]
    assert session["made"] == 4
    spent = session["seconds"]
    assert session["outside_generating_percent"] == pytest.approx(
        100 * (1 - spent["generating"] / spent["whole"]), abs=0.1
    )
    assert sum(spent[stage] for stage in spent if stage != "whole") <= spent["whole"]
    texts = read_texts(tmp_path / "one" / "grid.png")
    assert json.loads(texts["elemental_recipe"])["rules"] == "IN01::0.2"
    assert "Steps: 1" in texts["parameters"]
    shared = {**record["definition"], "recipe": without_folders(record["definition"]["recipe"])}
    assert json.loads(texts[PLOT_FIELD]) == shared
    second = run(fake, plotted, tmp_path / "one")
    assert second.products == (tmp_path / "one" / "grid-2.png",)
    assert (tmp_path / "one" / "cells-2" / "x00-y00.png").is_file()
    assert second.products[0].read_bytes() == result.products[0].read_bytes()


def test_split_plots(fake: FakeHost, base: Setting, tmp_path: Path) -> None:
    result = run(fake, plot(fake, base, ("alpha", "0|0.5, 1"), ("seed", "1,2")), tmp_path)
    assert [path.name for path in result.products] == ["grid-1of2.png", "grid-2of2.png"]
    assert len(list((tmp_path / "cells").iterdir())) == 6
    widths = [read_image(path).width for path in result.products]
    assert widths[0] < widths[1]
    assert run(fake, plot(fake, base, ("alpha", "0|1")), tmp_path).products[0].name == "grid-1of2-2.png"


def test_grids_are_made_one_after_the_other(fake: FakeHost, base: Setting, tmp_path: Path) -> None:
    made: list[str] = []

    def note(cell: Cell, _image: Image.Image | None, _progress: Progress) -> None:
        made.append(cell.name)
        assert (tmp_path / "grid-1of2.png").exists() == (cell.x > 0)

    run(fake, plot(fake, base, ("seed", "1 | 2"), ("alpha", "0, 1")), tmp_path, note)
    assert made == ["x00-y00", "x00-y01", "x01-y00", "x01-y01"]


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (("model-b", "/nowhere/x.safetensors"), None, 'x axis, model-b, "B: x.safetensors": Cannot open /nowhere'),
        (("mbw-alpha", ",".join(["0"] * 20)), None, "which has 25 blocks"),
        (
            ("pinpoint-element", "OUT05:atn2"),
            ("alpha", "0, 1"),
            r'(?s)y axis, alpha: .* no difference.*did you mean "attn',
        ),
        (("seed", ",".join(map(str, range(400)))), ("cfg", ",".join(map(str, range(1, 100)))), "39,600 images"),
    ],
)
def test_what_is_said_before_anything_is_merged(
    fake: FakeHost, base: Setting, tmp_path: Path, x: tuple[str, str], y: tuple[str, str] | None, message: str
) -> None:
    with pytest.raises((ImageError, RecipeError, CheckpointError), match=message):
        run(fake, plot(fake, base, x, y, most=1000), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert not fake.checkpoints()


def test_an_axis_that_block_weights_override_is_refused(fake: FakeHost, base: Setting) -> None:
    weighted = replace(base, recipe=replace(base.recipe, block_alpha=parse_block_weights(HALVES)))
    with pytest.raises(RecipeError, match="x axis, alpha: its values make no difference"):
        estimate_plot(plot(fake, weighted, ("alpha", "0, 1")))


def test_warnings_name_the_value(fake: FakeHost, base: Setting) -> None:
    estimate = estimate_plot(plot(fake, base, ("elemental", "\n\nOUT05:atn2:1\n\nOUT05:attn2:1")))
    assert (estimate.cells, estimate.merges) == (3, 3)
    (warning,) = estimate.warnings
    assert warning.startswith('x axis, elemental, "OUT05:atn2:1": Rule 1')


def check(host: Host, base: Setting, text: str, folder: Path) -> RunResult:
    read = parse_check(base, text, 1.0, make_axis_context(host, base.recipe))
    return start_run(host, CheckRun(read), folder, estimate=estimate_check(read))


def test_a_check_that_would_show_nothing(fake: FakeHost, base: Setting) -> None:
    context = make_axis_context(fake, base.recipe)
    same = parse_check(base, "OUT05:attn2, OUT06", 0.3, context)  # the ratio that they have anyway
    with pytest.raises(RecipeError, match=r"no difference: these elements have the ratio 0\.3"):
        estimate_check(same)
    (warning,) = estimate_check(parse_check(base, "IN01, OUT06", 0.3, context)).warnings
    assert warning.startswith('element "OUT06"')
    with pytest.raises(HostError, match="no sampler"):
        parse_check(replace(base, request=replace(REQUEST, sampler="Eular")), "OUT06", 1, context)


def test_remarks_on_base_rules_are_made_once(fake: FakeHost, base: Setting) -> None:
    base = replace(base, recipe=replace(base.recipe, rules=parse_rules("OUT05:atn2:1, OUT06:attn2:0.5")))
    plotted = plot(fake, base, ("alpha", "0, 0.5, 1"), ("pinpoint-element", "OUT06:attn2, OUT07"))
    (warning,) = estimate_plot(plotted).warnings  # and none that the pinned rule overrides the base's
    assert warning.startswith("Rule 1")


def test_a_check_measures_each_element(standalone: StandaloneHost, drawn: Setting, tmp_path: Path) -> None:
    text = "OUT05:attn2, OUT08 | :ff"
    folder = folder_of_check(tmp_path, drawn.recipe)
    assert folder == tmp_path / "a-b" / "diff"
    result = check(standalone, drawn, text, folder)
    names = [path.name for path in result.products]
    assert names == ["grid-1of2.png", "grid-2of2.png", "ranking.png", "diff.csv", "gif"]
    (plain,) = make_images(standalone, drawn.request, drawn.recipe)
    assert read_image(folder / "cells" / "x00-y00.png").tobytes() == plain.image.tobytes()
    record = json.loads((folder / "run.json").read_text())
    for row, rule in enumerate(("OUT05:attn2:1", "OUT08::1", ":ff:1")):
        (probe,) = make_images(
            standalone, drawn.request, replace(drawn.recipe, rules=parse_rules(f"IN01::0.2:0.3,{rule}"))
        )
        assert read_image(folder / "cells" / f"x01-y{row:02}.png").tobytes() == probe.image.tobytes()
        figures = record["cells"][f"x01-y{row:02}"]["figures"]
        assert figures["share"] == compare_images(plain.image, probe.image).share
    assert sorted(path.name for path in (folder / "gif").iterdir()) == [
        "00-OUT05_attn2.gif",
        "01-OUT08.gif",
        "02-ff.gif",
    ]
    assert (folder / "diff.csv").read_text(encoding="utf-8-sig").count("\n") == 4
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    again = check(standalone, drawn, "OUT05", folder)
    assert [path.name for path in again.products] == ["grid-2.png", "ranking-2.png", "diff-2.csv", "gif-2"]
    assert all(path.read_bytes() == content for path, content in before.items())


def test_a_check_goes_on(fake: FakeHost, base: Setting, tmp_path: Path) -> None:
    whole = check(fake, base, "OUT05:attn2, OUT06", tmp_path / "whole")
    check(fake, base, "OUT05:attn2, OUT06", tmp_path / "part")
    (tmp_path / "part" / "cells" / "x01-y01.png").unlink()
    (tmp_path / "part" / "grid.png").unlink()
    result = resume(fake, tmp_path / "part")
    assert result.made == 1
    for one, other in zip(whole.products[:3], result.products[:3], strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_the_model_is_claimed_while_a_plot_runs(fake: FakeHost, base: Setting, tmp_path: Path) -> None:
    live = fake.open_model(CheckpointRef("a", Path(base.recipe.model_a.path)))

    def try_another(*_: object) -> None:
        with pytest.raises(HostError, match="Another merge"), live_merge(live):
            pass

    run(fake, plot(fake, base, ("seed", "1, 2")), tmp_path, try_another)
