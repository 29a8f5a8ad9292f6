"""The axis of the ratios of LoRAs."""

# ruff: noqa: D102 (the methods are described in Axis)

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ...errors import RecipeError
from ...recipe.lookalikes import plain_text
from ...recipe.lora_texts import LoraText, format_lora, parse_lora, without_ending
from ...recipe.recipe import LoraSource, MergeRecipe, ModelSource
from ...recipe.rule_hints import explain_ratio
from ...recipe.rules import format_ratio
from ...recipe.spec_reader import parse_ratio
from ...recipe.suggestions import suggest
from .base import Axis, AxisValue, Setting
from .context import AxisContext
from .ranges import expand_range
from .value_lists import split_quoted

_ONLY = ""
"""The name, in a value, of the only LoRA that there is."""


class LoraAxis(Axis):
    """The ratios of one of the recipe's LoRAs; the others keep theirs."""

    name = "lora"
    sets = frozenset({"loras"})
    form = "NAME:RATIO or NAME:RATIO:RATIO_TE of a LoRA of the merge; numbers or ranges alone if there is only one"
    example = "detail:0.5, detail:1"

    def split(self, text: str) -> list[str]:
        return split_quoted(plain_text(text))

    def read(self, text: str, context: AxisContext) -> list[AxisValue]:  # noqa: ARG002
        before, colon, last = plain_text(text).rpartition(":")
        numbers = expand_range(last.strip(), whole=False) or [last.strip()]
        return [_value(_parse(f"{before}{colon}{number}")) for number in numbers]

    def sets_of(self, values: Sequence[AxisValue], recipe: MergeRecipe) -> frozenset[str]:
        places = {place for value in values for place in _places(value.meaning.file, recipe.loras)}
        return frozenset(lora_part(recipe.loras[place]) for place in places)

    def apply(self, setting: Setting, meaning: Any) -> Setting:
        loras = list(setting.recipe.loras)
        place = find_lora(meaning.file, loras)
        loras[place] = replace(loras[place], ratio=meaning.ratio, ratio_te=meaning.ratio_te)
        return replace(setting, recipe=replace(setting.recipe, loras=tuple(loras)))


def lora_part(lora: LoraSource) -> str:
    """Name the ratios of a LoRA as a part of a setting; see :meth:`Axis.sets_of`."""
    return f"LoRA {lora.file.name}"


def _parse(text: str) -> LoraText:
    ratio = parse_ratio(text)
    if ratio is not None:
        return LoraText(_ONLY, ratio)
    lora = parse_lora(text)
    name = ModelSource(lora.file).name
    if not name or lora.file == text.strip():
        raise RecipeError(
            f'"{text}" has no ratio{explain_ratio(text.rpartition(":")[2])}. Write NAME:RATIO or '
            "NAME:RATIO:RATIO_TE, such as detail:0.5; a number alone is the ratio of the merge's only LoRA."
        )
    return lora._replace(file=name)


def _value(lora: LoraText) -> AxisValue:
    if lora.file == _ONLY:
        ratio = format_ratio(lora.ratio)
        return AxisValue(ratio, f"LoRA {ratio}", lora)
    ratios = format_lora("", lora.ratio, lora.ratio_te)[1:]
    return AxisValue(format_lora(*lora), f"{without_ending(lora.file)} {ratios}", lora)


def find_lora(name: str, loras: Sequence[LoraSource]) -> int:
    """Find the place of the LoRA of a name among others.

    Args:
        name: The name of its file, with or without its ending; empty for the only one.
        loras: The LoRAs.

    Raises:
        RecipeError: There is none, or more than one.
    """
    places = _places(name, loras)
    if len(places) == 1:
        return places[0]
    names = [lora.file.name for lora in loras]
    if not loras:
        raise RecipeError(
            "The merge has no LoRA whose ratio could vary: add it with --lora FILE:RATIO, or in the Merge panel."
        )
    if name == _ONLY:
        example = f"{without_ending(names[0])}:0.5"
        raise RecipeError(
            f"The merge has several LoRAs, {', '.join(names)}: write whose ratio it is, such as {example}."
        )
    if not places:
        near = suggest(name, map(without_ending, names)) or "."
        raise RecipeError(f'The merge has no LoRA "{name}"{near} It has {", ".join(names)}.')
    meant = ", ".join(names[place] for place in places)
    raise RecipeError(f'"{name}" could be any of {meant}: write the whole name, or rename a file if they are the same.')


def _places(name: str, loras: Sequence[LoraSource]) -> list[int]:
    """List the LoRAs whose name this is, with its ending if there are such, or else without."""
    if name == _ONLY:
        return list(range(len(loras)))
    whole = [plain_text(lora.file.name) for lora in loras]
    found = [place for place, known in enumerate(whole) if known == name]
    return found or [place for place, known in enumerate(whole) if without_ending(known) == name]
