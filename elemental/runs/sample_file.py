"""Samples of plots and element checks, to start from; they are read from one text file.

::

    === 1  Title of the sample
    # What it is about; any number of such lines.
    --- x elemental             a part begins: x, y or z with the type of the axis, elements, ratio, or options
    OUT05:attn2:0.5             its text, up to the next line that begins with "---" or "==="
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import ImageError
from ..recipe.text_files import read_text
from .axes.base import SIDES

_TITLE = re.compile(r"===\s*(\d+)\s+(.+)")
_PART = re.compile(r"---\s*(\w+)(?:\s+(\S.*))?")
_PARTS = (*SIDES, "elements", "ratio", "options")


@dataclass(frozen=True)
class Sample:
    """One example of a plot or of an element check.

    Attributes:
        number: The number by which users choose it.
        title: The title, one line.
        about: What it shows, in a few lines.
        axes: In a plot, type and values of each axis by its side.
        elements: In an element check, the elements; None in a plot.
        ratio: In an element check, the ratio of the elements.
        options: More options of the command line that it needs, such as "--alpha 0".
    """

    number: int
    title: str
    about: str = ""
    axes: dict[str, tuple[str, str]] = field(default_factory=dict)
    elements: str | None = None
    ratio: str = ""
    options: str = ""


def find_samples() -> dict[int, Sample]:
    """Read the samples that come with the program.

    Raises:
        ImageError: Their file is missing, or cannot be read.
    """
    package = Path(__file__).parents[1]
    installed = package / "sample.txt"  # in a working copy it is beside the package
    return read_samples(installed if installed.is_file() else package.parent / installed.name)


def read_samples(path: Path) -> dict[int, Sample]:
    """Read the samples of a file, by number.

    Raises:
        ImageError: The file cannot be read, or a line of it is not understood.
    """
    try:
        lines = read_text(path).splitlines()
    except (OSError, UnicodeError) as exc:
        raise ImageError(f"Cannot read the samples in {path}: {exc}.") from exc
    samples: dict[int, Sample] = {}
    starts = [index for index, line in enumerate(lines) if line.startswith("===")]
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        sample = _read_sample(lines[start:end], where=f"{path}, line {start + 1}")
        samples[sample.number] = sample
    return samples


def _read_sample(lines: list[str], *, where: str) -> Sample:
    title = _TITLE.fullmatch(lines[0].rstrip())
    if title is None:
        raise ImageError(f'{where}: a sample begins with "=== NUMBER TITLE".')
    starts = [index for index, line in enumerate(lines) if line.startswith("---")]
    about = "\n".join(line.lstrip("# ") for line in lines[1 : starts[0] if starts else None] if line.strip())
    axes: dict[str, tuple[str, str]] = {}
    other_parts: dict[str, str] = {}
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        name, word, text = _read_part(lines[start:end], where=where)
        if name in SIDES:
            axes[name] = (word, text)
        else:
            other_parts[name] = text or word  # a short text may stand in the line itself
    return Sample(int(title[1]), title[2], about, axes, **other_parts)


def _read_part(lines: list[str], *, where: str) -> tuple[str, str, str]:
    """Read a part of a sample: its name, the rest of its first line, and its other lines."""
    part = _PART.fullmatch(lines[0].rstrip())
    if part is None or part[1] not in _PARTS:
        raise ImageError(f'{where}: "{lines[0]}" is none of the parts {", ".join(_PARTS)}.')
    return part[1], part[2] or "", "\n".join(lines[1:]).rstrip()
