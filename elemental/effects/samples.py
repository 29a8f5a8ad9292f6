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
from typing import NamedTuple

import torch
from torch import Tensor


class Pass(NamedTuple):
    """What one row of samples comes from.

    Attributes:
        request: The index of the image's request.
        number: How many passes of the same source the request had before.
        source: What was differentiated: "unet", "image" or "vae".
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
        numbers: The samples, float32, of shape (passes, tensors): the inner products of gradient and direction, for
            ratios larger by 1.
        units: What makes a source's root mean square the mean absolute difference of an image's channel values, of
            255; by request and source.
    """

    keys: tuple[str, ...]
    passes: tuple[Pass, ...]
    numbers: Tensor
    units: Mapping[tuple[int, str], float]

    def joined(self, other: Samples) -> Samples:
        """Add the passes of another estimate of the same tensors and requests."""
        return replace(
            self,
            passes=(*self.passes, *other.passes),
            numbers=torch.cat([self.numbers, other.numbers]),
            units={**self.units, **other.units},
        )

    def with_units(self, units: Mapping[tuple[int, str], float]) -> Samples:
        """Give the same samples in other units."""
        return replace(self, units=units)

    def weights(self) -> Tensor:
        """Give what each row's squares are multiplied with, so that their sum is the mean square in the units.

        Each request counts the same, and of each the sources add up: their signs are independent.
        """
        requests = len({row.request for row in self.passes})
        counts: dict[tuple[int, str], int] = {}
        for row in self.passes:
            counts[row.request, row.source] = counts.get((row.request, row.source), 0) + 1
        weights = [
            self.units.get((row.request, row.source), 1.0) ** 2 / counts[row.request, row.source] / requests
            for row in self.passes
        ]
        return torch.tensor(weights, dtype=torch.float64)

    def effects(self) -> list[float]:
        """Estimate the effect of each tensor at a ratio larger by 1, in the order of the keys."""
        squares = self.weights() @ self.numbers.double().square()
        effects: list[float] = squares.sqrt().tolist()
        return effects

    def effect(self, moves: Mapping[str, float]) -> float:
        """Estimate the effect of several tensors together.

        Args:
            moves: By how much the ratio of each tensor is larger; other tensors stay, and keys without samples have
                no effect.
        """
        ratios = torch.tensor([moves.get(key, 0.0) for key in self.keys], dtype=torch.float64)
        return math.sqrt(float(self.weights() @ (self.numbers.double() @ ratios).square()))

    def group_effects(self, groups: Sequence[Iterable[str]]) -> list[float]:
        """Estimate the effect of groups of tensors, each at a ratio larger by 1.

        Args:
            groups: The keys of each group.
        """
        places = {key: place for place, key in enumerate(self.keys)}
        members = torch.zeros(len(self.keys), len(groups), dtype=torch.float64)
        for column, keys in enumerate(groups):
            members[[places[key] for key in keys if key in places], column] = 1
        squares = self.weights() @ (self.numbers.double() @ members).square()
        effects: list[float] = squares.sqrt().tolist()
        return effects


def no_samples(keys: Sequence[str]) -> Samples:
    """Give an estimate without passes."""
    return Samples(tuple(keys), (), torch.zeros(0, len(keys)), {})
