"""Names of layers in LoRA files -> tensors of a checkpoint.

The names are facts of the layouts that trainers write:

- ``lora_unet_``, ``lora_te_``, ``lora_te1_``, ``lora_te2_``, ``oft_unet_``, dots replaced by underscores:
  networks/lora.py and networks/oft.py of github.com/kohya-ss/sd-scripts. What follows is diffusers' or transformers'
  name, or for SDXL the checkpoint's.
- ``unet.``, ``text_encoder.``, ``text_encoder_2.``: diffusers. ``diffusion_model.``: ComfyUI.
  ``base_model.model.``: PEFT.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from ..architectures.diffusers_names import unet_name
from ..architectures.keys import UNET_PREFIX
from ..architectures.text_encoder_names import TEXT_ENCODERS, text_name

WEIGHT, BIAS = "weight", "bias"


class LayerName(NamedTuple):
    """A layer that a LoRA changes.

    Attributes:
        network: The network as LoRA files call it: "unet", "te", "te1", "te2", or "text", which is the first or only
            text encoder.
        name: The name within it, with underscores for dots.
    """

    network: str
    name: str


class Place(NamedTuple):
    """Where the numbers of a layer are in a checkpoint.

    Attributes:
        key: The tensor.
        part: Which of several equal parts of the tensor's rows it is, from 0.
        parts: How many these are: 3 where queries, keys and values are one tensor.
        transposed: Whether the tensor is the transpose of the layer's.
    """

    key: str
    part: int = 0
    parts: int = 1
    transposed: bool = False


Places = Mapping[tuple[LayerName, str], Place]
"""The place of each layer's weight and bias."""

_PREFIXES = {
    "lora_unet_": "unet",
    "oft_unet_": "unet",
    "lora_te_": "te",
    "lora_te1_": "te1",
    "lora_te2_": "te2",
    "unet.": "unet",
    UNET_PREFIX: "unet",
    "diffusion_model.": "unet",
    "text_encoder_2.": "te2",
    "text_encoder.": "text",
}
_NETWORKS = {
    "cond_stage_model.transformer.text_model.": ("te", "text"),
    "cond_stage_model.model.": ("te", "text"),
    "conditioner.embedders.0.transformer.text_model.": ("te1", "text"),
    "conditioner.embedders.1.model.": ("te2",),
}
_PEFT = "base_model.model."
_TEXT_MODEL = "text_model_"


def layer_name(name: str) -> LayerName:
    """Read the name of a layer in a LoRA file.

    Args:
        name: The name without what follows the layer, such as ``.lora_down.weight``.
    """
    rest = name.removeprefix(_PEFT)
    prefix = next((prefix for prefix in _PREFIXES if rest.startswith(prefix)), "")
    flat = _flat(re.sub(r"\.processor\.(to_[a-z]+)", r".\1", rest[len(prefix) :]))
    flat = re.sub(r"_to_out$", "_to_out_0", flat)  # as diffusers called it before it used PEFT
    if not prefix:
        return LayerName("text" if flat.startswith(_TEXT_MODEL) else "unet", flat.removeprefix(_TEXT_MODEL))
    return LayerName(_PREFIXES[prefix], flat.removeprefix(_TEXT_MODEL))


def find_places(keys: Iterable[str]) -> Places:
    """Find the layers of a checkpoint under each name that a LoRA file may call them by.

    Args:
        keys: The checkpoint's keys, in this program's spelling.
    """
    return {entry: place for key in keys for entry, place in _names_of(key)}


def kohya_layers(key: str, *, checkpoint_names: bool) -> list[tuple[str, Place]]:
    """Name the layers whose weights are in a tensor as kohya's scripts do; none where a LoRA has no layer.

    Args:
        key: The key of a tensor.
        checkpoint_names: Whether layers of the U-Net are called as in the checkpoint, as is usual for SDXL, or as in
            diffusers.
    """
    named = dict.fromkeys(_names_of(key))
    own = _entry("unet", key[len(UNET_PREFIX) :]) if key.startswith(UNET_PREFIX) else None
    chosen = [
        (layer, place)
        for (layer, kind), place in named
        if kind == WEIGHT
        and not layer.name.startswith("embeddings_")
        and layer.network != "text"
        and (own is None or len(named) == 1 or (layer == own[0]) is checkpoint_names)
    ]
    return [(f"lora_{network}_{_within(network, name)}", place) for (network, name), place in chosen]


def _within(network: str, name: str) -> str:
    return name if network == "unet" or name == "text_projection" else f"{_TEXT_MODEL}{name}"


def _names_of(key: str) -> Iterator[tuple[tuple[LayerName, str], Place]]:
    if key.startswith(UNET_PREFIX):
        rest = key[len(UNET_PREFIX) :]
        for name in {rest, unet_name(rest) or rest}:
            yield _entry("unet", name), Place(key)
        return
    prefix = next((prefix for prefix in TEXT_ENCODERS if key.startswith(prefix)), None)
    found = text_name(key[len(prefix) :], open_clip=TEXT_ENCODERS[prefix][1]) if prefix else None
    if prefix is None or found is None:
        return
    for network in _NETWORKS[prefix]:
        for part, name in enumerate(found.parameters):
            yield _entry(network, name), Place(key, part, len(found.parameters), found.transposed)


def _entry(network: str, name: str) -> tuple[LayerName, str]:
    layer, _, kind = name.rpartition(".")
    return LayerName(network, _flat(layer)), kind


def _flat(name: str) -> str:
    return name.replace(".", "_")
