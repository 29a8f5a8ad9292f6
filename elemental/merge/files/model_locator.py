"""Find the files of the models that a recipe names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
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
    machine used it last, and in the user's folder.

    Attributes:
        folder: The user's folder of checkpoints, searched at any depth; None for none.
        beside: The folder of the file that the recipe is from; None if it is from none.
    """

    folder: Path | None = None
    beside: Path | None = None

    def locate(self, source: ModelSource) -> Path:
        """Find a model; a file with another size or hash is never used.

        Args:
            source: The model; without hash and size, any file at its path is used.

        Raises:
            CheckpointError: The file has changed, is missing or cannot be read; several files could be meant; or the
                folder does not exist.
        """
        path = expand_home(source.path)
        if not _is_identified(source):
            # what a user types is meant as it stands; only what a recipe names in passing is looked for
            return path if path.is_absolute() or is_there(path) else self._by_name(path, source) or path
        if (source.sha256 is not None or _names_place(source)) and _is_recorded(path, source):
            return path
        found = self._by_hash(source) if source.sha256 is not None else None
        if source.sha256 is None and not _names_place(source):
            found = self._by_name(path, source)
        if found is None:
            raise CheckpointError(self._not_found(path, source))
        return found

    def find_named(self, name: str) -> Path | None:
        """Find the only file of a name without folders, of which no more is known; None if there is none.

        Raises:
            CheckpointError: There are several, or the folder does not exist.
        """
        return self._by_name(Path(name), ModelSource(name), remembered=True)

    def _by_hash(self, source: ModelSource) -> Path | None:
        for candidate in self._candidates(source):
            with suppress(CheckpointError):  # unreadable files are skipped
                if _is_recorded(candidate, source) and is_there(candidate):
                    return candidate
        return None

    def _by_name(self, path: Path, source: ModelSource, *, remembered: bool = False) -> Path | None:
        """Find the only file of a name and size.

        Args:
            path: Its path as recorded.
            source: The model.
            remembered: Whether to look where files of the name were, although the size is not known.

        Raises:
            CheckpointError: There are several.
        """
        found: dict[Path, Path] = {}
        for candidate in [path, *self._candidates(source, remembered=remembered)]:
            with suppress(CheckpointError, OSError):
                if _is_named(candidate, source) and is_there(candidate) and _is_recorded(candidate, source):
                    found.setdefault(candidate.resolve(), candidate)
        if len(found) > 1:
            places = ", ".join(map(str, found.values()))
            raise CheckpointError(f"Several files could be {source.name} of the recipe: {places}.\nName the models.")
        return next(iter(found.values()), None)

    def _candidates(self, source: ModelSource, *, remembered: bool = False) -> Iterator[Path]:
        """List files that may be a model, the likely ones first."""
        if self.beside is not None:
            yield self.beside / expand_home(source.path)
            yield self.beside / source.name
        listed = self._listed()
        yield from (path for path in listed if _is_named(path, source))
        if remembered or _is_identified(source):
            yield from (place.path for place in remembered_places() if _may_be(place, source))
        yield from (path for path in listed if not _is_named(path, source))

    def _listed(self) -> Sequence[Path]:
        if self.folder is None:
            return ()
        if not self.folder.is_dir():
            raise CheckpointError(f"The models folder {self.folder} does not exist.")
        return list(checkpoint_files(self.folder))

    def _not_found(self, path: Path, source: ModelSource) -> str:
        if source.path.startswith(UNKNOWN):
            return f"The recipe does not say which file {source.path.removeprefix(UNKNOWN)} was: name the models."
        places = [path] if _names_place(source) else [p.path for p in remembered_places() if _may_be(p, source)]
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
