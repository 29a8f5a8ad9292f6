"""Suggest the name that was meant by a misspelt one; never one with other digits, which is another thing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_CUTOFF = 0.65
_MARGIN = 0.08
_MOST = 3


def suggest(word: str, names: Iterable[str]) -> str:
    """Suggest the nearest names, as the end of a sentence; empty if none is near, or too many are as near."""
    return offer(near_names(word, names))


def offer(near: Sequence[str]) -> str:
    """Ask whether one of some names was meant, as the end of a sentence; empty if there are none, or too many."""
    return f"; did you mean {_either(near)}?" if 0 < len(near) <= _MOST else ""


def near_names(word: str, names: Iterable[str]) -> list[str]:
    """List the names that are nearest to a misspelt one and about as near as each other, the nearest first."""
    import difflib  # takes a while, and most specs have no mistakes

    digits = digits_of(word)
    matcher = difflib.SequenceMatcher()
    matcher.set_seq2(word)
    scores: dict[str, float] = {}
    for name in dict.fromkeys(names):
        if digits_of(name) != digits:
            continue
        matcher.set_seq1(name)
        if matcher.real_quick_ratio() >= _CUTOFF and matcher.quick_ratio() >= _CUTOFF:
            scores[name] = matcher.ratio()
    best = max(scores.values(), default=0.0)
    ordered = sorted(scores, key=lambda name: -scores[name])
    return [name for name in ordered if best >= _CUTOFF and scores[name] > best - _MARGIN and scores[name] >= _CUTOFF]


def digits_of(word: str) -> tuple[int, ...]:
    """Give the numbers in a word."""
    return tuple(int(number) for number in re.findall(r"[0-9]{1,9}", word))


def _either(names: Sequence[str]) -> str:
    quoted = [f'"{name}"' for name in names]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} or {quoted[-1]}"
