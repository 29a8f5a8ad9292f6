"""The models of a recipe made elsewhere, found among those that the host lists; of other places nothing is told."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from ..errors import ElementalError
from ..merge.files.metadata import with_files
from ..merge.files.model_locator import ModelLocator, expand_home
from ..merge.files.recipe_models import name_where_found
from ..merge.plan import FileRole, LoraRole, Role, sources_of
from ..recipe.recipe import MergeRecipe, ModelSource
from .form import is_file
from .loras import find_file, find_files
from .recipe_models import recipe_instead
from .session import Session


def find_listed(session: Session, recipe: MergeRecipe) -> MergeRecipe:
    """Give a recipe with the paths of its models that are found among the host's."""
    return name_where_found(_as_listed(session, recipe), _locator(session))


def missing_models(session: Session, recipe: MergeRecipe) -> list[str]:
    """Say which models of a recipe are not what they were when it was made."""
    listed, locator = sources_of(_as_listed(session, recipe)), _locator(session)
    remarks = {
        role: _lora_remark(session, source) if isinstance(role, LoraRole) else _remark(source, listed[role], locator)
        for role, source in sources_of(recipe).items()
    }
    return [f"{_title(role)}{remark}" for role, remark in remarks.items() if remark]


def _title(role: FileRole) -> str:
    return f"Model {role.name}" if isinstance(role, Role) else role.spoken


def _locator(session: Session) -> ModelLocator:
    """Find models that the host lists, or in its folder; of other places the page tells nobody."""
    paths = [checkpoint.path for checkpoint in session.checkpoints()]
    folder = session.host.models_folder()
    return ModelLocator(folder, folder, frozenset([*paths, *(Path(os.path.realpath(path)) for path in paths)]))


def _as_listed(session: Session, recipe: MergeRecipe) -> MergeRecipe:
    """Call the models of a recipe as the host lists them, or else by name; other paths are not looked at."""
    loras = session.loras()

    def listed(source: ModelSource, role: FileRole) -> ModelSource:
        if isinstance(role, LoraRole):
            found = find_file(source, loras)
            return replace(source, path=source.name if found is None else str(found))
        try:
            path = session.find_model(source.path).path
        except ElementalError:
            path = str(session.host.models_folder() / source.name) if source.sha256 else source.name
        return replace(source, path=path)

    return with_files(recipe, listed)


def _lora_remark(session: Session, source: ModelSource) -> str:
    """Say what is to be said of a LoRA, which the host may list."""
    listed, folder = session.loras(), session.host.lora_folder()
    found = find_files(source, listed)
    if len(found) > 1:
        return f': several here could be "{source.name}", in different folders; choose one.'
    if not found:
        end = f"; put the file into {folder} and refresh the list." if folder is not None else "."
        if any(lora.path.name.casefold() == source.name.casefold() for lora in listed):
            return f": {source.name} is another file here than the one of the recipe{end}"
        return f': no LoRA named "{source.name}" is in the list{end}'
    name = next(lora.name for lora in listed if lora.path == found[0])
    return "" if found[0].name == source.name else f" is now called {name}; choose it."


def _remark(source: ModelSource, listed: ModelSource, locator: ModelLocator) -> str:
    """Say what is to be said of a model, which the host may list."""
    if source.recipe is not None and locator.folder is not None:
        return recipe_instead(source, locator.folder)
    try:
        path = locator.locate(listed)
    except ElementalError as exc:
        return f": {exc}"
    if not is_file(path):
        return f': no model named "{source.name}" is in the list; choose one.'
    return "" if path == expand_home(source.path) else f" is now at {path}; choose it."
