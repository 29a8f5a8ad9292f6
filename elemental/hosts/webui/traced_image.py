"""Images of the WebUI whose steps can be computed again with gradients.

An image is made as any other, with all that the txt2img tab says, while a :class:`TraceRecorder` notes what the U-Net
is called with. The calls are then made again through the same functions of the WebUI's model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NoReturn

import torch
from modules import shared
from torch import Tensor, nn

from ...errors import ElementalError, HostError
from ...images.image_request import GeneratedImage, ImageRequest
from ...merge.out_of_memory import is_out_of_memory
from .errors import as_host_errors
from .loading import LOADING_OPTIONS
from .prompts import forget_prompts
from .trace_recorder import TraceRecorder
from .traced_model import TracedModel
from .traced_prompts import TracedPrompts

_TOLERANCE = 0.05
"""How far the U-Net's output may be from that during the image, of its length: fp16 in other batches stays below."""
_VAE_OPTION = "sd_vae"

_NOT_REPEATED = (
    "Effects cannot be estimated for this image: the U-Net gives something else when it is called again, so an "
    "extension or a script of the txt2img tab changes it during an image only, as ControlNet does. Switch it off."
)
_NO_DECODING = (
    "The VAE's effect cannot be estimated: the image was not decoded by the model's VAE. "
    'Set "VAE type for decode" to Full in the WebUI\'s settings.'
)
_TILES = "The VAE's effect cannot be estimated: the image was decoded in tiles. Make smaller images."
_OTHER_VAE = (
    "The VAE's effect cannot be estimated: the override settings of the txt2img tab choose a VAE for an image only. "
    "Choose it in the WebUI's settings."
)
_OUT_OF_MEMORY = "Out of memory: an estimate of effects needs more than an image does. Make smaller images."

_MakeImage = Callable[[ImageRequest, Mapping[str, str], TraceRecorder], GeneratedImage]


class WebUITrace:
    """An image, and the way to it. The steps are those of the first pass; with hires fix there is another one.

    Args:
        model: The model, as it was set up for the image.
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

    def __init__(self, model: TracedModel, image: GeneratedImage, recorder: TraceRecorder) -> None:
        self.image = image
        self._model = model
        self._latents = recorder.latents
        self._calls = recorder.steps()
        self._settings = {name: value for name, value in recorder.settings.items() if name not in LOADING_OPTIONS}
        model.made(recorder.request)
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
            if not self._model.ready():
                with torch.no_grad():
                    self._guided(step)
            with self._model.recomputed(has_settings=bool(self._settings)):
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
        if self._latents.shape[-1] < self._calls[0][0].latents.shape[-1]:
            raise HostError(_TILES)
        with self._as_during_image():
            pixels = self._model.decode(self._latents)
        return (pixels.float() + 1).div(2).clamp(0, 1) * 255

    def _guided(self, step: int) -> Tensor:
        calls = self._calls[step]
        conditions = self._prompts.conditions(step, calls)
        outputs = [self._model.unet(call, given).float() for call, given in zip(calls, conditions, strict=True)]
        return torch.stack([output * call.factor for output, call in zip(outputs, calls, strict=True)]).sum(0)

    def _compare(self, step: int) -> None:
        """Refuse an image whose U-Net gives something else now.

        Raises:
            HostError: It does.
        """
        calls = self._calls[step]
        for call, given in zip(calls, self._prompts.conditions(step, calls), strict=True):
            then, now = call.output.float(), self._model.unet(call, given).float()
            if not (now - then).norm() <= _TOLERANCE * then.norm():
                raise HostError(_NOT_REPEATED)

    @contextmanager
    def _as_during_image(self) -> Iterator[None]:
        """Have the WebUI's settings and patches as they were during the image, and its errors in words.

        Raises:
            HostError: Another model is loaded.
        """
        if not self._model.is_in_use():
            raise HostError("The WebUI has loaded another model since this image was made; start again.")
        with ExitStack() as undo:
            undo.enter_context(in_words())
            undo.enter_context(_settings(self._settings))
            undo.enter_context(self._model.as_during_image())
            yield


class WebUIDifferentiator:
    """Differentiates the images of the WebUI's model.

    Args:
        make_model: Gives the WebUI's model for one image.
        make: Makes the image of a request while a recorder notes it.
    """

    def __init__(self, make_model: Callable[[], TracedModel], make: _MakeImage) -> None:
        self._make_model = make_model
        self._make = make

    def networks(self) -> Sequence[nn.Module]:
        """Give the U-Net, the VAE and the text encoders."""
        return self._make_model().networks()

    def trace(self, request: ImageRequest, *, model: Mapping[str, str], room: int = 0) -> WebUITrace:  # noqa: ARG002
        """Make the image of a request, and note the way to it.

        Raises:
            HostError: The image cannot be made, or its steps cannot be computed with gradients.
            Stopped: The user pressed Interrupt or Stop.
        """
        traced = self._make_model()
        traced.refuse_unfit()
        forget_prompts()  # otherwise the text encoder would not be called
        recorder = TraceRecorder(traced)
        with recorder.noting():
            image = self._make(request, model, recorder)
        return WebUITrace(traced, image, recorder)


@contextmanager
def in_words() -> Iterator[None]:
    """Turn errors of the WebUI into HostErrors; what is said of a full memory is for estimates."""
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
