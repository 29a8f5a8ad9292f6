"""``elemental inspect``: shows what a checkpoint is."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from ..merge.files.checkpoint import Checkpoint
from ..merge.plan_summary import checkpoint_as_dict, describe_checkpoint, draw_elements, elements_as_dict
from .command import Command, Interrupts, read_as
from .output import print_json, print_lines


@dataclass(frozen=True)
class InspectOptions:
    """What to show.

    Attributes:
        checkpoint: The file.
        elements: Whether to show which element is in which block.
        json: Whether to print JSON.
    """

    checkpoint: str
    elements: bool
    json: bool


def run_inspect(options: InspectOptions, _interrupts: Interrupts = ()) -> None:
    """Print what a checkpoint is.

    Raises:
        CheckpointError: The file cannot be read.
    """
    with Checkpoint(options.checkpoint) as checkpoint:
        if options.json:
            _print_facts(checkpoint, with_elements=options.elements)
        else:
            _print_text(checkpoint, options)


def _print_facts(checkpoint: Checkpoint, *, with_elements: bool) -> None:
    tensors, architecture = checkpoint.tensors, checkpoint.architecture
    facts = checkpoint_as_dict(tensors, architecture, size=checkpoint.signature.size)
    if checkpoint.renamings:
        facts["names"] = list(checkpoint.renamings)
    if with_elements:
        facts["elements"] = elements_as_dict(tensors, architecture)
    print_json(facts)


def _print_text(checkpoint: Checkpoint, options: InspectOptions) -> None:
    tensors, architecture = checkpoint.tensors, checkpoint.architecture
    name, size, header = options.checkpoint, checkpoint.signature.size, checkpoint.metadata
    print_lines(describe_checkpoint(tensors, architecture, name=name, size=size, header=header))
    if checkpoint.renamings:
        print_lines([f"names:    {', '.join(checkpoint.renamings)}"])
    if options.elements:
        print_lines(["", *draw_elements(tensors, architecture)])


def _add_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("checkpoint", metavar="CKPT", help="a checkpoint file")
    command.add_argument(
        "--elements", action="store_true", help="list the element names, and the blocks that have them"
    )
    command.add_argument("--json", action="store_true", help="print JSON")


def _read(args: argparse.Namespace) -> InspectOptions:
    return read_as(InspectOptions, args)


INSPECT = Command(
    purpose="show what is in a checkpoint",
    arguments="[options] CKPT",
    example="elemental inspect model.safetensors --elements",
    add_options=_add_options,
    read=_read,
    run=run_inspect,
)
