"""Keys and shapes of SD 1.x, SD 2.x and SDXL checkpoints in the original layout, at any width.

The layout is that of the U-Net, autoencoder and text encoders of github.com/CompVis/latent-diffusion,
github.com/Stability-AI/stablediffusion and github.com/Stability-AI/generative-models. At the default widths the
result is the published checkpoints' own list of tensors: 1,131 for SD 1.5, 1,228 for SD 2.1, 2,515 for SDXL.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

Shape = tuple[int, ...]
Named = tuple[str, Shape]
"""A key and its tensor's shape."""


@dataclass(frozen=True)
class TextLayout:
    """A text encoder: where its keys start, what kind it is, how large.

    Attributes:
        prefix: Of its keys.
        open_clip: Whether it is an OpenCLIP model, with other key names than CLIP as transformers has it.
        width: Of the hidden state.
        layers: How many.
        vocabulary: Number of tokens.
    """

    prefix: str
    open_clip: bool
    width: int
    layers: int
    vocabulary: int = 49408


@dataclass(frozen=True)
class Layout:
    """The sizes that decide all keys and shapes of a checkpoint.

    Attributes:
        multipliers: Width of each level of the U-Net, in units of ``width``.
        depths: Transformer blocks in each attention of a level; 0 for a level without attention.
        middle_depth: The same for the middle block.
        linear: Whether attention blocks project with linear layers (SD 2.x, SDXL) or 1x1 convolutions.
        context: Width of the text that cross attention reads.
        texts: The text encoders.
        labels: Width of the extra conditioning of SDXL; 0 without it.
        width: Channels of the U-Net's first level.
        vae_width: Channels of the autoencoder's first level.
        vae_multipliers: Width of each level of the autoencoder, in units of ``vae_width``.
        in_channels: 4, or 9 for inpainting.
    """

    multipliers: tuple[int, ...]
    depths: tuple[int, ...]
    middle_depth: int
    linear: bool
    context: int
    texts: tuple[TextLayout, ...]
    labels: int = 0
    width: int = 320
    vae_width: int = 128
    vae_multipliers: tuple[int, ...] = (1, 2, 4, 4)
    in_channels: int = 4


# Sizes from the published models' configuration files v1-inference.yaml, v2-inference.yaml and sd_xl_base.yaml.
_CLIP_L = TextLayout("cond_stage_model.transformer.text_model.", open_clip=False, width=768, layers=12)
_CLIP_H = TextLayout("cond_stage_model.model.", open_clip=True, width=1024, layers=24)
_XL_CLIP_L = replace(_CLIP_L, prefix="conditioner.embedders.0.transformer.text_model.")
_XL_CLIP_G = TextLayout("conditioner.embedders.1.model.", open_clip=True, width=1280, layers=32)

SD1_LAYOUT = Layout((1, 2, 4, 4), (1, 1, 1, 0), 1, linear=False, context=768, texts=(_CLIP_L,))
SD2_LAYOUT = Layout((1, 2, 4, 4), (1, 1, 1, 0), 1, linear=True, context=1024, texts=(_CLIP_H,))
DEMO_LAYOUT = replace(
    SD1_LAYOUT,
    multipliers=(1, 2, 1, 1),
    context=32,
    texts=(replace(_CLIP_L, width=32),),
    width=64,
    vae_width=64,
    vae_multipliers=(1, 1, 1, 2),
)
"""The smallest SD 1.x that draws. Norm layers of 32 groups want 64 channels: with 32, a channel a group, what they take
away is the mean of each channel, and with it the colour of every plain background, which is then left to the seed. The
second level is wider than its neighbours so that IN04 and IN07 have the skip connections that they have in SD 1.x: with
these it is 686 elements."""

SDXL_LAYOUT = Layout((1, 2, 4), (0, 2, 10), 10, linear=True, context=2048, texts=(_XL_CLIP_L, _XL_CLIP_G), labels=2816)


def shrink(layout: Layout, *, width: int = 32, text_width: int = 32, vocabulary: int = 64) -> Layout:
    """Make a layout with the same keys and few numbers.

    Args:
        layout: The layout to shrink.
        width: Channels of the first level of U-Net and autoencoder.
        text_width: Width of each text encoder.
        vocabulary: Number of tokens.
    """
    texts = tuple(replace(text, width=text_width, vocabulary=vocabulary) for text in layout.texts)
    labels = 2 * text_width if layout.labels else 0
    context = text_width * len(texts)
    return replace(layout, texts=texts, labels=labels, context=context, width=width, vae_width=width)


