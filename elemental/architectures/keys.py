"""State-dict key -> component, block and element."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple

from .blocks import BASE, TEXT_ENCODER, VAE, Architecture

UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."
_VAE_PARTS = tuple(VAE_PREFIX + part for part in ("encoder.", "decoder.", "quant_conv.", "post_quant_conv."))
TEXT_PREFIXES = ("cond_stage_model.", "conditioner.", "text_encoders.")
"""Prefixes of text encoders. Keys with the last have no other spelling (:mod:`.key_spelling`), or stand beside it."""
EMA_PREFIX = "model_ema."
"""Prefix of EMA weights, which some training checkpoints have beside those of the U-Net; they belong to BASE."""
BESIDE = ("depth_model.", "denoiser.", "control_model.", "edm_vpred.")
"""Prefixes of what a file can hold besides its model."""
FIRST_CONV = UNET_PREFIX + "input_blocks.0.0.weight"
"""The first convolution of the U-Net; its second dimension is 4, or 9 in inpainting models."""


_MASK = ".attn_mask"
"""OpenCLIP's mask of future words, which some files of SD 2.x keep; its numbers are infinite, and no weights."""


class Component(Enum):
    """A part of a checkpoint."""

    UNET = "U-Net"
    TEXT_ENCODER = "text encoder"
    VAE = "VAE"
    OTHER = "other"


PREFIXES: Mapping[Component, tuple[str, ...]] = {
    Component.UNET: (UNET_PREFIX,),
    Component.TEXT_ENCODER: TEXT_PREFIXES,
    Component.VAE: (VAE_PREFIX,),
}
"""The prefixes of the keys of each part."""


def is_vae_key(key: str) -> bool:
    """Tell whether a key is one of the VAE; what is left of its training, such as ``loss``, is none."""
    return key.startswith(_VAE_PARTS)


class KeyName(NamedTuple):
    """The place of a state-dict key: its part, its block, and its element within that block."""

    key: str
    component: Component
    block: str
    element: str


_NUMBERED = re.compile(r"(input|output)_blocks\.(\d{1,3})\.(.+)", re.DOTALL)


def name_key(key: str, architecture: Architecture) -> KeyName:
    """Name the block and the element of a key.

    Outside the U-Net, and for U-Net keys of no block, the block is BASE and the element is the full key.
    ``time_embed`` belongs to the first block and ``out`` to the last, as in other tools for block weights; source:
    scripts/mbw/merge_block_weighted.py of github.com/bbc-mc/sdweb-merge-block-weighted-gui.
    """
    if key.startswith(UNET_PREFIX):
        place = _place_in_unet(key[len(UNET_PREFIX) :], architecture)
        if place is not None:
            return KeyName(key, Component.UNET, *place)
        return KeyName(key, Component.OTHER, BASE, key)
    if is_vae_key(key):
        return KeyName(key, Component.VAE, BASE, key)
    if key.startswith(TEXT_PREFIXES) and not key.endswith(_MASK):
        return KeyName(key, Component.TEXT_ENCODER, BASE, key)
    return KeyName(key, Component.OTHER, BASE, key)


def _place_in_unet(rest: str, architecture: Architecture) -> tuple[str, str] | None:
    if numbered := _NUMBERED.fullmatch(rest):
        side, index, element = numbered.groups()
        if int(index) >= architecture.depth:
            return None
        return f"{'IN' if side == 'input' else 'OUT'}{int(index):02}", element
    head, _, tail = rest.partition(".")
    if head == "middle_block":
        return "M00", tail
    if head in ("time_embed", "label_emb"):
        return "IN00", rest
    if head == "out":
        return f"OUT{architecture.depth - 1:02}", rest
    return None


FULL_KEY_PREFIXES = ("model.", VAE_PREFIX, *TEXT_PREFIXES)
"""Parts that start with one of these are searched in the full key, so that full keys can be pasted into rules."""


_LONGEST_SHOWN = 120


def shown_key(key: str) -> str:
    """Write a key of a file, or a text of its header, for a message: in printable characters, at most 120 of them."""
    if len(key) <= _LONGEST_SHOWN and key.isprintable():  # as nearly all are
        return key
    ends = key if len(key) <= 2 * _LONGEST_SHOWN else key[:_LONGEST_SHOWN] + key[-_LONGEST_SHOWN:]
    shown = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in ends)
    return shown if len(shown) <= _LONGEST_SHOWN else f"{shown[:80]}...{shown[-37:]}"


def part_of_base(component: Component) -> str | None:
    """Give the rule name of a part of BASE: ``TE``, ``VAE``, or None."""
    if component is Component.TEXT_ENCODER:
        return TEXT_ENCODER
    return VAE if component is Component.VAE else None


def searched_name(part: str, name: KeyName) -> str:
    """Give the text that a part is searched in: the element, or the full key if the part starts like one."""
    return name.key if part.startswith(FULL_KEY_PREFIXES) else name.element
