"""Checkpoint keys -> names of the same tensors in the networks of diffusers and transformers.

The names are facts of the two layouts: those of github.com/CompVis/latent-diffusion and of OpenCLIP on one side,
and on the other those that ``UNet2DConditionModel``, ``AutoencoderKL`` and ``CLIPTextModel`` give their parameters.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

from ...architectures.diffusers_names import unet_name
from ...architectures.keys import UNET_PREFIX, VAE_PREFIX
from ...architectures.text_encoder_names import TEXT_ENCODERS, renamed, text_name


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
    prefix: (Network.TEXT_2 if encoder == "clip_g" else Network.TEXT, open_clip)
    for prefix, (encoder, open_clip) in TEXT_ENCODERS.items()
}
"""Prefixes of text encoder keys: the network they belong to, and whether it is in the layout of OpenCLIP."""

_Renames = Sequence[tuple[str, str]]

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
        name = unet_name(key[len(UNET_PREFIX) :])
        return None if name is None else LiveName(Network.UNET, (name,))
    if key.startswith(VAE_PREFIX):
        return LiveName(Network.VAE, (_vae_name(key[len(VAE_PREFIX) :]),))
    for prefix, (network, open_clip) in TEXT_PREFIXES.items():
        if key.startswith(prefix):
            found = text_name(key[len(prefix) :], open_clip=open_clip)
            return None if found is None else LiveName(network, *found)
    return None


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
