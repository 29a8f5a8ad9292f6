"""State-dict key -> component, block and element; architecture from a checkpoint's keys and shapes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple

from .blocks import BASE, TEXT_ENCODER, VAE, Architecture

UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."
TEXT_PREFIXES = ("cond_stage_model.", "conditioner.")
EMA_PREFIX = "model_ema."
"""Of averages of the U-Net's weights, which some training checkpoints carry; they belong to BASE."""
FIRST_CONV = UNET_PREFIX + "input_blocks.0.0.weight"
"""The U-Net's first convolution: its second dimension tells inpainting (9) from normal (4)."""


class Component(Enum):
    """The part of a checkpoint that a tensor belongs to."""

    UNET = "U-Net"
    TEXT_ENCODER = "text encoder"
    VAE = "VAE"
    OTHER = "other"


PREFIXES: Mapping[Component, tuple[str, ...]] = {
    Component.UNET: (UNET_PREFIX,),
    Component.TEXT_ENCODER: TEXT_PREFIXES,
    Component.VAE: (VAE_PREFIX,),
}
"""How the keys of each part start."""


class KeyName(NamedTuple):
    """What a state-dict key is called in specs: its block, and its element within that block."""

    key: str
    component: Component
    block: str
    element: str


_NUMBERED = re.compile(r"(input|output)_blocks\.(\d+)\.(.+)", re.DOTALL)


def name_key(key: str, architecture: Architecture) -> KeyName:
    """Name the block and the element of one key.

    Outside the U-Net, and for U-Net keys of no known block, the block is BASE and the element the full key. That
    ``time_embed`` belongs to the first block and ``out`` to the last is the custom of block weights; source:
    scripts/mbw/merge_block_weighted.py of github.com/bbc-mc/sdweb-merge-block-weighted-gui.
    """
    if key.startswith(UNET_PREFIX):
        place = _place_in_unet(key[len(UNET_PREFIX) :], architecture)
        if place is not None:
            return KeyName(key, Component.UNET, *place)
        return KeyName(key, Component.OTHER, BASE, key)
    if key.startswith(VAE_PREFIX):
        return KeyName(key, Component.VAE, BASE, key)
    if key.startswith(TEXT_PREFIXES):
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


FULL_KEY_PREFIXES = ("model.", "first_stage_model.", "cond_stage_model.", "conditioner.")
"""A part that starts with one of these is looked for in the full key, so that a printed key can be pasted."""


def part_of_base(component: Component) -> str | None:
    """Name the part of BASE that rules can address by itself: ``TE``, ``VAE`` or none."""
    return {Component.TEXT_ENCODER: TEXT_ENCODER, Component.VAE: VAE}.get(component)


def searched_name(part: str, name: KeyName) -> str:
    """Give the text in which a part is looked for: the element, or the full key for a part that starts like one."""
    return name.key if part.startswith(FULL_KEY_PREFIXES) else name.element
