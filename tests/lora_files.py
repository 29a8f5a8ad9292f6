"""Small LoRA files of each format, and what they add, written out from the formulas."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

State = dict[str, Tensor]
RANK = 4
ALPHA = 3.0

_generator = torch.Generator().manual_seed(19)


def numbers(*shape: int, dtype: torch.dtype = torch.float16) -> Tensor:
    return (torch.randn(shape, generator=_generator) * 0.3).to(dtype)


Made = tuple[State, Tensor]
"""The tensors of one layer by the ends of their keys, and what they add to its weight, float64."""


def lora(shape: tuple[int, ...], *, names: tuple[str, str] = (".lora_down.weight", ".lora_up.weight")) -> Made:
    """Make the two factors; a convolution's kernel is in the first."""
    out, *rest = shape
    down, up = numbers(RANK, *rest), numbers(out, RANK, *([1] * (len(rest) - 1)))
    delta = torch.zeros(out, math.prod(rest), dtype=torch.float64)
    for rank in range(RANK):
        delta += torch.outer(up.double().reshape(out, RANK)[:, rank], down.double()[rank].reshape(-1))
    return {names[0]: down, names[1]: up}, delta.reshape(shape)


def _alpha(made: Made) -> Made:
    tensors, delta = made
    return {**tensors, ".alpha": torch.tensor(ALPHA)}, delta * ALPHA / RANK


def locon(shape: tuple[int, ...]) -> Made:
    """Make a convolution's factors of Tucker's form: one channel by channel, one of the kernel, one back."""
    out, inputs, *kernel = shape
    down, mid, up = numbers(RANK, inputs, 1, 1), numbers(RANK, RANK, *kernel), numbers(out, RANK, 1, 1)
    delta = torch.einsum("or,rskl,si->oikl", up[..., 0, 0].double(), mid.double(), down[..., 0, 0].double())
    return {".lora_down.weight": down, ".lora_mid.weight": mid, ".lora_up.weight": up}, delta


def loha(shape: tuple[int, ...]) -> Made:
    out, *rest = shape
    columns = math.prod(rest)
    made = {f".hada_w{i}_{end}": numbers(*size) for i in (1, 2) for end, size in _factors(out, columns)}
    one, two = (made[f".hada_w{i}_a"].double() @ made[f".hada_w{i}_b"].double() for i in (1, 2))
    return made, (one * two).reshape(shape)


def _factors(out: int, columns: int) -> list[tuple[str, tuple[int, int]]]:
    return [("a", (out, RANK)), ("b", (RANK, columns))]


def loha_tucker(shape: tuple[int, ...]) -> Made:
    out, inputs, *kernel = shape
    made: State = {}
    products = []
    for i in (1, 2):
        core, left, right = numbers(RANK, RANK, *kernel), numbers(RANK, out), numbers(RANK, inputs)
        made |= {f".hada_t{i}": core, f".hada_w{i}_a": left, f".hada_w{i}_b": right}
        products.append(torch.einsum("rskl,ro,si->oikl", core.double(), left.double(), right.double()))
    return made, products[0] * products[1]


