"""Whose ratio a rule sets, where it is not alpha and beta of the mode: the target, a rule's first word."""

from __future__ import annotations

import re
import unicodedata

from .lookalikes import plain_text

LORA = "lora."
"""What the target begins with that stands for the ratio of a LoRA; the LoRA's name follows."""

_MORE = re.compile("[bB][2-9]")
"""The target that stands for the ratio of a further model, as its role is called."""

_SEPARATING = re.compile(r"[\s:,#]")


def read_target(word: str) -> str:
    """Give the spelling that all writings of a target share; empty if a word is no target.

    Whether a recipe has what is named is another question: see :func:`.target_checks.targets_of`.
    """
    if word[: len(LORA)].lower() == LORA and len(word) > len(LORA):
        return lora_target(word[len(LORA) :])
    return word.upper() if is_further(word) else ""


def is_further(target: str) -> bool:
    """Tell whether a target stands for the ratio of a further model."""
    return _MORE.fullmatch(target) is not None


def lora_target(name: str) -> str:
    """Give the target that stands for the ratio of a LoRA.

    Args:
        name: The name of its file, without folders and ending. What separates words, fields or rules is "_" in a
            target, and capitals are small letters.
    """
    return LORA + unicodedata.normalize("NFC", _SEPARATING.sub("_", plain_text(name)).casefold())


def split_target(blocks: str) -> tuple[str, str]:
    """Split the block side of a rule into its target, empty if it has none, and the rest."""
    first, *rest = blocks.split(maxsplit=1) or [""]
    target = read_target(first)
    return (target, "".join(rest)) if target else ("", blocks)
