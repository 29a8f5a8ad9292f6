"""Plots and checks on hosts: each cell shows its value, a failure stays in its cell, a run goes on where it ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from elemental import (
    CheckpointError,
    HostError,
    ImageError,
    MergeMode,
    MergeRecipe,
    RecipeError,
    live_merge,
    make_pictures,
    model_source,
    parse_rules,
)
from elemental.checks import CheckRun, check_folder
from elemental.hosts.base import NO_FIELDS, CheckpointRef, Host
from elemental.hosts.fake import FakeHost
from elemental.images.axes import Setting
from elemental.images.diff import compare_pictures
from elemental.images.effects import read_check
from elemental.images.files import read_picture, read_texts
from elemental.images.grid import BLANK
from elemental.images.request import GeneratedImage, ImageRequest
from elemental.images.xyplot import Cell, XYPlot, read_axis
from elemental.plots import PLOT_FIELD, PlotRun, known_for, make_plot
from elemental.resume import open_run
from elemental.run_files import latest_run, read_record
from elemental.runs import Progress, RunResult, RunWatcher, continue_run, start_run
from elemental.spec.weights import parse_block_weights
from elemental.surveys import survey_check, survey_plot

pytest.importorskip("diffusers")

from elemental.hosts.standalone import StandaloneHost

REQUEST = ImageRequest("a red circle", seed=3, steps=1, width=64, height=64)
RULES = parse_rules("IN01::0.2")
HALVES = ",".join(["0.5"] * 13 + ["0"] * 13)


def load(path: Path) -> Mapping[str, Sequence[Tensor]]:
    return {key: (tensor,) for key, tensor in load_file(path).items() if tensor.is_floating_point()}


@pytest.fixture
def fake() -> FakeHost:
    return FakeHost(load)


@pytest.fixture(scope="module")
def standalone() -> StandaloneHost:
    return StandaloneHost()


@pytest.fixture
def base(models: Mapping[str, Path]) -> Setting:
    """Start from tiny models, which the fake host draws noise from."""
    return Setting(MergeRecipe(model_source(models["a"]), model_source(models["b"]), alpha=0.3, rules=RULES), REQUEST)


@pytest.fixture
def drawn(drawable: Mapping[str, Path]) -> Setting:
    """Start from small models that a real host can draw with."""
    a, b, c = (model_source(drawable[name]) for name in "abc")
    rules = parse_rules("IN01::0.2:0.3")  # all else is A's, so that there is little to merge
    recipe = MergeRecipe(a, b, c, mode=MergeMode.TRIPLE_SUM, alpha=0, beta=0, rules=rules)
    return Setting(recipe, REQUEST)


def plot(
    host: Host, base: Setting, x: tuple[str, str], y: tuple[str, str] | None = None, most: int | None = None
) -> XYPlot:
    known = known_for(host, base.recipe)
    rows = None if y is None else read_axis("y", *y, known)
    return make_plot(base, read_axis("x", *x, known), rows, known=known, most=most)


def run(host: Host, plotted: XYPlot, folder: Path, on_cell: Callable[..., None] | None = None) -> RunResult:
    watcher = RunWatcher() if on_cell is None else RunWatcher(on_cell=on_cell)
    return start_run(host, PlotRun(plotted), folder, survey=survey_plot(plotted), watcher=watcher)


def resume(host: Host, folder: Path) -> RunResult:
    record = read_record(latest_run(folder))
    return continue_run(host, open_run(host, record), record)


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
def test_each_axis_shows_in_pictures(
    standalone: StandaloneHost,
    drawn: Setting,
    drawable: Mapping[str, Path],
    tmp_path: Path,
    name: str,
    text: str,
    changes: list[dict[str, Any]],
) -> None:
    """A cell's picture is that of a recipe and a request written out by hand, and not the base's."""
    if name.startswith("model-"):
        text = str(drawable[text])
    run(standalone, plot(standalone, drawn, (name, text)), tmp_path)
    (plain,) = make_pictures(standalone, drawn.request, drawn.recipe)
    for column, parts in enumerate(changes):
        recipe, request = drawn.recipe, drawn.request
        read: dict[str, Callable[[Any], Any]] = {"rules": parse_rules}
        read |= dict.fromkeys(("block_alpha", "block_beta"), parse_block_weights)
        read |= dict.fromkeys(("model_a", "model_b", "model_c"), lambda found: found and model_source(drawable[found]))
        values = {part: read[part](value) if part in read else value for part, value in parts.items()}
        on_recipe = {part: value for part, value in values.items() if hasattr(recipe, part)}
        recipe = replace(recipe, **on_recipe)
        request = replace(request, **{part: value for part, value in values.items() if part not in on_recipe})
        (wanted,) = make_pictures(standalone, request, recipe)
        cell = read_picture(tmp_path / "cells" / f"x{column:02}-y00.png")
        assert cell.tobytes() == wanted.image.tobytes()
        assert cell.tobytes() != plain.image.tobytes()


@pytest.mark.parametrize(
    ("name", "text", "rules"),
    [
        ("pinpoint-element", ":attn2, :ff", [":attn2:{}", ":ff:{}"]),
        ("pinpoint-blocks", "IN03 IN04, NOT M00", ["IN03 IN04::{}", "NOT M00::{}"]),
    ],
)
def test_pinpoint_axes_show_in_pictures(
    standalone: StandaloneHost, drawn: Setting, tmp_path: Path, name: str, text: str, rules: list[str]
) -> None:
    run(standalone, plot(standalone, drawn, ("alpha", "0, 1"), (name, text)), tmp_path)
    pictures = {path.name: read_picture(path).tobytes() for path in (tmp_path / "cells").iterdir()}
    assert len(set(pictures.values())) >= 3  # at 0 both rows may be alike
    for row, rule in enumerate(rules):
        for column, ratio in enumerate((0, 1)):
            recipe = replace(drawn.recipe, rules=parse_rules(f"IN01::0.2:0.3,{rule.format(ratio)}"))
            (wanted,) = make_pictures(standalone, drawn.request, recipe)
            cell = read_picture(tmp_path / "cells" / f"x{column:02}-y{row:02}.png")
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
    assert json.loads(texts[PLOT_FIELD]) == record["definition"]
    second = run(fake, plotted, tmp_path / "one")
    assert second.products == (tmp_path / "one" / "grid-2.png",)
    assert (tmp_path / "one" / "cells-2" / "x00-y00.png").is_file()
    assert second.products[0].read_bytes() == result.products[0].read_bytes()


def test_split_plots(fake: FakeHost, base: Setting, tmp_path: Path) -> None:
    result = run(fake, plot(fake, base, ("alpha", "0|0.5, 1"), ("seed", "1,2")), tmp_path)
    assert [path.name for path in result.products] == ["grid-1of2.png", "grid-2of2.png"]
    assert len(list((tmp_path / "cells").iterdir())) == 6
    widths = [read_picture(path).width for path in result.products]
    assert widths[0] < widths[1]
    assert run(fake, plot(fake, base, ("alpha", "0|1")), tmp_path).products[0].name == "grid-1of2-2.png"


def test_grids_are_made_one_after_the_other(fake: FakeHost, base: Setting, tmp_path: Path) -> None:
    made: list[str] = []

    def note(cell: Cell, _image: Image.Image | None, _progress: Progress) -> None:
        made.append(cell.name)
        assert (tmp_path / "grid-1of2.png").exists() == (cell.x > 0)

    run(fake, plot(fake, base, ("seed", "1 | 2"), ("alpha", "0, 1")), tmp_path, note)
    assert made == ["x00-y00", "x00-y01", "x01-y00", "x01-y01"]


def test_each_recipe_is_merged_once(fake: FakeHost, base: Setting, tmp_path: Path) -> None:
    live = fake.open_model(CheckpointRef("a", Path(base.recipe.model_a.path)))
    run(fake, plot(fake, base, ("seed", "1,2,3,4"), ("alpha", "0.5, 1")), tmp_path)
    assert len(live.moved) == 3  # the two recipes, and the way back


class Broken(FakeHost):
    """Fails for one seed, in a way that no host should."""

    def make_pictures(
        self, request: ImageRequest, *, model: Mapping[str, str], fields: Mapping[str, str] = NO_FIELDS
    ) -> Sequence[GeneratedImage]:
        if request.seed == 2:
            raise RuntimeError("a part came off")
        return super().make_pictures(request, model=model, fields=fields)


def test_a_failing_cell_is_a_labelled_blank(base: Setting, tmp_path: Path) -> None:
    host = Broken(load)
    result = run(host, plot(host, base, ("seed", "1,2,3")), tmp_path)
    assert result.failed == {"x01-y00": "RuntimeError: a part came off"}
    assert result.made == 2
    colours = read_picture(result.products[0]).getcolors(1 << 24)
    assert colours is not None
    blank = {colour: count for count, colour in colours}[BLANK]
    assert 0.5 < blank / 192**2 < 1  # a box of this colour, with words in it
    good = FakeHost(load)
    again = resume(good, tmp_path)
    assert (again.made, again.failed, again.waiting) == (1, {}, 0)
    whole = run(good, plot(good, base, ("seed", "1,2,3")), tmp_path / "whole")
    assert again.products[0].read_bytes() == whole.products[0].read_bytes()


def test_a_model_that_cannot_be_opened_fails_its_cells_alone(
    base: Setting, models: Mapping[str, Path], tmp_path: Path
) -> None:
    def refuse(path: Path) -> Mapping[str, Sequence[Tensor]]:
        if path == models["b"]:
            raise HostError("b is too large")
        return load(path)

    host = FakeHost(refuse)
    text = f"{models['b']}, {models['a']}"
    result = run(host, plot(host, base, ("model-a", text), ("seed", "1,2")), tmp_path)
    assert result.failed == {"x00-y00": "b is too large", "x00-y01": "b is too large"}
    assert result.made == 2


@pytest.mark.parametrize("interrupt", [True, False])
def test_stop_keeps_what_is_done_and_goes_on_later(
    fake: FakeHost, base: Setting, tmp_path: Path, interrupt: bool
) -> None:
    plotted = plot(fake, base, ("alpha", "0, 0.5, 1"), ("seed", "1, 2"))
    live = fake.open_model(CheckpointRef("a", Path(base.recipe.model_a.path)))
    before = live.digest()

    def stop(_cell: Cell, _image: Image.Image | None, progress: Progress) -> None:
        assert progress.total == 6
        assert progress.seconds_each > 0
        assert progress.seconds_left == pytest.approx(progress.seconds_each * (6 - progress.done))
        if progress.done == 2 and interrupt:
            raise KeyboardInterrupt
        fake.stopped = progress.done == 2

    result = run(fake, plotted, tmp_path / "stopped", stop)
    fake.stopped = False
    assert (result.made, result.waiting) == (2, 4)
    assert live.digest() == before
    early = read_picture(tmp_path / "stopped" / "grid.png")
    again = resume(fake, tmp_path / "stopped")
    assert (again.made, again.waiting) == (4, 0)
    whole = run(fake, plotted, tmp_path / "whole")
    assert again.products[0].read_bytes() == whole.products[0].read_bytes()
    assert early.size == read_picture(whole.products[0]).size
    assert early.tobytes() != read_picture(whole.products[0]).tobytes()


class Killed(BaseException):
    """Ends a run as a kill does: nothing handles it."""


def test_a_run_killed_anywhere_goes_on_to_the_same_grid(
    fake: FakeHost, base: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed as each of its files is about to appear, one after the other: record, pictures, grids."""
    plotted = plot(fake, base, ("alpha", "0, 1"), ("seed", "1 | 2"))
    whole = run(fake, plotted, tmp_path / "whole")
    real, at, seen = Path.replace, 0, []

    def killing(self: Path, target: Path) -> Path:
        seen.append(target.name)
        if len(seen) == at:
            raise Killed
        return real(self, target)

    while True:
        at += 1
        seen.clear()
        folder = tmp_path / str(at)
        with monkeypatch.context() as patched:
            patched.setattr(Path, "replace", killing)
            try:
                run(fake, plotted, folder)
                break
            except Killed:
                pass
        if at == 1:  # before its record there is no run
            with pytest.raises(ImageError, match="no run to go on with"):
                resume(fake, folder)
            continue
        times = {path: path.stat().st_mtime_ns for path in (folder / "cells").glob("x*.png")}
        result = resume(fake, folder)
        assert (result.made, result.failed, result.waiting) == (4 - len(times), {}, 0)
        assert all(path.stat().st_mtime_ns == time for path, time in times.items())  # none was made again
        assert [path.read_bytes() for path in result.products] == [path.read_bytes() for path in whole.products]
        assert {facts["state"] for facts in read_record(latest_run(folder)).cells.values()} == {"done"}
    assert {"run.json", "x00-y00.png", "x01-y01.png", "grid-1of2.png", "grid-2of2.png"} <= set(seen)


