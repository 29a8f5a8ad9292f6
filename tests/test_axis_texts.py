"""What users read and pick at an axis: examples, values behind others, the first image without rules, times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from elemental.errors import RecipeError
from elemental.images.image_request import ImageRequest
from elemental.runs.axes.catalogue import AXES
from elemental.runs.axes.value_texts import append_value, take_baseline
from elemental.runs.axes.values import parse_axis, split_groups
from elemental.runs.image_times import ImageTimes
from elemental.session.axis_picks import add_pick, list_axes, list_picks
from elemental.session.form import MergeForm
from elemental.session.job_texts import format_about
from elemental.session.page_values import whole_plot
from elemental.session.preset_stores import SpecPresets
from elemental.session.run_plans import PlotForm
from elemental.session.session import Session, session_of
from elemental.workflows import CONFIG_VARIABLE

from .fake_host import FakeHost
from .plotting import load
from .test_axes import CONTEXT


@pytest.mark.parametrize("name", AXES)
def test_the_example_of_each_axis_can_be_read(name: str) -> None:
    axis = AXES[name]
    assert "\n" not in axis.example
    assert len(f"{axis.form}. Example: {axis.example}") < 140
    assert parse_axis("x", name, axis.example, replace(CONTEXT, samplers=["Euler a", "Euler"])).values


@pytest.mark.parametrize(
    ("name", "text", "value", "wanted"),
    [
        ("mode", "", "weight-sum", "weight-sum"),
        ("mode", "sum-twice, \n", "weight-sum", "sum-twice, weight-sum"),
        ("mode", "sum-twice |", "weight-sum", "sum-twice | weight-sum"),
        ("model-a", "a", "b, c.ckpt", 'a, "b, c.ckpt"'),
        ("model-a", '"a, b"\nc', "d", '"a, b"\nc, d'),
        ("model-a", "a|b", "c|d", "a|b, c\\|d"),
        ("lora", "detail:0", "a, b:0.5", 'detail:0, "a, b:0.5"'),
        ("sampler", "Euler a", "DPM++ 2M", "Euler a, DPM++ 2M"),
        ("mbw-alpha", "GRAD_V # rises", "FLAT_75", "GRAD_V # rises\nFLAT_75"),
        ("elemental", "\n\nOUT05::1", "OUT06::1\n# half\nOUT07::0.5", "\n\nOUT05::1\n\nOUT06::1\n# half\nOUT07::0.5"),
        ("mode", "a", "b, c", None),
    ],
)
def test_a_value_is_written_behind_others(name: str, text: str, value: str, wanted: str | None) -> None:
    assert append_value(AXES[name], text, value) == wanted
    if wanted is not None:
        assert AXES[name].split(split_groups(wanted)[-1])[-1] == value


def test_what_can_be_picked(models: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CONFIG_VARIABLE, str(tmp_path))
    session: Session = session_of(FakeHost(load, models=models["a"].parent))
    assert set(list_picks(session, "model-b")) == {"a.safetensors", "b.safetensors", "c.safetensors"}
    assert "GRAD_V" in list_picks(session, "mbw-beta")
    assert list_picks(session, "sampler") == ["Euler a", "Euler"]
    assert "sum-twice" in list_picks(session, "mode")
    assert [
        kind for kind in ("alpha", "seed", "prompt", "pinpoint-element", "none", "") if list_picks(session, kind)
    ] == []
    SpecPresets().save("mine", "OUT05::1\n\nOUT06::1\n")
    assert list_picks(session, "add-elemental") == ["mine"]
    assert add_pick("add-elemental", "OUT03::1", "mine") == "OUT03::1\n\nOUT05::1\nOUT06::1"
    with pytest.raises(RecipeError, match='"b, c" cannot be written as a value of mode'):
        add_pick("mode", "", "b, c")
    with pytest.raises(RecipeError, match="Choose an axis first"):
        add_pick("", "", "b")


def test_the_tab_offers_all_axes_and_the_loras_of_the_form(models: Mapping[str, Path]) -> None:
    assert list_axes() == list(AXES)
    session: Session = session_of(FakeHost(load, models=models["a"].parent))
    assert list_picks(session, "lora") == []
    session.form = MergeForm(loras="sub/detail.pt:0.5\n\nstyle\nsub/detail.pt:0.1")
    assert list_picks(session, "lora") == ["detail:1", "style:1"]
    assert add_pick("lora", "style:0.5", "detail:1") == "style:0.5, detail:1"


@pytest.mark.parametrize("text", ["OUT05::1", "\n\nOUT05::1", "\n\n\nOUT05::1\n", "OUT05::1 | \n\n\nOUT05::1"])
def test_a_first_image_without_rules_by_a_tick_or_by_blank_lines(text: str) -> None:
    ticked = parse_axis("x", "elemental", text, CONTEXT, baseline=True)
    assert [[value.text for value in group] for group in ticked.groups] == [["", "OUT05::1"]] * len(ticked.groups)
    assert ticked.values[0].label == "no rules"
    numbers = parse_axis("x", "alpha", "0, 1", CONTEXT, baseline=True)
    assert [value.meaning for value in numbers.values] == [0, 1]


def test_blank_lines_become_the_tick_where_all_grids_have_them() -> None:
    axis = AXES["elemental"]
    assert take_baseline(axis, "\n\nOUT05::1\n|\n\n\nOUT06::1") == ("OUT05::1\n|\nOUT06::1", True)
    for text in ("OUT05::1", "\n\nOUT05::1|OUT06::1", "\n\n"):
        assert take_baseline(axis, text) == (text, False)
    assert take_baseline(AXES["prompt"], "\n\na cat") == ("\n\na cat", False)


def test_a_plot_from_before_the_third_axis_is_whole() -> None:
    old = {"x_type": "elemental", "x": "\n\nOUT05::1", "y_type": "seed", "y": "1", "compare": True}
    wanted = PlotForm("elemental", "OUT05::1", "seed", "1", compare=True, without_rules=True)
    assert whole_plot(old) == asdict(wanted)
    assert whole_plot(asdict(wanted)) == asdict(wanted)
    assert whole_plot({"spec": "OUT05::1"}) == {"spec": "OUT05::1"}


def test_times_are_those_of_images_alike(tmp_path: Path) -> None:
    path, host = tmp_path / "cache" / "times.json", FakeHost(load)
    times, image = ImageTimes(host, "SD 1.x", path), ImageRequest("", steps=20)
    assert times.expect([image]) is None
    times.note([(image, 3.0), (image, 9.0), (image, 2.0)])
    assert times.expect([image, image]) == 6
    assert times.expect([ImageRequest("", steps=10)]) == 1.5  # a step takes as long as another
    times.note([(image, 4.0), (ImageRequest("", steps=40), 10.0)])
    assert times.expect([image, ImageRequest("", steps=40)]) == 14
    for other in (ImageRequest("", width=768), ImageRequest("", sampler="Euler")):
        assert times.expect([image, other]) is None
    assert ImageTimes(host, "SDXL", path).expect([image]) is None
    for broken in ("", "[]", '{"x": 1}', '{"FakeHost, SD 1.x, 512x512, Euler a": {"0": 1}}'):
        path.write_text(broken)
        assert times.expect([image]) is None


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "1 s"), (44.6, "45 s"), (170, "3 min"), (7780, "2 h 10 min"), (3600, "1 h 0 min")]
)
def test_long_times_are_rounded(seconds: float, words: str) -> None:
    assert format_about(seconds) == words
