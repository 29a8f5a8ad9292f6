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


def with_name(name: str, made: Made) -> State:
    """Give the tensors of a layer their keys in a file."""
    return {name + end: tensor.contiguous() for end, tensor in made[0].items()}
