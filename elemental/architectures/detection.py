"""Detect the architecture of a checkpoint from its keys and shapes."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import CheckpointError
from .blocks import SD1, SD2, SDXL, Architecture
from .keys import EMA_PREFIX, FIRST_CONV, UNET_PREFIX

Shapes = Mapping[str, tuple[int, ...]]
"""The shape of each tensor of a checkpoint, by key."""


def detect_architecture(shapes: Shapes, *, name: str) -> Architecture:
    """Detect the architecture of a checkpoint from its keys and shapes; layers can have any width.

    Args:
        shapes: The shape of each tensor, by key.
        name: How errors call the checkpoint.

    Raises:
        CheckpointError: The file is of another kind, or its architecture cannot be merged; the message says what it is.
    """
    if len(shapes.get(FIRST_CONV, ())) != 4:
        raise CheckpointError(_refusal(name, _describe_other_file(shapes)))
    depth = 1 + max(_input_indices(shapes))
    labels = UNET_PREFIX + "label_emb."
    labelled = any(key.startswith(labels) for key in shapes)
    if depth == SDXL.depth and labelled:
        return SDXL
    if depth == SD1.depth and labelled:
        raise CheckpointError(_refusal(name, f"is {_labelled_kind(shapes)} (12 input blocks and label_emb)"))
    if depth == SD1.depth:
        # a difference that does not depend on widths: attention blocks of SD 2.x begin with a linear layer,
        # those of SD 1.x with a 1x1 convolution
        projections = [s for k, s in shapes.items() if k.startswith(UNET_PREFIX) and k.endswith(".proj_in.weight")]
        return SD2 if projections and len(projections[0]) == 2 else SD1
    raise CheckpointError(_refusal(name, f"has a U-Net of {depth} input blocks"))


def _labelled_kind(shapes: Shapes) -> str:
    """Name a model of 12 input blocks with labels; source: comfy/supported_models.py of ComfyUI."""
    if UNET_PREFIX + "label_emb.weight" in shapes:  # a table of noise levels, where others have layers
        return "the x4 upscaler"
    if any(".time_stack." in key for key in shapes):
        return "a Stable Video Diffusion model"
    return "an SDXL refiner" if any(key.startswith("conditioner.") for key in shapes) else "an SD 2.x unCLIP model"


def input_channels(shapes: Shapes) -> int:
    """Give the input channels of the U-Net's first convolution, which must exist: 4, or 9 for inpainting."""
    return shapes[FIRST_CONV][1]


_DIGITS = 3  # of the number of a block at most; Python refuses to read one of some thousand


def _input_indices(shapes: Shapes) -> list[int]:
    prefix = UNET_PREFIX + "input_blocks."
    numbers = {key[len(prefix) :].partition(".")[0] for key in shapes if key.startswith(prefix)}
    return [int(number) for number in numbers if number.isdecimal() and len(number) <= _DIGITS]


# Other files of model folders, by pieces of keys that only they have; the first match decides.
_OTHER_FILES = (
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

_ADVICE = {"a LoRA": "; on the command line, --lora adds it to a merge"}


def _describe_other_file(shapes: Shapes) -> str:
    if not shapes:
        return "holds no tensors"
    for kind, pieces in _OTHER_FILES:
        match = next((key for key in shapes if any(piece in key for piece in pieces)), None)
        if match is not None:
            return f'looks like {kind} (it holds "{match}"){_ADVICE.get(kind, "")}'
    return f'is of an unknown kind (it holds "{next(iter(shapes))}")'


def _refusal(name: str, reason: str) -> str:
    return f"{name} {reason}.\nOnly whole SD 1.x, SD 2.x and SDXL base checkpoints, inpainting ones too, can be merged."
