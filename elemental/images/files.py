"""Image files: whole or not at all, with texts that tell how they were made."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from PIL import Image, PngImagePlugin, UnidentifiedImageError

from ..errors import ImageError
from .request import GeneratedImage

INFOTEXT_FIELD = "parameters"
"""The PNG text in which the WebUI keeps the infotext."""

_GIF_MILLISECONDS = 1000


@contextmanager
def reading_untrusted(what: str, advice: str = "") -> Iterator[None]:
    """Read plain data, of which anything may be missing or of another kind.

    Args:
        what: What is read, for the message.
        advice: What to do then.

    Raises:
        ImageError: It is damaged.
    """
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError) as exc:
        reason = f"an entry is missing ({exc})" if isinstance(exc, KeyError) else str(exc)
        raise ImageError(f"{what} is damaged: {reason}. {advice}".rstrip()) from exc


def write_png(path: Path, generated: GeneratedImage, *, replace: bool = False) -> None:
    """Write an image with its infotext and its other fields.

    Args:
        path: The file.
        generated: What goes into it.
        replace: Whether an existing file is replaced.

    Raises:
        ImageError: The file exists and is not to be replaced, or cannot be written.
    """
    texts = PngImagePlugin.PngInfo()
    for name, text in {INFOTEXT_FIELD: generated.infotext, **generated.fields}.items():
        if text:
            texts.add_itxt(name, text) if not text.isascii() else texts.add_text(name, text)
    data = io.BytesIO()
    generated.image.save(data, "PNG", pnginfo=texts)
    write_whole(path, data.getvalue(), replace=replace)


def write_gif(path: Path, first: Image.Image, second: Image.Image) -> None:
    """Write two images that take turns, a second each, for ever; an existing file is replaced.

    Args:
        path: The file.
        first: An image; colours are reduced to 256 for both together.
        second: Another of the same size.

    Raises:
        ImageError: It cannot be written.
    """
    both = Image.new("RGB", (first.width + second.width, max(first.height, second.height)))
    both.paste(first, (0, 0))
    both.paste(second, (first.width, 0))
    palette = both.quantize(method=Image.Quantize.MEDIANCUT)  # of both, so that what is equal stays equal
    frames = [image.convert("RGB").quantize(palette=palette, dither=Image.Dither.NONE) for image in (first, second)]
    data = io.BytesIO()
    frames[0].save(data, "GIF", save_all=True, append_images=frames[1:], duration=_GIF_MILLISECONDS, loop=0)
    write_whole(path, data.getvalue(), replace=True)


def write_whole(path: Path, data: bytes, *, replace: bool = False) -> None:
    """Write a file that appears under its name when it is whole, even if the process is killed meanwhile.

    Args:
        path: The file.
        data: Its bytes.
        replace: Whether an existing file is replaced.

    Raises:
        ImageError: The file exists and is not to be replaced, or cannot be written.
    """
    unfinished = path.with_name(f".{path.name}.part")
    try:
        if not replace:
            path.open("xb").close()  # the name is now this one's, and replaced below
        try:
            unfinished.write_bytes(data)
            unfinished.replace(path)
        except OSError:
            for leftover in [unfinished] if replace else [unfinished, path]:
                with suppress(OSError):
                    leftover.unlink()
            raise
    except FileExistsError as exc:
        raise ImageError(f"{path} exists already.") from exc
    except OSError as exc:
        raise ImageError(f"Cannot write {path}: {exc.strerror or exc}.") from exc


def read_image(path: Path) -> Image.Image:
    """Read an image as RGB.

    Raises:
        ImageError: It cannot be read as an image.
    """
    return _read(path).convert("RGB")


def read_texts(path: Path) -> Mapping[str, str]:
    """Read the text fields of a PNG file.

    Raises:
        ImageError: It cannot be read as an image.
    """
    texts = _read(path, whole=False).info
    if not any(isinstance(text, str) for text in texts.values()):
        texts = _read(path).info  # they may stand behind the image
    return {name: text for name, text in texts.items() if isinstance(name, str) and isinstance(text, str)}


def _read(path: Path, *, whole: bool = True) -> Image.Image:
    try:
        image: Image.Image = Image.open(path)
        with image:
            if whole:
                image.load()
        return image
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError) as exc:
        raise ImageError(f"Cannot read {path} as an image: {exc}.") from exc


def free_names(folder: Path, seeds: list[int]) -> Iterator[Path]:
    """Give names for new images in a folder, numbered on from what is there, each with its seed: 00012-345.png."""
    numbers = (path.name.partition("-")[0] for path in folder.glob("*.png"))
    start = 1 + max((int(number) for number in numbers if number.isdecimal()), default=-1)
    for index, seed in enumerate(seeds, start):
        yield folder / f"{index:05}-{seed}.png"
