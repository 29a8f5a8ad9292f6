"""Names of tensors in text encoders: those of checkpoints -> those of transformers' ``CLIPTextModel``.

The names are facts of the two layouts, the original one (CLIP or OpenCLIP) and that of transformers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

_Renames = Sequence[tuple[str, str]]

TEXT_ENCODERS = {
    "cond_stage_model.transformer.text_model.": ("clip_l", False),
    "cond_stage_model.model.": ("clip_h", True),
    "conditioner.embedders.0.transformer.text_model.": ("clip_l", False),
    "conditioner.embedders.1.model.": ("clip_g", True),
}
"""Prefixes of text encoders in checkpoints: which encoder it is, and whether the keys are in OpenCLIP's layout."""

_OPEN_CLIP: _Renames = (
    ("token_embedding.", "embeddings.token_embedding."),
    ("positional_embedding", "embeddings.position_embedding.weight"),
    ("ln_final.", "final_layer_norm."),
)
_OPEN_CLIP_LAYER: _Renames = (
    ("ln_1.", "layer_norm1."),
    ("ln_2.", "layer_norm2."),
    ("attn.out_proj.", "self_attn.out_proj."),
    ("mlp.c_fc.", "mlp.fc1."),
    ("mlp.c_proj.", "mlp.fc2."),
)


class TextName(NamedTuple):
    """Where the numbers of a checkpoint tensor are in a text encoder of transformers.

    Attributes:
        parameters: The parameters that hold the numbers, one after the other, without the ``text_model.`` that some
            versions of transformers prepend.
        transposed: Whether the parameter holds the tensor's transpose.
    """

    parameters: tuple[str, ...]
    transposed: bool = False


def text_name(rest: str, *, open_clip: bool) -> TextName | None:
    """Tell where a tensor of a text encoder is; None if transformers does not have it.

    Args:
        rest: Its key without what names the encoder.
        open_clip: Whether the key is in the layout of OpenCLIP.
    """
    if open_clip:
        return _open_clip_name(rest)
    # transformers computes the positions.
    return None if rest == "embeddings.position_ids" else TextName((rest,))


def renamed(name: str, renames: Iterable[tuple[str, str]]) -> str | None:
    """Replace the beginning of a name by the first rename that fits; None if none does."""
    return next((new + name[len(old) :] for old, new in renames if name.startswith(old)), None)


def _open_clip_name(rest: str) -> TextName | None:
    if rest == "text_projection":
        return TextName(("text_projection.weight",), transposed=True)
    if layer := re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+)", rest):
        place, inner = f"encoder.layers.{layer[1]}", layer[2]
        if inner.startswith("attn.in_proj_"):
            kind = inner.removeprefix("attn.in_proj_")
            return TextName(tuple(f"{place}.self_attn.{letter}_proj.{kind}" for letter in "qkv"))
        name = renamed(inner, _OPEN_CLIP_LAYER)
        return None if name is None else TextName((f"{place}.{name}",))
    name = renamed(rest, _OPEN_CLIP)
    return None if name is None else TextName((name,))
