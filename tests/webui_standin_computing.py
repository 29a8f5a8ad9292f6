"""Lets the stand-in for the WebUI compute: a model that depends smoothly on each of its tensors, and sampling with it.

What is called when, with which arguments, and where gradients are cut off is as in version 1.10.1.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .webui_standin_models import LORA, Layer

if TYPE_CHECKING:
    from .webui_standin import StandIn

CHANNELS = 8
"""Of an encoded prompt."""
CHUNK = 6
"""Words of a prompt that are encoded together, where the WebUI has 75 tokens."""


class Computing(Layer):
    """The model; the methods are the class's, as in the WebUI."""

    webui: StandIn

    def apply_model(self, x: Tensor, t: Tensor, cond: dict[str, Any]) -> Tensor:
        """Call the U-Net; the WebUI's own wrapper of it changes the dictionary."""
        self.webui.apply_loras()
        for name, value in cond.items():
            cond[name] = [tensor.float() for tensor in value] if isinstance(value, list) else value.float()
        tokens = cond["c_crossattn"][0] if "c_crossattn" in cond else cond["crossattn"]
        seen = tokens.mean((1, 2)) + 0.01 * tokens[:, -1].sum(1) + cond.get("vector", torch.zeros(1, 1)).mean(1)
        waves = _waves(self.model, x.shape[1])
        strengths = torch.tanh(x) + seen.view(-1, 1, 1, 1) + t.view(-1, 1, 1, 1) / 1000
        return self.webui.changes_unet * torch.einsum("co,bchw->bohw", waves, strengths)

    def get_learned_conditioning(self, texts: Sequence[str]) -> Any:
        """Encode prompts; the text encoders of SDXL compute gradients only if they are trained."""
        self.webui.apply_loras()
        encoders = getattr(self, "conditioner", None)
        if encoders is None:
            return self._encode(self.cond_stage_model, texts)
        encoded = []
        for encoder in encoders.embedders:
            with torch.set_grad_enabled(torch.is_grad_enabled() and encoder.is_trainable):
                encoded.append(self._encode(encoder, texts))
        return {"crossattn": torch.cat(encoded, 2), "vector": encoded[-1].mean(1)}

    def _encode(self, encoder: Any, texts: Sequence[str]) -> Tensor:
        waves = _waves(encoder, CHANNELS)
        words = [text.split() for text in texts]
        chunks = max(1, *(-(-len(each) // CHUNK) for each in words))
        tokens = torch.stack([_tokens(each, chunks * CHUNK) for each in words])
        return tokens @ waves


class Embedders(Layer):
    """The list of SDXL's text encoders."""

    def __iter__(self) -> Iterator[Any]:
        return iter(self.children())


class ComputingVAE(Layer):
    """The VAE."""

    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents, of shape (1, 4, h, w), to channel values from -1 to 1."""
        pixels = torch.tanh(torch.einsum("co,bchw->bohw", _waves(self, 4)[:, :3], latents))
        return pixels.repeat_interleave(8, 2).repeat_interleave(8, 3)


def make_computing(model: Any, webui: StandIn) -> None:
    """Let a model compute."""
    model.__class__, model.webui = Computing, webui
    model.first_stage_model.__class__ = ComputingVAE
    if hasattr(model, "conditioner"):
        model.conditioner.embedders.__class__ = Embedders
        for encoder in model.conditioner.embedders:
            encoder.is_trainable = False
    with torch.no_grad():
        output = model.get_learned_conditioning([""])
        model.cond_stage_model_empty_prompt = output["crossattn"] if isinstance(output, dict) else output


def _waves(part: Any, size: int) -> Tensor:
    """Give a matrix that depends on each tensor of a network in its own way."""
    tensors = list(part.parameters())
    patterns = (_pattern(tensor.numel(), number) for number, tensor in enumerate(tensors))
    shares = [torch.dot(tensor.reshape(-1).float(), wave) for tensor, wave in zip(tensors, patterns, strict=True)]
    return (torch.tanh(torch.stack(shares)) @ _matrices(len(tensors), size)).view(size, size) / 10


@functools.cache
@torch.inference_mode(False)
def _pattern(length: int, number: int) -> Tensor:
    return torch.cos(torch.arange(length) * 1.7 + number)


@functools.cache
@torch.inference_mode(False)
def _matrices(count: int, size: int) -> Tensor:
    numbers = torch.arange(count).view(-1, 1)
    return torch.sin(torch.arange(size * size) * (0.3 + numbers % 11) + numbers)


def _tokens(words: Sequence[str], length: int) -> Tensor:
    numbers = [int(hashlib.sha256(word.encode()).hexdigest()[:6], 16) for word in words]
    numbers += [1] * (length - len(numbers))
    places = torch.arange(length).view(-1, 1) + torch.arange(CHANNELS)
    return torch.cos(torch.tensor(numbers).view(-1, 1) % 97 + places)


class LoraNetwork:
    """The Lora extension's part that the WebUI calls before each image."""

    def __init__(self, networks: Any) -> None:
        self._networks = networks

    def activate(self, _p: Any, wanted: Sequence[str]) -> None:
        """Use the LoRAs of an image from now on; layers are changed when they are used."""
        self._networks.loaded_networks[:] = [
            SimpleNamespace(name=name, te_multiplier=1.0, unet_multiplier=1.0, dyn_dim=None) for name in wanted
        ]


def sample_images(webui: StandIn, p: Any, seeds: Sequence[int]) -> list[Image.Image]:
    """Make images by sampling."""
    with torch.no_grad():
        wanted = ["tiny"] if LORA in p.prompt else []
        p.extra_network_data = {"lora": wanted}
        webui.lora.activate(p, wanted)
        prompts = [text.replace(LORA, "") for text in (p.prompt, p.negative_prompt)]
        if p.cached_c[0] != (prompts, p.sd_model_name):
            p.cached_c[:] = [(prompts, p.sd_model_name), _learn(webui.model, prompts)]
        return [_sample_image(webui, p, seed) for seed in seeds]


def _learn(model: Any, prompts: Sequence[str]) -> list[list[Any]]:
    """Encode the prompt, whose parts are joined by AND, and the negative prompt."""
    parts = [[part.strip() for part in text.split("AND")] for text in prompts]
    return [[_first(model.get_learned_conditioning([part])) for part in each] for each in parts]


def _first(output: Any) -> Any:
    return {name: tensor[0] for name, tensor in output.items()} if isinstance(output, dict) else output[0]


def _sample_image(webui: StandIn, p: Any, seed: int) -> Image.Image:
    model = webui.model
    latents = torch.randn(1, 4, p.height // 8, p.width // 8, generator=torch.Generator().manual_seed(seed))
    p.is_hr_pass = False
    latents = _sample_pass(webui, p, latents)
    if p.enable_hr:
        p.is_hr_pass = True
        latents = _sample_pass(webui, p, latents.repeat_interleave(2, 2).repeat_interleave(2, 3))
    decode = webui.decodes or model.first_stage_model.decode
    pixels = (decode(latents / 0.18215)[0] + 1) / 2
    return Image.fromarray((255 * pixels.clamp(0, 1).permute(1, 2, 0).numpy()).astype(np.uint8))


def _sample_pass(webui: StandIn, p: Any, latents: Tensor) -> Tensor:
    conds, unconds = p.cached_c[1]
    weighted = [SimpleNamespace(weight=1.0 / (1 + at)) for at in range(len(conds))]
    sampler = SimpleNamespace(sampler_extra_args={"cond": SimpleNamespace(batch=[weighted]), "cond_scale": p.cfg_scale})
    denoiser = SimpleNamespace(p=p, sampler=sampler, cond_scale_miltiplier=1.0)
    webui.state.sampling_steps = p.steps
    for step in range(p.steps):
        webui.state.sampling_step = step
        webui.on_step(step)
        if webui.state.interrupted or webui.state.skipped:
            break
        sigma = torch.full((1,), float(p.steps - step))
        guided = _guide(webui, denoiser, latents, sigma, [*map(_batch, conds)], _batch(unconds[0]))
        latents = latents - 0.3 * guided
    return latents


def _batch(cond: Any) -> Any:
    return {name: tensor[None] for name, tensor in cond.items()} if isinstance(cond, dict) else cond[None]


def _guide(webui: StandIn, denoiser: Any, x: Tensor, sigma: Tensor, conds: list[Any], uncond: Any) -> Tensor:
    rows = len(conds) + 1
    x_in, sigma_in = x.repeat(rows, 1, 1, 1), sigma.repeat(rows)
    webui.fire(
        "cfg_denoiser",
        SimpleNamespace(
            x=x_in, sigma=sigma_in, image_cond=torch.zeros(rows, 5, 1, 1), text_cond=conds, text_uncond=uncond,
            sampling_step=webui.state.sampling_step, total_sampling_steps=webui.state.sampling_steps, denoiser=denoiser,
        ),
    )  # fmt: skip
    scaled = x_in / (sigma_in.view(-1, 1, 1, 1) ** 2 + 1) ** 0.5
    conds = [_pad(webui, cond, uncond) for cond in conds]
    uncond = _pad(webui, uncond, conds[0])
    model, given = webui.model, [*conds] if webui.skips_uncond else [*conds, uncond]
    if len({_tokens_of(each).shape for each in given}) == 1:
        outputs = model.apply_model(scaled[: len(given)], sigma_in[: len(given)] * 10, cond=_condition(given))
    else:
        outputs = torch.cat(
            [model.apply_model(scaled[at : at + 1], sigma_in[at : at + 1] * 10, cond=_condition([each]))
             for at, each in enumerate(given)]
        )  # fmt: skip
    base = outputs[:1] if webui.skips_uncond else outputs[-1:]
    scale = 1.0 if webui.skips_uncond else denoiser.p.cfg_scale
    weights = [part.weight for part in denoiser.sampler.sampler_extra_args["cond"].batch[0]]
    parts = zip(outputs, weights, strict=False)
    guided: Tensor = base + sum(scale * weight * (output[None] - base) for output, weight in parts)
    webui.guided.append(guided)
    return guided


def _tokens_of(cond: Any) -> Tensor:
    tokens: Tensor = cond["crossattn"] if isinstance(cond, dict) else cond
    return tokens


def _pad(webui: StandIn, cond: Any, other: Any) -> Any:
    """Make an encoded prompt as long as another, if the WebUI is set up so."""
    tokens, missing = _tokens_of(cond), _tokens_of(other).shape[1] - _tokens_of(cond).shape[1]
    if missing <= 0 or not webui.opts.pad_cond_uncond:
        return cond
    empty = webui.model.cond_stage_model_empty_prompt
    filler = tokens[:, -1:].repeat(1, missing, 1) if webui.pads_by_last else empty.repeat(1, missing // CHUNK, 1)
    padded = torch.cat([tokens, filler], 1)
    return {**cond, "crossattn": padded} if isinstance(cond, dict) else padded


def _condition(rows: Sequence[Any]) -> dict[str, Any]:
    image = torch.zeros(len(rows), 5, 1, 1)
    if isinstance(rows[0], dict):
        return {**{name: torch.cat([row[name] for row in rows]) for name in rows[0]}, "c_concat": [image]}
    return {"c_crossattn": [torch.cat(list(rows))], "c_concat": [image]}
