"""What the two sides of a rule can say of a checkpoint: its blocks, and the pieces of its elements' names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import combinations
from typing import NamedTuple

from ...architectures.blocks import LONGEST, TEXT_ENCODER, VAE
from ...architectures.keys import KeyName
from ...architectures.tensor_sets import TensorSet, members
from ..rule_matching import RuleMatcher
from ..rule_targets import ALL
from ..rules import NOT

_WRITABLE = re.compile(r"[\w.][\w.-]*", re.ASCII)
_SAYS_NOTHING = re.compile(r"\d+(\.(\d+|weight|bias))*|.")
"""Pieces that many unrelated elements have: "0", "2.weight"."""


class Part(NamedTuple):
    """A part of element names, and the tensors that have it; the empty part stands for every element."""

    text: str
    tensors: TensorSet


def find_blocks(matcher: RuleMatcher) -> dict[str, TensorSet]:
    """Give the tensors of each block that a checkpoint has, in block order, and of TE and VAE, which come first."""
    words = (TEXT_ENCODER, VAE, *LONGEST.blocks)
    return {word: tensors for word in words if (tensors := matcher.with_block(word))}


def find_parts(matcher: RuleMatcher, tensors: TensorSet) -> list[Part]:
    """Find parts of names that tell tensors from each other, for each set of tensors the shortest.

    Args:
        matcher: Finds the checkpoint's tensors.
        tensors: Those whose names are taken to pieces. Full keys are among the pieces where the element's name matches
            another element of its block.
    """
    names = [matcher.names[index] for index in members(tensors)]
    runs = {run for name in names for run in _runs(matcher, name)}
    shortest: dict[TensorSet, str] = {matcher.everything: ""}
    for texts in (runs, _beginnings(names)):  # "emb_layers" reads better than "emb"
        for text in sorted(texts, key=lambda text: (len(text), text)):
            if is_writable(text):
                shortest.setdefault(matcher.with_part(text), text)
    return [Part(text, found) for found, text in shortest.items()]


def is_writable(text: str) -> bool:
    """Tell whether a rule can have a text as a part."""
    return bool(_WRITABLE.fullmatch(text)) and text.upper() not in (NOT, ALL)


def _runs(matcher: RuleMatcher, name: KeyName) -> Iterator[str]:
    """List the runs of pieces between dots, and the full key if the element's name is not enough."""
    pieces = name.element.split(".")
    alike = matcher.with_part(name.element) & matcher.with_block(name.block)
    if alike.bit_count() == 1:
        yield name.element
    else:  # "0.weight" matches "time_embed.0.weight" too
        yield from (name.key, name.key.rpartition(".")[0])
    for start, end in combinations(range(len(pieces) + 1), 2):
        run = ".".join(pieces[start:end])
        if not _SAYS_NOTHING.fullmatch(run):
            yield from (run, f"{run}.") if end < len(pieces) else (run,)


def _beginnings(names: Iterable[KeyName]) -> set[str]:
    """List what several pieces begin with: "attn", "proj_"."""
    begun: dict[str, set[str]] = {}
    for piece in {piece for name in names for piece in name.element.split(".")}:
        head, underscore, _ = piece.partition("_")
        for text in (piece.rstrip("0123456789"), head + underscore):
            begun.setdefault(text, set()).add(piece)
    return {text for text, pieces in begun.items() if len(text) > 1 and len(pieces) > 1}
