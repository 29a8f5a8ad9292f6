"""Take out of the WebUI's layers what its Lora extension has put into them.

The extension writes LoRAs into the layers' weights, keeps what was there before in attributes of the layers, and goes
by them the next time: kept numbers that are older than a merge would come back over it. Seen in its
``extensions-builtin/Lora/networks.py`` of version 1.10.1; its modules are not imported, the attributes are enough.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

_NAMES = "network_current_names"
_WEIGHTS = "network_weights_backup"
_BIAS = "network_bias_backup"


def undo_lora(layer: nn.Module) -> None:
    """Give a layer the numbers that it has without LoRAs, bit for bit, and void what is kept of them."""
    names, weights, bias = (getattr(layer, name, None) for name in (_NAMES, _WEIGHTS, _BIAS))
    if not names and weights is None and bias is None:
        return
    if names and not (weights is None and bias is None):
        with torch.no_grad():
            _give_back(layer, weights, bias)
    setattr(layer, _NAMES, ())
    setattr(layer, _WEIGHTS, None)
    setattr(layer, _BIAS, None)


def _give_back(layer: nn.Module, weights: Any, bias: torch.Tensor | None) -> None:
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
        owner.bias = None  # the LoRA brought it
