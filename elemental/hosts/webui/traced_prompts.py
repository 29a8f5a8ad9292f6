"""Encodes the prompts of an image again, in place of what the U-Net was given of them."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .trace_recorder import Encoding
from .traced_model import POOLED, TOKENS, Text, TracedModel, UNetCall

_log = logging.getLogger(__name__)


class _Source(NamedTuple):
    """Where an encoded prompt comes from.

    Attributes:
        call: The index of the text encoder's call.
        row: The index of the text in it.
        filled: How it was made as long as others: by "last", its last token, by "itself", once more, by "empty", the
            empty prompt, or otherwise ("").
    """

    call: int
    row: int
    filled: str


class TracedPrompts:
    """The prompts of an image.

    Args:
        model: The model.
        encodings: The calls of the text encoder.
        steps: The U-Net's calls at each step.
    """

    def __init__(self, model: TracedModel, encodings: Sequence[Encoding], steps: Sequence[Sequence[UNetCall]]) -> None:
        self._model = model
        self._encodings = encodings
        texts = [[model.text_of(call.conditions) for call in calls] for calls in steps]
        self._nothing = self._encode_nothing() if _have_padding(encodings, texts) else None
        self._sources = [[self._find(text) for text in each] for each in texts]
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

    def _encode(self, call: int) -> Text:
        return _named(self._model.encode(self._encodings[call].texts))

    def _encode_nothing(self) -> Tensor:
        return _named(self._model.encode([""]))[TOKENS][0]

    def _find(self, text: Text) -> _Source | None:
        """Find the call that gave an encoded prompt; the longest if several begin it."""
        found = [
            (len(tokens), _Source(index, row, filled))
            for index, encoding in enumerate(self._encodings)
            for row, tokens in enumerate(_named(encoding.output)[TOKENS])
            if _is_pooled(encoding, row, text) and (filled := self._how_filled(tokens, text[TOKENS][0])) is not None
        ]
        return max(found, key=lambda each: each[0])[1] if found else None

    def _how_filled(self, tokens: Tensor, whole: Tensor) -> str | None:
        """Say how an encoded prompt was made as long as another; None if that is not how it was made."""
        length, tokens = min(len(tokens), len(whole)), tokens.to(whole)
        if not torch.equal(tokens[:length], whole[:length]):
            return None
        rest = whole[length:]
        if torch.equal(rest, tokens[-1:].expand(len(rest), -1)):
            return "last"
        if _is_repeated(tokens, rest):
            return "itself"
        if self._nothing is not None and _is_repeated(self._nothing, rest):
            return "empty"
        return ""

    def _replace(self, conditions: Any, source: _Source, encoded: Text) -> Any:
        old = self._model.text_of(conditions)
        new = {name: encoded[name][source.row : source.row + 1].to(old[name]) for name in old if name in encoded}
        length = old[TOKENS].shape[1]
        new[TOKENS] = torch.cat([new[TOKENS], self._filling(source, new[TOKENS], old[TOKENS])], 1)[:, :length]
        return self._model.with_text(conditions, new)

    def _filling(self, source: _Source, new: Tensor, old: Tensor) -> Tensor:
        missing = max(0, old.shape[1] - new.shape[1])
        if source.filled == "last" or not missing:
            return new[:, -1:].expand(-1, missing, -1)
        if source.filled == "itself":
            return new.repeat(1, missing // new.shape[1], 1)
        if source.filled == "empty":
            nothing = self._encode_nothing().to(new)
            return nothing.repeat(missing // len(nothing), 1).unsqueeze(0)
        return old[:, new.shape[1] :]


def _have_padding(encodings: Sequence[Encoding], steps: Sequence[Sequence[Text]]) -> bool:
    shortest = min((_named(encoding.output)[TOKENS].shape[1] for encoding in encodings), default=0)
    return any(text[TOKENS].shape[1] > shortest for texts in steps for text in texts)


def _named(output: Any) -> Text:
    return output if isinstance(output, dict) else {TOKENS: output}


def _is_pooled(encoding: Encoding, row: int, text: Text) -> bool:
    """Tell whether a text's encoding as a whole is that of a call; SD 1.x has none."""
    given = _named(encoding.output).get(POOLED)
    return given is None or POOLED not in text or torch.equal(given[row].to(text[POOLED]), text[POOLED][0])


def _is_repeated(block: Tensor, rows: Tensor) -> bool:
    times, rest = divmod(len(rows), len(block))
    return rest == 0 and torch.equal(block.repeat(times, 1).to(rows.dtype), rows)
