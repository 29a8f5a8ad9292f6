"""The command line: ``elemental inspect | plan | merge | generate | plot | check | ui | demo``."""

from __future__ import annotations

import argparse
import io
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from . import __version__
from .cli_demo import run_demo
from .cli_pictures import add_request_options, run_generate
from .cli_plots import AXES_HELP, CHECK_HELP, add_check_options, add_plot_options, run_check, run_plot
from .cli_recipe import add_recipe_options, join_negative_numbers, recipe_from_options
from .cli_ui import add_ui_options, run_ui
from .errors import ElementalError, RecipeError, SpecError, Stopped
from .merge import show
from .merge.checkpoint import Checkpoint
from .merge.controls import Controls
from .merge.plan import MergePlan
from .spec.recipe import MergeRecipe
from .workflows import merge_to_file, plan_merge

DONE, FAILED, WRONG_USAGE, STOPPED = 0, 1, 2, 130

_SPEC_HELP = """\
An elemental spec is a list of rules, separated by commas or line ends:

  blocks:elements:ratio           OUT03 OUT04 OUT05:attn2 attn1.to_out:0.5
  blocks:elements:ratio:beta      IN00-IN05::0.2:0.1   (triple-sum and sum-twice)

blocks    BASE, TE, VAE, IN00.., M00, OUT00.., ranges such as IN03-OUT02; blank for all
elements  pieces of element names; blank for all
NOT       first in either place inverts it; "#" starts a comment; a later rule wins
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: The arguments; by default the process's.

    Returns:
        0 done, 1 failed, 2 wrong usage (of options, spec or recipe), 130 stopped.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that the terminal cannot show is no reason to fail
            stream.reconfigure(errors="backslashreplace")
    args = _parse(sys.argv[1:] if argv is None else argv)
    signal.signal(signal.SIGTERM, _stop)
    try:
        run: Callable[[argparse.Namespace], int] = args.run
        code = run(args)
    except KeyboardInterrupt:
        return _fail(str(Stopped()), STOPPED, debug=args.debug)
    except Stopped as exc:
        return _fail(str(exc), STOPPED, debug=args.debug)
    except (SpecError, RecipeError) as exc:
        return _fail(str(exc), WRONG_USAGE, debug=args.debug)
    except ElementalError as exc:
        return _fail(f"error: {exc}", FAILED, debug=args.debug)
    except Exception as exc:  # a defect of this program; its trace is of use to its developers only
        hint = "" if args.debug else "\nThis is a defect of the program; --debug shows where."
        return _fail(f"error: {type(exc).__name__}: {exc}{hint}", FAILED, debug=args.debug)
    return code


def _stop(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _fail(message: str, code: int, *, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    print(message, file=sys.stderr)
    return code


def _inspect(args: argparse.Namespace) -> int:
    with Checkpoint(args.checkpoint) as checkpoint:
        architecture, size = checkpoint.architecture, checkpoint.signature.size
        if args.json:
            facts = show.checkpoint_as_dict(checkpoint.tensors, architecture, size=size)
            if args.elements:
                facts["elements"] = show.elements_as_dict(checkpoint.tensors, architecture)
            _print_lines([_json(facts)])
            return DONE
        _print_lines(show.describe_checkpoint(checkpoint.tensors, architecture, name=args.checkpoint, size=size))
        if args.elements:
            print()
            _print_lines(show.draw_elements(checkpoint.tensors, architecture))
    return DONE


def _plan(args: argparse.Namespace) -> int:
    recipe, remarks = recipe_from_options(args)
    plan = plan_merge(recipe, models_folder=args.models)
    if args.json:
        _print_lines([_json(show.plan_as_dict(plan))])
    else:
        _describe(plan)
    _warn(plan, remarks, strict=args.strict)
    return DONE


def _merge(args: argparse.Namespace) -> int:
    if args.output is None and not args.dry_run:
        args.parser.error("the result needs a name: -o OUT.safetensors")
    recipe, remarks = recipe_from_options(args)

    def tell(plan: MergePlan) -> None:
        _warn(plan, remarks, strict=args.strict)
        if args.print_change:
            _print_lines(show.describe_changes(plan))

    if args.dry_run:
        plan = plan_merge(recipe, models_folder=args.models)
        tell(plan)
        _describe(plan)
        _print_lines(["", "Dry run: nothing was written."])
        return DONE
    _merge_and_tell(args, recipe, tell)
    return DONE


def _describe(plan: MergePlan) -> None:
    _print_lines(show.describe_plan(plan, colour=_has_colours()))
    print()
    _print_lines(show.summarise_plan(plan))


def _has_colours() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def _merge_and_tell(args: argparse.Namespace, recipe: MergeRecipe, tell: Callable[[MergePlan], None]) -> None:
    start = time.perf_counter()
    with _Bar() as bar:
        result = merge_to_file(
            recipe,
            args.output,
            models_folder=args.models,
            device=args.device,
            overwrite=args.overwrite,
            with_hashes=not args.no_hash,
            controls=Controls(begin=bar.begin, advance=bar.advance, stage=bar.stage),
            on_plan=tell,
        )
    for role, key in result.not_finite:
        print(
            f"warning: {key} holds NaN or infinite numbers in {role.name}, and so in the result.",
            file=sys.stderr,
        )
    size, seconds = show.format_size(result.plan.nbytes), time.perf_counter() - start
    _print_lines([*show.summarise_plan(result.plan), f"{result.path}: {size} in {seconds:.1f} s"])


def _generate(args: argparse.Namespace) -> int:
    if not args.models_given and args.recipe is None:
        args.parser.error("a model is needed, or two or three to merge: A [B] [C]")
    run_generate(args, tell=lambda plan, remarks: _warn(plan, remarks, strict=args.strict), say=_print_lines)
    return DONE


def _plot(args: argparse.Namespace) -> int:
    run_plot(args, say=_print_lines, warn=lambda warnings: _print_warnings(warnings, strict=args.strict))
    return DONE


def _check(args: argparse.Namespace) -> int:
    run_check(args, say=_print_lines, warn=lambda warnings: _print_warnings(warnings, strict=args.strict))
    return DONE


def _ui(args: argparse.Namespace) -> int:
    run_ui(args, say=_print_lines)
    return DONE


def _demo(args: argparse.Namespace) -> int:
    run_demo(Path(args.output), say=_print_lines)
    return DONE


def _warn(plan: MergePlan, remarks: Iterable[str], *, strict: bool) -> None:
    _print_warnings([*remarks, *(warning.message for warning in plan.warnings)], strict=strict)


def _print_warnings(lines: Iterable[str], *, strict: bool) -> None:
    warnings = list(lines)
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if strict and warnings:
        raise SpecError("With --strict, warnings are errors.")


def _print_lines(lines: Iterable[str]) -> None:
    """Print at once; if the reader of a pipe has seen enough, what else there is to do is done without it."""
    try:
        print("\n".join(lines), flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _json(data: object) -> str:
    return json.dumps(data, indent=1, ensure_ascii=False)


class _Bar:
    """A progress bar on a terminal, nothing in a pipe."""

    def __init__(self) -> None:
        self._bar: Any = None

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def stage(self, name: str) -> None:
        if self._bar is not None:
            self._bar.set_description(name)

    def begin(self, size: int) -> None:
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=size, unit="B", unit_scale=True, desc="merging", leave=False)

    def advance(self, count: int) -> None:
        if self._bar is not None:
            self._bar.update(count)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse options and models in any order, and negative numbers as values."""
    parser = _parser()
    args, rest = parser.parse_known_args(join_negative_numbers(argv))
    if rest and (not hasattr(args, "models_given") or any(word.startswith("-") for word in rest)):
        getattr(args, "parser", parser).error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        args.models_given += rest
    return args


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="elemental", description="Merge Stable Diffusion checkpoints element by element."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    inspect = _add(
        commands,
        "inspect",
        purpose="tell what a checkpoint is",
        example="elemental inspect model.safetensors --elements",
    )
    inspect.add_argument("checkpoint", metavar="CKPT")
    inspect.add_argument("--elements", action="store_true", help="show which element exists in which block")
    inspect.add_argument("--json", action="store_true", help="as JSON")
    inspect.set_defaults(run=_inspect)

    example = 'elemental plan a.safetensors b.safetensors --alpha 0.3 --elemental "OUT05:attn2:0.5"'
    plan = _add(
        commands,
        "plan",
        purpose="show what a merge would change, before anything is read",
        example=example,
        notes=_SPEC_HELP,
    )
    add_recipe_options(plan)
    plan.add_argument("--json", action="store_true", help="as JSON, tensor by tensor")
    plan.set_defaults(run=_plan, parser=plan)

    example = (
        'elemental merge a.safetensors b.safetensors -o ab.safetensors --blocks GRAD_V --elemental "OUT05:attn2:0.5"'
    )
    merge = _add(commands, "merge", purpose="merge into a file", example=example, notes=_SPEC_HELP)
    add_recipe_options(merge)
    _add_merge_options(merge)
    merge.set_defaults(run=_merge, parser=merge)

    _add_picture_commands(commands)

    ui = _add(
        commands,
        "ui",
        purpose="serve the tab by itself, to this machine alone",
        example='elemental ui --models models --prompt "a cat"',
    )
    add_ui_options(ui)
    ui.set_defaults(run=_ui, parser=ui)

    demo = _add(
        commands,
        "demo",
        purpose="show on two small models what elemental merging is",
        example="elemental demo -o trial",
    )
    demo.add_argument("-o", "--output", metavar="DIR", default="elemental-demo", help="default: %(default)s")
    demo.set_defaults(run=_demo, parser=parser)
    return parser


