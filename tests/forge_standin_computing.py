"""Lets the stand-ins for Forge, Forge Neo and reForge compute, with blocks that write over what they are given.

What is called when, in which mode and order, and what the U-Net is told of the call is as in their sources.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .webui_standin_computing import CHANNELS, CHUNK, ComputingVAE, _learn, _tokens, _tokens_of, _waves
from .webui_standin_models import LORA, Layer

if TYPE_CHECKING:
    from .forge_standin_models import Engine, Objects

_PARTS = ("input_blocks", "middle_block", "output_blocks")


class BasicTransformerBlock(Layer):
    """A block, which changes its input in place; torch keeps that input for the way back."""

    def forward(self, x: Tensor, context: Tensor, transformer_options: Mapping[str, Any]) -> Tensor:
        seen = context.mean((1, 2)) + 0.01 * context[:, -1].sum(1)
        step = x * torch.sigmoid(x) + seen.view(-1, 1, 1, 1)
        for patch in transformer_options.get("patches", {}).get("attn1_patch", ()):
            step = patch(step, transformer_options)
        number = _PARTS.index(transformer_options["block"][0])
        x += (1 + 0.5 * number) * torch.einsum("co,bchw->bohw", _waves(self, x.shape[1]), step)
        return x


class Decoder(Layer):
    """A part of Forge Neo's VAE."""

    @torch.inference_mode()
    def forward(self, pixels: Tensor) -> Tensor:
        return pixels * (1 + _waves(self, 1))


class NeoVAE(ComputingVAE):
    """Forge Neo's VAE, which computes in inference mode."""

    decoder: Any

    def decode(self, latents: Tensor) -> Tensor:
        pixels: Tensor = self.decoder(super().decode(latents))
        return pixels


class ComputingUNet(Layer):
    """The U-Net itself."""

    def forward(
        self, x: Tensor, timesteps: Tensor, context: Any = None, y: Any = None, control: Any = None, **options: Any
    ) -> Tensor:
        told = options["transformer_options"]
        emb = timesteps.view(-1, 1, 1, 1) / 1000 + (0 if y is None else y.mean(1).view(-1, 1, 1, 1))
        h = torch.einsum("co,bchw->bohw", _waves(self.time_embed, x.shape[1]), torch.tanh(x) + emb)
        for part in _PARTS:
            told["block"] = (part, 0)
            h = getattr(self, part)(h, context=context, transformer_options=told)
            if control is not None and control["input"]:
                h += control["input"].pop()
        told["block"] = ("last", 0)
        return torch.einsum("co,bchw->bohw", _waves(self.out, x.shape[1]), h)


class ComputingKModel(Layer):
    """What wraps the U-Net: it gives the image without its noise.

    Attributes:
        predicted: What the U-Net itself gave last.
    """

    predicted: Any
    diffusion_model: Any

    def apply_model(self, x: Tensor, sigma: Tensor, c_crossattn: Tensor, control: Any = None, **options: Any) -> Tensor:
        scaled = x / (sigma.view(-1, 1, 1, 1) ** 2 + 1) ** 0.5
        context = c_crossattn.to(torch.float32)
        output = self.diffusion_model(scaled, sigma * 10, context=context, control=control, **options).float()
        self.predicted = output
        denoised: Tensor = x - sigma.view(-1, 1, 1, 1) * output
        return denoised

    def memory_required(self, input_shape: Sequence[int]) -> float:
        return float(np.prod(input_shape))


def make_engine_compute(engine: Engine, webui: Any) -> None:
    """Let the networks of an engine compute."""
    objects: Any = engine.forge_objects
    engine.memory = webui.memory
    engine.text_processing_engine = SimpleNamespace(clip_skip=1, notes=webui.notes)
    unet = objects.unet.model
    unet.__class__, unet.diffusion_model.__class__ = ComputingKModel, ComputingUNet
    for part in _PARTS:
        getattr(unet.diffusion_model, part).__class__ = BasicTransformerBlock
    vae = objects.vae.first_stage_model
    vae.__class__ = ComputingVAE
    if webui.decodes_in_inference_mode:
        vae.__class__, vae.decoder.__class__ = NeoVAE, Decoder
    with torch.inference_mode():
        for encoder in objects.clip.cond_stage_model.children():
            encoder.transformer.text_model.embeddings.register_buffer("positions", torch.arange(2))


def encode(engine: Any, texts: Sequence[str]) -> Any:
    """Encode prompts; embeddings are moved where they are already, and notes are made for the infotext."""
    engine.memory.load_model_gpu(engine.forge_objects.clip.patcher)
    skip = engine.text_processing_engine.clip_skip
    engine.text_processing_engine.notes()["Emphasis"] = "used"
    return encoded_by(engine.forge_objects.clip.cond_stage_model.children(), texts, skip)


