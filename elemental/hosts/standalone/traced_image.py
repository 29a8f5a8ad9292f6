"""Images of the standalone host that can be computed again with gradients."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...images.image_request import GeneratedImage, ImageRequest
from .key_map import Network
from .live_model import StandaloneModel
from .prompts import encode_prompts
from .samplers import make_sampler
from .sampling import decode_pixels

_MADE_AGAIN = ("encoder_hidden_states", "return_dict")
_Made = tuple[GeneratedImage, Tensor]
"""An image and its latents, of shape (1, 4, height / 8, width / 8)."""


@dataclass(frozen=True)
class UNetCall:
    """What a U-Net was called with: its arguments, without the encoded prompts.

    Attributes:
        sample: The latents of both branches of CFG, scaled as the sampler wants it.
        time: The time step.
        options: The other arguments by name.
    """

    sample: Tensor
    time: Tensor
    options: dict[str, Any]


class CallRecorder:
    """Notes the calls of a network; a context manager.

    Args:
        network: The network.

    Attributes:
        calls: The calls so far.
    """

    def __init__(self, network: nn.Module) -> None:
        self.calls: list[UNetCall] = []
        self._network = network

    def __enter__(self) -> CallRecorder:
        self._handle = self._network.register_forward_pre_hook(self._note, with_kwargs=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.remove()

    def _note(self, _network: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        sample, time = args
        kept = {name: value for name, value in options.items() if name not in _MADE_AGAIN}
        with torch.inference_mode(False):
            self.calls.append(UNetCall(sample.clone(), time.clone(), _copy(kept)))


def _copy(value: Any) -> Any:
    """Copy the tensors in a value; those made in inference mode cannot be differentiated by."""
    if isinstance(value, dict):
        return {name: _copy(inner) for name, inner in value.items()}
    return value.clone() if isinstance(value, Tensor) else value


class StandaloneTrace:
    """An image, and the way to it.

    Args:
        live: The model.
        request: The image's request.
        image: The image.
        calls: The calls of the U-Net.
        latents: The latents that were decoded, of shape (1, 4, height / 8, width / 8).

    Attributes:
        image: The image.
        whole: Whether the whole image can be computed.
    """

    whole = True

    def __init__(
        self,
        live: StandaloneModel,
        request: ImageRequest,
        image: GeneratedImage,
        *,
        calls: Sequence[UNetCall],
        latents: Tensor,
    ) -> None:
        self.image = image
        self._live = live
        self._request = request
        self._calls = calls
        self._latents = latents

    @property
    def steps(self) -> int:
        """How often the U-Net was called."""
        return len(self._calls)

    def predict(self, step: int) -> Tensor:
        """Compute what the U-Net predicts at a step."""
        call = self._calls[step]
        return self._guided(call.sample, call.time, *self._encode())

    def draw(self) -> Tensor:
        """Compute the whole image.

        Each step is computed once more on the way back, and gives its gradients to the weights before the step before
        it begins (torch's reentrant checkpoints): the gradients of one layer are in memory at a time.
        """
        embeds, pooled = self._encode()
        sampler = self._make_sampler()
        generator = torch.Generator().manual_seed(self._request.seed)
        noise = torch.randn(self._latents.shape, generator=generator, dtype=self._latents.dtype)
        latents = noise.to(self._latents.device) * sampler.init_noise_sigma
        noisy = {"generator": [generator]} if "generator" in inspect.signature(sampler.step).parameters else {}
        for time in sampler.timesteps:
            inputs = sampler.scale_model_input(torch.cat([latents] * self._branches), time).requires_grad_()
            prediction = checkpoint(self._guided, inputs, time, embeds, pooled, use_reentrant=True)
            latents = sampler.step(prediction, time, latents, **noisy, return_dict=False)[0]
        pixels: Tensor = checkpoint(self._decode, latents, use_reentrant=True)
        return pixels

    def decode(self) -> Tensor:
        """Decode the image's latents."""
        return self._decode(self._latents)

    @property
    def _branches(self) -> int:
        return 2 if self._request.cfg > 1 else 1

    def _make_sampler(self) -> Any:
        sampler = make_sampler(
            self._request.sampler, v_prediction=self._live.v_prediction, zero_snr=self._live.zero_snr
        )
        sampler.set_timesteps(self._request.steps, device=self._latents.device)
        return sampler

    def _encode(self) -> tuple[Tensor, Tensor | None]:
        """Encode the prompts of all branches; for SDXL, give the pooled output, too."""
        encoded = encode_prompts(self._live, self._request, self._latents.device)
        sides = ("negative_", "")[-self._branches :]
        embeds = torch.cat([encoded[f"{side}prompt_embeds"] for side in sides])
        pooled = [encoded[name] for side in sides if (name := f"{side}pooled_prompt_embeds") in encoded]
        return embeds, torch.cat(pooled) if pooled else None

    def _guided(self, sample: Tensor, time: Tensor, embeds: Tensor, pooled: Tensor | None) -> Tensor:
        """Compute the guided prediction."""
        options = dict(self._calls[0].options)
        if pooled is not None:
            options["added_cond_kwargs"] = {**options["added_cond_kwargs"], "text_embeds": pooled}
        unet: Any = self._live.networks[Network.UNET]
        prediction: Tensor = unet(sample, time, **options, encoder_hidden_states=embeds, return_dict=False)[0]
        if self._branches == 1:
            return prediction
        without, with_prompt = prediction.chunk(2)
        return without + self._request.cfg * (with_prompt - without)

    def _decode(self, latents: Tensor) -> Tensor:
        return decode_pixels(self._live, latents).clamp(0, 1) * 255


class StandaloneDifferentiator:
    """Differentiates the images of a live model.

    Args:
        live: The model.
        make: Makes the image of a request while the U-Net's calls are noted; gives the latents, too.
    """

    def __init__(self, live: StandaloneModel, make: Callable[[ImageRequest, Mapping[str, str]], _Made]) -> None:
        self._live = live
        self._make = make

    def networks(self) -> Sequence[nn.Module]:
        """Give the networks of diffusers and transformers."""
        return list(self._live.networks.values())

    def trace(self, request: ImageRequest, *, model: Mapping[str, str]) -> StandaloneTrace:
        """Make the image of a request, and note the way to it.

        Raises:
            HostError: The image cannot be made.
            Stopped: The user pressed Stop.
        """
        with CallRecorder(self._live.networks[Network.UNET]) as recorder:
            image, latents = self._make(request, model)
        return StandaloneTrace(self._live, request, image, calls=recorder.calls, latents=latents)
