"""Lists the LoRAs in a host's folders, each under a name of its own."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from ..errors import RecipeError
from ..merge.files.checkpoint import SUFFIXES
from ..recipe.lora_texts import LoraText, parse_lora, without_ending
from .base import LoraRef


def list_loras(folders: Iterable[Path]) -> list[LoraRef]:
    """List the LoRAs below some folders at any depth, by the ends of their names, sorted by name.

    A name is that of the file without its ending; where several would have it, with the folder, and where that is not
    enough, with the ending, too.

    Args:
        folders: The folders; one that does not exist has no LoRAs.
    """
    places: dict[Path, str] = {}
    for folder in folders:
        top = Path(os.path.abspath(folder))  # noqa: PTH100 - links are not resolved
        for path in _files(top):
            places.setdefault(path, path.relative_to(top).as_posix())
    names = _choose_names(places)
    listed = [LoraRef(names[path], path, place) for path, place in places.items()]
    return sorted(listed, key=lambda lora: (lora.name.casefold(), lora.name))


def _files(top: Path) -> Iterator[Path]:
    """List the files of a folder, each folder once: links are followed, and may lead back."""
    seen: set[str] = set()
    for folder, inner, names in os.walk(top, followlinks=True):
        real = os.path.realpath(folder)
        inner[:] = [] if real in seen else sorted(name for name in inner if not name.startswith("."))
        if real in seen:
            continue
        seen.add(real)
        files = (Path(folder, name) for name in sorted(names) if not name.startswith("."))
        yield from (path for path in files if path.suffix.lower() in SUFFIXES and str(path).isprintable())


def _choose_names(places: Mapping[Path, str]) -> dict[Path, str]:
    """Give each file the shortest name that no other one would have, and that can stand before a ratio."""
    spellings = {
        path: (without_ending(path.name), without_ending(place), place, str(path)) for path, place in places.items()
    }
    counts = [Counter(name.casefold() for name in names) for names in zip(*spellings.values(), strict=True)]
    return {
        path: next(
            (name for name, count in zip(names, counts, strict=True) if count[name.casefold()] == 1 and _is_read(name)),
            str(path),
        )
        for path, names in spellings.items()
    }


def _is_read(name: str) -> bool:
    """Tell whether a name is read as it stands, and nothing at its end as a ratio."""
    try:
        return parse_lora(f"{name}:1") == LoraText(name, 1.0, None)
    except RecipeError:
        return False
