"""A stand-in for the WebUI's live model: a real tree of torch modules made from a checkpoint's tensors.

It behaves as the source, the documentation and the issues of the WebUI describe it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

LORA = "<lora:tiny:1>"
"""In a prompt, it adds a constant to some layers."""

_LORA_LAYERS = ("attn1.to_q", "self_attn.q_proj", "resblocks.0.attn", "attn1.to_out.0")


class Layer(nn.Module):
    """A module that holds tensors and children by any name."""


class Wrapper(nn.Module):
    """What the hijack puts around a module."""

    def __init__(self, wrapped: nn.Module) -> None:
        super().__init__()
        self.wrapped = wrapped


def build_model(state: Mapping[str, Tensor], *, dtype: torch.dtype = torch.float32) -> Any:
    """Build the modules of a checkpoint, and a buffer of the noise schedule that no checkpoint has."""
    root = Layer()
    for key, tensor in state.items():
        _attach(root, key.split("."), tensor.to(dtype) if tensor.is_floating_point() else tensor)
    root.register_buffer("alphas_cumprod", torch.linspace(1, 0, 10))
    model: Any = root
    model.cond_stage_model_empty_prompt = torch.zeros(1)
    return model


def _attach(owner: nn.Module, path: list[str], tensor: Tensor) -> None:
    *modules, name = path
    child: nn.Module
    for piece in modules:
        if piece not in owner._modules:
            width = tensor.shape[0] // 3 if name.startswith("in_proj_") and piece == modules[-1] else 0
            child = nn.MultiheadAttention(width, 1, dtype=tensor.dtype) if width else Layer()
            owner.add_module(piece, child)
        owner = getattr(owner, piece)
    if tensor.is_floating_point():
        owner.register_parameter(name, nn.Parameter(tensor.clone()))
    else:
        owner.register_buffer(name, tensor.clone())


def hijack(model: Any) -> None:
    """Wrap text encoders and their embeddings in modules of the WebUI."""
    if hasattr(model, "conditioner"):
        embedders = model.conditioner.embedders
        for name in list(embedders._modules):
            _wrap_embedding(embedders._modules[name])
            embedders._modules[name] = Wrapper(embedders._modules[name])
        model.cond_stage_model = model.conditioner
        return
    _wrap_embedding(model.cond_stage_model)
    model.cond_stage_model = Wrapper(model.cond_stage_model)


def undo_hijack(model: Any) -> None:
    """Unwrap them."""
    if hasattr(model, "conditioner"):
        embedders = model.conditioner.embedders
        for name, module in list(embedders._modules.items()):
            embedders._modules[name] = _unwrapped(module)
            _wrap_embedding(embedders._modules[name], undo=True)
        del model.cond_stage_model
        return
    model.cond_stage_model = _unwrapped(model.cond_stage_model)
    _wrap_embedding(model.cond_stage_model, undo=True)


def _unwrapped(module: Any) -> Any:
    return module.wrapped if isinstance(module, Wrapper) else module


def _wrap_embedding(encoder: nn.Module, *, undo: bool = False) -> None:
    for module in list(encoder.modules()):
        embedding = module._modules.get("token_embedding")
        if embedding is not None:
            module._modules["token_embedding"] = _unwrapped(embedding) if undo else Wrapper(embedding)


def set_lora(model: nn.Module, *, active: bool) -> None:
    """Do to the layers what the Lora extension does before they are used: back up, restore, add."""
    names = ("tiny",) if active else ()
    for name, module in model.named_modules():
        if not name.endswith(_LORA_LAYERS):
            continue
        layer: Any = module
        current = getattr(layer, "network_current_names", ())
        if getattr(layer, "network_weights_backup", None) is None and active:
            assert current == (), "no backup, and the weights are changed"
            layer.network_weights_backup = _copies(layer)
            layer.network_bias_backup = _bias(layer)
        if current == names:
            continue
        if layer.network_weights_backup is not None:
            _restore(layer)  # not without gradients, so that it fails for weights that are differentiated by
        if active:
            with torch.no_grad():
                _add(layer)
        layer.network_current_names = names


def _copies(layer: Any) -> Any:
    if isinstance(layer, nn.MultiheadAttention):
        return layer.in_proj_weight.clone(), layer.out_proj.weight.clone()
    return layer.weight.clone()


def _bias(layer: Any) -> Tensor | None:
    owner = layer.out_proj if isinstance(layer, nn.MultiheadAttention) else layer
    bias = getattr(owner, "bias", None)
    return None if bias is None else bias.clone()


def _restore(layer: Any) -> None:
    owner = layer
    backup: Any = layer.network_weights_backup
    if isinstance(layer, nn.MultiheadAttention):
        owner = layer.out_proj
        layer.in_proj_weight.copy_(backup[0])
        owner.weight.copy_(backup[1])
    else:
        layer.weight.copy_(backup)
    if layer.network_bias_backup is None:
        owner.bias = None
    else:
        owner.bias.copy_(layer.network_bias_backup)


def _add(layer: Any) -> None:
    owner = layer
    if isinstance(layer, nn.MultiheadAttention):
        owner = layer.out_proj
        layer.in_proj_weight.add_(0.25)
    owner.weight.add_(0.25)
    if getattr(owner, "bias", None) is None:
        owner.bias = nn.Parameter(torch.full(owner.weight.shape[:1], 0.5, dtype=owner.weight.dtype))
    else:
        owner.bias.add_(0.5)


def digest(model: nn.Module, *parts: str) -> str:
    """Give the SHA-256 of the bytes of a model's tensors, or of those of some of its parts."""
    total = hashlib.sha256()
    for name, tensor in _tensors(model):
        if not parts or name.startswith(parts):
            total.update(name.encode())
            total.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()
