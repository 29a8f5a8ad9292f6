"""Images of the WebUI whose steps can be computed again with gradients.

An image is made as any other, with all that the txt2img tab says, while a :class:`TraceRecorder` notes what the U-Net
is called with. The calls are then made again through the same functions of the WebUI's model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, NoReturn

import torch
from modules import devices, sd_models, sd_unet, shared
from torch import Tensor, nn

from ...errors import ElementalError, HostError
from ...images.image_request import GeneratedImage, ImageRequest
from ...merge.out_of_memory import is_out_of_memory
from .errors import as_host_errors
from .extra_networks import ExtraNetworks
from .load_count import count_loads
from .loading import LOADING_OPTIONS
from .prompts import forget_prompts
from .recomputed_blocks import recomputed_blocks
from .tensor_names import networks_of
from .trace_recorder import TraceRecorder, UNetCall, map_tensors
from .traced_prompts import TracedPrompts

_TOLERANCE = 0.05
"""How far the U-Net's output may be from that during the image, of its length: fp16 in other batches stays below."""
_VAE_OPTION = "sd_vae"
_NEEDED = ("apply_model", "first_stage_model", "get_learned_conditioning", "model")

_MOVED = (
    "Effects cannot be estimated while the WebUI moves the model between devices. Start it without --medvram and "
    "--lowvram."
)
_FP8 = "Effects cannot be estimated with weights in fp8. Switch FP8 weight off in the WebUI's settings, Optimizations."
_OTHER_UNET = (
    "Effects cannot be estimated while the WebUI uses another U-Net than the checkpoint's. "
    'Set "SD Unet" to None in its settings.'
)
_NOT_REPEATED = (
    "Effects cannot be estimated for this image: the U-Net gives something else when it is called again, so an "
    "extension or a script of the txt2img tab changes it during an image only, as ControlNet does. Switch it off."
)
_NO_DECODING = (
    "The VAE's effect cannot be estimated: the image was not decoded by the model's VAE. "
    'Set "VAE type for decode" to Full in the WebUI\'s settings.'
)
_OTHER_VAE = (
    "The VAE's effect cannot be estimated: the override settings of the txt2img tab choose a VAE for an image only. "
    "Choose it in the WebUI's settings."
)
_OUT_OF_MEMORY = "Out of memory: an estimate of effects needs more than an image does. Make smaller images."

_MakeImage = Callable[[ImageRequest, Mapping[str, str], TraceRecorder], GeneratedImage]


