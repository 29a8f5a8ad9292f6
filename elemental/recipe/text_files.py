"""Reads text files that users write: specs, presets, recipes, samples."""

from __future__ import annotations

import codecs
from pathlib import Path

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins like UTF-16
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""Marks at the start of a file, by which its encoding is certain; editors on Windows write them."""
_LARGEST = 100_000_000


class EncodingError(UnicodeError):
    """A file is not text in an encoding that is certain; the message says what to do."""


def encoding_of(data: bytes) -> str:
    """Tell the encoding of a text from the mark at its start: UTF-8 if it has none."""
    return next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")


def read_at_most(path: Path, most: int) -> bytes | None:
    """Read a file of up to so many bytes; None if it is larger.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        data = file.read(most + 1)
    return data if len(data) <= most else None


def read_text(path: Path) -> str:
    """Read a text file: UTF-8, or UTF-16 and UTF-32 with the mark that tells them.

    An older encoding, such as a code page of Windows, cannot be told from another, so it is not guessed.

    Raises:
        OSError: The file cannot be read.
        EncodingError: It is in another encoding, or no text.
    """
    data = read_at_most(path, _LARGEST)
    if data is None:
        raise EncodingError("it is too large for a text file")
    encoding = encoding_of(data)
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as exc:
        line = data[: exc.start].count(b"\n") + 1
        raise EncodingError(
            f"it is not text in UTF-8 (line {line}); save it as UTF-8, which editors offer as an encoding"
        ) from exc
    if "\0" in text:
        raise EncodingError("it is no text, or UTF-16 without a mark; save it as UTF-8, which editors offer")
    return text.replace("\r\n", "\n").replace("\r", "\n")
