"""Text in images: wrapped and scaled so that all of it fits, in a font that has its characters."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
"""Red, green and blue, each from 0 to 255."""

SMALLEST = 9
"""The smallest size of letters, in pixels; a text that does not fit then takes more lines."""

MOST_LETTERS, MOST_LINES = 20_000, 1_000
"""Of one text that is drawn: nobody reads more in an image, which would be larger than any program can show."""

_OWN_FONT = Path(__file__).with_name("fonts") / "DejaVuSans.ttf"
_CJK = "\u3000-\u9fff\uac00-\ud7af\uff01-\uff60"
_OTHER_FONTS = (
    "NotoSansCJK-Regular.ttc",
    "NotoSansCJKjp-Regular.otf",
    "NotoSansJP-Regular.otf",
    "YuGothM.ttc",
    "meiryo.ttc",
    "msgothic.ttc",
    "msyh.ttc",
    "malgun.ttf",
    "Hiragino Sans GB.ttc",
    "PingFang.ttc",
    "AppleSDGothicNeo.ttc",
    "DroidSansFallbackFull.ttf",
    "wqy-zenhei.ttc",
    "ipag.ttf",
    "arialuni.ttf",
)
"""Fonts of the usual systems for writings that the own font lacks, Chinese, Japanese and Korean above all."""


@dataclass(frozen=True)
class FittedText:
    """Lines of a text, ready to be drawn.

    Attributes:
        lines: As they are broken.
        size: Of the letters, in pixels.
        font: What they are drawn with.
    """

    lines: tuple[str, ...]
    size: int
    font: ImageFont.FreeTypeFont

    @property
    def line_height(self) -> int:
        """From one line to the next, in pixels."""
        return line_height(self.size)

    @property
    def height(self) -> int:
        """Of all lines, in pixels."""
        return len(self.lines) * self.line_height

    @property
    def width(self) -> int:
        """Of the longest line, in pixels, rounded up."""
        return max((int(self.font.getlength(line)) + 1 for line in self.lines), default=0)

    def draw(
        self, draw: ImageDraw.ImageDraw, left: int, top: int, *, colour: Colour, centred_in: int | None = None
    ) -> None:
        """Draw the lines below each other.

        Args:
            draw: The image to draw on.
            left: Where the lines start, in pixels.
            top: Where the first one does, in pixels.
            colour: Of the letters.
            centred_in: A width in pixels in which each line is centred.
        """
        for index, line in enumerate(self.lines):
            shift = 0 if centred_in is None else max(0, (centred_in - int(self.font.getlength(line))) // 2)
            draw.text((left + shift, top + index * self.line_height), line, fill=colour, font=self.font)


def line_height(size: int) -> int:
    """Give the distance from one line to the next, in pixels, for letters of a size."""
    return round(size * 1.25)


def fit_text(text: str, *, width: int, size: int, most_lines: int | None = None) -> FittedText:
    """Break a text into lines of a width, in smaller letters where it would take too many; nothing is cut off.

    Args:
        text: Its line ends are kept; beyond :data:`MOST_LETTERS` or :data:`MOST_LINES` the end is left out.
        width: In pixels.
        size: Of the letters, in pixels, if all fits so.
        most_lines: If it takes more, the letters are made smaller, down to :data:`SMALLEST`.
    """
    text = _readable(text)
    for least, cut in ((max(SMALLEST, round(size * 0.7)), _words), (SMALLEST, _parts)):
        for letters in _sizes(size, least):
            font = find_font(text, letters)
            lines = tuple(_wrap(text, width, font))
            whole = all(font.getlength(piece.rstrip()) <= width for piece in cut(text))
            if whole and (most_lines is None or len(lines) <= most_lines):
                return FittedText(lines, letters, font)
    return FittedText(lines, letters, font)


def _readable(text: str) -> str:
    if len(text) <= MOST_LETTERS and text.count("\n") < MOST_LINES:
        return text
    return "\n".join(text.splitlines()[:MOST_LINES])[:MOST_LETTERS] + " ..."


def _sizes(largest: int, least: int) -> Iterator[int]:
    size = largest
    while size > least:
        yield size
        size = max(least, min(size - 1, round(size * 0.93)))
    yield min(largest, least)


def find_font(text: str, size: int) -> ImageFont.FreeTypeFont:
    """Find a font that has all characters of a text: the own one, or one of the system's."""
    foreign = "".join(sorted({char for char in text if ord(char) > 0x2FF and not char.isspace()}))
    return ImageFont.truetype(_covering(foreign), size)


@cache
def _covering(characters: str) -> str:
    own = str(_OWN_FONT)
    for name in (own, *_OTHER_FONTS):
        try:
            font = ImageFont.truetype(name, 16)
        except OSError:
            continue
        absent = bytes(font.getmask("\U0010ffff"))
        if all(bytes(font.getmask(char)) != absent for char in characters):
            return name
    return own


def _wrap(text: str, width: int, font: ImageFont.FreeTypeFont) -> Iterator[str]:
    for paragraph in text.splitlines():
        line = ""
        for piece in _pieces(paragraph, width, font):
            if line and font.getlength((line + piece).rstrip()) > width:
                yield line.rstrip()
                line = piece.lstrip()
            else:
                line += piece
        yield line.rstrip()


def _pieces(paragraph: str, width: int, font: ImageFont.FreeTypeFont) -> Iterator[str]:
    """Cut a paragraph where a line may end: after spaces and commas, in long words after other marks, or anywhere."""
    for word in _words(paragraph):
        for part in [word] if font.getlength(word.rstrip()) <= width else _parts(word):
            yield from [part] if font.getlength(part.rstrip()) <= width else part


def _words(text: str) -> list[str]:
    """Cut after spaces and commas, and around each Chinese, Japanese or Korean character."""
    return re.findall(rf"[{_CJK}]|[^\s,{_CJK}]*[,\s]+|[^\s,{_CJK}]+", text)


def _parts(text: str) -> list[str]:
    """Cut after all kinds of marks."""
    return [part for word in _words(text) for part in re.findall(r"[^.:;/\\_-]*[.:;/\\_-]|[^.:;/\\_-]+", word)]


def text_box(text: str, size: tuple[int, int], *, paper: Colour, ink: Colour) -> Image.Image:
    """Draw a text in the middle of a box, as large as it goes; of one that is longer than the box the end is left out.

    Args:
        text: What to say.
        size: Of the box: width and height in pixels.
        paper: Colour of the box.
        ink: Colour of the letters.
    """
    box = Image.new("RGB", size, paper)
    margin = max(2, size[0] // 16)
    width, height = size[0] - 2 * margin, size[1] - 2 * margin
    letters = max(SMALLEST, size[0] // 12)
    fitted = fit_text(text, width=width, size=letters)
    while fitted.height > height and letters > SMALLEST:
        letters -= 1
        fitted = fit_text(text, width=width, size=letters)
    room = max(1, height // fitted.line_height)
    if len(fitted.lines) > room:
        fitted = FittedText((*fitted.lines[: room - 1], "..."), fitted.size, fitted.font)
    top = margin + max(0, (height - fitted.height) // 2)
    fitted.draw(ImageDraw.Draw(box), margin, top, colour=ink, centred_in=width)
    return box
