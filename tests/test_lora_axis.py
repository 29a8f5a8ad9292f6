"""The axis of the ratios of LoRAs: what its values read as, whose ratio each sets, and the images that show it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from elemental import ElementalError, MergeRecipe, make_images, merge_to_file, model_source
from elemental.images.files import read_image, read_texts
from elemental.recipe.recipe import LoraSource, ModelSource
from elemental.runs.axes.base import Setting
from elemental.runs.axes.values import parse_axis
from elemental.runs.estimate import estimate_plot
from elemental.runs.grid_contents import describe_setting
from elemental.runs.xy_plot import XYPlot, check_axes, plot_from_dict

from .conftest import save
from .fake_host import FakeHost
from .lora_files import lora, with_name
from .plotting import REQUEST, plot, resume, run
from .test_axes import CONTEXT

ATTENTION = "down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_"


def added(path: str, ratio: float = 1.0, ratio_te: float | None = None) -> LoraSource:
    return LoraSource(ModelSource(path), ratio, ratio_te)


ONE = (added("/loras/detail.safetensors", 0.8, 0.4),)
TWO = (*ONE, added("C:\\loras\\Old style v1.5.pt", 0.3))
ALIKE = (*ONE, added("/old/detail.pt"))


def setting(loras: Sequence[LoraSource]) -> Setting:
    return Setting(MergeRecipe(ModelSource("a"), ModelSource("b"), loras=tuple(loras)), REQUEST)


def plotted(loras: Sequence[LoraSource], **texts: str) -> XYPlot:
    """Make a plot, checked as a user's is, of values of this axis by side."""
    made = XYPlot(setting(loras), **{side: parse_axis(side, "lora", text, CONTEXT) for side, text in texts.items()})
    check_axes(made)
    return made


def ratios(made: XYPlot) -> list[tuple[tuple[float, float | None], ...]]:
    return [tuple((lora.ratio, lora.ratio_te) for lora in cell.recipe.loras) for cell in made.cells()]


@pytest.mark.parametrize(
    ("text", "texts", "labels"),
    [
        ("0-1(+0.5)", ["0", "0.5", "1"], ["LoRA 0", "LoRA 0.5", "LoRA 1"]),
        ("-1e-1, .5", ["-0.1", "0.5"], ["LoRA -0.1", "LoRA 0.5"]),
        (
            "detail:0.5, detail.safetensors : 1 : 0",
            ["detail:0.5", "detail.safetensors:1:0"],
            ["detail 0.5", "detail 1:0"],
        ),
        ("detail:1-0[3]", ["detail:1", "detail:0.5", "detail:0"], ["detail 1", "detail 0.5", "detail 0"]),
        ("detail:1:0-1", ["detail:1:0", "detail:1:1"], ["detail 1:0", "detail 1:1"]),
        ("Old style v1.5:-2", ["Old style v1.5:-2"], ["Old style v1.5 -2"]),
        ('"a, b.pt:0.5"\nc:v2:1', ["a, b.pt:0.5", "c:v2:1"], ["a, b 0.5", "c:v2 1"]),
        (r"C:\loras\detail.safetensors:0.5, ~/x:1", ["detail.safetensors:0.5", "x:1"], ["detail 0.5", "x 1"]),
        ("detail\uff1a\uff10\uff0e\uff15\uff0c0\u20131", ["detail:0.5", "0", "1"], ["detail 0.5", "LoRA 0", "LoRA 1"]),
    ],
)
def test_what_values_read_as(text: str, texts: list[str], labels: list[str]) -> None:
    values = parse_axis("x", "lora", text, CONTEXT).values
    assert [value.text for value in values] == texts
    assert [value.label for value in values] == labels
    assert [parse_axis("x", "lora", f'"{again}"', CONTEXT).values for again in texts] == [(value,) for value in values]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("detail:0.5", ((0.5, None), (0.3, None))),  # as --lora reads it: text encoders have the same
        ("detail.safetensors:0.5:1", ((0.5, 1.0), (0.3, None))),
        ("Old style v1.5:-2", ((0.8, 0.4), (-2.0, None))),
        ("Old style v1.5.pt:0", ((0.8, 0.4), (0.0, None))),
    ],
)
def test_a_value_sets_the_ratios_of_one_lora(text: str, wanted: tuple[tuple[float, float | None], ...]) -> None:
    made = plotted(TWO, x=text)
    assert ratios(made) == [wanted]
    (cell,) = made.cells()
    assert replace(cell.recipe, loras=TWO) == made.base.recipe
    assert [lora.file for lora in cell.recipe.loras] == [lora.file for lora in TWO]
    assert plot_from_dict(made.to_dict(), CONTEXT) == made


def test_a_number_alone_is_the_ratio_of_the_only_lora() -> None:
    assert ratios(plotted(ONE, x="0-1[2]")) == [((0.0, None),), ((1.0, None),)]


def test_a_name_with_its_ending_is_not_another_without() -> None:
    assert ratios(plotted((added("detail.pt"), added("detail.pt.pt", 0.3)), x="detail.pt:1")) == [
        ((1.0, None), (0.3, None))
    ]


def test_two_axes_vary_two_loras() -> None:
    assert ratios(plotted(TWO, x="detail:0, detail:1", y="Old style v1.5:0.2")) == [
        ((0.0, None), (0.2, None)),
        ((1.0, None), (0.2, None)),
    ]


