"""How AUTOMATIC1111's WebUI computes images, for steps that are computed again."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from modules import devices, sd_models, sd_unet
from torch import Tensor, nn

from ...errors import HostError
from .extra_networks import ExtraNetworks
from .load_count import count_loads
from .recomputed_blocks import recomputed_blocks
from .tensor_names import networks_of
from .trace_recorder import map_tensors, row_of
from .traced_model import OTHER_UNET, POOLED, TOKENS, Places, Text, UNetCall

_OLD_TOKENS = "c_crossattn"
"""The name of the encoded tokens for SD 1.x and 2.x, where they are in a list."""
_NEEDED = ("apply_model", "first_stage_model", "get_learned_conditioning", "model")

_MOVED = (
    "Effects cannot be estimated while the WebUI moves the model between devices. Start it without --medvram and "
    "--lowvram."
)
_FP8 = "Effects cannot be estimated with weights in fp8. Switch FP8 weight off in the WebUI's settings, Optimizations."


class WebUITracedModel:
    """The WebUI's model, for one image.

    Args:
        module: The WebUI's model.

    Attributes:
        module: The WebUI's model.
    """

    takes_first_for_negative = True

    def __init__(self, module: Any) -> None:
        self.module = module
        self._token_merging = 0.0

    def networks(self) -> Sequence[nn.Module]:
        """Give the U-Net, the VAE and the text encoders."""
        return list(networks_of(self.module).values())

    def refuse_unfit(self) -> None:
        """Refuse a model that cannot be differentiated.

        Raises:
            HostError: It cannot; the message says what the user can do.
        """
        missing = [name for name in _NEEDED if not hasattr(self.module, name)]
        if missing:
            kind = type(self.module).__name__
            raise HostError(f"Effects cannot be estimated for a {kind}, which has no {missing[0]}.")
        if getattr(self.module, "lowvram", False):
            raise HostError(_MOVED)
        if getattr(devices, "fp8", False):
            raise HostError(_FP8)
        if sd_unet.current_unet is not None:
            raise HostError(OTHER_UNET)

    def places(self) -> Places:
        """Give the methods whose calls are noted."""
        model = self.module
        return Places((model, "apply_model"), (model, "get_learned_conditioning"), (model.first_stage_model, "decode"))

    def rows(self, given: tuple[Any, ...], named: Mapping[str, Any]) -> list[UNetCall]:
        """Split a call of ``apply_model`` into one for each prompt."""
        latents, time, *rest = given
        cond = rest[0] if rest else named["cond"]
        return [
            UNetCall(row_of(latents, at), row_of(time, at), row_of(cond, at), latents) for at in range(len(latents))
        ]

    def ordered(self, calls: Sequence[UNetCall]) -> Sequence[UNetCall]:
        """Give the calls as they came: the negative prompt's comes last."""
        return calls

    def begin(self) -> None:
        """Note the ratio of "Token merging"."""
        self._token_merging = getattr(self.module, "applied_token_merged_ratio", 0)

    def made(self, request: Any) -> None:
        """Note the LoRAs and hypernetworks in use, and what is loaded."""
        self._loads = count_loads(self.module)
        self._loads_then = self._loads.number
        self._extra = ExtraNetworks(self.module, request)

    def is_in_use(self) -> bool:
        """Tell whether nothing was loaded since the image was made."""
        return sd_models.model_data.sd_model is self.module and self._loads.number == self._loads_then

    @contextmanager
    def as_during_image(self) -> Iterator[None]:
        """Use the WebUI's "Token merging", which it takes out of the model after each image."""
        before = getattr(self.module, "applied_token_merged_ratio", 0)
        if self._token_merging == before:
            yield
            return
        try:
            sd_models.apply_token_merging(self.module, self._token_merging)
            yield
        finally:
            sd_models.apply_token_merging(self.module, before)

    def ready(self) -> bool:
        """Bring LoRAs and hypernetworks back; the Lora extension writes them into layers as they are used."""
        return self._extra.use()

    def recomputed(self, *, has_settings: bool) -> AbstractContextManager[None]:
        """Have blocks computed again on the way back, unless the WebUI is set up in another way then."""
        needed = torch.is_grad_enabled() and not has_settings and not self._token_merging
        # The WebUI's own autocast, since torch's checkpoint does not know it on every device.
        return recomputed_blocks([self.module.model], lambda _: devices.autocast()) if needed else nullcontext()

    def unet(self, call: UNetCall, conditions: Any) -> Tensor:
        """Call the U-Net again."""
        given = map_tensors(conditions, lambda tensor: tensor)  # the WebUI changes the dictionary
        output: Tensor = self.module.apply_model(call.latents, call.time, given)
        return output

    def encode(self, texts: Any) -> Any:
        """Encode prompts with gradients."""
        return encode_with_gradients(self.module, texts)

    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents by the VAE itself; ``decode_first_stage`` cuts gradients off."""
        vae = self.module.first_stage_model
        with devices.without_autocast():
            pixels: Tensor = vae.decode(latents.to(next(vae.parameters()).dtype))
        return pixels

    def text_of(self, conditions: Any) -> Text:
        """Give the encoded prompts of a U-Net's conditions."""
        if _OLD_TOKENS in conditions:
            return {TOKENS: conditions[_OLD_TOKENS][0]}
        return {name: conditions[name] for name in (TOKENS, POOLED) if name in conditions}

    def with_text(self, conditions: Any, text: Text) -> Any:
        """Give conditions with other encoded prompts."""
        if _OLD_TOKENS in conditions:
            return {**conditions, _OLD_TOKENS: [text[TOKENS], *conditions[_OLD_TOKENS][1:]]}
        return {**conditions, **text}


def encode_with_gradients(model: Any, texts: Any) -> Any:
    """Encode prompts by a model of the WebUI."""
    with devices.autocast(), trained(model):
        return model.get_learned_conditioning(copy.copy(texts))


@contextmanager
def trained(model: Any) -> Iterator[None]:
    """Have SDXL's text encoders compute with gradients: they do only if they count as being trained."""
    embedders = list(getattr(getattr(model, "conditioner", None), "embedders", ()))
    before = [embedder.is_trainable for embedder in embedders]
    try:
        for embedder in embedders:
            embedder.is_trainable = True
        yield
    finally:
        for embedder, value in zip(embedders, before, strict=True):
            embedder.is_trainable = value
