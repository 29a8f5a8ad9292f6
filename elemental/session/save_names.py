"""A name for a merge that is to be saved: short, of its models and what is merged, and not that of another file."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path, PurePath

from ..modes.catalogue import MergeMode
from ..recipe.numbers import format_numbers, measured_numbers
from ..recipe.recipe import MergeRecipe
from ..recipe.rules import format_ratio

_MOST_OF_MODEL = 20  # letters
_MOST_OF_RULE = 32
_MOST_MODELS = 4
_PRESET = re.compile(r"[^\W\d][\w.+-]{0,20}")


def suggest_name(recipe: MergeRecipe, folder: Path, *, blocks: str = "") -> str:
    """Suggest the name of a file, without its suffix.

    Args:
        recipe: The merge.
        folder: Where it is saved.
        blocks: What the form says of block weights: the name of a preset is part of the name.
    """
    name = "-".join(_pieces(recipe, blocks.strip()))
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    return next(name for name in names if not (folder / f"{name}.safetensors").exists())


def _pieces(recipe: MergeRecipe, blocks: str) -> Iterator[str]:
    models = [source for role, source in recipe.sources.items() if role != "vae"]
    named = [_words(PurePath(model.name).stem, _MOST_OF_MODEL) for model in models]
    yield from named[: 1 if recipe.has_one_model else _MOST_MODELS]
    if len(models) > _MOST_MODELS:
        yield f"{len(models) - _MOST_MODELS}-more"
    if recipe.only_changes_a:
        yield from _name_changes(recipe)
        return
    if recipe.mode is not MergeMode.WEIGHT_SUM:
        yield recipe.mode.value
    if recipe.block_alpha is not None:
        yield blocks if _PRESET.fullmatch(blocks) else "mbw"
    elif recipe.alpha or not recipe.rules.of_mode:
        yield format_ratio(recipe.alpha)
    if recipe.beta is not None:
        yield format_ratio(recipe.beta)
    chosen = {name: number for name, number in recipe.numbers.items() if name not in measured_numbers(recipe.mode)}
    if chosen:
        yield _words(format_numbers(chosen).replace("=", ""))
    if recipe.rules:
        yield _name_rules([str(rule) for rule in recipe.rules.rules])
    yield from _name_changes(recipe)


def _name_changes(recipe: MergeRecipe) -> Iterator[str]:
    """Say that the result is adjusted, and give the only LoRA with its ratio, or else how many there are."""
    loras = recipe.loras
    if recipe.adjust is not None:
        yield "adjusted"
    if len(loras) > 1:
        yield f"{len(loras)}-loras"
    elif loras:
        yield _words(PurePath(loras[0].file.name).stem, _MOST_OF_MODEL)
        yield format_ratio(loras[0].ratio)


def _name_rules(rules: list[str]) -> str:
    """Give the only rule, if it is short, or else how many there are."""
    only = _words(rules[0].replace(":", " "))
    return only if len(rules) == 1 and len(only) <= _MOST_OF_RULE else f"{len(rules)}-rule{'s' * (len(rules) > 1)}"


def _words(text: str, most: int | None = None) -> str:
    """Leave of a text what names of files may have on every system."""
    return re.sub(r"[^\w.+-]+", "-", text).strip(" .-_")[:most].rstrip(".-_") or "model"
