"""The options that say what to merge, and the recipe that they ask for."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..architectures.blocks import Architecture
from ..errors import CheckpointError, RecipeError, SpecError
from ..merge.files.checkpoint import Checkpoint
from ..merge.files.model_locator import ModelLocator, model_source
from ..merge.files.recipe_models import ReadModel, doubts_of, name_where_found, read_model
from ..modes.catalogue import MergeMode
from ..recipe.adjustments import NAMES, parse_adjust
from ..recipe.block_weights import BlockWeights
from ..recipe.chains import base_file
from ..recipe.lora_texts import parse_lora
from ..recipe.numbers import measured_numbers, parse_numbers
from ..recipe.presets import PresetTable, choose_block_weights, is_preset, mistakes_of
from ..recipe.ratio_targets import LORA
from ..recipe.recipe import LoraSource, MergeRecipe, ModelSource, SaveDtype, VaeChoice, drop_unused
from ..recipe.rules import RuleSet
from ..recipe.spec_parser import parse_rules
from ..recipe.target_checks import target_of_lora
from ..recipe.text_files import read_text
from ..workflows import (
    identify_models,
    load_presets,
    read_whole_recipe,
    user_presets_path,
)
from .command import UsageError, read_as, read_number
from .more_options import add_more_option, read_more

MODELS_FOLDER_HELP = "the folder of your checkpoints, with its subfolders"
"""What ``--models`` is, in every command."""

_NO_WEIGHTS = "none"
_WEIGHTS_HELP = "block weights (MBW): numbers or a preset"
_FORCE_HELP = "merge even if the U-Nets have different layers"
_STRICT_HELP = "treat warnings as errors"
_DROPPED = {
    "model_c": "model C",
    "more": "further models",
    "beta": "beta",
    "block_beta": "block weights of beta",
    "numbers": "numbers",
}


@dataclass(frozen=True)
class RecipeOptions:
    """What was said of the merge; None where nothing was.

    Attributes:
        models: Model A, and B and C, as paths.
        models_folder: The user's folder of checkpoints.
        mode: The formula.
        alpha: The base ratio.
        beta: The second base ratio.
        blocks: Block weights, or the name of a preset; "none" for no block weights.
        blocks_beta: The same for beta.
        elemental: A spec.
        elemental_file: A text file with a spec.
        vae: "merged", "a", "b", or the path of a file.
        dtype: Number format of the result.
        recipe: A file with the recipe to start from.
        force: Whether to merge U-Nets that do not fit together, as far as their names agree.
        drop_ema: Whether to leave EMA weights out of the result.
        loras: LoRAs with their ratios, as texts; a single "none" for no LoRAs.
        strict: Whether warnings are errors.
        unfold: Whether merged files stand for the recipes in their headers.
        numbers: Numbers of the mode, each as ``NAME=VALUE``.
        more: Further models with their ratios, as texts; a single "none" for none.
        adjust: Numbers that adjust the result; "none" for no adjustment.
    """

    models: tuple[str, ...] = ()
    models_folder: Path | None = None
    mode: MergeMode | None = None
    alpha: float | None = None
    beta: float | None = None
    blocks: str | None = None
    blocks_beta: str | None = None
    elemental: str | None = None
    elemental_file: str | None = None
    vae: str | None = None
    dtype: SaveDtype | None = None
    recipe: str | None = None
    force: bool | None = None
    drop_ema: bool | None = None
    loras: tuple[str, ...] | None = None
    strict: bool = False
    unfold: bool = False
    numbers: tuple[str, ...] | None = None
    more: tuple[str, ...] | None = None
    adjust: str | None = None

    @property
    def adds_to_a(self) -> bool:
        """Whether LoRAs are added to a single model, or it is adjusted, and nothing else is merged."""
        return self.has_one_model and bool(self.loras or self.adjust) and (self.mode is None or self.mode.uses_b)

    @property
    def has_one_model(self) -> bool:
        """Whether a single model is given, and there is something to do with it."""
        alone = len(self.models) == 1 and self.recipe is None and self.more is None
        return alone and bool(self.loras or self.adjust or (self.mode is not None and not self.mode.uses_b))

    @property
    def locator(self) -> ModelLocator:
        """Finds the models."""
        return ModelLocator(self.models_folder, Path(self.recipe).parent if self.recipe else None)


def add_recipe_options(
    command: argparse.ArgumentParser,
    *,
    models: str = "A B [C]: the models, files or recipes (.json); C only for modes that need it; A alone with --lora, "
    "--adjust or --mode self",
) -> None:
    """Declare the models and all the options that say what to merge.

    Args:
        command: The command that takes them.
        models: The help of the models.
    """
    command.add_argument("models", metavar="MODEL", nargs="*", help=models)
    group = command.add_argument_group("recipe")
    add_ratio_options(group)
    add_more_option(group)
    group.add_argument(
        "--lora",
        dest="loras",
        action="append",
        metavar="L",
        help="FILE:RATIO or FILE:RATIO:RATIO_TE: a LoRA to add to the result (RATIO_TE: in text encoders); "
        f'can be given several times; "{_NO_WEIGHTS}" ignores those in the recipe, and '
        "rules for them",
    )
    group.add_argument(
        "--adjust",
        metavar="N,...",
        help=f"{','.join(NAMES)}: detail, contrast, brightness and colours of the result, before LoRAs; what is left "
        f'out at the end is 0; "{_NO_WEIGHTS}" ignores those in the recipe',
    )
    group.add_argument("--vae", metavar="V", help="VAE: merged (with BASE's ratio; default), a, b, or a file or recipe")
    formats = [dtype.value for dtype in SaveDtype]
    group.add_argument(
        "--dtype",
        choices=formats,
        metavar="F",
        help="precision of the merged weights: fp16, bf16 or fp32 (default: as in A)",
    )
    group.add_argument(
        "--recipe",
        metavar="FILE",
        help="take models, ratios and rules from a merged file, an image or a JSON file; other options override them",
    )
    switch = argparse.BooleanOptionalAction
    group.add_argument("--force", action=switch, help=_FORCE_HELP)
    group.add_argument("--drop-ema", action=switch, help="leave A's EMA weights (model_ema.*) out of the result")
    add_models_folder_option(group, use="; searched by SHA-256 for models that are not where the recipe says")
    group.add_argument(
        "--unfold",
        action="store_true",
        help="take each MODEL that was merged as the recipe in its header: its own models are merged, not the file",
    )
    group.add_argument("--strict", action="store_true", help=_STRICT_HELP)


def add_ratio_options(group: argparse._ArgumentGroup) -> None:
    """Declare the mode, the ratios, the block weights and the rules."""
    names = [mode.value for mode in MergeMode]
    group.add_argument(
        "--mode", choices=names, metavar="MODE", help="the formula: weight-sum (default), or one of those listed below"
    )
    _add_alpha_option(group, usual="0.5")
    group.add_argument("--beta", type=read_number, metavar="R", help="the second ratio, in modes that have one")
    group.add_argument(
        "--number",
        action="append",
        dest="numbers",
        metavar="NAME=VALUE",
        help="a number of the mode, such as p=0.9; the list of modes below says which has what; may be repeated",
    )
    group.add_argument("--blocks", metavar="W", help=f'{_WEIGHTS_HELP}; "{_NO_WEIGHTS}" ignores those in the recipe')
    group.add_argument("--blocks-beta", metavar="W", help="the same for beta")
    _add_rules_options(group)


def add_difference_options(command: argparse.ArgumentParser) -> None:
    """Declare the ratios, block weights and rules of a command that takes the difference between two models."""
    group = command.add_argument_group("ratios, which multiply the difference of each element")
    _add_alpha_option(group, usual="1")
    group.add_argument("--blocks", metavar="W", help=_WEIGHTS_HELP)
    _add_rules_options(group)
    group.add_argument("--force", action="store_true", help=_FORCE_HELP)
    group.add_argument("--strict", action="store_true", help=_STRICT_HELP)


def _add_alpha_option(group: argparse._ArgumentGroup, *, usual: str) -> None:
    group.add_argument(
        "--alpha",
        type=read_number,
        metavar="R",
        help=f"ratio where neither a rule nor a block weight applies (default: {usual})",
    )


def _add_rules_options(group: argparse._ArgumentGroup) -> None:
    spec = group.add_mutually_exclusive_group()
    spec.add_argument(
        "--elemental",
        metavar="SPEC",
        help="rules blocks:elements:ratio; they override block weights and alpha, "
        "or, after lora.NAME or B2, the ratio of a LoRA or a further model",
    )
    spec.add_argument("--elemental-file", metavar="TXT", help="read the rules from a text file")


def add_models_folder_option(group: argparse._ArgumentGroup, *, use: str) -> None:
    """Declare the folder of the user's checkpoints.

    Args:
        group: The options that it belongs to.
        use: What the command uses it for, with the punctuation before it.
    """
    group.add_argument("--models", dest="models_folder", type=Path, metavar="DIR", help=f"{MODELS_FOLDER_HELP}{use}")


def read_recipe_options(args: argparse.Namespace) -> RecipeOptions:
    """Take the options of a merge from what argparse gives."""
    return read_as(
        RecipeOptions,
        args,
        models=tuple(args.models),
        mode=None if args.mode is None else MergeMode(args.mode),
        dtype=None if args.dtype is None else SaveDtype(args.dtype),
        loras=None if args.loras is None else tuple(args.loras),
        numbers=None if args.numbers is None else tuple(args.numbers),
        more=None if args.more is None else tuple(args.more),
    )


def make_recipe(options: RecipeOptions) -> tuple[MergeRecipe, list[str]]:
    """Make the recipe that the options ask for; with ``--recipe`` it is that file's, changed by the other options.

    Returns:
        The recipe, and remarks on what has no effect.

    Raises:
        UsageError: There are too few models, or too many.
        ElementalError: Something cannot be read, or does not fit the rest.
    """
    if len(options.models) not in ((2, 3) if options.recipe is None else (0, 2, 3)) and not options.has_one_model:
        raise UsageError("two models are needed, or three: A B [C]; or A alone with --lora, --adjust or --mode self")
    parts, remarks = _parts_of_file(options)
    models = [read_model(path, locator=options.locator, unfold=options.unfold) for path in options.models]
    mode = options.mode or parts.get("mode", MergeMode.WEIGHT_SUM)
    if len(models) > 1 and not mode.uses_b:
        raise UsageError(f"{mode.value}, {mode.formula}, has one model, A: remove the others, or choose another mode")
    more = read_more(options.more, mode, locator=options.locator, unfold=options.unfold)
    remarks += [remark for model in (*models, *more.read) for remark in model.remarks]
    if options.unfold and not any(model.source.recipe for model in (*models, *more.read)):
        raise UsageError("--unfold: none of the models was merged by a recipe that its header has")
    vae, doubts = _vae(options)
    remarks += doubts
    if models:
        remarks += _forget_measured(parts)
    parts |= _parts_of_options(options) | _models(models) | more.parts | vae
    remarks += _forget_lora_rules(options, parts)
    parts |= _block_weights(options, parts["model_a"])
    parts |= _numbers(options, parts.get("numbers", {}))
    recipe = MergeRecipe(**parts)
    return recipe, remarks + _unused_ratios(options, recipe) + _unread_presets(options)


def make_difference(options: RecipeOptions) -> tuple[MergeRecipe, list[str]]:
    """Make the weight sum whose ratios say how much of the difference of each element is taken; 1 is all.

    Returns:
        The recipe, and remarks, as of :func:`make_recipe`.

    Raises:
        ElementalError: Something cannot be read, or does not fit the rest.
    """
    recipe, remarks = make_recipe(options)
    return (recipe if options.alpha is not None else replace(recipe, alpha=1.0)), remarks


def find_recipe(options: RecipeOptions) -> tuple[MergeRecipe, list[str]]:
    """Make the recipe as :func:`make_recipe` does, with the paths of its models where they were found, and hashes.

    Returns:
        The recipe, and remarks: also on models that were found by their names alone.

    Raises:
        UsageError: There are too few models, or too many.
        ElementalError: Something cannot be read, or does not fit the rest.
    """
    recipe, remarks = make_recipe(options)
    found = name_where_found(identify_models(recipe, locator=options.locator), options.locator)
    return found, remarks + doubts_of(recipe, found)


def _parts_of_file(options: RecipeOptions) -> tuple[dict[str, Any], list[str]]:
    """Read the recipe to start from, without what another mode cannot use, and remark on that."""
    if options.recipe is None:
        return {}, []
    found = read_whole_recipe(options.recipe, locator=options.locator)
    base, unread = found.recipe, list(found.remarks)
    parts = {name: getattr(base, name) for name in base.__dataclass_fields__}
    if options.mode is None:
        return parts, unread
    kept = drop_unused(parts, options.mode)
    dropped = [words for name, words in _DROPPED.items() if kept[name] != parts[name]]
    betas = [sum(rule.beta is not None for rule in each["rules"].rules) for each in (parts, kept)]
    dropped += ["beta of its rules"] * (betas[0] != betas[1])
    return kept, unread + [f"{options.mode.value} has no use for the recipe's {words}." for words in dropped]


def _forget_measured(parts: dict[str, Any]) -> list[str]:
    """Remove the numbers that were measured in a recipe's models, in place of which others are given, and say so."""
    measured = measured_numbers(parts["mode"]) if "mode" in parts else ()
    given = parts.get("numbers", {})
    forgotten = [name for name in measured if name in given]
    if not forgotten:
        return []
    parts["numbers"] = {name: number for name, number in given.items() if name not in forgotten}
    return [f"{' and '.join(forgotten)} of the recipe were measured in its own models: they are measured anew."]


