"""Find the models that a recipe names, and open each of them once."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ...errors import CheckpointError
from ...recipe.recipe import ModelSource
from .checkpoint import checkpoint_files, is_there, read_signature
from .hashes import file_sha256


def model_source(path: str | Path) -> ModelSource:
    """Name a file as a model of a recipe, by its absolute path; the user's home folder is written ``~``."""
    absolute = Path.cwd() / expand_home(path)
    home = Path.home()
    if absolute.is_relative_to(home) and home != Path(home.anchor):
        return ModelSource(f"~/{absolute.relative_to(home).as_posix()}")
    return ModelSource(str(absolute))


def expand_home(path: str | Path) -> Path:
    """Put the user's home for a leading ``~/``; a name that merely starts with a tilde is left as it is."""
    return Path(path).expanduser() if re.match(r"~[/\\]", str(path)) else Path(path)


def locate_model(source: ModelSource, models_folder: Path | None = None) -> Path:
    """Find a model where its recipe says, or by its hash; a file that is not the recipe's is never taken.

    Args:
        source: The model; one without hash and size is taken as it is.
        models_folder: Where to look, at any depth, if the file is not where it was.

    Raises:
        CheckpointError: It has changed, is nowhere to be found, or cannot be read; or there is no such folder.
    """
    path = expand_home(source.path)
    if _is_recorded(path, source):
        return path
    for candidate in _files_below(models_folder) if source.sha256 else ():
        with suppress(CheckpointError):  # one that cannot be read is not the one
            if _is_recorded(candidate, source):
                return candidate
    state = "has changed since the recipe was made" if is_there(path) else "is not there any more"
    if source.sha256 is None:
        raise CheckpointError(f"{path} {state}, and the recipe has no SHA-256 to find it by.")
    searched = (
        f"No file in {models_folder} has" if models_folder else "--models DIR names a folder to look for a file with"
    )
    raise CheckpointError(f"{path} {state}.\n{searched} its SHA-256 {source.sha256}.")


def _is_recorded(path: Path, source: ModelSource) -> bool:
    """Tell whether a file has the size and the hash that a recipe recorded, as far as it did."""
    if source.size is None and source.sha256 is None:
        return True
    if not is_there(path) or (source.size is not None and read_signature(path).size != source.size):
        return False
    return source.sha256 is None or file_sha256(path) == source.sha256


def _files_below(folder: Path | None) -> Iterator[Path]:
    if folder is None:
        return
    if not folder.is_dir():
        raise CheckpointError(f"The models folder {folder} does not exist.")
    yield from checkpoint_files(folder)
