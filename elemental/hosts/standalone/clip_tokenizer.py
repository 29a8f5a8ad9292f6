"""Prompts as tokens of CLIP."""

from __future__ import annotations

import gzip
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import HostError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

CONTEXT = 77
"""Tokens that a text encoder reads at once: start, 75 of a text, end."""

START, END = 49406, 49407
"""The last two of CLIP's 49408 tokens; source: clip/simple_tokenizer.py of github.com/openai/CLIP."""

_MERGES = Path(__file__).with_name("clip_bpe_merges.txt.gz")
_SPECIAL = ("<|startoftext|>", "<|endoftext|>")
_WORD_END = "</w>"
# Pieces to split into tokens: English contractions, words, digits, runs of other characters; source: as above.
_PIECES = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"


def tokenize(text: str, *, pad: int = END) -> list[list[int]]:
    """Give the tokens of a text in rows of 77, at least one row.

    The numbers are those of transformers' CLIPTokenizer.

    Args:
        text: The text, of any length.
        pad: What fills the last row: the end token for CLIP, 0 for OpenCLIP.

    Returns:
        Rows of 77 token numbers from 0 to 49407.

    Raises:
        HostError: The package tokenizers is missing.
    """
    words = _tokenizer().encode(text, add_special_tokens=False).ids
    room = CONTEXT - 2
    rows = [words[start : start + room] for start in range(0, max(1, len(words)), room)]
    return [[START, *row, END, *[pad] * (room - len(row))] for row in rows]


@cache
def _tokenizer() -> Tokenizer:
    try:
        return _build()
    except ImportError as exc:
        message = 'Images need one more package, tokenizers: pip install "sd-webui-elemental[standalone]"'
        raise HostError(message) from exc


def _build() -> Tokenizer:
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
    from tokenizers.pre_tokenizers import ByteLevel, Split

    merges = _read_merges()
    # CLIP numbers the bytes in the order of the characters that represent them.
    vocabulary = _vocabulary(sorted(ByteLevel.alphabet()), merges)
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, end_of_word_suffix=_WORD_END))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    # White space is in none of the pieces, so it is dropped.
    pieces = Split(Regex(_PIECES), behavior="removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pieces, ByteLevel(add_prefix_space=False)])
    tokenizer.add_special_tokens(list(_SPECIAL))
    return tokenizer


def _read_merges() -> list[tuple[str, str]]:
    lines = gzip.decompress(_MERGES.read_bytes()).decode().splitlines()
    return [(left, right) for left, right in (line.split(" ") for line in lines)]


def _vocabulary(letters: list[str], merges: list[tuple[str, str]]) -> dict[str, int]:
    """Number the tokens: bytes, bytes that end a word, the result of each merge, start and end."""
    ends = [letter + _WORD_END for letter in letters]
    tokens = [*letters, *ends, *(left + right for left, right in merges), *_SPECIAL]
    return {token: number for number, token in enumerate(tokens)}
