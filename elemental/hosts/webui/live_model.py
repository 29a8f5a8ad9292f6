"""The WebUI's live model: its tensors by checkpoint key, and what the WebUI computes from them."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from modules import devices, processing, sd_models, sd_vae, shared
from torch import Tensor, nn

from ...architectures.keys import TEXT_PREFIXES, VAE_PREFIX
from ...errors import HostError
from ..base import NO_FIELDS, CheckpointRef, Claim
from .errors import as_host_errors
from .images import LABEL
from .load_count import count_loads
from .lora import undo_lora
from .saved_attributes import SavedAttributes
from .tensor_names import FileNames, modules_with_tensors

_log = logging.getLogger(__name__)

_FP16_COPIES = ("fp16_weight", "fp16_bias")
_EMPTY_PROMPT = "cond_stage_model_empty_prompt"


@dataclass(frozen=True)
class Description:
    """How the merge in the model is described in images.

    Attributes:
        model: Names the model in the infotext.
        fields: Additional texts for the image files.
    """

    model: Mapping[str, str]
    fields: Mapping[str, str]


class WebUIModel:
    """A module of the WebUI that holds a checkpoint.

    No tensor is kept between calls, so that the WebUI may move the module between devices.

    Args:
        module: The WebUI's model.
        checkpoint: The checkpoint that is loaded into it.
        keys: The keys of the checkpoint's file.

    Attributes:
        checkpoint: The checkpoint whose tensors are in the module; None once a merge was kept.
        opened: The checkpoint that was loaded.
        module: The WebUI's model.
        kept: The label of the merge that was kept in it.
        description: The last description of a merge in it; None if there is no merge.
    """

    def __init__(self, module: nn.Module, checkpoint: CheckpointRef, keys: Collection[str]) -> None:
        self.checkpoint: CheckpointRef | None = checkpoint
        self.opened = checkpoint
        self.module = module
        self.kept: str | None = None
        self.description: Description | None = None
        self._names = FileNames(keys)
        self._claim = Claim()
        self._loads = count_loads(module)
        self._loads_when_opened = self._loads.number
        self._attributes = SavedAttributes()
        self._written = False

    def tensors(self) -> Mapping[str, Sequence[Tensor]]:
        """Give the tensors in use by their keys in the file; LoRAs are taken out of them first.

        Raises:
            HostError: Something else was loaded over them, or the WebUI has moved them to no device.
        """
        if self.replaced():
            raise HostError("The WebUI has loaded another model in place of this one; merge again.")
        modules = modules_with_tensors(self.module)
        for module in modules.values():
            undo_lora(module)
        tensors = {key: (tensor,) for key, _, tensor in self._walk(modules)}
        if any(tensor.is_meta for (tensor,) in tensors.values()):
            raise HostError("The model is on no device; choose the checkpoint in the WebUI's list again.")
        return tensors

    def changed(self, keys: Collection[str]) -> None:
        """Drop what the WebUI has computed from tensors: encoded prompts, and fp16 copies of fp8 weights.

        Raises:
            HostError: The WebUI cannot encode the empty prompt with the new numbers.
        """
        self._written = True
        if any(key.startswith(TEXT_PREFIXES) for key in keys):
            forget_prompts()
            if shared.opts.pad_cond_uncond and hasattr(self.module, _EMPTY_PROMPT):
                self._encode_empty_prompt()
        if getattr(devices, "fp8", False):
            self._drop_fp16_copies(frozenset(keys))

    def _encode_empty_prompt(self) -> None:
        self._attributes.replace(self.module, _EMPTY_PROMPT, _encode_nothing(self.module))
        # The WebUI encodes it for a module that it builds, but not when it loads a checkpoint into an existing one.
        self._loads.on_next_load = lambda: self._attributes.restore(_EMPTY_PROMPT)

    def _drop_fp16_copies(self, keys: Collection[str]) -> None:
        for key, module, _ in self._walk(modules_with_tensors(self.module)):
            if key in keys:
                for name in _FP16_COPIES:
                    self._attributes.remove(module, name)

    @contextmanager
    def claim(self) -> Iterator[None]:
        """Hold the model for one merge; afterwards it counts as the checkpoint again, unless the merge was kept.

        Raises:
            HostError: Another merge is using it.
        """
        with self._claim():
            self._written = False
            try:
                yield
            finally:
                if self.kept is None:
                    self._end_merge()

    def keep(self, label: str) -> None:
        """Remember the label of the merge; the model is no longer that of its file."""
        self.kept = label
        self.checkpoint = None
        self.description = Description({LABEL: label}, {})  # its images must not be named after the checkpoint

    def describe(self, model: Mapping[str, str], fields: Mapping[str, str]) -> None:
        """Remember what is in the model, for images that the user makes in the WebUI's own tabs."""
        if model or not self.holds_merge:
            self.description = Description(dict(model), dict(fields)) if model else None

    def replaced(self) -> bool:
        """Tell whether the WebUI has loaded something over these tensors, or uses another model."""
        return self.overwritten or sd_models.model_data.sd_model is not self.module

    @property
    def overwritten(self) -> bool:
        """Whether something was loaded over these tensors since they were opened."""
        return self._loads.number != self._loads_when_opened

    @property
    def holds_merge(self) -> bool:
        """Whether a merge was kept in the module, and is still there."""
        return self.kept is not None and not self.overwritten

    @property
    def differs_from_checkpoint(self) -> bool:
        """Whether the module holds something other than the checkpoint that the WebUI names."""
        return self._loads.number != self._loads.by_host if self.overwritten else self.holds_merge

    def _end_merge(self) -> None:
        """Restore what the WebUI has computed from the tensors, which hold their original numbers again."""
        self.describe({}, NO_FIELDS)
        if self.overwritten:
            self._attributes.forget()
            return
        self._attributes.restore()
        models = sd_models.model_data.loaded_sd_models
        if self._written and self.replaced() and any(model is self.module for model in models):
            # The WebUI set this model aside while a merge was in it, and must not use it as the checkpoint later.
            _log.warning("The WebUI's copy of %s in memory holds a merge, and is dropped.", self.opened.title)
            sd_models.model_data.loaded_sd_models = [model for model in models if model is not self.module]

    def _walk(self, modules: Mapping[str, nn.Module]) -> Iterator[tuple[str, nn.Module, Tensor]]:
        """Give the tensors of the file that are in the model: key, the module that holds it, tensor."""
        for path, module in modules.items():
            for name, parameter in module.named_parameters(recurse=False):
                live_name = f"{path}.{name}"
                key, tensor = self._names.key(live_name), self._checkpoint_tensor(live_name, parameter)
                if key is not None and tensor is not None and tensor.is_floating_point():
                    yield key, module, tensor

    def _checkpoint_tensor(self, live_name: str, parameter: nn.Parameter) -> Tensor | None:
        """Give the checkpoint's tensor; None if the WebUI has replaced it by another VAE's without keeping it."""
        if not (live_name.startswith(VAE_PREFIX) and sd_vae.loaded_vae_file):
            return parameter.data
        # The VAE in use is the user's choice; the WebUI keeps the checkpoint's VAE as a copy.
        base = sd_vae.get_base_vae(self.module)
        tensor: Tensor | None = None if base is None else base.get(live_name[len(VAE_PREFIX) :])
        return tensor


def forget_prompts() -> None:
    """Empty the WebUI's caches of encoded prompts, in place: images in progress use the same lists."""
    first, second = processing.StableDiffusionProcessing, processing.StableDiffusionProcessingTxt2Img
    for cache in (first.cached_c, first.cached_uc, second.cached_hr_c, second.cached_hr_uc):
        cache[:] = [None, None]


def _encode_nothing(module: nn.Module) -> object:
    with as_host_errors(), devices.autocast(), torch.no_grad():
        encoded: object = sd_models.get_empty_cond(module)
    return encoded
