"""The cosine modes: their formulas on a few numbers, and what is measured in whole models and kept in recipes."""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import elemental
from elemental import Controls, MergeMode, MergeRecipe, ModelSource, RecipeError, Stopped, VaeChoice
from elemental.cli.main import main
from elemental.hosts.base import CheckpointRef
from elemental.images.files import read_texts
from elemental.merge import model_survey
from elemental.merge.files.hashes import CACHE_VARIABLE
from elemental.merge.files.metadata import recipe_from_metadata
from elemental.merge.files.open_models import OpenModels
from elemental.merge.measuring import with_measured_numbers
from elemental.merge.plan_summary import describe_plan
from elemental.modes.base import Operands, Ratios, Whole
from elemental.modes.column_cosines import find_bounds, find_cosines
from elemental.recipe.numbers import complete_numbers
from elemental.runs.axes.base import Setting
from elemental.session import merge_jobs
from elemental.session.form import MergeForm
from elemental.session.merge_preview import Previewer
from elemental.session.save_names import suggest_name
from elemental.session.session import session_of
from elemental.workflows import make_images

from .conftest import save
from .fake_host import FakeHost
from .merging import assert_merged, only, same_bits, save_all, some_elements, whole
from .mode_formulas import bounds_of
from .plotting import REQUEST, ended, load, plot, run
from .test_live import fake_model, state

COSINES = (MergeMode.COSINE_A, MergeMode.COSINE_B)
LONG, SHORT = [3.0, 4.0], [0.4, 0.3]
BOUNDS = {"lo": 0.0, "hi": 0.8}


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    return save_all(tmp_path, [some_elements(whole(seed)) for seed in (1, 2)])


def recipe_of(paths: Sequence[Path], mode: MergeMode = MergeMode.COSINE_A, spec: str = "", **parts: Any) -> MergeRecipe:
    a, b = map(elemental.model_source, paths)
    return MergeRecipe(a, b, mode=mode, rules=elemental.parse_rules(spec), **{"alpha": 0.3, **parts})


