"""Notes what an image of the WebUI is computed from: the U-Net's calls, the encoded prompts, the latents."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...errors import HostError
from .traced_model import TracedModel, UNetCall

_OTHER_WAY = (
    "Effects cannot be estimated for this image: an extension or a script of the txt2img tab computes its steps in "
    "another way than the WebUI does. Switch it off."
)


class Encoding(NamedTuple):
    """A call of the text encoder.

    Attributes:
        texts: The prompts, in the WebUI's list, which also has the size of the image.
        output: What it gave: a tensor of shape (texts, tokens, channels), or for SDXL several by name.
    """

    texts: Any
    output: Any


class _Step:
    """The calls of a step.

    Args:
        model: The model.
        weights: Of the parts of the prompt that are joined by AND.
        scale: The CFG scale.
    """

    def __init__(self, model: TracedModel, weights: list[float], scale: float) -> None:
        self.calls: list[UNetCall] = []
        self._model = model
        self._weights = weights
        self._scale = scale

    @property
    def complete(self) -> bool:
        """Whether the parts of the prompt and the negative prompt have been computed."""
        return len(self.calls) > len(self._weights)

    def weighted(self) -> list[UNetCall]:
        """Give the calls with their factors in u + sum of scale * weight * (c - u); those with 0 are left out.

        Raises:
            HostError: There are other calls than those.
        """
        if self.complete:
            factors = [self._scale * weight for weight in self._weights]
            factors.append(1 - sum(factors))
        else:  # the WebUI left the negative prompt out
            factors = list(self._weights)
            factors[0] += 1 - sum(factors) if self._model.takes_first_for_negative else 0
        if len(factors) != len(self.calls):
            raise HostError(_OTHER_WAY)
        calls = self._model.ordered(self.calls)
        return [call._replace(factor=f) for call, f in zip(calls, factors, strict=True) if f]


class TraceRecorder:
    """Notes one image of the WebUI, in the thread that made it.

    Args:
        model: The model.

    Attributes:
        encodings: The calls of the text encoder.
        latents: What the VAE decoded last; None if it has decoded nothing.
        request: The WebUI's request; None before the first step.
        settings: The WebUI's settings that the request overrode, with their values.
    """

    def __init__(self, model: TracedModel) -> None:
        self.encodings: list[Encoding] = []
        self.latents: Tensor | None = None
        self.request: Any = None
        self.settings: dict[str, Any] = {}
        self._model = model
        self._steps: list[_Step] = []
        self._step: _Step | None = None
        self._finished = False
        self._thread = threading.get_ident()

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Note the calls of the model within the ``with`` block."""
        notes: tuple[Callable[..., Any], ...] = (self._note_unet, self._note_texts, self._note_latents)
        with ExitStack() as undo:
            for place, note in zip(self._model.places(), notes, strict=True):
                undo.enter_context(_noted(*place, note))
            yield

    def begin_step(self, denoiser: Any, settings: dict[str, Any]) -> None:
        """Begin a step of the image; those of hires fix are not noted, since their size is another one.

        Args:
            denoiser: The WebUI's object that computes steps.
            settings: The WebUI's settings.
        """
        self._step = None
        if self._finished or getattr(denoiser.p, "is_hr_pass", False):
            return
        arguments = denoiser.sampler.sampler_extra_args
        images = arguments["cond"].batch
        scale = arguments["cond_scale"] * getattr(denoiser, "cond_scale_miltiplier", 1.0)
        self._step = _Step(self._model, [part.weight for image in images for part in image], scale)
        self._steps.append(self._step)
        self.request = denoiser.p
        self.settings = {name: settings.get(name) for name in denoiser.p.override_settings}
        self._model.begin()

    def finish(self) -> None:
        """Note nothing more: the image is decoded, and what follows is made from it by scripts."""
        self._finished, self._step = True, None

    def steps(self) -> list[list[UNetCall]]:
        """Give the U-Net's calls at each step, with their factors.

        Raises:
            HostError: There is no step, or one was computed in another way than the WebUI does.
        """
        if not self._steps:
            raise HostError(_OTHER_WAY)
        return [step.weighted() for step in self._steps]

    @property
    def _mine(self) -> bool:
        """Whether this call belongs to the image; previews are made in other threads."""
        return not self._finished and threading.get_ident() == self._thread

    def _note_unet(self, call: Callable[..., Any], *given: Any, **named: Any) -> Any:
        step = self._step if self._mine else None
        if step is None or step.complete:
            return call(*given, **named)
        rows = self._model.rows(given, named)
        outputs = call(*given, **named)
        step.calls += [row._replace(output=row_of(outputs, at)) for at, row in enumerate(rows)]
        return outputs

    def _note_texts(self, call: Callable[..., Any], texts: Any) -> Any:
        output = call(texts)
        if self._mine:
            self.encodings.append(Encoding(copy.copy(texts), map_tensors(output, copied)))
        return output

    def _note_latents(self, call: Callable[..., Any], latents: Tensor, *arguments: Any, **options: Any) -> Any:
        if self._mine:
            self.latents = copied(latents)
        return call(latents, *arguments, **options)


def map_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Give a copy of nested dictionaries and lists, with each tensor changed."""
    if isinstance(value, dict):
        return {name: map_tensors(inner, change) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [map_tensors(inner, change) for inner in value]
    return change(value) if isinstance(value, Tensor) else value


def row_of(value: Any, at: int) -> Any:
    """Copy nested dictionaries and lists, with one row of each tensor."""
    return map_tensors(value, lambda tensor: copied(tensor[at : at + 1]))


def copied(tensor: Tensor) -> Tensor:
    """Copy a tensor; those made in inference mode cannot be differentiated by."""
    with torch.inference_mode(False):
        return tensor.detach().clone()


@contextmanager
def _noted(owner: Any, name: str, note: Callable[..., Any]) -> Iterator[None]:
    """Put a function in place of an object's method, which it gets as its first argument."""
    own = vars(owner).get(name)
    method = getattr(owner, name)
    setattr(owner, name, lambda *args, **options: note(method, *args, **options))
    try:
        yield
    finally:
        delattr(owner, name)
        if own is not None:
            setattr(owner, name, own)
