"""The formulas of some modes, written out in float64 from their sources: those with numbers, rows, whole tensors.

Numbers have their defaults.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what compares ratios alone needs no torch
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor


def train_difference(a: Tensor, b: Tensor, c: Tensor, alpha: float) -> Tensor:
    """Source: supermerger, mergers.py."""
    import torch

    share = torch.nan_to_num((b - a).abs() / ((b - c).abs() + (b - a).abs()))
    return a + 1.8 * alpha * share * (b - c)


def dare(a: Tensor, b: Tensor, alpha: float, key: str) -> Tensor:
    """Source: arXiv 2311.03099, with half of the difference dropped."""
    kept = drawn(key, "b", a) < 2**31
    return a + alpha * kept.double() * (b - a) / 0.5


def drawn(key: str, role: str, like: Tensor, *, seed: int = 0) -> Tensor:
    """Draw numbers of 32 bits for a tensor by Philox, with four words of 64 bits and ten rounds, as its authors say.

    Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011, section 3.3 and table 2.
    """
    import numpy as np
    import torch

    digest = hashlib.sha256(f"{seed}\n{role}\n{key}".encode()).digest()
    keys = list(struct.unpack("<2Q", digest[:16]))
    count = -(-like.numel() // 8)
    words = [np.arange(1, count + 1, dtype="u8"), *(np.zeros(count, dtype="u8") for _ in range(3))]
    for _ in range(10):
        (high0, low0), (high1, low1) = _product(words[0], 0xD2E7470EE14C6C93), _product(words[2], 0xCA5A826395121157)
        words = [high1 ^ words[1] ^ np.uint64(keys[0]), low1, high0 ^ words[3] ^ np.uint64(keys[1]), low0]
        keys = [(keys[0] + 0x9E3779B97F4A7C15) % 2**64, (keys[1] + 0xBB67AE8584CAA73B) % 2**64]
    halves = np.stack([half for word in words for half in (word & np.uint64(2**32 - 1), word >> np.uint64(32))], axis=1)
    return torch.from_numpy(halves.reshape(-1)[: like.numel()].astype("i8")).reshape(like.shape)


def _product(words: NDArray[np.uint64], factor: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Give the high and the low 64 bits of products."""
    import numpy as np

    half, mask = np.uint64(32), np.uint64(2**32 - 1)
    low, high = np.uint64(factor % 2**32), np.uint64(factor >> 32)
    words_low, words_high = words & mask, words >> half
    one = words_high * low + (words_low * low >> half)
    other = words_low * high + (one & mask)
    return words_high * high + (one >> half) + (other >> half), words * np.uint64(factor)


def della(a: Tensor, b: Tensor, alpha: float, key: str) -> Tensor:
    """Source: arXiv 2406.11617, with chances from 0.6 to 0.4 by the rank in a row."""
    import torch

    rows = (b - a).reshape(len(a), -1) if a.dim() > 1 else (b - a).reshape(1, -1)
    chances = torch.full_like(rows, 0.5)
    for row, chance in zip(rows, chances, strict=True):
        if len(row) > 1:
            by_size = sorted(range(len(row)), key=lambda place: abs(float(row[place])))
            chance[by_size] = torch.linspace(0.6, 0.4, len(row), dtype=torch.float64)
    kept = drawn(key, "b", rows).double() < (1 - chances) * 2**32
    return a + alpha * torch.where(kept, rows / (1 - chances), 0.0).reshape(a.shape)


def ties(a: Tensor, b: Tensor, c: Tensor, alpha: float) -> Tensor:
    """Source: arXiv 2306.01708, with a fifth of each difference."""
    import torch

    kept = []
    for change in (b - a, c - a):
        least = change.abs().reshape(-1).sort(descending=True).values[max(1, round(0.2 * change.numel())) - 1]
        kept.append(torch.where(change.abs() >= least, change, 0.0))
    sign = torch.sign(kept[0] + kept[1])
    agreeing = [torch.where((torch.sign(change) == sign) & (change != 0), change, 0.0) for change in kept]
    count = (agreeing[0] != 0).double() + (agreeing[1] != 0).double()
    return a + alpha * torch.where(count > 0, (agreeing[0] + agreeing[1]) / count, 0.0)


def model_stock(a: Tensor, b: Tensor, c: Tensor, alpha: float) -> Tensor:
    """Source: arXiv 2403.19522, equation 7 with N = 2."""
    import torch

    one, other = (b - a).reshape(-1), (c - a).reshape(-1)
    cosine = float(torch.nn.functional.cosine_similarity(one, other, dim=0, eps=0).nan_to_num().clamp(min=0))
    return a + alpha * (2 * cosine / (1 + cosine)) * ((b - a) + (c - a)) / 2


