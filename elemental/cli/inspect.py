"""``elemental inspect``: shows what a checkpoint is."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from ..merge.chained_model import ChainedModel
from ..merge.files.checkpoint import Checkpoint
from ..merge.files.metadata import name_recipe
from ..merge.files.open_models import OpenModels
from ..merge.files.recipe_models import is_recipe, read_model
from ..merge.models import Model
from ..merge.plan_summary import checkpoint_as_dict, describe_checkpoint, draw_elements, elements_as_dict
from .command import Command, Interrupts, read_as
from .output import print_json, print_lines, print_plan_warnings


@dataclass(frozen=True)
class InspectOptions:
    """What to show.

    Attributes:
        checkpoint: The file, or a recipe that can stand in its place.
        elements: Whether to show which element is in which block.
        json: Whether to print JSON.
    """

    checkpoint: str
    elements: bool
    json: bool


def run_inspect(options: InspectOptions, _interrupts: Interrupts = ()) -> None:
    """Print what a checkpoint is.

    Raises:
        ElementalError: The file cannot be read, or is a recipe that cannot be planned.
    """
    if is_recipe(options.checkpoint):
        _inspect_recipe(options)
        return
    with Checkpoint(options.checkpoint) as checkpoint:
        if options.json:
            _print_facts(checkpoint, checkpoint.signature.size, with_elements=options.elements)
        else:
            _print_text(checkpoint, checkpoint.signature.size, options)


def _inspect_recipe(options: InspectOptions) -> None:
    """Print what the result of a recipe would be; no tensor is read."""
    read = read_model(options.checkpoint)
    assert read.source.recipe is not None
    with OpenModels() as models:
        plan = models.planner(read.source.recipe).plan(read.source.recipe)
        made = ChainedModel(read.source.name, plan, models.open(read.source.recipe))
    if options.json:
        _print_facts(made, plan.nbytes, with_elements=options.elements)
    else:
        _print_text(made, plan.nbytes, options)
        print_lines([f"recipe:   {name_recipe(plan.recipe)}"])
    print_plan_warnings(plan, read.remarks, strict=False)


def _print_facts(checkpoint: Model, size: int, *, with_elements: bool) -> None:
    tensors, architecture = checkpoint.tensors, checkpoint.architecture
    facts = checkpoint_as_dict(tensors, architecture, size=size)
    if checkpoint.renamings:
        facts["names"] = list(checkpoint.renamings)
    if with_elements:
        facts["elements"] = elements_as_dict(tensors, architecture)
    print_json(facts)


def _print_text(checkpoint: Model, size: int, options: InspectOptions) -> None:
    tensors, architecture = checkpoint.tensors, checkpoint.architecture
    name, header = options.checkpoint, checkpoint.metadata
    print_lines(describe_checkpoint(tensors, architecture, name=name, size=size, header=header))
    if checkpoint.renamings:
        print_lines([f"names:    {', '.join(checkpoint.renamings)}"])
    if options.elements:
        print_lines(["", *draw_elements(tensors, architecture)])


def _add_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("checkpoint", metavar="CKPT", help="a checkpoint file, or a recipe (.json)")
    command.add_argument(
        "--elements", action="store_true", help="list the element names, and the blocks that have them"
    )
    command.add_argument("--json", action="store_true", help="print JSON")


def _read(args: argparse.Namespace) -> InspectOptions:
    return read_as(InspectOptions, args)


INSPECT = Command(
    arguments="[options] CKPT",
    example="elemental inspect model.safetensors --elements",
    add_options=_add_options,
    read=_read,
    run=run_inspect,
)