def _forget_lora_rules(options: RecipeOptions, parts: dict[str, Any]) -> list[str]:
    """Remove a recipe's rules for LoRAs that it has no more, since --lora names others, and say so."""
    own = options.elemental is None and options.elemental_file is None and options.recipe is not None
    if options.loras is None or not own:
        return []
    known = set(map(target_of_lora, parts["loras"]))
    gone = [rule for rule in parts["rules"].rules if rule.target.startswith(LORA) and rule.target not in known]
    if not gone:
        return []
    parts["rules"] = RuleSet(tuple(rule for rule in parts["rules"].rules if rule not in gone))
    targets = ", ".join(dict.fromkeys(rule.target for rule in gone))
    return [f"The recipe's rules for {targets} are left out, since --lora takes the place of its LoRAs."]


def _parts_of_options(options: RecipeOptions) -> dict[str, Any]:
    """Give the fields of the recipe that options set, but for block weights."""
    parts: dict[str, Any] = {
        "alpha": options.alpha,
        "beta": options.beta,
        "rules": _rules(options),
        "mode": options.mode,
        "dtype": options.dtype,
        "force": options.force,
        "drop_ema": options.drop_ema,
    }
    set_parts = {name: part for name, part in parts.items() if part is not None}
    if options.has_one_model:  # what leaves it as it is
        set_parts = {"alpha": 0.0 if options.adds_to_a else 1.0, **set_parts}
    return set_parts | _loras(options.loras) | _adjust(options.adjust)


