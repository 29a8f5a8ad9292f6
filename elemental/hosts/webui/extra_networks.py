"""The LoRAs and hypernetworks that an image was made with, brought back when it is computed again.

The Lora extension writes its changes into a layer's weights when the layer is used. The names are those of
``extensions-builtin/Lora/networks.py`` and ``modules/hypernetworks/hypernetwork.py`` in version 1.10.1.
"""

from __future__ import annotations

import sys
from collections.abc import Hashable
from typing import Any

import torch
from modules import extra_networks, shared

from ...errors import HostError
from .lora import lora_names


class ExtraNetworks:
    """The LoRAs and hypernetworks that are in use now.

    Args:
        model: The WebUI's model.
        request: The WebUI's request of the image.
    """

    def __init__(self, model: Any, request: Any) -> None:
        self._model = model
        self._request = request
        self._active = _active()
        self._in_layers = self._find_in_layers()

    def use(self) -> bool:
        """Have the WebUI use them again.

        Returns:
            Whether they are in the weights; otherwise they will be once each layer has been used.

        Raises:
            HostError: The WebUI does not find them any more.
        """
        if _active() != self._active:
            with torch.no_grad():
                _activate(self._request)
            if _active() != self._active:
                raise HostError("The WebUI does not find the LoRAs or hypernetworks of this image any more.")
        return self._find_in_layers() == self._in_layers

    def _find_in_layers(self) -> list[Hashable]:
        return [lora_names(layer) for layer in self._model.modules()]


def _activate(request: Any) -> None:
    """Do what the WebUI does before an image, but for the scripts that it calls then."""
    chosen = extra_networks.lookup_extra_networks(request.extra_network_data or {})
    for network in dict.fromkeys([*chosen, *extra_networks.extra_network_registry.values()]):
        network.activate(request, chosen.get(network, []))


def _active() -> tuple[Hashable, ...]:
    """Name the LoRAs and hypernetworks in use, with their strengths."""
    loras = getattr(sys.modules.get("networks"), "loaded_networks", ())
    return (
        *((net.name, net.te_multiplier, net.unet_multiplier, net.dyn_dim) for net in loras),
        *((net.name, *_strengths(net)) for net in getattr(shared, "loaded_hypernetworks", ())),
    )


def _strengths(hypernetwork: Any) -> list[float]:
    return [module.multiplier for modules in hypernetwork.layers.values() for module in modules]
