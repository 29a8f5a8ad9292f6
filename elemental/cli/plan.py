"""``elemental plan``: shows what a merge would change."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path

from ..merge.files.hashes import file_sha256
from ..merge.files.metadata import with_files
from ..merge.files.model_locator import expand_home
from ..merge.files.recipe_models import is_recipe
from ..merge.plan_summary import plan_as_dict
from ..recipe.recipe import ModelSource
from ..workflows import plan_merge
from .command import Command, Interrupts, UsageError, read_as
from .output import print_json, print_plan, print_plan_warnings
from .recipe_help import SHORT_RECIPE_HELP
from .recipe_options import (
    RecipeOptions,
    add_recipe_options,
    find_recipe,
    make_recipe,
    read_recipe_options,
)


@dataclass(frozen=True)
class PlanOptions:
    """What to plan.

    Attributes:
        recipe: The merge.
        json: Whether to print JSON.
        save_recipe: A file to write the recipe to; None for none.
    """

    recipe: RecipeOptions
    json: bool
    save_recipe: Path | None


def run_plan(options: PlanOptions, _interrupts: Interrupts = ()) -> None:
    """Print what a merge would change; no tensor is read.

    Raises:
        UsageError: There are too few models, or too many, or the recipe cannot be written.
        ElementalError: The merge cannot be done, or ``--strict`` is there and warnings are, too.
    """
    recipe, remarks = make_recipe(options.recipe)
    plan = plan_merge(recipe, locator=options.recipe.locator)
    if options.json:
        print_json(plan_as_dict(plan))
    else:
        print_plan(plan)
    print_plan_warnings(plan, remarks, strict=options.recipe.strict)
    if options.save_recipe is not None:
        _save_recipe(options.recipe, options.save_recipe)


def _save_recipe(options: RecipeOptions, target: Path) -> None:
    """Write a recipe with the places, sizes and hashes of its models, by which they are found if they are moved."""
    recipe = with_files(find_recipe(options)[0], lambda source, _: _hashed(source))
    if not is_recipe(target):
        raise UsageError(f"{target}: the name of a recipe must end in .json")
    try:
        with target.open("x", encoding="utf-8") as file:
            file.write(json.dumps(recipe.to_dict(), indent=1, ensure_ascii=False) + "\n")
    except OSError as exc:
        raise UsageError(f"cannot write {target}: {exc.strerror or exc}") from exc


def _hashed(source: ModelSource) -> ModelSource:
    return replace(source, sha256=file_sha256(expand_home(source.path)))


def _add_options(command: argparse.ArgumentParser) -> None:
    add_recipe_options(command)
    command.add_argument("--json", action="store_true", help="print the plan as JSON, with every tensor")
    command.add_argument(
        "--save-recipe",
        type=Path,
        metavar="FILE",
        help="write the recipe to a new .json file, which can stand in the place of a model, or after --recipe",
    )


def _read(args: argparse.Namespace) -> PlanOptions:
    return read_as(PlanOptions, args, recipe=read_recipe_options(args))


PLAN = Command(
    arguments="[options] A B [C] | --recipe FILE",
    example='elemental plan a.safetensors b.safetensors --alpha 0 \\\n    --elemental "OUT05:attn2:0.5"',
    add_options=_add_options,
    read=_read,
    run=run_plan,
    notes=SHORT_RECIPE_HELP,
)
