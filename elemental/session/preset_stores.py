"""The presets that a page lists, saves, renames and deletes: block weights in the user's file, specs in a folder."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from ..errors import ElementalError, RecipeError
from ..images.files import write_whole
from ..recipe.block_weights import format_block_weights, looks_like_weights, parse_block_weights
from ..recipe.preset_files import delete_preset, rename_preset, save_preset
from ..recipe.presets import key_of
from ..recipe.text_files import read_text
from ..workflows import load_presets, user_presets_path
from .form import MergeForm

_LONGEST = 80
_FORBIDDEN = re.compile(r'[/\\:*?"<>|\x00-\x1f]')


class PresetStore(Protocol):
    """Texts by name."""

    def names(self) -> Sequence[str]:
        """List the names."""

    def text(self, name: str, form: MergeForm) -> str:
        """Give the text of a name, for what a form says.

        Raises:
            ElementalError: There is none, or it cannot be read.
        """

    def save(self, name: str, text: str) -> str:
        """Save a text under a name, in place of the one that has it, and give the name as it is listed.

        Raises:
            ElementalError: The name or the text cannot be used, or it cannot be written.
        """

    def rename(self, name: str, new: str) -> str:
        """Rename one, and give the new name as it is listed.

        Raises:
            ElementalError: It is not the user's, or the new name is taken or cannot be used.
        """

    def delete(self, name: str) -> None:
        """Delete one.

        Raises:
            ElementalError: It is not the user's.
        """


class WeightPresets:
    """Block weights: those that come with the program, and the user's, one a line of ``presets.txt``.

    Args:
        depth: Gives the number of U-Net blocks of a form's model A, 0 if it is not known.
    """

    def __init__(self, depth: Callable[[MergeForm], int]) -> None:
        self._depth = depth

    def names(self) -> Sequence[str]:
        """List the names."""
        try:
            return list(load_presets())
        except ElementalError:
            return []  # the command line tells what is wrong with the user's own file

    def text(self, name: str, form: MergeForm) -> str:
        """Give the numbers for model A, or for another architecture if there are none for it."""
        versions, depth = load_presets().get(key_of(name), ()), self._depth(form)
        fitting = [weights for weights in versions if len(weights.unet) == depth] or list(versions)
        if not fitting:
            raise RecipeError(f"The preset {name} is gone.")
        return format_block_weights(fitting[0])

    def save(self, name: str, text: str) -> str:
        """Save block weights."""
        if not looks_like_weights(text) or not text.strip():
            raise RecipeError("Enter the block weights as numbers to save them.")
        save_preset(user_presets_path(), name, parse_block_weights(text), _write)
        return key_of(name)

    def rename(self, name: str, new: str) -> str:
        """Rename a preset of the user's."""
        rename_preset(user_presets_path(), name, new, _write)
        return key_of(new)

    def delete(self, name: str) -> None:
        """Delete a preset of the user's."""
        delete_preset(user_presets_path(), name, _write)


class SpecPresets:
    """Whole specs, with their comments: text files in the folder ``specs`` beside ``presets.txt``."""

    @property
    def _folder(self) -> Path:
        return user_presets_path().with_name("specs")

    def names(self) -> Sequence[str]:
        """List the names of the files."""
        try:
            return sorted((path.stem for path in self._folder.glob("*.txt") if path.is_file()), key=str.lower)
        except OSError:
            return []

    def text(self, name: str, form: MergeForm) -> str:  # noqa: ARG002
        """Read a file."""
        path = self._path(name)
        try:
            return read_text(path).rstrip("\n")
        except (OSError, UnicodeError) as exc:
            raise RecipeError(f"Cannot read {path}: {exc}.") from exc

    def save(self, name: str, text: str) -> str:
        """Write a file, in place of the one that there is."""
        path = self._path(name)
        if not text.strip():
            raise RecipeError("The spec is empty: there is nothing to save.")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise RecipeError(f"Cannot write {path}: {exc.strerror or exc}.") from exc
        _write(path, f"{text.rstrip()}\n".encode())
        return path.stem

    def rename(self, name: str, new: str) -> str:
        """Rename a file."""
        old, path = self._path(name), self._path(new)
        if path.exists() and not path.samefile(old):
            raise RecipeError(f"There is a preset {path.stem} already: choose another name.")
        try:
            old.rename(path)
        except OSError as exc:
            raise RecipeError(f"Cannot rename {old}: {exc.strerror or exc}.") from exc
        return path.stem

    def delete(self, name: str) -> None:
        """Delete a file."""
        path = self._path(name)
        try:
            path.unlink()
        except OSError as exc:
            raise RecipeError(f"Cannot delete {path}: {exc.strerror or exc}.") from exc

    def _path(self, name: str) -> Path:
        """Give the file of a name; none that leads out of the folder."""
        stem = name.strip().removesuffix(".txt").strip()
        if not stem:
            raise RecipeError("Choose a preset, or give it a name.")
        if _FORBIDDEN.search(stem) or stem.startswith(".") or stem.endswith(".") or len(stem) > _LONGEST:
            raise RecipeError(f'"{stem[:_LONGEST]}" cannot be the name of a file here: leave out / \\ : * ? " < > |.')
        return self._folder / f"{stem}.txt"


def _write(path: Path, data: bytes) -> None:
    write_whole(path, data, replace=True)
