"""Find the files of the models that a recipe names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ...errors import CheckpointError
from ...recipe.recipe import ModelSource
from .checkpoint import checkpoint_files, is_there, read_signature
from .hashes import SHORT, Place, file_sha256, remembered_places

UNKNOWN = "unknown: "
"""How the path of a model begins that a recipe does not name; then come the words for it, such as "model B"."""


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
    """Finds the models of recipes: at the recorded path, or by SHA-256, or by name and size.

    Recipes in files and images only name their models. Each is looked for beside the recipe, where it was when this
    machine used it last, and in the user's folder; in the current folder only by its SHA-256, or if Python code names
    it so. :func:`describe_doubt` tells of what was found without a SHA-256.

    Attributes:
        folder: The user's folder of checkpoints, searched at any depth; None for none.
        beside: The folder of the file that the recipe is from; None if it is from none.
        shown: Of the places where this machine used models, those that may be looked at and told of; None for all.
    """

    folder: Path | None = None
    beside: Path | None = None
    shown: frozenset[Path] | None = None

    def locate(self, source: ModelSource) -> Path:
        """Find a model; a file with another size or hash is never used.

        Args:
            source: The model; without hash and size, any file at its path is used.

        Raises:
            CheckpointError: The file has changed, is missing or cannot be read; several files could be meant; the
                folder does not exist; or the model is a recipe, and no file.
        """
        if source.recipe is not None:
            raise CheckpointError(f"{source.path} is a recipe: it stands in a merge only. Merge it into a file first.")
        path = expand_home(source.path)
        if not _is_identified(source):
            # what a user types is meant as it stands; only what a recipe names in passing is looked for
            if path.is_absolute() or (self.beside is None and is_there(path)):
                return path
            return self._by_name(source) or (self.beside or Path()) / path
        if (source.sha256 is not None or _names_place(source)) and _is_recorded(path, source):
            return path
        found = self._by_hash(source) if source.sha256 is not None else None
        if source.sha256 is None and not _names_place(source):
            found = self._by_name(source)
        if found is None:
            raise CheckpointError(self._not_found(path, source))
        return found

    def find_named(self, name: str) -> Path | None:
        """Find the only file of a name without folders, of which no more is known; None if there is none.

        Raises:
            CheckpointError: There are several, or the folder does not exist.
        """
        return self._by_name(ModelSource(name), remembered=True)

    def _by_hash(self, source: ModelSource) -> Path | None:
        for candidate in [*self._beside(source), *self._elsewhere(source)]:
            with suppress(CheckpointError):  # unreadable files are skipped
                if _is_recorded(candidate, source) and is_there(candidate):
                    return candidate
        return None

    def _by_name(self, source: ModelSource, *, remembered: bool = False) -> Path | None:
        """Find the only file of a name and size: beside the recipe, or else anywhere.

        Args:
            source: The model.
            remembered: Whether to look where files of the name were, although the size is not known.

        Raises:
            CheckpointError: There are several.
        """
        found = _named(self._beside(source), source) or _named(self._elsewhere(source, remembered=remembered), source)
        if len(found) > 1:
            places = ", ".join(map(str, found))
            raise CheckpointError(f"Several files could be {source.name} of the recipe: {places}.\nName the models.")
        return found[0] if found else None

    def _beside(self, source: ModelSource) -> Sequence[Path]:
        return () if self.beside is None else (self.beside / expand_home(source.path), self.beside / source.name)

    def _elsewhere(self, source: ModelSource, *, remembered: bool = False) -> Iterator[Path]:
        """List files that may be a model, the likely ones first."""
        listed = self._listed()
        yield from (path for path in listed if _is_named(path, source))
        if remembered or _is_identified(source):
            yield from self._remembered(source)
        yield from (path for path in listed if not _is_named(path, source))

    def _remembered(self, source: ModelSource) -> Iterator[Path]:
        for place in remembered_places():
            if _may_be(place, source) and (self.shown is None or place.path in self.shown):
                yield place.path

    def _listed(self) -> Sequence[Path]:
        if self.folder is None:
            return ()
        if not self.folder.is_dir():
            raise CheckpointError(f"The models folder {self.folder} does not exist.")
        return list(checkpoint_files(self.folder))

    def _not_found(self, path: Path, source: ModelSource) -> str:
        if source.path.startswith(UNKNOWN):
            return f"The recipe does not say which file {source.path.removeprefix(UNKNOWN)} was: name the models."
        places = [path] if _names_place(source) else list(self._remembered(source))
        where = next((place for place in places if is_there(place)), places[0] if places else path)
        state = "has changed since the recipe was made" if is_there(where) else "is not there any more"
        said = f"{where} {state}" if places else f"{path} was not found"
        if source.sha256 is None and _names_place(source):
            return f"{said}, and the recipe has no SHA-256 to find it by."
        clue = f"its SHA-256 {source.sha256}" if source.sha256 else "its name and size"
        return f"{said}.\n{self._advice(clue)}"

    def _advice(self, clue: str) -> str:
        if self.folder is None:
            return f"Name the folder of your checkpoints to find it by {clue}."
        return f"No file in {self.folder} has {clue}."


AS_RECORDED = ModelLocator()
"""Finds models only at the paths in their recipe, or where this machine used them last."""


def describe_doubt(source: ModelSource, path: Path, name: str) -> str:
    """Say that a model was found by its name alone; empty if it was found by its SHA-256 or is where the recipe says.

    Args:
        source: The model.
        path: Where it was found.
        name: What to call it, such as "model A".
    """
    recorded = expand_home(source.path)
    if source.sha256 is not None or (
        _names_place(source) and (path == recorded or path.as_posix().endswith(f"/{recorded.as_posix()}"))
    ):
        return ""
    clue = "name" if source.size is None else "name and size"
    return (
        f"{name[:1].upper()}{name[1:]} was found by its {clue} alone: {Path.cwd() / path}. Its content was not "
        "verified, for the recipe has no SHA-256 of it."
    )


def _named(paths: Iterable[Path], source: ModelSource) -> list[Path]:
    """Give the files of the name and size of a model, each once."""
    found: dict[Path, Path] = {}
    for path in paths:
        with suppress(CheckpointError, OSError):
            if _is_named(path, source) and is_there(path) and _is_recorded(path, source):
                found.setdefault(path.resolve(), path)
    return list(found.values())


def _is_identified(source: ModelSource) -> bool:
    """Tell whether a recipe recorded more of a file than its path."""
    return source.sha256 is not None or source.size is not None


def _names_place(source: ModelSource) -> bool:
    """Tell whether a recipe says in which folder a model is."""
    return source.name != source.path


def _is_named(path: Path, source: ModelSource) -> bool:
    """Tell whether a file has the name of a model, which may lack its suffix."""
    return source.name.casefold() in (path.name.casefold(), path.stem.casefold())


def _may_be(place: Place, source: ModelSource) -> bool:
    """Tell whether a model was seen at a place, as far as is known."""
    if source.sha256 is not None and place.sha256 is not None:
        return _is_hash(place.sha256, source.sha256)
    return _is_named(place.path, source) and source.size in (None, place.size)


def _is_recorded(path: Path, source: ModelSource) -> bool:
    """Tell whether a file has the size and hash that a recipe recorded, if it did."""
    if not _is_identified(source):
        return True
    if not is_there(path) or (source.size is not None and read_signature(path).size != source.size):
        return False
    return source.sha256 is None or _is_hash(file_sha256(path), source.sha256)


def _is_hash(sha256: str, recorded: str) -> bool:
    """Tell whether a recipe recorded a hash, or its first digits."""
    return len(recorded) >= SHORT and sha256.startswith(recorded)
