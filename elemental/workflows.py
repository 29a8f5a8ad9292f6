"""Whole jobs, from a recipe to a plan, a file or images, for the command line and the tab."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import CheckpointError, HostError, RecipeError
from .merge.files.checkpoint import SUFFIXES, Checkpoint, is_there
from .merge.files.foreign_recipes import ReadRecipe
from .merge.files.hashes import remembered_sha256
from .merge.files.metadata import (
    LABEL_FIELD,
    RECIPE_FIELD,
    RECIPE_NAME,
    any_recipe_from_json,
    any_recipe_from_metadata,
    name_recipe,
    recipe_as_json,
    with_files,
)
from .merge.files.model_file import read_signature
from .merge.files.model_locator import AS_RECORDED, ModelLocator, model_source
from .merge.files.open_models import OpenModels
from .merge.files.recipe_models import InnerModels, embed_recipes
from .merge.plan import FileRole, MergePlan
from .merge.progress import Controls, Stopwatch
from .recipe.chains import base_file
from .recipe.presets import BUILT_IN_PRESETS, PresetTable, read_presets
from .recipe.recipe import MergeRecipe, ModelSource
from .recipe.text_files import read_text

if TYPE_CHECKING:
    from .hosts.base import Host, LiveModel
    from .images.image_request import GeneratedImage, ImageRequest
    from .merge.live_merge import LiveMerge

CONFIG_VARIABLE = "ELEMENTAL_CONFIG"
"""Environment variable that sets another folder for the user's presets."""


def read_recipe(path: str | Path) -> MergeRecipe:
    """Read the recipe of a merged ``.safetensors`` file, of an image, or of a JSON file.

    Merged files of the WebUI's own merger and of supermerger are read, too, as far as this program can express them;
    what cannot be read is told in a warning of Python.

    Raises:
        CheckpointError: The file, if it is no ``.png``, cannot be read.
        ImageError: A ``.png`` is not there, or cannot be read as an image.
        RecipeError: It holds no recipe, or one that does not fit together or is of a later version.
        SpecError: The recipe's rules cannot be read, or set beta in a mode that has none.
    """
    found = read_whole_recipe(path)
    for remark in found.remarks:
        warnings.warn(remark, stacklevel=2)
    return found.recipe


def read_any_recipe(path: str | Path) -> ReadRecipe:
    """Read a recipe as :func:`read_recipe` does, with remarks on what could not be read.

    Raises:
        ElementalError: As there.
    """
    file = Path(path)
    if file.suffix.lower() == ".png":
        from .images.files import INFOTEXT_FIELD, read_texts
        from .images.infotext import find_value

        texts = read_texts(file)
        in_infotext = find_value(texts.get(INFOTEXT_FIELD, ""), RECIPE_NAME)
        # images that the WebUI saves have the recipe only in the infotext
        return any_recipe_from_metadata(
            {**({RECIPE_FIELD: in_infotext} if in_infotext else {}), **texts}, name=str(file)
        )
    if file.suffix.lower() in SUFFIXES:
        with Checkpoint(file) as checkpoint:
            return any_recipe_from_metadata(checkpoint.metadata, name=str(file))
    try:
        return any_recipe_from_json(read_text(file), name=str(file))
    except (OSError, UnicodeError) as exc:
        raise CheckpointError(f"Cannot read the recipe in {file}: {exc}.") from exc


def read_whole_recipe(path: str | Path, *, locator: ModelLocator = AS_RECORDED) -> ReadRecipe:
    """Read a recipe as :func:`read_any_recipe` does, and the recipes that it names in the place of models.

    Args:
        path: The file.
        locator: Finds the models of these recipes.

    Raises:
        ElementalError: As there, or a recipe leads back to itself.
    """
    found, file, remarks = read_any_recipe(path), Path(path), list[str]()
    finder = InnerModels(locator, remarks)
    recipe = embed_recipes(found.recipe, file.parent, finder.find, remarks, (Path(os.path.abspath(file)),))  # noqa: PTH100
    return ReadRecipe(recipe, (*found.remarks, *remarks))


def user_presets_path() -> Path:
    """Give the file of the user's block weight presets; it may not exist."""
    folder = os.environ.get(CONFIG_VARIABLE)
    if not folder:
        import platformdirs  # for few merges, as most have no presets

        folder = str(platformdirs.user_config_path("elemental", appauthor=False))
    return Path(folder) / "presets.txt"


def load_presets() -> PresetTable:
    """Read the built-in block weight presets and the user's, which replace built-in ones of the same name.

    Raises:
        RecipeError: The user's file cannot be read. A line that cannot be used is an error only for its name.
    """
    user_presets = user_presets_path()
    try:
        has_presets = user_presets.is_file()
    except OSError as exc:
        raise RecipeError(f"Cannot read the presets in {user_presets}: {exc.strerror or exc}.") from exc
    return read_presets(BUILT_IN_PRESETS, *([user_presets] if has_presets else []))


