"""The calls of a U-Net during an image: noted as it is made, and differentiated without making it again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_MADE_AGAIN = ("encoder_hidden_states", "return_dict")


@dataclass(frozen=True)
class UNetCall:
    """What a U-Net was called with, and what it gave.

    Attributes:
        network: The U-Net.
        sample: The latents of all branches of CFG, scaled as the sampler wants it.
        time: The time step.
        options: The other arguments by name, without the encoded prompts.
        output: What it predicted for each branch.
    """

    network: nn.Module
    sample: Tensor
    time: Tensor
    options: dict[str, Any]
    output: Tensor

    def repeat(self, sample: Tensor, embeds: Tensor, pooled: Tensor | None = None) -> Tensor:
        """Call the U-Net again.

        Args:
            sample: The latents.
            embeds: The encoded prompts of all branches.
            pooled: For SDXL, their pooled output.
        """
        options = dict(self.options)
        if pooled is not None:
            options["added_cond_kwargs"] = {**options["added_cond_kwargs"], "text_embeds": pooled}
        result: Tensor = self.network(sample, self.time, **options, encoder_hidden_states=embeds, return_dict=False)[0]
        return result

    def recall(self, *inputs: Tensor) -> Tensor:
        """Give the output as it was, with a graph: what leads to it is computed on the way back.

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
        inputs = [each.detach().requires_grad_() for each in ctx.saved_tensors]
        with torch.enable_grad():
            output = ctx.call.repeat(*inputs)
        torch.autograd.backward(output, gradient)
        return None, *(each.grad for each in inputs)


class CallRecorder:
    """Notes the calls of a U-Net; a context manager.

    Args:
        network: The U-Net.

    Attributes:
        calls: The calls so far.
    """

    def __init__(self, network: nn.Module) -> None:
        self.calls: list[UNetCall] = []
        self._network = network

    def __enter__(self) -> CallRecorder:
        self._handle = self._network.register_forward_hook(self._note, with_kwargs=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.remove()

    def _note(
        self, network: nn.Module, args: tuple[Any, ...], options: dict[str, Any], output: Sequence[Tensor]
    ) -> None:
        sample, time = args
        kept = {name: value for name, value in options.items() if name not in _MADE_AGAIN}
        with torch.inference_mode(False):
            self.calls.append(UNetCall(network, sample.clone(), time.clone(), _copy(kept), output[0].clone()))


def _copy(value: Any) -> Any:
    """Copy the tensors in a value; those made in inference mode cannot be differentiated by."""
    if isinstance(value, dict):
        return {name: _copy(inner) for name, inner in value.items()}
    return value.clone() if isinstance(value, Tensor) else value
