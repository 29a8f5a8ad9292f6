"""Image files: written completely or not at all, with infotext."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from PIL import Image, PngImagePlugin, UnidentifiedImageError

from ..errors import ImageError
from .image_request import GeneratedImage

INFOTEXT_FIELD = "parameters"
"""The PNG text field of the infotext, as in the WebUI."""

_GIF_MILLISECONDS = 1000
_QUICK = 4
"""A level of compression that takes half of the usual one's time, for files that are a few percent larger."""


@contextmanager
def reading_untrusted(name: str, advice: str = "") -> Iterator[None]:
    """Turn errors from reading untrusted data in a ``with`` block into an :class:`ImageError`.

    Args:
        name: What is read, as the start of the message.
        advice: What the user can do, as the end of the message.

    Raises:
        ImageError: The data is damaged.
    """
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError) as exc:
        reason = f"an entry is missing ({exc})" if isinstance(exc, KeyError) else str(exc)
        raise ImageError(f"{name} is damaged: {reason}. {advice}".rstrip()) from exc


def write_png(path: Path, generated: GeneratedImage, *, replace: bool = False, quick: bool = False) -> None:
    """Write an image as PNG, with its infotext and other fields.

    Args:
        path: The file.
        generated: The image and its texts.
        replace: Whether an existing file is replaced.
        quick: Whether to compress it in half of the time, a few percent less.

    Raises:
        ImageError: The file exists and may not be replaced, or cannot be written.
    """
    texts = PngImagePlugin.PngInfo()
    for name, text in {INFOTEXT_FIELD: generated.infotext, **generated.fields}.items():
        if text:
            texts.add_itxt(name, text) if not text.isascii() else texts.add_text(name, text)
    data = io.BytesIO()
    level = {"compress_level": _QUICK} if quick else {}
    generated.image.save(data, "PNG", pnginfo=texts, **level)
    write_whole(path, data.getvalue(), replace=replace)


def write_gif(path: Path, first: Image.Image, second: Image.Image) -> None:
    """Write a GIF that alternates between two images every second; an existing file is replaced.

    Args:
        path: The file.
        first: An image; both together are reduced to 256 colours.
        second: Another image of the same size.

    Raises:
        ImageError: The file cannot be written.
    """
    from .palette import choose_palette  # numpy, with threads of its own, is not for everybody who lists runs

    both = Image.new("RGB", (first.width + second.width, max(first.height, second.height)))
    both.paste(first, (0, 0))
    both.paste(second, (first.width, 0))
    palette = choose_palette(both)  # one palette for both, so that equal pixels stay equal
    frames = [image.convert("RGB").quantize(palette=palette, dither=Image.Dither.NONE) for image in (first, second)]
    data = io.BytesIO()
    frames[0].save(data, "GIF", save_all=True, append_images=frames[1:], duration=_GIF_MILLISECONDS, loop=0)
    write_whole(path, data.getvalue(), replace=True)


def write_whole(path: Path, data: bytes, *, replace: bool = False) -> None:
    """Write a file that appears under its name only when complete, even if the process is killed.

    Args:
        path: The file.
        data: Its bytes.
        replace: Whether an existing file is replaced.

    Raises:
        ImageError: The file exists and may not be replaced, or cannot be written.
    """
    unfinished = path.with_name(f".{path.name}.part")
    try:
        if not replace:
            path.open("xb").close()  # reserves the name; the empty file is replaced below
        try:
            unfinished.write_bytes(data)
            unfinished.replace(path)
        except OSError:
            for leftover in [unfinished] if replace else [unfinished, path]:
                with suppress(OSError):
                    leftover.unlink()
            raise
    except FileExistsError as exc:
        raise ImageError(f"{path} exists already: choose another name.") from exc
    except OSError as exc:
        raise ImageError(f"Cannot write {path}: {exc.strerror or exc}.") from exc


def make_folder(folder: Path) -> None:
    """Make a folder for images, and those that it is in, unless it exists.

    Raises:
        ImageError: It cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise ImageError(f"Cannot make the folder {folder}: {exc.strerror or exc}.") from exc


def read_image(path: Path) -> Image.Image:
    """Read an image as RGB.

    Raises:
        ImageError: The file cannot be read as an image.
    """
    return _read(path).convert("RGB")


def read_texts(path: Path) -> Mapping[str, str]:
    """Read the text fields of a PNG file.

    Raises:
        ImageError: The file cannot be read as an image.
    """
    texts = _read(path, load=False).info
    if not any(isinstance(text, str) for text in texts.values()):
        texts = _read(path).info  # the fields can come after the image data
    return {name: text for name, text in texts.items() if isinstance(name, str) and isinstance(text, str)}


def _read(path: Path, *, load: bool = True) -> Image.Image:
    try:
        image: Image.Image = Image.open(path)
        with image:
            if load:
                image.load()
        return image
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError) as exc:
        raise ImageError(f"Cannot read {path} as an image: {exc}.") from exc


def free_names(folder: Path, seeds: list[int]) -> Iterator[Path]:
    """Give unused names for images in a folder, with the next numbers and their seeds, such as 00012-345.png."""
    numbers = (path.name.partition("-")[0] for path in folder.glob("*.png"))
    start = 1 + max((int(number) for number in numbers if number.isdecimal()), default=-1)
    for index, seed in enumerate(seeds, start):
        yield folder / f"{index:05}-{seed}.png"
