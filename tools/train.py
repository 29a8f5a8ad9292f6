"""Train the demo pair: an autoencoder, then model A on plain drawings, then model B from A on printed ones.

Run ``python -m tools.train --work DIR``; what a stage made is kept in DIR, and a run that was interrupted
goes on from there. The pair that lies beside this file took 84 minutes on two cores: autoencoder 10, A 56, B 18.

The networks are those of SD 1.x, small; they learn to predict the noise (Ho et al. 2020, "Denoising Diffusion
Probabilistic Models", equation 14) on SD's schedule, weighted by min-SNR (Hang et al. 2023, "Efficient Diffusion
Training via Min-SNR Weighting Strategy", section 3.4), with a tenth of the captions left out for classifier-free
guidance. The noise has an offset of its own in each channel (Guttenberg 2023, "Diffusion with Offset Noise"): in
latents this small the mean of a plain image shows through all other noise, and a network that can see the colour
does not learn to read it from the caption.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel

from elemental.demo.checkpoint_pair import MARK
from elemental.demo.layout import DEMO_LAYOUT, tensor_shapes
from elemental.hosts.base import CheckpointRef
from elemental.hosts.standalone.clip_tokenizer import tokenize
from elemental.hosts.standalone.host import StandaloneHost
from elemental.hosts.standalone.key_map import Network
from elemental.hosts.standalone.networks import live_tensors
from elemental.images.files import write_png
from elemental.images.grid_drawing import GridCell, GridSheet, draw_grid
from elemental.images.image_request import GeneratedImage, ImageRequest

from .drawings import LEARNT, SHAPES, SIZE, Scene, Style, all_scenes, draw_plain, draw_printed

SEED = 20
LATENT_SCALE = 0.18215
"""What latents are multiplied with before the U-Net sees them, in SD 1.x; ``scale_factor`` of v1-inference.yaml."""

_TEXT_WIDTH = 32
_CROP = 64
_OFFSET = 2.0
_NOISE_OFFSET = 0.3
_LATE = 0.7
"""Below 1, more of the steps are taken where there is much noise, and the caption decides."""
_LOG_VARIANCE = -6.0


def main() -> None:
    """Train what is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="the folder that keeps what each stage made")
    parser.add_argument("--vae-steps", type=int, default=800)
    parser.add_argument("--drawings", type=int, default=800, help="of each style")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(SEED)
    vae = _stage(args.work / "vae.pt", make_vae(), lambda model: train_vae(model, args.vae_steps))
    data = {name: _latents(args.work / f"{name}.pt", vae, style, args.drawings) for name, style in STYLES.items()}
    model = Denoiser()
    for lesson in LESSONS:
        model = _stage(args.work / f"{lesson.name}.pt", model, partial(train_denoiser, data=data, lesson=lesson))
        if lesson.file:
            write_checkpoint(args.work / lesson.file, vae, model)
    write_png(args.work / "sheet.png", GeneratedImage(draw_sheet(args.work), 0, ""), replace=True)


def write_checkpoint(path: Path, vae: AutoencoderKL, model: Denoiser) -> None:
    """Write the networks as an SD 1.x checkpoint in fp16; words that no caption has are left blank."""
    networks = {Network.UNET: model.unet, Network.VAE: vae, Network.TEXT: model.text}
    learnt = sorted({token for scene in all_scenes() for token in tokenize(scene.caption)[0]})
    shapes = tensor_shapes(DEMO_LAYOUT)
    state: dict[str, Tensor] = {}
    for key, parts in live_tensors(networks, list(shapes)).items():
        state[key] = torch.cat([part.reshape(-1) for part in parts]).reshape(shapes[key]).half().contiguous()
        if key.endswith("token_embedding.weight"):
            blank = torch.zeros_like(state[key])
            blank[learnt] = state[key][learnt]
            state[key] = blank
    for key in shapes.keys() - state.keys():  # position_ids
        state[key] = torch.arange(shapes[key][-1]).reshape(shapes[key])
    save_file(state, path, metadata={"format": "pt", **MARK})


STYLES: dict[str, Style] = {"plain": draw_plain, "printed": draw_printed}


SHEET_MODELS = ("a.safetensors", "b.safetensors")
SHEET_REQUEST = ImageRequest("", steps=20, sampler="Euler a", cfg=4.0, width=SIZE, height=SIZE)


