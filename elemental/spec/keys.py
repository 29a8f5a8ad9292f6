"""State-dict key -> component, block and element; architecture from a checkpoint's keys and shapes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple

from ..errors import CheckpointError
from .blocks import BASE, SD1, SD2, SDXL, Architecture

UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."
TEXT_PREFIXES = ("cond_stage_model.", "conditioner.")
EMA_PREFIX = "model_ema."
"""Of averages of the U-Net's weights, which some training checkpoints carry; they belong to BASE."""
FIRST_CONV = UNET_PREFIX + "input_blocks.0.0.weight"
"""The U-Net's first convolution: its second dimension tells inpainting (9) from normal (4)."""

Shapes = Mapping[str, tuple[int, ...]]
"""The shape of every tensor of a checkpoint by its key."""


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


def detect_architecture(shapes: Shapes, *, name: str) -> Architecture:
    """Tell the architecture of a checkpoint from its keys and shapes; widths may be anything.

    Args:
        shapes: The shape of every tensor by its key.
        name: What to call the checkpoint in an error.

    Raises:
        CheckpointError: It is none that can be merged; the message says what was seen.
    """
    if len(shapes.get(FIRST_CONV, ())) != 4:
        raise CheckpointError(_refusal(name, _describe_stranger(shapes)))
    depth = 1 + max(_input_indices(shapes))
    labelled = any(key.startswith(UNET_PREFIX + "label_emb.") for key in shapes)
    if depth == SDXL.depth and labelled:
        return SDXL
    if depth == SD1.depth and labelled:
        kind = "an SDXL refiner" if any(k.startswith("conditioner.") for k in shapes) else "an SD 2.x unCLIP model"
        raise CheckpointError(_refusal(name, f"is {kind} (12 input blocks and label_emb)"))
    if depth == SD1.depth:
        # Only the width-independent difference counts: SD 2.x projects in with a linear layer, SD 1.x with
        # a 1x1 convolution, in every attention block.
        projections = [s for k, s in shapes.items() if k.startswith(UNET_PREFIX) and k.endswith(".proj_in.weight")]
        return SD2 if projections and len(projections[0]) == 2 else SD1
    raise CheckpointError(_refusal(name, f"has a U-Net of {depth} input blocks"))


def input_channels(shapes: Shapes) -> int:
    """Count the channels that the U-Net's first convolution, which must be there, reads: 4, or 9 for inpainting."""
    return shapes[FIRST_CONV][1]


def _input_indices(shapes: Shapes) -> list[int]:
    prefix = UNET_PREFIX + "input_blocks."
    numbers = (key[len(prefix) :].partition(".")[0] for key in shapes if key.startswith(prefix))
    return [int(number) for number in numbers if number.isdecimal()]


# What else is found in model folders, by a piece of a key that only it has; the first hit names the file.
_STRANGERS = (
    ("a LoRA", ("lora_", "lora.", ".lora_A.", ".lora_down.", ".hada_w1", ".lokr_w1", ".oft_")),
    ("a ControlNet", ("control_model.", "input_hint_block.", "controlnet_")),
    ("a Flux model", ("double_blocks.",)),
    ("a Stable Diffusion 3 model", ("joint_blocks.",)),
    ("a Stable Cascade model", ("effnet_mapper.", "clip_txt_pooled_mapper.")),
    ("an EMA-only checkpoint", (EMA_PREFIX,)),
    (
        "a U-Net in diffusers layout",
        ("down_blocks.0.resnets.0.time_emb_proj", "add_embedding.", "time_embedding."),
    ),
    ("a U-Net in an unknown form", (FIRST_CONV,)),
    ("a U-Net without its prefix model.diffusion_model.", ("input_blocks.0.",)),
    ("a textual inversion embedding", ("emb_params", "string_to_param", "clip_g", "clip_l")),
    ("an upscaler", ("RRDB_trunk.", "body.0.rdb", "conv_first.")),
    ("a VAE alone", ("first_stage_model.", "encoder.conv_in.", "decoder.conv_in.")),
    ("a text encoder alone", ("text_model.", "transformer.resblocks.", "encoder.block.0.")),
)


def _describe_stranger(shapes: Shapes) -> str:
    if not shapes:
        return "holds no tensors"
    for kind, pieces in _STRANGERS:
        seen = next((key for key in shapes if any(piece in key for piece in pieces)), None)
        if seen is not None:
            return f'looks like {kind} (it holds "{seen}")'
    return f'is of an unknown kind (it holds "{next(iter(shapes))}")'


def _refusal(name: str, seen: str) -> str:
    return f"{name} {seen}.\nOnly whole SD 1.x, SD 2.x and SDXL base checkpoints, inpainting ones too, can be merged."
