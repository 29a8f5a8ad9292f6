"""The gradient of each weight of a live model, given away as a backward pass makes it, and dropped at once."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..errors import HostError

Take = Callable[[str, int, Tensor], None]
"""Gets a key of the checkpoint, the index of the first number in the flattened tensor, and the gradient, of any shape:
in row-major order its numbers follow each other in the tensor. It is valid only during the call."""


class _Place(NamedTuple):
    """A part of a checkpoint's tensor in a parameter."""

    key: str
    start: int
    part: Tensor


class WeightGradients:
    """Gives the gradients of a live model's tensors; a context manager.

    Within the ``with`` block the parameters can be differentiated by. Afterwards they, their gradients and their hooks
    are as before, whatever happened. No gradient is kept, unless :meth:`holding` is used: the memory of the largest
    layer's is enough.

    Args:
        networks: The networks with the parameters.
        tensors: The parts of each tensor by its checkpoint key, as a live model gives them; those that are no parts of
            these parameters have no gradient.
        take: Gets the gradient of each part; what it raises ends the backward pass.
        before: Called at each gradient that is made; what it raises ends the backward pass.

    Raises:
        HostError: On entering, the parameters cannot be differentiated by.
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        tensors: Mapping[str, Sequence[Tensor]],
        take: Take,
        *,
        before: Callable[[], None] = lambda: None,
    ) -> None:
        self._parameters = _parameters_of(networks)
        self._places = _find_places(self._parameters, tensors)
        self._take = take
        self._before = before
        self._holds = False
        self._undo = ExitStack()

    @property
    def keys(self) -> frozenset[str]:
        """The keys that gradients are given for."""
        return frozenset(place.key for places in self._places.values() for place in places)

    @property
    def device(self) -> torch.device:
        """The device of most parameters: of the first one that belongs to a tensor."""
        placed = (parameter for parameter in self._parameters if id(parameter) in self._places)
        return next(placed, torch.empty(0)).device

    @property
    def addresses(self) -> frozenset[int]:
        """The addresses of the parameters in memory."""
        return frozenset(parameter.data_ptr() for parameter in self._parameters)

    @property
    def held_bytes(self) -> int:
        """The memory of all gradients together."""
        return sum(parameter.numel() * parameter.element_size() for parameter in self._parameters)

    @contextmanager
    def holding(self, holds: bool = True) -> Iterator[None]:
        """Sum the gradients of each weight up, and give the sums away at the end of this ``with`` block.

        Args:
            holds: Whether to do so; otherwise each is given away as it is made.
        """
        self._holds = holds
        try:
            yield
        finally:
            self._holds = False
        for parameter in self._parameters:
            self._give(parameter)

    def __enter__(self) -> WeightGradients:
        with ExitStack() as undo:
            for parameter in self._parameters:
                undo.callback(_set_back, parameter, parameter.requires_grad, parameter.grad)
                parameter.grad = None
                _require_grad(parameter)
                handle = parameter.register_post_accumulate_grad_hook(self._give)  # type: ignore[no-untyped-call]
                undo.callback(handle.remove)
            self._undo = undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._undo.close()

    def _give(self, parameter: Tensor) -> None:
        self._before()
        if self._holds:
            return
        gradient, parameter.grad = parameter.grad, None
        if gradient is None:
            return
        with torch.no_grad():
            gradient = _laid_out_like(parameter, gradient)
            for key, start, part in self._places.get(id(parameter), ()):
                offset = part.storage_offset() - parameter.storage_offset() + gradient.storage_offset()
                self._take(key, start, gradient.as_strided(part.size(), part.stride(), offset))


def _parameters_of(networks: Sequence[nn.Module]) -> list[nn.Parameter]:
    unique = {id(parameter): parameter for network in networks for parameter in network.parameters()}
    return [parameter for parameter in unique.values() if parameter.is_floating_point()]


def _find_places(
    parameters: Sequence[nn.Parameter], tensors: Mapping[str, Sequence[Tensor]]
) -> Mapping[int, Sequence[_Place]]:
    """Find the parts of tensors in each parameter, by the identity of the parameter."""
    ordered = sorted((parameter for parameter in parameters if parameter.numel()), key=lambda each: each.data_ptr())
    addresses = [parameter.data_ptr() for parameter in ordered]
    places: dict[int, list[_Place]] = {}
    for key, parts in tensors.items():
        start = 0
        for part in parts:
            index = bisect_right(addresses, part.data_ptr()) - 1
            if index >= 0 and _is_within(part, ordered[index]):
                places.setdefault(id(ordered[index]), []).append(_Place(key, start, part))
            start += part.numel()
    return places


def _is_within(part: Tensor, parameter: nn.Parameter) -> bool:
    same_device = part.device == parameter.device and part.dtype == parameter.dtype
    return same_device and part.data_ptr() < parameter.data_ptr() + parameter.numel() * parameter.element_size()


def _require_grad(parameter: nn.Parameter) -> None:
    try:
        with torch.inference_mode(parameter.is_inference()):  # those that were made in this mode are changed in it
            parameter.requires_grad_(True)
    except RuntimeError as exc:
        raise HostError(f"The host's model cannot be differentiated: {exc}") from exc


def _set_back(parameter: nn.Parameter, requires_grad: bool, gradient: Tensor | None) -> None:
    parameter.grad = gradient
    if parameter.requires_grad is not requires_grad:
        parameter.requires_grad_(requires_grad)


def _laid_out_like(parameter: Tensor, gradient: Tensor) -> Tensor:
    """Give a gradient with the strides of its parameter."""
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_strided(
        parameter.size(), parameter.stride(), dtype=gradient.dtype, device=gradient.device
    ).copy_(gradient)
