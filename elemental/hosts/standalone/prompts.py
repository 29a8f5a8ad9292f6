"""Prompts, encoded by the text encoders of a live model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...architectures.blocks import SD2, SDXL
from ...images.image_request import ImageRequest
from .clip_tokenizer import END, tokenize
from .key_map import Network
from .live_model import StandaloneModel

_OPEN_CLIP_PAD = 0
"""What fills a row of tokens up for OpenCLIP; for CLIP it is the end token."""


def encode_prompts(live: StandaloneModel, request: ImageRequest, device: torch.device) -> dict[str, Tensor]:
    """Encode the prompt and the negative prompt of a request.

    A long prompt is encoded in rows of 75 tokens. Both prompts get the same number of rows, the shorter one by rows
    without text.

    Returns:
        The arguments for the pipeline: ``prompt_embeds`` and ``negative_prompt_embeds`` of shape (1, rows * 77, width);
        for SDXL also ``pooled_prompt_embeds`` and ``negative_pooled_prompt_embeds`` of shape (1, width).
    """
    texts = {"prompt_embeds": request.prompt, "negative_prompt_embeds": request.negative}
    rows = max(len(tokenize(text)) for text in texts.values())
    encoded: dict[str, Tensor] = {}
    for name, text in texts.items():
        if live.architecture is not SDXL:
            encoded[name] = _encode(live, text, rows, device)
            continue
        embeds, pooled = _encode_sdxl(live, text, rows, device)
        if not request.negative and name.startswith("negative"):  # as SDXL was trained
            embeds, pooled = torch.zeros_like(embeds), torch.zeros_like(pooled)
        encoded |= {name: embeds, name.replace("prompt", "pooled_prompt"): pooled}
    return encoded


def _encode(live: StandaloneModel, text: str, rows: int, device: torch.device) -> Tensor:
    encoder: Any = live.networks[Network.TEXT]
    tokens = _tokens(text, rows, device, pad=_OPEN_CLIP_PAD if live.architecture is SD2 else END)
    return _join_rows(encoder(input_ids=tokens).last_hidden_state)


def _encode_sdxl(live: StandaloneModel, text: str, rows: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Give the last layer but one of both text encoders, and the pooled output of the second."""
    clip: Any = live.networks[Network.TEXT]
    open_clip: Any = live.networks[Network.TEXT_2]
    first = clip(input_ids=_tokens(text, rows, device, pad=END), output_hidden_states=True)
    second = open_clip(input_ids=_tokens(text, rows, device, pad=_OPEN_CLIP_PAD), output_hidden_states=True)
    both = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
    return _join_rows(both), second.text_embeds[:1]


def _tokens(text: str, rows: int, device: torch.device, *, pad: int) -> Tensor:
    tokens = tokenize(text, pad=pad)
    tokens += tokenize("", pad=pad) * (rows - len(tokens))
    return torch.tensor(tokens, device=device)


def _join_rows(embeds: Tensor) -> Tensor:
    """Join the rows of one prompt: (rows, 77, width) -> (1, rows * 77, width)."""
    return embeds.reshape(1, -1, embeds.shape[-1])
