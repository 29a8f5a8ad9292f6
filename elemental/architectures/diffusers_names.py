"""Names of tensors in the U-Net: those of checkpoints -> those of diffusers' ``UNet2DConditionModel``.

The names are facts of the two layouts, that of github.com/CompVis/latent-diffusion and that of diffusers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from .text_encoder_names import renamed

_Renames = Sequence[tuple[str, str]]

_RES_BLOCK: _Renames = (
    ("in_layers.0.", "norm1."),
    ("in_layers.2.", "conv1."),
    ("emb_layers.1.", "time_emb_proj."),
    ("out_layers.0.", "norm2."),
    ("out_layers.3.", "conv2."),
    ("skip_connection.", "conv_shortcut."),
)
_UNET_ENDS: _Renames = (
    ("time_embed.0.", "time_embedding.linear_1."),
    ("time_embed.2.", "time_embedding.linear_2."),
    ("label_emb.0.0.", "add_embedding.linear_1."),
    ("label_emb.0.2.", "add_embedding.linear_2."),
    ("input_blocks.0.0.", "conv_in."),
    ("out.0.", "conv_norm_out."),
    ("out.2.", "conv_out."),
)


def unet_name(rest: str) -> str | None:
    """Tell where a tensor of the U-Net is; None if diffusers does not have it.

    Args:
        rest: Its key without what names the U-Net.
    """
    end = renamed(rest, _UNET_ENDS)
    if end is not None:
        return end
    if middle := re.fullmatch(r"middle_block\.([012])\.(.+)", rest):
        index, inner = int(middle[1]), middle[2]
        return f"mid_block.attentions.0.{inner}" if index == 1 else _res_name(f"mid_block.resnets.{index // 2}", inner)
    numbered = re.fullmatch(r"(input|output)_blocks\.(\d+)\.(\d)\.(.+)", rest)
    if numbered is None:
        return None
    block, part, inner = int(numbered[2]), int(numbered[3]), numbered[4]
    if numbered[1] == "input":  # block 0 is the first convolution; then the last of each three reduces
        level, index = divmod(block - 1, 3)
        side, resize, resizer = "down", "op.", "downsamplers"
    else:
        level, index = divmod(block, 3)
        side, resize, resizer = "up", "conv.", "upsamplers"
    if inner.startswith(resize):
        return f"{side}_blocks.{level}.{resizer}.0.conv.{inner[len(resize) :]}"
    if part == 0:
        return _res_name(f"{side}_blocks.{level}.resnets.{index}", inner)
    return f"{side}_blocks.{level}.attentions.{index}.{inner}"


def _res_name(place: str, inner: str) -> str | None:
    name = renamed(inner, _RES_BLOCK)
    return None if name is None else f"{place}.{name}"