_KILL_AT_THE_SECOND_PICTURE = """
import os, signal, sys
from pathlib import Path
from safetensors.torch import load_file
from elemental.hosts.fake import FakeHost
from elemental.resume import open_run
from elemental.run_files import latest_run, read_record
from elemental.runs import RunWatcher, continue_run
def load(path):
    return {key: (tensor,) for key, tensor in load_file(path).items() if tensor.is_floating_point()}
def kill(cell, image, progress):
    if progress.done == 2:
        os.kill(os.getpid(), signal.SIGKILL)
host, record = FakeHost(load), read_record(latest_run(Path(sys.argv[1])))
continue_run(host, open_run(host, record), record, watcher=RunWatcher(on_cell=kill))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_killed_process_goes_on_to_the_same_grid(fake: FakeHost, base: Setting, tmp_path: Path) -> None:
    plotted = plot(fake, base, ("alpha", "0, 1"), ("seed", "1, 2"))
    whole = run(fake, plotted, tmp_path / "whole")
    folder = tmp_path / "killed"

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    run(fake, plotted, folder, stop)
    command = [sys.executable, "-c", _KILL_AT_THE_SECOND_PICTURE, str(folder)]
    ended = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    result = resume(fake, folder)
    assert (result.made, result.waiting) == (1, 0)
    assert result.products[0].read_bytes() == whole.products[0].read_bytes()


def test_a_damaged_picture_is_made_again(fake: FakeHost, base: Setting, tmp_path: Path) -> None:
    run(fake, plot(fake, base, ("seed", "1, 2")), tmp_path)
    cell = tmp_path / "cells" / "x01-y00.png"
    cell.write_bytes(cell.read_bytes()[:500])
    assert resume(fake, tmp_path).made == 1
    before = read_record(latest_run(tmp_path)).data["sessions"]
    assert [session["made"] for session in before] == [2, 1]
    assert resume(fake, tmp_path).made == 0
    assert read_record(latest_run(tmp_path)).data["sessions"] == before


def test_a_run_does_not_go_on_with_other_models(
    fake: FakeHost, base: Setting, models: Mapping[str, Path], tmp_path: Path
) -> None:
    copy = tmp_path / "b.safetensors"
    copy.write_bytes(models["b"].read_bytes())
    base = replace(base, recipe=replace(base.recipe, model_b=model_source(copy)))
    run(fake, plot(fake, base, ("seed", "1, 2")), tmp_path / "run")
    os.utime(copy, ns=(1, 1))
    with pytest.raises(CheckpointError, match="changed since the run began"):
        resume(fake, tmp_path / "run")
    with pytest.raises(ImageError, match="no run to go on with"):
        resume(fake, tmp_path / "none")


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
        (("seed", ",".join(map(str, range(400)))), ("cfg", ",".join(map(str, range(1, 100)))), "39,600 pictures"),
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
        survey_plot(plot(fake, weighted, ("alpha", "0, 1")))


def test_warnings_name_the_value(fake: FakeHost, base: Setting) -> None:
    survey = survey_plot(plot(fake, base, ("elemental", "\n\nOUT05:atn2:1\n\nOUT05:attn2:1")))
    assert (survey.cells, survey.merges) == (3, 3)
    (warning,) = survey.warnings
    assert warning.startswith('x axis, elemental, "OUT05:atn2:1": Rule 1')


def check(host: Host, base: Setting, text: str, folder: Path) -> RunResult:
    read = read_check(base, text, 1.0, known_for(host, base.recipe))
    return start_run(host, CheckRun(read), folder, survey=survey_check(read))


def test_a_check_that_would_show_nothing(fake: FakeHost, base: Setting) -> None:
    known = known_for(fake, base.recipe)
    same = read_check(base, "OUT05:attn2, OUT06", 0.3, known)  # the ratio that they have anyway
    with pytest.raises(RecipeError, match=r"no difference: these elements have the ratio 0\.3"):
        survey_check(same)
    (warning,) = survey_check(read_check(base, "IN01, OUT06", 0.3, known)).warnings
    assert warning.startswith('element "OUT06"')
    with pytest.raises(HostError, match="no sampler"):
        read_check(replace(base, request=replace(REQUEST, sampler="Eular")), "OUT06", 1, known)


def test_remarks_on_base_rules_are_made_once(fake: FakeHost, base: Setting) -> None:
    base = replace(base, recipe=replace(base.recipe, rules=parse_rules("OUT05:atn2:1, OUT06:attn2:0.5")))
    plotted = plot(fake, base, ("alpha", "0, 0.5, 1"), ("pinpoint-element", "OUT06:attn2, OUT07"))
    (warning,) = survey_plot(plotted).warnings  # and none that the pinned rule overrides the base's
    assert warning.startswith("Rule 1")


def test_a_check_measures_each_element(standalone: StandaloneHost, drawn: Setting, tmp_path: Path) -> None:
    text = "OUT05:attn2, OUT08 | :ff"
    folder = check_folder(tmp_path, drawn.recipe)
    assert folder == tmp_path / "a-b" / "diff"
    result = check(standalone, drawn, text, folder)
    names = [path.name for path in result.products]
    assert names == ["grid-1of2.png", "grid-2of2.png", "ranking.png", "diff.csv", "gif"]
    (plain,) = make_pictures(standalone, drawn.request, drawn.recipe)
    assert read_picture(folder / "cells" / "x00-y00.png").tobytes() == plain.image.tobytes()
    record = json.loads((folder / "run.json").read_text())
    for row, rule in enumerate(("OUT05:attn2:1", "OUT08::1", ":ff:1")):
        (probe,) = make_pictures(
            standalone, drawn.request, replace(drawn.recipe, rules=parse_rules(f"IN01::0.2:0.3,{rule}"))
        )
        assert read_picture(folder / "cells" / f"x01-y{row:02}.png").tobytes() == probe.image.tobytes()
        figures = record["cells"][f"x01-y{row:02}"]["figures"]
        assert figures["share"] == compare_pictures(plain.image, probe.image).share
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
