"""Axes: what their values read as, what each sets and leaves alone, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from elemental import ElementalError, MergeMode, MergeRecipe, ModelSource, parse_rules
from elemental.architectures.blocks import SD1
from elemental.architectures.keys import name_key
from elemental.demo.layout import SD1_LAYOUT, tensor_shapes
from elemental.errors import RecipeError, SpecError
from elemental.images.image_request import ImageRequest
from elemental.merge.files.tensor_info import TensorInfo
from elemental.merge.plan import Role
from elemental.merge.planner import plan_tensors
from elemental.recipe.presets import BUILT_IN_PRESETS, read_presets
from elemental.runs.axes.base import Setting
from elemental.runs.axes.catalogue import AXES
from elemental.runs.axes.context import AxisContext
from elemental.runs.axes.fields import IntegerAxis
from elemental.runs.axes.values import axis_from_dict, parse_axis
from elemental.runs.cells import order_cells
from elemental.runs.element_check import check_from_dict, parse_check
from elemental.runs.sample_file import read_samples
from elemental.runs.xy_plot import XYPlot, check_axes, plot_from_dict

INFOS = {key: TensorInfo("F16", shape) for key, shape in tensor_shapes(SD1_LAYOUT).items()}
CONTEXT = AxisContext(
    architecture=SD1,
    names=[name_key(key, SD1) for key in INFOS],
    presets=read_presets(BUILT_IN_PRESETS),
    samplers=["Euler a", "DPM++ 2M Karras"],
    find_model=lambda name: ModelSource(f"/models/{name}"),
    draw_seed=lambda: 4711,
)
RECIPE = MergeRecipe(ModelSource("a"), ModelSource("b"), alpha=0.3, rules=parse_rules("IN00::0.1"))
TRIPLE = replace(RECIPE, model_c=ModelSource("c"), mode=MergeMode.TRIPLE_SUM, beta=0.2)
REQUEST = ImageRequest("a cat", seed=5)
BASE = Setting(RECIPE, REQUEST)


def plot(
    x: tuple[str, str], y: tuple[str, str] | None = None, base: Setting = BASE, z: tuple[str, str] | None = None
) -> XYPlot:
    texts = {"x": x, "y": y, "z": z}
    return XYPlot(base, **{side: parse_axis(side, *text, CONTEXT) for side, text in texts.items() if text is not None})


def rules_of(plotted: XYPlot) -> list[str]:
    return ["|".join(map(str, cell.recipe.rules.rules)) for cell in plotted.cells()]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("OUT05:attn2:1", ["OUT05:attn2:1"]),
        ("\n\nOUT05:attn2:1\nOUT06::1\n\n:attn:0.2", ["", "OUT05:attn2:1|OUT06::1", ":attn:0.2"]),
        ("# about\n\nOUT05:attn2:1 # here\n  \n\n\n:attn:0.2\n", ["OUT05:attn2:1", ":attn:0.2"]),
        ("\nOUT05:attn2:1", ["OUT05:attn2:1"]),
        ("\r\n\r\nOUT05:attn2:1\r\n\r\n:ff:1", ["", "OUT05:attn2:1", ":ff:1"]),
    ],
)
def test_elemental_values_are_separated_by_blank_lines(text: str, wanted: list[str]) -> None:
    assert rules_of(plot(("elemental", text))) == wanted
    added = ["|".join(filter(None, ["IN00::0.1", rules])) for rules in wanted]
    assert rules_of(plot(("add-elemental", text))) == added


def test_a_pinned_ratio_is_that_of_the_elements_alone() -> None:
    cells = list(plot(("alpha", "0, .5"), ("pinpoint-element", "OUT05:attn2, IN07:NOT ff")).cells())
    assert {cell.recipe.alpha for cell in cells} == {0.3}
    assert ["|".join(map(str, cell.recipe.rules.rules)) for cell in cells] == [
        "IN00::0.1|OUT05:attn2:0",
        "IN00::0.1|OUT05:attn2:0.5",
        "IN00::0.1|IN07:NOT ff:0",
        "IN00::0.1|IN07:NOT ff:0.5",
    ]
    turned = plot(("pinpoint-element", "OUT05:attn2"), ("alpha", "1"))
    assert rules_of(turned) == ["IN00::0.1|OUT05:attn2:1"]


def test_pinned_blocks() -> None:
    assert rules_of(plot(("pinpoint-blocks", "IN03 IN04\nIN05-IN08, not m00"), ("alpha", "1"))) == [
        "IN00::0.1|IN03 IN04::1",
        "IN00::0.1|IN05-IN08::1",
        "IN00::0.1|NOT M00::1",
    ]
    assert len(rules_of(plot(("pinpoint-blocks", "ALL"), ("alpha", "1")))) == 26


@pytest.mark.parametrize(
    ("name", "text", "field", "wanted"),
    [
        ("alpha", "0, 1e-1\n-.5", "alpha", [0.0, 0.1, -0.5]),
        ("beta", "0.5", "beta", [0.5]),
        ("alpha-beta", "0.5 0.25, 1:0", "alpha", [0.5, 1.0]),
        ("alpha-beta", "0.5 0.25, 1:0", "beta", [0.25, 0.0]),
        (
            "model-a",
            'x.ckpt, "y, z.safetensors"',
            "model_a",
            [ModelSource("/models/x.ckpt"), ModelSource("/models/y, z.safetensors")],
        ),
        ("model-b", "x", "model_b", [ModelSource("/models/x")]),
        ("model-c", "x", "model_c", [ModelSource("/models/x")]),
        ("mode", "sum-twice, weight-sum", "mode", [MergeMode.SUM_TWICE, MergeMode.WEIGHT_SUM]),
        ("mode", "sum-twice, weight-sum", "model_c", [ModelSource("c"), None]),
        ("seed", "7, -1", "seed", [7, 4711]),
        ("prompt", 'a cat, sitting\n"a dog"\n""', "prompt", ["a cat, sitting", '"a dog"', ""]),
        ("negative", "x\\|y", "negative", ["x|y"]),
        ("steps", "5, 10", "steps", [5, 10]),
        ("cfg", "1, 7.5", "cfg", [1.0, 7.5]),
        ("sampler", "euler A, DPM++ 2m karras", "sampler", ["Euler a", "DPM++ 2M Karras"]),
    ],
)
def test_what_an_axis_sets_and_leaves_alone(name: str, text: str, field: str, wanted: list[object]) -> None:
    plotted = plot((name, text), base=Setting(TRIPLE, REQUEST))
    cells = list(plotted.cells())
    side = "recipe" if hasattr(TRIPLE, field) else "request"
    assert [getattr(getattr(cell, side), field) for cell in cells] == wanted
    other = {"recipe": "request", "request": "recipe"}[side]
    assert {getattr(cell, other) for cell in cells} == {getattr(Setting(TRIPLE, REQUEST), other)}


def test_block_weights_by_name_and_by_numbers() -> None:
    numbers = ",".join(["0.5"] * 26)
    plotted = plot(("mbw-alpha", f"GRAD_V\n{numbers}\n"))
    weights = [cell.recipe.block_alpha for cell in plotted.cells()]
    assert weights == [CONTEXT.presets["GRAD_V"][0], plot(("mbw-alpha", numbers)).x.values[0].meaning]
    assert [value.label for value in plotted.x.values] == ["GRAD_V", numbers]
    # the text that is kept does not depend on the preset staying as it is
    kept = axis_from_dict("x", plotted.x.to_dict(), replace(CONTEXT, presets={}))
    assert kept.values == plotted.x.values
    assert [cell.recipe.block_beta for cell in plot(("mbw-beta", numbers), base=Setting(TRIPLE, REQUEST)).cells()]


def test_a_drawn_seed_is_kept() -> None:
    drawn = parse_axis("x", "seed", "-1, 3", CONTEXT)
    again = axis_from_dict("x", drawn.to_dict(), replace(CONTEXT, draw_seed=lambda: 1))
    assert [value.label for value in again.values] == ["seed 4711", "seed 3"]


def test_bars_split_a_plot_into_grids() -> None:
    plotted = plot(("alpha", "0, 0.5 | 1"), ("seed", "1|2,3"))
    assert plotted.count == 9
    assert [(grid.columns, grid.rows) for grid in plotted.grids] == [
        (range(2), range(1)),
        (range(2, 3), range(1)),
        (range(2), range(1, 3)),
        (range(2, 3), range(1, 3)),
    ]
    assert rules_of(plot(("elemental", "OUT05::1\n|\n\n\nOUT06::1"))) == ["OUT05::1", "", "OUT06::1"]


def test_plots_read_back() -> None:
    plotted = plot(("elemental", "\n\nOUT05:attn2:1\n\n:ff:0.2|:norm:1"), ("prompt", "a\\|b\nc"))
    again = plot_from_dict(plotted.to_dict(), CONTEXT)
    assert list(again.cells()) == list(plotted.cells())
    assert again.grids == plotted.grids


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (("alpha", " ,\n"), None, "x axis, alpha: its values hold nothing"),
        (("alpha", "1||2"), None, 'nothing stands beside a "|"'),
        (("alpha", "1, nan"), None, 'x axis, alpha, value "nan"'),
        (("alpha", "1"), ("seed", "x"), 'y axis, seed, value "x"'),
        (("alpha", "1"), ("alpha-beta", "1 2"), "The x and the y axis both set alpha: alpha and alpha-beta"),
        (("elemental", ":ff:1"), ("add-elemental", ":ff:1"), "The x and the y axis both set rules"),
        (("pinpoint-element", "OUT05"), None, "the other axis must be alpha, which is missing"),
        (("pinpoint-element", "OUT05"), ("beta", "1"), "the other axis must be alpha, not beta"),
        (("pinpoint-element", "OUT05:ff:1"), ("alpha", "1"), "without a ratio"),
        (("pinpoint-element", "OUT12:ff"), ("alpha", "1"), "unknown block"),
        (("pinpoint-blocks", "OUT05:ff"), ("alpha", "1"), "takes whole blocks"),
        (("elemental", "OUT05:ff"), None, "two or three colons"),
        (("sampler", "Eular"), None, 'no sampler "Eular"; there are Euler a'),
        (("mbw-alpha", "GRAD_X"), None, "preset"),
        (("mode", "sum"), None, 'no mode "sum"'),
        (("mode", "add-difference"), None, "needs a third model"),
        (("beta", "1"), None, "has no beta"),
        (("cfg", "0"), None, "from 1 to 100"),
        (("steps", "0"), None, 'x axis, steps, value "0"'),
        (("seed", "1.5"), None, "no whole number"),
        (("alpha-beta", "1"), None, "no pair"),
        (("alfa", "1"), None, 'no axis "alfa"; did you mean "alpha"'),
        (("zzzz", "1"), None, r'no axis "zzzz"\. There are'),
    ],
)
def test_what_is_refused(x: tuple[str, str], y: tuple[str, str] | None, message: str) -> None:
    def read() -> None:
        plotted = plot(x, y)
        check_axes(plotted)
        list(plotted.cells())

    with pytest.raises(ElementalError, match=message.replace("|", r"\|")):
        read()


def test_each_recipe_once_and_neighbours_alike() -> None:
    plotted = plot(("pinpoint-element", "OUT05:attn2, OUT06:ff"), ("alpha", "0, 1"))
    ordered = [(cell.x, cell.y) for cell in order_cells(list(plotted.cells()))]
    assert ordered == [(0, 0), (0, 1), (1, 0), (1, 1)]  # not row by row: the elements change once
    plotted = plot(("alpha", "0, 0.5, 1"), ("seed", "1, 2, 3"))
    recipes = [cell.recipe for cell in order_cells(list(plotted.cells()))]
    assert sum(one != other for one, other in pairwise(recipes)) == 2
    plotted = plot(("alpha", "0, 1"), ("model-a", "m, n"))
    models = [cell.recipe.model_a.name for cell in order_cells(list(plotted.cells()))]
    assert models == ["m", "m", "n", "n"]


def test_base_and_probes_differ_in_the_probed_elements_alone() -> None:
    recipe = replace(TRIPLE, rules=parse_rules("IN00::0.1, OUT05:attn2.to_k:0.2:0.4"))
    check = parse_check(Setting(recipe, REQUEST), "OUT05:attn2, M00, :ff", 0.9, CONTEXT)
    models = dict.fromkeys((Role.A, Role.B, Role.C), INFOS)
    base, *probes = [plan_tensors(cell.recipe, models).tensors for cell in check.cells()]
    for target, probe in zip(check.targets, probes, strict=True):
        for before, after in zip(base, probe, strict=True):
            if target.rule(0).matches(before.name):
                assert after == before._replace(alpha=0.9, rule=2, inputs=after.inputs)
            else:
                assert after == before
    assert len({cell.request for cell in check.cells()}) == 1


def test_all_stands_for_each_block_and_each_element() -> None:
    blocks = parse_check(BASE, "ALL", 1, CONTEXT).targets
    assert [str(target) for target in blocks] == list(SD1.blocks)
    for text in ("OUT05:ALL", "IN00:all"):
        elements = parse_check(BASE, text, 1, CONTEXT).targets
        block = text.partition(":")[0]
        names = [name for name in CONTEXT.names if name.block == block]
        assert len(elements) == len(names)
        for target, name in zip(elements, names, strict=True):
            assert [found for found in CONTEXT.names if target.rule(0).matches(found)] == [name]
    each = parse_check(BASE, "ALL:attn2", 1, CONTEXT).targets
    assert [str(target) for target in each][:3] == ["IN01:attn2", "IN02:attn2", "IN04:attn2"]
    assert len(each) == 16


def test_checks_read_back_and_are_refused() -> None:
    check = parse_check(BASE, "OUT05:attn2, OUT05 | :ff", 0.5, CONTEXT)
    assert check_from_dict(check.to_dict()) == check
    with pytest.raises(RecipeError, match="no block or element"):
        parse_check(BASE, "OUT05|", 1, CONTEXT)
    with pytest.raises(SpecError, match="line 1, column 8: unknown block"):
        parse_check(BASE, "OUT05, OUT13", 1, CONTEXT)


def test_an_instance_in_axes_is_a_new_axis(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("elemental.runs.axes.values.AXES", {**AXES, "width": IntegerAxis("width", "width")})
    plotted = plot(("width", "256, 512"), ("alpha", "0, 1"))
    check_axes(plotted)
    assert [(cell.request.width, cell.recipe.alpha) for cell in plotted.cells()] == [
        (256, 0),
        (512, 0),
        (256, 1),
        (512, 1),
    ]
    assert plot_from_dict(plotted.to_dict(), CONTEXT) == plotted


def test_every_sample_can_be_read() -> None:
    samples = read_samples(Path(__file__).parents[1] / "sample.txt")
    assert list(samples) == list(range(1, len(samples) + 1))
    kinds = set()
    for sample in samples.values():
        assert sample.title
        assert sample.about
        if sample.elements is not None:
            assert float(sample.ratio)
            kinds.add("check")
            assert parse_check(BASE, sample.elements, float(sample.ratio), CONTEXT).targets
            continue
        axes = [parse_axis(side, *text, CONTEXT) for side, text in sample.axes.items()]
        plotted = XYPlot(BASE, *axes)
        check_axes(plotted)
        assert plotted.count == len(list(plotted.cells()))
        kinds |= {axis.axis.name for axis in axes}
    assert {"elemental", "add-elemental", "pinpoint-element", "pinpoint-blocks", "check"} <= kinds