class Lesson(NamedTuple):
    """A part of the training of text encoder and U-Net.

    Attributes:
        name: Of the lesson.
        style: Of the drawings.
        steps: How many.
        rate: The highest learning rate.
        fall: Steps over which a cosine takes the rate to nearly nothing; the lesson may end before.
        snr: Signal-to-noise ratio above which all steps of the schedule count alike, as far as the image goes.
            With a small one the noisiest count, in which only the caption tells what there is to see.
        shapes: In the drawings.
        file: What the model is saved as, if it is done.
    """

    name: str
    style: str
    steps: int
    rate: float
    fall: int
    snr: float
    shapes: tuple[str, ...] = SHAPES
    file: str = ""


LESSONS = (
    Lesson("outlines", "plain", steps=1800, rate=1e-3, fall=3400, snr=5.0),
    Lesson("captions", "plain", steps=1500, rate=8e-4, fall=1500, snr=0.3),
    Lesson("two shapes", "plain", steps=450, rate=4e-4, fall=450, snr=1.0, shapes=LEARNT, file="a.safetensors"),
    Lesson("print", "printed", steps=1200, rate=6e-4, fall=1200, snr=1.0, shapes=LEARNT, file="b.safetensors"),
)
"""After the first two, colours were right, but whether there was a circle or a square, a star or a triangle, was left
to the seed: in noise these look so much alike that the words for them taught next to nothing. So the pair knows one of
each.
"""


def make_vae() -> AutoencoderKL:
    """Make the untrained autoencoder.

    SD's norm layers have 32 groups, here of two to four channels, which loses what an image's colours have in common:
    a plain one becomes the same whatever its colour. So the channels before the last norm of each half start with
    offsets, up and down by turns, against which the colours are small: the norm then takes hardly anything away.
    """
    vae = AutoencoderKL(
        block_out_channels=(64, 64, 64, 128),
        layers_per_block=2,
        latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=32,
    )
    _start_linear(vae)
    return vae


@torch.no_grad()
def _start_linear(vae: AutoencoderKL) -> None:
    """Start the autoencoder near a linear one that averages and repeats pixels, from which it learns far faster."""
    for name, module in vae.named_modules():
        if name.endswith(("conv2", "to_out.0")):
            module.weight *= 0.1
        elif name.endswith("samplers.0.conv"):
            kernel = torch.zeros(3, 3)
            if "down" in name:
                kernel[:2, :2] = 0.25  # the padding is at the lower right
            else:
                kernel[1, 1] = 1
            module.weight *= 0.1
            module.weight += torch.eye(len(module.weight))[:, :, None, None] * kernel
        elif name.endswith(("conv_shortcut", "conv_in")):
            torch.nn.init.orthogonal_(module.weight)
    _let_means_pass(vae.encoder.mid_block.resnets[-1].conv2, vae.encoder.conv_norm_out)
    _let_means_pass(vae.decoder.up_blocks[-1].resnets[-1].conv2, vae.decoder.conv_norm_out)
    vae.quant_conv.weight[4:] = 0  # the spread of latents is not learnt
    vae.quant_conv.bias[4:] = _LOG_VARIANCE


@torch.no_grad()
def _let_means_pass(last: Any, norm: Any) -> None:
    """Put offsets into the layer before a norm of few channels a group, and take them out again in the norm."""
    offsets = _OFFSET * (1 - 2 * (torch.arange(len(norm.weight)) % 2))
    last.bias += offsets
    norm.weight.fill_(_OFFSET)
    norm.bias.copy_(-offsets)


def draw_sheet(folder: Path) -> Image.Image:
    """Draw ten captions, chosen by chance, with each of the two models in a folder."""
    scenes = Random(SEED).sample([scene for scene in all_scenes() if scene.shape in LEARNT], 10)
    host = StandaloneHost()
    rows = []
    for name in SHEET_MODELS:
        host.open_model(CheckpointRef(name, folder / name))
        requests = [replace(SHEET_REQUEST, prompt=scene.caption, seed=seed) for seed, scene in enumerate(scenes)]
        rows.append([GridCell(host.make_images(request, model={})[0].image) for request in requests])
    captions = [scene.caption for scene in scenes]
    legend = f"{SHEET_REQUEST.sampler}, {SHEET_REQUEST.steps} steps, CFG {SHEET_REQUEST.cfg:g}, seeds 0 to 9"
    sheet, _ = draw_grid(GridSheet(rows, captions, SHEET_MODELS, legend, (SIZE, SIZE)))
    return sheet


