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
    """Make the recipe entry of a file: its absolute path, with ``~`` for the user's home folder."""
    absolute = Path.cwd() / expand_home(path)
    home = Path.home()
    if absolute.is_relative_to(home) and home != Path(home.anchor):
        return ModelSource(f"~/{absolute.relative_to(home).as_posix()}")
    return ModelSource(str(absolute))


def expand_home(path: str | Path) -> Path:
    """Replace a leading ``~/`` by the user's home folder; other names that start with a tilde stay as they are."""
    return Path(path).expanduser() if re.match(r"~[/\\]", str(path)) else Path(path)


@dataclass(frozen=True)
class ModelLocator:
    """Finds the models of recipes: at the recorded path, or by SHA-256 in a folder.

    Attributes:
        folder: The user's folder of checkpoints, searched at any depth; None to use only the recorded paths.
    """

    folder: Path | None = None

    def locate(self, source: ModelSource) -> Path:
        """Find a model; a file with another size or hash is never used.

        Args:
            source: The model; without hash and size, any file at its path is used.

        Raises:
            CheckpointError: The file has changed, is missing or cannot be read; or the folder does not exist.
        """
        path = expand_home(source.path)
        if _is_recorded(path, source):
            return path
        for candidate in self._candidates() if source.sha256 else ():
            with suppress(CheckpointError):  # unreadable files are skipped
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
        if self.folder is None:
            return f"{path} {state}.\nName the folder of your checkpoints to find it by its SHA-256 {source.sha256}."
        return f"{path} {state}.\nNo file in {self.folder} has its SHA-256 {source.sha256}."


AS_RECORDED = ModelLocator()
"""Finds models only at the paths in their recipe."""


def _is_recorded(path: Path, source: ModelSource) -> bool:
    """Tell whether a file has the size and hash that a recipe recorded, if it did."""
    if source.size is None and source.sha256 is None:
        return True
    if not is_there(path) or (source.size is not None and read_signature(path).size != source.size):
        return False
    return source.sha256 is None or file_sha256(path) == source.sha256
