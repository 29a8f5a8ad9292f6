"""How Forge, Forge Neo and reForge compute images, for steps that are computed again.

Their engine has patchers in ``forge_objects``: those of the image that was made last, with its LoRAs and with what
scripts have changed. ``unet.model.diffusion_model`` is the U-Net itself, which predicts what the model was trained for.
"""

from __future__ import annotations

import inspect
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from modules import sd_models
from torch import Tensor, nn

from ...errors import HostError
from .differentiable_weights import Originals, copied_for_the_way_back, differentiable, without_inference_mode
from .recomputed_blocks import recomputed_blocks
from .trace_recorder import copied, row_of
from .traced_image import in_words
from .traced_model import OTHER_UNET, POOLED, TOKENS, Places, Text, UNetCall

_NAMES = {"context": TOKENS, "y": POOLED}
"""The names of encoded prompts among the U-Net's arguments."""
_OPTIONS, _NEGATIVE = "transformer_options", 1
_KINDS = (torch.float32, torch.float16, torch.bfloat16)
_ADDED = ("forge_online_loras", "weight_function", "bias_function")
"""The attributes of layers by which LoRAs are added while a layer computes."""

_ONLINE = (
    "Effects cannot be estimated with LoRAs that are added while a layer computes. Choose Automatic, without "
    '"fp16 LoRA", under "Diffusion in Low Bits"; if the model does not fit into video memory, lower "GPU Weights" or '
    "leave the LoRAs out."
)


