"""Find the models that a recipe names, and open each of them once."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType

from ..errors import CheckpointError
from ..spec.recipe import MergeRecipe, ModelSource
from .checkpoint import Checkpoint, VaeFile, checkpoint_files, is_there, read_signature
from .hashes import file_sha256
from .plan import Role


class Sources:
    """The files of one recipe after the other, each opened once; a context manager, which closes them.

    Args:
        folder: Where to look for models that are not where a recipe says, by their SHA-256.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self._folder = None if folder is None else Path(folder)
        self._open: dict[tuple[ModelSource, bool], Checkpoint] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Sources:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.clear()
        self._stack.close()

    def open(self, recipe: MergeRecipe) -> dict[Role, Checkpoint]:
        """Open the models of a recipe, those that are not open yet.

        Raises:
            CheckpointError: One is missing, damaged, has changed, or is none that can be merged.
        """
        return {Role(name): self.open_one(source, Role(name)) for name, source in recipe.sources.items()}

    def open_one(self, source: ModelSource, role: Role = Role.A) -> Checkpoint:
        """Open one model for its part in a merge, unless it is open.

        Raises:
            CheckpointError: It is missing, damaged, has changed, or is none that can be merged.
        """
        key = source, role is Role.VAE
        known = self._open.get(key)
        if known is None or read_signature(known.path) != known.signature:
            path = locate_model(source, self._folder)
            file = self._stack.enter_context(VaeFile(path) if role is Role.VAE else Checkpoint(path))
            if role is not Role.VAE:
                _ = file.architecture  # a stranger is refused by its own name
            self._open[key] = file
        return self._open[key]


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
