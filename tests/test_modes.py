"""Merge modes beyond sums: what their ends are, what they refuse, and that only their models and ratios count.

``tests/test_merge.py`` compares each mode with its formula, on whole checkpoints and in every number format.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import elemental
from elemental import MergeMode, MergeRecipe, ModelSource, RecipeError
from elemental.cli.main import DONE, WRONG_USAGE, main
from elemental.effects.derivatives import movement_by_alpha
from elemental.effects.directions import from_model_a
from elemental.merge import computation
from elemental.merge import execute as executor
from elemental.merge.files.metadata import name_recipe, recipe_from_metadata
from elemental.merge.files.open_models import OpenModels
from elemental.merge.measuring import with_measured_numbers
from elemental.merge.pieces import Span, cut
from elemental.merge.plan_summary import describe_models
from elemental.modes.base import Needs, Operands, Ratios, Whole
from elemental.modes.largest_share import find_least_kept
from elemental.modes.random_numbers import draw
from elemental.recipe.block_weights import parse_block_weights
from elemental.recipe.numbers import complete_numbers
from elemental.session.form import MergeForm
from elemental.ui.form_values import visible_fields

from .merging import RATIOS, merge, only, same_bits, save_all, some_elements, whole
from .mode_formulas import bounds_of, crossover, geometric_median, karcher
from .reference import float64_formula
from .test_live import fake_model, state

KEY = "model.diffusion_model.out.2.bias"
COSINES = (MergeMode.COSINE_A, MergeMode.COSINE_B)
SUMMED = (
    MergeMode.SLERP,
    MergeMode.ADD_PERPENDICULAR,
    MergeMode.MODEL_STOCK,
    MergeMode.GEOMETRIC_MEDIAN,
    MergeMode.KARCHER,
    *COSINES,
)
NEVER_A = (MergeMode.MULTIPLY_DIFFERENCE, MergeMode.EXTRACT, MergeMode.SELF, *COSINES)
JUMPS = {MergeMode.TENSOR_SUM: "rows", MergeMode.CROSSOVER: "frequencies unless t is above 0"}
ONE = Ratios(1.0, 0.0)
DRAWN = [1076613900, 2569539394]
"""The first two numbers that are drawn, by any version of numpy on any computer."""
OTHER_MODES = [mode for mode in MergeMode if not mode.record.weighted_sum]


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    return save_all(tmp_path, [some_elements(whole(seed)) for seed in (1, 2, 3)])


def models_of(mode: MergeMode, paths: list[Path]) -> list[Path]:
    return paths[: 3 if mode.uses_c else 2]


def recipe_of(mode: MergeMode, paths: list[Path], alpha: float, spec: str = "") -> MergeRecipe:
    a, b, *c = map(elemental.model_source, models_of(mode, paths))
    rules = elemental.parse_rules(spec)
    return MergeRecipe(a, b, c[0] if c else None, mode=mode, alpha=alpha, beta=RATIOS[mode][1], rules=rules)


def of_one(mode: MergeMode, *numbers: Sequence[float], alpha: float, beta: float = 0.0, **more: float) -> list[float]:
    """Compute a mode on a tensor of a few numbers."""
    tensors = [torch.tensor(column, dtype=torch.float64) for column in numbers]
    a, b, c = (*tensors, *tensors[:1] * (3 - len(tensors)))
    operands = Operands(a, b, c)
    ratios = Ratios(alpha, beta, complete_numbers(mode, more))
    shape = (len(numbers[0]),)
    found = mode.record.survey(lambda: iter([operands]), ratios, shape) if mode.record.survey else ()
    known = Whole(shape, 0, found, KEY)
    return [float(number) for number in mode.record.compute(operands, ratios, known)]


# Formulas, by numbers that one can check in one's head


def test_slerp_turns_and_keeps_the_length() -> None:
    half = of_one(MergeMode.SLERP, [2, 0], [0, 4], alpha=0.5)
    assert half == pytest.approx([3 * math.sqrt(0.5)] * 2)
    third = of_one(MergeMode.SLERP, [1, 0], [0, 1], alpha=1 / 3)
    assert third == pytest.approx([math.cos(math.pi / 6), math.sin(math.pi / 6)])


@pytest.mark.parametrize("b", [[3.0, 6.0], [-1.0, -2.0], [0.0, 0.0]])
def test_slerp_is_a_line_where_there_is_no_angle(b: list[float]) -> None:
    assert of_one(MergeMode.SLERP, [1, 2], b, alpha=0.25) == pytest.approx([0.75 + b[0] / 4, 1.5 + b[1] / 4])


def test_train_difference_adds_where_b_differs() -> None:
    # |B - A| = 1, 2, 0 and |B - C| = 3, 2, 0
    assert of_one(MergeMode.TRAIN_DIFFERENCE, [1, 1, 1], [2, 3, 1], [-1, 1, 1], alpha=0.5) == pytest.approx(
        [1 + 0.9 * 3 / 4, 1 + 0.9 * 2 / 2, 1]
    )


def test_add_perpendicular_adds_what_a_has_not() -> None:
    assert of_one(MergeMode.ADD_PERPENDICULAR, [3, 0], [5, 7], [1, 0], alpha=0.5) == pytest.approx([3, 3.5])
    assert of_one(MergeMode.ADD_PERPENDICULAR, [1, 0], [5, 7], [1, 0], alpha=0.5) == pytest.approx([3, 3.5])


def test_similarity_mixes_what_is_alike() -> None:
    # alike: a mix of both; opposite: add difference; 0 in both: as many parts as beta says
    assert of_one(
        MergeMode.SIMILARITY_ADD_DIFFERENCE, [2, 2, 0], [2, -2, 0], [1, 1, 4], alpha=0.5, beta=1
    ) == pytest.approx([2, 2 + 0.5 * -3, 0])
    assert of_one(MergeMode.SIMILARITY_ADD_DIFFERENCE, [0], [0], [4], alpha=0.5, beta=0.5) == pytest.approx([-1])


def test_multiply_difference_is_a_geometric_mean() -> None:
    assert of_one(MergeMode.MULTIPLY_DIFFERENCE, [5, 5], [10, -8], [1, 1], alpha=0.5, beta=0) == pytest.approx([7, 7])
    assert of_one(MergeMode.MULTIPLY_DIFFERENCE, [5], [-8], [1], alpha=0.5, beta=1) == pytest.approx([-5])


@pytest.mark.parametrize(
    ("alpha", "beta", "from_b"), [(0.5, 0.25, "0110"), (0.25, 0.0, "1000"), (0.5, 0.75, "1001"), (1.0, 0.5, "1111")]
)
def test_tensor_sum_takes_rows(alpha: float, beta: float, from_b: str) -> None:
    result = of_one(MergeMode.TENSOR_SUM, [0, 0, 0, 0], [1, 1, 1, 1], alpha=alpha, beta=beta)
    assert result == [float(digit) for digit in from_b]


def test_smooth_add_leaves_out_what_single_numbers_have() -> None:
    assert of_one(MergeMode.SMOOTH_ADD, [1] * 9, [5] * 9, [3] * 9, alpha=0.5) == pytest.approx([2] * 9)
    assert of_one(MergeMode.SMOOTH_ADD, [1] * 9, [3] * 4 + [90] + [3] * 4, [3] * 9, alpha=0.5) == pytest.approx([1] * 9)


SHAPES = [(1,), (2,), (40,), (1, 7), (30, 2), (23, 19), (9, 4, 1, 1), (1, 5, 3, 3), (14, 6, 3, 3), (5, 4, 3)]


@pytest.mark.parametrize("shape", SHAPES)
def test_smooth_add_has_the_bits_of_scipy(shape: tuple[int, ...]) -> None:
    filters = pytest.importorskip("scipy.ndimage")
    if platform.machine().lower() not in ("x86_64", "amd64"):
        pytest.skip("on other processors scipy is compiled to round products and sums together")
    change = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    wanted = torch.from_numpy(filters.gaussian_filter(filters.median_filter(change.numpy(), size=3), sigma=1))
    for size in (1, 1 << 18):  # pieces as small as they may be, and one
        for span in cut(shape, MergeMode.SMOOTH_ADD.record, size):
            piece = change.reshape(-1)[span.first : span.last]
            known = Whole(shape, span.first, (), KEY)
            zeros = torch.zeros_like(piece)
            found = MergeMode.SMOOTH_ADD.record.compute(Operands(zeros, piece.clone(), zeros.clone()), ONE, known)
            assert same_bits(found[span.own], wanted.reshape(-1)[span.start : span.stop])


def test_crossover_takes_high_frequencies_from_b() -> None:
    def crossed(alpha: float, **tilt: float) -> list[float]:
        # B has more of the frequencies 0, 1/2 and 1
        return of_one(MergeMode.CROSSOVER, [0, 0, 0, 0], [8 + 4 + 1, 8 - 1, 8 - 4 + 1, 8 - 1], alpha=alpha, **tilt)

    assert crossed(0.4) == pytest.approx([1, -1, 1, -1])
    assert crossed(0.5) == pytest.approx([1, -1, 1, -1])  # what is on the cut is A's
    assert crossed(0.6) == pytest.approx([4 + 1, -1, -4 + 1, -1])
    assert crossed(1.0) == pytest.approx([13, 7, 5, 7])
    # shares of 0, 1/2 and 1; of 0, 1/4 and 3/4; of alpha alone
    assert crossed(0.5, t=0.5) == pytest.approx([2 + 1, -1, -2 + 1, -1])
    assert crossed(0.375, t=0.5) == pytest.approx([1 + 0.75, -0.75, -1 + 0.75, -0.75])
    assert crossed(0.25, t=1) == pytest.approx([13 / 4, 7 / 4, 5 / 4, 7 / 4])


@pytest.mark.parametrize("shape", [(), (1,), (2,), (1, 7), (30, 2), (23, 19), (9, 4, 1, 1), (1, 5, 3, 3), (7, 6, 3, 3)])
@pytest.mark.parametrize("tilt", [0.0, 0.01, 0.3, 1.0])
def test_crossover_transforms_all_axes(shape: tuple[int, ...], tilt: float, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(1)
    a, b = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in "ab")

    def crossed(alpha: float) -> Tensor:
        operands = Operands(a.reshape(-1), b.reshape(-1), a.reshape(-1))
        ratios = Ratios(alpha, 0.0, {"t": tilt})
        mode = MergeMode.CROSSOVER.record
        assert mode.survey
        found = mode.survey(lambda: (part(operands, span) for span in cut(shape, mode, 20)), ratios, shape)
        wholes = ((span, Whole(shape, span.start, found)) for span in cut(shape, mode, 30))
        return torch.cat([mode.compute(part(operands, span), ratios, whole) for span, whole in wholes])

    for alpha in (0.1, 0.5, 0.77):
        exact = crossover(a, b, alpha, tilt).reshape(-1)
        assert torch.allclose(crossed(alpha), exact, rtol=0, atol=1e-14)
        with monkeypatch.context() as patch:
            one_block = crossed(alpha)
            patch.setattr("elemental.modes.crossover._BLOCK", 8)
            assert same_bits(crossed(alpha), one_block)


def part(operands: Operands, span: Span) -> Operands:
    """Give a part of each operand that can be written to."""
    a, b, c = (tensor[span.start : span.stop].clone() for tensor in operands[:3])
    return Operands(a, b, c)


def test_crossover_moves_smoothly_along_a_slope(paths: list[Path]) -> None:
    recipe = replace(recipe_of(MergeMode.CROSSOVER, paths, 0.3), numbers={"t": 0.5})
    a, b = (load_file(path) for path in paths[:2])
    with OpenModels() as models:
        movement = movement_by_alpha(models.planner(recipe).plan(recipe), models.open(recipe))
        for key in sorted(movement.keys)[::20]:
            below, above = (crossover(a[key].double(), b[key].double(), 0.3 + step, 0.5) for step in (-1e-5, 1e-5))
            expected = ((above - below) / 2e-5).reshape(-1)
            found = movement.read(key, 0, len(expected)).double()
            assert torch.allclose(found, expected, rtol=1e-2, atol=1e-2 * float(expected.abs().max())), key
            assert torch.equal(movement.read(key, 1, len(expected)).double(), found[1:])


def test_extract_adds_what_is_alike_or_what_is_not() -> None:
    def extracted(b: list[float], c: list[float], beta: float) -> list[float]:
        return of_one(MergeMode.EXTRACT, [1, 1], b, c, alpha=0.25, beta=beta, g=1)

    assert extracted([3, 1], [2, 1], 0) == pytest.approx([1 + 0.75 * 2 + 0.25 * 1, 1])  # one direction
    assert extracted([3, 1], [2, 1], 1) == pytest.approx([1, 1])
    assert extracted([3, 1], [0, 1], 0) == pytest.approx([1, 1])  # opposite ones
    assert extracted([3, 1], [0, 1], 1) == pytest.approx([1 + 0.75 * 2 - 0.25 * 1, 1])
    assert extracted([3, 1], [1, 3], 0) == pytest.approx([1 + 0.75 * 2 / 2, 1 + 0.25 * 2 / 2])  # a right angle
    assert extracted([1, 1], [1, 3], 0) == pytest.approx([1, 1 + 0.25 * 2 / 2])  # B has learned nothing


def test_ties_adds_where_signs_agree() -> None:
    found = of_one(MergeMode.TIES, [1] * 4, [5, 2, -1, 1.5], [-2, 3, -1, 1], alpha=0.5, k=0.5)
    assert found == pytest.approx([1 + 0.5 * 4, 1 + 0.5 * 2, 1 - 0.5 * 2, 1])
    assert of_one(MergeMode.TIES, [0] * 3, [1, 2, 4], [-1, 2, 8], alpha=1, k=1) == pytest.approx([0, 2, 6])


@pytest.mark.parametrize("share", [0.001, 0.2, 0.5, 0.77, 1.0])
def test_the_kept_share_is_exact(share: float) -> None:
    generator = torch.Generator().manual_seed(1)
    tensors = [torch.randn(1000, generator=generator).half().double().abs(), torch.zeros(1000, dtype=torch.float64)]
    tensors += [tensors[0].clone().fill_(0.25), tensors[0] * (tensors[0] > 1)]
    pieces = [[tensor[start : start + 300] for tensor in tensors] for start in range(0, 1000, 300)]
    least = find_least_kept(lambda: iter(pieces), share=share)
    assert least == [float(tensor.sort(descending=True).values[round(share * 1000) - 1]) for tensor in tensors]


def test_model_stock_goes_as_far_as_both_agree() -> None:
    assert of_one(MergeMode.MODEL_STOCK, [1, 1], [3, 1], [1, 3], alpha=1) == pytest.approx([1, 1])
    assert of_one(MergeMode.MODEL_STOCK, [1, 1], [3, 2], [3, 2], alpha=0.5) == pytest.approx([2, 1.5])
    assert of_one(MergeMode.MODEL_STOCK, [1, 1], [3, 2], [-1, 0], alpha=0.5) == pytest.approx([1, 1])
    # 60 degrees: s = 1/2, t = 2/3
    right = math.sqrt(3) / 2
    assert of_one(MergeMode.MODEL_STOCK, [0, 0], [1, 0], [0.5, right], alpha=1) == pytest.approx([0.5, right / 3])
    assert of_one(MergeMode.MODEL_STOCK, [1, 1], [1, 1], [4, 4], alpha=1) == pytest.approx([1, 1])


def test_the_geometric_median_is_near_to_all_three() -> None:
    def median(a: list[float], b: list[float], c: list[float], alpha: float = 1) -> list[float]:
        return of_one(MergeMode.GEOMETRIC_MEDIAN, a, b, c, alpha=alpha)

    height = math.sqrt(3) / 2
    assert median([0, 0], [2, 0], [1, 2 * height]) == pytest.approx([1, 2 / 3 * height])  # of 60 degrees: the middle
    assert median([0, 0], [2, 0], [1, 2 * height], 0.5) == pytest.approx([0.5, height / 3])
    # a right angle: all are seen 120 degrees apart from there
    seen = (3 - math.sqrt(3)) / 6
    assert median([0, 0], [1, 0], [0, 1]) == pytest.approx([seen, seen])
    # 120 degrees and more: the corner there, whichever it is
    corner, one, other = [0.0, 0.0], [1.0, 0.0], [-0.5, height]
    assert median(corner, one, other) == pytest.approx(corner, abs=1e-7)
    wide, left, right = [1.0, 1.0], [5.0, 0.9], [-7.0, 0.9]
    assert [median(wide, left, right), median(left, wide, right), median(left, right, wide)] == [wide] * 3
    assert [median([a], [b], [c]) for a, b, c in ((1, 2, 9), (2, 9, 1), (9, 1, 2))] == [[2]] * 3
    # two that are equal outvote the third
    same, far = [1.0, 2.0], [7.0, 7.0]
    assert [median(same, same, far), median(far, same, same), median(same, far, same)] == [same] * 3
    assert median(same, same, same) == same


def test_the_median_of_a_needle_keeps_its_digits() -> None:
    generator = torch.Generator().manual_seed(1)
    a, b, c = (torch.randn(50, generator=generator, dtype=torch.float64) for _ in "abc")
    for near in (1e-3, 1e-5, 1e-7):
        models = [a, a + near * b, c]
        found = of_one(MergeMode.GEOMETRIC_MEDIAN, *(model.tolist() for model in models), alpha=1)
        exact = geometric_median(models[0], models[1], models[2], 1.0)
        lost = 2**-48 * float(c.abs().max())  # what the rounds that it is compared with leave
        assert float((torch.tensor(found, dtype=torch.float64) - exact).abs().max()) < lost


def test_karcher_is_a_mean_on_the_sphere() -> None:
    def mean(a: list[float], b: list[float], c: list[float], alpha: float = 1) -> list[float]:
        return of_one(MergeMode.KARCHER, a, b, c, alpha=alpha)

    def turned(degrees: float, length: float) -> list[float]:
        return [length * math.cos(math.radians(degrees)), length * math.sin(math.radians(degrees))]

    assert mean(turned(0, 1), turned(90, 2), turned(30, 6)) == pytest.approx(turned(40, 3))
    assert mean(turned(0, 1), turned(90, 2), turned(30, 6), 0.5) == pytest.approx(
        [(one + other) / 2 for one, other in zip(turned(0, 1), turned(40, 3), strict=True)]
    )
    assert mean([3, 0, 0], [0, 3, 0], [0, 0, 3]) == pytest.approx([math.sqrt(3)] * 3)
    assert mean([3, 4], [3, 4], [3, 4]) == pytest.approx([3, 4])
    # a tensor of zeros has no direction, but a length
    assert mean([3, 0], [0, 0], [0, 3]) == pytest.approx([math.sqrt(2)] * 2)
    assert mean([0, 0], [0, 0], [0, 6]) == pytest.approx([0, 2])
    assert mean([0, 0], [0, 0], [0, 0]) == [0, 0]
    # opposite ones: there is no mean of two, that of three is on the side of two
    assert mean([3, 0], [0, 0], [-3, 0]) == pytest.approx([2, 0])
    assert mean([3], [-6], [3]) == pytest.approx([4])


@pytest.mark.parametrize("apart", [1e-8, 1e-4, 0.1, 3.0])
def test_karcher_keeps_its_digits(apart: float) -> None:
    generator = torch.Generator().manual_seed(1)
    ancestor, *others = (torch.randn(500, generator=generator, dtype=torch.float64) for _ in range(4))
    a, b, c = (ancestor + apart * other for other in others)
    found = of_one(MergeMode.KARCHER, a.tolist(), b.tolist(), c.tolist(), alpha=1)
    exact = karcher(a, b, c, 1.0)
    assert float((torch.tensor(found, dtype=torch.float64) - exact).abs().max()) < 1e-15 * float(exact.abs().max())


@pytest.mark.parametrize("mode", [*SUMMED, MergeMode.CROSSOVER])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_number_that_is_not_finite_spoils_no_other_by_a_sum(mode: MergeMode, bad: float) -> None:
    models: list[list[float]] = [[1, 2, 3], [2, bad, 4], [3, 5, 4]]
    bounds = {"lo": 0.2, "hi": 0.9} if mode in COSINES else {}
    found = of_one(mode, *models[: 3 if mode.uses_c else 2], alpha=0.5, **bounds)
    assert [math.isfinite(number) for number in found] == [True, False, True]


# Numbers that are drawn


def test_dare_drops_a_share_and_keeps_the_mean() -> None:
    for share in (0.0, 0.5, 0.9, 0.999):
        found = torch.tensor(of_one(MergeMode.DARE, [1.0] * 20_000, [3.0] * 20_000, alpha=0.5, p=share))
        dropped = found == 1
        assert float(dropped.float().mean()) == pytest.approx(share, abs=6 * math.sqrt(share * (1 - share) / 2e4))
        assert torch.allclose(found[~dropped], torch.tensor(1 + 1 / (1 - share)))


def test_della_rather_keeps_what_is_large() -> None:
    count = 4000
    small_first = [1.0 + place / count for place in range(count)]
    found = of_one(MergeMode.DELLA, [0.0] * count, small_first, alpha=1, p=0.5, e=0.4)
    kept = torch.tensor(found) != 0
    assert float(kept[: count // 4].float().mean()) == pytest.approx(0.2, abs=0.06)  # chances from 0.1 to 0.3
    assert float(kept[-count // 4 :].float().mean()) == pytest.approx(0.8, abs=0.06)
    largest = found[-1]
    assert largest in (0, pytest.approx(small_first[-1] / 0.9))
    assert float(torch.tensor(found).mean()) == pytest.approx(1.5, abs=0.15)
    without = [of_one(mode, [0.0] * 50, small_first[:50], alpha=1, **more) for mode, more in DARE_ALIKE.items()]
    assert without[0] == pytest.approx(without[1])


DARE_ALIKE: dict[MergeMode, dict[str, float]] = {MergeMode.DARE: {"p": 0.3}, MergeMode.DELLA: {"p": 0.3, "e": 0}}


def test_what_is_drawn_depends_on_seed_tensor_and_model_alone() -> None:
    plain = {"seed": 1, "key": "x", "role": "b"}
    whole_tensor = draw(0, 1000, **plain)  # type: ignore[arg-type]
    for start, count in ((0, 10), (1, 17), (7, 2), (8, 8), (513, 300)):
        assert draw(start, count, **plain).tolist() == whole_tensor[start : start + count].tolist()  # type: ignore[arg-type]
    for other in ({"seed": 2}, {"key": "y"}, {"role": "c"}):
        same = draw(0, 1000, **{**plain, **other}) == whole_tensor  # type: ignore[arg-type]
        assert same.sum() < 5
    assert whole_tensor[:2].tolist() == DRAWN


@pytest.mark.parametrize("mode", [MergeMode.DARE, MergeMode.DELLA])
def test_another_seed_gives_another_merge(tmp_path: Path, paths: list[Path], mode: MergeMode) -> None:
    one, other = (
        merge(paths[:2], tmp_path / "out.safetensors", mode=mode, numbers={"seed": seed, "p": 0.5}) for seed in (1, 2)
    )
    assert all(not same_bits(tensor, other[key]) for key, tensor in one.items() if tensor.numel() > 100)


@pytest.mark.parametrize("mode", [mode for mode in MergeMode if mode.record.needs is not Needs.NUMBER])
def test_one_number_that_is_not_finite_spreads_and_is_said(tmp_path: Path, mode: MergeMode) -> None:
    states = [some_elements(whole(seed)) for seed in (1, 2, 3)]
    key = "model.diffusion_model.input_blocks.1.1.proj_in.weight"
    states[1][key] = states[1][key].clone()
    states[1][key].view(-1)[3] = float("nan")
    merged = elemental.merge_to_file(recipe_of(mode, save_all(tmp_path, states), 0.3), tmp_path / "out.safetensors")
    assert [(role.value, name) for role, name in merged.not_finite] == [("b", key)]


def test_tensor_sum_changes_no_number(tmp_path: Path, paths: list[Path]) -> None:
    result = merge(paths[:2], tmp_path / "out.safetensors", mode=MergeMode.TENSOR_SUM)
    a, b = map(load_file, paths[:2])
    for key, tensor in only(result, "model.").items():
        from_either = (tensor.view(torch.int16) == a[key].view(torch.int16)) | (
            tensor.view(torch.int16) == b[key].view(torch.int16)
        )
        assert bool(from_either.all())


# What holds in each


@pytest.mark.parametrize("mode", OTHER_MODES)
def test_pieces_and_threads_change_nothing(
    tmp_path: Path, paths: list[Path], mode: MergeMode, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole_result = merge(models_of(mode, paths), tmp_path / "whole.safetensors", mode=mode)
    monkeypatch.setattr(executor, "_THREAD_BYTES", 1)
    threads = merge(models_of(mode, paths), tmp_path / "threads.safetensors", mode=mode)
    assert all(same_bits(tensor, threads[key]) for key, tensor in whole_result.items())
    monkeypatch.setattr(computation, "CPU_PIECE", 1000)
    pieces = merge(models_of(mode, paths), tmp_path / "pieces.safetensors", mode=mode)
    if mode not in SUMMED:
        assert all(same_bits(tensor, pieces[key]) for key, tensor in whole_result.items())
    else:  # other pieces add up otherwise, in the last digit of float64
        assert all(torch.allclose(tensor, pieces[key], atol=1e-6) for key, tensor in whole_result.items())


@pytest.mark.parametrize("mode", OTHER_MODES)
def test_the_live_merge_is_the_file_after_any_changes(tmp_path: Path, paths: list[Path], mode: MergeMode) -> None:
    model = fake_model(paths[0])
    first, last = recipe_of(mode, paths, 0.8), recipe_of(mode, paths, 0.3, "OUT03-OUT05:attn2:0.6\nBASE::0")
    before = state(model)
    with elemental.live_merge(model) as merging:
        for recipe in (first, recipe_of(mode, paths, 0.3), last):
            merging.apply(recipe)
        live = state(model)
    saved = elemental.merge_to_file(last, tmp_path / "saved.safetensors").path
    from_file = state(fake_model(saved))
    assert all(torch.equal(live[key], numbers) for key, numbers in from_file.items())
    assert all(torch.equal(numbers, before[key]) for key, numbers in state(model).items())


@pytest.mark.parametrize("mode", OTHER_MODES)
def test_a_ratio_of_0_is_model_a_unless_beta_counts(tmp_path: Path, paths: list[Path], mode: MergeMode) -> None:
    recipe = recipe_of(mode, paths, 0.0)
    if mode in NEVER_A:
        assert not elemental.plan_merge(recipe).is_model_a
        return
    assert elemental.plan_merge(recipe).is_model_a
    result = load_file(elemental.merge_to_file(recipe, tmp_path / "out.safetensors").path)
    assert all(same_bits(tensor, result[key]) for key, tensor in load_file(paths[0]).items())


@pytest.mark.parametrize("mode", [MergeMode.SLERP, MergeMode.TENSOR_SUM, MergeMode.CROSSOVER])
def test_a_ratio_of_1_is_model_b(tmp_path: Path, paths: list[Path], mode: MergeMode) -> None:
    result = load_file(elemental.merge_to_file(recipe_of(mode, paths, 1.0), tmp_path / "out.safetensors").path)
    b = load_file(paths[1])
    assert all(same_bits(tensor, b[key]) for key, tensor in only(result, "model.").items())


# What they refuse


BEYOND: list[dict[str, object]] = [
    {"alpha": 1.5},
    {"rules": elemental.parse_rules("OUT05::2")},
    {"block_alpha": parse_block_weights(",".join(["0"] * 25 + ["1.2"]))},
    {"beta": -0.1},
    {"rules": elemental.parse_rules("OUT05::0.5:2")},
]


@pytest.mark.parametrize(
    ("mode", "parts"),
    [(mode, parts) for mode in MergeMode if mode.record.limits for parts in BEYOND[: 5 if mode.uses_beta else 3]],
)
def test_a_ratio_beyond_the_limits_is_refused(mode: MergeMode, parts: dict[str, object]) -> None:
    c = ModelSource("c") if mode.uses_c else None
    second = {"beta": 0.5} if mode.uses_beta else {}
    with pytest.raises(RecipeError, match=f"{mode.value} takes ratios from 0 to 1, not "):
        MergeRecipe(ModelSource("a"), ModelSource("b"), c, mode=mode, **{**second, **parts})  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", OTHER_MODES)
def test_simplify_is_for_weighted_sums(paths: list[Path], mode: MergeMode) -> None:
    with pytest.raises(RecipeError, match=f"weighted sum of the models .*{mode.value} is none"):
        from_model_a(elemental.plan_merge(recipe_of(mode, paths, 0.3)))


@pytest.mark.parametrize("mode", OTHER_MODES)
@pytest.mark.parametrize("alpha", [0.0, 0.3])
def test_effects_move_tensors_by_the_derivative(paths: list[Path], mode: MergeMode, alpha: float) -> None:
    recipe, step = (
        recipe_of(mode, paths, alpha),
        2.0**-12 if mode in COSINES else 1e-5,
    )  # of one that is cut off, the same
    states = [load_file(path) for path in models_of(mode, paths)]
    bounds = bounds_of(mode.value, states)
    with OpenModels() as models:
        recipe = with_measured_numbers(recipe, models)
        plan = models.planner(recipe).plan(recipe)
        if mode in JUMPS:
            with pytest.raises(RecipeError, match=f"{mode.value} takes whole {JUMPS[mode]}"):
                movement_by_alpha(plan, models.open(recipe))
            return
        movement = movement_by_alpha(plan, models.open(recipe))
        assert len(movement.keys) > 100
        record = mode.record
        if record.limits or alpha in record.kinks:  # a power of alpha has no derivative at 0, nor has its size
            alpha = max(alpha, 2.0**-11)
        for key in sorted(movement.keys)[::7]:
            tensors = [state[key] for state in states]
            one, other = (
                float64_formula(mode.value, tensors, at, recipe.beta or 0.0, key, bounds)
                for at in (alpha - step, alpha + step)
            )
            count = one.numel()
            found = movement.read(key, 0, count)
            expected = ((other - one) / (2 * step)).reshape(-1)
            assert torch.allclose(found.double(), expected, rtol=1e-2, atol=1e-4 * float(expected.abs().max())), key
            assert torch.equal(movement.read(key, 1, count), found[1:])


def test_numbers_that_are_not_finite_are_kept_and_said(tmp_path: Path) -> None:
    states = [some_elements(whole(seed)) for seed in (1, 2)]
    key = "model.diffusion_model.out.2.bias"
    broken = states[1][key].clone()
    broken[0] = float("nan")
    found = save_all(tmp_path, [states[0], {**states[1], key: broken}])
    recipe = recipe_of(MergeMode.SLERP, found, 0.3)
    merged = elemental.merge_to_file(recipe, tmp_path / "out.safetensors")
    assert [(role.value, name) for role, name in merged.not_finite] == [("b", key)]
    result: Tensor = load_file(merged.path)[key]
    assert bool(result.isnan().any())


def test_the_guide_lists_each_mode_with_its_formula() -> None:
    guide = (Path(__file__).parents[1] / "docs" / "guide.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in guide.splitlines() if line.startswith("| `")]
    listed = {cells[0].strip("`"): cells[1] for cells in rows if len(cells) > 2}
    assert {mode.value: mode.formula for mode in MergeMode}.items() <= listed.items()


# One model


def test_self_multiplies_one_model(tmp_path: Path, paths: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.safetensors"
    words = ["merge", str(paths[0]), "--mode", "self", "--elemental", "OUT05:attn2:1.5"]
    assert main([*words, "-o", str(out)]) == DONE
    assert "warning" not in capsys.readouterr().err
    before, after = load_file(paths[0]), load_file(out)
    for key, tensor in before.items():
        ruled = "output_blocks.5." in key and "attn2" in key
        assert same_bits(after[key], (tensor.double() * 1.5).to(tensor.dtype) if ruled else tensor), key
    with elemental.Checkpoint(out) as checkpoint:
        again = recipe_from_metadata(checkpoint.metadata, name="out")
    assert again is not None
    assert (again.model_b, again.alpha) == (again.model_a, 1.0)
    assert name_recipe(again).startswith(f"self of {paths[0].stem}; alpha 1;")
    with pytest.raises(SystemExit, match=str(WRONG_USAGE)):
        main([*words[:2], str(paths[1]), *words[2:], "-o", str(out)])
    assert "self, a A, has one model, A" in capsys.readouterr().err


def test_self_needs_no_model_b_in_the_form(paths: list[Path]) -> None:
    form = MergeForm(model_a="a", mode="self", alpha=1.1)
    recipe = form.recipe(lambda _: elemental.model_source(paths[0]))
    assert recipe.has_one_model
    assert not visible_fields(MergeMode.SELF)["model_b"]
    assert list(describe_models(recipe)) == [f"A: {recipe.model_a.path}"]
