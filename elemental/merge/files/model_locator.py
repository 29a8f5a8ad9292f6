"""Find the files of the models that a recipe names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
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


@dataclass(frozen=True)
class ModelLocator:
    """Finds the files of the models that recipes name: where a recipe says, or by their SHA-256 in a folder.

    Attributes:
        folder: The user's folder of checkpoints, searched at any depth; None to look nowhere else.
    """

    folder: Path | None = None

    def locate(self, source: ModelSource) -> Path:
        """Find a model; a file that is not the recipe's is never taken.

        Args:
            source: The model; one without hash and size is taken as it is.

        Raises:
            CheckpointError: It has changed, is nowhere to be found, or cannot be read; or there is no such folder.
        """
        path = expand_home(source.path)
        if _is_recorded(path, source):
            return path
        for candidate in self._candidates() if source.sha256 else ():
            with suppress(CheckpointError):  # one that cannot be read is not the one
                if _is_recorded(candidate, source):
                    return candidate
        raise CheckpointError(self._not_found(path, source))

    def _candidates(self) -> Iterator[Path]:
        if self.folder is None:
            return
        if not self.folder.is_dir():
            raise CheckpointError(f"The models folder {self.folder} does not exist.")
        yield from checkpoint_files(self.folder)

    def _not_found(self, path: Path, source: ModelSource) -> str:
        state = "has changed since the recipe was made" if is_there(path) else "is not there any more"
        if source.sha256 is None:
            return f"{path} {state}, and the recipe has no SHA-256 to find it by."
        searched = (
            f"No file in {self.folder} has" if self.folder else "--models DIR names a folder to look for a file with"
        )
        return f"{path} {state}.\n{searched} its SHA-256 {source.sha256}."


AS_RECORDED = ModelLocator()
"""Finds models where their recipe says, and nowhere else."""


def _is_recorded(path: Path, source: ModelSource) -> bool:
    """Tell whether a file has the size and the hash that a recipe recorded, as far as it did."""
    if source.size is None and source.sha256 is None:
        return True
    if not is_there(path) or (source.size is not None and read_signature(path).size != source.size):
        return False
    return source.sha256 is None or file_sha256(path) == source.sha256