def tensor_shapes(layout: Layout) -> dict[str, Shape]:
    """List every tensor of a checkpoint, key to shape; ``position_ids`` are integers, the rest floats."""
    parts = [
        _unet(layout),
        _vae([layout.vae_width * multiplier for multiplier in layout.vae_multipliers]),
        *map(_text, layout.texts),
    ]
    return {key: shape for part in parts for key, shape in part}


def _under(prefix: str, tensors: Iterator[Named]) -> Iterator[Named]:
    return ((prefix + key, shape) for key, shape in tensors)


def _layer(name: str, *weight: int) -> Iterator[Named]:
    """Yield a layer's weight and its bias."""
    yield f"{name}.weight", weight
    yield f"{name}.bias", weight[:1]


def _unet(layout: Layout) -> Iterator[Named]:
    prefix = "model.diffusion_model."
    width, time = layout.width, 4 * layout.width
    yield from _under(prefix, _layer("time_embed.0", time, width))
    yield from _under(prefix, _layer("time_embed.2", time, time))
    if layout.labels:
        yield from _under(prefix, _layer("label_emb.0.0", time, layout.labels))
        yield from _under(prefix, _layer("label_emb.0.2", time, time))
    yield from _under(prefix, _layer("input_blocks.0.0", width, layout.in_channels, 3, 3))
    skips = [width]
    levels = list(zip(layout.multipliers, layout.depths, strict=True))
    channels = width
    for level, (multiplier, depth) in enumerate(levels):
        for _ in range(2):
            block = f"{prefix}input_blocks.{len(skips)}."
            yield from _under(block, _unet_block(channels, multiplier * width, depth=depth, layout=layout))
            channels = multiplier * width
            skips.append(channels)
        if level < len(levels) - 1:
            yield from _under(f"{prefix}input_blocks.{len(skips)}.", _layer("0.op", channels, channels, 3, 3))
            skips.append(channels)
    middle = prefix + "middle_block."
    yield from _under(middle, _unet_block(channels, channels, depth=layout.middle_depth, layout=layout))
    yield from _under(middle + "2.", _res_block(channels, channels, time))
    yield from _unet_outputs(layout, channels, skips)
    yield from _under(prefix, _layer("out.0", width))
    yield from _under(prefix, _layer("out.2", 4, width, 3, 3))


def _unet_outputs(layout: Layout, channels: int, skips: list[int]) -> Iterator[Named]:
    index = 0
    levels = list(zip(layout.multipliers, layout.depths, strict=True))
    for level, (multiplier, depth) in reversed(list(enumerate(levels))):
        for repeat in range(3):
            block = f"model.diffusion_model.output_blocks.{index}."
            width = multiplier * layout.width
            yield from _under(block, _unet_block(channels + skips.pop(), width, depth=depth, layout=layout))
            channels = width
            if level and repeat == 2:
                yield from _under(block, _layer(f"{2 if depth else 1}.conv", channels, channels, 3, 3))
            index += 1


def _unet_block(before: int, after: int, *, depth: int, layout: Layout) -> Iterator[Named]:
    yield from _under("0.", _res_block(before, after, 4 * layout.width))
    if depth:
        yield from _under("1.", _transformer(after, depth, layout))


def _res_block(before: int, after: int, time: int) -> Iterator[Named]:
    yield from _layer("in_layers.0", before)
    yield from _layer("in_layers.2", after, before, 3, 3)
    yield from _layer("emb_layers.1", after, time)
    yield from _layer("out_layers.0", after)
    yield from _layer("out_layers.3", after, after, 3, 3)
    if before != after:
        yield from _layer("skip_connection", after, before, 1, 1)


def _transformer(width: int, depth: int, layout: Layout) -> Iterator[Named]:
    kernel = () if layout.linear else (1, 1)
    yield from _layer("norm", width)
    yield from _layer("proj_in", width, width, *kernel)
    for block in range(depth):
        yield from _under(f"transformer_blocks.{block}.", _transformer_block(width, layout.context))
    yield from _layer("proj_out", width, width, *kernel)


