"""Images of the standalone host that can be computed again with gradients."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...images.image_request import GeneratedImage, ImageRequest
from .key_map import Network
from .live_model import StandaloneModel
from .prompts import encode_prompts
from .samplers import make_sampler
from .sampling import decode_pixels
from .unet_calls import CallRecorder, UNetCall

_Made = tuple[GeneratedImage, Tensor]
"""An image and its latents, of shape (1, 4, height / 8, width / 8)."""


class StandaloneTrace:
    """An image, and the way to it.

    Args:
        live: The model.
        request: The image's request.
        image: The image.
        calls: The calls of the U-Net.
        latents: The latents that were decoded, of shape (1, 4, height / 8, width / 8).
        kept_bytes: Bytes of graphs that the calls keep.

    Attributes:
        image: The image.
        kept_bytes: Bytes of graphs that are kept.
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
        kept_bytes: int = 0,
    ) -> None:
        self.image = image
        self.kept_bytes = kept_bytes
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
        return self._guided(call.repeat(call.sample, *self._encode()))

    def draw(self) -> Tensor:
        """Give the whole image with a graph; each step is computed again on the way back."""
        prompts = self._encode()
        sampler = self._make_sampler()
        generator = torch.Generator().manual_seed(self._request.seed)
        noise = torch.randn(self._latents.shape, generator=generator, dtype=self._latents.dtype)
        latents = noise.to(self._latents.device) * sampler.init_noise_sigma
        noisy = {"generator": [generator]} if "generator" in inspect.signature(sampler.step).parameters else {}
        for time, call in zip(sampler.timesteps, self._calls, strict=True):
            inputs = sampler.scale_model_input(torch.cat([latents] * self._branches), time)
            prediction = self._guided(call.recall(inputs, *prompts))
            latents = sampler.step(prediction, time, latents, **noisy, return_dict=False)[0]
        return self._decode(latents)

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

    def _encode(self) -> list[Tensor]:
        """Encode the prompts of all branches; for SDXL, give the pooled output, too."""
        encoded = encode_prompts(self._live, self._request, self._latents.device)
        sides = ("negative_", "")[-self._branches :]
        names = ("prompt_embeds", "pooled_prompt_embeds")
        return [torch.cat([encoded[side + name] for side in sides]) for name in names if name in encoded]

    def _guided(self, output: Tensor) -> Tensor:
        """Compute the guided prediction from those of all branches."""
        if self._branches == 1:
            return output
        without, with_prompt = output.chunk(2)
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

    def trace(self, request: ImageRequest, *, model: Mapping[str, str], room: int = 0) -> StandaloneTrace:
        """Make the image of a request, and note the way to it; as many steps as fit into the room keep their graphs.

        Raises:
            HostError: The image cannot be made.
            Stopped: The user pressed Stop.
        """
        with CallRecorder(self._live.networks[Network.UNET], room) as recorder:
            image, latents = self._make(request, model)
        return StandaloneTrace(
            self._live, request, image, calls=recorder.calls, latents=latents, kept_bytes=recorder.kept
        )
