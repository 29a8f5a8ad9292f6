"""Slow and plain second opinions, written from the definitions alone, for the tests to compare with."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from .mode_formulas import COSINES, FORMULAS, cosine

if TYPE_CHECKING:  # what compares ratios alone needs no torch
    from torch import Tensor

_ORDER = ["BASE", *(f"IN{i:02}" for i in range(12)), "M00", *(f"OUT{i:02}" for i in range(12))]


def slow_ratio(spec: str, key: str, depth: int, *, field: int = 2, target: str = "") -> float | None:
    """Give the ratio of a key by the last rule of a valid spec that matches it and has that ratio, or None.

    Args:
        spec: The text.
        key: A full state-dict key.
        depth: Input blocks of the architecture: 12, or 9 for SDXL.
        field: 2 for alpha, 3 for beta.
        target: Whose ratio it is, in small letters; empty for the mode's.
    """
    ratio = None
    block, element = slow_name(key, depth)
    for line in spec.split("\n"):
        for piece in line.split("#")[0].split(","):
            if piece.strip():
                blocks, elements, *numbers = (part.strip() for part in piece.split(":"))
                owner = (re.match(r"lora\.\S+|b[2-9](?!\S)", blocks.lower()) or [""])[0]
                if len(numbers) < field - 1 or owner != target:
                    continue
                blocks = blocks[len(owner) :]
                if _in_blocks(blocks.upper().split(), block, key) and _in_elements(elements.split(), element, key):
                    ratio = float(numbers[field - 2])
    return ratio


def slow_name(key: str, depth: int) -> tuple[str, str]:
    """Give block and element of a key by the table of the grammar."""
    unet = "model.diffusion_model."
    if not key.startswith(unet):
        return "BASE", key
    rest = key[len(unet) :]
    found = re.match(r"(input|output)_blocks\.(\d+)\.", rest)
    if found:
        return {"input": "IN", "output": "OUT"}[found[1]] + found[2].zfill(2), rest[found.end() :]
    if rest.startswith("middle_block."):
        return "M00", rest[len("middle_block.") :]
    return (f"OUT{depth - 1:02}" if rest.startswith("out.") else "IN00"), rest


def _in_blocks(words: list[str], block: str, key: str) -> bool:
    inverted = words[:1] == ["NOT"]
    names = set()
    for word in words[inverted:]:
        ends = [_ORDER.index("M00" if end == "MID" else end) for end in word.split("-") if end not in ("TE", "VAE")]
        names |= set(_ORDER[min(ends) : max(ends) + 1]) if ends else {word}
    part = "VAE" if key.startswith("first_stage_model.") else ""
    part = "TE" if key.startswith(("cond_stage_model.", "conditioner.")) else part
    return not words or (block in names or part in names) != inverted


def _in_elements(words: list[str], element: str, key: str) -> bool:
    inverted = [word.upper() for word in words[:1]] == ["NOT"]
    full = ("model.", "first_stage_model.", "cond_stage_model.", "conditioner.")
    found = any(word in (key if word.startswith(full) else element) for word in words[inverted:])
    return not words or found != inverted


def float64_formula(
    mode: str,
    models: list[Tensor],
    alpha: float,
    beta: float,
    key: str = "",
    bounds: Mapping[str, float] = MappingProxyType({}),
) -> Tensor:
    """Give a mode's formula of whole tensors, written out, in float64; numbers of modes have their defaults.

    Args:
        mode: The mode.
        models: The tensor in A, B, C.
        alpha: The ratio.
        beta: The second one.
        key: The tensor's key.
        bounds: What :func:`.mode_formulas.bounds_of` gives of the whole models.
    """
    import torch

    a, b, *rest = (model.double() for model in models)
    c = rest[0] if rest else a
    if mode in COSINES:
        return cosine(mode, a, b, alpha, key, bounds)
    if mode in FORMULAS:
        return FORMULAS[mode](a, b, c, alpha, beta, key)
    if mode == "weight-sum":
        return (1 - alpha) * a + alpha * b
    if mode == "add-difference":
        return a + alpha * (b - c)
    if mode == "triple-sum":
        return (1 - alpha - beta) * a + alpha * b + beta * c
    if mode == "sum-twice":
        return (1 - beta) * ((1 - alpha) * a + alpha * b) + beta * c
    if mode == "similarity-add-difference":
        larger = torch.maximum(a.abs(), b.abs())
        share = torch.nan_to_num(beta * (a * b / larger**2 + 1) / 2, nan=beta)
        return (1 - share) * (a + alpha * (b - c)) + share * ((1 - alpha / 2) * a + alpha / 2 * b)
    if mode == "multiply-difference":
        sign = torch.sign((1 - beta) * a + beta * b - c)
        return c + sign * (a - c).abs() ** (1 - alpha) * (b - c).abs() ** alpha
    others = {
        "slerp": lambda: _slerp(a, b, alpha),
        "add-perpendicular": lambda: _add_perpendicular(a, b, c, alpha),
        "tensor-sum": lambda: _tensor_sum(a, b, alpha, beta),
    }
    return others[mode]()


def _add_perpendicular(a: Tensor, b: Tensor, c: Tensor, alpha: float) -> Tensor:
    away = a - c
    square = (away * away).sum()
    return a + alpha * (b - c - (((b - c) * away).sum() / square * away if square else 0))


def _slerp(a: Tensor, b: Tensor, alpha: float) -> Tensor:
    import torch

    length_a, length_b = torch.linalg.vector_norm(a), torch.linalg.vector_norm(b)
    unit_a, unit_b = a / length_a, b / length_b
    angle = 2 * torch.asin(torch.linalg.vector_norm(unit_a - unit_b) / 2)
    shares: list[Tensor] = [torch.sin(part * angle) / torch.sin(angle) for part in (1 - alpha, alpha)]
    if not angle > 1e-6:  # also where one of them is 0 everywhere
        return (1 - alpha) * a + alpha * b
    turned: Tensor = (shares[0] * unit_a + shares[1] * unit_b) * ((1 - alpha) * length_a + alpha * length_b)
    return turned


def _tensor_sum(a: Tensor, b: Tensor, alpha: float, beta: float) -> Tensor:
    import torch

    rows = a.shape[0] if a.dim() else 1
    low, high, over = int(beta * rows), int((alpha + beta) * rows), int((alpha + beta - 1) * rows)
    of_b = [low <= row < high if alpha + beta <= 1 else not over <= row < low for row in range(rows)]
    flat: list[Tensor] = [(b if chosen else a).reshape(rows, -1)[row] for row, chosen in enumerate(of_b)]
    return torch.stack(flat).reshape(a.shape)


_PRECISION = {
    "torch.float32": (23, -126),
    "torch.float16": (10, -14),
    "torch.bfloat16": (7, -126),
    "torch.float8_e4m3fn": (3, -6),
    "torch.float8_e5m2": (2, -14),
    "torch.float64": (52, -1022),
}
"""By number format: bits after the point, and the least exponent of a normal number."""


def lost_in_float64(mode: str, models: list[Tensor]) -> float:
    """Give what float64 may lose where terms cancel: nothing that is compared in sums, computed alike on both sides.

    The other modes take up to 16 steps, each of which loses at most 2**-53 of a term, and no term is much larger than
    the largest number.
    """
    if mode in ("weight-sum", "add-difference", "triple-sum", "sum-twice", "tensor-sum"):
        return 0.0
    return 2.0**-48 * max((float(model.abs().max()) for model in models if model.numel()), default=0.0)


def ulps(result: Tensor, exact: Tensor, *, lost: float = 0.0) -> float:
    """Give the largest distance of a result from exact float64 numbers, in units in its own format's last place.

    Args:
        result: The result.
        exact: The numbers.
        lost: What the numbers themselves may be off.
    """
    import torch

    bits, least = _PRECISION[str(result.dtype)]
    exponent = torch.frexp(exact).exponent - 1
    step = torch.ldexp(torch.ones_like(exact), exponent.clamp(min=least) - bits)
    distance = ((result.double() - exact).abs() - lost).clamp(min=0)
    return float((distance / step).max()) if exact.numel() else 0.0
