"""Merge modes against the functions of sd-mecha and mergekit, on tensors in float64, where these mean the same.

Not compared: sd-mecha's cosine-a, which takes the columns' cosines alone; its della, whose ranks are those of the whole
tensor; DELLA's scale, which is the chance of each number in the paper and a norm of the whole tensor in mergekit; and
mergekit's slerp, which mixes raw vectors, so that lengths come out otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from elemental import MergeMode
from elemental.modes.base import Operands, Ratios, Whole
from elemental.modes.della import _chances
from elemental.recipe.numbers import complete_numbers

SHAPES = [(8, 12), (6, 4, 3, 3), (40,)]
ALPHAS = [0.3, 0.85]
OF_FLOAT32 = {"rtol": 1e-6, "atol": 1e-6}
"""Where the other side computes in float32, whatever it is given."""


@pytest.fixture(scope="module")
def mecha() -> Any:
    reason = "sd-mecha is not installed, the second opinion on modes"
    return pytest.importorskip("sd_mecha.extensions.builtin.merge_methods", reason=reason)


@pytest.fixture(scope="module")
def kit() -> Any:
    """Give what is compared of mergekit; other parts of it need transformers."""
    reason = "mergekit is not installed, the second opinion on karcher, della and model-stock"
    names = ("sparsify", "merge_methods.karcher", "merge_methods.model_stock")
    sparsify, karcher, stock = (pytest.importorskip(f"mergekit.{name}", reason=reason) for name in names)
    return SimpleNamespace(sparsify=sparsify, karcher=karcher, stock=stock)


def models(shape: Sequence[int], seed: int = 19) -> list[Tensor]:
    """Make three models with an ancestor in common."""
    generator = torch.Generator().manual_seed(seed)
    made = [torch.randn(*shape, generator=generator, dtype=torch.float64) for _ in range(4)]
    return [made[0] + 0.4 * own for own in made[1:]]


def ours(
    mode: MergeMode,
    tensors: Sequence[Tensor],
    alpha: float,
    beta: float = 0.0,
    numbers: Mapping[str, float] | None = None,
) -> Tensor:
    """Compute a mode of whole tensors, before anything is rounded."""
    record, shape = mode.record, tuple(tensors[0].shape)
    ratios = Ratios(alpha, beta, complete_numbers(mode, numbers or {}))

    def operands() -> Operands:
        a, b, c = [tensor.reshape(-1).clone() for tensor in (*tensors, tensors[0])[:3]]
        return Operands(a, b, c)

    def read() -> Iterator[Operands]:
        yield operands()

    found = record.survey(read, ratios, shape) if record.survey else ()
    return record.compute(operands(), ratios, Whole(shape, 0, found, "key")).view(shape)


def assert_same(one: Tensor, other: Tensor, *, rtol: float = 1e-12, atol: float = 1e-13) -> None:
    torch.testing.assert_close(one, other.double().reshape(one.shape), rtol=rtol, atol=atol)


def number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("alpha", ALPHAS)
def test_slerp(mecha: Any, shape: Sequence[int], alpha: float) -> None:
    a, b, _ = models(shape)
    assert_same(ours(MergeMode.SLERP, [a, b], alpha), mecha.slerp.__wrapped__(a, b, number(alpha)))


@pytest.mark.parametrize("alpha", ALPHAS)
def test_train_difference(mecha: Any, alpha: float) -> None:
    a, b, c = models((8, 12))
    a[0, :2], b[0], c[0, 1:3] = b[0, :2], b[0].clone(), b[0, 1:3]  # also where models are equal
    theirs = a + mecha.train_difference_mask.__wrapped__(a, b, c, number(alpha)) * (b - c)
    assert_same(ours(MergeMode.TRAIN_DIFFERENCE, [a, b, c], alpha), theirs)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_add_perpendicular(mecha: Any, shape: Sequence[int]) -> None:
    a, b, c = models(shape)
    flat = [tensor.reshape(-1) for tensor in (a - c, b - c)]  # torch.linalg.norm is of all numbers only up to two axes
    theirs = a + 0.7 * mecha.linear.perpendicular_component.__wrapped__(*flat).reshape(a.shape)
    assert_same(ours(MergeMode.ADD_PERPENDICULAR, [a, b, c], 0.7), theirs)


def distinct(count: int, seed: int) -> Tensor:
    """Make numbers whose sizes differ, and which float32 holds exactly."""
    generator = torch.Generator().manual_seed(seed)
    sign = torch.randint(0, 2, (count,), generator=generator) * 2 - 1
    return (torch.randperm(count, generator=generator) + 1).double() * sign / 1024


@pytest.mark.parametrize("kept", [1, 40, 133, 200])
def test_ties(mecha: Any, kept: int) -> None:
    a, one, other = (distinct(200, seed) for seed in range(3))
    # They keep one number more than the share says: all from the last one that is dropped on. So a share is asked for
    # that is one and a half numbers less; the sign of the sum is elected, as in the paper, which they call vote_sgn.
    share = (kept - 1.5) / 200
    theirs = a + 0.6 * mecha.ties_sum.__wrapped__(one, other, k=share, vote_sgn=True)
    assert_same(ours(MergeMode.TIES, [a, a + one, a + other], 0.6, numbers={"k": kept / 200}), theirs)


@pytest.mark.parametrize("share", [0.25, 0.9])
def test_dare_but_for_what_is_drawn(mecha: Any, share: float) -> None:
    a, b, _ = models((60, 50))
    theirs = mecha.ties.dropout.__wrapped__(b - a, probability=share, seed=3)
    found = ours(MergeMode.DARE, [a, b], 1.0, numbers={"p": share, "seed": 3}) - a
    both = (theirs != 0) & (found.abs() > 1e-12)
    assert both.sum() > 10
    for drawn in (theirs != 0, found.abs() > 1e-12):
        assert drawn.double().mean().item() == pytest.approx(1 - share, abs=0.03)
    assert_same(found[both], theirs[both], atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_geometric_median(mecha: Any, shape: Sequence[int]) -> None:
    tensors = models(shape)
    # rounds, which end when the sum of distances no longer moves in float64: half of the digits
    theirs = mecha.geometric_median.__wrapped__(*tensors, eps=1e-12, maxiter=500, ftol=0.0)
    assert_same(ours(MergeMode.GEOMETRIC_MEDIAN, tensors, 1.0), theirs, rtol=1e-6, atol=1e-7)


def test_model_stock(mecha: Any) -> None:
    a, b, c = (tensor.reshape(-1) for tensor in models((8, 12)))  # as a whole: they take the cosine along the last axis
    theirs = a + 0.8 * mecha.model_stock.__wrapped__(b - a, c - a)
    assert_same(ours(MergeMode.MODEL_STOCK, [a, b, c], 0.8), theirs)


def test_model_stock_of_mergekit(kit: Any) -> None:
    a, b, c = models((8, 12))
    # only where the cosine is not below 0: the mode stays at A then; they go away from both models
    entries = [SimpleNamespace(tensor=tensor) for tensor in (a, b, c)]
    group = SimpleNamespace(base=entries[0], non_base=entries[1:])
    assert_same(ours(MergeMode.MODEL_STOCK, [a, b, c], 1.0), kit.stock.model_stock_merge_method.merge_group(group))


@pytest.mark.parametrize("shape", [(16, 10), (9, 7), (6, 5, 4, 3), (40,)], ids=str)
@pytest.mark.parametrize(("alpha", "tilt"), [(0.33, 0.0), (0.71, 0.0), (0.4, 0.3)])
def test_crossover(mecha: Any, shape: Sequence[int], alpha: float, tilt: float) -> None:
    a, b, _ = models(shape)
    theirs = mecha.crossover.__wrapped__(a, b, alpha=alpha, tilt=tilt)
    assert_same(ours(MergeMode.CROSSOVER, [a, b], alpha, numbers={"t": tilt}), theirs, **OF_FLOAT32)


@pytest.mark.parametrize(("alpha", "beta"), [(0.5, 0.25), (0.25, 0.0), (0.75, 0.5), (0.5, 0.875)])
def test_tensor_sum(mecha: Any, alpha: float, beta: float) -> None:
    a, b, _ = models((8, 12))  # shares of whole rows: others are rounded there and cut here, as in supermerger
    theirs = mecha.slicing.tensor_sum.__wrapped__(a.clone(), b.clone(), width=alpha, offset=beta)
    assert_same(ours(MergeMode.TENSOR_SUM, [a, b], alpha, beta), theirs, rtol=0, atol=0)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_cosine_b_between_0_and_1(mecha: Any, alpha: float) -> None:
    a, b, _ = models((8, 12))
    b[:, 0] = -a[:, 0]
    theirs = mecha.add_cosine_b.__wrapped__(a, b, number(alpha))  # the bounds are not measured there
    assert_same(ours(MergeMode.COSINE_B, [a, b], alpha, numbers={"lo": 0, "hi": 1}), theirs)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_karcher(kit: Any, shape: Sequence[int]) -> None:
    tensors = models(shape)
    found = ours(MergeMode.KARCHER, tensors, 1.0)
    theirs = kit.karcher.karcher_merge_tensors(tensors, [1 / 3] * 3, max_iter=200, tol=1e-12)
    assert_same(found, theirs, rtol=1e-9, atol=1e-10)
    assert_same(found, kit.karcher.karcher_merge_tensors(tensors, [1 / 3] * 3), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("shape", [(8, 12), (40,)], ids=str)
def test_chances_of_della(kit: Any, shape: Sequence[int], monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Tensor] = []

    def note(chances: Tensor) -> Tensor:
        drawn.append(chances)
        return torch.ones_like(chances)

    monkeypatch.setattr(kit.sparsify.torch, "bernoulli", note)
    a, b, _ = models(shape)
    kit.sparsify.della_magprune(b - a, density=0.3, epsilon=0.2)
    change = (b - a).reshape(-1, shape[-1])
    assert_same(1 - _chances(change, share=0.7, spread=0.2), drawn[0], **OF_FLOAT32)
