"""The command line's commands: what they are for, their options, and an example of each."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Callable, Sequence
from typing import NamedTuple

from .. import __version__
from .generate import add_request_options
from .plot import AXES_HELP, CHECK_HELP, add_check_options, add_plot_options
from .recipe_options import RECIPE_HELP, add_recipe_options, join_negative_numbers
from .ui import UI_HELP, add_ui_options

_SPEC_HELP = """\
An elemental spec is a list of rules, separated by commas or line ends:

  blocks:elements:ratio        OUT03 OUT04 OUT05:attn2 attn1.to_out:0.5
  blocks:elements:ratio:beta   IN00-IN05::0.2:0.1   (triple-sum and sum-twice)

blocks    BASE, TE, VAE, IN00.., M00, OUT00.., ranges such as IN03-OUT02;
          blank for all
elements  pieces of element names; blank for all
NOT       first in either place inverts it; "#" starts a comment;
          a later rule wins
"""

_EPILOG = """\
elemental COMMAND --help has the options of a command, with an example.

exit codes: 0 done, 1 failed, 2 wrong usage (options, spec, recipe), 130 stopped
environment: ELEMENTAL_CACHE and ELEMENTAL_CONFIG name other folders for hashes
of models that are remembered, and for presets and history
"""


class _Command(NamedTuple):
    """What is declared of a command.

    Attributes:
        purpose: What it is for, in a few words.
        arguments: How it is called, without its name.
        example: A call of it.
        add_options: Declares its options.
        notes: What else its help says.
    """

    purpose: str
    arguments: str
    example: str
    add_options: Callable[[argparse.ArgumentParser], None]
    notes: str = ""


def parse_command(argv: Sequence[str]) -> argparse.Namespace:
    """Parse a command line: options and models in any order, and negative numbers as values.

    Args:
        argv: What was given, without the program's name.

    Returns:
        What was given; ``command`` is the command's name, ``parser`` its parser.
    """
    parser = argparse.ArgumentParser(
        prog="elemental",
        description="Merge Stable Diffusion checkpoints element by element.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, command in _COMMANDS.items():
        _add(commands, name, command)
    args, rest = parser.parse_known_args(join_negative_numbers(argv))
    if rest and (not hasattr(args, "models_given") or any(word.startswith("-") for word in rest)):
        args.parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        args.models_given += rest
    return args


def _add(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, command: _Command
) -> argparse.ArgumentParser:
    example = textwrap.indent(command.example, "  ")
    added = commands.add_parser(
        name,
        help=command.purpose,
        usage=f"elemental {name} {command.arguments}",
        description=f"{command.purpose[0].upper()}{command.purpose[1:]}.",
        epilog=f"example:\n{example}\n\n{command.notes}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.add_options(added)
    added.add_argument("--debug", action="store_true", help="show where an error comes from")
    added.set_defaults(command=name, parser=added)
    return added


def _add_inspect_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("checkpoint", metavar="CKPT", help="a checkpoint file")
    command.add_argument("--elements", action="store_true", help="show which element exists in which block")
    command.add_argument("--json", action="store_true", help="as JSON")


def _add_plan_options(command: argparse.ArgumentParser) -> None:
    add_recipe_options(command)
    command.add_argument("--json", action="store_true", help="as JSON, tensor by tensor")


def _add_merge_options(command: argparse.ArgumentParser) -> None:
    add_recipe_options(command)
    group = command.add_argument_group("result")
    group.add_argument("-o", "--output", metavar="OUT", help="the .safetensors file to make")
    group.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    group.add_argument(
        "--device", default="cpu", metavar="D", help="where to compute, as torch names it (default: cpu)"
    )
    group.add_argument("--no-hash", action="store_true", help="leave the models' SHA-256 out of the result")
    group.add_argument("--print-change", action="store_true", help="list each tensor that a rule sets")
    group.add_argument("--dry-run", action="store_true", help="show the plan and write nothing")


def _add_generate_options(command: argparse.ArgumentParser) -> None:
    add_recipe_options(command, models="A B, and C for modes with three models; or one, to draw from it as it is")
    add_request_options(command)
    group = command.add_argument_group("result")
    group.add_argument("-o", "--output", metavar="DIR", required=True, help="the folder for the images")


def _add_demo_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "-o",
        "--output",
        metavar="DIR",
        default="elemental-demo",
        help="the folder for the models and the strip (default: %(default)s)",
    )


_COMMANDS = {
    "inspect": _Command(
        "tell what a checkpoint is",
        "[options] CKPT",
        "elemental inspect model.safetensors --elements",
        _add_inspect_options,
    ),
    "plan": _Command(
        "show what a merge would change, from the models' headers alone",
        "[options] A B [C]",
        'elemental plan a.safetensors b.safetensors --alpha 0.3 \\\n    --elemental "OUT05:attn2:0.5"',
        _add_plan_options,
        RECIPE_HELP + _SPEC_HELP,
    ),
    "merge": _Command(
        "merge into a file",
        "[options] -o OUT A B [C]",
        "elemental merge a.safetensors b.safetensors -o ab.safetensors \\\n"
        '    --blocks GRAD_V --elemental "OUT05:attn2:0.5"',
        _add_merge_options,
        RECIPE_HELP + _SPEC_HELP,
    ),
    "generate": _Command(
        "make images from a model, or from a merge in memory",
        "[options] -o DIR A [B [C]]",
        "elemental generate a.safetensors b.safetensors -o images \\\n"
        '    --elemental "OUT05:attn2:0.5" --prompt "a cat"',
        _add_generate_options,
        RECIPE_HELP + _SPEC_HELP,
    ),
    "plot": _Command(
        "make a grid of images along two axes",
        "[options] -o DIR A B [C]",
        'elemental plot a.safetensors b.safetensors -o plot --alpha 0 \\\n    --prompt "a cat" '
        '--x-type alpha --x "0, 0.5, 1" \\\n'
        '    --y-type pinpoint-element --y "IN07:attn1, IN07:attn2"',
        add_plot_options,
        AXES_HELP + RECIPE_HELP + _SPEC_HELP,
    ),
    "check": _Command(
        "rank what elements do to an image",
        "[options] -o DIR A B [C]",
        "elemental check a.safetensors b.safetensors --alpha 0 --ratio 1 -o checks \\\n"
        '    --elements "OUT03:attn1, OUT03:attn2, OUT03:ff" --prompt "a cat"',
        add_check_options,
        CHECK_HELP + RECIPE_HELP + _SPEC_HELP,
    ),
    "ui": _Command(
        "serve the tab by itself, to this machine alone",
        "[options]",
        'elemental ui --models models --prompt "a cat"',
        add_ui_options,
        UI_HELP,
    ),
    "demo": _Command(
        "show on two small models what elemental merging is",
        "[options]",
        "elemental demo -o trial",
        _add_demo_options,
    ),
}
