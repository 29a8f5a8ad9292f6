"""Networks whose weights were made in inference mode, differentiated by these weights or by those before them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from elemental.hosts.webui.differentiable_weights import (
    Originals,
    copied_for_the_way_back,
    differentiable,
    without_inference_mode,
)


@pytest.fixture
def network() -> Any:
    """Give a network with a weight in two places, and a buffer that is used as indices."""
    with torch.inference_mode():
        made: Any = nn.Module()
        made.table = nn.Embedding(3, 2)
        made.wrapper = nn.Module()
        made.wrapper.weight = made.table.weight
        made.register_buffer("places", torch.tensor([0, 2, 2]))
        made.requires_grad_(True)
    return made


def test_gradients_go_to_weights_in_inference_mode(network: Any) -> None:
    weight = network.table.weight
    with differentiable([network], Originals()) as addresses:
        assert network.table.weight is network.wrapper.weight is not weight
        assert network.table.weight.data_ptr() == weight.data_ptr()  # nothing is copied
        assert addresses == {weight.data_ptr()}
        network.table(network.places).sum().backward()
    assert network.table.weight is network.wrapper.weight is weight
    assert torch.equal(weight.grad, torch.tensor([[1.0, 1.0], [0.0, 0.0], [2.0, 2.0]]))
    assert network.places.is_inference()


def test_gradients_go_to_the_weights_that_were_there_at_first(network: Any) -> None:
    originals, first = Originals(), network.table.weight
    originals.remember([network])
    with torch.inference_mode():
        network.table.weight = nn.Parameter((first + 1).half(), requires_grad=False)
    with differentiable([network], originals):
        rows = network.table(network.places)
        assert rows.dtype is torch.float16
        assert torch.equal(rows[0], (first[0] + 1).half())
        rows.sum().backward()
    assert (first.grad.dtype, float(first.grad.sum())) == (torch.float32, 6.0)


def test_all_is_put_back_after_an_error_and_nothing_is_done_without_gradients(network: Any) -> None:
    before = network.table.weight
    with pytest.raises(KeyError), differentiable([network], Originals()):
        raise KeyError("x")
    assert network.table.weight is before
    with torch.no_grad(), differentiable([network], Originals()) as addresses:
        assert (network.table.weight is before, addresses) == (True, frozenset())


def test_code_may_write_over_what_the_way_back_needs() -> None:
    weight = torch.ones(2, requires_grad=True)

    def compute(given: Tensor) -> Tensor:
        squared = given * given * weight
        given += 1
        return squared

    given = torch.full((2,), 3.0, requires_grad=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        compute(given.clone()).sum().backward()  # type: ignore[no-untyped-call]
    with copied_for_the_way_back(frozenset({weight.data_ptr()})):
        compute(given.clone()).sum().backward()  # type: ignore[no-untyped-call]
    assert torch.equal(given.grad, torch.full((2,), 6.0))  # type: ignore[arg-type]


class _Decorated(nn.Module):
    @torch.inference_mode()
    @torch.no_grad()
    def forward(self, given: Tensor) -> Tensor:
        return given * 2


def test_decorators_that_end_gradients_are_left_out() -> None:
    module, given = _Decorated(), torch.ones(1, requires_grad=True)
    assert not module(given).requires_grad
    with without_inference_mode([module]):
        assert module(given).requires_grad
    assert not module(given).requires_grad
    assert "forward" not in vars(module)