class PatchedModel:
    """An engine with patchers, for one image.

    Args:
        module: The engine.
        originals: The parameters that get the gradients.
        memory: The host's module that loads networks to devices.
        undo_loras: Gives the network of a patcher its weights without LoRAs.

    Attributes:
        module: The engine.
    """

    takes_first_for_negative = False

    def __init__(self, module: Any, originals: Originals, memory: Any, undo_loras: Callable[[Any], None]) -> None:
        self.module = module
        self._originals = originals
        self._memory = memory
        self._undo_loras = undo_loras
        self._objects: Any = module.forge_objects_original

    def networks(self) -> Sequence[nn.Module]:
        """Give the U-Net, the VAE and the text encoders, without LoRAs, and the U-Net on the device it computes on.

        Gradients go to the parameters that are in them now.
        """
        objects: Any = self.module.forge_objects_original
        with torch.inference_mode():
            for patcher in (objects.unet, *([] if objects.clip is None else [objects.clip.patcher])):
                self._undo_loras(patcher)
            self._memory.load_models_gpu([objects.unet])
        networks = [objects.unet.model.diffusion_model, objects.vae.first_stage_model, *self._text_networks(objects)]
        self._originals.remember(networks)
        return networks

    def refuse_unfit(self) -> None:
        """Refuse a model that cannot be differentiated.

        Raises:
            HostError: It cannot; the message says what the user can do.
        """
        objects: Any = self.module.forge_objects_original
        if objects.clip is None:
            raise HostError("Effects cannot be estimated for a model without text encoders.")
        unet = objects.unet.model.diffusion_model
        storage = next((each.dtype for each in unet.parameters() if each.dtype not in _KINDS), None)
        if storage is not None:
            raise HostError(
                f"Effects cannot be estimated with weights stored as {str(storage).removeprefix('torch.')}: gradients "
                'would be rounded away. Set "Diffusion in Low Bits" to Automatic.'
            )
        if getattr(sys.modules.get("modules.sd_unet"), "current_unet", None) is not None:
            raise HostError(OTHER_UNET)

    def places(self) -> Places:
        """Give the methods whose calls are noted; all patchers of a network share it."""
        objects: Any = self.module.forge_objects_original
        return Places(
            (objects.unet.model.diffusion_model, "forward"),
            (self.module, "get_learned_conditioning"),
            (objects.vae.first_stage_model, "decode"),
        )

    def rows(self, given: tuple[Any, ...], named: Mapping[str, Any]) -> list[UNetCall]:
        """Split a call of the U-Net into one for each prompt."""
        latents, time, *_ = given
        options = named.get(_OPTIONS, {})
        others = {name: value for name, value in named.items() if name != _OPTIONS}
        return [
            UNetCall(
                row_of(latents, at),
                row_of(time, at),
                {**row_of(others, at), _OPTIONS: _options_of_row(options, at)},
                latents,
            )
            for at in range(len(latents))
        ]

    def ordered(self, calls: Sequence[UNetCall]) -> Sequence[UNetCall]:
        """Give the parts of the prompt, which are computed last part first, and then the negative prompt."""
        negative = [_is_negative(call) for call in calls]
        parts = [call for call, is_negative in zip(calls, negative, strict=True) if not is_negative]
        return [*reversed(parts), *(call for call, is_negative in zip(calls, negative, strict=True) if is_negative)]

    def begin(self) -> None:
        """Note the patchers of the image."""
        self._objects = self.module.forge_objects.shallow_copy()

    def made(self, request: Any) -> None:
        """Do nothing: all was noted as the last step began."""

    def is_in_use(self) -> bool:
        """Tell whether this is still the host's engine: each load makes another one."""
        return sd_models.model_data.sd_model is self.module

    @contextmanager
    def as_during_image(self) -> Iterator[None]:
        """Use the patchers of the image."""
        before = self.module.forge_objects
        self.module.forge_objects = self._objects
        try:
            yield
        finally:
            self.module.forge_objects = before

    def ready(self) -> bool:
        """Do nothing: LoRAs are those of the patchers, and added when these are loaded."""
        return True

    def recomputed(self, *, has_settings: bool) -> AbstractContextManager[None]:  # noqa: ARG002
        """Do nothing: each network is computed again by blocks, which read no settings."""
        return nullcontext()

    def unet(self, call: UNetCall, conditions: Any) -> Tensor:
        """Call the U-Net again."""
        unet = self._objects.unet
        network = unet.model.diffusion_model
        self._load(unet, unet.memory_required([2, *call.latents.shape[1:]]))
        given = {name: _fresh(value) for name, value in conditions.items()}  # the U-Net changes them
        with self._differentiable([network]):
            output: Tensor = network(call.latents, call.time, **given)
        return output

    def encode(self, texts: Any) -> Any:
        """Encode prompts by the engine's method without what cuts gradients off."""
        self._load(self._objects.clip.patcher, 0)
        with self._all_loaded(), self._differentiable(self._text_networks(self._objects)), _no_warning():
            return self._encode(texts)

    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents by the VAE itself."""
        vae = self._objects.vae
        self._load(vae.patcher, vae.memory_used_decode(latents.shape, vae.vae_dtype))
        with self._differentiable([vae.first_stage_model]):
            pixels: Tensor = vae.first_stage_model.decode(latents)
        return pixels

    def text_of(self, conditions: Any) -> Text:
        """Give the encoded prompts of a U-Net's conditions."""
        return {_NAMES[name]: value for name, value in conditions.items() if name in _NAMES and value is not None}

    def with_text(self, conditions: Any, text: Text) -> Any:
        """Give conditions with other encoded prompts."""
        return {**conditions, **{name: text[kind] for name, kind in _NAMES.items() if kind in text}}

    @contextmanager
    def _differentiable(self, networks: Sequence[nn.Module]) -> Iterator[None]:
        """Have networks lead back to their parameters, each block computed again on the way; if gradients are wanted.

        Computed again, since what layers make of their weights, in another number format or on another device, would
        all be in memory at once.
        """
        if not torch.is_grad_enabled():
            yield
            return
        again = recomputed_blocks(networks, self._on_the_way_back, in_place=True)
        with again, without_inference_mode(networks), differentiable(networks, self._originals):
            yield

    def _encode(self, texts: Any) -> Any:
        method = inspect.unwrap(type(self.module).get_learned_conditioning)
        return method(self.module, texts)

    def _text_networks(self, objects: Any) -> Sequence[nn.Module]:
        return [] if objects.clip is None else [objects.clip.cond_stage_model]

    def _load(self, patcher: Any, memory: float) -> None:
        """Have the host bring a network to its device, with the patcher's LoRAs; in the mode of images.

        Raises:
            HostError: LoRAs are not in the weights.
        """
        with torch.inference_mode():
            self._memory.load_models_gpu([patcher], memory_required=memory)
        if any(getattr(module, name, None) for module in patcher.model.modules() for name in _ADDED):
            raise HostError(_ONLINE)

    @contextmanager
    def _all_loaded(self) -> Iterator[None]:
        """Have the host load nothing, which it would do in the wrong mode."""
        load = self._memory.load_models_gpu
        self._memory.load_models_gpu = lambda *_, **__: None
        try:
            yield
        finally:
            self._memory.load_models_gpu = load

    @contextmanager
    def _on_the_way_back(self, block: nn.Module) -> Iterator[None]:
        weights = differentiable([block], self._originals)
        with in_words(), without_inference_mode([block]), weights as addresses, copied_for_the_way_back(addresses):
            yield


def _options_of_row(options: Mapping[str, Any], at: int) -> dict[str, Any]:
    """Give what a block may know of the call, for one of its rows."""
    kinds = options.get("cond_or_uncond")
    made = {name: copied(value) if isinstance(value, Tensor) else value for name, value in options.items()}
    if kinds is None:
        return made
    negative = kinds[at] == _NEGATIVE
    made["cond_or_uncond"] = [kinds[at]]
    if "cond_mark" in options:
        made["cond_mark"] = copied(options["cond_mark"][at : at + 1])
        made["cond_indices"], made["uncond_indices"] = ([], [0]) if negative else ([0], [])
    return made


def _is_negative(call: UNetCall) -> bool:
    return _NEGATIVE in call.conditions[_OPTIONS].get("cond_or_uncond", ())


def _fresh(value: Any) -> Any:
    """Give a copy of dictionaries and the lists in them, which hold what ControlNet adds and are emptied."""
    if isinstance(value, dict):
        return {name: list(inner) if isinstance(inner, list) else inner for name, inner in value.items()}
    return value


@contextmanager
def _no_warning() -> Iterator[None]:
    """Hide what torch says when embeddings, in whose place there are other tensors, are "moved" where they are."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor that is not a leaf")
        yield
