"""Encodes the prompts of an image again, in place of what the U-Net was given of them."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from modules import devices
from torch import Tensor

from .trace_recorder import Encoding, UNetCall

_log = logging.getLogger(__name__)

_TOKENS, _POOLED = "crossattn", "vector"
"""The WebUI's names, for SDXL, of what the text encoders give for each token and for the whole prompt."""
_OLD_TOKENS = "c_crossattn"
"""The name of the former for SD 1.x and 2.x, where it is in a list."""

_Text = Mapping[str, Tensor]


class _Source(NamedTuple):
    """Where an encoded prompt comes from.

    Attributes:
        call: The index of the text encoder's call.
        row: The index of the text in it.
        filled: How it was made as long as others: by "last", its last token, by "empty", the empty prompt, or
            otherwise ("").
    """

    call: int
    row: int
    filled: str


class TracedPrompts:
    """The prompts of an image.

    Args:
        model: The WebUI's model.
        encodings: The calls of the text encoder.
        steps: The U-Net's calls at each step.
    """

    def __init__(self, model: Any, encodings: Sequence[Encoding], steps: Sequence[Sequence[UNetCall]]) -> None:
        self._model = model
        self._encodings = encodings
        self._nothing = self._encode_nothing() if _have_padding(encodings, steps) else None
        self._sources = [[self._find(_text_of(call.conditions)) for call in calls] for calls in steps]
        if any(source is None for sources in self._sources for source in sources):
            _log.warning(
                "Part of the prompt was not encoded by the model's text encoder alone (by an extension, perhaps): "
                "the effects of its elements through that part are not counted."
            )

    def conditions(self, step: int, calls: Sequence[UNetCall]) -> Iterator[Any]:
        """Give what the U-Net gets at a step, with the prompts encoded by the weights that are in the model now.

        Args:
            step: The index of the step.
            calls: The U-Net's calls at this step.

        Returns:
            The conditions for each call, one after the other.
        """
        sources = self._sources[step]
        encoded = {source.call: self._encode(source.call) for source in sources if source is not None}
        for call, source in zip(calls, sources, strict=True):
            if source is None:
                yield copy.copy(call.conditions)
            else:
                yield self._replace(call.conditions, source, encoded[source.call])

    def _encode(self, call: int) -> _Text:
        with devices.autocast(), trained(self._model):
            return _named(self._model.get_learned_conditioning(copy.copy(self._encodings[call].texts)))

    def _encode_nothing(self) -> Tensor:
        with devices.autocast(), trained(self._model):
            return _named(self._model.get_learned_conditioning([""]))[_TOKENS][0]

    def _find(self, text: _Text) -> _Source | None:
        """Find the call that gave an encoded prompt; the longest if several begin it."""
        found = [
            (len(tokens), _Source(index, row, filled))
            for index, encoding in enumerate(self._encodings)
            for row, tokens in enumerate(_named(encoding.output)[_TOKENS])
            if _is_pooled(encoding, row, text) and (filled := self._how_filled(tokens, text[_TOKENS][0])) is not None
        ]
        return max(found, key=lambda each: each[0])[1] if found else None

    def _how_filled(self, tokens: Tensor, whole: Tensor) -> str | None:
        """Say how an encoded prompt was made as long as another; None if that is not how it was made."""
        length = min(len(tokens), len(whole))
        if tokens.dtype != whole.dtype or not torch.equal(tokens[:length], whole[:length]):
            return None
        rest = whole[length:]
        if torch.equal(rest, tokens[-1:].expand(len(rest), -1)):
            return "last"
        if self._nothing is not None and _is_repeated(self._nothing, rest):
            return "empty"
        return ""

    def _replace(self, conditions: Any, source: _Source, encoded: _Text) -> Any:
        old = _text_of(conditions)
        new = {name: encoded[name][source.row : source.row + 1] for name in old if name in encoded}
        length = old[_TOKENS].shape[1]
        new[_TOKENS] = torch.cat([new[_TOKENS], self._filling(source, new[_TOKENS], old[_TOKENS])], 1)[:, :length]
        if _OLD_TOKENS in conditions:
            return {**conditions, _OLD_TOKENS: [new[_TOKENS], *conditions[_OLD_TOKENS][1:]]}
        return {**conditions, **new}

    def _filling(self, source: _Source, new: Tensor, old: Tensor) -> Tensor:
        missing = max(0, old.shape[1] - new.shape[1])
        if source.filled == "last" or not missing:
            return new[:, -1:].expand(-1, missing, -1)
        if source.filled == "empty":
            nothing = self._encode_nothing()
            return nothing.repeat(missing // len(nothing), 1).unsqueeze(0)
        return old[:, new.shape[1] :]


def _have_padding(encodings: Sequence[Encoding], steps: Sequence[Sequence[UNetCall]]) -> bool:
    shortest = min((_named(encoding.output)[_TOKENS].shape[1] for encoding in encodings), default=0)
    return any(_text_of(call.conditions)[_TOKENS].shape[1] > shortest for calls in steps for call in calls)


def _named(output: Any) -> _Text:
    return output if isinstance(output, dict) else {_TOKENS: output}


def _text_of(conditions: Any) -> _Text:
    """Give what the text encoders gave of a U-Net's conditions; tensors of shape (1, ...)."""
    if _OLD_TOKENS in conditions:
        return {_TOKENS: conditions[_OLD_TOKENS][0]}
    return {name: conditions[name] for name in (_TOKENS, _POOLED) if name in conditions}


def _is_pooled(encoding: Encoding, row: int, text: _Text) -> bool:
    """Tell whether a text's encoding as a whole is that of a call; SD 1.x has none."""
    given = _named(encoding.output).get(_POOLED)
    return given is None or _POOLED not in text or torch.equal(given[row], text[_POOLED][0])


def _is_repeated(block: Tensor, rows: Tensor) -> bool:
    times, rest = divmod(len(rows), len(block))
    return rest == 0 and torch.equal(block.repeat(times, 1).to(rows.dtype), rows)


@contextmanager
def trained(model: Any) -> Iterator[None]:
    """Have SDXL's text encoders compute with gradients: they do only if they count as being trained."""
    embedders = list(getattr(getattr(model, "conditioner", None), "embedders", ()))
    before = [embedder.is_trainable for embedder in embedders]
    try:
        for embedder in embedders:
            embedder.is_trainable = True
        yield
    finally:
        for embedder, value in zip(embedders, before, strict=True):
            embedder.is_trainable = value
