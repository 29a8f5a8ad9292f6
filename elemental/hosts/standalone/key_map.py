"""Checkpoint keys -> names of the same tensors in the networks of diffusers and transformers.

The names are facts of the two layouts: those of github.com/CompVis/latent-diffusion and of OpenCLIP on one side,
and on the other those that ``UNet2DConditionModel``, ``AutoencoderKL`` and ``CLIPTextModel`` give their parameters.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

from ...architectures.keys import UNET_PREFIX, VAE_PREFIX
from ..text_encoder_names import renamed, text_name


class Network(Enum):
    """A network of a pipeline, by the name that diffusers' pipelines give it."""

    UNET = "unet"
    VAE = "vae"
    TEXT = "text_encoder"
    TEXT_2 = "text_encoder_2"


class LiveName(NamedTuple):
    """Where the numbers of a checkpoint tensor are in a pipeline.

    Attributes:
        network: The network.
        parameters: The parameters that hold the numbers, one after the other; usually a single one.
        transposed: Whether the parameter holds the tensor's transpose.
    """

    network: Network
    parameters: tuple[str, ...]
    transposed: bool = False


TEXT_PREFIXES = {
    "cond_stage_model.transformer.text_model.": (Network.TEXT, False),
    "cond_stage_model.model.": (Network.TEXT, True),
    "conditioner.embedders.0.transformer.text_model.": (Network.TEXT, False),
    "conditioner.embedders.1.model.": (Network.TEXT_2, True),
}
"""Prefixes of text encoder keys: the network they belong to, and whether it is in the layout of OpenCLIP."""

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
_VAE: _Renames = (
    ("mid.block_1.", "mid_block.resnets.0."),
    ("mid.block_2.", "mid_block.resnets.1."),
    ("mid.attn_1.norm.", "mid_block.attentions.0.group_norm."),
    ("mid.attn_1.q.", "mid_block.attentions.0.to_q."),
    ("mid.attn_1.k.", "mid_block.attentions.0.to_k."),
    ("mid.attn_1.v.", "mid_block.attentions.0.to_v."),
    ("mid.attn_1.proj_out.", "mid_block.attentions.0.to_out.0."),
    ("norm_out.", "conv_norm_out."),
)
_VAE_LEVELS = 4


def live_name(key: str) -> LiveName | None:
    """Tell where a checkpoint tensor is in a pipeline; None if a pipeline does not have it.

    Names in text encoders come without the ``text_model.`` that some versions of transformers prepend.
    """
    if key.startswith(UNET_PREFIX):
        name = _unet_name(key[len(UNET_PREFIX) :])
        return None if name is None else LiveName(Network.UNET, (name,))
    if key.startswith(VAE_PREFIX):
        return LiveName(Network.VAE, (_vae_name(key[len(VAE_PREFIX) :]),))
    for prefix, (network, open_clip) in TEXT_PREFIXES.items():
        if key.startswith(prefix):
            found = text_name(key[len(prefix) :], open_clip=open_clip)
            return None if found is None else LiveName(network, *found)
    return None


def _unet_name(rest: str) -> str | None:
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


def _vae_name(rest: str) -> str:
    half, _, inner = rest.partition(".")
    if half not in ("encoder", "decoder"):
        return rest
    if block := re.fullmatch(r"(down|up)\.(\d)\.(?:block\.(\d)\.(.+)|(?:down|up)sample\.(.+))", inner):
        side, level = block[1], int(block[2])
        # The original counts the decoder's levels from the image, diffusers from the latents.
        place = f"{half}.{side}_blocks.{level if side == 'down' else _VAE_LEVELS - 1 - level}"
        if block[3] is None:
            return f"{place}.{side}samplers.0.{block[5]}"
        return f"{place}.resnets.{block[3]}.{block[4].replace('nin_shortcut.', 'conv_shortcut.')}"
    return f"{half}.{renamed(inner, _VAE) or inner}"
