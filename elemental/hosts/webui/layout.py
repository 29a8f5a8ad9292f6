"""What the live model of AUTOMATIC1111's WebUI is made of, and what the WebUI computes from it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from modules import devices, sd_models, sd_vae, shared
from torch import Tensor, nn

from ...architectures.keys import TEXT_PREFIXES, VAE_PREFIX
from .errors import as_host_errors
from .load_count import count_loads
from .lora import undo_lora
from .prompts import forget_prompts
from .saved_attributes import SavedAttributes
from .tensor_names import FileNames, modules_with_tensors

_FP16_COPIES = ("fp16_weight", "fp16_bias")
_EMPTY_PROMPT = "cond_stage_model_empty_prompt"


class WebUILayout:
    """A module of the WebUI.

    Args:
        module: The WebUI's model.
        keys: The keys of the checkpoint's file.

    Attributes:
        module: The WebUI's model.
        left_out: Nothing: the WebUI keeps a copy of a VAE that it has replaced.
    """

    left_out = ""

    def __init__(self, module: nn.Module, keys: Collection[str]) -> None:
        self.module = module
        self._names = FileNames(keys)
        self._loads = count_loads(module)
        self._loads_when_opened = self._loads.number
        self._attributes = SavedAttributes()

    @property
    def overwritten(self) -> bool:
        """Whether something was loaded over these tensors since they were opened."""
        return self._loads.number != self._loads_when_opened

    @property
    def overwritten_by_others(self) -> bool:
        """Whether that was not the WebUI itself."""
        return self._loads.number != self._loads.by_host

    def tensors(self) -> Mapping[str, Sequence[Tensor]]:
        """Give the tensors in use by their keys in the file; LoRAs are taken out of them first."""
        modules = modules_with_tensors(self.module)
        for module in modules.values():
            undo_lora(module)
        return {key: (tensor,) for key, _, tensor in self._walk(modules)}

    def changed(self, keys: Collection[str]) -> None:
        """Drop what the WebUI has computed from tensors: encoded prompts, and fp16 copies of fp8 weights.

        Raises:
            HostError: The WebUI cannot encode the empty prompt with the new numbers.
        """
        if any(key.startswith(TEXT_PREFIXES) for key in keys):
            forget_prompts()
            if shared.opts.pad_cond_uncond and hasattr(self.module, _EMPTY_PROMPT):
                self._encode_empty_prompt()
        if getattr(devices, "fp8", False):
            self._drop_fp16_copies(frozenset(keys))

    def restored(self) -> None:
        """Restore what the WebUI has computed from the tensors, unless it has computed it anew."""
        if self.overwritten:
            self._attributes.forget()
        else:
            self._attributes.restore()

    def _encode_empty_prompt(self) -> None:
        self._attributes.replace(self.module, _EMPTY_PROMPT, _encode_nothing(self.module))
        # The WebUI encodes it for a module that it builds, but not when it loads a checkpoint into an existing one.
        self._loads.on_next_load = lambda: self._attributes.restore(_EMPTY_PROMPT)

    def _drop_fp16_copies(self, keys: Collection[str]) -> None:
        for key, module, _ in self._walk(modules_with_tensors(self.module)):
            if key in keys:
                for name in _FP16_COPIES:
                    self._attributes.remove(module, name)

    def _walk(self, modules: Mapping[str, nn.Module]) -> Iterator[tuple[str, nn.Module, Tensor]]:
        """Give the tensors of the file that are in the model: key, the module that holds it, tensor."""
        for path, module in modules.items():
            for name, parameter in module.named_parameters(recurse=False):
                live_name = f"{path}.{name}"
                key, tensor = self._names.key(live_name), checkpoint_tensor(self.module, live_name, parameter)
                if key is not None and tensor is not None and tensor.is_floating_point():
                    yield key, module, tensor


def checkpoint_tensor(module: Any, live_name: str, parameter: Tensor) -> Tensor | None:
    """Give the checkpoint's tensor; None if the WebUI has replaced it by another VAE's without keeping it.

    Args:
        module: The WebUI's model.
        live_name: The name of the tensor in checkpoints.
        parameter: The tensor in use.
    """
    if not (live_name.startswith(VAE_PREFIX) and sd_vae.loaded_vae_file):
        return parameter.data
    # The VAE in use is the user's choice; the WebUI keeps the checkpoint's VAE as a copy.
    base = sd_vae.get_base_vae(module)
    tensor: Tensor | None = None if base is None else base.get(live_name[len(VAE_PREFIX) :])
    return tensor


def _encode_nothing(module: nn.Module) -> object:
    with as_host_errors(), devices.autocast(), torch.no_grad():
        encoded: object = sd_models.get_empty_cond(module)
    return encoded
