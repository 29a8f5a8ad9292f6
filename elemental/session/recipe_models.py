"""Recipes in the host's folder of models: read where one is chosen as a model, and listed among them.

Models that such a recipe names are looked for among the host's alone: of other places the page tells nobody.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from ..errors import ElementalError
from ..hosts.base import CheckpointRef, LoraRef
from ..merge.files.metadata import any_recipe_from_json, with_files
from ..merge.files.model_file import Signature, read_signature
from ..merge.files.model_locator import ModelLocator, model_source
from ..merge.files.recipe_models import RECIPES, is_recipe, name_where_found, read_recipe_file
from ..merge.plan import FileRole, LoraRole
from ..recipe.recipe import MergeRecipe, ModelSource
from ..recipe.text_files import read_text
from .loras import find_file

_MARK = " [recipe]"
_LARGEST = 1_000_000
"""Bytes; files of other programs beside models are called .json, too, and some are large."""


def read_chosen(
    path: Path,
    locate: Callable[[str], Path],
    checkpoints: Sequence[CheckpointRef],
    folder: Path,
    loras: Sequence[LoraRef] = (),
) -> ModelSource:
    """Read a recipe that is chosen as a model.

    Args:
        path: Its file.
        locate: Finds a file by what the form calls it; raises an ElementalError for all that it may not tell of.
        checkpoints: The host's list.
        folder: The host's folder of models.
        loras: The host's LoRAs.

    Raises:
        ElementalError: It is no recipe, or leads back to itself.
    """
    paths = [listed.path for listed in checkpoints]
    locator = ModelLocator(folder, folder, frozenset([*paths, *(Path(os.path.realpath(listed)) for listed in paths)]))

    def listed(source: ModelSource, role: FileRole) -> ModelSource:
        if isinstance(role, LoraRole) and (lora := find_file(source, loras)) is not None:
            return replace(source, path=str(lora))
        with suppress(ElementalError):
            return replace(source, path=str(locate(source.path)))
        inside = source.sha256 or is_recipe(source.path)
        return replace(source, path=str(folder / source.name) if inside else source.name)

    def find(recipe: MergeRecipe, _: Path) -> MergeRecipe:
        return name_where_found(with_files(recipe, listed), locator)

    return replace(model_source(path), recipe=read_recipe_file(path, find, []))


def list_recipes(folder: Path) -> list[CheckpointRef]:
    """List the recipes in a folder of models, at any depth; their titles say that they are some."""
    found = []
    with suppress(OSError):
        paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in RECIPES)
        found = [path for path in paths if _is_one(path)]
    return [CheckpointRef(f"{path.relative_to(folder).as_posix()}{_MARK}", path) for path in found]


def recipe_title(source: ModelSource) -> str:
    """Give the title under which a recipe of this name is listed, if it is in the host's folder itself."""
    return f"{Path(source.name).stem}{RECIPES[0]}{_MARK}"


def path_of_title(title: str, folder: Path) -> Path | None:
    """Give the file of a recipe that is listed under a title; None for other titles."""
    return folder / title.removesuffix(_MARK) if title.endswith(_MARK) else None


def recipe_instead(source: ModelSource, folder: Path) -> str:
    """Say what is to be done about a recipe in the place of a model that a recipe made elsewhere has.

    Args:
        source: The recipe in the place of a model.
        folder: The host's folder of models.

    Returns:
        Nothing if a recipe of its name is in that folder.
    """
    name = Path(source.name).stem + RECIPES[0]
    if source.recipe is None or _is_one(folder / name):
        return ""
    return (
        f" is a recipe, which is not among the models here: save it as {name} in their folder, "
        "or merge by --recipe on the command line."
    )


def _is_one(path: Path) -> bool:
    with suppress(ElementalError):
        signature = read_signature(path)
        return signature.size <= _LARGEST and _reads(path, signature)
    return False


@functools.lru_cache(maxsize=1024)
def _reads(path: Path, _signature: Signature) -> bool:
    """Tell whether a file is a recipe, whatever its models; remembered until it changes."""
    with suppress(ElementalError, OSError, UnicodeError):
        any_recipe_from_json(read_text(path), name=path.name)
        return True
    return False
