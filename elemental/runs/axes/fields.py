"""Axes that set fields of the recipe or the request: numbers, prompts, samplers, models, block weights, the mode."""

# ruff: noqa: D102 (the methods are described in Axis)

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

from ...errors import ImageError, RecipeError
from ...images.image_request import choose_sampler
from ...recipe.block_weights import choose_block_weights, format_block_weights
from ...recipe.modes import MergeMode
from ...recipe.recipe import MergeRecipe
from ...recipe.rules import RuleSet, format_ratio
from ...recipe.spec_errors import suggest
from ...recipe.spec_parser import parse_ratio
from .base import Axis, AxisValue, Setting
from .context import AxisContext
from .value_lists import split_at_lines, split_quoted, without_comments


class FieldAxis(Axis):
    """A field of the recipe or of the request.

    Args:
        name: The name of the axis.
        field: The name of the field.
    """

    def __init__(self, name: str, field: str) -> None:
        self.name = name
        self.sets = frozenset({field})
        self.field = field

    def apply(self, setting: Setting, meaning: Any) -> Setting:
        if self.field in MergeRecipe.__dataclass_fields__:
            return replace(setting, recipe=replace(setting.recipe, **{self.field: meaning}))
        return replace(setting, request=replace(setting.request, **{self.field: meaning}))


class NumberAxis(FieldAxis):
    """A number."""

    form = "numbers, separated by commas"

    def read(self, text: str, context: AxisContext) -> list[AxisValue]:  # noqa: ARG002
        number = _parse_finite(text)
        return [AxisValue(format_ratio(number), f"{self.name} {format_ratio(number)}", number)]


class IntegerAxis(FieldAxis):
    """A whole number."""

    form = "numbers, separated by commas"

    def read(self, text: str, context: AxisContext) -> list[AxisValue]:  # noqa: ARG002
        if not re.fullmatch(r"[+-]?\d{1,12}", text):
            raise ImageError(f'"{text}" is no whole number.')
        return [AxisValue(text, f"{self.name} {int(text)}", int(text))]


class SeedAxis(IntegerAxis):
    """The seed; -1 draws one, which the label and the text then name."""

    form = "whole numbers, separated by commas; -1 picks a random seed"

    def read(self, text: str, context: AxisContext) -> list[AxisValue]:
        (value,) = super().read(text, context)
        if value.meaning != -1:
            return [value]
        drawn = context.draw_seed()
        return [AxisValue(str(drawn), f"seed {drawn}", drawn)]


class AlphaAxis(NumberAxis):
    """Alpha; beside an axis of pinned elements the ratio of these elements."""

    def apply(self, setting: Setting, meaning: Any) -> Setting:
        if setting.pinned is None:
            return super().apply(setting, meaning)
        rules = (*setting.recipe.rules.rules, setting.pinned.rule(meaning))
        return replace(setting, recipe=replace(setting.recipe, rules=RuleSet(rules)), pinned=None)


class AlphaBetaAxis(Axis):
    """Alpha and beta together."""

    name = "alpha-beta"
    sets = frozenset({"alpha", "beta"})
    form = "pairs such as 0.5 0.2, separated by commas"

    def read(self, text: str, context: AxisContext) -> list[AxisValue]:  # noqa: ARG002
        numbers = text.replace(":", " ").split()
        if len(numbers) != 2:
            raise RecipeError(f'"{text}" is no pair of alpha and beta, such as 0.5 0.2.')
        alpha, beta = map(_parse_finite, numbers)
        alpha_text, beta_text = format_ratio(alpha), format_ratio(beta)
        return [AxisValue(f"{alpha_text} {beta_text}", f"alpha {alpha_text}, beta {beta_text}", (alpha, beta))]

    def apply(self, setting: Setting, meaning: Any) -> Setting:
        alpha, beta = meaning
        return replace(setting, recipe=replace(setting.recipe, alpha=alpha, beta=beta))


class BlockWeightsAxis(FieldAxis):
    """Block weights of alpha or of beta."""

    form = "one preset name or list of numbers per line"

    def split(self, text: str) -> list[str]:
        return split_at_lines(without_comments(text))

    def read(self, text: str, context: AxisContext) -> list[AxisValue]:
        before_colon, colon, after_colon = text.partition(":")
        weights = choose_block_weights(after_colon if colon else text, context.presets, context.architecture)
        numbers = format_block_weights(weights)
        if not colon and text.strip().upper() not in context.presets:
            return [AxisValue(numbers, numbers, weights)]
        preset = before_colon.strip()
        return [AxisValue(f"{preset}:{numbers}" if preset else numbers, preset or numbers, weights)]


class ModelAxis(FieldAxis):
    """One of the models."""

    form = 'files, separated by commas; put names that contain a comma in "..."'

    def split(self, text: str) -> list[str]:
        return split_quoted(text)

    def read(self, text: str, context: AxisContext) -> list[AxisValue]:
        source = context.find_model(text)
        return [AxisValue(source.path, f"{self.name[-1].upper()}: {source.name}", source)]


class ModeAxis(Axis):
    """The formula; model C and beta are left out where it has no use for them."""

    name = "mode"
    sets = frozenset({"mode"})
    form = ", ".join(mode.value for mode in MergeMode)
    applies_first = True  # other axes may set ratios that only this mode has

    def read(self, text: str, context: AxisContext) -> list[AxisValue]:  # noqa: ARG002
        modes = {mode.value: mode for mode in MergeMode}
        name = text.lower()
        if name not in modes:
            raise RecipeError(f'There is no mode "{text}"{suggest(name, modes) or "."} Known are {", ".join(modes)}.')
        return [AxisValue(name, name, modes[name])]

    def apply(self, setting: Setting, meaning: MergeMode) -> Setting:
        return replace(setting, recipe=setting.recipe.with_mode(meaning))


class PromptAxis(FieldAxis):
    """A prompt."""

    form = 'one per line; "" for an empty one'

    def split(self, text: str) -> list[str]:
        return split_at_lines(text)

    def read(self, text: str, context: AxisContext) -> list[AxisValue]:  # noqa: ARG002
        prompt = "" if text == '""' else text
        return [AxisValue(text, f"{self.name}: {prompt}" if prompt else f"no {self.name}", prompt)]


class SamplerAxis(FieldAxis):
    """The sampler."""

    form = "names, separated by commas"

    def read(self, text: str, context: AxisContext) -> list[AxisValue]:
        name = choose_sampler(text, context.samplers)
        return [AxisValue(name, name, name)]


def _parse_finite(text: str) -> float:
    number = parse_ratio(text)
    if number is None or not math.isfinite(number):
        raise RecipeError(f'"{text}" is no finite number.')
    return number
