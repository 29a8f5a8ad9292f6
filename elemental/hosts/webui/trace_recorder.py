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

_OTHER_WAY = (
    "Effects cannot be estimated for this image: an extension or a script of the txt2img tab computes its steps in "
    "another way than the WebUI does. Switch it off."
)


class UNetCall(NamedTuple):
    """What the U-Net computed for one prompt at a step; in each tensor the first dimension has length 1.

    Attributes:
        latents: The latents, scaled as the sampler wants it.
        time: The time step.
        conditions: The encoded prompt and whatever else it was given, in the WebUI's nested dictionaries and lists.
        output: What it gave.
        factor: By what its output is multiplied in the guided prediction, which is the sum over the step's calls.
    """

    latents: Tensor
    time: Tensor
    conditions: Any
    output: Tensor
    factor: float = 1.0


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
        weights: Of the parts of the prompt that are joined by AND.
        scale: The CFG scale.
    """

    def __init__(self, weights: list[float], scale: float) -> None:
        self.calls: list[UNetCall] = []
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
        else:  # the WebUI left the negative prompt out, and takes the first part for it
            factors = list(self._weights)
            factors[0] += 1 - sum(factors)
        if len(factors) != len(self.calls):
            raise HostError(_OTHER_WAY)
        return [call._replace(factor=f) for call, f in zip(self.calls, factors, strict=True) if f]


class TraceRecorder:
    """Notes one image of the WebUI, in the thread that made it.

    Args:
        model: The WebUI's model.

    Attributes:
        encodings: The calls of the text encoder.
        latents: What the VAE decoded last; None if it has decoded nothing.
        request: The WebUI's request; None before the first step.
        settings: The WebUI's settings that the request overrode, with their values.
        token_merging: The ratio of "Token merging" during the steps.
    """

    def __init__(self, model: Any) -> None:
        self.encodings: list[Encoding] = []
        self.latents: Tensor | None = None
        self.request: Any = None
        self.settings: dict[str, Any] = {}
        self.token_merging = 0.0
        self._model = model
        self._steps: list[_Step] = []
        self._step: _Step | None = None
        self._finished = False
        self._thread = threading.get_ident()

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Note the calls of the model within the ``with`` block."""
        places = (
            (self._model, "apply_model", self._note_unet),
            (self._model, "get_learned_conditioning", self._note_texts),
            (self._model.first_stage_model, "decode", self._note_latents),
        )
        with ExitStack() as undo:
            for owner, name, note in places:
                undo.enter_context(_noted(owner, name, note))
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
        self._step = _Step([part.weight for image in images for part in image], scale)
        self._steps.append(self._step)
        self.request = denoiser.p
        self.settings = {name: settings.get(name) for name in denoiser.p.override_settings}
        self.token_merging = getattr(self._model, "applied_token_merged_ratio", 0)

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

    def _note_unet(self, call: Callable[..., Any], latents: Tensor, time: Tensor, cond: Any, **options: Any) -> Any:
        step = self._step if self._mine else None
        if step is None or step.complete:
            return call(latents, time, cond, **options)
        given = [(_row(latents, at), _row(time, at), _row(cond, at)) for at in range(len(latents))]
        outputs = call(latents, time, cond, **options)
        step.calls += [UNetCall(*row, _row(outputs, at)) for at, row in enumerate(given)]
        return outputs

    def _note_texts(self, call: Callable[..., Any], texts: Any) -> Any:
        output = call(texts)
        if self._mine:
            self.encodings.append(Encoding(copy.copy(texts), map_tensors(output, _copied)))
        return output

    def _note_latents(self, call: Callable[..., Any], latents: Tensor, *arguments: Any, **options: Any) -> Any:
        if self._mine:
            self.latents = _copied(latents)
        return call(latents, *arguments, **options)


def map_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Give a copy of nested dictionaries and lists, with each tensor changed."""
    if isinstance(value, dict):
        return {name: map_tensors(inner, change) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [map_tensors(inner, change) for inner in value]
    return change(value) if isinstance(value, Tensor) else value


def _row(value: Any, at: int) -> Any:
    return map_tensors(value, lambda tensor: _copied(tensor[at : at + 1]))


def _copied(tensor: Tensor) -> Tensor:
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
