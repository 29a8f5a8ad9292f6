"""Samples of plots and checks, to learn from and to start with: read from one text file that explains itself.

::

    === 1  Title of the sample
    # What it is about; any number of such lines.
    --- x elemental             a part begins: x or y with the type of the axis, elements, ratio, or options
    OUT05:attn2:0.5             its text, up to the next line that begins with "---" or "==="
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import ImageError

_TITLE = re.compile(r"===\s*(\d+)\s+(.+)")
_PART = re.compile(r"---\s*(\w+)(?:\s+(\S.*))?")
_PARTS = ("x", "y", "elements", "ratio", "options")


@dataclass(frozen=True)
class Sample:
    """One example of a plot or of a check.

    Attributes:
        number: As users name it.
        title: In a line.
        about: What it shows, in some lines.
        axes: Type and values of each axis by its side, of a plot.
        elements: What a check tries; None in a plot.
        ratio: What it gives them.
        options: Further options of the command line that it wants, such as "--alpha 0".
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
    own = package / "sample.txt"  # installed, it lies in the package, otherwise beside it
    return read_samples(own if own.is_file() else package.parent / own.name)


def read_samples(path: Path) -> dict[int, Sample]:
    """Read the samples of a file, by number.

    Raises:
        ImageError: The file cannot be read, or a line of it is not understood.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as exc:
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
    others: dict[str, str] = {}
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        part = _PART.fullmatch(lines[start].rstrip())
        if part is None or part[1] not in _PARTS:
            raise ImageError(f'{where}: "{lines[start]}" is none of the parts {", ".join(_PARTS)}.')
        name, word, text = part[1], part[2] or "", "\n".join(lines[start + 1 : end]).rstrip()
        if name in ("x", "y"):
            axes[name] = (word, text)
        else:
            others[name] = text or word  # a short text may stand in the line itself
    return Sample(int(title[1]), title[2], about, axes, **others)
