"""Which tensors of other models have the shape that the result needs, and what to do about the others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from ..architectures.blocks import BASE, TEXT_ENCODER, VAE
from ..architectures.keys import FIRST_CONV, Component, KeyName, part_of_base, shown_key
from .plan import MORE_ROLES, Role

LATENT_CHANNELS = 4
"""The channels that the U-Net's first convolution has in every model; those after them differ in meaning."""

INPUT_KINDS = {LATENT_CHANNELS: "normal", 5: "depth", 8: "instruct-pix2pix", 9: "inpainting"}
"""What a model is by the input channels of its first convolution. Sources: v2-midas-inference.yaml and
v1-inpainting-inference.yaml of github.com/Stability-AI/stablediffusion, generate.yaml of
github.com/timothybrooks/instruct-pix2pix."""

_SHOWN = 3
_MOST_BLOCKS = 3


class Misfit(NamedTuple):
    """A tensor that a model has in another shape than the result.

    Attributes:
        name: The tensor.
        result: Its shape in the result.
        role: The model.
        shape: Its shape there.
    """

    name: KeyName
    result: tuple[int, ...]
    role: Role
    shape: tuple[int, ...]


def can_merge_shapes(key: str, result: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Tell whether a tensor can be merged into one of another shape: the same numbers, or fewer input channels."""
    if has_same_numbers(result, shape):
        return True
    if key != FIRST_CONV or len(result) != len(shape) or result[:1] + result[2:] != shape[:1] + shape[2:]:
        return False
    return LATENT_CHANNELS <= shape[1] < result[1]


def has_same_numbers(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Tell whether shapes differ at most in dimensions of 1 at their ends: a linear layer is a convolution of 1x1."""
    if one == other:
        return True
    shorter, longer = sorted((one, other), key=len)
    return longer[: len(shorter)] == shorter and set(longer[len(shorter) :]) == {1}


def input_kind(channels: int) -> str:
    """Name a kind of model by its input channels: "inpainting (9 input channels)"."""
    counted = f"{channels} input channels"
    return f"{INPUT_KINDS[channels]} ({counted})" if channels in INPUT_KINDS else f"of {counted}"


def describe_misfits(misfits: Sequence[Misfit], *, vae_taken_from: Role | None, zero: str) -> str:
    """Say which shapes differ, and what would leave them out.

    Args:
        misfits: The tensors; at least one.
        vae_taken_from: The file that the VAE is taken from whole, if it is.
        zero: The ratios that keep A's numbers, as a rule has them; empty if none do in this mode.
    """
    lines = [
        f"{shown_key(name.key)} is {list(result)} in the result, {list(shape)} in {role.spoken}"
        for name, result, role, shape in misfits[:_SHOWN]
    ]
    more = [f"... and {len(misfits) - _SHOWN} more"] if len(misfits) > _SHOWN else []
    hint = _hint(misfits, vae_taken_from=vae_taken_from, zero=zero)
    return "\n".join(["The models' shapes differ:", *lines, *more, *([hint] if hint else [])])


def _hint(misfits: Sequence[Misfit], *, vae_taken_from: Role | None, zero: str) -> str:
    wider = next((misfit for misfit in misfits if misfit.name.key == FIRST_CONV and _is_wider(misfit)), None)
    if wider is not None:
        channels = wider.shape[1]
        article = "An" if INPUT_KINDS[channels][0] in "aei" else "A"
        return f"{article} {INPUT_KINDS[channels]} model ({channels} channels) must be model A."
    if vae_taken_from is not None and any(misfit.name.component is Component.VAE for misfit in misfits):
        return f"The VAE of {vae_taken_from.spoken} is of another kind; take it from A (--vae a)."
    words = _words(misfit.name for misfit in misfits)
    further = sorted({misfit.role.name for misfit in misfits})
    if len(words) <= _MOST_BLOCKS and all(misfit.role in MORE_ROLES for misfit in misfits):
        rules = ", ".join(f"{name} {word}::0" for name in further for word in words)
        return f'"{rules}" after your other rules would leave {" and ".join(further)} out there.'
    if len(words) > _MOST_BLOCKS or not zero:
        return ""
    rules = ", ".join(f"{word}::{zero}" for word in words)
    return f'"{rules}" after your other rules would keep A\'s numbers there.'


def _is_wider(misfit: Misfit) -> bool:
    """Tell whether a first convolution of a kind that is known has more input channels than the result's."""
    shape, result = misfit.shape, misfit.result
    return len(shape) == len(result) == 4 and shape[1] > result[1] >= LATENT_CHANNELS and shape[1] in INPUT_KINDS


def _words(names: Iterable[KeyName]) -> list[str]:
    """Give the block sides of rules that select these tensors."""
    words: Mapping[str, None] = {
        (part_of_base(name.component) or BASE) if name.block == BASE else name.block: None for name in names
    }
    return [word for word in words if word not in (TEXT_ENCODER, VAE)] + [
        word for word in words if word in (TEXT_ENCODER, VAE)
    ]
