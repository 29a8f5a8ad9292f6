"""``elemental generate``: makes images from a model, or from a merge in memory."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from ..merge.files.recipe_models import read_model
from ..merge.progress import Controls
from ..recipe.recipe import MergeRecipe, ModelSource
from ..workflows import make_images, plan_merge
from .command import Command, Interrupts, UsageError, read_as
from .image_options import ImageOptions, add_image_options
from .output import print_lines, print_plan_warnings, print_warnings
from .progress import ProgressBar, StepReport
from .recipe_help import SHORT_RECIPE_HELP
from .recipe_options import RecipeOptions, add_recipe_options, make_recipe, read_recipe_options
from .standalone_host import make_host, require_packages

_OF_MERGES_ONLY = (
    "mode", "alpha", "beta", "numbers", "blocks", "blocks_beta", "elemental", "elemental_file", "vae", "dtype",
    "more",
)  # fmt: skip


@dataclass(frozen=True)
class GenerateOptions:
    """What to make images of.

    Attributes:
        recipe: The merge, or one model.
        images: The images.
        output: The folder for them.
    """

    recipe: RecipeOptions
    images: ImageOptions
    output: Path


def run_generate(options: GenerateOptions, interrupts: Interrupts) -> None:
    """Merge in memory, make images, and write nothing else.

    Raises:
        UsageError: There is no model, or options of a merge and only one model.
        ElementalError: Something cannot be used, or the images cannot be made or saved.
        Stopped: The user asked for it.
    """
    model = _model(options.recipe)
    require_packages()
    from ..images.files import free_names, make_folder, write_png

    request = options.images.request()
    make_folder(options.output)
    with ProgressBar() as bar:
        host = make_host(options.images.device, report=StepReport(bar))
        controls = Controls(should_stop=lambda: bool(interrupts))
        images = make_images(host, request, model, locator=options.recipe.locator, controls=controls)
    for path, image in zip(free_names(options.output, [image.seed for image in images]), images, strict=True):
        write_png(path, image)
        print_lines([str(path)])


def _model(options: RecipeOptions) -> ModelSource | MergeRecipe:
    """Give the one model, or the recipe of the merge after its warnings were printed."""
    if options.recipe is None and not options.models:
        raise UsageError("a model is needed, or two or three to merge: A [B] [C]")
    if options.recipe is None and len(options.models) == 1 and not options.has_one_model:
        _refuse_merge_options(options)
        read = read_model(options.models[0], locator=options.locator, unfold=options.unfold)
        print_warnings(read.remarks, strict=options.strict)
        return read.source.recipe or read.source
    recipe, remarks = make_recipe(options)
    print_plan_warnings(plan_merge(recipe, locator=options.locator), remarks, strict=options.strict)
    return recipe


def _refuse_merge_options(options: RecipeOptions) -> None:
    unused = [f"--{name.replace('_', '-')}" for name in _OF_MERGES_ONLY if getattr(options, name) is not None]
    if unused:
        raise UsageError(f"{', '.join(unused)}: one model alone is not merged; name two, or three")


def _add_options(command: argparse.ArgumentParser) -> None:
    add_recipe_options(command, models="one model; or two or three to merge (A B [C])")
    add_image_options(command)
    group = command.add_argument_group("result")
    group.add_argument(
        "-o", "--output", type=Path, metavar="DIR", required=True, help="the folder for the images (required)"
    )


def _read(args: argparse.Namespace) -> GenerateOptions:
    return read_as(GenerateOptions, args, recipe=read_recipe_options(args), images=read_as(ImageOptions, args))


GENERATE = Command(
    arguments="[options] -o DIR A [B [C]] | -o DIR --recipe FILE",
    example="elemental generate a.safetensors b.safetensors -o images \\\n"
    '    --alpha 0 --elemental "OUT05:attn2:0.5" --prompt "a cat"',
    add_options=_add_options,
    read=_read,
    run=run_generate,
    notes=SHORT_RECIPE_HELP,
)
