"""The samples of an estimate, and the effects that they give: of a tensor, a group, a rule, a whole spec.

Let p be an image, or what a U-Net predicts, and d a direction in which a merge moves a tensor. For random signs s, one
backward pass of <s, p> gives the gradient g of every tensor, and <g, d> is a sample of <s, J d>, whose mean square over
s is the squared length of J d: of the change of p, to first order. (Random signs as in Hutchinson 1989, "A Stochastic
Estimator of the Trace of the Influence Matrix".) Samples of tensors that move together add up.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

UNET, IMAGE, DECODING = SOURCES = ("unet", "image", "vae")
"""What is differentiated: the guided prediction of one U-Net step, a whole image, the decoding of one."""

_MEAN_OF_SIGNS = math.sqrt(2 / math.pi)
"""The mean absolute value of normally distributed numbers whose root mean square is 1."""
_TINY = 1e-60
_LEAST = 0.1
"""The U-Net's share of a measured change at the least: estimates of what the VAE does can be too large."""


class Pass(NamedTuple):
    """What one row of samples comes from.

    Attributes:
        request: The index of the image's request.
        number: How many passes of the same source the request had before.
        source: What was differentiated: one of :data:`SOURCES`.
    """

    request: int
    number: int
    source: str


@dataclass(frozen=True)
class Samples:
    """Samples of the effects of tensors.

    Attributes:
        keys: The tensors; keys of the checkpoint.
        passes: What each row comes from.
        numbers: The samples, float32, of shape (passes, tensors): the inner products of gradient and direction for
            ratios larger by 1, divided by the root of the number of values that were differentiated. Their root mean
            square is the change of such a value.
        slopes: What was measured in images, by request: the mean absolute difference of channel values, of 255, when
            all tensors are moved a little, for ratios larger by 1 in proportion.
    """

    keys: tuple[str, ...]
    passes: tuple[Pass, ...]
    numbers: Tensor
    slopes: Mapping[int, float]

    def with_pass(self, row: Pass, numbers: Tensor) -> Samples:
        """Add a pass; its samples are those of the same keys, float32."""
        return replace(self, passes=(*self.passes, row), numbers=torch.cat([self.numbers, numbers[None]]))

    def with_slope(self, request: int, slope: float) -> Samples:
        """Add what was measured for a request."""
        return replace(self, slopes={**self.slopes, request: slope})

    @cached_property
    def weights(self) -> Tensor:
        """What each row's squares are multiplied with, so that their sum is the square of an effect.

        Each request counts the same, and of each the sources add up: their signs are independent. Samples of channel
        values have their unit; those of a U-Net's predictions get it from what was measured in images, and each of
        them counts by its proportions, since predictions of early and late steps differ in size.
        """
        weights = torch.zeros(len(self.passes), dtype=torch.float64)
        numbers = self.numbers.double()
        sums = numbers.sum(dim=1).square()  # of everything moved together
        sizes = numbers.square().sum(dim=1).clamp(min=_TINY)
        requests = {row.request for row in self.passes}
        for request in requests:
            decoding = self._rows(request, DECODING)
            weights[decoding] = _MEAN_OF_SIGNS**2 / max(1, len(decoding))
            decoded = float(weights[decoding] @ sums[decoding])
            for source in (UNET, IMAGE):
                rows = self._rows(request, source)
                weights[rows] = 1 / (sizes[rows] if source == UNET else torch.ones(len(rows), dtype=torch.float64))
                weights[rows] *= self._unit(request, decoded, float(weights[rows] @ sums[rows]), count=len(rows))
        return weights / max(1, len(requests))

    def _rows(self, request: int, source: str) -> list[int]:
        return [place for place, row in enumerate(self.passes) if row.request == request and row.source == source]

    def _unit(self, request: int, decoded: float, raw: float, *, count: int) -> float:
        """Give what makes the weighted squares of a request's samples mean absolute differences.

        Args:
            request: The request.
            decoded: The square of what the VAE does.
            raw: The weighted square of everything together, so far.
            count: How many samples there are.
        """
        slope = self.slopes.get(request)
        if slope is None or not raw:
            return _MEAN_OF_SIGNS**2 / max(1, count)
        return max(slope**2 - decoded, (_LEAST * slope) ** 2) / raw

    def effects(self) -> list[float]:
        """Estimate the effect of each tensor at a ratio larger by 1, in the order of the keys."""
        squares = self.weights @ self.numbers.double().square()
        effects: list[float] = squares.sqrt().tolist()
        return effects

    def effect(self, moves: Mapping[str, float]) -> float:
        """Estimate the effect of several tensors together.

        Args:
            moves: By how much the ratio of each tensor is larger; other tensors stay, and keys without samples have
                no effect.
        """
        ratios = torch.tensor([moves.get(key, 0.0) for key in self.keys], dtype=torch.float64)
        return math.sqrt(float(self.weights @ (self.numbers.double() @ ratios).square()))

    def group_effects(self, groups: Sequence[Iterable[str]]) -> list[float]:
        """Estimate the effect of groups of tensors, each at a ratio larger by 1.

        Args:
            groups: The keys of each group.
        """
        places = {key: place for place, key in enumerate(self.keys)}
        members = torch.zeros(len(self.keys), len(groups), dtype=torch.float64)
        for column, keys in enumerate(groups):
            members[[places[key] for key in keys if key in places], column] = 1
        squares = self.weights @ (self.numbers.double() @ members).square()
        effects: list[float] = squares.sqrt().tolist()
        return effects


def no_samples(keys: Sequence[str]) -> Samples:
    """Give an estimate without passes."""
    return Samples(tuple(keys), (), torch.zeros(0, len(keys)), {})
