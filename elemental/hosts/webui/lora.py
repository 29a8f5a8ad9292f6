"""Take the changes of the WebUI's Lora extension out of a layer's weights.

The extension adds LoRAs to the weights and keeps the weights from before as attributes of the layers. It puts these
back the next time, also over a merge that was made since. The names of the attributes are those of
``extensions-builtin/Lora/networks.py`` in version 1.10.1.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

_NAMES = "network_current_names"
_WEIGHTS = "network_weights_backup"
_BIAS = "network_bias_backup"


def lora_names(layer: nn.Module) -> tuple[object, ...]:
    """Name the LoRAs in a layer's weights, each with its strengths."""
    return tuple(getattr(layer, _NAMES, None) or ())


def undo_lora(layer: nn.Module) -> None:
    """Give a layer its weights without LoRAs, bit for bit, and drop the extension's copies of them."""
    names, weights, bias = (getattr(layer, name, None) for name in (_NAMES, _WEIGHTS, _BIAS))
    if not names and weights is None and bias is None:
        return
    if names and not (weights is None and bias is None):
        with torch.no_grad():
            _put_back(layer, weights, bias)
    setattr(layer, _NAMES, ())
    setattr(layer, _WEIGHTS, None)
    setattr(layer, _BIAS, None)


def _put_back(layer: nn.Module, weights: Any, bias: torch.Tensor | None) -> None:
    owner: Any = layer
    if isinstance(layer, nn.MultiheadAttention):
        owner = layer.out_proj
        if weights is not None:
            layer.in_proj_weight.copy_(weights[0])
            owner.weight.copy_(weights[1])
    elif weights is not None:
        owner.weight.copy_(weights)
    if bias is not None:
        owner.bias.copy_(bias)
    elif getattr(owner, "bias", None) is not None:
        owner.bias = None  # the LoRA added it
