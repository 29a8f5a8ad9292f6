"""``elemental extract``: makes a LoRA of the difference between two models."""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

from ..errors import Stopped
from ..merge.files.model_locator import ModelLocator, model_source
from ..merge.plan_summary import format_size
from .command import Command, Interrupts, UsageError, read_as, read_integer
from .image_options import add_device_option
from .output import print_lines
from .progress import ProgressBar, merge_controls
from .recipe_options import add_models_folder_option
from .standalone_host import DEFAULT_DEVICE


@dataclass(frozen=True)
class ExtractOptions:
    """What to extract.

    Attributes:
        models: Models A and B.
        output: The LoRA to write.
        rank: The rank of each layer.
        overwrite: Whether to replace the file.
        device: Where to compute.
        models_folder: The user's folder of checkpoints.
    """

    models: tuple[str, str]
    output: str
    rank: int
    overwrite: bool
    device: str | None
    models_folder: Path | None


def run_extract(options: ExtractOptions, interrupts: Interrupts = ()) -> None:
    """Write the LoRA, and print what it does not hold.

    Raises:
        UsageError: The rank is none.
        ElementalError: The models cannot be read or do not fit together, or the file cannot be written.
    """
    from ..merge.extract import extract_lora

    if options.rank < 1:
        raise UsageError("--rank is 1 or more")
    start = time.perf_counter()
    model_a, model_b = map(model_source, options.models)
    with ProgressBar() as bar:
        found = extract_lora(
            model_a,
            model_b,
            options.output,
            rank=options.rank,
            locator=ModelLocator(options.models_folder),
            device=options.device or DEFAULT_DEVICE,
            overwrite=options.overwrite,
            controls=merge_controls(bar, interrupts),
        )
    lines = [f"{found.layers:,} layers of rank {options.rank}; {found.remaining:.1%} of the difference remains."]
    if found.left_out:
        lines.append(f"{len(found.left_out):,} tensors differ and have no layer, such as {found.left_out[0]}.")
    size, seconds = format_size(found.path.stat().st_size), time.perf_counter() - start
    try:
        print_lines([*lines, f"{found.path}: {size} in {seconds:.1f} s"])
    except KeyboardInterrupt as exc:
        raise Stopped(f"Stopped; {found.path} was saved before that.") from exc


def _add_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("models", metavar="MODEL", nargs=2, help="A B: the LoRA is for A, and leads to B")
    command.add_argument(
        "-o", "--output", metavar="OUT", required=True, help="the .safetensors file to write (required)"
    )
    command.add_argument("--rank", type=read_integer, default=32, metavar="N", help="rank of each layer (default: 32)")
    command.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    group = command.add_argument_group("more")
    add_device_option(group)
    add_models_folder_option(group, use="")


def _read(args: argparse.Namespace) -> ExtractOptions:
    return read_as(ExtractOptions, args, models=tuple(args.models))


EXTRACT = Command(
    purpose="make a LoRA of the difference between two models",
    arguments="[options] -o OUT A B",
    example="elemental extract a.safetensors b.safetensors --rank 32 -o b-lora.safetensors",
    add_options=_add_options,
    read=_read,
    run=run_extract,
)
