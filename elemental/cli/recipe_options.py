"""The command line's recipe options: how they are declared, and the recipe that they ask for."""

from __future__ import annotations

import argparse
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..merge.files.checkpoint import Checkpoint
from ..merge.files.model_locator import ModelLocator, model_source
from ..recipe.block_weights import BUILT_IN_PRESETS, BlockWeights, choose_block_weights, read_presets
from ..recipe.modes import MergeMode
from ..recipe.parser import parse_rules
from ..recipe.recipe import MergeRecipe, ModelSource, SaveDtype, VaeChoice, drop_unused
from ..recipe.rules import RuleSet
from ..workflows import load_presets, read_recipe, user_presets_path

_NO_WEIGHTS = "none"


def add_recipe_options(
    command: argparse.ArgumentParser, *, models: str = "A B, and C for modes with three models"
) -> None:
    """Declare the models and all the options that decide what a merge gives.

    Args:
        command: The command that takes them.
        models: What to say of the models.
    """
    command.add_argument("models_given", metavar="MODEL", nargs="*", help=models)
    group = command.add_argument_group("recipe")
    names = [mode.value for mode in MergeMode]
    group.add_argument("--mode", choices=names, metavar="MODE", help="the formula, see below (default: weight-sum)")
    group.add_argument(
        "--alpha", type=float, metavar="RATIO", help="ratio of all that nothing else sets (default: 0.5)"
    )
    group.add_argument("--beta", type=float, metavar="RATIO", help="second ratio, of triple-sum and sum-twice")
    group.add_argument(
        "--blocks", metavar="WEIGHTS", help=f'block weights, see below; "{_NO_WEIGHTS}" takes a recipe\'s away'
    )
    group.add_argument("--blocks-beta", metavar="WEIGHTS", help="block weights of beta")
    spec = group.add_mutually_exclusive_group()
    spec.add_argument("--elemental", metavar="SPEC", help="rules, which override all other ratios")
    spec.add_argument("--elemental-file", metavar="FILE", help="rules from a text file")
    group.add_argument("--vae", metavar="V", help="merged (default), a, b, or a file to take the VAE from")
    formats = [dtype.value for dtype in SaveDtype]
    group.add_argument(
        "--dtype", choices=formats, metavar="F", help="fp16, bf16 or fp32 (default: A's formats, tensor by tensor)"
    )
    group.add_argument(
        "--recipe", metavar="FILE", help="start from the recipe of a merged file, an image, or a JSON file"
    )
    group.add_argument("--models", metavar="DIR", help="look here, by SHA-256, for models that have moved")
    group.add_argument("--strict", action="store_true", help="treat warnings as errors")


def recipe_from_options(args: argparse.Namespace) -> tuple[MergeRecipe, list[str]]:
    """Make the recipe that the options ask for, and remark on those that have no effect.

    With ``--recipe`` it is that file's, with what else is given put over it.

    Raises:
        ElementalError: Something that was given cannot be read, or does not fit the rest.
    """
    if len(args.models_given) not in ((2, 3) if args.recipe is None else (0, 2, 3)):
        args.parser.error("two models are needed, or three: A B [C]")
    parts: dict[str, Any] = {}
    remarks: list[str] = []
    if args.recipe is not None:
        base = read_recipe(args.recipe)
        parts = {name: getattr(base, name) for name in base.__dataclass_fields__}
        remarks += _drop_what_the_mode_lacks(parts, args)
    parts |= _given(args)
    parts |= _block_weights(args, parts["model_a"])
    recipe = MergeRecipe(**parts)
    return recipe, remarks + _idle_ratios(args, recipe)


def locator_from_options(args: argparse.Namespace) -> ModelLocator:
    """Make what finds the models that the options name."""
    return ModelLocator(None if args.models is None else Path(args.models))


def join_negative_numbers(argv: Sequence[str]) -> list[str]:
    """Write ``--alpha -1e-1`` as ``--alpha=-1e-1``, since argparse takes most negative numbers for options."""
    joined: list[str] = []
    for word in argv:
        if joined and re.match(r"-[.\d]", word) and re.fullmatch(r"--[a-z-]+", joined[-1]):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def _recipe_help() -> str:
    presets = textwrap.wrap(", ".join(read_presets(BUILT_IN_PRESETS)), 77, break_on_hyphens=False)
    return "\n".join(
        [
            "modes (a is alpha, b is beta):",
            "",
            *(f"  {mode.value:<15} {mode.formula}" for mode in MergeMode),
            "",
            "Block weights are 26 numbers (SDXL 20), BASE first; 25 (19) leave BASE to",
            "alpha. Presets:",
            "",
            *(f"  {line}" for line in presets),
            "",
            f"and your own, one NAME: numbers a line, from {model_source(user_presets_path()).path}",
            "",
            "",
        ]
    )


RECIPE_HELP = _recipe_help()
"""What the help of commands that take a recipe says of it."""


def _given(args: argparse.Namespace) -> dict[str, Any]:
    parts: dict[str, Any] = {"alpha": args.alpha, "beta": args.beta, "rules": _rules(args)}
    parts["mode"] = None if args.mode is None else MergeMode(args.mode)
    parts["dtype"] = None if args.dtype is None else SaveDtype(args.dtype)
    given = {name: part for name, part in parts.items() if part is not None}
    if args.models_given:
        a, b, *c = map(model_source, args.models_given)
        given |= {"model_a": a, "model_b": b, "model_c": c[0] if c else None}
    if args.vae is not None:
        choices = {choice.value: choice for choice in VaeChoice if choice is not VaeChoice.FILE}
        given["vae"] = choices.get(args.vae, VaeChoice.FILE)
        given["vae_file"] = model_source(args.vae) if given["vae"] is VaeChoice.FILE else None
    return given


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


def _block_weights(args: argparse.Namespace, model_a: ModelSource) -> dict[str, BlockWeights | None]:
    texts = {"block_alpha": args.blocks, "block_beta": args.blocks_beta}
    given = {name: text for name, text in texts.items() if text is not None}
    if not given:
        return {}
    with Checkpoint(locator_from_options(args).locate(model_a)) as checkpoint:
        architecture = checkpoint.architecture
    presets = load_presets()
    return {
        name: None if text == _NO_WEIGHTS else choose_block_weights(text, presets, architecture)
        for name, text in given.items()
    }


def _drop_what_the_mode_lacks(parts: dict[str, Any], args: argparse.Namespace) -> list[str]:
    """Leave out of a recipe what another mode, asked for beside it, cannot use."""
    if args.mode is None:
        return []
    mode = MergeMode(args.mode)
    kept = drop_unused(parts, mode)
    dropped = [name for name in ("model_c", "beta", "block_beta") if kept[name] != parts[name]]
    dropped += ["beta of its rules"] * (kept["rules"] != parts["rules"])
    parts |= kept
    return [f"{mode.value} has no use for the recipe's {name.replace('_', ' ')}." for name in dropped]


def _idle_ratios(args: argparse.Namespace, recipe: MergeRecipe) -> list[str]:
    """Remark on ratios that block weights, BASE among them, leave nothing to."""
    ratios = {"alpha": (args.alpha, recipe.block_alpha), "beta": (args.beta, recipe.block_beta)}
    return [
        f"--{name} has no effect: the block weights set every block, BASE too."
        for name, (given, weights) in ratios.items()
        if given is not None and weights is not None and weights.base is not None
    ]
