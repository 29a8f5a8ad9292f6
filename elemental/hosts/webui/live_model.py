"""The WebUI's live model: its tensors by checkpoint key, and the numbers that the host keeps beside them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from modules import devices, processing, sd_models, sd_vae, shared
from torch import Tensor, nn

from ...architectures.keys import TEXT_PREFIXES, UNET_PREFIX, VAE_PREFIX
from ...errors import HostError
from ..base import NO_FIELDS, CheckpointRef, Claim
from .errors import as_host_errors
from .lora import undo_lora

_log = logging.getLogger(__name__)

_PARTS = ("model", "first_stage_model")
_PREFIXES = (UNET_PREFIX, VAE_PREFIX, *TEXT_PREFIXES)
_HIJACKED = "wrapped"
"""The host puts modules of its own around text encoders and their embeddings; the real ones go by this name."""

_SPELLINGS = (
    ("cond_stage_model.transformer.text_model.", "cond_stage_model.transformer."),  # early SD 1.x files
    ("cond_stage_model.", "conditioner.embedders.0."),  # SD 2.x files in the layout of SDXL
)
_COUNT = "elemental_loads"
_SIDE_COPIES = ("fp16_weight", "fp16_bias")
_EMPTY_PROMPT = "cond_stage_model_empty_prompt"


class LoadCount:
    """How often somebody has loaded a state dict over a whole module.

    Attributes:
        number: The count.
        seen: What it was when the host said last that it has loaded something.
        host: What it was after the host's own last load.
        then: What to do after the next load, once.
    """

    def __init__(self) -> None:
        self.number = self.seen = self.host = 0
        self.then: Callable[[], None] | None = None

    def note_load(self) -> None:
        """Take note of a load."""
        self.number += 1
        then, self.then = self.then, None
        if then is not None:
            then()

    def note_host(self) -> None:
        """Take note that the host has loaded something: a checkpoint if the count has moved, a VAE if it has not."""
        if self.number != self.seen:
            self.seen = self.host = self.number


def count_loads(module: nn.Module) -> LoadCount:
    """Begin to count the loads of a module, or go on; loads of a part of it, such as another VAE, do not count."""
    known = getattr(module, _COUNT, None)
    if isinstance(known, LoadCount):
        return known
    found = LoadCount()

    def note(_module: nn.Module, _keys: object) -> None:
        found.note_load()

    module.register_load_state_dict_post_hook(note)  # type: ignore[no-untyped-call]
    setattr(module, _COUNT, found)
    return found


@dataclass(frozen=True)
class Description:
    """What is said of a merge in the model.

    Attributes:
        model: What names it, for the infotext.
        fields: Further texts for the images' files.
    """

    model: Mapping[str, str]
    fields: Mapping[str, str]


class WebUIModel:
    """A checkpoint in the WebUI.

    Args:
        module: The host's model.
        checkpoint: What was loaded into it.
        keys: The names of the file's tensors.

    Attributes:
        checkpoint: The file that the tensors are those of; None once a merge was kept.
        opened: What was loaded into it.
        module: The host's model.
        kept: The label of the merge that was kept in it.
        description: What was said last of a merge in it.
    """

    def __init__(self, module: nn.Module, checkpoint: CheckpointRef, keys: Collection[str]) -> None:
        self.checkpoint: CheckpointRef | None = checkpoint
        self.opened = checkpoint
        self.module = module
        self.kept: str | None = None
        self.description: Description | None = None
        self._keys = frozenset(keys)
        self._claim = Claim()
        self._loads = count_loads(module)
        self._opened_at = self._loads.number
        self._names: dict[str, str | None] = {}
        self._beside = _SavedAttributes()
        self._written = False

    def tensors(self) -> Mapping[str, Sequence[Tensor]]:
        """Give the tensors in use by the names that they have in the file; what LoRAs did to them is undone first.

        Raises:
            HostError: Something else was loaded in their place, or the host has put them on no device.
        """
        if self.replaced():
            raise HostError("Something else was loaded in place of this model meanwhile; merge again.")
        owners = self._owners()
        for owner in owners.values():
            undo_lora(owner)
        found = {key: (tensor,) for key, _, tensor in self._walk(owners)}
        if any(tensor.is_meta for (tensor,) in found.values()):
            raise HostError("The host has put the model on no device; choose the checkpoint again in its list.")
        return found

    def changed(self, keys: Collection[str]) -> None:
        """Drop what the host has computed from tensors: encoded prompts, and fp16 copies of fp8 weights.

        Raises:
            HostError: The host cannot encode the empty prompt with the new numbers.
        """
        self._written = True
        if any(key.startswith(TEXT_PREFIXES) for key in keys):
            forget_prompts()
            if shared.opts.pad_cond_uncond and hasattr(self.module, _EMPTY_PROMPT):
                self._beside.replace(self.module, _EMPTY_PROMPT, _encode_nothing(self.module))
                # the host encodes it for modules that it builds, and not for those that it fills anew
                self._loads.then = lambda: self._beside.give_back(_EMPTY_PROMPT)
        if getattr(devices, "fp8", False):
            moved = set(keys)
            for key, owner, _ in self._walk(self._owners()):
                if key in moved:
                    for name in _SIDE_COPIES:
                        self._beside.drop(owner, name)

    @contextmanager
    def claim(self) -> Iterator[None]:
        """Have the model to oneself; afterwards it is the checkpoint's again, unless the merge was kept.

        Raises:
            HostError: Somebody else is merging into it.
        """
        with self._claim():
            self._written = False
            try:
                yield
            finally:
                if self.kept is None:
                    self._take_back()

    def keep(self, label: str) -> None:
        """Remember the name of what is in the model, which is no longer its file's."""
        self.kept = label
        self.checkpoint = None

    def describe(self, model: Mapping[str, str], fields: Mapping[str, str]) -> None:
        """Remember what is in the model, for the images that the user makes in the host's own tabs."""
        self.description = Description(dict(model), dict(fields)) if model else None

    def replaced(self) -> bool:
        """Tell whether the host has since loaded something else over these tensors, or uses another model."""
        return self.overwritten or sd_models.model_data.sd_model is not self.module

    @property
    def overwritten(self) -> bool:
        """Whether something was loaded over these tensors since they were opened."""
        return self._loads.number != self._opened_at

    @property
    def holds_merge(self) -> bool:
        """Whether a merge was left in the module for good, and is still there."""
        return self.kept is not None and not self.overwritten

    @property
    def differs_from_checkpoint(self) -> bool:
        """Whether the module holds something else than the checkpoint that the host names."""
        return self._loads.number != self._loads.host if self.overwritten else self.holds_merge

    def _take_back(self) -> None:
        """Give back what the host keeps beside the tensors, which are again what they were."""
        self.describe({}, NO_FIELDS)
        if self.overwritten:
            self._beside.forget()
            return
        self._beside.give_back()
        models = sd_models.model_data.loaded_sd_models
        if self._written and self.replaced() and any(model is self.module for model in models):
            # The host put this model aside with a merge in it, and must not take it up again as the checkpoint.
            _log.warning("The host's copy of %s holds a merge, and is given up.", self.opened.title)
            sd_models.model_data.loaded_sd_models = [model for model in models if model is not self.module]

    def _owners(self) -> Mapping[str, nn.Module]:
        """The modules that hold tensors, by the names that they have in checkpoints."""
        text = "conditioner" if hasattr(self.module, "conditioner") else "cond_stage_model"
        found = {}
        for part in (*_PARTS, text):
            top = getattr(self.module, part, None)
            if isinstance(top, nn.Module):
                found.update(top.named_modules(prefix=part))
        return {_without_hijack(name): owner for name, owner in found.items() if _holds(owner)}

    def _walk(self, owners: Mapping[str, nn.Module]) -> Iterator[tuple[str, nn.Module, Tensor]]:
        """Give the file's tensors that the host has: key, the module that it belongs to, tensor."""
        base = sd_vae.get_base_vae(self.module) if sd_vae.loaded_vae_file else None
        for place, owner in owners.items():
            for name, parameter in owner.named_parameters(recurse=False):
                live = f"{place}.{name}"
                key = self._spelling(live)
                tensor: Tensor | None = parameter.data
                if live.startswith(VAE_PREFIX) and sd_vae.loaded_vae_file:
                    # The VAE in use is the user's own choice; the checkpoint's waits in a copy until that ends.
                    tensor = None if base is None else base.get(live[len(VAE_PREFIX) :])
                if key is not None and tensor is not None and tensor.is_floating_point():
                    yield key, owner, tensor

    def _spelling(self, live: str) -> str | None:
        """Give the name that a live tensor has in the file, if it has one."""
        if live not in self._names:
            spellings = [old + live[len(new) :] for new, old in _SPELLINGS if live.startswith(new)]
            known = [key for key in (live, *spellings) if key in self._keys]
            self._names[live] = known[0] if known and live.startswith(_PREFIXES) else None
        return self._names[live]


