"""The pieces of tensors' names that a misspelt part is compared with."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from ..architectures.tensor_sets import NameSearch, TensorSet
from .suggestions import digits_of, maybe_near, nearest

_DIGITS = "0123456789"
_AT_END = (*_DIGITS, ".")
"""What is left out at the end of a piece that ends in a number."""


class NamePieces:
    """The pieces of so many words in names, and these without a number at their end.

    Args:
        search: Finds the names.
        size: The number of words.
    """

    def __init__(self, search: NameSearch, size: int) -> None:
        self._names, self._size = search.names, size
        self._tensors = search.words.runs(size)
        for run, tensors in list(self._tensors.items()):
            if run[-1:] in _AT_END and (stem := _stem(run)):
                self._tensors[stem] = self._tensors.get(stem, 0) | tensors
        self._by_digits: dict[tuple[int, ...], list[str]] = defaultdict(list)
        for piece in self._tensors:
            self._by_digits[digits_of(piece)].append(piece)

    def near(self, part: str, tensors: TensorSet) -> list[str]:
        """List the pieces with the numbers of a part that are nearest to it, of some tensors' names."""
        there = (piece for piece in self._by_digits.get(digits_of(part), ()) if self._tensors[piece] & tensors)
        return nearest(part, self._in_order(maybe_near(part, there), tensors))

    def with_other_digits(self, part: str, tensors: TensorSet) -> list[str]:
        """List the pieces that differ from a part in the digits at its end alone, of some tensors' names."""
        stem = part.rstrip(_DIGITS)
        if stem == part:
            return []
        longer = [piece for piece in self._tensors if piece.startswith(stem) and piece != stem]
        alike = [piece for piece in longer if piece.rstrip(_DIGITS) == stem and self._tensors[piece] & tensors]
        return self._in_order(alike, tensors)

    def _in_order(self, pieces: Iterable[str], tensors: TensorSet) -> list[str]:
        """Sort pieces as they are first found in the names of some tensors, and where in these."""

        def place(piece: str) -> tuple[int, int]:
            there = self._tensors[piece] & tensors
            first = there & -there
            name = next(name for name, own in self._names.items() if own & first)
            return first.bit_length(), list(_pieces_of(name, self._size)).index(piece)

        found = list(pieces)
        return sorted(found, key=place) if len(found) > 1 else found


def _pieces_of(name: str, size: int) -> Iterator[str]:
    words = name.split(".")
    for start in range(len(words) - size + 1):
        piece = ".".join(words[start : start + size])
        yield piece
        if stem := _stem(piece):
            yield stem


def _stem(piece: str) -> str:
    """Give a piece without a number at its end."""
    return piece.rstrip(_DIGITS).rstrip(".")
