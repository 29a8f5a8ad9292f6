"""The LoRAs of the form: one a line, by the names of the host's list."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from ..errors import CheckpointError, RecipeError
from ..hosts.base import LoraRef
from ..merge.files.model_locator import ModelLocator, expand_home, model_source
from ..recipe.lookalikes import plain_text
from ..recipe.lora_texts import LoraText, format_lora, parse_lora, without_ending
from ..recipe.recipe import LoraSource, ModelSource
from ..recipe.suggestions import suggest

_HOW = "Write one LoRA a line: NAME:RATIO, or NAME:RATIO:RATIO_TE with another ratio for text encoders."
_MOST = 100
_LONGEST = 500  # letters of a line: a page can send any text, and reading numbers takes the square of their length
_AS_IT_STANDS = ModelLocator(shown=frozenset())
"""Looks at the place alone that it is given."""


def read_loras(text: str, listed: Sequence[LoraRef]) -> tuple[LoraSource, ...]:
    """Read the LoRAs of a form.

    Nothing of the disk is looked at: a LoRA that is not in the list is unknown, whether or not there is such a file.

    Args:
        text: A line for each, NAME:RATIO or NAME:RATIO:RATIO_TE; without a ratio it is 1. A name is that of the list,
            or the file's, with its folder within the host's or the whole path, with or without its ending.
        listed: The host's LoRAs.

    Raises:
        RecipeError: There is no LoRA of a name, or more than one, or what follows it are no ratios; or a line is too
            long, or there are too many.
    """
    lines = list(filter(None, map(str.strip, text.splitlines())))
    if len(lines) > _MOST:
        raise RecipeError(f"There are {len(lines):,} lines of LoRAs, where {_MOST} are the most.")
    return tuple(_read(line, listed) for line in lines)


def write_loras(loras: Sequence[LoraSource], listed: Sequence[LoraRef]) -> str:
    """Write LoRAs as :func:`read_loras` reads them; those that the host does not list are called by their files."""
    return "\n".join(format_lora(_name_of(lora.file, listed), lora.ratio, lora.ratio_te) for lora in loras)


def add_lora(text: str, name: str) -> str:
    """Write a LoRA of the list, whole, below the others."""
    return "\n".join(filter(None, [text.rstrip(), format_lora(name, 1.0, None)]))


def names_in(text: str) -> list[str]:
    """Give the names of the LoRAs in a form, each once, without folders and endings; what has no sense is left out."""
    names = []
    for line in filter(None, map(str.strip, text.splitlines()[:_MOST])):
        with suppress(RecipeError):
            names.append(without_ending(ModelSource(parse_lora(line[:_LONGEST]).file).name))
    return list(dict.fromkeys(names))


def find_file(source: ModelSource, listed: Sequence[LoraRef]) -> Path | None:
    """Find the file of a LoRA of a recipe made elsewhere in the host's list; None if it is not there, or is not clear.

    Args:
        source: The LoRA. If its size or hash was recorded, the file has it; if not, it has its path or name.
        listed: The host's LoRAs.
    """
    found = find_files(source, listed)
    return found[0] if len(found) == 1 else None


def find_files(source: ModelSource, listed: Sequence[LoraRef]) -> list[Path]:
    """List the files that a LoRA of a recipe can be: several only if their content was not recorded."""
    recorded = expand_home(source.path)
    if any(lora.path == recorded for lora in listed) and _is_file_of(recorded, source):
        return [recorded]
    named = [lora.path for lora in listed if lora.path.name.casefold() == source.name.casefold()]
    found = [path for path in named if _is_file_of(path, source)]
    if not found and source.sha256 is not None and source.size is not None:  # else all files would be read
        found = [lora.path for lora in listed if _is_file_of(lora.path, source)]
    return found if source.sha256 is None else found[:1]


def _read(line: str, listed: Sequence[LoraRef]) -> LoraSource:
    if len(line) > _LONGEST:
        raise RecipeError(f'"{line[:40]}..." is no LoRA: the line has {len(line):,} letters. {_HOW}')
    lora = parse_lora(line)
    found = _find(lora.file, listed)
    if not found:
        plain = parse_lora(plain_text(line))  # a minus of another kind, say
        lora, found = (plain, _find(plain.file, listed)) if plain != lora else (lora, found)
    if len(found) != 1:
        raise RecipeError(_explain(lora, found, listed))
    return LoraSource(model_source(found[0].path), lora.ratio, lora.ratio_te)


def _find(name: str, listed: Sequence[LoraRef]) -> list[LoraRef]:
    """List the LoRAs that a name can mean: the one of this name, or else those that can be called so."""
    called = name.replace("\\", "/").removeprefix("./")
    whole = os.path.abspath(expand_home(name)) if name.isprintable() else name  # noqa: PTH100 - links are not resolved
    return (
        [lora for lora in listed if lora.name.strip() == name]
        or [lora for lora in listed if whole in (str(lora.path), without_ending(str(lora.path)))]
        or [lora for lora in listed if called in _spellings(lora)]
    )


def _spellings(lora: LoraRef) -> set[str]:
    return {lora.place, without_ending(lora.place), lora.path.name, without_ending(lora.path.name)}


def _explain(lora: LoraText, found: Sequence[LoraRef], listed: Sequence[LoraRef]) -> str:
    if found:
        return f'"{lora.file}" could be any of {", ".join(other.name for other in found)}: write which of them.'
    name, colon, rest = lora.file.partition(":")
    if colon and _find(name, listed):
        return f'"{rest}" is no ratio of the LoRA {name}. {_HOW}'
    if near := suggest(lora.file, (other.name for other in listed)):
        return f'No LoRA named "{lora.file}"{near}'
    return f'No LoRA named "{lora.file}". Refresh the list or choose one. {_HOW}'


def _name_of(source: ModelSource, listed: Sequence[LoraRef]) -> str:
    path = expand_home(source.path)
    return next((lora.name for lora in listed if lora.path == path), source.name)


def _is_file_of(path: Path, source: ModelSource) -> bool:
    """Tell whether a file has the size and hash that were recorded of a LoRA, if they were."""
    try:
        return _AS_IT_STANDS.locate(replace(source, path=str(path))) == path
    except CheckpointError:
        return False