def _models(models: Sequence[ReadModel]) -> dict[str, ModelSource | None]:
    if not models:
        return {}
    sources = [model.source for model in models]
    model_a, model_b, *others = sources if len(sources) > 1 else sources * 2
    return {"model_a": model_a, "model_b": model_b, "model_c": others[0] if others else None}


def _vae(options: RecipeOptions) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Give the fields of the VAE, and remarks on a recipe that stands in its place."""
    text = options.vae
    if text is None:
        return {}, ()
    choices = {choice.value: choice for choice in VaeChoice if choice is not VaeChoice.FILE}
    if text.lower() in choices:
        return {"vae": choices[text.lower()], "vae_file": None}, ()
    read = read_model(text, locator=options.locator)
    return {"vae": VaeChoice.FILE, "vae_file": read.source}, read.remarks


def _loras(texts: tuple[str, ...] | None) -> dict[str, tuple[LoraSource, ...]]:
    if texts is None:
        return {}
    read = [] if texts == (_NO_WEIGHTS,) else map(parse_lora, texts)
    return {"loras": tuple(LoraSource(model_source(lora.file), lora.ratio, lora.ratio_te) for lora in read)}


def _adjust(text: str | None) -> dict[str, tuple[float, ...] | None]:
    return {} if text is None else {"adjust": None if text == _NO_WEIGHTS else parse_adjust(text)}


def _rules(options: RecipeOptions) -> RuleSet | None:
    if options.elemental is not None:
        return _typed_rules(options.elemental)
    if options.elemental_file is None:
        return None
    return parse_rules(read_text_file(options.elemental_file, "spec"), name=options.elemental_file)


def _typed_rules(text: str) -> RuleSet:
    try:
        return parse_rules(text)
    except SpecError as exc:
        if _is_file(text):
            raise UsageError(f"{text} is a file: --elemental-file {text} reads the rules in it") from exc
        raise


def _is_file(text: str) -> bool:
    """Tell whether an option was given the name of a text file instead of a text."""
    try:
        return Path(text).suffix.lower() in (".txt", ".csv", ".tsv") or Path(text).is_file()
    except (OSError, ValueError):  # no system has files of such a name
        return False


def read_text_file(name: str, content: str) -> str:
    """Read a text file that an option names.

    Args:
        name: The file.
        content: What it holds, for the message.

    Raises:
        CheckpointError: It cannot be read.
    """
    try:
        return read_text(Path(name))
    except (OSError, UnicodeError) as exc:
        raise CheckpointError(f"Cannot read the {content} in {name}: {exc}.") from exc


def _numbers(options: RecipeOptions, of_file: Mapping[str, float]) -> dict[str, Any]:
    """Read the numbers; those that are not given stay the file's."""
    if options.numbers is None:
        return {}
    try:
        return {"numbers": {**of_file, **parse_numbers(", ".join(options.numbers))}}
    except RecipeError as exc:
        raise RecipeError(f"--number: {exc}") from exc


