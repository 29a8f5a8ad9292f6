"""Suggest the name that was meant by a misspelt one; never one with other digits, which is another thing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from difflib import SequenceMatcher

_CUTOFF = 0.65
_MARGIN = 0.08
_MOST = 3
_NUMBERS = re.compile("[0-9]{1,9}")


def suggest(word: str, names: Iterable[str]) -> str:
    """Suggest the nearest names, as the end of a sentence; empty if none is near, or too many are as near."""
    return offer(near_names(word, names))


def offer(near: Sequence[str]) -> str:
    """Ask whether one of some names was meant, as the end of a sentence; empty if there are none, or too many."""
    return f"; did you mean {_either(near)}?" if 0 < len(near) <= _MOST else ""


def near_names(word: str, names: Iterable[str]) -> list[str]:
    """List the names that are nearest to a misspelt one and about as near as each other, the nearest first."""
    digits = digits_of(word)
    return nearest(word, [name for name in dict.fromkeys(names) if digits_of(name) == digits])


def nearest(word: str, names: Iterable[str]) -> list[str]:
    """List the nearest of different names that have the same numbers as a misspelt one, the nearest first."""
    matcher = _matcher(word)
    scores: dict[str, float] = {}
    for name in maybe_near(word, names):
        matcher.set_seq1(name)
        scores[name] = matcher.ratio()
    best = max(scores.values(), default=0.0)
    near = [name for name, score in scores.items() if score >= _CUTOFF and score > best - _MARGIN]
    return sorted(near, key=lambda name: -scores[name])


def maybe_near(word: str, names: Iterable[str]) -> Iterator[str]:
    """List the names that are near, and some more, in less time than it takes to compare them all with a word."""
    matcher = _matcher(word)
    for name in names:
        matcher.set_seq1(name)
        if matcher.real_quick_ratio() >= _CUTOFF and matcher.quick_ratio() >= _CUTOFF:
            yield name


def _matcher(word: str) -> SequenceMatcher[str]:
    import difflib  # takes a while, and most specs have no mistakes

    matcher = difflib.SequenceMatcher()
    matcher.set_seq2(word)
    return matcher


def digits_of(word: str) -> tuple[int, ...]:
    """Give the numbers in a word."""
    return tuple(map(int, _NUMBERS.findall(word)))


def _either(names: Sequence[str]) -> str:
    quoted = [f'"{name}"' for name in names]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} or {quoted[-1]}"
