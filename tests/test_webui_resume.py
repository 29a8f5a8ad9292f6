"""Runs of the WebUI's tab, on a stand-in: what the txt2img tab says goes along with a run, and a resume uses it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from elemental import HostError
from elemental.hosts.base import HostSettings, ImageOrder
from elemental.images.files import read_image
from elemental.images.image_request import ImageRequest, request_from_dict
from elemental.runs.resume import open_run
from elemental.runs.run_files import RunFiles
from elemental.runs.run_record import read_record
from elemental.session import merge_jobs
from elemental.session import plot_and_check_jobs as run_jobs
from elemental.session.form import MergeForm
from elemental.session.jobs import Job, JobState
from elemental.session.run_plans import CheckForm, PlotForm, describe_estimate, plan_plot
from elemental.session.session import Session, first_form, session_of

from .fake_host import FakeHost
from .plotting import ended, load
from .webui_standin import StandIn
from .webui_standin_fixtures import Rig, make_rig
from .webui_standin_parts import tab_values

pytestmark = pytest.mark.slow

FORM = MergeForm("a.safetensors", "b.safetensors", spec="OUT03:attn2:1")
PLOT = PlotForm(x_type="alpha", x="0,0.5,1")
WORDS = SimpleNamespace(prompt="in the rain", negative_prompt="sun")

SETTINGS = [
    {"hires": True, "scale": 1.5},
    {"styles": ["rain"]},
    {"script": 1, "grain": 0.3},
    {"glow": 0.1, "overrides": ["clip_skip: 3"]},
]
"""What the txt2img tab may say besides the request; each shows in images."""


def prepare(webui: StandIn) -> None:
    webui.styles["rain"] = WORDS


def tab(**changes: Any) -> list[Any]:
    return tab_values(prompt="a cat", seed=7, **changes)


StartUI = Callable[..., Any]


@pytest.fixture(name="start")
def start_webui(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, models: Mapping[str, Path]) -> StartUI:
    """Give what starts the WebUI, again and again, on the same folders."""
    monkeypatch.chdir(tmp_path)

    def start(change: Callable[[StandIn], None] = lambda _: None) -> Any:
        def prepared(webui: StandIn) -> None:
            prepare(webui)
            change(webui)

        return make_rig(tmp_path, monkeypatch, models, prepared)

    return start


def run_plot(rig: Rig, values: list[Any]) -> Job:
    order = rig.form.read(values)
    return run_jobs.run_plot(session_of(rig.host), FORM, PLOT, order.request, order.settings)


def stop_after(rig: Rig, session: Session, images: int) -> None:
    """Press Stop when so many images are begun."""
    seen: list[int] = []

    def on_step(step: int) -> None:
        if step == 0:
            seen.append(step)
        if len(seen) > images:
            session.stop()

    rig.webui.on_step = on_step


def astuple_of(order: ImageOrder) -> tuple[ImageRequest, HostSettings | None]:
    return order.request, order.settings


def pixels(path: Path) -> str:
    return hashlib.sha256(np.asarray(read_image(path)).tobytes()).hexdigest()


def images_of(folder: Path) -> dict[str, str]:
    return {path.stem: pixels(path) for path in folder.rglob("cells*/*.png")}


def plots(tmp_path: Path) -> Path:
    return tmp_path / "outputs" / "elemental" / "plots"


def whole(start: StartUI, tmp_path: Path, values: list[Any]) -> dict[str, str]:
    """Make a plot in one go, give its images, and delete them."""
    with start() as rig:
        ended(run_plot(rig, values))
        (folder,) = plots(tmp_path).iterdir()
        images = images_of(folder)
        folder.rename(tmp_path / f"whole-{len(list(tmp_path.iterdir()))}")
    assert len(images) == 3
    return images


def stopped(start: StartUI, values: list[Any], images: int = 1) -> None:
    """Begin a plot that is stopped."""
    with start() as rig:
        stop_after(rig, session_of(rig.host), images)
        ended(run_plot(rig, values), JobState.STOPPED)


def resume(rig: Rig, present: list[Any] | None = None) -> Job:
    values = tab(hires=True, scale=4.0, glow=0.9) if present is None else present  # of another page
    return run_jobs.resume(session_of(rig.host), "", lambda: rig.form.read(values).settings)


@pytest.mark.parametrize("changes", SETTINGS)
def test_a_run_is_resumed_after_a_restart_as_it_began(start: StartUI, tmp_path: Path, changes: dict[str, Any]) -> None:
    expected = whole(start, tmp_path, tab(**changes))
    assert not changes or expected != whole(start, tmp_path, tab())
    stopped(start, tab(**changes))
    (folder,) = plots(tmp_path).iterdir()
    assert 0 < len(images_of(folder)) < 3
    with start() as rig:
        assert "New in" not in ended(resume(rig)).text
    assert images_of(folder) == expected


@pytest.mark.parametrize("changes", SETTINGS[:1])
def test_another_page_does_not_change_a_job(start: StartUI, tmp_path: Path, changes: dict[str, Any]) -> None:
    expected = whole(start, tmp_path, tab(**changes))
    with start() as rig:
        session, pages = session_of(rig.host), []

        def estimate_elsewhere(_step: int) -> None:
            other = rig.form.read(tab(glow=0.4, styles=["rain"]))
            pages.append(plan_plot(session, FORM, PLOT, other.request))

        rig.webui.on_step = estimate_elsewhere
        order = rig.form.read(tab(**changes))
        rig.form.read(tab(hires=True, scale=3.0))  # before the job begins
        ended(run_jobs.run_plot(session, FORM, PLOT, order.request, order.settings))
        assert pages
    (folder,) = plots(tmp_path).iterdir()
    assert images_of(folder) == expected


def test_checks_merges_and_images_are_made_as_their_page_says(start: StartUI, tmp_path: Path) -> None:
    with start() as rig:
        session = session_of(rig.host)
        made: list[str] = []
        for values in (tab(glow=0.5), tab()):
            request, settings = astuple_of(rig.form.read(values))
            rig.form.read(tab(glow=0.1))
            merged = ended(merge_jobs.merge(session, FORM, request, print_change=False, settings=settings))
            again = ended(merge_jobs.generate(session, FORM, request, settings))
            made += [pixels(path) for view in (merged, again) for path, _ in view.images]
        assert made[0] == made[1] != made[2] == made[3]
        order = rig.form.read(tab(hires=True, scale=1.5))
        ended(run_jobs.run_check(session, FORM, CheckForm("OUT03", 1.0), order.request, order.settings))
    record = next((tmp_path / "outputs" / "elemental" / "checks").rglob("run.json"))
    assert json.loads(record.read_text())["settings"]["inputs"]["txt2img_scale"] == 1.5


class Drawing:
    """A value that no record can keep."""

    def __init__(self, *, enabled: bool = True) -> None:
        self.enabled = enabled


def test_what_no_record_can_keep_stops_a_run_before_it_begins(start: StartUI, tmp_path: Path) -> None:
    with start() as rig:
        session = session_of(rig.host)
        for value in (Drawing(), np.zeros(3), b"file", [Drawing()], float("nan")):
            with pytest.raises(HostError, match=r"control\.py has a value .*\"unit\".*Switch the script off"):
                run_plot(rig, tab(unit=value))
        assert session.board.job is None
        assert not plots(tmp_path).exists()
        order = rig.form.read(tab(unit=Drawing()))
        ended(merge_jobs.generate(session, FORM, order.request, order.settings))  # nothing of it is kept
        ended(run_plot(rig, tab(unit=Drawing(enabled=False))))
        ended(run_plot(rig, tab(grain=Drawing())))  # of a script that is not chosen


def _without(name: str) -> Callable[[StandIn], None]:
    def change(webui: StandIn) -> None:
        runner = webui.scripts.scripts_txt2img
        runner.inputs = [field for field in runner.inputs if field.label != name]
        webui.create_processing = lambda *_: pytest.fail("an image was asked for")  # type: ignore[method-assign]

    return change


def _set(call: Callable[[StandIn], Any]) -> Callable[[StandIn], None]:
    return lambda webui: (call(webui), None)[1]


@pytest.mark.parametrize(
    ("changes", "change", "message"),
    [
        ({"glow": 0.7}, _without("glow"), r"the script glow\.py is gone; install"),
        ({"glow": 0.0}, _without("glow"), r"the script glow\.py is gone"),
        ({"script": 1, "grain": 0.3}, _without("grain"), r"the script grain\.py is gone"),
        (
            {"script": 1, "grain": 0.3},
            _set(lambda webui: webui.scripts.scripts_txt2img.inputs[0].choices.remove("Grain")),
            '"Grain" is gone from the list "script"',
        ),
        ({"styles": ["rain"]}, _set(lambda webui: webui.styles.clear()), 'the style "rain" is gone'),
        (
            {"styles": ["rain"]},
            _set(lambda webui: webui.styles.update(rain=SimpleNamespace(prompt="dry", negative_prompt=None))),
            r'the style "rain" has another text now; it was: in the rain / sun',
        ),
        ({}, _set(lambda webui: webui.opts.data.update(clip_skip=2)), 'the setting "clip_skip" .* was None and is 2'),
    ],
)
def test_a_run_whose_settings_are_gone_is_not_resumed(
    start: StartUI, tmp_path: Path, changes: dict[str, Any], change: Callable[[StandIn], None], message: str
) -> None:
    stopped(start, tab(**changes))
    (folder,) = plots(tmp_path).iterdir()
    before = images_of(folder)
    with start(change) as rig, pytest.raises(HostError, match=message):
        resume(rig)
    assert images_of(folder) == before


def _change_settings(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    record = folder / "run.json"
    data = json.loads(record.read_text())
    change(data["settings"])
    record.write_text(json.dumps(data))


@pytest.mark.parametrize(
    "change",
    [
        lambda settings: settings.update(styles=["rain"]),
        lambda settings: settings.update(styles={"rain": None}),
        lambda settings: settings.update(styles={"rain": [1, 2]}),
        lambda settings: settings.update(options=["clip_skip"]),
        lambda settings: settings["inputs"].update(txt2img_prompt={"x": 1}),
        lambda settings: settings["inputs"].update(txt2img_script=1),
        lambda settings: settings["inputs"].update(txt2img_script={"value": 1}),
    ],
)
def test_damaged_settings_are_named(start: StartUI, tmp_path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    stopped(start, tab())
    (folder,) = plots(tmp_path).iterdir()
    _change_settings(folder, change)
    with start() as rig, pytest.raises(HostError, match="settings of this run are damaged"):
        resume(rig)


def test_code_in_a_record_is_not_run(start: StartUI, tmp_path: Path) -> None:
    def allow_code(webui: StandIn) -> None:
        runner = webui.scripts.scripts_txt2img
        runner.inputs[0].choices.append("Custom code")
        runner.selectable_scripts.append(SimpleNamespace(filename="custom_code.py", args_from=0, args_to=0))

    stopped(start, tab())
    (folder,) = plots(tmp_path).iterdir()
    _change_settings(folder, lambda settings: settings["inputs"].update(txt2img_script={"choice": "Custom code"}))
    with start(allow_code) as rig:
        with pytest.raises(HostError, match='cannot use the script "Custom code"'):
            resume(rig)
        with pytest.raises(HostError, match='cannot use the script "Custom code"'):
            run_plot(rig, tab(script=2))
    assert len(list(plots(tmp_path).iterdir())) == 1


def test_scripts_are_found_by_their_names(start: StartUI, tmp_path: Path) -> None:
    """Another script before it in the list, and other fields before its own, change nothing."""

    def change(webui: StandIn) -> None:
        runner = webui.scripts.scripts_txt2img
        runner.inputs[0].choices.insert(1, "Another")
        runner.selectable_scripts.insert(0, SimpleNamespace(filename="another.py", args_from=0, args_to=0))

    values = tab(script=1, grain=0.3)
    expected = whole(start, tmp_path, values)
    stopped(start, values)
    with start(change) as rig:
        assert 'Resumed with the script "Grain" of the txt2img tab.' in ended(resume(rig)).text
    (folder,) = plots(tmp_path).iterdir()
    assert images_of(folder) == expected


def _forget_settings(folder: Path) -> None:
    """Make a record what version 0.1.0 would have written."""
    record = folder / "run.json"
    data = json.loads(record.read_text())
    data.pop("settings")
    data.pop("notes", None)
    record.write_text(json.dumps(data))


def test_a_run_of_0_1_0_is_not_mixed_unsaid(start: StartUI, tmp_path: Path) -> None:
    values = tab(hires=True, scale=1.5)
    expected = whole(start, tmp_path, values)
    stopped(start, values)
    (folder,) = plots(tmp_path).iterdir()
    _forget_settings(folder)
    with start() as rig:
        with pytest.raises(HostError, match=r"version 0\.1\.0 or the command line began it.*press Resume again"):
            resume(rig, values)
        stop_after(rig, session_of(rig.host), 1)
        ended(resume(rig, values), JobState.STOPPED)
    with start() as rig:  # it has settings now
        text = ended(resume(rig)).text
        assert "Begun by version 0.1.0 or on the command line" in text
    assert images_of(folder) == expected
    assert any("0.1.0" in note for note in json.loads((folder / "run.json").read_text())["notes"])


def test_a_batch_is_one_image_a_cell_and_that_is_said(start: StartUI, tmp_path: Path) -> None:
    values = tab(count=2, size=2)
    said = "One image a cell is made, with the first seed: the batch of 4 images is not used here."
    with start() as rig:
        session = session_of(rig.host)
        order = rig.form.read(values)
        assert order.request.batch == 4
        assert said in describe_estimate(plan_plot(session, FORM, PLOT, order.request)[1])
        texts: list[str] = []
        rig.webui.on_step = lambda _: texts.append(session.board.job.view.text if session.board.job else "")
        assert said in ended(run_plot(rig, values)).text
        assert said in texts[0]
    (folder,) = plots(tmp_path).iterdir()
    record = read_record(RunFiles(folder))
    assert record.notes == [said]
    assert {request_from_dict(cell.request).batch for cell in record.cells.values()} == {1}
    with start() as rig:
        assert "batch" not in describe_estimate(
            plan_plot(session_of(rig.host), FORM, PLOT, rig.form.read(tab()).request)[1]
        )


def test_a_run_of_the_webui_is_not_resumed_elsewhere(start: StartUI, tmp_path: Path) -> None:
    stopped(start, tab())
    (folder,) = plots(tmp_path).iterdir()
    record = read_record(RunFiles(folder))
    with pytest.raises(HostError, match="Resume it there"):
        open_run(FakeHost(load), record)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": None}, "Width in the txt2img tab is blank; enter a whole number"),
        ({"height": ""}, "Height in the txt2img tab is blank"),
        ({"steps": None}, "Sampling steps in the txt2img tab is blank"),
        ({"cfg": None}, "CFG Scale in the txt2img tab is blank; enter a number"),
        ({"cfg": float("inf")}, "CFG Scale in the txt2img tab is inf"),
        ({"count": None}, "Batch count in the txt2img tab is blank"),
        ({"size": "two"}, "Batch size in the txt2img tab is two"),
        ({"width": 64.5}, "Width in the txt2img tab is 64.5; enter a whole number"),
        ({"hires": True, "scale": None}, "Upscale by in the txt2img tab is blank"),
    ],
)
def test_odd_numbers_are_named(start: StartUI, changes: dict[str, Any], message: str) -> None:
    from elemental import ImageError

    with start() as rig:
        with pytest.raises(ImageError, match=message):
            rig.form.read(tab(**changes))
        rig.form.read(tab(scale=None))  # not used without hires fix


def test_restore_when_the_model_before_is_gone(start: StartUI) -> None:
    with start() as rig:
        session = session_of(rig.host)
        rig.webui.opts.choose("sd_model_checkpoint", "c.safetensors")
        ended(merge_jobs.merge(session, FORM, None, print_change=False))
        rig.paths["c"].unlink()
        for said in ("Model a.safetensors stays loaded instead.", "Model a.safetensors restored."):
            assert said in ended(merge_jobs.restore(session)).text
            assert rig.host.loaded().path == rig.paths["a"]
        ended(merge_jobs.generate(session, FORM, rig.form.read(tab()).request))


def test_the_selected_model_is_model_a_before_it_is_loaded(start: StartUI) -> None:
    with start() as rig:
        data = rig.webui.sd_models.model_data
        data.sd_model, data.loaded_sd_models = None, []
        rig.webui.opts.data["sd_model_checkpoint"] = "b.safetensors"
        assert (rig.host.loaded(), rig.host.selected().path) == (None, rig.paths["b"])
        assert first_form(rig.host).model_a == "b.safetensors"