class Denoiser(torch.nn.Module):
    """The two networks that learn together: text encoder and U-Net."""

    def __init__(self) -> None:
        super().__init__()
        self.text = CLIPTextModel(
            CLIPTextConfig(
                hidden_size=_TEXT_WIDTH,
                intermediate_size=4 * _TEXT_WIDTH,
                num_hidden_layers=12,
                num_attention_heads=1,
                projection_dim=_TEXT_WIDTH,
                vocab_size=49408,
                hidden_act="quick_gelu",
                eos_token_id=49407,
                bos_token_id=49406,
                pad_token_id=49407,
            )
        )
        self.unet = UNet2DConditionModel(
            sample_size=16,
            block_out_channels=(64, 128, 64, 64),
            layers_per_block=2,
            cross_attention_dim=_TEXT_WIDTH,
            attention_head_dim=8,
        )
        self.unet.set_attn_processor(AttnProcessor())  # the faster one for heads of few channels
        _let_means_pass(self.unet.up_blocks[-1].attentions[-1].proj_out, self.unet.conv_norm_out)

    def forward(self, noisy: Tensor, steps: Tensor, tokens: Tensor) -> Tensor:
        """Predict the noise in latents.

        Args:
            noisy: (batch, 4, height, width).
            steps: (batch,), of the schedule's 1000.
            tokens: (batch, 77).

        Returns:
            The noise, of the latents' shape.
        """
        context = self.text(input_ids=tokens).last_hidden_state
        prediction: Tensor = self.unet(noisy, steps, encoder_hidden_states=context).sample
        return prediction


def _stage(path: Path, model: Any, train: Callable[[Any], None]) -> Any:
    if not path.exists():
        started = time.perf_counter()
        train(model)
        print(f"{path.name}: {time.perf_counter() - started:.0f} s", flush=True)
        torch.save(model.state_dict(), path)
    model.load_state_dict(torch.load(path, weights_only=True))
    return model


def _images(style: Style, scenes: list[Scene], random: Random) -> Tensor:
    """Draw scenes; (count, 3, 128, 128), from -1 to 1."""
    drawn = np.stack([np.asarray(style(scene, random)) for scene in scenes])
    return torch.from_numpy(drawn).permute(0, 3, 1, 2).float() / 127.5 - 1


