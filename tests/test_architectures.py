from __future__ import annotations

import hashlib
import json
from collections.abc import Callable

import pytest

from elemental.architectures.blocks import SD1, SD2, SDXL, Architecture
from elemental.architectures.detection import detect_architecture, input_channels
from elemental.architectures.keys import Component, name_key
from elemental.demo.layout import SD1_LAYOUT, SD2_LAYOUT, SDXL_LAYOUT, Layout, tensor_shapes
from elemental.errors import CheckpointError

from .conftest import INPAINTING, LAYOUTS

Shapes = dict[str, tuple[int, ...]]


@pytest.mark.parametrize(
    ("layout", "counts", "digest"),
    [
        (SD1_LAYOUT, (1131, 686, 197, 248), "edfffc6de0d6fa2c"),
        (SD2_LAYOUT, (1228, 686, 294, 248), "8cb2b032274f411c"),
        (SDXL_LAYOUT, (2515, 1680, 587, 248), "6228a8ebb8515408"),
    ],
)
def test_layouts_are_those_of_the_published_checkpoints(layout: Layout, counts: tuple[int, ...], digest: str) -> None:
    shapes = tensor_shapes(layout)
    architecture = detect_architecture(shapes, name="it")
    parts = [name_key(key, architecture).component for key in shapes]
    found = (len(parts), *(parts.count(part) for part in (Component.UNET, Component.TEXT_ENCODER, Component.VAE)))
    assert found == counts
    # Of the sorted list of the published files' keys and shapes, so that no slip of the generator goes unseen.
    listing = json.dumps(sorted((key, list(shape)) for key, shape in shapes.items())).encode()
    assert hashlib.sha256(listing).hexdigest()[:16] == digest


@pytest.mark.parametrize(("name", "architecture"), [("sd1", SD1), ("sd2", SD2), ("sdxl", SDXL)])
def test_architectures_are_told_from_keys_at_any_width(name: str, architecture: Architecture) -> None:
    assert detect_architecture(tensor_shapes(LAYOUTS[name]), name="it") is architecture
    inpainting = tensor_shapes(INPAINTING[name])
    assert detect_architecture(inpainting, name="it") is architecture
    assert input_channels(inpainting) == 9


@pytest.mark.parametrize("layout", ["sd1", "sd2", "sdxl"])
def test_a_u_net_without_vae_and_text_encoder_is_enough(layout: str) -> None:
    whole = tensor_shapes(LAYOUTS[layout])
    pruned = {key: shape for key, shape in whole.items() if key.startswith("model.")}
    assert detect_architecture(pruned, name="it") is detect_architecture(whole, name="it")


@pytest.mark.parametrize(
    ("key", "block", "element"),
    [
        (
            "output_blocks.5.1.transformer_blocks.0.attn2.to_k.weight",
            "OUT05",
            "1.transformer_blocks.0.attn2.to_k.weight",
        ),
        ("middle_block.1.norm.weight", "M00", "1.norm.weight"),
        ("time_embed.0.weight", "IN00", "time_embed.0.weight"),
        ("label_emb.0.2.bias", "IN00", "label_emb.0.2.bias"),
        ("out.2.bias", "OUT11", "out.2.bias"),
    ],
)
def test_places_in_the_u_net(key: str, block: str, element: str) -> None:
    name = name_key("model.diffusion_model." + key, SD1)
    assert (name.component, name.block, name.element) == (Component.UNET, block, element)


def test_sdxl_ends_at_out08() -> None:
    assert name_key("model.diffusion_model.out.0.weight", SDXL).block == "OUT08"


STRANGERS: dict[str, tuple[Callable[[], Shapes], str]] = {
    "flux": (lambda: {"model.diffusion_model.double_blocks.0.img_attn.qkv.weight": (9, 3)}, "a Flux model"),
    "sd3": (lambda: {"model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight": (9, 3)}, "Stable Diffusion 3"),
    "lora": (lambda: {"lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight": (4, 320)}, "a LoRA"),
    "vae": (
        lambda: {"encoder.conv_in.weight": (128, 3, 3, 3), "decoder.conv_in.weight": (512, 4, 3, 3)},
        "a VAE alone",
    ),
    "control": (lambda: {"control_model.input_blocks.0.0.weight": (320, 4, 3, 3)}, "a ControlNet"),
    "diffusers": (lambda: {"time_embedding.linear_1.weight": (1280, 320)}, "diffusers"),
    "bare": (lambda: {"input_blocks.0.0.weight": (320, 4, 3, 3)}, "without its prefix"),
    "embedding": (lambda: {"emb_params": (4, 768)}, "textual inversion"),
    "nothing": (dict, "holds no tensors"),
    "other": (lambda: {"foo.bar": (1,)}, 'unknown kind (it holds "foo.bar")'),
    "refiner": (lambda: _labelled("sd2", "conditioner.embedders.0.model.ln_final.weight"), "an SDXL refiner"),
    "unclip": (lambda: _labelled("sd2", "embedder.model.visual.proj"), "an SD 2.x unCLIP model"),
    "x4 upscaler": (lambda: _upscaler(), "is the x4 upscaler"),
    "video": (
        lambda: _labelled("sd2", "model.diffusion_model.input_blocks.1.1.time_stack.0.ff.net.2.bias"),
        "a Stable Video Diffusion model",
    ),
    "flat": (lambda: {"model.diffusion_model.input_blocks.0.0.weight": (320,)}, "a U-Net"),
    "shallow": (lambda: {"model.diffusion_model.input_blocks.0.0.weight": (320, 4, 3, 3)}, "1 input blocks"),
}


def _upscaler() -> Shapes:
    """Make a model with a table of noise levels, and 7 input channels."""
    first, labels = "model.diffusion_model.input_blocks.0.0.weight", "model.diffusion_model.label_emb.weight"
    return {**tensor_shapes(LAYOUTS["sd2"]), first: (8, 7, 3, 3), labels: (1000, 32)}


def _labelled(layout: str, text_key: str) -> Shapes:
    extra: Shapes = {"model.diffusion_model.label_emb.0.0.weight": (32, 8), text_key: (8,)}
    return {**tensor_shapes(LAYOUTS[layout]), **extra}


@pytest.mark.parametrize("kind", list(STRANGERS))
def test_strangers_are_refused_by_name(kind: str) -> None:
    make, words = STRANGERS[kind]
    with pytest.raises(CheckpointError) as caught:
        detect_architecture(make(), name="model.safetensors")
    assert words in str(caught.value)
    assert str(caught.value).startswith("model.safetensors ")
