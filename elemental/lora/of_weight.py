"""Formats that need the weight which they change: DoRA, OFT, BOFT, IA3 and GLoRA.

A weight is given as the layer has it, of shape (outputs, inputs, *kernel), float64, and is never written to. Each
function gives the whole changed weight W', for a ratio of 1. A ratio then leads from W to W' by a straight line,
W + ratio (W' - W), as the WebUI's own extension shows ``<lora:name:ratio>``: ``finalize_updown`` in
extensions-builtin/Lora/network.py of github.com/AUTOMATIC1111/stable-diffusion-webui 1.10.1. lycoris-lora has the same
W', but other ways to it: in DoRA it adds all of the difference and takes a part of the rescaling, in OFT it rescales in
full, and in BOFT it takes a part of each rotation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from ..errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
Numbers = Mapping[str, "Tensor"]

DORA = ("dora", "magnitude")
"""The roles of DoRA's magnitudes: as LyCORIS writes them, and as PEFT does."""
ANY = 0
"""The place of a number of rows or columns that the tensors do not tell."""
Size = tuple[int, int] | None

_EPSILON = 1e-8


def magnitude_axis(shapes: Shapes, layer: Shape) -> int | None:
    """Tell which axis of a weight keeps its magnitudes.

    LyCORIS has one for each output, (outputs, 1, ...), or for each input, (1, inputs, ...). The WebUI 1.10.1 takes the
    norm of each input for both, which is another formula than trained for those of outputs (``apply_weight_decompose``
    in extensions-builtin/Lora/network.py). PEFT has one for each output, in convolutions of the shape
    (1, outputs, 1, 1).

    Args:
        shapes: The tensors' shapes, with one role of :data:`DORA`.
        layer: The shape of the weight.

    Returns:
        0 or 1; None if they fit to neither.
    """
    shape = shapes.get("dora", ())
    count = math.prod(shape or shapes.get("magnitude", ()))
    if len(layer) < 2:
        return None
    if count == layer[0] and (not shape or shape[0] == count):
        return 0
    return 1 if len(shape) > 1 and count == shape[1] == layer[1] else None


def decompose(weight: Tensor, delta: Tensor, numbers: Numbers) -> Tensor:
    """Add a difference, and give each output or input its magnitude: DoRA, m (W + D) / |W + D|.

    Where all of W + D is 0, it stays 0.

    Args:
        weight: The weight.
        delta: The difference, a matrix of (outputs, inputs times kernel) in memory of its own, which is written to.
        numbers: The tensors, with one role of :data:`DORA`.
    """
    layer = tuple(weight.shape)
    axis = magnitude_axis({role: tuple(found.shape) for role, found in numbers.items()}, layer)
    magnitudes = next(numbers[role] for role in DORA if role in numbers)
    merged = delta.reshape(layer).add_(weight)
    norm = merged.norm(2, dim=[each for each in range(len(layer)) if each != axis], keepdim=True)
    norm.masked_fill_(norm == 0, 1.0)
    return merged.mul_(magnitudes.double().reshape(norm.shape) / norm)


def oft_size(shapes: Shapes) -> Size:
    """Give the rows that the blocks of OFT turn; None if they are no blocks."""
    blocks = shapes["oft_diag" if "oft_diag" in shapes else "oft"]
    whole = len(blocks) == 3 and blocks[1] == blocks[2]
    return (blocks[0] * blocks[1], ANY) if whole and _rescale_fits(shapes, blocks[0] * blocks[1]) else None


def boft_size(shapes: Shapes) -> Size:
    """Give the rows that the blocks of BOFT turn; None if they are no butterfly."""
    stages, count, size, other = shapes["boft"]
    whole = size == other and size % 2 == 0 and stages and count % (1 << (stages - 1)) == 0
    return (count * size, ANY) if whole and _rescale_fits(shapes, count * size) else None


def _rescale_fits(shapes: Shapes, rows: int) -> bool:
    return "rescale" not in shapes or math.prod(shapes["rescale"]) == rows


def oft_fits(shapes: Shapes, layer: Shape) -> bool:
    """Tell whether rotations of outputs fit to a weight."""
    size = boft_size(shapes) if "boft" in shapes else oft_size(shapes)
    return size is not None and len(layer) > 1 and layer[0] == size[0]


def turn(numbers: Numbers, weight: Tensor) -> Tensor:
    """Turn outputs within blocks: OFT. Each block of rows becomes R^T times it, and is rescaled where the file says so.

    R is the Cayley transform (I + Q) (I - Q)^-1 of Q = X - X^T. ``alpha`` is a limit: Q is shortened to the length
    alpha times outputs, if alpha is not 0. ``oft_diag``, of older versions of LyCORIS, holds R itself, as the WebUI
    reads it. Source: networks/oft.py of github.com/kohya-ss/sd-scripts, and network_oft.py of the WebUI.
    """
    rows = weight.shape[0]
    turns = numbers["oft_diag"].double() if "oft_diag" in numbers else _cayley(numbers["oft"], numbers, rows)
    found = turns.transpose(1, 2) @ weight.reshape(turns.shape[0], turns.shape[1], -1)
    return _rescaled(found.reshape(weight.shape), numbers)


