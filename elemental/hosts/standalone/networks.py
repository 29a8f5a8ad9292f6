"""Build the networks of diffusers and transformers for a checkpoint, with sizes read from its shapes.

What shapes cannot tell, such as the number of attention heads, is taken from the published models of each
architecture, with the source beside it; a small model of the same layout is built by the same rules.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from ...architectures.blocks import SD1, SD2, SDXL, Architecture
from ...architectures.detection import Shapes
from ...architectures.keys import FIRST_CONV, UNET_PREFIX, VAE_PREFIX
from ...errors import HostError
from ...merge.tensor_views import Parts
from .clip_tokenizer import END
from .key_map import TEXT_PREFIXES, LiveName, Network, live_name

Networks = dict[Network, nn.Module]
"""The networks of a checkpoint by their names in a pipeline."""

_HEADS = {SD1: 8, SD2: None, SDXL: None}
"""Attention heads of the U-Net; None where each has 64 channels (SD 2.x, SDXL). From the models' own configuration
files v1-inference.yaml, v2-inference.yaml and sd_xl_base.yaml."""

_HEAD_WIDTH = 64


def build_networks(shapes: Shapes, architecture: Architecture) -> Networks:
    """Build the networks of a checkpoint, on torch's meta device, so without any numbers.

    Args:
        shapes: The shape of every tensor of the checkpoint by its key.
        architecture: The architecture of the model.

    Raises:
        HostError: The checkpoint lacks the VAE, a text encoder, or a tensor of them.
    """
    try:
        networks = _build(shapes, architecture)
    except KeyError as exc:
        raise HostError(f"The checkpoint is incomplete: images need its tensor {exc.args[0]}.") from exc
    needed = {Network.TEXT, Network.TEXT_2} if architecture is SDXL else {Network.TEXT}
    if not needed <= networks.keys():
        raise HostError("The checkpoint has no text encoder that fits its U-Net.")
    return networks


def _build(shapes: Shapes, architecture: Architecture) -> Networks:
    networks: Networks = {}
    with torch.device("meta"):
        networks[Network.UNET] = UNet2DConditionModel(**_unet_config(shapes, architecture))
        networks[Network.VAE] = AutoencoderKL(**_vae_config(shapes, architecture))
        for prefix, (network, open_clip) in TEXT_PREFIXES.items():
            if any(key.startswith(prefix) for key in shapes):
                networks[network] = _text_encoder(prefix, shapes, architecture=architecture, open_clip=open_clip)
    return networks


def allocate(networks: Networks, dtypes: Mapping[Network, torch.dtype], device: torch.device) -> None:
    """Allocate the memory of networks, and set the buffers, which no checkpoint holds.

    Args:
        networks: As :func:`build_networks` gives them.
        dtypes: The number format of each network.
        device: Where to allocate it.

    Raises:
        HostError: This version of the libraries has a buffer that this code does not know.
    """
    for name, network in networks.items():
        # diffusers' own to() warns about casting a loaded checkpoint; nothing is loaded yet
        nn.Module.to(network, dtypes[name]).to_empty(device=device).eval().requires_grad_(False)
        for buffer_name, buffer in network.named_buffers():
            if not buffer_name.endswith("position_ids"):
                raise HostError(f"This version of transformers or diffusers has an unknown buffer: {buffer_name}.")
            buffer.copy_(torch.arange(buffer.shape[-1], device=device))


def live_tensors(networks: Networks, keys: Sequence[str]) -> dict[str, Parts]:
    """Find the parameters that hold the numbers of each checkpoint tensor.

    Args:
        networks: As :func:`build_networks` gives them.
        keys: The keys of the checkpoint.

    Returns:
        For each key that is in the networks, views of the parameters: their numbers in row-major order, one view after
        the other, are those of the tensor.
    """
    parameters = {name: dict(network.named_parameters()) for name, network in networks.items()}
    tensors = {}
    for key in keys:
        name = live_name(key)
        if name is not None and name.network in parameters:
            parts = tuple(_parts(name, parameters[name.network]))
            if parts:
                tensors[key] = parts
    return tensors


def _parts(name: LiveName, parameters: Mapping[str, nn.Parameter]) -> Iterator[Tensor]:
    for path in name.parameters:
        # transformers before 5 has the text model one level deeper
        parameter = parameters.get(path, parameters.get(f"text_model.{path}"))
        if parameter is not None:
            yield parameter.data.T if name.transposed else parameter.data


def _unet_config(shapes: Shapes, architecture: Architecture) -> dict[str, Any]:
    levels = range(architecture.depth // 3)
    blocks = [UNET_PREFIX + f"input_blocks.{3 * level + 1}." for level in levels]
    widths = [shapes[f"{block}0.out_layers.3.weight"][0] for block in blocks]
    depths = [_count(shapes, f"{block}1.transformer_blocks.") for block in blocks]
    attention = next(block for block, depth in zip(blocks, depths, strict=True) if depth)
    heads = _HEADS[architecture]
    config: dict[str, Any] = {
        "sample_size": 64,  # has no effect; some versions of diffusers compare it
        "in_channels": shapes[FIRST_CONV][1],
        "block_out_channels": widths,
        "layers_per_block": 2,
        "down_block_types": ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths],
        "up_block_types": ["CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in reversed(depths)],
        "transformer_layers_per_block": [depth or 1 for depth in depths],
        "cross_attention_dim": shapes[f"{attention}1.transformer_blocks.0.attn2.to_k.weight"][1],
        # diffusers takes the number of heads under this name
        "attention_head_dim": heads or [max(1, width // _HEAD_WIDTH) for width in widths],
        "use_linear_projection": len(shapes[f"{attention}1.proj_in.weight"]) == 2,
    }
    if architecture is SDXL:
        labels = shapes[UNET_PREFIX + "label_emb.0.0.weight"][1]
        config |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,  # for each number of size and crop; from sd_xl_base.yaml
            "projection_class_embeddings_input_dim": labels,
        }
    return config


def _vae_config(shapes: Shapes, architecture: Architecture) -> dict[str, Any]:
    widths = [shapes.get(f"{VAE_PREFIX}encoder.down.{level}.block.0.conv1.weight", (0,))[0] for level in range(4)]
    if not all(widths):
        raise HostError("The checkpoint has no VAE, which images need: save a merge with one first (--vae FILE).")
    return {
        "block_out_channels": widths,
        "layers_per_block": 2,
        "latent_channels": 4,
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "scaling_factor": 0.13025 if architecture is SDXL else 0.18215,  # scale_factor of the same files as above
        "force_upcast": False,
    }


def _text_encoder(prefix: str, shapes: Shapes, *, architecture: Architecture, open_clip: bool) -> nn.Module:
    table = "token_embedding.weight" if open_clip else "embeddings.token_embedding.weight"
    vocabulary, width = shapes[prefix + table]
    layers = _count(shapes, prefix + ("transformer.resblocks." if open_clip else "encoder.layers."))
    inner = "transformer.resblocks.0.mlp.c_fc.weight" if open_clip else "encoder.layers.0.mlp.fc1.weight"
    projection = shapes.get(prefix + "text_projection", (0, width))[1]
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=shapes[prefix + inner][0],
        num_hidden_layers=layers - 1 if architecture is SD2 else layers,  # SD 2.x reads the last layer but one
        num_attention_heads=max(1, width // _HEAD_WIDTH),
        hidden_act="gelu" if open_clip else "quick_gelu",
        projection_dim=projection,
        eos_token_id=END,
    )
    with_projection = open_clip and architecture is SDXL
    encoder: nn.Module = CLIPTextModelWithProjection(config) if with_projection else CLIPTextModel(config)
    return encoder


def _count(shapes: Shapes, prefix: str) -> int:
    """Count the numbered modules after a prefix."""
    pattern = re.compile(re.escape(prefix) + r"(\d+)\.")
    return 1 + max((int(match[1]) for match in map(pattern.match, shapes) if match), default=-1)
