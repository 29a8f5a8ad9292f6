"""A stand-in for the live models of Forge, Forge Neo and reForge: engines, patchers, and what loads them for an image.

It behaves as the sources of these hosts do, and as docs/evidence/hosts.md says that they were seen to.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from .forge_standin_computing import encode
from .webui_standin_models import Layer, _attach, digest

_LORA_LAYERS = ("attn1.to_q.weight", "self_attn.q_proj.weight")
_TEXT_PREFIXES = {
    "cond_stage_model.transformer.": "clip_l.transformer.",
    "cond_stage_model.model.": "clip_h.transformer.",
    "conditioner.embedders.0.transformer.": "clip_l.transformer.",
    "conditioner.embedders.1.model.": "clip_g.transformer.",
}
_OPEN_CLIP = {
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
}
_OPEN_CLIP_LAYER = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}


class TextualInversion(nn.Module):
    """What wraps an embedding; its weight is that of the wrapped one."""

    def __init__(self, wrapped: Any) -> None:
        super().__init__()
        self.wrapped = wrapped
        self.weight = wrapped.weight


class LoraLoader:
    """Forge's: a new parameter replaces the old one, which is the backup."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.backup: dict[str, Any] = {}
        self.online: list[Any] = []
        self.loaded_hash = str([])

    def refresh(self, lora_patches: Mapping[Any, Sequence[str]], offload_device: Any = None) -> None:  # noqa: ARG002
        hashes = str(list(lora_patches))
        if hashes == self.loaded_hash:
            return
        for name in self.online:
            del self.model.get_submodule(name.rpartition(".")[0]).forge_online_loras
        self.online.clear()
        for name, weight in self.backup.items():
            _set(self.model, name, weight)
        self.backup = {}
        for (_, online), names in lora_patches.items():
            if online:
                self.online += names
                for name in names:
                    vars(self.model.get_submodule(name.rpartition(".")[0]))["forge_online_loras"] = {"weight": "lora"}
                continue
            for name in names:
                self.backup.setdefault(name, _get(self.model, name))
                _set(self.model, name, _with_lora(_get(self.model, name)))
        self.loaded_hash = hashes


class Patcher:
    """What all patchers have."""

    model: Any
    control: Tensor | None = None
    """What ControlNet adds."""

    def __init__(self) -> None:
        self.model_options: dict[str, Any] = {}

    def memory_required(self, input_shape: Sequence[int]) -> float:
        return float(self.model.memory_required(input_shape))


class ForgePatcher(Patcher):
    """A patcher of Forge; its clones share the model, and with it the loader of LoRAs."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.offload_device = model, torch.device("cpu")
        self.lora_patches: dict[Any, list[str]] = {}
        if not hasattr(model, "lora_loader"):
            model.lora_loader = LoraLoader(model)
        self.lora_loader = model.lora_loader

    def clone(self) -> Any:
        made = copy.copy(self)
        made.lora_patches = dict(self.lora_patches)
        return made

    def add_lora(self, name: str, *, online: bool) -> None:
        self.lora_patches[name, online] = lora_names(self.model)

    def load(self) -> None:
        self.lora_loader.refresh(self.lora_patches, self.offload_device)

    def online(self) -> Sequence[str]:
        return list(self.lora_loader.online)


class NeoPatcher(Patcher):
    """A patcher of Forge Neo and reForge; its clones share model and backups."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.offload_device = model, torch.device("cpu")
        self.backup: dict[str, Any] = {}
        self.patches: list[str] = []
        self.patches_uuid, self._online = object(), False
        model.current_weight_patches_uuid = None

    def clone(self) -> Any:
        made = copy.copy(self)
        made.patches = list(self.patches)
        return made

    def add_lora(self, name: str, *, online: bool) -> None:  # noqa: ARG002
        self.patches, self._online, self.patches_uuid = lora_names(self.model), online, object()

    def load(self) -> None:
        if self.model.current_weight_patches_uuid is self.patches_uuid:
            return
        self.unpatch_model()
        for module in self.model.modules():
            module.__dict__.pop("weight_function", None)
        for name in self.patches:
            self.model.get_submodule(name.rpartition(".")[0]).weight_function = ["lora"] if self._online else []
        for name in [] if self._online else self.patches:
            self.backup[name] = _get(self.model, name)
            _set(self.model, name, _with_lora(self.backup[name]))
        self.model.current_weight_patches_uuid = self.patches_uuid

    def unpatch_model(self, device_to: Any = None, unpatch_weights: bool = True) -> None:  # noqa: ARG002
        if unpatch_weights:
            for name, weight in self.backup.items():
                _set(self.model, name, nn.Parameter(weight.data, requires_grad=False))  # another one than before
            self.model.current_weight_patches_uuid = None
            self.backup.clear()

    def online(self) -> Sequence[str]:
        return self.patches if self._online else []


def lora_names(model: nn.Module) -> list[str]:
    return [name for name, _ in model.named_parameters() if name.endswith(_LORA_LAYERS)]


def _with_lora(weight: Tensor) -> nn.Parameter:
    return nn.Parameter(weight + 0.25, requires_grad=False)


def _get(model: nn.Module, name: str) -> Any:
    path, _, last = name.rpartition(".")
    return getattr(model.get_submodule(path), last)


def _set(model: nn.Module, name: str, weight: Any) -> None:
    path, _, last = name.rpartition(".")
    setattr(model.get_submodule(path), last, weight)