def turn_butterfly(numbers: Numbers, weight: Tensor) -> Tensor:
    """Turn outputs in stages, each within blocks of outputs that are twice as far apart: BOFT.

    Stage i, from 0, brings together outputs at distance 2^i b / 2, where b is the size of a block, multiplies each
    block by its R, and puts them back. R is made as in :func:`turn`. Source: lycoris/modules/boft.py of
    github.com/KohakuBlueleaf/LyCORIS, and network_oft.py of the WebUI.
    """
    rows, size = weight.shape[0], numbers["boft"].shape[-1]
    found = weight.reshape(rows, -1)
    for stage, turns in enumerate(_cayley(numbers["boft"], numbers, rows)):
        distance = size // 2 << stage
        mixed = found.reshape(-1, 2, distance, found.shape[1]).transpose(1, 2)
        turned = turns @ mixed.reshape(turns.shape[0], size, -1)
        found = turned.reshape(-1, distance, 2, found.shape[1]).transpose(1, 2).reshape(rows, -1)
    return _rescaled(found.reshape(weight.shape), numbers)


def _cayley(blocks: Tensor, numbers: Numbers, rows: int) -> Tensor:
    blocks = blocks.double()
    skew = blocks - blocks.transpose(-1, -2)
    limit = float(numbers["alpha"]) * rows if "alpha" in numbers else 0.0
    if limit:
        length = skew.norm().item()
        skew *= (min(length, limit) + _EPSILON) / (length + _EPSILON)
    one = skew.new_ones(skew.shape[-1]).diag()
    return (one + skew) @ (one - skew).inverse()


def _rescaled(weight: Tensor, numbers: Numbers) -> Tensor:
    if "rescale" not in numbers:
        return weight
    return weight * numbers["rescale"].double().reshape(-1, *([1] * (weight.dim() - 1)))


def ia3_size(shapes: Shapes) -> Size:
    """Give no rows and columns: whether the numbers belong to the outputs or the inputs is a number in the file."""
    return (ANY, ANY) if math.prod(shapes["ia3"]) else None


def ia3_fits(shapes: Shapes, layer: Shape) -> bool:
    """Tell whether there is a number for each output or each input."""
    return len(layer) > 1 and math.prod(shapes["ia3"]) in layer[:2]


def scale_channels(numbers: Numbers, weight: Tensor) -> Tensor:
    """Multiply each output, or each input if ``on_input`` is not 0, with 1 more than its number: IA3.

    So it is in lycoris/modules/ia3.py, and in network_ia3.py of the WebUI, which does not apply those of the outputs of
    a convolution.

    Raises:
        CheckpointError: There are not as many numbers as ``on_input`` says.
    """
    axis = int(bool(numbers["on_input"].any()))
    factors = numbers["ia3"].double().reshape(-1)
    if len(factors) != weight.shape[axis]:
        raise CheckpointError(
            f"there are {len(factors):,} numbers for {weight.shape[axis]:,} {('outputs', 'inputs')[axis]}"
        )
    return weight * (factors + 1).reshape([-1 if each == axis else 1 for each in range(weight.dim())])


class _Glora(NamedTuple):
    """The roles of GLoRA's factors in the order in which they are multiplied, and their sizes."""

    roles: tuple[str, str, str, str]
    of_weight: tuple[int, int]
    added: tuple[int, int]
    rank: int


def _glora(shapes: Shapes) -> _Glora | None:
    for roles in (("a1", "a2", "b1", "b2"), ("a2", "a1", "b2", "b1")):
        first, second, left, right = (shapes[role] for role in roles)
        if min(map(len, (first, second, left, right))) < 2:
            return None
        rank = second[0]
        one, two = (first[0], math.prod(second[1:])), (left[0], math.prod(right[1:]))
        whole = math.prod(first[1:]) == rank and math.prod(left[1:]) == right[0] and one[0] == one[1] >= rank
        if whole and right[1] == one[1]:
            return _Glora(roles, one, two, rank)
    return None


def glora_size(shapes: Shapes) -> Size:
    """Give rows and columns of the matrix that GLoRA adds; None if the factors do not fit together."""
    found = _glora(shapes)
    return None if found is None else found.added


def glora_fits(shapes: Shapes, layer: Shape) -> bool:
    """Tell whether the factors of GLoRA fit to a weight."""
    found = _glora(shapes)
    size = layer[0], math.prod(layer[1:])
    return found is not None and len(layer) > 1 and found.of_weight[0] == layer[1] and found.added == size


def generalise(numbers: Numbers, weight: Tensor) -> Tensor:
    """Add a product of the weight, and one beside it: GLoRA, W + alpha / rank (W a1 a2 + b1 b2).

    a1 a2 mixes the inputs. So lycoris/modules/glora.py has it; older files, which alone the WebUI reads, have a2 a1 and
    b2 b1, and there the WebUI leaves alpha and rank out.
    """
    found = _glora({role: tuple(each.shape) for role, each in numbers.items()})
    assert found is not None
    first, second, left, right = (numbers[role].double().flatten(1) for role in found.roles)
    scale = float(numbers["alpha"]) / found.rank if "alpha" in numbers else 1.0
    mixed = ((weight.flatten(2).transpose(1, 2) if weight.dim() > 2 else weight) @ first) @ second
    mixed = mixed.transpose(1, 2) if weight.dim() > 2 else mixed
    return weight + (mixed.reshape(weight.shape) + (left @ right).reshape(weight.shape)) * scale
