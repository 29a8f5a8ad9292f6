"""What a LoRA adds to a layer, as a matrix of which some rows are computed at a time, in float64."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:  # recipes and plans are made without torch
    from torch import Tensor


class Matrix(Protocol):
    """A matrix; for a bias, one of a single column."""

    def rows(self, first: int, last: int) -> Tensor:
        """Compute the rows from ``first`` up to ``last``, without it, in float64."""


class Product(NamedTuple):
    """The product of two factors, float64."""

    left: Tensor
    right: Tensor

    def rows(self, first: int, last: int) -> Tensor:
        """Compute some rows."""
        return self.left[first:last] @ self.right


class Hadamard(NamedTuple):
    """Two products, multiplied number by number."""

    one: Product
    two: Product

    def rows(self, first: int, last: int) -> Tensor:
        """Compute some rows."""
        return self.one.rows(first, last) * self.two.rows(first, last)


class Kronecker(NamedTuple):
    """The Kronecker product of two matrices, float64: the second one, times each number of the first."""

    outer: Tensor
    inner: Tensor

    def rows(self, first: int, last: int) -> Tensor:
        """Compute some rows."""
        height = self.inner.shape[0]
        found = self.outer.new_zeros(last - first, self.outer.shape[1], self.inner.shape[1])
        for block in range(first // height, -(-last // height)):
            start, stop = max(first, block * height), min(last, (block + 1) * height)
            inner = self.inner[start - block * height : stop - block * height]
            found[start - first : stop - first] = self.outer[block][None, :, None] * inner[:, None, :]
        return found.flatten(1)


class Dense(NamedTuple):
    """Numbers as they are in the file, in its dtype."""

    numbers: Tensor

    def rows(self, first: int, last: int) -> Tensor:
        """Give some rows."""
        return self.numbers[first:last].double()


class Transposed(NamedTuple):
    """The transpose of a small matrix.

    Attributes:
        matrix: The matrix.
        height: How many rows it has.
    """

    matrix: Matrix
    height: int

    def rows(self, first: int, last: int) -> Tensor:
        """Compute some rows."""
        return self.matrix.rows(0, self.height).t()[first:last]


def tucker(core: Tensor, inner: Tensor) -> Tensor:
    """Multiply the core of a Tucker decomposition with its inner factor: the right factor of a :class:`Product`.

    Args:
        core: Of shape (rank, rank, *kernel).
        inner: Of shape (rank, inputs).

    Returns:
        Of shape (rank, inputs times kernel).
    """
    return (core.flatten(2).transpose(1, 2) @ inner).transpose(1, 2).flatten(1)
