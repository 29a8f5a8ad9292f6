"""Small images of the history's entries: made when an entry is, since what it shows may be deleted later."""

from __future__ import annotations

import io
from contextlib import suppress
from pathlib import Path

from PIL import Image

from ..errors import ImageError
from ..images.files import make_folder, read_image, write_whole
from .history import MOST, History

_SIZE = (192, 128)  # twice what is shown
_SPARE = 100


def keep_thumbnail(history: History, number: int, image: Path) -> None:
    """Keep a small copy of an image for an entry; one that cannot be read is left out.

    Args:
        history: Of the entry.
        number: Of the entry.
        image: The image.
    """
    with suppress(ImageError):
        small = read_image(image)
        small.thumbnail(_SIZE, Image.Resampling.LANCZOS, reducing_gap=2.0)
        data = io.BytesIO()
        small.save(data, "JPEG", quality=80)
        make_folder(history.thumbnails)
        write_whole(history.thumbnail_of(number), data.getvalue(), replace=True)
        _clean(history)


def read_thumbnail(history: History, number: int) -> bytes:
    """Give the small image of an entry as JPEG; nothing if there is none."""
    try:
        return history.thumbnail_of(number).read_bytes()
    except OSError:
        return b""


def _clean(history: History) -> None:
    """Delete small images of entries that are gone, when they are many."""
    files = list(history.thumbnails.glob("*.jpg"))
    if len(files) <= MOST + _SPARE:
        return
    numbers = {str(entry.number) for entry in history.entries()}
    for file in files:
        if file.stem not in numbers:
            with suppress(OSError):
                file.unlink()