def identify_models(recipe: MergeRecipe, *, locator: ModelLocator = AS_RECORDED) -> MergeRecipe:
    """Add the sizes of its models to a recipe, and their hashes where cached.

    Args:
        recipe: What to merge.
        locator: Finds the models.

    Raises:
        CheckpointError: A model is missing, cannot be read or has changed, or there is no such folder.
    """

    def known(source: ModelSource, _: FileRole) -> ModelSource:
        path = locator.locate(source)
        return replace(source, sha256=remembered_sha256(path), size=read_signature(path).size)

    return with_files(recipe, known)


def plan_merge(recipe: MergeRecipe, *, locator: ModelLocator = AS_RECORDED) -> MergePlan:
    """Plan a recipe.

    Only the headers of the files are read, unless the recipe has hashes that are not cached: then the files are read
    completely to check them.

    Args:
        recipe: What to merge and how.
        locator: Finds the models.

    Raises:
        CheckpointError: A model is missing, damaged, has changed, or is none that can be merged.
        MergeError: The models do not fit together, or one is quantised.
        RecipeError: Block weights are for another architecture.
    """
    with OpenModels(locator) as open_models:
        return open_models.planner(recipe).plan(recipe)


@contextmanager
def live_merge(live: LiveModel, models: OpenModels | ModelLocator = AS_RECORDED) -> Iterator[LiveMerge]:
    """Merge recipes into a live model; when the ``with`` block ends it is restored, unless the merge was kept.

    Args:
        live: The model, as ``Host.open_model`` gives it.
        models: Finds the models of the recipes; or has them open already, and stays so.

    Yields:
        What makes the model equal to a recipe: :meth:`~.merge.live_merge.LiveMerge.apply`.

    Raises:
        CheckpointError: The file that the model was loaded from cannot be read any more, or is none that can be merged.
        HostError: Another merge is using the model, or on leaving, the model could not be restored.
    """
    from .merge.live_merge import LiveMerge

    with ExitStack() as stack:
        opened = models if isinstance(models, OpenModels) else stack.enter_context(OpenModels(models))
        original = live.checkpoint
        file = opened.open_one(model_source(original.path)) if original and is_there(original.path) else None
        merge = stack.enter_context(LiveMerge(live, opened, original=file))
        try:
            yield merge
        finally:
            merge.give_back()  # an interrupt in the first moment of __exit__ would be its last


def make_images(
    host: Host,
    request: ImageRequest,
    model: ModelSource | MergeRecipe,
    *,
    locator: ModelLocator = AS_RECORDED,
    controls: Controls | None = None,
) -> Sequence[GeneratedImage]:
    """Make images from a model, or from a merge in memory; afterwards the host has the model, or A, loaded as it is.

    Args:
        host: What makes the images, such as ``elemental.hosts.standalone.host.StandaloneHost``; it loads the
            model, of a merge A.
        request: What to make, an ``elemental.images.image_request.ImageRequest``.
        model: A model as it is, or a merge.
        locator: Finds the models.
        controls: Progress and stop of the merge.

    Returns:
        As many as the request's batch, in the order of their seeds.

    Raises:
        CheckpointError: A model is missing, damaged, has changed, or is none that can be merged.
        MergeError: The models do not fit together, or cannot be merged into the live model.
        RecipeError: Block weights are for another architecture.
        HostError: The host fails, or the merge is not in the live model when the images are made.
        Stopped: The user asked for it.
    """
    from .hosts.base import CheckpointRef

    if isinstance(model, ModelSource) and model.recipe is not None:
        model = model.recipe
    first = base_file(model.model_a if isinstance(model, MergeRecipe) else model)
    path = locator.locate(first)
    live = host.open_model(CheckpointRef(path.stem, path))
    if isinstance(model, ModelSource):
        sha256 = remembered_sha256(path)
        return host.make_images(request, model={**({"Model hash": sha256[:10]} if sha256 else {}), "Model": path.stem})
    with live_merge(live, locator) as merge:
        return images_of_merge(host, request, merge, model, controls=controls)


def images_of_merge(
    host: Host,
    request: ImageRequest,
    merge: LiveMerge,
    recipe: MergeRecipe,
    *,
    controls: Controls | None = None,
    watch: Stopwatch | None = None,
) -> Sequence[GeneratedImage]:
    """Merge a recipe into a live model, and make images that contain the recipe.

    Args:
        host: What makes the images.
        request: What to make.
        merge: The live model.
        recipe: What to merge and how.
        controls: Progress and stop of the merge.
        watch: Counts the seconds of "merging" and "generating".

    Returns:
        As many as the request's batch, in the order of their seeds.

    Raises:
        CheckpointError: A model is missing, damaged, or has changed.
        MergeError: The models do not fit together, or not the live model.
        RecipeError: Block weights are for another architecture.
        HostError: The host fails, or put other numbers into the model before the images were made.
        Stopped: The user asked for it.
    """
    watch = watch or Stopwatch()
    with watch("merging"):
        recipe = merge.apply(recipe, controls=controls).plan.recipe
    text = recipe_as_json(recipe, merge.models)
    with watch("generating"):
        images = host.make_images(request, model={LABEL_FIELD: name_recipe(recipe)}, fields={RECIPE_FIELD: text})
    with watch("merging"):
        intact = merge.is_intact()
    if not intact:
        raise HostError("Something else was loaded before the images were made, and the merge is gone: merge again.")
    return images
