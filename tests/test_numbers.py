"""The numbers that modes have besides ratios: in recipes, on the command line, in the form, along an axis."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import elemental
from elemental import MergeMode, MergeRecipe, ModelSource, RecipeError, model_source
from elemental.cli.main import main
from elemental.hosts.base import CheckpointRef
from elemental.images.image_request import ImageRequest
from elemental.merge.files.metadata import name_recipe
from elemental.merge.plan_summary import describe_plan
from elemental.recipe.numbers import Numbers, complete_numbers, format_numbers, parse_numbers
from elemental.recipe.recipe import recipe_from_dict
from elemental.runs.axes.base import Setting
from elemental.runs.axes.catalogue import AXES
from elemental.runs.axes.values import parse_axis
from elemental.runs.estimate import estimate_plot
from elemental.runs.grid_contents import describe_setting
from elemental.runs.xy_plot import XYPlot
from elemental.session.command_line import command_of
from elemental.session.form import MergeForm, finder, form_from_recipe, numbers_for

from .merging import same_bits
from .test_axes import CONTEXT
from .test_live import fake_model, state

DARE = MergeRecipe(ModelSource("a"), ModelSource("b"), mode=MergeMode.DARE, numbers={"p": 0.9})
MODES = [mode for mode in MergeMode if mode.record.numbers]


# Recipes


@pytest.mark.parametrize("mode", MODES)
def test_what_is_not_given_has_its_default_and_is_written_down(mode: MergeMode) -> None:
    c = ModelSource("c") if mode.uses_c else None
    beta = 0.5 if mode.uses_beta else None
    recipe = MergeRecipe(ModelSource("a"), ModelSource("b"), c, mode=mode, beta=beta)
    defaults = {number.name: number.default for number in mode.record.numbers if number.default is not None}
    assert recipe.numbers == defaults
    assert recipe.to_dict().get("numbers", {}) == recipe.numbers
    again = recipe_from_dict(json.loads(json.dumps(recipe.to_dict())))
    assert (again, hash(again.numbers)) == (recipe, hash(recipe.numbers))


def test_numbers_of_a_recipe_are_kept_and_cannot_be_changed() -> None:
    assert DARE.numbers == {"p": 0.9, "seed": 0}
    assert type(DARE.to_dict()["numbers"]["seed"]) is int
    with pytest.raises(TypeError):
        DARE.numbers["p"] = 0.1  # type: ignore[index]
    assert "numbers" not in MergeRecipe(ModelSource("a"), ModelSource("b")).to_dict()


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ({"q": 1}, 'dare has no number "q". Its numbers: p (0 to 0.999), seed (whole, 0 to 4294967295).'),
        ({"sead": 1}, 'did you mean "seed"?'),
        ({"p": 1}, "dare takes p (0 to 0.999), not p 1. Its numbers: p (0"),
        ({"p": -0.1}, "not p -0.1"),
        ({"p": float("nan")}, "not p nan"),
        ({"p": float("inf")}, "not p inf"),
        ({"p": True}, "not p True"),
        ({"p": "0.5"}, "not p 0.5"),
        ({"seed": 0.5}, "dare takes seed (whole, 0 to 4294967295), not seed 0.5"),
        ({"seed": 10**400}, "not seed 1000"),
    ],
)
def test_numbers_that_a_mode_cannot_take_are_refused(numbers: dict[str, float], words: str) -> None:
    with pytest.raises(RecipeError) as caught:
        replace(DARE, numbers=numbers)
    assert words in str(caught.value)
    with pytest.raises(RecipeError):
        recipe_from_dict({**DARE.to_dict(), "numbers": numbers})


@pytest.mark.parametrize("numbers", [7, "p", [1], {"p": None}, {"p": [1]}])
def test_numbers_that_are_none_are_refused(numbers: object) -> None:
    with pytest.raises(RecipeError):
        recipe_from_dict({**DARE.to_dict(), "numbers": numbers})


def test_a_mode_without_numbers_says_which_have_some() -> None:
    with pytest.raises(
        RecipeError,
        match=r"weight-sum has no number \"p\". Modes with numbers: crossover, cosine-a, cosine-b, extract, dare",
    ):
        replace(DARE, mode=MergeMode.WEIGHT_SUM)
    assert DARE.with_mode(MergeMode.WEIGHT_SUM).numbers == {}
    assert DARE.with_mode(MergeMode.WEIGHT_SUM).with_mode(MergeMode.DARE).numbers == {"p": 0.5, "seed": 0}


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("p=0.9, seed=3", {"p": 0.9, "seed": 3}),
        (" p = .9\nseed=3;", {"p": 0.9, "seed": 3}),
        ("\u200bp\uff1d0.9", {"p": 0.9}),
        ("", {}),
    ],
)
def test_numbers_are_read(text: str, numbers: dict[str, float]) -> None:
    assert parse_numbers(text) == numbers
    assert parse_numbers(format_numbers(Numbers(numbers))) == numbers


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0.9", '"0.9" is no name with its number, such as p=0.9'),
        ("p=0.9 seed", '"seed" is no name'),
        ("p=90%", 'p: "90%" is no number; 90% is written 0.9'),
        ("p=1, p=2", '"p" stands there twice'),
        ("p=0=1", "is no name"),
    ],
)
def test_a_text_of_no_numbers_is_refused(text: str, words: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_numbers(text)
    assert words in str(caught.value)


# What a merge depends on


def test_a_live_merge_follows_the_numbers(tmp_path: Path, models: dict[str, Path]) -> None:
    sources = (elemental.model_source(models["a"]), elemental.model_source(models["b"]))
    rules = elemental.parse_rules("BASE::0")
    model = fake_model(models["a"])
    with elemental.live_merge(model) as merging:
        held = []
        for numbers in ({}, {"seed": 1}, {"p": 0.9}, {}):
            recipe = MergeRecipe(*sources, mode=MergeMode.DARE, alpha=0.5, rules=rules, numbers=numbers)
            written = merging.apply(recipe)
            assert {tensor.name.block for tensor in written.plan.tensors if tensor.changed} >= {"IN00", "OUT11"}
            saved = elemental.merge_to_file(recipe, tmp_path / "saved.safetensors", overwrite=True).path
            held.append(state(model))
            assert all(same_bits(held[-1][key], tensor) for key, tensor in state(fake_model(saved)).items())
        key = "model.diffusion_model.out.2.weight"
        assert not any(same_bits(one[key], held[0][key]) for one in held[1:3])
        assert same_bits(held[3][key], held[0][key])
        assert not merging.apply(recipe).plan.tensors
        ruled = merging.apply(replace(recipe, rules=elemental.parse_rules("BASE::0, OUT03::0.1")))
        assert {tensor.name.block for tensor in ruled.plan.tensors} == {"OUT03"}


def test_what_is_said_of_a_recipe_names_its_numbers(models: dict[str, Path]) -> None:
    assert "alpha 0.5; p=0.9, seed=0" in name_recipe(DARE)
    a, b = (elemental.model_source(models[name]) for name in "ab")
    recipe = MergeRecipe(a, b, mode=MergeMode.DARE)
    assert "numbers: p=0.5, seed=0" in list(describe_plan(elemental.plan_merge(recipe)))
    assert "p 0.9   seed 0" in describe_setting(Setting(DARE, ImageRequest("a cat")))


# The command line


def test_the_command_line_sets_numbers(
    tmp_path: Path, models: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    a, b, out, other = (
        str(path) for path in (models["a"], models["b"], tmp_path / "x.safetensors", tmp_path / "y.safetensors")
    )
    assert main(["merge", a, b, "--mode", "dare", "--number", "p=0.9", "--number", "seed=7", "-o", out]) == 0
    assert elemental.read_recipe(Path(out)).numbers == {"p": 0.9, "seed": 7}
    assert main(["merge", "--recipe", out, "--number=p=0.25", "-o", other]) == 0
    assert elemental.read_recipe(Path(other)).numbers == {"p": 0.25, "seed": 7}
    assert main(["plan", "--recipe", out, "--mode", "slerp"]) == 0
    assert "slerp has no use for the recipe's numbers" in "".join(capsys.readouterr())
    for wrong in ("p", "p=2", "q=1"):
        assert main(["plan", a, b, "--mode", "dare", "--number", wrong]) != 0
    said = capsys.readouterr().err
    assert '--number: "p" is no name with its number' in said
    assert "dare takes p (0 to 0.999), not p 2" in said


@pytest.mark.parametrize("mode", MODES)
def test_the_help_explains_numbers(mode: MergeMode, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["merge", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert mode.value in said
    for number in mode.record.numbers:
        assert f"--number {number.name}=..." in said
        assert number.meaning in said


# The form


@pytest.fixture
def refs(models: dict[str, Path]) -> list[CheckpointRef]:
    return [CheckpointRef(f"{name}.safetensors", path) for name, path in models.items()]


def test_the_form_has_the_numbers(refs: list[CheckpointRef]) -> None:
    form = MergeForm("a.safetensors", "b.safetensors", mode="dare", numbers="seed=3")
    recipe = form.recipe(finder(refs))
    assert recipe.numbers == {"p": 0.5, "seed": 3}
    assert form_from_recipe(recipe, refs).numbers == "p=0.5, seed=3"
    assert form_from_recipe(recipe, refs).recipe(finder(refs)) == recipe
    assert replace(form, mode="weight-sum").recipe(finder(refs)).numbers == {}
    with pytest.raises(RecipeError, match="numbers: dare takes p"):
        replace(form, numbers="p=3").recipe(finder(refs))


def test_the_numbers_of_another_mode_are_passed_over() -> None:
    assert numbers_for(MergeMode.DARE, "seed=3") == "p=0.5, seed=3"
    assert numbers_for(MergeMode.DARE, "seed=x") == numbers_for(MergeMode.DARE, "p=7") == "p=0.5, seed=0"
    assert numbers_for(MergeMode.WEIGHT_SUM, "seed=3") == ""


def test_the_command_to_copy_has_the_numbers(refs: list[CheckpointRef]) -> None:
    class Finds:
        def recipe(self, form: MergeForm) -> MergeRecipe:
            return form.recipe(finder(refs))

    form = MergeForm("a.safetensors", "b.safetensors", mode="dare", numbers="p=0.9")
    assert "--number=p=0.9 --number=seed=0" in command_of(Finds(), form)  # type: ignore[arg-type]


# Axes


@pytest.mark.parametrize("name", sorted({number.name for mode in MODES for number in mode.record.numbers}))
def test_each_number_has_an_axis(name: str) -> None:
    mode = next(mode for mode in MODES if name in {number.name for number in mode.record.numbers})
    c, beta = ModelSource("c") if mode.uses_c else None, 0.5 if mode.uses_beta else None
    recipe = MergeRecipe(ModelSource("a"), ModelSource("b"), c, mode=mode, beta=beta)
    axis = AXES[f"number-{name}"]
    values = parse_axis("x", axis.name, axis.example, CONTEXT)
    plotted = [cell.recipe.numbers[name] for cell in XYPlot(Setting(recipe, ImageRequest("a cat")), values).cells()]
    assert plotted == [float(text) for text in axis.example.split(",")]


def test_two_numbers_make_a_grid() -> None:
    x, y = parse_axis("x", "number-p", "0-0.5[3]", CONTEXT), parse_axis("y", "number-seed", "1-2", CONTEXT)
    cells = list(XYPlot(Setting(DARE, ImageRequest("a cat")), x, y).cells())
    assert [tuple(cell.recipe.numbers.values()) for cell in cells] == [
        (0, 1), (0.25, 1), (0.5, 1), (0, 2), (0.25, 2), (0.5, 2),
    ]  # fmt: skip
    assert [value.label for value in x.values] == ["p 0", "p 0.25", "p 0.5"]
    plain = Setting(DARE.with_mode(MergeMode.WEIGHT_SUM), ImageRequest("a cat"))
    with pytest.raises(RecipeError, match="weight-sum has no number"):
        list(XYPlot(plain, x).cells())


def test_values_of_a_number_make_a_difference(models: dict[str, Path]) -> None:
    recipe = MergeRecipe(model_source(models["a"]), model_source(models["b"]), mode=MergeMode.DARE)
    values = parse_axis("x", "number-p", "0.1, 0.9", CONTEXT)
    assert estimate_plot(XYPlot(Setting(recipe, ImageRequest("a cat")), values)).merges == 2


def test_equal_numbers_are_equal_whoever_wrote_them() -> None:
    assert complete_numbers(MergeMode.DARE, {"seed": 3.0}) == complete_numbers(MergeMode.DARE, {"seed": 3, "p": 0.5})
