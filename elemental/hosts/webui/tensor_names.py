"""The names that the WebUI's live tensors have in checkpoint files."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import nn

from ...architectures.keys import TEXT_PREFIXES, UNET_PREFIX, VAE_PREFIX

_PARTS = ("model", "first_stage_model")
_PREFIXES = (UNET_PREFIX, VAE_PREFIX, *TEXT_PREFIXES)
_WRAPPED = "wrapped"
"""The WebUI wraps text encoders and their embeddings in modules of its own; the original ones have this name."""

_OTHER_SPELLINGS = (
    ("cond_stage_model.transformer.text_model.", "cond_stage_model.transformer."),  # early SD 1.x files
    ("cond_stage_model.", "conditioner.embedders.0."),  # SD 2.x files in the layout of SDXL
)


class FileNames:
    """Names of live tensors -> keys in a file.

    Args:
        keys: The keys of the file.
    """

    def __init__(self, keys: Collection[str]) -> None:
        self._keys = frozenset(keys)
        self._by_live_name: dict[str, str | None] = {}

    def key(self, live_name: str) -> str | None:
        """Give the key that a live tensor has in the file; None if it is not in the file."""
        if live_name not in self._by_live_name:
            self._by_live_name[live_name] = self._find(live_name)
        return self._by_live_name[live_name]

    def _find(self, live_name: str) -> str | None:
        if not live_name.startswith(_PREFIXES):
            return None
        others = [old + live_name[len(new) :] for new, old in _OTHER_SPELLINGS if live_name.startswith(new)]
        return next((name for name in (live_name, *others) if name in self._keys), None)


def networks_of(model: nn.Module) -> Mapping[str, nn.Module]:
    """Give the U-Net, the VAE and the text encoders of a live model, by the beginning of their names in checkpoints."""
    text = "conditioner" if hasattr(model, "conditioner") else "cond_stage_model"
    parts = {part: getattr(model, part, None) for part in (*_PARTS, text)}
    return {part: network for part, network in parts.items() if isinstance(network, nn.Module)}


def modules_with_tensors(model: nn.Module) -> Mapping[str, nn.Module]:
    """Give the modules of a live model that hold parameters, by their names in checkpoints."""
    modules: dict[str, nn.Module] = {}
    for part, network in networks_of(model).items():
        modules.update(network.named_modules(prefix=part))
    return {_without_wrappers(name): module for name, module in modules.items() if _has_parameters(module)}


def _has_parameters(module: nn.Module) -> bool:
    return next(module.named_parameters(recurse=False), None) is not None


def _without_wrappers(name: str) -> str:
    return ".".join(piece for piece in name.split(".") if piece != _WRAPPED)
