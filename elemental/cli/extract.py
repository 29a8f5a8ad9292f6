"""``elemental extract``: makes a LoRA of the difference between two models."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import Stopped
from ..merge.change_counts import count_changes
from ..merge.plan_summary import describe_names, format_size
from .command import Command, Interrupts, UsageError, read_as, read_integer, read_number
from .image_options import add_device_option
from .output import count_of, print_lines, print_plan_warnings
from .progress import ProgressBar, merge_controls
from .recipe_options import RecipeOptions, add_difference_options, add_models_folder_option, make_difference
from .standalone_host import DEFAULT_DEVICE

if TYPE_CHECKING:
    from ..merge.extract import Extraction


@dataclass(frozen=True)
class ExtractOptions:
    """What to extract.

    Attributes:
        recipe: Models A and B, and the ratios of their difference.
        output: The LoRA to write.
        rank: The rank of each layer, or the highest.
        energy: The share of its difference's squares that each layer is to hold; None for layers of one rank.
        overwrite: Whether to replace the file.
        device: Where to compute.
    """

    recipe: RecipeOptions
    output: str
    rank: int
    energy: float | None
    overwrite: bool
    device: str | None


def run_extract(options: ExtractOptions, interrupts: Interrupts = ()) -> None:
    """Write the LoRA, and print what it does not hold.

    Raises:
        UsageError: The rank is none, or the energy no share.
        ElementalError: The models cannot be read or do not fit together, the file cannot be written, or ``--strict``
            is there and warnings are, too.
    """
    from ..merge.extract import extract_lora
    from ..merge.low_rank import RankChoice

    if options.rank < 1:
        raise UsageError("--rank is 1 or more")
    if options.energy is not None and not 0 < options.energy <= 1:
        raise UsageError("--energy is a share: more than 0, and at most 1")
    start = time.perf_counter()
    recipe, remarks = make_difference(options.recipe)
    with ProgressBar() as bar:
        found = extract_lora(
            recipe,
            options.output,
            ranks=RankChoice(options.rank, options.energy),
            locator=options.recipe.locator,
            device=options.device or DEFAULT_DEVICE,
            overwrite=options.overwrite,
            controls=merge_controls(bar, interrupts),
            on_plan=lambda plan: print_plan_warnings(plan, remarks, strict=options.recipe.strict),
        )
    size, seconds = format_size(found.path.stat().st_size), time.perf_counter() - start
    try:
        print_lines([*_describe(found, options), f"{found.path}: {size} in {seconds:.1f} s"])
    except KeyboardInterrupt as exc:
        raise Stopped(f"Stopped; {found.path} was saved before that.") from exc


def _describe(found: Extraction, options: ExtractOptions) -> Iterator[str]:
    """Say what the rules set, which ranks the layers have, and what the LoRA lacks."""
    if found.plan.recipe.rules:
        yield f"{count_changes(found.plan).rules_set}."
    yield from describe_names(found.plan)
    least, most = min(found.ranks), max(found.ranks)
    ranks = str(most) if least == most else f"{least} to {most}, median {statistics.median_low(found.ranks)}"
    yield f"{count_of(found.layers, 'layer')} of rank {ranks}; {found.remaining:.1%} of the difference remains."
    if found.cut:
        share = f"to hold {options.energy:g} of the squares"
        yield f"{found.cut:,} of them would need more than --rank {options.rank} {share}."
    if found.left_out:
        yield f"{len(found.left_out):,} tensors differ and have no layer, such as {found.left_out[0]}."


def _add_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "models", metavar="MODEL", nargs=2, help="A B: the LoRA is for A, and leads to B; files or recipes (.json)"
    )
    command.add_argument(
        "-o", "--output", metavar="OUT", required=True, help="the .safetensors file to write (required)"
    )
    command.add_argument(
        "--rank",
        type=read_integer,
        default=32,
        metavar="N",
        help="rank of each layer; with --energy the highest (default: 32)",
    )
    command.add_argument(
        "--energy",
        type=read_number,
        metavar="E",
        help="give each layer the least rank that holds this share of the squares of its difference, such as 0.9",
    )
    command.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    add_difference_options(command)
    group = command.add_argument_group("more")
    add_device_option(group)
    add_models_folder_option(group, use="")


def _read(args: argparse.Namespace) -> ExtractOptions:
    return read_as(ExtractOptions, args, recipe=read_as(RecipeOptions, args, models=tuple(args.models)))


EXTRACT = Command(
    arguments="[options] -o OUT A B",
    example="elemental extract a.safetensors b.safetensors --rank 32 -o b-lora.safetensors",
    add_options=_add_options,
    read=_read,
    run=run_extract,
    notes="""\
Layers of ratio 0 are left out: --alpha 0 --elemental "OUT03-OUT05:attn2:1"
extracts one kind of attention of three blocks. Presets and rules are explained
in: elemental merge --help
""",
)