def _block_weights(options: RecipeOptions, model_a: ModelSource) -> dict[str, BlockWeights | None]:
    texts = {"block_alpha": options.blocks, "block_beta": options.blocks_beta}
    set_texts = {name: text for name, text in texts.items() if text is not None}
    if not set_texts:
        return {}
    with Checkpoint(options.locator.locate(base_file(model_a))) as checkpoint:
        architecture = checkpoint.architecture
    presets = load_presets()
    return {
        name: None if _is_none(text, presets) else _choose_weights(text, presets, architecture)
        for name, text in set_texts.items()
    }


def _is_none(text: str, presets: PresetTable) -> bool:
    return text == _NO_WEIGHTS or (text.strip().lower() == _NO_WEIGHTS and not is_preset(text, presets))


def _choose_weights(text: str, presets: PresetTable, architecture: Architecture) -> BlockWeights:
    try:
        return choose_block_weights(text, presets, architecture)
    except RecipeError as exc:
        if _is_file(text):
            own = model_source(user_presets_path()).path
            raise UsageError(f"{text} is a file; lines NAME: numbers go into {own}, then --blocks NAME") from exc
        raise


def _unread_presets(options: RecipeOptions) -> list[str]:
    """Remark on lines of the user's presets that cannot be read, where one of these may have been meant."""
    texts = [text for text in (options.blocks, options.blocks_beta) if text is not None]
    if not texts:
        return []
    presets = load_presets()
    if not any(is_preset(text, presets) for text in texts):
        return []
    return [f"This preset is left out: {mistake}" for mistake in mistakes_of(presets).values()]


def _unused_ratios(options: RecipeOptions, recipe: MergeRecipe) -> list[str]:
    """Remark on base ratios that nothing uses, since the block weights set all blocks and BASE."""
    ratios = {"alpha": (options.alpha, recipe.block_alpha), "beta": (options.beta, recipe.block_beta)}
    return [
        f"--{name} has no effect: the block weights set every block, BASE too."
        for name, (ratio, weights) in ratios.items()
        if ratio is not None and weights is not None and weights.base is not None
    ]
