"""Saves memory: the blocks of the WebUI's U-Net keep what they were given, and are computed again on the way back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from modules import devices
from torch import nn
from torch.utils.checkpoint import checkpoint

_BLOCKS = ("AttentionBlock", "BasicTransformerBlock", "ResBlock")
"""The classes, in ldm and in sgm, that hold nearly all of a U-Net's memory."""


@contextmanager
def recomputed_blocks(unet: nn.Module) -> Iterator[None]:
    """Have the blocks of a U-Net computed again by backward passes through what is computed in the ``with`` block.

    That takes a third more time, and a fraction of the memory. The way back computes them as the WebUI is set up then.
    """
    with ExitStack() as undo:
        for block in unet.modules():
            if type(block).__name__ in _BLOCKS and "forward" not in vars(block):
                block.forward = _recomputed(block.forward)
                undo.callback(delattr, block, "forward")
        yield


def _recomputed(forward: Callable[..., Any]) -> Callable[..., Any]:
    def compute(*given: Any, **named: Any) -> Any:
        def run(*inputs: Any) -> Any:
            places = inputs[: len(given)], dict(zip(named, inputs[len(given) :], strict=True))
            with devices.autocast():  # the WebUI's own, which torch does not know on every device
                return forward(*places[0], **places[1])

        # Gradients go to tensors that are passed by position.
        return checkpoint(run, *given, *named.values(), use_reentrant=True, preserve_rng_state=False)

    return compute