def extract(a: Tensor, b: Tensor, c: Tensor, alpha: float, beta: float) -> Tensor:
    """Source: supermerger, mergers.py, with gamma 0.3; (1 + cos) / 2 is the square of the cosine of half the angle."""
    import torch

    x, y = b - a, c - a
    if not a.dim():
        return extract(a[None], b[None], c[None], alpha, beta)[0]
    units = [part / torch.linalg.vector_norm(part, dim=-1, keepdim=True) for part in (x, y)]
    across, along = (torch.linalg.vector_norm(units[0] + sign * units[1], dim=-1, keepdim=True) for sign in (-1, 1))
    alike = (torch.cos(torch.atan2(across, along)) ** 2).nan_to_num(0.5) ** 0.3
    alike[along == 0] = 0.0  # the cosine of a right angle is not quite 0
    return a + ((1 - alpha) * x + alpha * y) * ((1 - beta) * alike + beta * (1 - alike))


def cosine(mode: str, a: Tensor, b: Tensor, alpha: float, key: str, bounds: Mapping[str, float]) -> Tensor:
    """Source: supermerger, mergers.py, "cosineA" and "cosineB"; the VAE is A's."""
    if key.startswith("first_stage_model."):
        return a
    of_columns, of_all = _cosines(mode, a, b)
    share = ((of_columns + of_all) / 2 - bounds["lo"]) / (bounds["hi"] - bounds["lo"])
    kept = (share - (abs(alpha) if mode == "cosine-a" else alpha)).clip(0, 1)
    return (1 - kept) * b + kept * a


