"""The samples of an estimate, and the effects that they give: of a tensor, a group, a rule, a whole spec.

Let p be an image, or what a U-Net predicts, and d a direction in which a merge moves a tensor. For random signs s, one
backward pass of <s, p> gives the gradient g of every tensor, and <g, d> is a sample of <s, J d>, whose mean square over
s is the squared length of J d: of the change of p, to first order. (Random signs as in Hutchinson 1989, "A Stochastic
Estimator of the Trace of the Influence Matrix".) Samples of tensors that move together add up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

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
            all tensors are moved a little, for ratios larger by 1 in proportion. Samples of U-Net steps need it.
        shape: The mean absolute difference of these images as a part of the root mean square, which depends on how
            much of an image changes. Samples of whole images need it, once for all requests. None if not measured.
    """

    keys: tuple[str, ...]
    passes: tuple[Pass, ...]
    numbers: Tensor
    slopes: Mapping[int, float]
    shape: float | None = None

    def with_pass(self, row: Pass, numbers: Tensor) -> Samples:
        """Add a pass; its samples are those of the same keys, float32."""
        return replace(self, passes=(*self.passes, row), numbers=torch.cat([self.numbers, numbers[None]]))

    def with_slope(self, request: int, slope: float) -> Samples:
        """Add what was measured for a request."""
        return replace(self, slopes={**self.slopes, request: slope})

    def with_shape(self, shape: float | None) -> Samples:
        """Add how the mean absolute difference follows from the root mean square."""
        return replace(self, shape=shape)

    def in_order(self, place: Callable[[Pass], Any]) -> Samples:
        """Sort passes, and what was measured by request.

        Args:
            place: Gives what a pass is sorted by.
        """
        order = sorted(range(len(self.passes)), key=lambda index: place(self.passes[index]))
        rows = tuple(self.passes[index] for index in order)
        return replace(self, passes=rows, numbers=self.numbers[order], slopes=dict(sorted(self.slopes.items())))

    @cached_property
    def weights(self) -> Tensor:
        """What each row's squares are multiplied with, so that the sum of a request is the square of an effect on it.

        The sources of a request add up: their signs are independent. Samples of channel values have their unit; those
        of a U-Net's predictions get it from what was measured in images, and each of them counts by its proportions,
        since predictions of early and late steps differ in size.
        """
        weights = torch.zeros(len(self.passes), dtype=torch.float64)
        numbers = self.numbers.double()
        sums = numbers.sum(dim=1).square()  # of everything moved together
        sizes = numbers.square().sum(dim=1).clamp(min=_TINY)
        shape = _MEAN_OF_SIGNS if self.shape is None else self.shape
        for request in {row.request for row in self.passes}:
            images, decodings, steps = (self._rows(request, source) for source in (IMAGE, DECODING, UNET))
            weights[images] = (shape / _mean_of_root(len(images))) ** 2 / max(1, len(images))
            weights[decodings] = shape**2 / max(1, len(decodings))
            decoded = float(weights[decodings] @ sums[decodings])
            weights[steps] = 1 / sizes[steps]
            weights[steps] *= self._unit(request, decoded, float(weights[steps] @ sums[steps]), count=len(steps))
        return weights

    def _rows(self, request: int, source: str) -> list[int]:
        return [place for place, row in enumerate(self.passes) if row.request == request and row.source == source]

    def _unit(self, request: int, decoded: float, raw: float, *, count: int) -> float:
        """Give what makes the weighted squares of a request's steps squares of mean absolute differences.

        Args:
            request: The request.
            decoded: The square of what the VAE does.
            raw: The weighted square of everything together, so far.
            count: How many samples of steps there are.
        """
        slope = self.slopes.get(request)
        if slope is None or not raw:
            return _MEAN_OF_SIGNS**2 / max(1, count)
        return max(slope**2 - decoded, (_LEAST * slope) ** 2) / raw

    def effects(self) -> list[float]:
        """Estimate the effect of each tensor at a ratio larger by 1, in the order of the keys."""
        return self._effects_of(self.numbers.double())

    def effect(self, moves: Mapping[str, float]) -> float:
        """Estimate the effect of several tensors together.

        Args:
            moves: By how much the ratio of each tensor is larger; other tensors stay, and keys without samples have
                no effect.
        """
        ratios = torch.tensor([moves.get(key, 0.0) for key in self.keys], dtype=torch.float64)
        return self._effects_of(self.numbers.double() @ ratios[:, None])[0]

    def group_effects(self, groups: Sequence[Iterable[str]]) -> list[float]:
        """Estimate the effect of groups of tensors, each at a ratio larger by 1.

        Args:
            groups: The keys of each group.
        """
        places = {key: place for place, key in enumerate(self.keys)}
        members = torch.zeros(len(self.keys), len(groups), dtype=torch.float64)
        for column, keys in enumerate(groups):
            members[[places[key] for key in keys if key in places], column] = 1
        return self._effects_of(self.numbers.double() @ members)

    def _effects_of(self, products: Tensor) -> list[float]:
        """Give the effects that belong to columns of samples: the mean of those on the image of each request."""
        requests = sorted({row.request for row in self.passes})
        places = torch.tensor([requests.index(row.request) for row in self.passes], dtype=torch.long)
        squares = torch.zeros(len(requests), products.shape[1], dtype=torch.float64)
        squares.index_add_(0, places, products.square() * self.weights[:, None])
        effects: list[float] = (squares.sqrt().sum(dim=0) / max(1, len(requests))).tolist()
        return effects


def _mean_of_root(count: int) -> float:
    """Give the mean of the root mean square of normally distributed numbers whose variance is 1.

    It is below 1, and an estimate from few samples would be too small without it (the constant c4 of statistical
    quality control, for a known mean).
    """
    return math.sqrt(2 / count) * math.exp(math.lgamma((count + 1) / 2) - math.lgamma(count / 2)) if count else 1.0


def no_samples(keys: Sequence[str]) -> Samples:
    """Give an estimate without passes."""
    return Samples(tuple(keys), (), torch.zeros(0, len(keys)), {})