class WebUITrace:
    """An image, and the way to it. The steps are those of the first pass; with hires fix there is another one.

    Args:
        model: The WebUI's model.
        image: The image.
        recorder: What was noted.

    Attributes:
        image: The image.
        whole: Whether the whole image can be computed: the WebUI's samplers keep no gradients.
        kept_bytes: Bytes of graphs that are kept: none.

    Raises:
        HostError: The image's steps cannot be computed again.
    """

    whole = False
    kept_bytes = 0

    def __init__(self, model: Any, image: GeneratedImage, recorder: TraceRecorder) -> None:
        self.image = image
        self._model = model
        self._loads = count_loads(model)
        self._loads_then = self._loads.number
        self._latents = recorder.latents
        self._calls = recorder.steps()
        self._settings = {name: value for name, value in recorder.settings.items() if name not in LOADING_OPTIONS}
        self._token_merging = recorder.token_merging
        self._extra = ExtraNetworks(model, recorder.request)
        with self._as_during_image(), torch.no_grad():
            self._prompts = TracedPrompts(model, recorder.encodings, self._calls)
            self._compare(len(self._calls) // 2)

    @property
    def steps(self) -> int:
        """How often the sampler asked for a guided prediction."""
        return len(self._calls)

    def predict(self, step: int) -> Tensor:
        """Compute what the U-Net predicts at a step, with the LoRAs and settings of the image.

        Raises:
            HostError: It cannot be computed.
        """
        with self._as_during_image():
            if not self._extra.use():
                with torch.no_grad():  # the Lora extension writes its changes into the weights as they are used
                    self._guided(step)
            with self._less_memory():
                return self._guided(step)

    def draw(self) -> NoReturn:
        """Say that a whole image cannot be computed.

        Raises:
            HostError: Always.
        """
        raise HostError("The WebUI's samplers keep no gradients: effects are estimated one U-Net step at a time.")

    def decode(self) -> Tensor:
        """Decode the image's latents.

        Raises:
            HostError: It cannot be computed.
        """
        if self._latents is None:
            raise HostError(_NO_DECODING)
        if _VAE_OPTION in self._settings:
            raise HostError(_OTHER_VAE)
        vae = self._model.first_stage_model
        with self._as_during_image(), devices.without_autocast():
            pixels: Tensor = vae.decode(self._latents.to(next(vae.parameters()).dtype))
        return (pixels.float() + 1).div(2).clamp(0, 1) * 255

    def _less_memory(self) -> AbstractContextManager[None]:
        """Have blocks computed again on the way back, which comes after :meth:`_as_during_image`."""
        as_set_up_now = not self._settings and not self._token_merging
        needed = torch.is_grad_enabled() and as_set_up_now
        return recomputed_blocks(self._model.model) if needed else nullcontext()

    def _guided(self, step: int) -> Tensor:
        calls = self._calls[step]
        conditions = self._prompts.conditions(step, calls)
        outputs = [self._call(call, given).float() for call, given in zip(calls, conditions, strict=True)]
        return torch.stack([output * call.factor for output, call in zip(outputs, calls, strict=True)]).sum(0)

    def _call(self, call: UNetCall, conditions: Any) -> Tensor:
        given = map_tensors(conditions, lambda tensor: tensor)  # the WebUI changes the dictionary
        output: Tensor = self._model.apply_model(call.latents, call.time, given)
        return output

    def _compare(self, step: int) -> None:
        """Refuse an image whose U-Net gives something else now.

        Raises:
            HostError: It does.
        """
        calls = self._calls[step]
        for call, given in zip(calls, self._prompts.conditions(step, calls), strict=True):
            then, now = call.output.float(), self._call(call, given).float()
            if not (now - then).norm() <= _TOLERANCE * then.norm():
                raise HostError(_NOT_REPEATED)

    @contextmanager
    def _as_during_image(self) -> Iterator[None]:
        """Have the WebUI's settings and patches as they were during the image, and its errors in words.

        Raises:
            HostError: Another model is loaded.
        """
        if sd_models.model_data.sd_model is not self._model or self._loads.number != self._loads_then:
            raise HostError("The WebUI has loaded another model since this image was made; start again.")
        with ExitStack() as undo:
            undo.enter_context(_in_words())
            undo.enter_context(_settings(self._settings))
            undo.enter_context(_merged_tokens(self._model, self._token_merging))
            yield


class WebUIDifferentiator:
    """Differentiates the images of the WebUI's model.

    Args:
        model: The WebUI's model.
        make: Makes the image of a request while a recorder notes it.
    """

    def __init__(self, model: Any, make: _MakeImage) -> None:
        self._model = model
        self._make = make

    def networks(self) -> Sequence[nn.Module]:
        """Give the U-Net, the VAE and the text encoders."""
        return list(networks_of(self._model).values())

    def trace(self, request: ImageRequest, *, model: Mapping[str, str], room: int = 0) -> WebUITrace:  # noqa: ARG002
        """Make the image of a request, and note the way to it.

        Raises:
            HostError: The image cannot be made, or its steps cannot be computed with gradients.
            Stopped: The user pressed Interrupt or Stop.
        """
        _refuse_unfit(self._model)
        forget_prompts()  # otherwise the text encoder would not be called
        recorder = TraceRecorder(self._model)
        with recorder.noting():
            image = self._make(request, model, recorder)
        return WebUITrace(self._model, image, recorder)


def _refuse_unfit(model: Any) -> None:
    """Refuse a model that cannot be differentiated.

    Raises:
        HostError: It cannot; the message says what the user can do.
    """
    missing = [name for name in _NEEDED if not hasattr(model, name)]
    if missing:
        raise HostError(f"Effects cannot be estimated for a {type(model).__name__}, which has no {missing[0]}.")
    if getattr(model, "lowvram", False):
        raise HostError(_MOVED)
    if getattr(devices, "fp8", False):
        raise HostError(_FP8)
    if sd_unet.current_unet is not None:
        raise HostError(_OTHER_UNET)


@contextmanager
def _in_words() -> Iterator[None]:
    try:
        with as_host_errors():
            yield
    except ElementalError as exc:
        if exc.__cause__ is not None and is_out_of_memory(exc.__cause__):
            raise HostError(_OUT_OF_MEMORY) from exc
        raise


@contextmanager
def _settings(values: Mapping[str, Any]) -> Iterator[None]:
    """Give settings of the WebUI other values, without its reactions to them."""
    data = shared.opts.data
    before = {name: data[name] for name in values if name in data}
    try:
        data.update(values)
        yield
    finally:
        for name in values:
            data.pop(name, None)
        data.update(before)


@contextmanager
def _merged_tokens(model: Any, ratio: float) -> Iterator[None]:
    """Use the WebUI's "Token merging", which it takes out of the model after each image."""
    before = getattr(model, "applied_token_merged_ratio", 0)
    if ratio == before:
        yield
        return
    try:
        sd_models.apply_token_merging(model, ratio)
        yield
    finally:
        sd_models.apply_token_merging(model, before)