class Passes:
    """Counts the passes over whole models."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, *arguments: Any) -> Mapping[str, float]:
        self.count += 1
        return SURVEY(*arguments)


SURVEY = model_survey.survey_models


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Passes:
    counted = Passes()
    monkeypatch.setattr(model_survey, "survey_models", counted)
    return counted


# Formulas, by numbers that one can check in one's head


def mixed(mode: MergeMode, a: Tensor, b: Tensor, alpha: float, **bounds: float) -> list[float]:
    """Compute a mode on a tensor."""
    flat = Operands(a.reshape(-1).clone(), b.reshape(-1).clone(), a.reshape(-1))
    ratios = Ratios(alpha, 0.0, complete_numbers(mode, {**BOUNDS, **bounds}))
    assert mode.record.survey
    found = mode.record.survey(lambda: iter([flat]), ratios, tuple(a.shape))
    return [float(number) for number in mode.record.compute(flat, ratios, Whole(tuple(a.shape), 0, found))]


def columns(*numbers: Sequence[float]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64).T.contiguous()


def test_each_column_keeps_as_much_of_a_as_it_is_like_b() -> None:
    # cosines 1 and 0; of unit columns m = 1/2, so c = 3/4 and 1/4, k = 3/4 / 0.8 - 0.3 and 1/4 / 0.8 - 0.3
    a, b = columns([1, 0], [1, 0]), columns([3, 0], [0, 5])
    k, other = 0.75 / 0.8 - 0.3, 0.25 / 0.8 - 0.3
    assert mixed(MergeMode.COSINE_A, a, b, 0.3) == pytest.approx([k + 3 * (1 - k), other, 0, 5 * (1 - other)])
    assert mixed(MergeMode.COSINE_A, a, b, -0.3) == mixed(MergeMode.COSINE_A, a, b, 0.3)
    # with their lengths, m = 3 / (sqrt(2) sqrt(34))
    m = 3 / math.sqrt(68)
    k, other = (1 + m) / 2 / 0.8 - 0.3, m / 2 / 0.8 - 0.3
    assert mixed(MergeMode.COSINE_B, a, b, 0.3) == pytest.approx(
        [k + 3 * (1 - k), max(other, 0), 0, 5 - 5 * max(other, 0)]
    )
    assert mixed(MergeMode.COSINE_B, a, b, -0.3)[0] == pytest.approx(1)  # k is at most 1


def test_the_ends_are_exact_where_a_column_is_one_of_them() -> None:
    a, b = columns([0.1, 0.7], [0.3, -0.2]), columns([0.2, 1.4], [0.1, 0.9])
    for mode in COSINES:
        assert mixed(mode, a, b, 0.0, lo=-1, hi=-0.9) == a.reshape(-1).tolist()
        assert mixed(mode, a, b, 3.0) == b.reshape(-1).tolist()


@pytest.mark.parametrize("shape", [(2,), (2, 1), (2, 1, 1, 1)])
@pytest.mark.parametrize("mode", COSINES)
def test_a_bias_is_one_column(mode: MergeMode, shape: tuple[int, ...]) -> None:
    a, b = (torch.tensor(numbers, dtype=torch.float64).view(shape) for numbers in (LONG, SHORT))
    # s = m = (1.2 + 1.2) / (5 * 0.5) = 0.96, k = 0.96 / 1.2 - 0.3 = 0.5
    assert mixed(mode, a, b, 0.3, lo=0.0, hi=1.0) == pytest.approx(
        [0.34 * y + 0.66 * x for x, y in zip(LONG, SHORT, strict=True)]
    )


@pytest.mark.parametrize("mode", COSINES)
def test_one_number_is_a_column_that_is_alike_or_opposite(mode: MergeMode) -> None:
    two, eight = torch.tensor(2.0).double(), torch.tensor(8.0).double()
    assert mixed(mode, two, eight, 0.5) == pytest.approx([0.75 * 2 + 0.25 * 8])  # (1 - 0) / 0.8 - 0.5
    assert mixed(mode, two, -eight, 0.5) == [-8]


@pytest.mark.parametrize("mode", COSINES)
def test_what_has_no_direction_is_like_nothing(mode: MergeMode) -> None:
    a, b = columns([1, 2], [0, 0], [3, 1]), columns([2, 4], [5, 6], [0, 0])
    cosines = find_cosines(lambda: iter([flat(a, b)]), a.shape, unit=mode is MergeMode.COSINE_A)
    assert cosines.of_columns.tolist() == [1, 0, 0]
    wanted = 1 / 2 if mode is MergeMode.COSINE_A else 10 / math.sqrt((5 + 10) * (20 + 61))
    assert cosines.of_all == pytest.approx(wanted)
    zeros = find_cosines(lambda: iter([flat(a, 0 * b)]), a.shape, unit=mode is MergeMode.COSINE_A)
    assert (zeros.of_columns.tolist(), zeros.of_all) == ([0, 0, 0], 0)
    assert mixed(mode, a, 0 * b, 0.0, lo=-0.5, hi=0.5) == pytest.approx((a / 2).reshape(-1).tolist())


def flat(a: Tensor, b: Tensor) -> Operands:
    return Operands(a.reshape(-1), b.reshape(-1), a.reshape(-1))


@pytest.mark.parametrize("mode", COSINES)
@pytest.mark.parametrize("hi", [0.96, 0.5])
def test_bounds_without_room_between_them_are_a_step(mode: MergeMode, hi: float) -> None:
    a, b = (torch.tensor(numbers, dtype=torch.float64) for numbers in (LONG, SHORT))
    assert mixed(mode, a, b, 0.25, lo=0.97, hi=hi) == SHORT
    assert mixed(mode, a, b, 0.25, lo=0.95, hi=min(hi, 0.95)) == pytest.approx(
        [0.25 * y + 0.75 * x for x, y in zip(LONG, SHORT, strict=True)]
    )
    assert mixed(mode, a, a, 0.25, lo=1.0, hi=1.0) == pytest.approx(LONG)


@pytest.mark.parametrize("shape", [(1,), (1000,), (7, 5), (300, 6, 3, 3), (1, 9), (64, 1)])
def test_sums_are_the_same_whatever_the_threads(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(1)
    a, b = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(find_cosines(lambda: iter([flat(a, b)]), shape, unit=False))
    finally:
        torch.set_num_threads(before)
    assert all(same_bits(one.of_columns, found[0].of_columns) and one.of_all == found[0].of_all for one in found)
    exact = torch.nn.functional.cosine_similarity(a, b, dim=0, eps=0).reshape(-1)
    assert torch.allclose(found[0].of_columns, exact, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("count", [1, 2, 3, 50, 99, 100, 101, 102, 150, 201, 1234])
@pytest.mark.parametrize("digits", [1, 9])
def test_bounds_are_within_the_percentiles(count: int, digits: int) -> None:
    numbers = np.random.default_rng(count).uniform(-1, 1, count).round(digits)
    left = numbers[numbers >= np.percentile(numbers, 1, method="midpoint")]
    left = left[left <= np.percentile(left, 99, method="midpoint")]
    spoilt = array("d", [math.nan, *numbers, math.inf])
    assert find_bounds(spoilt) == {"lo": left.min(), "hi": left.max()}


# What is measured, when, and where it is kept


@pytest.mark.parametrize("mode", COSINES)
def test_a_merged_file_has_what_was_measured(tmp_path: Path, paths: list[Path], mode: MergeMode) -> None:
    out = elemental.merge_to_file(recipe_of(paths, mode), tmp_path / "out.safetensors").path
    kept = elemental.read_recipe(out)
    assert kept.numbers == pytest.approx(bounds_of(mode.value, [load_file(path) for path in paths]), abs=1e-12)
    assert list(kept.numbers) == ["lo", "hi"]
    assert not kept.unmeasured


@pytest.mark.parametrize("mode", COSINES)
def test_a_repeated_recipe_measures_nothing_and_gives_the_same_bytes(
    tmp_path: Path, paths: list[Path], mode: MergeMode, passes: Passes, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = elemental.merge_to_file(recipe_of(paths, mode), tmp_path / "first.safetensors").path
    assert passes.count == 1
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "another"))
    again = replace(
        elemental.read_recipe(first), model_a=elemental.model_source(paths[0]), model_b=elemental.model_source(paths[1])
    )
    second = elemental.merge_to_file(again, tmp_path / "second.safetensors").path
    assert (passes.count, first.read_bytes() == second.read_bytes()) == (1, True)
    # another machine measures the same, of these files
    third = elemental.merge_to_file(recipe_of(paths, mode), tmp_path / "third.safetensors").path
    assert (passes.count, first.read_bytes() == third.read_bytes()) == (2, True)


@pytest.mark.parametrize("mode", COSINES)
def test_a_live_merge_a_file_and_an_image_have_the_same(
    tmp_path: Path, paths: list[Path], mode: MergeMode, passes: Passes
) -> None:
    model, ruled = fake_model(paths[0]), recipe_of(paths, mode, "OUT03-OUT05:attn2:0.6")
    with elemental.live_merge(model) as merging:
        merging.apply(recipe_of(paths, mode))
        written = merging.apply(ruled)
        assert {tensor.name.block for tensor in written.plan.tensors} == {"OUT03", "OUT04", "OUT05"}
        assert merging.is_intact()
        live = state(model)
    saved = elemental.merge_to_file(ruled, tmp_path / "saved.safetensors")
    from_file = state(fake_model(saved.path))
    assert all(same_bits(live[key], numbers) for key, numbers in from_file.items())
    host = FakeHost(load)
    (image,) = make_images(host, REQUEST, ruled)
    drawn = recipe_from_metadata(image.fields, name="the image")
    plotted = plot(host, Setting(recipe_of(paths, mode), REQUEST), ("alpha", "0.1, 0.3"))
    files = run(host, plotted, tmp_path / "plots").files
    cells = [read_texts(files.cell(cell.name)) for cell in plotted.cells()]
    found = [recipe_from_metadata(cell, name="the cell").numbers for cell in cells]
    assert found == [written.plan.recipe.numbers] * 2
    assert drawn.numbers == written.plan.recipe.numbers == saved.plan.recipe.numbers
    assert passes.count == 1


def test_numbers_that_are_given_are_not_measured(tmp_path: Path, paths: list[Path], passes: Passes) -> None:
    given = recipe_of(paths, numbers={"lo": -0.25, "hi": 0.5})
    with OpenModels() as models:
        assert with_measured_numbers(given, models) is given
        assert not passes.count
        one = with_measured_numbers(recipe_of(paths, numbers={"hi": 0.5}), models)
        both = with_measured_numbers(recipe_of(paths), models)
    assert (one.numbers["hi"], one.numbers["lo"], passes.count) == (0.5, both.numbers["lo"], 1)
    result = elemental.merge_to_file(given, tmp_path / "out.safetensors")
    assert result.plan.recipe == given


def test_measured_numbers_are_remembered_until_a_file_changes(
    tmp_path: Path, paths: list[Path], passes: Passes
) -> None:
    out = tmp_path / "out.safetensors"
    numbers = [
        elemental.merge_to_file(recipe_of(paths, mode), out, overwrite=True).plan.recipe.numbers
        for mode in (*COSINES, *COSINES)
    ]
    assert (numbers[:2], passes.count) == (numbers[2:], 2)
    save_file(some_elements(whole(3)), paths[1])
    changed = elemental.merge_to_file(recipe_of(paths), out, overwrite=True).plan.recipe.numbers
    assert (changed != numbers[0], passes.count) == (True, 3)


@pytest.mark.parametrize("damage", ["{}", "[", '{"numbers": {"lo": 0}}', '{"numbers": {"lo": 0, "hi": 7}}'])
def test_a_damaged_entry_of_the_cache_is_measured_anew(
    tmp_path: Path, paths: list[Path], passes: Passes, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    out = tmp_path / "out.safetensors"
    first = elemental.merge_to_file(recipe_of(paths), out).plan.recipe
    (entry,) = (tmp_path / "cache" / "measured").iterdir()
    entry.write_text(damage, encoding="utf-8")
    assert elemental.merge_to_file(recipe_of(paths), out, overwrite=True).plan.recipe == first
    assert passes.count == 2


def test_without_a_cache_a_live_merge_measures_once(
    tmp_path: Path, paths: list[Path], passes: Passes, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "file" / "no folder"))
    with elemental.live_merge(fake_model(paths[0])) as merging:
        for alpha in (0.1, 0.2, 0.1):
            merging.apply(recipe_of(paths, alpha=alpha))
    assert passes.count == 1


def test_the_vae_is_not_merged(tmp_path: Path, paths: list[Path]) -> None:
    spec, out = "VAE::0.5", tmp_path / "out.safetensors"
    a, b = map(load_file, paths)
    for vae, kept in ((VaeChoice.MERGED, a), (VaeChoice.A, a), (VaeChoice.B, b)):
        result = load_file(elemental.merge_to_file(recipe_of(paths, vae=vae), out, overwrite=True).path)
        assert all(same_bits(tensor, kept[key]) for key, tensor in only(result, "first_stage_model.").items())
    plan = elemental.plan_merge(recipe_of(paths, spec=spec))
    assert "sets elements of the VAE, which is not merged (cosine-a)." in " ".join(w.message for w in plan.warnings)
    assert {t.note for t in plan.tensors if t.name.key.startswith("first_stage_model.")} == {
        "the VAE, which cosine-a keeps from A"
    }


def test_only_what_both_have_counts(tmp_path: Path) -> None:
    """A text encoder that B lacks, EMA weights, and a VAE are looked at by nobody."""
    states = [some_elements(whole(1)), only(some_elements(whole(2)), "model.", "first_stage_model.")]
    paths = save_all(tmp_path, states)
    result = elemental.merge_to_file(recipe_of(paths), tmp_path / "out.safetensors")
    assert result.plan.recipe.numbers == pytest.approx(bounds_of("cosine-a", states), abs=1e-12)
    assert_merged(load_file(result.path), states, mode=MergeMode.COSINE_A)


def test_models_that_are_alike_stay_as_they_are(tmp_path: Path) -> None:
    states = [some_elements(whole(1))] * 2
    paths = save_all(tmp_path, states)
    for mode in COSINES:
        result = elemental.merge_to_file(recipe_of(paths, mode), tmp_path / "out.safetensors", overwrite=True)
        assert result.plan.recipe.numbers == {"lo": 1, "hi": 1}
        assert all(same_bits(tensor, states[0][key]) for key, tensor in load_file(result.path).items())


def test_a_recipe_in_the_place_of_a_model_keeps_its_own(tmp_path: Path, paths: list[Path], passes: Passes) -> None:
    inner = recipe_of(paths, MergeMode.COSINE_B)
    outer = recipe_of(paths, MergeMode.COSINE_A)
    chained = replace(outer, model_a=ModelSource("inner.json", recipe=inner))
    merged = elemental.merge_to_file(chained, tmp_path / "out.safetensors")
    kept = elemental.read_recipe(merged.path)
    assert passes.count == 2
    assert kept.model_a.recipe is not None
    assert not kept.unmeasured
    assert not kept.model_a.recipe.unmeasured
    plain = replace(chained, mode=MergeMode.WEIGHT_SUM)  # whose own mode needs nothing
    model = fake_model(paths[0])
    with elemental.live_merge(model) as merging:
        merging.apply(plain)
        live = state(model)
    saved = elemental.merge_to_file(plain, tmp_path / "plain.safetensors")
    assert all(same_bits(live[key], numbers) for key, numbers in state(fake_model(saved.path)).items())
    assert passes.count == 2


def test_a_plan_measures_nothing_and_says_so(
    paths: list[Path], passes: Passes, capsys: pytest.CaptureFixture[str]
) -> None:
    said = "lo and hi: not known yet; a pass over the models measures them before the merge"
    assert said in list(describe_plan(elemental.plan_merge(recipe_of(paths))))
    assert main(["plan", *map(str, paths), "--mode", "cosine-b", "--alpha", "0.3"]) == 0
    assert said in capsys.readouterr().out
    refs = [CheckpointRef(path.name, path) for path in paths]
    form = MergeForm("a.safetensors", "b.safetensors", mode="cosine-a")
    report = Previewer(lambda: refs).look(form).report
    assert "lo and hi are measured before the merge, by a pass over the models." in report
    given = Previewer(lambda: refs).look(replace(form, numbers="lo=0, hi=0.5")).report
    assert "are measured" not in given
    assert not passes.count


@pytest.mark.usefixtures("paths")
def test_the_tab_saves_what_it_has_merged(tmp_path: Path, passes: Passes) -> None:
    session = session_of(FakeHost(load, output=tmp_path / "images", models=tmp_path))
    form = MergeForm("a.safetensors", "b.safetensors", mode="cosine-a", spec="OUT03-OUT05:attn2:0.6")
    ended(merge_jobs.merge(session, form, REQUEST, print_change=False))
    live = session.model.live().recipe
    ended(merge_jobs.save(session, form, "saved", overwrite=False))
    ended(merge_jobs.restore(session))
    assert live is not None
    assert not live.unmeasured
    assert elemental.read_recipe(tmp_path / "saved.safetensors").numbers == live.numbers
    assert passes.count == 1


def test_numbers_of_other_models_and_modes_are_not_taken(
    tmp_path: Path, paths: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    out, other = tmp_path / "out.safetensors", tmp_path / "other.safetensors"
    elemental.merge_to_file(recipe_of(paths), out)
    third = save(tmp_path / "third.safetensors", some_elements(whole(3)))
    kept = elemental.read_recipe(out)
    assert kept.with_mode(MergeMode.COSINE_B).numbers == {}
    assert kept.with_mode(MergeMode.COSINE_A).numbers == kept.numbers
    assert main(["merge", "--recipe", str(out), str(paths[0]), str(third), "-o", str(other)]) == 0
    assert "lo and hi of the recipe were measured in its own models: they are measured anew" in capsys.readouterr().err
    states = [load_file(paths[0]), load_file(third)]
    assert elemental.read_recipe(other).numbers == pytest.approx(bounds_of("cosine-a", states), abs=1e-12)
    options = ["--number", "lo=0.25", "--number", "hi=0.75", "-o", str(other), "--overwrite"]
    assert main(["merge", "--recipe", str(out), str(paths[0]), str(third), *options]) == 0
    assert elemental.read_recipe(other).numbers == {"lo": 0.25, "hi": 0.75}


def test_a_suggested_name_has_no_measured_numbers(tmp_path: Path, paths: list[Path]) -> None:
    elemental.merge_to_file(recipe_of(paths), tmp_path / "out.safetensors")
    assert suggest_name(elemental.read_recipe(tmp_path / "out.safetensors"), tmp_path) == "a-b-cosine-a-0.3"


def test_nothing_to_measure_is_refused(tmp_path: Path) -> None:
    states = [some_elements(whole(1)), {key: tensor * math.nan for key, tensor in some_elements(whole(2)).items()}]
    with pytest.raises(RecipeError, match=r"cosine-a finds nothing to measure: .* --number lo=\.\.\. --number hi="):
        elemental.merge_to_file(recipe_of(save_all(tmp_path, states)), tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_measuring_shows_how_far_it_is_and_stops(tmp_path: Path, paths: list[Path]) -> None:
    begun: list[int] = []
    done: list[int] = []
    stages: list[str] = []
    controls = Controls(begin=begun.append, advance=done.append, stage=stages.append)
    elemental.merge_to_file(recipe_of(paths), tmp_path / "out.safetensors", controls=controls)
    assert (len(begun), sum(done)) == (2, sum(begun))
    assert stages[:2] == ["measuring", "merging"]
    with pytest.raises(Stopped):
        elemental.merge_to_file(
            recipe_of(paths, MergeMode.COSINE_B),
            tmp_path / "stopped.safetensors",
            controls=Controls(should_stop=lambda: True),
        )
    assert not (tmp_path / "stopped.safetensors").exists()
