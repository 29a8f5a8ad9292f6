"""Saves memory: the blocks of networks keep what they were given, and are computed again on the way back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .differentiable_weights import plain_forward

_BLOCKS = (
    *("AttentionBlock", "BasicTransformerBlock", "ResBlock"),  # of U-Nets
    "CLIPEncoderLayer",  # of text encoders
    *("AttnBlock", "ResnetBlock"),  # of VAEs
)
"""The classes, in ldm, sgm, transformers and Forge, that hold nearly all of a network's memory.

``CLIPLayer`` of reForge is none of them: what goes into it is kept by others, and it has to write over that.
"""


@contextmanager
def recomputed_blocks(
    networks: Iterable[nn.Module], around: Callable[[nn.Module], AbstractContextManager[Any]], *, in_place: bool = False
) -> Iterator[None]:
    """Have the blocks of networks computed again by backward passes through what is computed in the ``with`` block.

    That takes a third more time, and a fraction of the memory. The way back computes them as the host is set up then.

    Args:
        networks: The networks.
        around: Gives what a block is computed in, from the block.
        in_place: Whether blocks write over what they are given, and may draw random numbers.
    """
    with ExitStack() as undo:
        for block in (module for network in networks for module in network.modules()):
            if type(block).__name__ in _BLOCKS and "forward" not in vars(block):
                block.forward = _recomputed(block, around, in_place)
                undo.callback(delattr, block, "forward")
        yield


def _recomputed(
    block: nn.Module, around: Callable[[nn.Module], AbstractContextManager[Any]], in_place: bool
) -> Callable[..., Any]:
    forward = plain_forward(block) or block.forward

    def compute(*given: Any, **named: Any) -> Any:
        def run(*inputs: Any) -> Any:
            if in_place:
                inputs = tuple(value.clone() if isinstance(value, Tensor) else value for value in inputs)
            places = inputs[: len(given)], dict(zip(named, inputs[len(given) :], strict=True))
            with around(block):
                return forward(*places[0], **places[1])

        # Dictionaries may say which block it is, and change; gradients go to tensors that are passed by position.
        inputs = [dict(value) if isinstance(value, dict) else value for value in (*given, *named.values())]
        return checkpoint(run, *inputs, use_reentrant=True, preserve_rng_state=in_place)

    return compute