def encoded_by(encoders: Any, texts: Sequence[str], skip: int = 1) -> Any:
    """Encode prompts by text encoders."""
    words = [text.split() for text in texts]
    length = CHUNK * max(1, *(-(-len(each) // CHUNK) for each in words))
    encoded = []
    for encoder in encoders:
        text_model = encoder.transformer.text_model
        text_model.embeddings.position_embedding = text_model.embeddings.position_embedding.to(dtype=torch.float32)
        tokens = torch.stack([_tokens(each, length) for each in words])
        weight = text_model.embeddings.position_embedding.weight
        places = torch.nn.functional.embedding(text_model.embeddings.positions, weight)
        encoded.append((tokens + places.mean()) @ _waves(encoder, CHANNELS) * skip)
    if len(encoded) == 1:
        return encoded[0]
    return {"crossattn": torch.cat(encoded, 2), "vector": encoded[-1].mean(1)}


def sample_images(webui: Any, engine: Any, p: Any, seeds: Sequence[int]) -> Iterator[Image.Image]:
    """Make images by sampling, in inference mode."""
    with torch.inference_mode():
        engine.load_loras([LORA] if LORA in p.prompt else [], online=getattr(webui, "online_lora", False))
        engine.forge_objects = engine.forge_objects_after_applying_lora.shallow_copy()
        webui.patch_objects(engine.forge_objects)
        prompts = [text.replace(LORA, "") for text in (p.prompt, p.negative_prompt)]
        given = (prompts, LORA in p.prompt, str(webui.model.sd_checkpoint_info))
        if p.cached_c[0] != given:
            webui.set_clip_skip()
            learned = _learn(webui.model, prompts)
            p.cached_c[0], p.cached_c[1] = given, learned
            webui.forget_notes()
        yield from [_sample_image(webui, engine.forge_objects, p, seed) for seed in seeds]


def _sample_image(webui: Any, objects: Objects, p: Any, seed: int) -> Image.Image:
    latents = torch.randn(1, 4, p.height // 8, p.width // 8, generator=torch.Generator().manual_seed(seed))
    p.is_hr_pass = False
    latents = _sample_pass(webui, objects, p, latents)
    if p.enable_hr:
        p.is_hr_pass = True
        latents = _sample_pass(webui, objects, p, latents.repeat_interleave(2, 2).repeat_interleave(2, 3))
    webui.memory.load_models_gpu([objects.vae.patcher])
    decode: Callable[[Tensor], Tensor] = webui.decodes or objects.vae.first_stage_model.decode
    pixels = (decode(latents / 0.18215)[0] + 1) / 2
    return Image.fromarray((255 * pixels.clamp(0, 1).permute(1, 2, 0).numpy()).astype(np.uint8))


def _sample_pass(webui: Any, objects: Any, p: Any, latents: Tensor) -> Tensor:
    webui.memory.load_models_gpu([objects.unet], memory_required=0)
    conds, unconds = p.cached_c[1]
    weighted = [SimpleNamespace(weight=1.0 / (1 + at)) for at in range(len(conds))]
    sampler = SimpleNamespace(sampler_extra_args={"cond": SimpleNamespace(batch=[weighted]), "cond_scale": p.cfg_scale})
    denoiser = SimpleNamespace(p=p, sampler=sampler)
    webui.state.sampling_steps = p.steps
    for step in range(p.steps):
        webui.state.sampling_step = step
        webui.on_step(step)
        if webui.state.interrupted or webui.state.skipped:
            break
        webui.fire("cfg_denoiser", SimpleNamespace(denoiser=denoiser))
        sigma = torch.full((1,), float(p.steps - step))
        parts = [(cond, 0, part.weight) for cond, part in zip(conds, weighted, strict=True)]
        latents = latents - 0.3 * _guide(webui, objects.unet, latents, sigma, parts, unconds[0], p.cfg_scale)
    return latents


def _guide(webui: Any, unet: Any, x: Tensor, sigma: Tensor, parts: list[Any], uncond: Any, scale: float) -> Tensor:
    """Compute the parts of the prompt and the negative prompt, the last one first, and guide."""
    to_run = parts if scale == 1 else [*parts, (uncond, 1, 1.0)]
    total = {0: torch.zeros_like(x), 1: torch.zeros_like(x)}
    while to_run:
        batch = [each for each in reversed(to_run) if webui.batches or each is to_run[-1]]
        to_run = [each for each in to_run if not any(each is one for one in batch)]
        unet.model.apply_model(x.repeat(len(batch), 1, 1, 1), sigma.repeat(len(batch)), **_told(unet, batch))
        for output, (_, kind, weight) in zip(unet.model.predicted, batch, strict=True):
            total[kind] += output[None] * weight
    strength = sum(weight for _, _, weight in parts)
    guided = total[0] if scale == 1 else total[1] + (total[0] / strength - total[1]) * scale * strength
    webui.guided.append(guided)
    return guided


def _told(unet: Any, batch: Sequence[Any]) -> dict[str, Any]:
    tokens = [_tokens_of(cond) for cond, _, _ in batch]
    longest = max(len(each) for each in tokens)
    given: dict[str, Any] = {"c_crossattn": torch.stack([each.repeat(longest // len(each), 1) for each in tokens])}
    if isinstance(batch[0][0], dict):
        given["y"] = torch.stack([cond["vector"] for cond, _, _ in batch])
    kinds = [kind for _, kind, _ in batch]
    options = dict(unet.model_options.get("transformer_options", {}))
    options |= {"cond_or_uncond": kinds, "sigmas": torch.ones(1), "cond_mark": torch.tensor(kinds)}
    options["cond_indices"] = [at for at, kind in enumerate(kinds) if not kind]
    options["uncond_indices"] = [at for at, kind in enumerate(kinds) if kind]
    given["transformer_options"] = options
    if unet.control is not None:
        given["control"] = {"input": [unet.control.repeat(len(batch), 1, 1, 1)]}
    return given
