"""Pictures as PNG files that carry how they were made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from PIL import Image, PngImagePlugin, UnidentifiedImageError

from ..errors import ImageError
from .request import GeneratedImage

INFOTEXT_FIELD = "parameters"
"""The PNG text in which the WebUI keeps the infotext."""


def write_png(path: Path, picture: GeneratedImage) -> None:
    """Write a picture with its infotext and its other fields; an existing file is never overwritten.

    Raises:
        ImageError: The file exists, or cannot be written.
    """
    texts = PngImagePlugin.PngInfo()
    for name, text in {INFOTEXT_FIELD: picture.infotext, **picture.fields}.items():
        if text:
            texts.add_itxt(name, text) if not text.isascii() else texts.add_text(name, text)
    try:
        with path.open("xb") as file:
            picture.image.save(file, "PNG", pnginfo=texts)
    except FileExistsError as exc:
        raise ImageError(f"{path} exists already.") from exc
    except OSError as exc:
        raise ImageError(f"Cannot write {path}: {exc.strerror or exc}.") from exc


def read_texts(path: Path) -> Mapping[str, str]:
    """Read the text fields of a PNG file.

    Raises:
        ImageError: It cannot be read as a picture.
    """
    try:
        with Image.open(path) as image:
            image.load()  # texts may stand behind the picture
            return {name: text for name, text in image.info.items() if isinstance(name, str) and isinstance(text, str)}
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as exc:
        raise ImageError(f"Cannot read {path} as a picture: {exc}.") from exc


def free_names(folder: Path, seeds: list[int]) -> Iterator[Path]:
    """Give names for new pictures in a folder, numbered on from what is there, each with its seed."""
    numbers = (path.name.partition("-")[0] for path in folder.glob("*.png"))
    start = 1 + max((int(number) for number in numbers if number.isdecimal()), default=-1)
    for index, seed in enumerate(seeds, start):
        yield folder / f"{index:05}-{seed}.png"
