"""Slow and plain second opinions, written from the definitions alone, for the tests to compare with."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what compares ratios alone needs no torch
    from torch import Tensor

_ORDER = ["BASE", *(f"IN{i:02}" for i in range(12)), "M00", *(f"OUT{i:02}" for i in range(12))]


def slow_ratio(spec: str, key: str, depth: int, *, field: int = 2) -> float | None:
    """Give the ratio of a key by the last rule of a valid spec that matches it and has that ratio, or None.

    Args:
        spec: The text.
        key: A full state-dict key.
        depth: Input blocks of the architecture: 12, or 9 for SDXL.
        field: 2 for alpha, 3 for beta.
    """
    ratio = None
    block, element = slow_name(key, depth)
    for line in spec.split("\n"):
        for piece in line.split("#")[0].split(","):
            if piece.strip():
                blocks, elements, *numbers = (part.strip() for part in piece.split(":"))
                if len(numbers) < field - 1:
                    continue
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


def float64_formula(mode: str, models: list[Tensor], alpha: float, beta: float) -> Tensor:
    """Give a mode's formula, written out, in float64."""
    a, b, *rest = (model.double() for model in models)
    c = rest[0] if rest else a
    if mode == "weight-sum":
        return (1 - alpha) * a + alpha * b
    if mode == "add-difference":
        return a + alpha * (b - c)
    if mode == "triple-sum":
        return (1 - alpha - beta) * a + alpha * b + beta * c
    return (1 - beta) * ((1 - alpha) * a + alpha * b) + beta * c


_PRECISION = {
    "torch.float32": (23, -126),
    "torch.float16": (10, -14),
    "torch.bfloat16": (7, -126),
    "torch.float8_e4m3fn": (3, -6),
    "torch.float8_e5m2": (2, -14),
    "torch.float64": (52, -1022),
}
"""By number format: bits after the point, and the least exponent of a normal number."""


def ulps(result: Tensor, exact: Tensor) -> float:
    """Give the largest distance of a result from exact float64 numbers, in units in its own format's last place."""
    import torch

    bits, least = _PRECISION[str(result.dtype)]
    exponent = torch.frexp(exact).exponent - 1
    step = torch.ldexp(torch.ones_like(exact), exponent.clamp(min=least) - bits)
    return float(((result.double() - exact).abs() / step).max()) if exact.numel() else 0.0
