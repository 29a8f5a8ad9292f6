"""Images of the WebUI host, on a stand-in: made as the txt2img tab is set up, and what can go wrong."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from elemental import HostError, ImageError, Stopped, live_merge
from elemental.merge.files.metadata import recipe_from_json
from elemental.runs.axes.base import Setting
from elemental.runs.axes.context import make_axis_context
from elemental.runs.axes.values import parse_axis
from elemental.runs.estimate import estimate_plot
from elemental.runs.runner import RunResult, RunWatcher, start_run
from elemental.runs.xy_plot_run import PlotRun, make_plot
from elemental.workflows import images_of_merge

from .webui_standin_fixtures import REQUEST, Rig, mark, webui_rig  # noqa: F401
from .webui_standin_parts import tab_values as values

pytestmark = pytest.mark.slow


def test_the_tab_is_read_as_a_request(rig: Rig) -> None:
    tab = values(prompt="a cat", negative="a dog", seed=7.0, width=72, cfg=3.5, count=2, size=2)
    order = rig.form.read(tab)
    assert order.request == replace(REQUEST, negative="a dog", width=72, cfg=3.5, batch=4)
    assert order.settings.values == tuple(tab)
    assert rig.form.read(values(sampler="DPM++ 2M", scheduler="Karras")).request.sampler == "DPM++ 2M Karras"
    for seed in (-1, "", None):
        seeds = {rig.form.read(values(seed=seed)).request.seed for _ in range(4)}
        assert len(seeds) == 4
        assert all(0 <= drawn < 2**32 for drawn in seeds)


def test_a_tab_that_cannot_be_read(rig: Rig) -> None:
    with pytest.raises(HostError, match="txt2img tab were not found"):
        rig.form.read([])
    with pytest.raises(HostError, match="AssertionError: the tab has other fields"):
        rig.form.read(values()[:-1])
    with pytest.raises(ImageError, match="width is 100"):
        rig.form.read(values(width=100))


def test_images_are_those_of_the_txt2img_tab(rig: Rig) -> None:
    user_image = rig.webui.generate().data
    assert rig.images() == [user_image]  # without the tab's values
    four = replace(REQUEST, batch=4)
    together = rig.host.make_images(four, model={})
    assert [image.seed for image in together] == [7, 8, 9, 10]
    rig.tab = values(count=2, size=2, prompt="another", seed=99)
    seen: list[tuple[int, int]] = []
    rig.webui.scripts.scripts_txt2img.scripts.append(
        SimpleNamespace(process=lambda p: seen.append((p.n_iter, p.batch_size)))
    )
    assert rig.images(four) == [mark(image) for image in together]
    assert rig.images(REQUEST) == [user_image]
    assert seen == [(2, 2), (1, 1)]
    (karras,) = rig.make(replace(REQUEST, sampler="dpm++ 2m karras"))
    assert "Sampler: DPM++ 2M, Schedule type: Karras, " in karras.infotext
    with pytest.raises(HostError, match='no sampler "Eular"'):
        rig.images(replace(REQUEST, sampler="Eular"))


def test_the_infotext_names_the_merge_and_not_the_checkpoint(rig: Rig) -> None:
    recipe = rig.recipe("IN03-OUT05:attn2:0.7")
    with live_merge(rig.open()) as merge:
        (image,) = images_of_merge(rig.host, REQUEST, merge, recipe)
    assert "Model" not in image.infotext
    assert (
        'Elemental: "weight-sum of a, b; alpha 0.5; rules IN03-OUT05:attn2:0.7", Elemental recipe: ' in image.infotext
    )
    stored = json.loads(image.infotext.split("Elemental recipe: ")[1])
    assert recipe_from_json(stored, name="x").rules == recipe.rules
    assert recipe_from_json(image.fields["elemental_recipe"], name="x").rules == recipe.rules
    (plain,) = rig.host.make_images(REQUEST, model={"Model": "a"})
    assert ", Model hash: " in plain.infotext
    assert ", Model: a" in plain.infotext


def test_the_live_model_stays_if_the_settings_name_another(rig: Rig) -> None:
    rig.open("b")
    settings = dict(rig.webui.opts.data)
    during: list[str] = []
    rig.webui.on_step = lambda _: during.append(rig.webui.opts.data["sd_model_checkpoint"])
    image = rig.images(replace(REQUEST, batch=1))
    assert rig.host.loaded() == rig.ref("b").__class__("b.safetensors", rig.paths["b"])
    assert not {"a.safetensors", "b.safetensors"} & set(during)  # so that any choice of the user's is a change
    assert rig.webui.opts.data == settings
    rig.webui.opts.data["sd_model_checkpoint"] = "b.safetensors"
    during.clear()
    assert rig.images() == image
    assert set(during) == {"b.safetensors"}


def test_settings_that_were_never_saved_are_not_left_overridden(rig: Rig) -> None:
    rig.tab = values(overrides=["clip_skip: 2"])
    rig.webui.opts.data.pop("sd_model_checkpoint")
    rig.images()
    assert rig.webui.opts.data.get("clip_skip") is None
    assert rig.webui.opts.data.get("sd_model_checkpoint") is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"refiner": "b"}, "A refiner would replace"),
        ({"hires": True, "second": "b"}, "Hires. fix with another checkpoint"),
        ({"overrides": ["sd_model_checkpoint: b.safetensors"]}, "override settings ask for the checkpoint b"),
        ({"overrides": ["sd_model_checkpoint: gone"]}, "override settings ask for the checkpoint gone"),
    ],
)
def test_requests_that_would_replace_the_model_are_refused(rig: Rig, changes: dict[str, Any], message: str) -> None:
    rig.tab = values(**changes)
    with pytest.raises(HostError, match=message):
        rig.images()


def test_the_same_checkpoint_in_those_fields_is_accepted(rig: Rig) -> None:
    (plain,) = rig.images()
    for changes in ({"refiner": "a"}, {"hires": True, "second": "a"}, {"second": "b"}, {"refiner": "None"}):
        rig.tab = values(**changes)
        assert rig.images() == [plain]
    rig.tab = values(overrides=["sd_model_checkpoint: a"])
    assert rig.images() == [plain]


def test_scripts_run_and_images_that_they_add_are_left_out(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    (plain,) = rig.images()
    rig.webui.extra_images = 2
    assert rig.images() == [plain]
    rig.webui.extra_images = 0
    runner = rig.webui.scripts.scripts_txt2img
    rig.tab = values(script=1)
    runner.chosen = rig.webui.process_images
    assert rig.images() == [plain]

    def two(p: Any) -> Any:
        made = rig.webui.process_images(p)
        return SimpleNamespace(**{**vars(made), "images": made.images * 2})

    runner.chosen = two
    with pytest.raises(HostError, match="made 2 images, where 1 were asked for; choose no script"):
        rig.images()
    rig.tab = values()
    none = SimpleNamespace(images=[], index_of_first_image=0)
    monkeypatch.setattr(sys.modules["modules"].processing, "process_images", lambda _: none)
    with pytest.raises(HostError, match="made 0 images, where 1 were asked for"):
        rig.images()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (KeyError("a part"), "KeyError: 'a part'"),
        (torch.cuda.OutOfMemoryError("CUDA out of memory"), "Out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "Out of memory"),
        (MemoryError(), "Out of memory"),
        ("nans", r"no numbers \(NaN\): all black"),
    ],
)
def test_an_error_in_a_script_costs_one_image_and_the_model_is_given_back(rig: Rig, error: Any, message: str) -> None:
    before, plain = rig.webui.digest(), rig.images()
    raised = rig.webui.devices.NansException("all black\nand more") if error == "nans" else error
    requests: list[Any] = []

    def fail(p: Any) -> None:
        requests.append(p)
        raise raised

    runner = rig.webui.scripts.scripts_txt2img
    broken = SimpleNamespace(process=fail)
    with live_merge(rig.open()) as merge:
        runner.scripts.append(broken)
        with pytest.raises(HostError, match=message):
            images_of_merge(rig.host, REQUEST, merge, rig.recipe())
        runner.scripts.remove(broken)
        assert images_of_merge(rig.host, REQUEST, merge, rig.recipe())
    assert requests[0].closed
    assert rig.webui.digest() == before
    assert rig.images() == plain


def press(rig: Rig, button: str, at: int) -> None:
    """Press a button at a step, once."""
    steps: list[int] = []

    def on_step(_: int) -> None:
        steps.append(1)
        if len(steps) == at:
            setattr(rig.webui.state, button, True)

    rig.webui.on_step = on_step


def test_buttons(rig: Rig) -> None:
    (plain,) = rig.images()
    press(rig, "interrupted", 1)
    with rig.host.job("x", 1):
        with pytest.raises(Stopped):
            rig.images()
        assert rig.host.should_stop()
    assert not rig.host.should_stop()
    press(rig, "stopping_generation", 1)
    with rig.host.job("x", 1):
        assert rig.images() == [plain]  # whole
        assert rig.host.should_stop()
    press(rig, "skipped", 1)
    with rig.host.job("x", 1):
        with pytest.raises(HostError, match="skipped"):
            rig.images()
        assert rig.images() == [plain]
        assert not rig.host.should_stop()


def test_buttons_between_the_rounds_of_a_batch(rig: Rig) -> None:
    rig.tab = values(count=2)
    two = replace(REQUEST, batch=2)
    press(rig, "skipped", 1)  # the WebUI forgets it before the second round
    with pytest.raises(HostError, match="skipped"):
        rig.images(two)
    press(rig, "stopping_generation", 1)
    with pytest.raises(Stopped):
        rig.images(two)
    assert not rig.webui.state.stopping_generation
    press(rig, "stopping_generation", 3)
    assert len(rig.images(two)) == 2


def test_a_job_enters_the_queue_and_leaves_it(rig: Rig) -> None:
    lock, state = rig.webui.lock, rig.webui.state
    entries = lock.entries
    with rig.host.job("plot", 4):
        assert (state.job, state.job_count, lock.owner) == ("plot", 4, threading.get_ident())
        with rig.host.job("a part", 1):
            rig.open("b")
            rig.images(replace(REQUEST, batch=3))
        assert (state.job, state.job_no) == ("plot", 3)
        rig.host.report(1, 4, "merging")
        assert state.textinfo == "merging: 25%"
        state.interrupted = True
    assert (lock.entries, state.job, state.interrupted) == (entries + 1, "", False)
    with pytest.raises(KeyError), rig.host.job("plot", 1):
        raise KeyError
    assert (lock.owner, state.job) == (None, "")
    rig.open("a")
    rig.images()
    assert lock.entries == entries + 4


def test_only_our_jobs_are_stopped_and_shown(rig: Rig) -> None:
    state = rig.webui.state
    state.begin("somebody else's")
    state.sampling_steps = 5
    rig.host.stop()
    assert not state.interrupted
    assert (rig.host.step_progress().steps, rig.host.should_stop()) == (0, False)
    rig.host.report(1, 2, "x")
    assert state.textinfo is None
    with rig.host.job("x", 1):
        state.sampling_step, state.sampling_steps = 1, 5
        step_progress = rig.host.step_progress()
        assert (step_progress.step, step_progress.steps, step_progress.image is not None) == (1, 5, True)
        rig.host.stop()
        assert rig.host.should_stop()


def plot(rig: Rig, folder: Path, on_cell: Callable[..., None] = lambda *_: None) -> RunResult:
    setting = Setting(rig.recipe(alpha=0), REQUEST)
    context = make_axis_context(rig.host, setting.recipe)
    axes = {
        "x": parse_axis("x", "alpha", "0,0.5,1", context),
        "y": parse_axis("y", "pinpoint-element", "IN01:attn1,M00:attn2", context),
    }
    plotted = make_plot(setting, axes, context=context)
    with rig.host.job("plot", 6):
        return start_run(
            rig.host, PlotRun(plotted), folder, estimate=estimate_plot(plotted), watcher=RunWatcher(on_cell=on_cell)
        )


def test_a_plot_while_others_ask_for_images(rig: Rig, tmp_path: Path) -> None:
    before, user_image = rig.webui.digest(), rig.webui.generate()
    answers: list[Any] = []
    threads: list[threading.Thread] = []

    def ask(*_: object) -> None:
        threads.append(threading.Thread(target=lambda: answers.append(rig.webui.generate()), daemon=True))
        threads[-1].start()

    result = plot(rig, tmp_path / "plot", ask)
    for thread in threads:
        thread.join(30)
    assert (result.made, result.failed) == (6, {})
    assert [(answer.data, answer.infotext) for answer in answers] == [(user_image.data, user_image.infotext)] * 6
    assert rig.webui.digest() == before


def test_a_plot_that_is_interrupted_and_one_with_a_skipped_cell(rig: Rig, tmp_path: Path) -> None:
    before = rig.webui.digest()
    press(rig, "interrupted", 4)
    result = plot(rig, tmp_path / "stopped")
    assert (result.made, result.waiting) == (1, 5)
    assert rig.webui.digest() == before
    press(rig, "skipped", 4)
    result = plot(rig, tmp_path / "skipped")
    assert (result.made, list(result.failed.values())) == (5, ["The image was skipped."])
    assert rig.webui.digest() == before


def test_images_are_rgb(rig: Rig) -> None:
    process = rig.webui.process_images

    def with_alpha(p: Any) -> Any:
        made = process(p)
        images: Sequence[Image.Image] = [image.convert("RGBA") for image in made.images]
        return SimpleNamespace(**{**vars(made), "images": images})

    sys.modules["modules"].processing.process_images = with_alpha
    assert rig.host.make_images(REQUEST, model={})[0].image.mode == "RGB"
