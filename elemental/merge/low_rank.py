"""The nearest matrix of a low rank, as the product of two factors.

It is what the largest singular values make of a matrix; the squares of the others sum up to those of what it lacks
(C. Eckart, G. Young: The approximation of one matrix by another of lower rank, 1936).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class RankChoice(NamedTuple):
    """Which rank a matrix gets.

    Attributes:
        most: The rank, 1 or more; with ``energy`` the highest. Smaller matrices have the highest that they can.
        energy: The share of the squares of the matrix, more than 0 and at most 1, that is held by the least rank that
            can; None for ``most``, whatever it holds.
    """

    most: int
    energy: float | None = None


class Factors(NamedTuple):
    """A matrix of a low rank, and how near it is to another one.

    Attributes:
        up: The left factor, fp16: as many rows as the matrix, a column for each rank.
        down: The right factor, fp16: a row for each rank, as many columns as the matrix.
        square: The sum of the squares of the matrix.
        rest: The same of what the product of the factors lacks, their rounding included.
        is_cut: Whether it would take a higher rank to hold what was asked for.
    """

    up: Tensor
    down: Tensor
    square: float
    rest: float
    is_cut: bool

    @property
    def rank(self) -> int:
        """The rank."""
        return len(self.down)


_COLUMNS = 512
"""Columns that are widened at a time."""


def nearest_factors(matrix: Tensor, choice: RankChoice) -> Factors:
    """Find the nearest product of two factors, each with the roots of the singular values.

    The squares of the singular values, and the vectors of the shorter side, are the eigenvalues and eigenvectors of the
    matrix times its transpose. In float64 that loses what is below 1e-8 of the largest singular value, less than an SVD
    in float32 does, and takes memory for the shorter side alone.

    Args:
        matrix: Rows and columns, float32, finite, and not all 0.
        choice: The rank.
    """
    if matrix.shape[0] > matrix.shape[1]:
        turned = nearest_factors(matrix.t(), choice)
        return turned._replace(up=turned.down.t(), down=turned.up.t())
    squares, vectors, square = _decompose(matrix)
    wanted = choice.most if choice.energy is None else _least_rank(squares, choice.energy)
    kept = min(choice.most, wanted, len(squares))
    roots = squares[:kept].pow(0.25)
    own = vectors[:, -kept:].flip(1)
    up = (own * roots).half()
    left = own * torch.where(roots > 0, 1 / roots, 0.0)
    down, rest = torch.empty(kept, matrix.shape[1], dtype=torch.float16, device=matrix.device), 0.0
    for start in range(0, matrix.shape[1], _COLUMNS):
        place = slice(start, start + _COLUMNS)
        wide = matrix[:, place].double()
        down[:, place] = left.t() @ wide
        rest += float((wide - up.double() @ down[:, place].double()).square().sum())
    return Factors(up, down, square, rest, wanted > choice.most)


def _decompose(matrix: Tensor) -> tuple[Tensor, Tensor, float]:
    """Decompose a matrix that is not higher than wide.

    Returns:
        The squares of its singular values, the largest first; their vectors as columns, the largest last; and the sum
        of the squares of the matrix.
    """
    rows = len(matrix)
    product = torch.zeros(rows, rows, dtype=torch.float64, device=matrix.device)
    for part in torch.split(matrix, _COLUMNS, dim=1):
        wide = part.double()
        product.addmm_(wide, wide.t())
    squares, vectors = torch.linalg.eigh(product)
    squares = squares.flip(0)
    rounding = rows * torch.finfo(torch.float64).eps * squares[0]
    return torch.where(squares > rounding, squares, 0.0), vectors, float(product.trace())


def _least_rank(squares: Tensor, energy: float) -> int:
    """Give how many of some squares, in descending order, it takes for a share of their sum."""
    held = squares.cumsum(0)
    return int((held < energy * held[-1]).sum()) + 1
