"""What a merge mode is: its names and words, the models and ratios it takes, and the function that computes it."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import zip_longest
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:  # recipes and plans are made without torch
    from torch import Tensor

Coefficients = tuple[float, ...]
"""What A, B and C are multiplied with, and behind them the further models of a recipe, if it has any."""

A: Coefficients = (1.0, 0.0, 0.0)
B: Coefficients = (0.0, 1.0, 0.0)
C: Coefficients = (0.0, 0.0, 1.0)
"""The coefficients of a result that is one of the models as it is."""


class Operands(NamedTuple):
    """A piece of a tensor in each model.

    Attributes:
        a: A's numbers, 1-D, in the dtype that is computed in (float64 on most devices). Their contents may be lost.
        b: B's, of the same length and dtype.
        c: C's; in modes without C any numbers.
        more: Those of the further models whose ratio is not 0, B2 and so on.
    """

    a: Tensor
    b: Tensor
    c: Tensor
    more: tuple[Tensor, ...] = ()


class Number(NamedTuple):
    """A number that a mode has besides the ratios; it is the same for all elements.

    Attributes:
        name: Its name, as in recipes.
        default: What it is unless it is given; None if the mode's ``model_survey`` finds it then.
        least: The least that it may be.
        most: The most.
        meaning: What it is, in a line.
        whole: Whether it is a whole number.
    """

    name: str
    default: float | None
    least: float
    most: float
    meaning: str
    whole: bool = False


class More(NamedTuple):
    """How a mode takes further models, B2, B3 and so on, each with a ratio.

    Attributes:
        meaning: What the ratio of one is, in a line.
        default: The ratio of one that is given without; None if it must be given.
        least: The least that it may be.
        whole: Whether it can only be 0 or 1.
    """

    meaning: str
    default: float | None = 1.0
    least: float = -math.inf
    whole: bool = False


class Ratios(NamedTuple):
    """What a recipe sets for a tensor.

    Attributes:
        alpha: The first ratio.
        beta: The second one; 0 in modes without.
        numbers: The mode's numbers, by name.
        more: The ratios of the further models that are among the operands.
    """

    alpha: float
    beta: float
    numbers: Mapping[str, float] = MappingProxyType({})
    more: tuple[float, ...] = ()


class Whole(NamedTuple):
    """What is known of the whole tensor that a piece is from.

    Attributes:
        shape: Its shape.
        start: The index of the piece's first number in the flattened tensor.
        found: What the mode's ``survey`` gives for the whole tensor; nothing if it has none.
        key: Its key in a checkpoint.
    """

    shape: Sequence[int]
    start: int
    found: Any = ()
    key: str = ""


Formula = Callable[[Operands, Ratios, Whole], "Tensor"]
"""Computes a piece of the result, of the same shape and dtype, perhaps in the memory of an operand."""


Read = Callable[[], Iterator[Operands]]
"""Reads a tensor as often as it is called, in pieces in float64 that must not be written to, each valid until the next;
they end where those of a formula could."""

Survey = Callable[[Read, Ratios, Sequence[int]], Any]
"""Finds what a formula needs of a whole tensor, mostly a few numbers. It gets what reads the tensor, its ratios, and
its shape."""


class ModelSurvey(NamedTuple):
    """Finds the numbers of a mode that no recipe has to give, in the U-Nets and text encoders of whole models.

    Attributes:
        of_tensor: Gives of a tensor, with what reads it and its shape, whatever counts of it.
        of_all: Makes the numbers of what counts of all tensors, in any order, by name.
    """

    of_tensor: Callable[[Read, Sequence[int]], array[float]]
    of_all: Callable[[array[float]], Mapping[str, float]]


def adding_up(sums: Callable[[Operands], Sequence[Tensor]]) -> Survey:
    """Make a survey of sums over all numbers of a tensor, which are always added up in the same order.

    Args:
        sums: Gives the sums over a piece's numbers, each as a tensor of one number.
    """

    def survey(read: Read, _: Ratios, __: Sequence[int]) -> Sequence[float]:
        totals: list[float] = []
        for operands in read():
            of_piece = [float(number) for number in sums(operands)]
            totals = [total + number for total, number in zip_longest(totals, of_piece, fillvalue=0.0)]
        return totals

    return survey


class Needs(Enum):
    """What a formula looks at for one number of the result: a piece that it gets never ends within that."""

    NUMBER = "one number"
    LAST_AXIS = "the numbers along the last axis"
    ROW = "all numbers of one output; a bias is one row"
    SLICES = "some slices along the first axis, as many as the margin on both sides"


class Group(Enum):
    """What modes are for, as a menu has them together."""

    TWO = "Mixes of two models"
    THREE = "Mixes of three models"
    LEARNED = "Add what a model has learned"
    ONE = "Change one model"


def _moves_smoothly(_: Mapping[str, float]) -> str:
    return ""


@dataclass(frozen=True)
class Mode:
    """A merge mode.

    Attributes:
        name: Its name on the command line and in recipes.
        formula: Its formula as text; ``a`` is alpha, ``b`` is beta, and A, B, C are the models' tensors.
        purpose: What it is used for, in a line.
        compute: The formula.
        coefficients: What A, B and C are multiplied with, from alpha and beta, where the result is a weighted sum of
            them; None where it is not. A model whose coefficient is 0 is not read, and the only one, if its coefficient
            is 1, is copied bit for bit: so this also says what the ends of the ratio are. In modes that take further
            models, their ratios follow as arguments, and their coefficients those of the three.
        weighted_sum: Whether there are coefficients for all ratios.
        uses_b: Whether it needs model B; in one without, B is A once more.
        uses_c: Whether it needs model C.
        adds_difference: Whether more of alpha adds B - C, or a part of it, and does not mix B in.
        uses_beta: Whether it has a second ratio.
        limits: The least and the largest ratio that mean anything; None if all do.
        needs: What the formula looks at for one number of the result.
        margin: With :attr:`Needs.SLICES`, how many slices beyond a piece's own are in its operands, where the tensor
            has them; the result has them too, and what is in them does not matter.
        survey: Finds what the formula needs to know of the whole tensor beforehand; None if nothing.
        model_survey: Finds those of its numbers that have no default; None if all have one.
        numbers: The numbers that it has besides the ratios.
        more: How it takes further models; None if it takes none.
        keeps_vae: Whether the VAE stays A's, whatever the ratios, unless it is taken from another model or file.
        kinks: Ratios at which the derivative jumps; there it is that of a little more.
        jumps: Says what a little more of alpha moves at once, with these numbers of its own, in words that follow the
            mode's name; empty if it moves each number a little, so that there is a derivative.
        is_lerp: Whether it is (1 - a) A + a B, for which fp16 has a faster way.
        group: Its group in menus; None for mixes of two models, and with model C for what adds something learned.
    """

    name: str
    formula: str
    purpose: str
    compute: Formula
    coefficients: Callable[..., Coefficients | None]
    weighted_sum: bool = False
    uses_b: bool = True
    uses_c: bool = False
    adds_difference: bool = False
    uses_beta: bool = False
    limits: tuple[float, float] | None = None
    needs: Needs = Needs.NUMBER
    margin: int = 0
    survey: Survey | None = None
    model_survey: ModelSurvey | None = None
    numbers: tuple[Number, ...] = ()
    more: More | None = None
    keeps_vae: bool = False
    kinks: tuple[float, ...] = ()
    jumps: Callable[[Mapping[str, float]], str] = _moves_smoothly
    is_lerp: bool = False
    group: Group | None = None

    @property
    def takes_more(self) -> bool:
        """Whether it takes further models, B2, B3 and so on."""
        return self.more is not None
