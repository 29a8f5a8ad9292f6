"""``elemental plan``: shows what a merge would change."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from ..merge.plan_summary import plan_as_dict
from ..workflows import plan_merge
from .command import Command, Interrupts, read_as
from .output import print_json, print_plan, print_plan_warnings
from .recipe_options import SHORT_RECIPE_HELP, RecipeOptions, add_recipe_options, make_recipe, read_recipe_options


@dataclass(frozen=True)
class PlanOptions:
    """What to plan.

    Attributes:
        recipe: The merge.
        json: Whether to print JSON.
    """

    recipe: RecipeOptions
    json: bool


def run_plan(options: PlanOptions, _interrupts: Interrupts = ()) -> None:
    """Print what a merge would change; no tensor is read.

    Raises:
        UsageError: There are too few models, or too many.
        ElementalError: The merge cannot be done, or ``--strict`` is there and warnings are, too.
    """
    recipe, remarks = make_recipe(options.recipe)
    plan = plan_merge(recipe, locator=options.recipe.locator)
    if options.json:
        print_json(plan_as_dict(plan))
    else:
        print_plan(plan)
    print_plan_warnings(plan, remarks, strict=options.recipe.strict)


def _add_options(command: argparse.ArgumentParser) -> None:
    add_recipe_options(command)
    command.add_argument("--json", action="store_true", help="print the plan as JSON, with every tensor")


def _read(args: argparse.Namespace) -> PlanOptions:
    return read_as(PlanOptions, args, recipe=read_recipe_options(args))


PLAN = Command(
    purpose="preview a merge without making it",
    arguments="[options] A B [C] | --recipe FILE",
    example='elemental plan a.safetensors b.safetensors --alpha 0 \\\n    --elemental "OUT05:attn2:0.5"',
    add_options=_add_options,
    read=_read,
    run=run_plan,
    notes=SHORT_RECIPE_HELP,
)
