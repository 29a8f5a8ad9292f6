"""Lets networks be differentiated by parameters that cannot be saved for a way back, or that were replaced since.

Forge and its relatives make parameters in torch's inference mode, and put others in their places when they add LoRAs or
move a model. So while a network computes, each of its parameters is replaced by a tensor that has the numbers in use,
in the same memory, and whose gradient goes to the parameter that was there at first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

_DECORATED = "decorate_context"
"""The name of the function that torch's inference_mode and no_grad put around another."""


class Originals:
    """The parameters of networks as they were at first, by the module that they are in and their name there."""

    def __init__(self) -> None:
        self._parameters: dict[tuple[nn.Module, str], Tensor] = {}

    def remember(self, networks: Iterable[nn.Module]) -> None:
        """Remember the parameters of networks."""
        self._parameters = {(module, name): parameter for module, name, parameter in _floats(_modules(networks))}

    def find(self, module: nn.Module, name: str, parameter: Tensor) -> Tensor:
        """Give the parameter that was in a place at first; the one that is there now if none is known."""
        return self._parameters.get((module, name), parameter)


@contextmanager
def differentiable(networks: Iterable[nn.Module], originals: Originals) -> Iterator[frozenset[int]]:
    """Have networks compute with tensors whose gradients go to their parameters, within the ``with`` block.

    Their buffers can be kept for the way back, too. Without gradients, they compute with the parameters themselves.

    Args:
        networks: The networks.
        originals: Their parameters as they were at first, which get the gradients.

    Yields:
        The addresses of the weights in use.
    """
    modules = _modules(networks) if torch.is_grad_enabled() else []
    places = list(_floats(modules))
    buffers = [(module, dict(module._buffers)) for module in modules if module._buffers]
    try:
        for module, kept in buffers:
            plain = {name: _plain(each) for name, each in kept.items() if each is not None and each.is_inference()}
            module._buffers.update(plain)
        in_use: dict[int, Any] = {}  # a parameter may be in two modules
        for module, name, parameter in places:
            if id(parameter) not in in_use:
                original = originals.find(module, name, parameter)
                in_use[id(parameter)] = _InUse.apply(original, _plain(parameter))  # type: ignore[no-untyped-call]
            module._parameters[name] = in_use[id(parameter)]
        yield frozenset(parameter.data_ptr() for _, _, parameter in places)
    finally:
        for module, name, parameter in places:
            module._parameters[name] = parameter  # type: ignore[assignment]
        for module, kept in buffers:
            module._buffers.update(kept)


@contextmanager
def without_inference_mode(networks: Iterable[nn.Module]) -> Iterator[None]:
    """Have modules compute without torch's decorators that end gradients, which parts of Forge Neo's VAE have."""
    with ExitStack() as undo:
        for module in _modules(networks):
            plain = plain_forward(module)
            if plain is not None and "forward" not in vars(module):
                vars(module)["forward"] = plain
                undo.callback(vars(module).pop, "forward")
        yield


def plain_forward(module: nn.Module) -> Callable[..., Any] | None:
    """Give what a module computes, without decorators that end gradients; None if there are none."""
    decorated = function = type(module).forward
    while getattr(getattr(function, "__code__", None), "co_name", "") == _DECORATED:
        function = function.__wrapped__  # type: ignore[attr-defined]
    return None if function is decorated else MethodType(function, module)


@contextmanager
def copied_for_the_way_back(weights: frozenset[int]) -> Iterator[None]:
    """Have torch keep copies of what it needs for the way back, since code in the ``with`` block may write over it.

    Args:
        weights: The addresses of tensors that nobody writes to.
    """

    def keep(tensor: Tensor) -> Tensor:
        return tensor.detach() if tensor.data_ptr() in weights else tensor.detach().clone()

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield


class _InUse(torch.autograd.Function):
    """Gives a tensor, and leads its gradient to another one."""

    @staticmethod
    def forward(ctx: Any, original: Tensor, in_use: Tensor) -> Tensor:
        ctx.kind = original.device, original.dtype
        return in_use

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient.to(*ctx.kind), None


def _plain(parameter: Tensor) -> Tensor:
    """Give a tensor in the same memory that was not made in inference mode, and has no graph."""
    tensor = torch.empty(0, dtype=parameter.dtype, device=parameter.device)
    return tensor.set_(
        parameter.untyped_storage(),
        parameter.storage_offset(),
        parameter.size(),
        parameter.stride(),
    )


def _modules(networks: Iterable[nn.Module]) -> list[nn.Module]:
    return list({module: None for network in networks for module in network.modules()})


def _floats(modules: Iterable[nn.Module]) -> Iterator[tuple[nn.Module, str, Tensor]]:
    for module in modules:
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter.is_floating_point():
                yield module, name, parameter
