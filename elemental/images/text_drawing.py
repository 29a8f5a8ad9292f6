"""Draw text in images: wrapped and scaled to fit, in a font that has its characters."""

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
"""The smallest size of letters in pixels; longer texts take more lines."""

MOST_LETTERS, MOST_LINES = 20_000, 1_000
"""The most letters and lines of one text, so that images stay small enough for other programs."""

_BUNDLED_FONT = Path(__file__).with_name("fonts") / "DejaVuSans.ttf"
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
"""Fonts of common systems for characters that the bundled font lacks, such as Chinese, Japanese and Korean."""


@dataclass(frozen=True)
class FittedText:
    """A text broken into lines, ready to be drawn.

    Attributes:
        lines: The lines.
        size: The size of the letters in pixels.
        font: The font.
    """

    lines: tuple[str, ...]
    size: int
    font: ImageFont.FreeTypeFont

    @property
    def line_height(self) -> int:
        """The distance from one line to the next in pixels."""
        return line_height(self.size)

    @property
    def height(self) -> int:
        """The height of all lines in pixels."""
        return len(self.lines) * self.line_height

    @property
    def width(self) -> int:
        """The width of the longest line in pixels, rounded up."""
        return max((int(self.font.getlength(line)) + 1 for line in self.lines), default=0)

    def draw(
        self, draw: ImageDraw.ImageDraw, left: int, top: int, *, colour: Colour, centred_in: int | None = None
    ) -> None:
        """Draw the lines below each other.

        Args:
            draw: The image to draw on.
            left: The left edge of the lines in pixels.
            top: The top of the first line in pixels.
            colour: The colour of the letters.
            centred_in: The width in pixels to centre each line in; None to align left.
        """
        for index, line in enumerate(self.lines):
            shift = 0 if centred_in is None else max(0, (centred_in - int(self.font.getlength(line))) // 2)
            draw.text((left + shift, top + index * self.line_height), line, fill=colour, font=self.font)


def line_height(size: int) -> int:
    """Give the distance from one line to the next, in pixels, for letters of a size."""
    return round(size * 1.25)


def fit_text(text: str, *, width: int, size: int, most_lines: int | None = None) -> FittedText:
    """Break a text into lines of a width, with smaller letters if it would take too many lines.

    Args:
        text: The text; line ends are kept, and what exceeds :data:`MOST_LETTERS` or :data:`MOST_LINES` is cut off.
        width: The width in pixels.
        size: The largest size of the letters in pixels.
        most_lines: If the text takes more lines, letters are made smaller, down to :data:`SMALLEST`.
    """
    text = _cut_off(text)
    for least, cut in ((max(SMALLEST, round(size * 0.7)), _words), (SMALLEST, _parts)):
        for letters in _sizes(size, least):
            font = find_font(text, letters)
            lines = tuple(_wrap(text, width, font))
            whole = all(font.getlength(piece.rstrip()) <= width for piece in cut(text))
            if whole and (most_lines is None or len(lines) <= most_lines):
                return FittedText(lines, letters, font)
    return FittedText(lines, letters, font)


def _cut_off(text: str) -> str:
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
    """Find a font with all characters of a text: the bundled font, or one of the system's."""
    foreign = "".join(sorted({char for char in text if ord(char) > 0x2FF and not char.isspace()}))
    return ImageFont.truetype(_font_with(foreign), size)


@cache
def _font_with(characters: str) -> str:
    bundled = str(_BUNDLED_FONT)
    for name in (bundled, *_OTHER_FONTS):
        try:
            font = ImageFont.truetype(name, 16)
        except OSError:
            continue
        missing_glyph = bytes(font.getmask("\U0010ffff"))
        if all(bytes(font.getmask(char)) != missing_glyph for char in characters):
            return name
    return bundled


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
    """Cut a paragraph where lines can end: after spaces and commas; in long words after other marks, or anywhere."""
    for word in _words(paragraph):
        for part in [word] if font.getlength(word.rstrip()) <= width else _parts(word):
            yield from [part] if font.getlength(part.rstrip()) <= width else part


def _words(text: str) -> list[str]:
    """Cut after spaces and commas, and around each Chinese, Japanese or Korean character."""
    return re.findall(rf"[{_CJK}]|[^\s,{_CJK}]*[,\s]+|[^\s,{_CJK}]+", text)


def _parts(text: str) -> list[str]:
    """Cut after punctuation too."""
    return [part for word in _words(text) for part in re.findall(r"[^.:;/\\_-]*[.:;/\\_-]|[^.:;/\\_-]+", word)]


def text_box(text: str, size: tuple[int, int], *, paper: Colour, ink: Colour) -> Image.Image:
    """Draw a text in the middle of a box, as large as possible; a text that is too long is cut off.

    Args:
        text: The text.
        size: Width and height of the box in pixels.
        paper: The colour of the box.
        ink: The colour of the letters.
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
