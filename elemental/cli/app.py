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
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from ..errors import ElementalError, RecipeError, SpecError, Stopped
from ..merge import describe as show
from ..merge.files.checkpoint import Checkpoint
from ..merge.plan import MergePlan
from ..merge.progress import Controls
from ..recipe.recipe import MergeRecipe
from ..workflows import merge_to_file, plan_merge
from .demo import run_demo
from .generate import run_generate
from .parser import parse_command
from .plot import run_check, run_plot
from .recipe_options import locator_from_options, recipe_from_options
from .ui import run_ui

DONE, FAILED, WRONG_USAGE, STOPPED = 0, 1, 2, 130


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
    args = parse_command(sys.argv[1:] if argv is None else argv)
    interrupts = args.interrupts = _note_interrupts()
    try:
        code = _RUNS[args.command](args)
    except KeyboardInterrupt:
        return _fail(str(Stopped()), STOPPED, debug=args.debug)
    except Stopped as exc:
        return _fail(str(exc), STOPPED, debug=args.debug)
    except (SpecError, RecipeError) as exc:
        return _fail(str(exc), WRONG_USAGE, debug=args.debug)
    except ElementalError as exc:
        return _fail(f"error: {exc}", FAILED, debug=args.debug)
    except Exception as exc:
        if interrupts:  # what it hits may make another error of it; torch does
            return _fail(str(Stopped()), STOPPED, debug=args.debug)
        # A defect of this program; its trace is of use to its developers only.
        hint = "" if args.debug else "\nThis is a defect of the program; --debug shows where."
        return _fail(f"error: {type(exc).__name__}: {exc}{hint}", FAILED, debug=args.debug)
    return code


def _note_interrupts() -> list[int]:
    """Have the signals that end a program interrupt it; gives a list that each of them is added to."""
    caught: list[int] = []

    def interrupt(number: int, _frame: object) -> NoReturn:
        caught.append(number)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    if signal.getsignal(signal.SIGINT) not in (signal.SIG_IGN, None):  # a job in the background ignores it
        signal.signal(signal.SIGINT, interrupt)
    return caught


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
    plan = plan_merge(recipe, locator=locator_from_options(args))
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
        plan = plan_merge(recipe, locator=locator_from_options(args))
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
            locator=locator_from_options(args),
            device=args.device,
            overwrite=args.overwrite,
            with_hashes=not args.no_hash,
            controls=Controls(bar.begin, bar.stage, bar.advance, lambda: bool(args.interrupts)),
            on_plan=tell,
        )
    try:
        for role, key in result.not_finite:
            warning = f"warning: {key} holds NaN or infinite numbers in {role.name}, and so in the result."
            print(warning, file=sys.stderr)
        size, seconds = show.format_size(result.plan.nbytes), time.perf_counter() - start
        _print_lines([*show.summarise_plan(result.plan), f"{result.path}: {size} in {seconds:.1f} s"])
    except KeyboardInterrupt as exc:
        raise Stopped(f"Stopped; {result.path} was saved before that.") from exc


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


_RUNS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "inspect": _inspect,
    "plan": _plan,
    "merge": _merge,
    "generate": _generate,
    "plot": _plot,
    "check": _check,
    "ui": _ui,
    "demo": _demo,
}