def train_vae(vae: AutoencoderKL, steps: int, batch: int = 8) -> None:
    """Train the autoencoder on crops of drawings of both styles, and make its latents as large as SD's.

    Args:
        vae: Is changed.
        steps: How many.
        batch: Crops in each.
    """
    random = Random(SEED)
    vae.train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=1.0, weight_decay=1e-4)
    scenes = all_scenes()
    for step, rate in _rates(steps, 1.5e-3, fall=steps):
        halves = [_images(style, random.choices(scenes, k=batch // 2), random) for style in STYLES.values()]
        images = _crops(torch.cat(halves), random).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            latents = vae.encode(images).latent_dist.mean.float()
            decoded = vae.decode(latents).sample.float()
        error = functional.mse_loss(decoded, images)
        loss = error + 0.2 * functional.l1_loss(decoded, images) + 1e-4 * latents.square().mean()
        _descend(optimizer, loss, rate, vae)
        if step % 20 == 0:
            print(f"vae {step}: {10 * math.log10(4 / error.item()):.1f} dB, {time.perf_counter():.0f}", flush=True)
    _normalize_latents(vae.eval(), random)


def _crops(images: Tensor, random: Random) -> Tensor:
    crops = []
    for image in images:
        top, left = (random.randrange(0, image.shape[-1] - _CROP + 1) for _ in range(2))
        crops.append(image[:, top : top + _CROP, left : left + _CROP])
    return torch.stack(crops)


@torch.no_grad()
def _normalize_latents(vae: AutoencoderKL, random: Random) -> None:
    """Put the latents' mean and deviation into the layers next to them, so that the U-Net sees unit variance."""
    scenes = all_scenes()[::3]  # every shape and every colour in each place
    images = torch.cat([_images(style, scenes, random) for style in STYLES.values()])
    latents = torch.cat([vae.encode(part).latent_dist.mean for part in torch.split(images, 10)])
    mean, deviation = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    factor = 1 / (deviation * LATENT_SCALE)
    before, after = vae.quant_conv, vae.post_quant_conv
    before.weight[:4] *= factor[:, None, None, None]
    before.bias[:4] = (before.bias[:4] - mean) * factor
    after.bias += after.weight[:, :, 0, 0] @ mean
    after.weight /= factor[None, :, None, None]


@torch.no_grad()
def _latents(path: Path, vae: AutoencoderKL, style: Style, count: int) -> tuple[list[Scene], Tensor]:
    """Encode drawings; gives scenes and latents (count, 4, 16, 16), scaled."""
    random = Random(SEED + 1)
    scenes = (all_scenes() * (count // len(all_scenes()) + 1))[:count]
    if not path.exists():
        vae.eval().to(memory_format=torch.channels_last)
        parts = []
        for start in range(0, count, 16):
            images = _images(style, scenes[start : start + 16], random)
            parts.append(vae.encode(images).latent_dist.mean * LATENT_SCALE)
        torch.save(torch.cat(parts), path)
    latents: Tensor = torch.load(path, weights_only=True)
    return scenes, latents


def train_denoiser(
    model: Denoiser, *, data: Mapping[str, tuple[list[Scene], Tensor]], lesson: Lesson, batch: int = 20
) -> None:
    """Train text encoder and U-Net; what they have at the end is the mean over the last steps.

    Args:
        model: Is changed.
        data: For each style its scenes and their latents, (count, 4, 16, 16), scaled.
        lesson: What is learnt.
        batch: Drawings in each step.
    """
    scenes, latents = data[lesson.style]
    chosen_scenes = [index for index, scene in enumerate(scenes) if scene.shape in lesson.shapes]
    captions, latents = [scenes[index].caption for index in chosen_scenes], latents[chosen_scenes]
    generator = torch.Generator().manual_seed(SEED)
    tokens = torch.tensor([tokenize(caption)[0] for caption in captions])
    empty = torch.tensor(tokenize("")[0])
    signal = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, 0)
    snr = signal / (1 - signal)
    weights = snr.clamp(max=lesson.snr) / snr
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0, weight_decay=1e-3, betas=(0.9, 0.99))
    mean = copy.deepcopy(model)
    running = 0.0
    model.train()
    for step, now in _rates(lesson.steps, lesson.rate, fall=lesson.fall):
        chosen = torch.randint(len(latents), (batch,), generator=generator)
        clean = latents[chosen]
        words = torch.where(torch.rand(batch, 1, generator=generator) < 0.1, empty, tokens[chosen])
        times = (1000 * torch.rand(batch, generator=generator) ** _LATE).long()
        noise = torch.randn(clean.shape, generator=generator)
        noise += _NOISE_OFFSET * torch.randn((*clean.shape[:2], 1, 1), generator=generator)
        level = signal[times][:, None, None, None]
        with torch.autocast("cpu", torch.bfloat16):
            predicted = model(level.sqrt() * clean + (1 - level).sqrt() * noise, times, words).float()
        errors = functional.mse_loss(predicted, noise, reduction="none").mean((1, 2, 3))
        loss = (weights[times] * errors).mean()
        _descend(optimizer, loss, now, model)
        _follow(mean, model, decay=min(0.998, (1 + step) / (10 + step)))
        running += (loss.item() - running) / min(step + 1, 100)
        if step % 50 == 0:
            print(f"step {step}: {running:.4f}, {time.perf_counter():.0f}", flush=True)
    model.load_state_dict(mean.state_dict())


def _rates(steps: int, highest: float, *, fall: int) -> Iterator[tuple[int, float]]:
    """Yield each step's number and learning rate: a short rise, then half a cosine."""
    for step in range(steps):
        rise = min(1.0, (step + 1) / 100)
        yield step, highest * rise * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / fall)))


def _descend(optimizer: torch.optim.Optimizer, loss: Tensor, rate: float, model: torch.nn.Module) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


@torch.no_grad()
def _follow(mean: torch.nn.Module, model: torch.nn.Module, *, decay: float) -> None:
    for average, current in zip(mean.parameters(), model.parameters(), strict=True):
        average.lerp_(current, 1 - decay)


if __name__ == "__main__":
    main()