def _add_picture_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    example = (
        'elemental generate a.safetensors b.safetensors --elemental "OUT05:attn2:0.5" --prompt "a cat" -o pictures'
    )
    generate = _add(
        commands,
        "generate",
        purpose="make pictures from a model, or from a merge in memory",
        example=example,
        notes=_SPEC_HELP,
    )
    add_recipe_options(generate)
    add_request_options(generate)
    generate.add_argument("-o", "--output", metavar="DIR", required=True, help="the folder for the pictures")
    generate.set_defaults(run=_generate, parser=generate)

    example = (
        'elemental plot a.safetensors b.safetensors --alpha 0 --x-type alpha --x "0, 0.5, 1" '
        '--y-type pinpoint-element --y "IN07:attn1, IN07:attn2" --prompt "a cat" -o plot'
    )
    plot = _add(
        commands,
        "plot",
        purpose="make a grid of pictures along two axes",
        example=example,
        notes=AXES_HELP + _SPEC_HELP,
    )
    add_plot_options(plot)
    plot.set_defaults(run=_plot, parser=plot, command="plot")

    example = (
        "elemental check a.safetensors b.safetensors --alpha 0 --elements "
        '"OUT03:attn1, OUT03:attn2, OUT03:ff" --ratio 1 --prompt "a cat" -o checks'
    )
    check = _add(
        commands, "check", purpose="rank what elements do to a picture", example=example, notes=CHECK_HELP + _SPEC_HELP
    )
    add_check_options(check)
    check.set_defaults(run=_check, parser=check, command="check")


def _add(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    *,
    purpose: str,
    example: str,
    notes: str = "",
) -> argparse.ArgumentParser:
    command = commands.add_parser(
        name,
        help=purpose,
        description=f"{purpose[0].upper()}{purpose[1:]}.",
        epilog=f"example:\n  {example}\n\n{notes}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.add_argument("--debug", action="store_true", help="show where an error comes from")
    return command


def _add_merge_options(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("result")
    group.add_argument("-o", "--output", metavar="OUT", help="the .safetensors file to make")
    group.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    group.add_argument(
        "--device", default="cpu", metavar="D", help="where to compute, as torch names it (default: cpu)"
    )
    group.add_argument("--no-hash", action="store_true", help="leave the models' SHA-256 out of the result")
    group.add_argument("--print-change", action="store_true", help="list each tensor that a rule sets")
    group.add_argument("--dry-run", action="store_true", help="show the plan and write nothing")