def _cosines(mode: str, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Give the cosine of each column and that of all; without a direction, it is 0."""
    from torch.nn.functional import cosine_similarity, normalize

    if not a.dim():
        a, b = a[None], b[None]
    of_columns = cosine_similarity(a, b, dim=0, eps=0).nan_to_num()
    if mode == "cosine-a":
        a, b = (normalize(tensor, dim=0, eps=1e-300) for tensor in (a, b))
    return of_columns, cosine_similarity(a.reshape(-1), b.reshape(-1), dim=0, eps=0).nan_to_num()


def bounds_of(mode: str, states: Sequence[Mapping[str, Tensor]]) -> dict[str, float]:
    """Give lo and hi of whole models: least and most of what is within the 1st and the 99th percentile.

    Source: supermerger, mergers.py; what is left after the lower ones are dropped has its own 99th percentile.
    """
    import numpy as np

    if mode not in COSINES:
        return {}
    found = []
    for key in states[0].keys() & states[1].keys():
        a, b = states[0][key], states[1][key]
        if key.startswith(_SURVEYED) and not key.endswith("position_ids") and a.is_floating_point():
            if a.shape[1:2] != b.shape[1:2]:
                a, b = a[:, :4], b[:, :4]
            of_columns, of_all = _cosines(mode, a.double(), b.double().reshape(a.shape))
            found.append((of_columns if mode == "cosine-a" else (of_columns + of_all) / 2).reshape(-1))
    numbers = np.concatenate([part.numpy() for part in found])
    numbers = numbers[numbers >= np.percentile(numbers, 1, method="midpoint")]
    numbers = numbers[numbers <= np.percentile(numbers, 99, method="midpoint")]
    return {"lo": numbers.min(), "hi": numbers.max()}


COSINES = ("cosine-a", "cosine-b")
_SURVEYED = ("model.diffusion_model.", "cond_stage_model.", "conditioner.")


def smooth_add(a: Tensor, b: Tensor, c: Tensor, alpha: float) -> Tensor:
    """Source: supermerger, mergers.py, and the documentation of scipy.ndimage's filters and of their mode "reflect"."""
    import torch

    change = b - c
    shifts = itertools.product((-1, 0, 1), repeat=change.dim())
    smooth = torch.stack([_shifted(change, shift) for shift in shifts]).median(dim=0).values
    weights = [math.exp(-(distance**2) / 2) for distance in range(-4, 5)]
    for axis in range(change.dim()):
        steps = [[distance if each == axis else 0 for each in range(change.dim())] for distance in range(-4, 5)]
        weighed = [weight * _shifted(smooth, step) for weight, step in zip(weights, steps, strict=True)]
        smooth = torch.stack(weighed).sum(dim=0) / sum(weights)
    return a + alpha * smooth


def _shifted(numbers: Tensor, shift: Sequence[int]) -> Tensor:
    """Give each number's neighbour at a place, edges reflected: d c b a | a b c d | d c b a."""
    for axis, distance in enumerate(shift):
        length = numbers.shape[axis]
        places = [place % (2 * length) for place in range(distance, length + distance)]
        numbers = numbers[(slice(None),) * axis + ([min(place, 2 * length - 1 - place) for place in places],)]
    return numbers


def crossover(a: Tensor, b: Tensor, alpha: float, tilt: float = 0.0) -> Tensor:
    """Source: sd-mecha, crossover.py, without axes of one number; the transform is the sum that defines it."""
    import torch

    sizes = [size for size in a.shape if size > 1]
    if not sizes or alpha == 1:
        return (1 - alpha) * a + alpha * b
    height, change = torch.zeros(sizes, dtype=torch.float64), (b - a).reshape(sizes).to(torch.complex128)
    for axis, size in enumerate(sizes):
        along = torch.tensor([min(place, size - place) / (size // 2) for place in range(size)], dtype=torch.float64)
        height += along.reshape([-1 if each == axis else 1 for each in range(len(sizes))]) ** 2 / len(sizes)
        change = _transformed(change, axis, -1)
    height = height.sqrt()
    share = (height > 1 - alpha + 1e-9).double()
    if tilt:
        share = (alpha + (height - (1 - alpha)) / math.tan(math.pi / 2 * tilt)).clamp(0, 1)
    change = change * share
    for axis, size in enumerate(sizes):
        change = _transformed(change, axis, 1) / size
    return a + change.real.reshape(a.shape)


def _transformed(numbers: Tensor, axis: int, sign: int) -> Tensor:
    """Give the sum over x of the numbers times exp(sign 2 pi i k x / n) along an axis, for each k."""
    import torch

    size = numbers.shape[axis]
    places = torch.arange(size)
    angles = 2 * math.pi / size * (places[:, None] * places[None] % size).double()
    waves = torch.polar(torch.ones_like(angles), sign * angles)
    summed: Tensor = torch.tensordot(numbers, waves, dims=([axis], [0]))
    return summed.movedim(-1, axis)


def geometric_median(a: Tensor, b: Tensor, c: Tensor, alpha: float) -> Tensor:
    """Source: Weiszfeld's rounds, as in sd-mecha, after Kuhn's test ("A note on Fermat's problem", 1973) of the models.

    Where the others do not pull harder at a model than it holds, it is the median itself.
    """
    import torch

    models = [a, b, c]
    for model in models:
        ways = [other - model for other in models]
        lengths = [float(torch.linalg.vector_norm(way)) for way in ways]
        pull = sum(way / length for way, length in zip(ways, lengths, strict=True) if length)
        if isinstance(pull, int) or float(torch.linalg.vector_norm(pull)) <= lengths.count(0) + 1e-12:
            return a + alpha * (model - a)
    median = (a + b + c) / 3
    for _ in range(5000):
        weights = [1 / float(torch.linalg.vector_norm(model - median)) for model in models]
        last = median
        median = a + sum(weight * (model - a) for weight, model in zip(weights, models, strict=True)) / sum(weights)
        if float((median - last).abs().max()) <= 2**-52 * float(median.abs().max()):
            break
    return a + alpha * (median - a)


def karcher(a: Tensor, b: Tensor, c: Tensor, alpha: float) -> Tensor:
    """Source: mergekit, karcher.py, with many rounds; angles by the distance of two directions, which keeps digits."""
    import torch

    lengths = [torch.linalg.vector_norm(model) for model in (a, b, c)]
    units = [model / length for model, length in zip((a, b, c), lengths, strict=True) if length > 0]
    if not units:
        return a
    mean = torch.stack(units).sum(dim=0)
    mean = mean / torch.linalg.vector_norm(mean) if torch.linalg.vector_norm(mean) > 1e-6 else units[0]
    for _ in range(100):
        way = torch.zeros_like(mean)
        for unit in units:
            angle = 2 * torch.asin((torch.linalg.vector_norm(unit - mean) / 2).clamp(max=1))
            if 0 < angle < math.pi - 1e-6:
                way += angle / torch.sin(angle) * (unit - torch.cos(angle) * mean) / len(units)
        angle = torch.linalg.vector_norm(way)
        if not angle > 2**-54:
            break
        mean = torch.cos(angle) * mean + torch.sin(angle) / angle * way
        mean /= torch.linalg.vector_norm(mean)
    found: Tensor = a + alpha * (sum(lengths) / 3 * mean - a)
    return found


FORMULAS: Mapping[str, Callable[[Tensor, Tensor, Tensor, float, float, str], Tensor]] = {
    "train-difference": lambda a, b, c, alpha, _, __: train_difference(a, b, c, alpha),
    "smooth-add": lambda a, b, c, alpha, _, __: smooth_add(a, b, c, alpha),
    "extract": lambda a, b, c, alpha, beta, _: extract(a, b, c, alpha, beta),
    "della": lambda a, b, _, alpha, __, key: della(a, b, alpha, key),
    "ties": lambda a, b, c, alpha, _, __: ties(a, b, c, alpha),
    "crossover": lambda a, b, _, alpha, __, ___: crossover(a, b, alpha),
    "geometric-median": lambda a, b, c, alpha, _, __: geometric_median(a, b, c, alpha),
    "karcher": lambda a, b, c, alpha, _, __: karcher(a, b, c, alpha),
    "model-stock": lambda a, b, c, alpha, _, __: model_stock(a, b, c, alpha),
    "self": lambda a, _, __, alpha, ___, ____: alpha * a,
    "dare": lambda a, b, _, alpha, __, key: dare(a, b, alpha, key),
}
"""The formula of each mode, from A, B, C, alpha, beta and the tensor's key."""
