"""A file and the numbers behind it as one text, FILE:NUMBER: how LoRAs and further models are written."""

from __future__ import annotations

import re
from typing import NamedTuple

from .spec_reader import parse_ratio

ENDINGS = r"\.(?:safetensors|sft|ckpt|pt|pth|bin)"
"""Those of files with weights."""

_NUMBER = r"\s*[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?\s*"
_FILE_AND_REST = re.compile(rf"(?P<file>.+(?:{ENDINGS}|\.json)):(?P<rest>.*)", re.IGNORECASE | re.DOTALL)


class FileText(NamedTuple):
    """What such a text says.

    Attributes:
        file: The file, as it was written.
        numbers: The numbers behind it.
        rest: What stands behind the ending of a file and is no number; None if there is nothing of the kind.
    """

    file: str
    numbers: tuple[float | None, ...] = ()
    rest: str | None = None


def read_file_text(text: str, *, most: int) -> FileText | None:
    """Read a file and numbers. Colons in the file's name are no matter: what counts are the numbers at the end.

    Args:
        text: The text.
        most: How many numbers there can be.

    Returns:
        What it says; None if there is no file.
    """
    match = re.fullmatch(rf"(?P<file>.+?)(?P<numbers>(?::{_NUMBER}){{0,{most}}})", text.strip(), re.ASCII | re.DOTALL)
    if match is None:
        return None
    numbers = tuple(parse_ratio(number.strip()) for number in match["numbers"].split(":")[1:])
    wrong = _FILE_AND_REST.fullmatch(match["file"])
    if wrong is not None:
        return FileText(wrong["file"], numbers, wrong["rest"])
    return FileText(match["file"].strip(), numbers)