class _SavedAttributes:
    """What the host keeps beside the tensors, and what stood there before a merge."""

    def __init__(self) -> None:
        self._before: dict[tuple[nn.Module, str], Any] = {}

    def drop(self, owner: nn.Module, name: str) -> None:
        """Take an attribute away, to give it back later."""
        if hasattr(owner, name):
            self._before.setdefault((owner, name), getattr(owner, name))
            delattr(owner, name)

    def replace(self, owner: nn.Module, name: str, value: object) -> None:
        """Put something else for an attribute."""
        self._before.setdefault((owner, name), getattr(owner, name))
        setattr(owner, name, value)

    def give_back(self, *names: str) -> None:
        """Put everything back as it was, or what has one of some names."""
        for place in [place for place in self._before if not names or place[1] in names]:
            setattr(*place, self._before.pop(place))

    def forget(self) -> None:
        """Let go of what was there before, since the host has made it anew."""
        self._before.clear()


def _holds(owner: nn.Module) -> bool:
    return next(owner.named_parameters(recurse=False), None) is not None


def _without_hijack(name: str) -> str:
    return ".".join(piece for piece in name.split(".") if piece != _HIJACKED)


def forget_prompts() -> None:
    """Empty the caches of encoded prompts in place: images in the making hold the same lists."""
    first, second = processing.StableDiffusionProcessing, processing.StableDiffusionProcessingTxt2Img
    for cache in (first.cached_c, first.cached_uc, second.cached_hr_c, second.cached_hr_uc):
        cache[:] = [None, None]


def _encode_nothing(module: nn.Module) -> object:
    with as_host_errors(), devices.autocast(), torch.no_grad():
        encoded: object = sd_models.get_empty_cond(module)
    return encoded
