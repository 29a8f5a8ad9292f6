"""Live models behind patchers, as Forge, Forge Neo and reForge have them: which tensors they are made of.

A patcher holds a network as ``model``, and keeps the weights from before LoRAs. An engine has patchers in
``forge_objects_original``: ``unet``, and those in ``clip`` and ``vae``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from ..architectures.keys import UNET_PREFIX, VAE_PREFIX
from ..architectures.text_encoder_names import TEXT_ENCODERS, text_name

_INSIDE_ENCODER = ("transformer.text_model.", "transformer.")
_WRAPPED = "wrapped"
"""Embeddings are wrapped in modules for textual inversion; the original ones have this name."""

Parameters = Mapping[str, Tensor]
"""Tensors by their names."""


def unpatch(patcher: Any) -> None:
    """Give a model its weights without LoRAs; the next image has them added again."""
    if patcher.backup:
        patcher.unpatch_model(None, unpatch_weights=True)


class LiveNetworks:
    """The parameters of a live model, looked up anew each time: they are replaced by others all the time.

    Args:
        objects: The engine's ``forge_objects_original``.
    """

    def __init__(self, objects: Any) -> None:
        self._unet = _parameters(objects.unet.model.diffusion_model)
        self._vae = _parameters(objects.vae.first_stage_model)
        text = getattr(objects.clip, "cond_stage_model", None)
        self._text = {} if text is None else {name: _parameters(child) for name, child in text.named_children()}

    def parts(self, key: str) -> tuple[Tensor, ...] | None:
        """Give the parameters that hold a checkpoint's tensor, transposed if they have to be; None if none do."""
        for prefix, parameters in ((UNET_PREFIX, self._unet), (VAE_PREFIX, self._vae)):
            if key.startswith(prefix):
                parameter = parameters.get(key[len(prefix) :])
                return None if parameter is None else (parameter,)
        return self._text_parts(key)

    def _text_parts(self, key: str) -> tuple[Tensor, ...] | None:
        for prefix, (encoder, open_clip) in TEXT_ENCODERS.items():
            if not key.startswith(prefix):
                continue
            name = text_name(key[len(prefix) :], open_clip=open_clip)
            if name is None or encoder not in self._text:
                return None
            found = [_find(self._text[encoder], parameter) for parameter in name.parameters]
            parts = tuple(parameter for parameter in found if parameter is not None)
            if len(parts) < len(found):
                return None
            return tuple(part.t() for part in parts) if name.transposed else parts
        return None


def prefix_of_encoder(key: str) -> str | None:
    """Give the prefix of the text encoder that a checkpoint's tensor belongs to; None if none is known."""
    return next((prefix for prefix in TEXT_ENCODERS if key.startswith(prefix)), None)


def _find(parameters: Parameters, name: str) -> Tensor | None:
    names = (prefix + name for prefix in _INSIDE_ENCODER)
    return next((parameters[found] for found in names if found in parameters), None)


def _parameters(network: nn.Module) -> Parameters:
    """Give the parameters by their names without wrappers; the wrapped module's, which is used, comes last."""
    return {
        ".".join(piece for piece in (*path.split("."), name) if piece not in ("", _WRAPPED)): parameter
        for path, name, parameter in _walk(network)
    }


def _walk(network: nn.Module) -> Iterator[tuple[str, str, Tensor]]:
    for path, module in network.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            yield path, name, parameter
