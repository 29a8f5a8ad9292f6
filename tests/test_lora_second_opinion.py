"""A baked LoRA against the weights that diffusers and peft fuse, for both spellings that they read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from elemental import LoraSource, MergeRecipe, merge_to_file, model_source
from elemental.architectures.blocks import SD1, SD2, SDXL, Architecture

from .conftest import DRAWABLE, random_state, save
from .lora_files import State, lora, with_name

pytest.importorskip("peft", reason="peft is not installed, which fuses LoRAs for a second opinion")
pytest.importorskip("diffusers")

import diffusers

from elemental.hosts.standalone.key_map import Network
from elemental.hosts.standalone.networks import Networks, allocate, build_networks, live_tensors

pytestmark = pytest.mark.slow

KOHYA = {Network.UNET: "lora_unet_", Network.TEXT: "lora_te_", Network.TEXT_2: "lora_te2_"}
EVERY = 9
"""Of the layers that trainers choose, every ninth: enough to have each kind in each network."""


def _layers(networks: Networks) -> Iterator[tuple[Network, str, torch.Size]]:
    """List layers of attention and of the perceptrons behind it, as trainers choose them."""
    for network in (Network.UNET, Network.TEXT, Network.TEXT_2):
        if network in networks:
            modules = [
                (name, module)
                for name, module in networks[network].named_modules()
                if isinstance(module, torch.nn.Linear) and ("attn" in name or "mlp" in name or ".ff." in name)
            ]
            for name, module in modules[::EVERY]:
                yield network, name.removeprefix("text_model."), module.weight.shape


def _name(network: Network, layer: str, architecture: Architecture, *, kohya: bool) -> str:
    inner = layer if network is Network.UNET else f"text_model.{layer}"
    prefix = "lora_te1_" if network is Network.TEXT and architecture is SDXL else KOHYA[network]
    return prefix + inner.replace(".", "_") if kohya else f"{network.value}.{inner}"


def _fused(networks: Networks, tensors: State, ratio: float) -> None:
    """Load a LoRA into networks with diffusers and peft, and fuse it."""
    parts: dict[str, Any] = {network.value: module for network, module in networks.items()}
    if Network.TEXT_2 in networks:
        pipeline = diffusers.StableDiffusionXLPipeline(**parts, tokenizer=None, tokenizer_2=None, scheduler=None)
    else:
        none = {"tokenizer": None, "scheduler": None, "safety_checker": None, "feature_extractor": None}
        pipeline = diffusers.StableDiffusionPipeline(**parts, **none, requires_safety_checker=False)
    pipeline.load_lora_weights(dict(tensors))
    pipeline.fuse_lora(lora_scale=ratio)
    pipeline.unload_lora_weights()


@pytest.mark.parametrize(
    ("layout", "architecture", "kohya"),
    [("sd1", SD1, True), ("sd2", SD2, False), ("sdxl", SDXL, True), ("sdxl", SDXL, False)],
    ids=["SD 1.x, kohya", "SD 2.x, PEFT", "SDXL, kohya", "SDXL, PEFT"],
)
def test_baked_is_what_peft_fuses(tmp_path: Path, layout: str, architecture: Architecture, *, kohya: bool) -> None:
    state = random_state(DRAWABLE[layout], 1, torch.float32)
    networks = build_networks({key: tuple(tensor.shape) for key, tensor in state.items()}, architecture)
    allocate(networks, dict.fromkeys(networks, torch.float32), torch.device("cpu"))
    live = live_tensors(networks, list(state))
    for key, parts in live.items():
        for part, numbers in zip(
            parts, torch.split(state[key].reshape(-1), [part.numel() for part in parts]), strict=True
        ):
            part.copy_(numbers.reshape(part.shape))
    ends = (".lora_down.weight", ".lora_up.weight") if kohya else (".lora_A.weight", ".lora_B.weight")
    tensors: State = {}
    for network, layer, shape in _layers(networks):
        made, added = lora(tuple(shape), names=ends)
        if kohya:
            made[".alpha"] = torch.tensor(2.0)
        tensors |= with_name(_name(network, layer, architecture, kohya=kohya), (made, added))
    model, file = save(tmp_path / "a.safetensors", state), save(tmp_path / "style.safetensors", tensors)
    source = model_source(model)
    recipe = MergeRecipe(source, source, alpha=0.0, loras=(LoraSource(model_source(file), 0.7),))
    baked = merge_to_file(recipe, tmp_path / "out.safetensors", with_hashes=False)
    ours = load_file(baked.path)
    _fused(networks, tensors, 0.7)
    (fit,) = baked.plan.loras
    assert fit.applied == fit.layers
    moved = 0
    for key, parts in live_tensors(networks, list(state)).items():
        theirs = torch.cat([part.reshape(-1) for part in parts])
        torch.testing.assert_close(ours[key].reshape(-1), theirs, rtol=1e-5, atol=1e-6, msg=key)
        moved += not torch.equal(theirs, state[key].reshape(-1))
    assert moved == len(fit.changes)
