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


def nearest_factors(matrix: Tensor, choice: RankChoice) -> Factors:
    """Find the nearest product of two factors, each with the roots of the singular values.

    Args:
        matrix: Rows and columns, float32, finite, and not all 0.
        choice: The rank.
    """
    u, values, v = _svd(matrix)
    wanted = choice.most if choice.energy is None else _least_rank(values.double().square(), choice.energy)
    kept = min(choice.most, wanted, len(values))
    roots = values[:kept].sqrt()
    up, down = (u[:, :kept] * roots).half(), (roots[:, None] * v[:kept]).half()
    rest = matrix - up.float() @ down.float()
    square, lacking = (float(each.double().square().sum()) for each in (matrix, rest))
    return Factors(up, down, square, lacking, wanted > choice.most)


def _least_rank(squares: Tensor, energy: float) -> int:
    """Give how many of some squares, in descending order, it takes for a share of their sum."""
    held = squares.cumsum(0)
    return int((held < energy * held[-1]).sum()) + 1


def _svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Decompose a matrix; that of a convolution, much wider than high, by way of a square one, in half the time."""
    if matrix.shape[1] <= 2 * matrix.shape[0]:
        u, values, v = torch.linalg.svd(matrix, full_matrices=False)
        return u, values, v
    q, r = torch.linalg.qr(matrix.t())
    u, values, v = torch.linalg.svd(r.t(), full_matrices=False)
    return u, values, v @ q.t()
