"""Presets of block weights: reads files of them, and chooses one by name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

from ..architectures.blocks import Architecture
from ..errors import RecipeError
from .block_weights import BlockWeights, looks_like_weights, parse_block_weights, valid_counts
from .lookalikes import plain_text
from .suggestions import suggest
from .text_files import encoding_of, read_at_most

BUILT_IN_PRESETS = Path(__file__).with_name("presets.txt")
"""The presets that come with the program; the file names their sources."""

NO_WEIGHTS = "none"
"""Stands for no block weights on the command line."""

_LARGEST = 10_000_000
_MOST_SEPARATORS = 10
"""Bytes of a file, and places where a name may end in a line that is no preset."""
_SEPARATOR = re.compile(r"\s?(?:[:=\uff1a]|\t)")
"""What ends a name; white space before it has been made one character."""

Presets = Mapping[str, tuple[BlockWeights, ...]]
"""Block weights by upper-case name; a name can have one set for each number of blocks."""


class PresetTable(dict[str, tuple[BlockWeights, ...]]):
    """The presets of some files.

    Attributes:
        mistakes: What is wrong with lines that cannot be used, by the upper-case name of their preset.
        no_text: The files that are not text throughout, so that names of presets in them are not known.
    """

    def __init__(self) -> None:
        super().__init__()
        self.mistakes: dict[str, str] = {}
        self.no_text: list[Path] = []


def mistakes_of(presets: Presets) -> Mapping[str, str]:
    """Give what is wrong with lines of the files that presets were read from, by the upper-case name."""
    return presets.mistakes if isinstance(presets, PresetTable) else {}


def choose_block_weights(text: str, presets: Presets, architecture: Architecture) -> BlockWeights:
    """Read block weights given as numbers or as the name of a preset; case is ignored.

    Args:
        text: The numbers or the name, or a line of a preset file.
        presets: The presets.
        architecture: The architecture of the models. A preset that has no line for SDXL gives that of SD 1.x.

    Raises:
        RecipeError: The text is neither, its line in the file cannot be used, or the preset does not fit this
            architecture.
    """
    name = text.strip()
    key = key_of(name)
    if key in mistakes_of(presets):
        raise RecipeError(mistakes_of(presets)[key])
    preset = presets.get(key)
    if preset is None:
        return _parse_weights_or_line(name, presets)
    depth = len(architecture.unet_blocks)
    fitting = sorted((w for w in preset if w.fits(architecture)), key=lambda w: len(w.unet) != depth)
    if not fitting:
        raise RecipeError(
            f'The preset "{name}" has no line for {architecture.name}, '
            f"which has {len(architecture.blocks)} numbers, or {depth} without BASE."
        )
    return fitting[0]


def is_preset(text: str, presets: Presets) -> bool:
    """Tell whether a text is the name of a preset."""
    return key_of(text) in presets


def read_presets(*paths: Path) -> PresetTable:
    """Read preset files; a name in a later file replaces that of an earlier one.

    A line is ``NAME: numbers``, or as in supermerger's file the name, a tab and the numbers. A line that cannot be
    used is left out, and remembered as a mistake of its name.

    Raises:
        RecipeError: A file cannot be read.
    """
    presets = PresetTable()
    for path in paths:
        table = _read_preset_file(path)
        for name in (*table, *table.mistakes):
            presets.pop(name, None)
            presets.mistakes.pop(name, None)
        presets.update(table)
        presets.mistakes.update(table.mistakes)
        presets.no_text += table.no_text
    return presets


def _read_preset_file(path: Path) -> PresetTable:
    table = PresetTable()
    lines: dict[tuple[str, int], int] = {}
    text = _read_leniently(path)
    if "\ufffd" in text or "\0" in text:
        table.no_text.append(path)
    for number, entry in _entries(text):
        try:
            name, weights = _read_line(entry)
        except RecipeError as exc:
            table.mistakes[key_of(_name_of(entry))] = f"{path}, line {number}: {exc}"
            continue
        known = next((other for other in table.get(name, ()) if len(other.unet) == len(weights.unet)), None)
        place = lines.setdefault((name, len(weights.unet)), number)
        if known is None:
            table[name] = (*table.get(name, ()), weights)
        elif known != weights:
            table.mistakes[name] = f"{path}, line {number}: {name} is given in line {place} with other numbers."
    for name in table.mistakes:
        table.pop(name, None)
    return table


def _read_leniently(path: Path) -> str:
    """Read a file of presets: one line in another encoding must not stop the others."""
    try:
        content = read_at_most(path, _LARGEST)
    except OSError as exc:
        raise RecipeError(f"Cannot read the presets in {path}: {exc}") from exc
    if content is None:
        raise RecipeError(f"Cannot read the presets in {path}: it is too large for a file of presets.")
    return content.decode(encoding_of(content), "replace")


def _entries(text: str) -> Iterator[tuple[int, str]]:
    """List the lines with something in them, with their numbers, but for the heading of supermerger's file."""
    for number, line in enumerate(text.splitlines(), 1):
        entry = _shorten_spaces(line.partition("#")[0])
        if entry and entry.split()[0].lower() != "preset_name":
            yield number, entry