class Memory:
    """``backend.memory_management``; a patcher that counts as loaded is not looked at again."""

    def __init__(self) -> None:
        self.current_loaded_models: list[Any] = []

    def load_model_gpu(self, patcher: Any) -> None:
        self.load_models_gpu([patcher])

    def load_models_gpu(self, patchers: Sequence[Any], memory_required: float = 0) -> None:  # noqa: ARG002
        for patcher in patchers:
            if isinstance(patcher, ForgePatcher) and any(loaded is patcher for loaded in self.current_loaded_models):
                continue
            self.unload_model_clones(patcher)
            for parameter in patcher.model.parameters():
                parameter.data = parameter.data  # as ``.to()`` does; torch refuses it in another mode than theirs
            patcher.load()
            self.current_loaded_models.insert(0, patcher)

    def unload_model_clones(self, patcher: Any) -> None:
        loaded = [other for other in self.current_loaded_models if other.model is not patcher.model]
        self.current_loaded_models = loaded

    def unload_all_models(self) -> None:
        self.current_loaded_models = []


class Objects:
    """``ForgeObjects``."""

    def __init__(self, unet: Any, clip: Any, vae: Any) -> None:
        self.unet, self.clip, self.vae = unet, clip, vae

    def shallow_copy(self) -> Objects:
        return Objects(self.unet, self.clip, self.vae)


class Engine:
    """An engine of Forge, which is no module."""

    sd_checkpoint_info: Any = None
    sd_model_hash = ""
    memory: Any = None
    text_processing_engine: Any = None

    def __init__(self, objects: Objects) -> None:
        self.current_lora_hash = str([])
        self.use(objects)

    def use(self, objects: Objects) -> None:
        """Take networks as those of the engine."""
        self.forge_objects = objects
        self.forge_objects_original = objects.shallow_copy()
        self.forge_objects_after_applying_lora = objects.shallow_copy()

    def load_loras(self, names: Sequence[str], *, online: bool) -> None:
        """Do what the built-in extension for LoRAs does when a prompt is read."""
        wanted = str((list(names), online)) if names else str([])
        if wanted == self.current_lora_hash:
            return
        self.current_lora_hash = wanted
        objects = self.forge_objects_original.shallow_copy()
        for name in names:
            objects.unet = objects.unet.clone()
            objects.unet.add_lora(name, online=online)
            clip = copy.copy(objects.clip)
            clip.patcher = clip.patcher.clone()
            clip.patcher.add_lora(name, online=online)
            objects.clip = clip
        self.forge_objects = objects
        self.forge_objects_after_applying_lora = objects.shallow_copy()

    @torch.inference_mode()
    def get_learned_conditioning(self, texts: Sequence[str]) -> Any:
        """Encode prompts."""
        return encode(self, texts)

    def set_clip_skip(self, clip_skip: int) -> None:
        """Say which layer's output counts."""
        self.text_processing_engine.clip_skip = clip_skip

    def digest(self, *parts: str) -> str:
        """Give the digest of the tensors in use: of all networks, or of some of ``unet``, ``clip`` and ``vae``."""
        networks = {
            "unet": self.forge_objects.unet.model,
            "clip": self.forge_objects.clip.cond_stage_model,
            "vae": self.forge_objects.vae.first_stage_model,
        }
        return "".join(digest(network) for name, network in networks.items() if not parts or name in parts)


def build_objects(
    state: Mapping[str, Tensor], make_patcher: type[Any], others: Sequence[Mapping[str, Tensor]] = ()
) -> Objects:
    """Build the networks of a checkpoint, as inference tensors.

    Args:
        state: The checkpoint.
        make_patcher: The class of the patchers.
        others: The tensors of files beside it, which replace the checkpoint's.
    """
    state = dict(state)
    for other in others:
        state.update({key: tensor for key, tensor in other.items() if key in state})
    with torch.inference_mode():
        unet, vae, text = Layer(), Layer(), Layer()
        for key, tensor in state.items():
            if key.startswith("model.diffusion_model."):
                _attach(unet, key.split(".")[1:], tensor.float())
            elif key.startswith("first_stage_model."):
                _attach(vae, key.split(".")[1:], tensor.float())
            for name, part in to_transformers(key, tensor):
                _attach(text, name.split("."), part.float() if "embedding" in name and "ids" not in name else part)
        for module in list(text.modules()):
            if "token_embedding" in module._modules:
                module._modules["token_embedding"] = TextualInversion(module._modules["token_embedding"])
    made: Any = unet
    made.storage_dtype = torch.float32
    clip = SimpleNamespace(cond_stage_model=text, patcher=make_patcher(text))
    decoder = SimpleNamespace(first_stage_model=vae, patcher=make_patcher(vae), vae_dtype=torch.float32)
    decoder.memory_used_decode = lambda shape, _: float(shape[-1])
    return Objects(make_patcher(made), clip, decoder)


def to_transformers(key: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Give a tensor of a text encoder under transformers' names, as these hosts convert it."""
    prefix = next((prefix for prefix in _TEXT_PREFIXES if key.startswith(prefix)), None)
    if prefix is None:
        return
    start, name = _TEXT_PREFIXES[prefix], key[len(prefix) :]
    layer = re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+)\.(weight|bias)", name)
    attention = re.fullmatch(r"transformer\.resblocks\.(\d+)\.attn\.in_proj_(weight|bias)", name)
    if attention is not None:
        for letter, part in zip("qkv", tensor.chunk(3), strict=True):
            path = f"text_model.encoder.layers.{attention[1]}.self_attn.{letter}_proj.{attention[2]}"
            yield f"{start}{path}", part.clone()
    elif layer is not None:
        inner = _OPEN_CLIP_LAYER.get(layer[2], "self_attn.out_proj")
        yield f"{start}text_model.encoder.layers.{layer[1]}.{inner}.{layer[3]}", tensor
    elif name == "text_projection":
        yield f"{start}text_projection.weight", tensor.t().contiguous()
    elif name != "logit_scale":
        yield start + _OPEN_CLIP.get(name, name), tensor