def _transformer_block(width: int, context: int) -> Iterator[Named]:
    for name, source in (("attn1", width), ("attn2", context)):
        yield f"{name}.to_q.weight", (width, width)
        yield f"{name}.to_k.weight", (width, source)
        yield f"{name}.to_v.weight", (width, source)
        yield from _layer(f"{name}.to_out.0", width, width)
    yield from _layer("ff.net.0.proj", 8 * width, width)
    yield from _layer("ff.net.2", width, 4 * width)
    for norm in ("norm1", "norm2", "norm3"):
        yield from _layer(norm, width)


def _vae(widths: list[int]) -> Iterator[Named]:
    prefix = "first_stage_model."
    yield from _under(prefix + "encoder.", _vae_half(3, widths, 8, blocks=2, side="down", sampler="downsample"))
    yield from _under(prefix + "decoder.", _vae_half(4, widths, 3, blocks=3, side="up", sampler="upsample"))
    yield from _under(prefix, _layer("quant_conv", 8, 8, 1, 1))
    yield from _under(prefix, _layer("post_quant_conv", 4, 4, 1, 1))


def _vae_half(inputs: int, widths: list[int], outputs: int, *, blocks: int, side: str, sampler: str) -> Iterator[Named]:
    down = side == "down"
    levels = list(range(len(widths)))
    channels = widths[0] if down else widths[-1]
    yield from _layer("conv_in", channels, inputs, 3, 3)
    for level in levels if down else reversed(levels):
        for block in range(blocks):
            yield from _under(f"{side}.{level}.block.{block}.", _vae_block(channels, widths[level]))
            channels = widths[level]
        if level != (levels[-1] if down else 0):
            yield from _layer(f"{side}.{level}.{sampler}.conv", channels, channels, 3, 3)
    middle = widths[-1]
    for name in ("block_1", "block_2"):
        yield from _under(f"mid.{name}.", _vae_block(middle, middle))
    yield from _layer("mid.attn_1.norm", middle)
    for name in ("q", "k", "v", "proj_out"):
        yield from _layer(f"mid.attn_1.{name}", middle, middle, 1, 1)
    yield from _layer("norm_out", channels)
    yield from _layer("conv_out", outputs, channels, 3, 3)


def _vae_block(before: int, after: int) -> Iterator[Named]:
    yield from _layer("norm1", before)
    yield from _layer("conv1", after, before, 3, 3)
    yield from _layer("norm2", after)
    yield from _layer("conv2", after, after, 3, 3)
    if before != after:
        yield from _layer("nin_shortcut", after, before, 1, 1)


def _text(text: TextLayout) -> Iterator[Named]:
    return _under(text.prefix, (_open_clip if text.open_clip else _clip)(text))


def _clip(text: TextLayout) -> Iterator[Named]:
    width = text.width
    yield "embeddings.position_ids", (1, 77)
    yield "embeddings.token_embedding.weight", (text.vocabulary, width)
    yield "embeddings.position_embedding.weight", (77, width)
    for index in range(text.layers):
        layer = f"encoder.layers.{index}."
        for name in ("k_proj", "v_proj", "q_proj", "out_proj"):
            yield from _layer(f"{layer}self_attn.{name}", width, width)
        yield from _layer(layer + "layer_norm1", width)
        yield from _layer(layer + "mlp.fc1", 4 * width, width)
        yield from _layer(layer + "mlp.fc2", width, 4 * width)
        yield from _layer(layer + "layer_norm2", width)
    yield from _layer("final_layer_norm", width)


def _open_clip(text: TextLayout) -> Iterator[Named]:
    width = text.width
    yield "positional_embedding", (77, width)
    yield "text_projection", (width, width)
    yield "logit_scale", ()
    yield "token_embedding.weight", (text.vocabulary, width)
    for index in range(text.layers):
        layer = f"transformer.resblocks.{index}."
        yield from _layer(layer + "ln_1", width)
        yield f"{layer}attn.in_proj_weight", (3 * width, width)
        yield f"{layer}attn.in_proj_bias", (3 * width,)
        yield from _layer(layer + "attn.out_proj", width, width)
        yield from _layer(layer + "ln_2", width)
        yield from _layer(layer + "mlp.c_fc", 4 * width, width)
        yield from _layer(layer + "mlp.c_proj", width, 4 * width)
    yield from _layer("ln_final", width)