def _shorten_spaces(line: str) -> str:
    """Make white space one character: a tab if there is one in it, which can end a name."""
    return re.sub(r"\s+", lambda space: "\t" if "\t" in space[0] else " ", line.strip())


def _read_line(entry: str) -> tuple[str, BlockWeights]:
    mistake = RecipeError("A preset is written NAME: numbers.")
    for separator in islice(_SEPARATOR.finditer(entry), _MOST_SEPARATORS):
        name = key_of(entry[: separator.start()])
        try:
            weights = parse_block_weights(entry[separator.end() :])
        except RecipeError as exc:
            mistake = exc if separator.start() == _end_of_name(entry) else mistake
            continue
        if "\ufffd" in name:
            raise RecipeError("The name is not in UTF-8; save the file as UTF-8.")
        if name:
            return name, weights
    raise mistake


def key_of_line(line: str) -> tuple[str, int] | None:
    """Give the name of the preset in a line of a file and how many blocks it is for, 0 if the line cannot be used.

    None for a comment, a blank line or a heading.
    """
    entry = next((entry for _, entry in _entries(line)), None)
    if entry is None:
        return None
    try:
        name, weights = _read_line(entry)
    except RecipeError:
        return key_of(_name_of(entry)), 0
    return name, len(weights.unet)


def _end_of_name(entry: str) -> int:
    found = _SEPARATOR.search(entry)
    return found.start() if found else len(entry)


def _name_of(entry: str) -> str:
    """Give what stands before the numbers of a line that cannot be read."""
    end = _end_of_name(entry)
    return entry[:end] if end < len(entry) else entry.split()[0]


def key_of(name: str) -> str:
    """Give the spelling by which presets are told apart."""
    return " ".join(name.strip().strip("\"'").upper().split())


def _parse_weights_or_line(text: str, presets: Presets) -> BlockWeights:
    if re.match(r"[^-+.,\d\[({][^,]*[:\t=]", plain_text(text)):
        return _read_line(_shorten_spaces(plain_text(text)))[1]
    if looks_like_weights(text):
        return parse_block_weights(text)
    no_text = presets.no_text if isinstance(presets, PresetTable) else ()
    unread = "".join(
        f"\n{path} is not all text in UTF-8: save it as UTF-8, so that its names can be read." for path in no_text
    )
    raise RecipeError(
        f'There is no block weight preset "{text}"{_suggest_preset(text, presets)}\n'
        f"Presets: {', '.join(presets)}. You can also enter numbers: {valid_counts()}.{unread}"
    )


def _suggest_preset(text: str, presets: Presets) -> str:
    """Suggest presets with the same numbers in their names, and reversed only if this is."""
    plain = {_without_dashes(name): name for name in presets}
    wanted = plain.get(_without_dashes(key_of(text)))
    if wanted is not None:
        return f'; did you mean "{wanted}"?'
    fitting = [name for name in presets if _is_reversed(name) == _is_reversed(key_of(text))]
    return suggest(key_of(text), fitting)


def _without_dashes(name: str) -> str:
    return re.sub(r"[-_ ]", "", re.sub(r"(?<=[A-Z])X(?=[0-9])", "*", name))


def _is_reversed(name: str) -> bool:
    return name.startswith(("R_", "R-", "REV")) or "_REV" in name or "-REV" in name