@pytest.mark.parametrize(
    ("loras", "texts", "message"),
    [
        (
            (),
            {"x": "0.5"},
            'x axis, lora, value "0.5": The merge has no LoRA whose ratio could vary: add it with --lora',
        ),
        ((), {"x": "detail:0.5"}, "add it with --lora FILE:RATIO"),
        (
            TWO,
            {"x": "0.5"},
            "several LoRAs, detail.safetensors, Old style v1.5.pt: write whose ratio it is, such as detail:",
        ),
        (
            TWO,
            {"x": "detial:1"},
            'no LoRA "detial"; did you mean "detail"? It has detail.safetensors, Old style v1.5.pt',
        ),
        (ONE, {"x": "zzz:1"}, 'x axis, lora, value "zzz:1": The merge has no LoRA "zzz". It has detail.safetensors.'),
        (ALIKE, {"x": "detail:1"}, '"detail" could be any of detail.safetensors, detail.pt: write the whole name'),
        (ONE, {"x": "detail"}, 'x axis, lora, value "detail": "detail" has no ratio. Write NAME:RATIO'),
        (ONE, {"x": "detail:50%"}, '"detail:50%" has no ratio; 50% is written 0.5. Write NAME:RATIO'),
        (ONE, {"x": "/loras/:1"}, '"/loras/:1" has no ratio'),
        (ONE, {"x": "detail.safetensors:much"}, '"much" is no ratio of the LoRA detail.safetensors'),
        (ONE, {"x": "detail:0-1(-0.5)"}, '"0-1(-0.5)" never reaches its end'),
        (ONE, {"x": "1e999"}, 'value "inf": The ratio of a LoRA must be a finite number'),
        (ONE, {"x": ","}, "its values hold nothing; give NAME:RATIO or"),
        (TWO, {"x": "detail:1", "y": "detail.safetensors:0"}, "both set LoRA detail.safetensors: lora and lora"),
        (TWO, {"x": "detail:1, Old style v1.5:1", "y": "detail:0"}, "both set LoRA detail.safetensors"),
        (ONE, {"x": "1", "y": "detail:0"}, "The x and the y axis both set LoRA detail.safetensors"),
    ],
)
def test_what_is_refused(loras: Sequence[LoraSource], texts: dict[str, str], message: str) -> None:
    with pytest.raises(ElementalError) as refused:
        list(plotted(loras, **texts).cells())
    assert message in str(refused.value)


def test_the_legend_names_the_loras_that_do_not_vary() -> None:
    assert "LoRA detail 0.8, text encoders 0.4   LoRA Old style v1.5 0.3" in describe_setting(setting(TWO))
    varied = plotted(TWO, x="detail:0").x.sets(setting(TWO).recipe)
    assert "LoRA Old style" in describe_setting(setting(TWO), varied=varied)
    assert "LoRA detail" not in describe_setting(setting(TWO), varied=varied)


@pytest.fixture
def mixed(base: Setting, tmp_path: Path) -> Setting:
    """Start from a merge with two LoRAs, which have a tensor in common."""
    files = {
        "detail": with_name(f"lora_unet_{ATTENTION}q", lora((8, 8))),
        "style": {
            **with_name(f"lora_unet_{ATTENTION}q", lora((8, 8))),
            **with_name(f"lora_unet_{ATTENTION}k", lora((8, 8))),
        },
    }
    paths = [save(tmp_path / f"{name}.safetensors", tensors) for name, tensors in files.items()]
    loras = tuple(LoraSource(model_source(path), 0.8) for path in paths)
    return replace(base, recipe=replace(base.recipe, loras=loras))


def test_each_cell_is_the_file_of_a_merge_with_its_ratios(fake: FakeHost, mixed: Setting, tmp_path: Path) -> None:
    made = plot(fake, mixed, ("lora", "detail:0, detail:0.5"), ("lora", "style:0, style:-1"))
    folder = tmp_path / "run"
    result = run(fake, made, folder)
    (plain,) = make_images(fake, mixed.request, mixed.recipe)
    for x, detail in enumerate((0.0, 0.5)):
        for y, style in enumerate((0.0, -1.0)):
            loras = [
                replace(lora, ratio=ratio) for lora, ratio in zip(mixed.recipe.loras, (detail, style), strict=True)
            ]
            out = tmp_path / f"{x}{y}.safetensors"
            merge_to_file(replace(mixed.recipe, loras=tuple(loras)), out, with_hashes=False)
            (wanted,) = make_images(fake, mixed.request, model_source(out))
            cell = read_image(folder / "cells" / f"x{x:02}-y{y:02}.png")
            assert cell.tobytes() == wanted.image.tobytes() != plain.image.tobytes()
    assert str(tmp_path) not in json.dumps(read_texts(result.products[0]))
    grid = result.products[0].read_bytes()
    (folder / "cells" / "x01-y01.png").unlink()
    result.products[0].unlink()
    again = resume(fake, folder)
    assert (again.made, again.products[0].read_bytes()) == (1, grid)


def test_a_cell_can_be_without_the_only_lora(fake: FakeHost, mixed: Setting, tmp_path: Path) -> None:
    """A alone at the ratio 0 is A, and no mistake."""
    a = mixed.recipe.model_a
    alone = replace(mixed, recipe=MergeRecipe(a, a, alpha=0, loras=mixed.recipe.loras[:1]))
    run(fake, plot(fake, alone, ("lora", "0, 1")), tmp_path / "run")
    first, second = (read_image(tmp_path / "run" / "cells" / f"x0{x}-y00.png").tobytes() for x in (0, 1))
    (of_a,) = make_images(fake, mixed.request, a)
    assert first == of_a.image.tobytes() != second


def test_ratios_that_are_alike_are_said_before(fake: FakeHost, mixed: Setting) -> None:
    with pytest.raises(ElementalError, match="x axis, lora: its values make no difference"):
        estimate_plot(plot(fake, mixed, ("lora", "detail:1, detail:1:1")))
