"""Characters that look like those of specs and block weights: full-width forms, dashes, and what nobody sees."""

from __future__ import annotations

_FULL_WIDTH = {code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}  # U+FF01 to U+FF5E are ! to ~
_DASHES = dict.fromkeys(map(ord, "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63"), "-")
_TILDES = dict.fromkeys(map(ord, "\u02dc\u223c\u301c"), "~")
_COMMAS = dict.fromkeys(map(ord, "\u3001\ufe50\ufe51\uff64"), ",")
_COLONS = dict.fromkeys(map(ord, "\u02d0\u2236\ua789\ufe13\ufe55"), ":")
_QUOTES = dict.fromkeys(map(ord, "\u201c\u201d\u201e\u201f\u00ab\u00bb\u2018\u2019\u201a\u201b\u300c\u300d"), '"')
_UNSEEN = dict.fromkeys(
    (0xAD, 0x180E, *range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x2070), 0xFEFF), None
)
_PLAIN = {**_FULL_WIDTH, **_DASHES, **_TILDES, **_COMMAS, **_COLONS, **_QUOTES, **_UNSEEN, 0x3002: "."}

_LATIN = dict(
    zip(
        map(ord, "АВЕЅІЈКМНОРСТУХаеіјорсухѕΑΒΕΖΗΙΚΜΝΟΡΤΥΧο"),  # noqa: RUF001 (letters of other scripts are its point)
        "ABESIJKMHOPCTYXaeijopcyxsABEZHIKMNOPTYXo",
        strict=True,
    )
)


def plain_text(text: str) -> str:
    """Replace characters that look like ASCII's by these, and leave out those that nobody sees.

    Full-width letters, digits and punctuation, dashes and the minus sign, typographic quotes; zero-width characters and
    marks of byte order or direction. Source: the Unicode charts of these blocks.
    """
    return text if text.isascii() else text.translate(_PLAIN)


def latin_text(text: str) -> str:
    """Replace Cyrillic and Greek letters that look like Latin ones by these."""
    return text.translate(_LATIN)
