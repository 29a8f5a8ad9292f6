"""Images of a live model, made by the pipelines of diffusers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from PIL import Image
from torch import Tensor

from ...architectures.blocks import SDXL
from ...errors import HostError
from ...images.image_request import ImageRequest
from .key_map import Network
from .live_model import StandaloneModel
from .prompts import encode_prompts
from .samplers import make_sampler


def sample_images(
    live: StandaloneModel, request: ImageRequest, device: torch.device, after_step: Callable[[int], None]
) -> list[Image.Image]:
    """Make the images of a request.

    Args:
        live: The model.
        request: The images to make; its sampler is one of :data:`.samplers.SAMPLERS`.
        device: Where the model is.
        after_step: Called with the number of finished steps after each step; what it raises ends the sampling.

    Raises:
        HostError: The model is one for inpainting.
    """
    latents = sample_latents(live, request, device, after_step)
    return [decode_latents(live, latent[None]) for latent in latents]


def sample_latents(
    live: StandaloneModel, request: ImageRequest, device: torch.device, after_step: Callable[[int], None]
) -> Tensor:
    """Make the latents of a request's images, of shape (batch, 4, height / 8, width / 8).

    Args and errors are those of :func:`sample_images`.
    """
    if live.channels != 4:
        raise HostError("An inpainting model needs an image and a mask, which the standalone host cannot take.")

    def call_after_step(_pipeline: Any, step: int, _time: Any, values: dict[str, Any]) -> dict[str, Any]:
        after_step(step + 1)
        return values

    pipeline = _make_pipeline(live, request.sampler)
    latents: Tensor = pipeline(
        **encode_prompts(live, request, device),
        height=request.height,
        width=request.width,
        num_inference_steps=request.steps,
        guidance_scale=request.cfg,
        num_images_per_prompt=request.batch,
        generator=[torch.Generator().manual_seed(request.seed + index) for index in range(request.batch)],
        output_type="latent",
        callback_on_step_end=call_after_step,
    ).images
    return latents


def decode_latents(live: StandaloneModel, latents: Tensor) -> Image.Image:
    """Decode the latents of one image, of shape (1, 4, height / 8, width / 8)."""
    levels = decode_pixels(live, latents)[0].clamp(0, 1).mul(255).round().to(torch.uint8)
    return Image.fromarray(levels.permute(1, 2, 0).cpu().numpy())


def decode_pixels(live: StandaloneModel, latents: Tensor) -> Tensor:
    """Decode latents into channel values, float32, mostly from 0 to 1, of shape (1, 3, height, width)."""
    vae: Any = live.networks[Network.VAE]
    pixels: Tensor = vae.decode(latents.to(vae.dtype) / vae.config.scaling_factor).sample
    return pixels.float() / 2 + 0.5


def _make_pipeline(live: StandaloneModel, sampler: str) -> Any:
    scheduler = make_sampler(sampler, v_prediction=live.v_prediction, zero_snr=live.zero_snr)
    parts = {name.value: network for name, network in live.networks.items()}
    if live.architecture is SDXL:
        pipeline: Any = StableDiffusionXLPipeline(
            **parts, tokenizer=None, tokenizer_2=None, scheduler=scheduler, add_watermarker=False
        )
    else:
        pipeline = StableDiffusionPipeline(
            **parts,
            tokenizer=None,
            scheduler=scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
