"""The command line: ``elemental inspect | plan | merge | demo``."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from . import __version__
from .errors import CheckpointError, ElementalError, RecipeError, SpecError, Stopped
from .merge import show
from .merge.checkpoint import Checkpoint
from .merge.controls import Controls
from .merge.plan import MergePlan
from .spec.parser import parse_rules
from .spec.recipe import MergeMode, MergeRecipe, SaveDtype, VaeChoice
from .spec.rules import RuleSet
from .spec.weights import BlockWeights, choose_block_weights
from .workflows import load_presets, merge_to_file, model_source, plan_merge, read_recipe, user_presets_path

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
    args = _parser().parse_args(argv)
    signal.signal(signal.SIGTERM, _stop)
    try:
        run: Callable[[argparse.Namespace], int] = args.run
        code = run(args)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of a pipe has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except (KeyboardInterrupt, Stopped):
        return _fail("Stopped; nothing was changed.", STOPPED, debug=args.debug)
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
            _print_json(facts)
            return DONE
        _print_lines(show.describe_checkpoint(checkpoint.tensors, architecture, name=args.checkpoint, size=size))
        if args.elements:
            print()
            _print_lines(show.draw_elements(checkpoint.tensors, architecture))
    return DONE


def _plan(args: argparse.Namespace) -> int:
    plan = plan_merge(_recipe(args), models_folder=args.models)
    if args.json:
        _print_json(show.plan_as_dict(plan))
    else:
        _describe(plan)
    _warn(plan, strict=args.strict)
    return DONE


def _merge(args: argparse.Namespace) -> int:
    if args.output is None and not args.dry_run:
        args.parser.error("the result needs a name: -o OUT.safetensors")
    recipe = _recipe(args)
    if args.dry_run:
        plan = plan_merge(recipe, models_folder=args.models)
        _tell_before(plan, args)
        _describe(plan)
        print("\nDry run: nothing was written.")
        return DONE
    _merge_and_tell(args, recipe)
    return DONE


def _describe(plan: MergePlan) -> None:
    _print_lines(show.describe_plan(plan, colour=_has_colours()))
    print()
    _print_lines(show.summarise_plan(plan))


def _has_colours() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def _tell_before(plan: MergePlan, args: argparse.Namespace) -> None:
    _warn(plan, strict=args.strict)
    if args.print_change:
        _print_lines(show.describe_changes(plan))


def _merge_and_tell(args: argparse.Namespace, recipe: MergeRecipe) -> None:
    start = time.perf_counter()
    with _Bar() as bar:
        result = merge_to_file(
            recipe,
            args.output,
            models_folder=args.models,
            device=args.device,
            overwrite=args.overwrite,
            with_hashes=not args.no_hash,
            controls=Controls(begin=bar.begin, advance=bar.advance),
            on_plan=lambda plan: _tell_before(plan, args),
        )
    for role, key in result.not_finite:
        print(
            f"warning: {key} holds NaN or infinite numbers in {role.name}, and so in the result.",
            file=sys.stderr,
        )
    _print_lines(show.summarise_plan(result.plan))
    print(f"{result.path}: {result.plan.nbytes / 1e9:.2f} GB in {time.perf_counter() - start:.1f} s")


def _demo(args: argparse.Namespace) -> int:
    from .demo.make import DEMO_SPEC, make_pair

    folder = Path(args.output)
    a, b = make_pair(folder)
    spec, merged = folder / "spec.txt", folder / "merged.safetensors"
    spec.write_text(DEMO_SPEC + "\n", encoding="utf-8")
    command = ["merge", str(a), str(b), "--alpha", "0.5", "--elemental-file", str(spec), "-o", str(merged)]
    print(f"Two small SD 1.x checkpoints of random numbers are in {folder}; this is the plan of merging them by\n")
    print("\n".join(f"    {line}" for line in DEMO_SPEC.splitlines()), "\n", flush=True)
    plan = plan_merge(_recipe(args.parser.parse_args(command)))
    _print_lines(show.describe_plan(plan, colour=_has_colours()))
    print("\nelemental", *command)
    return _merge(args.parser.parse_args([*command, "--overwrite"]))


def _recipe(args: argparse.Namespace) -> MergeRecipe:
    """Make the recipe that the options ask for: the one of --recipe, if any, with what else is given put over it."""
    if len(args.models_given) == 1 or (not args.models_given and args.recipe is None):
        args.parser.error("two models are needed, or three: A B [C]")
    given: dict[str, Any] = {}
    if args.models_given:
        names = ("model_a", "model_b", "model_c")
        given = dict.fromkeys(names) | dict(zip(names, map(model_source, args.models_given), strict=False))
    given.update(_ratio_options(args))
    if args.vae is not None:
        choices = {choice.value: choice for choice in VaeChoice if choice is not VaeChoice.FILE}
        given["vae"] = choices.get(args.vae, VaeChoice.FILE)
        given["vae_file"] = model_source(args.vae) if given["vae"] is VaeChoice.FILE else None
    if args.dtype is not None:
        given["dtype"] = SaveDtype(args.dtype)
    base = None if args.recipe is None else read_recipe(args.recipe)
    recipe = MergeRecipe(**given) if base is None else replace(base, **given)
    return _with_block_weights(args, recipe)


def _ratio_options(args: argparse.Namespace) -> dict[str, Any]:
    given: dict[str, Any] = {name: getattr(args, name) for name in ("alpha", "beta")}
    if args.mode is not None:
        given["mode"] = MergeMode(args.mode)
    given["rules"] = _rules(args)
    return {name: value for name, value in given.items() if value is not None}


def _rules(args: argparse.Namespace) -> RuleSet | None:
    if args.elemental is not None:
        return parse_rules(args.elemental)
    if args.elemental_file is None:
        return None
    try:
        text = Path(args.elemental_file).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as exc:
        raise CheckpointError(f"Cannot read the spec in {args.elemental_file}: {exc}.") from exc
    return parse_rules(text, name=args.elemental_file)


def _with_block_weights(args: argparse.Namespace, recipe: MergeRecipe) -> MergeRecipe:
    if args.blocks is None and args.blocks_beta is None:
        return recipe
    with Checkpoint(Path(recipe.model_a.path).expanduser()) as model_a:
        architecture = model_a.architecture
    presets = load_presets()

    def chosen(text: str | None, before: BlockWeights | None) -> BlockWeights | None:
        return before if text is None else choose_block_weights(text, presets, architecture)

    return replace(
        recipe,
        block_alpha=chosen(args.blocks, recipe.block_alpha),
        block_beta=chosen(args.blocks_beta, recipe.block_beta),
    )


def _warn(plan: MergePlan, *, strict: bool) -> None:
    for warning in plan.warnings:
        print(f"warning: {warning.message}", file=sys.stderr)
    if strict and plan.warnings:
        raise SpecError("With --strict, warnings are errors.")


def _print_lines(lines: Iterable[str]) -> None:
    print("\n".join(lines), flush=True)


def _print_json(data: object) -> None:
    print(json.dumps(data, indent=1, ensure_ascii=False))


class _Bar:
    """A progress bar on a terminal, nothing in a pipe."""

    def __init__(self) -> None:
        self._bar: Any = None

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def begin(self, size: int) -> None:
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=size, unit="B", unit_scale=True, desc="merging", leave=False)

    def advance(self, count: int) -> None:
        if self._bar is not None:
            self._bar.update(count)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="elemental", description="Merge Stable Diffusion checkpoints element by element."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    inspect = _add(commands, "inspect", "tell what a checkpoint is", "elemental inspect model.safetensors --elements")
    inspect.add_argument("checkpoint", metavar="CKPT")
    inspect.add_argument("--elements", action="store_true", help="show which element exists in which block")
    inspect.add_argument("--json", action="store_true", help="as JSON")
    inspect.set_defaults(run=_inspect)

    example = 'elemental plan a.safetensors b.safetensors --alpha 0.3 --elemental "OUT05:attn2:0.5"'
    plan = _add(commands, "plan", "show what a merge would change, before anything is read", example, _SPEC_HELP)
    _add_recipe_options(plan)
    plan.add_argument("--json", action="store_true", help="as JSON, tensor by tensor")
    plan.set_defaults(run=_plan, parser=plan)

    example = (
        'elemental merge a.safetensors b.safetensors -o ab.safetensors --blocks GRAD_V --elemental "OUT05:attn2:0.5"'
    )
    merge = _add(commands, "merge", "merge into a file", example, _SPEC_HELP)
    _add_recipe_options(merge)
    _add_merge_options(merge)
    merge.set_defaults(run=_merge, parser=merge)

    demo = _add(commands, "demo", "make two small checkpoints and merge them", "elemental demo -o trial")
    demo.add_argument("-o", "--output", metavar="DIR", default="elemental-demo", help="default: %(default)s")
    demo.set_defaults(run=_demo, parser=parser)
    return parser


def _add(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
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
    )
    command.add_argument("--debug", action="store_true", help="show where an error comes from")
    return command


def _add_recipe_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("models_given", metavar="MODEL", nargs="*", help="A B, and C for modes with three models")
    group = command.add_argument_group("recipe")
    modes = "; ".join(f"{mode.value}: {mode.formula}" for mode in MergeMode)
    names = [mode.value for mode in MergeMode]
    group.add_argument("--mode", choices=names, help=f"{modes} (default: weight-sum)")
    group.add_argument("--alpha", type=float, metavar="A", help="ratio of all that nothing else sets (default: 0.5)")
    group.add_argument("--beta", type=float, metavar="B", help="second ratio, of triple-sum and sum-twice")
    weights = "block weights: 26 numbers (SDXL 20), BASE first; 25 (19) leave BASE to alpha; or a preset's name"
    own = str(user_presets_path()).replace("%", "%%")
    group.add_argument("--blocks", metavar="W", help=f"{weights}. Your own presets: {own}")
    group.add_argument("--blocks-beta", metavar="W", help="block weights of beta")
    spec = group.add_mutually_exclusive_group()
    spec.add_argument("--elemental", metavar="SPEC", help="rules, which override all other ratios")
    spec.add_argument("--elemental-file", metavar="FILE", help="rules from a text file")
    group.add_argument("--vae", metavar="V", help="merged (default), a, b, or a file to take the VAE from")
    formats = [dtype.value for dtype in SaveDtype]
    group.add_argument(
        "--dtype", choices=formats, help="number format of the result (default: that of A, tensor by tensor)"
    )
    group.add_argument("--recipe", metavar="FILE", help="start from the recipe of a merged file, or a JSON file")
    group.add_argument("--models", metavar="DIR", help="look here, by SHA-256, for models that have moved")
    group.add_argument("--strict", action="store_true", help="treat warnings as errors")


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
