"""Prompts as CLIP's tokens."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from ...errors import HostError

if TYPE_CHECKING:
    from instant_clip_tokenizer import Tokenizer

CONTEXT = 77
"""Tokens that a text encoder reads at once: start, 75 of a text, end."""

START, END = 49406, 49407
"""The last two of CLIP's 49408 tokens; source: clip/simple_tokenizer.py of github.com/openai/CLIP."""


def tokenize(text: str, *, pad: int = END) -> list[list[int]]:
    """Give the tokens of a text, in as many rows of 77 as it takes, at least one.

    Args:
        text: Of any length.
        pad: What fills the last row: the end token for CLIP, 0 for OpenCLIP.

    Returns:
        Rows of 77 numbers from 0 to 49407.

    Raises:
        HostError: The package that has CLIP's vocabulary is missing.
    """
    words = _tokenizer().encode(text)
    room = CONTEXT - 2
    rows = [words[start : start + room] for start in range(0, max(1, len(words)), room)]
    return [[START, *row, END, *[pad] * (room - len(row))] for row in rows]


@cache
def _tokenizer() -> Tokenizer:
    try:
        from instant_clip_tokenizer import Tokenizer
    except ImportError as exc:
        raise HostError("Pictures need CLIP's vocabulary: pip install instant-clip-tokenizer") from exc
    return Tokenizer()