def _halves(shape: tuple[int, ...]) -> tuple[tuple[int, int], tuple[int, ...]]:
    out, inputs, *kernel = shape
    return (2, 4), (out // 2, inputs // 4, *kernel)


def lokr(shape: tuple[int, ...]) -> Made:
    """Make two matrices; no factors, so that alpha means nothing."""
    outer, inner = _halves(shape)
    one, two = numbers(*outer), numbers(*inner)
    ones = one.double().reshape(*outer, *([1] * (len(shape) - 2)))
    return {".lokr_w1": one, ".lokr_w2": two}, torch.kron(ones, two.double())


def lokr_factors(shape: tuple[int, ...]) -> Made:
    outer, inner = _halves(shape)
    made = {".lokr_w1": numbers(*outer), ".lokr_w2_a": numbers(inner[0], RANK)}
    made[".lokr_w2_b"] = numbers(RANK, math.prod(inner[1:]))
    two = (made[".lokr_w2_a"].double() @ made[".lokr_w2_b"].double()).reshape(inner)
    ones = made[".lokr_w1"].double().reshape(*outer, *([1] * (len(shape) - 2)))
    return made, torch.kron(ones, two)


def lokr_tucker(shape: tuple[int, ...]) -> Made:
    outer, (rows, inputs, *kernel) = _halves(shape)
    made = {".lokr_w1_a": numbers(2, RANK), ".lokr_w1_b": numbers(RANK, 4), ".lokr_t2": numbers(RANK, RANK, *kernel)}
    made |= {".lokr_w2_a": numbers(RANK, rows), ".lokr_w2_b": numbers(RANK, inputs)}
    wide = {end: tensor.double() for end, tensor in made.items()}
    two = torch.einsum("rskl,ro,si->oikl", wide[".lokr_t2"], wide[".lokr_w2_a"], wide[".lokr_w2_b"])
    one = (wide[".lokr_w1_a"] @ wide[".lokr_w1_b"]).reshape(*outer, 1, 1)
    return made, torch.kron(one, two.contiguous())


def full(shape: tuple[int, ...], end: str = ".diff") -> Made:
    tensor = numbers(*shape)
    return {end: tensor}, tensor.double()


LINEAR: Mapping[str, Callable[[tuple[int, ...]], Made]] = {
    "LoRA": lora,
    "LoRA with alpha": lambda shape: _alpha(lora(shape)),
    "LoHa": lambda shape: _alpha(loha(shape)),
    "LoKr": lokr,
    "LoKr factors": lambda shape: _alpha(lokr_factors(shape)),
    "full": full,
}
KERNEL: Mapping[str, Callable[[tuple[int, ...]], Made]] = {
    **LINEAR,
    "LoCon": lambda shape: _alpha(locon(shape)),
    "LoHa Tucker": lambda shape: _alpha(loha_tucker(shape)),
    "LoKr Tucker": lambda shape: _alpha(lokr_tucker(shape)),
}
"""The formats of linear layers, and of convolutions."""


def with_name(name: str, made: Made | OfWeight) -> State:
    """Give the tensors of a layer their keys in a file."""
    return {name + end: tensor.contiguous() for end, tensor in made[0].items()}


OfWeight = tuple[State, Callable[[Tensor], Tensor]]
"""The tensors of one layer by the ends of their keys, and what they make of its weight, float64, for a ratio of 1."""


def dora(made: Made, magnitudes: State, axis: int = 0) -> OfWeight:
    """Give what a format adds a length for each output (axis 0) or input (1)."""
    tensors, delta = made
    (lengths,) = magnitudes.values()

    def formula(weight: Tensor) -> Tensor:
        merged = (weight + delta).transpose(0, axis).clone()
        for at, length in enumerate(lengths.double().reshape(-1)):
            merged[at] *= length / merged[at].square().sum().sqrt()
        return merged.transpose(0, axis)

    return tensors | magnitudes, formula


def _dora_of(make: Callable[[tuple[int, ...]], Made], axis: int) -> Callable[[tuple[int, ...]], OfWeight]:
    def made(shape: tuple[int, ...]) -> OfWeight:
        ones = [count if each == axis else 1 for each, count in enumerate(shape)]
        return dora(make(shape), {".dora_scale": numbers(*ones).abs() + 1}, axis)

    return made


def peft_dora(shape: tuple[int, ...]) -> OfWeight:
    """Make PEFT's DoRA: a number for each output, which is the second dimension in convolutions."""
    lengths = numbers(*shape[:1] if len(shape) == 2 else (1, shape[0], 1, 1)).abs() + 1
    return dora(lora(shape, names=(".lora_A.weight", ".lora_B.weight")), {".lora_magnitude_vector": lengths})


def _cayley(block: Tensor, limit: float = 1.0) -> Tensor:
    skew, one = (block.double() - block.double().T) * limit, torch.eye(len(block), dtype=torch.float64)
    turn: Tensor = torch.linalg.solve((one - skew).T, (one + skew).T).T
    return turn


def _along_diagonal(*blocks: Tensor) -> Tensor:
    size = len(blocks[0])
    whole = torch.zeros(len(blocks) * size, len(blocks) * size, dtype=torch.float64)
    for at, block in enumerate(blocks):
        whole[at * size :, at * size :][:size, :size] = block
    return whole


def oft(shape: tuple[int, ...], *, alpha: float | None = None, rescaled: bool = False) -> OfWeight:
    """Make rotations of blocks of two outputs; alpha is their limit."""
    blocks = numbers(shape[0] // 2, 2, 2)
    tensors: State = {".oft_blocks": blocks} | ({} if alpha is None else {".alpha": torch.tensor(alpha)})
    scale = numbers(shape[0], *([1] * (len(shape) - 1))) + 1
    limit = 1.0
    if alpha:
        length = (blocks.double() - blocks.double().mT).square().sum().sqrt().item()
        limit = (alpha * shape[0] + 1e-8) / (length + 1e-8)
        assert limit < 1

    def formula(weight: Tensor) -> Tensor:
        whole = _along_diagonal(*(_cayley(block, limit).T for block in blocks))
        turned = (whole @ weight.flatten(1)).reshape(shape)
        return turned * scale.double() if rescaled else turned

    return tensors | ({".rescale": scale} if rescaled else {}), formula


def oft_diag(shape: tuple[int, ...]) -> OfWeight:
    """Make rotations that the file holds as they are."""
    turns = numbers(shape[0] // 4, 4, 4)
    whole = _along_diagonal(*(turn.double().T for turn in turns))
    return {".oft_diag": turns}, lambda weight: (whole @ weight.flatten(1)).reshape(shape)


def boft(shape: tuple[int, ...]) -> OfWeight:
    """Make a butterfly of two stages of blocks of four outputs."""
    rows, size = shape[0], 4
    blocks = numbers(2, rows // size, size, size)
    whole = torch.eye(rows, dtype=torch.float64)
    for stage in range(2):
        distance = size // 2 << stage
        places = [
            row // (2 * distance) * 2 * distance + row % distance * 2 + row // distance % 2 for row in range(rows)
        ]
        turns = _along_diagonal(*map(_cayley, blocks[stage]))
        whole = turns[places][:, places] @ whole
    return {".oft_blocks": blocks}, lambda weight: (whole @ weight.flatten(1)).reshape(shape)


def ia3(shape: tuple[int, ...], *, on_input: bool = False) -> OfWeight:
    axis = int(on_input)
    factors = numbers(shape[axis]) if len(shape) == 2 else numbers(1, shape[axis], 1, 1)

    def formula(weight: Tensor) -> Tensor:
        more = weight.transpose(0, axis) * factors.double().reshape(-1, *([1] * (len(shape) - 1)))
        return weight + more.transpose(0, axis)

    return {".weight": factors, ".on_input": torch.tensor(int(on_input))}, formula


def glora(shape: tuple[int, ...], *, old: bool = False) -> OfWeight:
    out, inputs, *kernel = shape
    first, second, left = numbers(inputs, RANK), numbers(RANK, inputs), numbers(out, RANK)
    right = numbers(RANK, inputs, *kernel)
    names = ("a2", "a1", "b2", "b1") if old else ("a1", "a2", "b1", "b2")
    tensors = {f".{name}.weight": each for name, each in zip(names, (first, second, left, right), strict=True)}

    def formula(weight: Tensor) -> Tensor:
        mixed = torch.einsum("oi...,ij->oj...", weight, first.double() @ second.double())
        added = (left.double() @ right.double().flatten(1)).reshape(shape)
        return weight + (mixed + added) * ALPHA / RANK

    return tensors | {".alpha": torch.tensor(ALPHA)}, formula


OF_WEIGHT: Mapping[str, Callable[[tuple[int, ...]], OfWeight]] = {
    "DoRA of outputs": _dora_of(lambda shape: _alpha(lora(shape)), 0),
    "DoRA of inputs": _dora_of(lora, 1),
    "DoRA of PEFT": peft_dora,
    "DoRA of LoHa": _dora_of(lambda shape: _alpha(loha(shape)), 0),
    "DoRA of LoKr": _dora_of(lambda shape: _alpha(lokr_factors(shape)), 1),
    "OFT": oft,
    "OFT with a limit": lambda shape: oft(shape, alpha=2.0**-7),
    "OFT that rescales": lambda shape: oft(shape, alpha=0.0, rescaled=True),
    "older OFT": oft_diag,
    "BOFT": boft,
    "IA3 of outputs": ia3,
    "IA3 of inputs": lambda shape: ia3(shape, on_input=True),
    "GLoRA": glora,
    "old GLoRA": lambda shape: glora(shape, old=True),
}
"""The formats that need the weight."""
