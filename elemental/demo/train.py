"""Train the demo pair: an autoencoder, then model A on plain drawings, then model B from A on printed ones.

Run ``python -m elemental.demo.train --work DIR``; what a stage made is kept in DIR, and a run that was interrupted
goes on from there. The networks are those of SD 1.x, small; they learn to predict the noise (Ho et al. 2020,
"Denoising Diffusion Probabilistic Models", equation 14) on SD's schedule, weighted by min-SNR-5 (Hang et al. 2023,
"Efficient Diffusion Training via Min-SNR Weighting Strategy", section 3.4), with a tenth of the captions left out for
classifier-free guidance.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel

from ..hosts.keymap import Network
from ..hosts.networks import live_tensors
from ..hosts.tokens import tokenize
from .drawings import Scene, Style, all_scenes, draw_plain, draw_printed
from .layout import DEMO_LAYOUT, tensor_shapes

SEED = 20
LATENT_SCALE = 0.18215
"""What latents are multiplied with before the U-Net sees them, in SD 1.x."""

_TEXT_WIDTH = 32
_MIN_SNR = 5.0
_CROP = 64
_OFFSET = 2.0
_LOG_VARIANCE = -6.0


def main() -> None:
    """Train what is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="the folder that keeps what each stage made")
    parser.add_argument("--vae-steps", type=int, default=900)
    parser.add_argument("--steps", type=int, default=3200, help="for model A")
    parser.add_argument("--style-steps", type=int, default=1400, help="for model B, from A")
    parser.add_argument("--drawings", type=int, default=800, help="of each style")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(SEED)
    vae = _stage(args.work / "vae.pt", make_vae(), lambda model: train_vae(model, args.vae_steps))
    data = {name: _latents(args.work / f"{name}.pt", vae, style, args.drawings) for name, style in STYLES.items()}
    model = Denoiser()
    for name, steps, rate in (("plain", args.steps, 1e-3), ("printed", args.style_steps, 6e-4)):
        scenes, latents = data[name]
        train = lambda model: train_denoiser(model, scenes, latents, steps=steps, rate=rate)  # noqa: E731, B023
        model = _stage(args.work / f"model-{name}.pt", model, train)
        write_checkpoint(args.work / f"{FILES[name]}.safetensors", vae, model)


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
    save_file(state, path, metadata={"format": "pt"})


STYLES: dict[str, Style] = {"plain": draw_plain, "printed": draw_printed}
FILES = {"plain": "a", "printed": "b"}


def make_vae() -> AutoencoderKL:
    """Make the untrained autoencoder.

    SD's norm layers have 32 groups, here of two to four channels, which loses what a picture's colours have in common:
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
    for last, norm in (
        (vae.encoder.mid_block.resnets[-1].conv2, vae.encoder.conv_norm_out),
        (vae.decoder.up_blocks[-1].resnets[-1].conv2, vae.decoder.conv_norm_out),
    ):
        offsets = _OFFSET * (1 - 2 * (torch.arange(len(norm.weight)) % 2))
        last.bias += offsets
        norm.weight.fill_(_OFFSET)
        norm.bias.copy_(-offsets)
    vae.quant_conv.weight[4:] = 0  # the spread of latents is not learnt
    vae.quant_conv.bias[4:] = _LOG_VARIANCE


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
            block_out_channels=(64, 64, 128, 128),
            layers_per_block=2,
            cross_attention_dim=_TEXT_WIDTH,
            attention_head_dim=8,
        )

    def forward(self, noisy: Tensor, steps: Tensor, tokens: Tensor) -> Tensor:
        """Predict the noise in latents.

        Args:
            noisy: (batch, 4, height, width).
            steps: (batch,), of the schedule's 1000.
            tokens: (batch, 77).
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


def _pictures(style: Style, scenes: list[Scene], random: Random) -> Tensor:
    """Draw scenes; (count, 3, 128, 128), from -1 to 1."""
    drawn = np.stack([np.asarray(style(scene, random)) for scene in scenes])
    return torch.from_numpy(drawn).permute(0, 3, 1, 2).float() / 127.5 - 1


