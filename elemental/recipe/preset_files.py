"""Changes the user's file of block weight presets: one line of it is replaced, renamed or deleted, the others stay."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from ..errors import RecipeError
from .block_weights import BlockWeights, format_block_weights, looks_like_weights
from .presets import NO_WEIGHTS, key_of, key_of_line
from .text_files import read_text

_LONGEST = 80
_MARKS = re.compile(r"[:=#,\t\n\r\uff1a\ufffd]")

Write = Callable[[Path, bytes], None]
"""Writes a whole file in place of another."""


def save_preset(path: Path, name: str, weights: BlockWeights, write: Write) -> None:
    """Save a preset; the lines of this name for as many blocks are replaced.

    Args:
        path: The user's file; it may not exist.
        name: The name.
        weights: Its numbers.
        write: Writes the file.

    Raises:
        RecipeError: The name cannot be used, or the file cannot be read.
    """
    wanted = _checked(name)
    lines = [
        line
        for line in _read_lines(path)
        if key_of_line(line) not in ((wanted, len(weights.unet)), (wanted, 0))  # 0: a line that cannot be used
    ]
    _write(path, [*lines, f"{wanted}: {format_block_weights(weights)}"], write)


def rename_preset(path: Path, name: str, new: str, write: Write) -> None:
    """Rename a preset of the user's file.

    Raises:
        RecipeError: It is not in the file, another one has the new name, or it cannot be used as one.
    """
    wanted, lines = _checked(new), _read_lines(path)
    taken = {key[0] for line in lines if (key := key_of_line(line)) is not None}
    if wanted != key_of(name) and wanted in taken:
        raise RecipeError(f"There is a preset {wanted} already: choose another name.")
    if key_of(name) not in taken:
        raise RecipeError(_not_there(name))
    _write(path, [_renamed(line, wanted) if _is(line, name) else line for line in lines], write)


def delete_preset(path: Path, name: str, write: Write) -> None:
    """Delete a preset from the user's file; one that comes with the program is then the one of this name again.

    Raises:
        RecipeError: It is not in the file.
    """
    lines = _read_lines(path)
    kept = [line for line in lines if not _is(line, name)]
    if len(kept) == len(lines):
        raise RecipeError(_not_there(name))
    _write(path, kept, write)


def _is(line: str, name: str) -> bool:
    key = key_of_line(line)
    return key is not None and key[0] == key_of(name)


def _renamed(line: str, name: str) -> str:
    separator = re.search(r"[:=\uff1a\t]", line)
    return f"{name}{line[separator.start() :]}" if separator else line


def _not_there(name: str) -> str:
    return f"The preset {key_of(name)} comes with the program: it stays." if name.strip() else "Choose a preset first."


def _checked(name: str) -> str:
    key = key_of(name)
    if not key:
        raise RecipeError("Give the preset a name.")
    if _MARKS.search(key) or len(key) > _LONGEST or key.lower() == NO_WEIGHTS or looks_like_weights(key):
        raise RecipeError(f'"{name[:_LONGEST]}" cannot be the name of a preset: use letters, such as MY_WEIGHTS.')
    return key


def _read_lines(path: Path) -> list[str]:
    try:
        return read_text(path).splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeError) as exc:
        raise RecipeError(f"Cannot change the presets in {path}: {exc}.") from exc


def _write(path: Path, lines: list[str], write: Write) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise RecipeError(f"Cannot change the presets in {path}: {exc.strerror or exc}.") from exc
    write(path, "".join(f"{line}\n" for line in lines).encode())
