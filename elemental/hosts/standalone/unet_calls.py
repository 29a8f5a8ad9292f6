"""The calls of a U-Net during an image: noted as it is made, and differentiated without making it again."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

_MADE_AGAIN = ("encoder_hidden_states", "return_dict")


class _Graph(NamedTuple):
    """A call as a graph of torch: its inputs are leaves."""

    inputs: Sequence[Tensor]
    output: Tensor


@dataclass(frozen=True)
class UNetCall:
    """What a U-Net was called with, and what it gave.

    Attributes:
        network: The U-Net.
        sample: The latents of all branches of CFG, scaled as the sampler wants it.
        time: The time step.
        options: The other arguments by name, without the encoded prompts.
        output: What it predicted for each branch.
        graph: The way back, if it was kept.
    """

    network: nn.Module
    sample: Tensor
    time: Tensor
    options: Mapping[str, Any]
    output: Tensor
    graph: _Graph | None = None

    def repeat(self, *inputs: Tensor) -> Tensor:
        """Call the U-Net again.

        Args:
            inputs: The latents; the encoded prompts of all branches; for SDXL, their pooled output.
        """
        return _call(self.network, self.time, self.options, inputs)

    def recall(self, *inputs: Tensor) -> Tensor:
        """Give the output as it was, with a graph: what leads to it is computed on the way back, unless it was kept.

        The weights get their gradients before the call before this one is computed again, so that one call at a time is
        in memory.

        Args:
            inputs: The arguments of :meth:`repeat`, equal to what they were.
        """
        output: Tensor = _Recall.apply(self, *inputs)  # type: ignore[no-untyped-call]
        return output


class _Recall(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: UNetCall, *inputs: Tensor) -> Tensor:
        ctx.call = call
        ctx.save_for_backward(*inputs)
        return call.output.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        graph = ctx.call.graph or _make_graph(ctx.call.network, ctx.call.time, ctx.call.options, ctx.saved_tensors)
        torch.autograd.backward(graph.output, gradient, retain_graph=graph is ctx.call.graph)
        gradients = [each.grad for each in graph.inputs]
        for each in graph.inputs:
            each.grad = None
        return None, *gradients


def _make_graph(network: Any, time: Tensor, options: Mapping[str, Any], inputs: Sequence[Tensor]) -> _Graph:
    leaves = [each.detach().clone().requires_grad_() for each in inputs]
    with torch.enable_grad():
        return _Graph(leaves, _call(network, time, options, leaves))


def _call(network: Any, time: Tensor, options: Mapping[str, Any], inputs: Sequence[Tensor]) -> Tensor:
    sample, embeds, *pooled = inputs
    options = dict(options)
    if pooled:
        options["added_cond_kwargs"] = {**options["added_cond_kwargs"], "text_embeds": pooled[0]}
    output: Tensor = network(sample, time, **options, encoder_hidden_states=embeds, return_dict=False)[0]
    return output


class CallRecorder:
    """Notes the calls of a U-Net; a context manager.

    Args:
        network: The U-Net.
        room: Bytes of memory for graphs of the first calls; if there are any, the network's parameters have to require
            gradients.

    Attributes:
        calls: The calls so far.
        kept: Bytes of the graphs that are kept.
    """

    def __init__(self, network: nn.Module, room: int = 0) -> None:
        self.calls: list[UNetCall] = []
        self.kept = 0
        self._network: Any = network
        self._room = room
        self._size: int | None = None

    def __enter__(self) -> CallRecorder:
        self._forward = self._network.forward
        self._network.forward = self._note
        return self

    def __exit__(self, *_: object) -> None:
        del self._network.forward  # that of its class is there again

    def _note(self, sample: Tensor, time: Tensor, **options: Any) -> tuple[Tensor]:
        noted = {name: value for name, value in options.items() if name not in _MADE_AGAIN}
        with torch.inference_mode(False):
            given, at, noted = sample.clone(), time.clone(), _copy(noted)
            graph = self._keep_graph(at, noted, _inputs_of(given, options))
        output = self._forward(sample, time, **options)[0] if graph is None else graph.output.detach()
        with torch.inference_mode(False):
            self.calls.append(UNetCall(self._network, given, at, noted, output.clone(), graph))
        return (output,)

    def _keep_graph(self, time: Tensor, options: Mapping[str, Any], inputs: Sequence[Tensor]) -> _Graph | None:
        """Compute a call with a graph, if there is room for it; the first one tells what each needs."""
        if (self._size or 1) > self._room - self.kept:
            return None
        if self._size is None:
            weights = {parameter.untyped_storage().data_ptr() for parameter in self._network.parameters()}
            with _StorageCounter(weights) as counter:
                graph = _make_graph(self._forward, time, options, inputs)
            self._size = counter.size
        else:
            graph = _make_graph(self._forward, time, options, inputs)
        if self._size > self._room - self.kept:
            return None
        self.kept += self._size
        return graph


class _StorageCounter:
    """Counts the bytes that graphs keep, each piece of memory once; a context manager."""

    def __init__(self, left_out: Collection[int]) -> None:
        self._left_out = left_out
        self._sizes: dict[int, int] = {}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._count, lambda tensor: tensor)

    def __enter__(self) -> _StorageCounter:
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.__exit__(*error)

    @property
    def size(self) -> int:
        return sum(size for address, size in self._sizes.items() if address not in self._left_out)

    def _count(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        self._sizes[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # with its graph it would hold itself


def _inputs_of(sample: Tensor, options: Mapping[str, Any]) -> list[Tensor]:
    """Give the tensors that a call depends on."""
    pooled = (options.get("added_cond_kwargs") or {}).get("text_embeds")
    return [sample, options["encoder_hidden_states"].clone(), *([] if pooled is None else [pooled.clone()])]


def _copy(value: Any) -> Any:
    """Copy the tensors in a value; those made in inference mode cannot be differentiated by."""
    if isinstance(value, dict):
        return {name: _copy(inner) for name, inner in value.items()}
    return value.clone() if isinstance(value, Tensor) else value