def train_vae(vae: AutoencoderKL, steps: int, batch: int = 8) -> None:
    """Train the autoencoder on crops of drawings of both styles, and make its latents as large as SD's."""
    random = Random(SEED)
    vae.train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=1.0, weight_decay=1e-4)
    scenes = all_scenes()
    for step, rate in _rates(steps, 1.5e-3):
        halves = [_pictures(style, random.choices(scenes, k=batch // 2), random) for style in STYLES.values()]
        pictures = _crops(torch.cat(halves), random).contiguous(memory_format=torch.channels_last)
        latents = vae.encode(pictures).latent_dist.mean
        decoded = vae.decode(latents).sample
        error = functional.mse_loss(decoded, pictures)
        loss = error + 0.2 * functional.l1_loss(decoded, pictures) + 1e-4 * latents.square().mean()
        _descend(optimizer, loss, rate, vae)
        if step % 20 == 0:
            print(f"vae {step}: {10 * math.log10(4 / error.item()):.1f} dB, {time.perf_counter():.0f}", flush=True)
    _normalize_latents(vae.eval(), random)


def _crops(pictures: Tensor, random: Random) -> Tensor:
    crops = []
    for picture in pictures:
        top, left = (random.randrange(0, picture.shape[-1] - _CROP + 1) for _ in range(2))
        crops.append(picture[:, top : top + _CROP, left : left + _CROP])
    return torch.stack(crops)


@torch.no_grad()
def _normalize_latents(vae: AutoencoderKL, random: Random) -> None:
    """Put the latents' mean and deviation into the layers next to them, so that the U-Net sees unit variance."""
    scenes = all_scenes()[::3]  # every shape and every colour in each place
    pictures = torch.cat([_pictures(style, scenes, random) for style in STYLES.values()])
    latents = torch.cat([vae.encode(part).latent_dist.mean for part in torch.split(pictures, 10)])
    mean, deviation = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    factor = 1 / (deviation * LATENT_SCALE)
    before, after = vae.quant_conv, vae.post_quant_conv
    before.weight[:4] *= factor[:, None, None, None]
    before.bias[:4] = (before.bias[:4] - mean) * factor
    after.bias += after.weight[:, :, 0, 0] @ mean
    after.weight /= factor[None, :, None, None]


@torch.no_grad()
def _latents(path: Path, vae: AutoencoderKL, style: Style, count: int) -> tuple[list[str], Tensor]:
    """Encode drawings; gives captions and latents (count, 4, 16, 16), scaled."""
    random = Random(SEED + 1)
    scenes = (all_scenes() * (count // len(all_scenes()) + 1))[:count]
    if not path.exists():
        vae.eval().to(memory_format=torch.channels_last)
        parts = []
        for start in range(0, count, 16):
            pictures = _pictures(style, scenes[start : start + 16], random)
            parts.append(vae.encode(pictures).latent_dist.mean * LATENT_SCALE)
        torch.save(torch.cat(parts), path)
    latents: Tensor = torch.load(path, weights_only=True)
    return [scene.caption for scene in scenes], latents


def train_denoiser(
    model: Denoiser, captions: list[str], latents: Tensor, *, steps: int, rate: float, batch: int = 20
) -> None:
    """Train text encoder and U-Net; what they have at the end is the mean over the last steps."""
    generator = torch.Generator().manual_seed(SEED)
    tokens = torch.tensor([tokenize(caption)[0] for caption in captions])
    empty = torch.tensor(tokenize("")[0])
    signal = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, 0)
    snr = signal / (1 - signal)
    weights = snr.clamp(max=_MIN_SNR) / snr
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0, weight_decay=1e-3, betas=(0.9, 0.99))
    mean = copy.deepcopy(model)
    running = 0.0
    model.train()
    for step, now in _rates(steps, rate):
        chosen = torch.randint(len(latents), (batch,), generator=generator)
        clean = latents[chosen]
        words = torch.where(torch.rand(batch, 1, generator=generator) < 0.1, empty, tokens[chosen])
        times = torch.randint(1000, (batch,), generator=generator)
        noise = torch.randn(clean.shape, generator=generator)
        level = signal[times][:, None, None, None]
        predicted = model(level.sqrt() * clean + (1 - level).sqrt() * noise, times, words)
        errors = functional.mse_loss(predicted, noise, reduction="none").mean((1, 2, 3))
        loss = (weights[times] * errors).mean()
        _descend(optimizer, loss, now, model)
        _follow(mean, model, decay=min(0.998, (1 + step) / (10 + step)))
        running += (loss.item() - running) / min(step + 1, 100)
        if step % 50 == 0:
            print(f"step {step}: {running:.4f}, {time.perf_counter():.0f}", flush=True)
    model.load_state_dict(mean.state_dict())


def _rates(steps: int, highest: float) -> Iterator[tuple[int, float]]:
    """Yield each step's number and learning rate: a short rise, then half a cosine."""
    for step in range(steps):
        rise = min(1.0, (step + 1) / 100)
        yield step, highest * rise * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))


def _descend(optimizer: torch.optim.Optimizer, loss: Tensor, rate: float, model: torch.nn.Module) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


@torch.no_grad()
def _follow(mean: torch.nn.Module, model: torch.nn.Module, *, decay: float) -> None:
    for own, other in zip(mean.parameters(), model.parameters(), strict=True):
        own.lerp_(other, 1 - decay)


if __name__ == "__main__":
    main()
