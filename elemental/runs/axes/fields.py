"""Axes that set fields of the recipe or the request: numbers, prompts, samplers, models, block weights, the mode."""

# ruff: noqa: D102 (the methods are described in Axis)

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

from ...errors import RecipeError
from ...images.image_request import choose_sampler
from ...modes.base import Number
from ...modes.catalogue import MergeMode
from ...recipe.block_weights import format_block_weights
from ...recipe.lookalikes import plain_text
from ...recipe.numbers import Numbers
from ...recipe.presets import choose_block_weights, is_preset
from ...recipe.recipe import MergeRecipe
from ...recipe.rule_hints import explain_ratio
from ...recipe.rules import RuleSet, format_ratio
from ...recipe.spec_reader import parse_ratio
from ...recipe.suggestions import suggest
from .base import Axis, AxisValue, Setting
from .context import AxisContext
from .ranges import expand_range
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

    form = "numbers, separated by commas, or ranges: 0-1(+0.25) in steps, 0-1[5] five numbers"
    example = "0, 0.5, 1"

    def split(self, text: str) -> list[str]:
        return super().split(plain_text(text))

    def read(self, text: str, context: AxisContext) -> list[AxisValue]:  # noqa: ARG002
        numbers = map(_parse_finite, expand_range(text, whole=False) or [text])
        return [AxisValue(format_ratio(number), f"{self.name} {format_ratio(number)}", number) for number in numbers]


class IntegerAxis(FieldAxis):
    """A whole number."""

    form = "whole numbers, separated by commas, or ranges: 20-30(+5) in steps"
    example = "20, 30, 40"

    def split(self, text: str) -> list[str]:
        return super().split(plain_text(text))

    def read(self, text: str, context: AxisContext) -> list[AxisValue]:
        return [self.read_one(number, context) for number in expand_range(text, whole=True) or [text]]

    def read_one(self, text: str, context: AxisContext) -> AxisValue:  # noqa: ARG002
        """Read one number."""
        if not re.fullmatch(r"[+-]?[0-9]{1,12}", text):
            raise RecipeError(f'"{text}" is no whole number{explain_ratio(text)}.')
        return AxisValue(text, f"{self.name} {int(text)}", int(text))


class SeedAxis(IntegerAxis):
    """The seed; -1 draws one, which the label and the text then name."""

    form = "whole numbers, separated by commas, or ranges such as 1-4; -1 picks a random seed"
    example = "1-3, 42"

    def read_one(self, text: str, context: AxisContext) -> AxisValue:
        value = super().read_one(text, context)
        if value.meaning != -1:
            return value
        drawn = context.draw_seed()
        return AxisValue(str(drawn), f"seed {drawn}", drawn)


class ModeNumberAxis(Axis):
    """A number that some modes have besides the ratios.

    Args:
        number: The number; its name is part of the axis's.
    """

    def __init__(self, number: Number) -> None:
        self.name = f"number-{number.name}"
        self.sets = frozenset({f"numbers.{number.name}"})
        self._number = number
        self.form = IntegerAxis.form if number.whole else NumberAxis.form
        default = number.most if number.default is None else number.default
        self.example = "1, 2, 3" if number.whole else f"{format_ratio(default)}, {format_ratio(number.least)}"

    def split(self, text: str) -> list[str]:
        return super().split(plain_text(text))

    def read(self, text: str, context: AxisContext) -> list[AxisValue]:  # noqa: ARG002
        numbers = map(_parse_finite, expand_range(text, whole=self._number.whole) or [text])
        name = self._number.name
        return [AxisValue(format_ratio(number), f"{name} {format_ratio(number)}", number) for number in numbers]

    def apply(self, setting: Setting, meaning: Any) -> Setting:
        numbers = Numbers({**setting.recipe.numbers, self._number.name: meaning})
        return replace(setting, recipe=replace(setting.recipe, numbers=numbers))


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
    form = "pairs of both numbers, separated by commas"
    example = "0.5 0.2, 0.5 0.4"

    def read(self, text: str, context: AxisContext) -> list[AxisValue]:  # noqa: ARG002
        numbers = plain_text(text).replace(":", " ").split()
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

    form = "one preset or list of numbers a line"
    example = "GRAD_V"

    def split(self, text: str) -> list[str]:
        return split_at_lines(without_comments(text))

    def read(self, text: str, context: AxisContext) -> list[AxisValue]:
        before_colon, colon, after_colon = text.partition(":")
        weights = choose_block_weights(after_colon if colon else text, context.presets, context.architecture)
        numbers = format_block_weights(weights)
        if not colon and not is_preset(text, context.presets):
            return [AxisValue(numbers, numbers, weights)]
        preset = before_colon.strip()
        return [AxisValue(f"{preset}:{numbers}" if preset else numbers, preset or numbers, weights)]


class ModelAxis(FieldAxis):
    """One of the models."""

    form = 'files, separated by commas; put names that contain a comma in "..."'
    example = 'one.safetensors, "two, v2.safetensors"'

    def split(self, text: str) -> list[str]:
        return split_quoted(text)

    def read(self, text: str, context: AxisContext) -> list[AxisValue]:
        source = context.find_model(text)
        return [AxisValue(source.path, f"{self.name[-1].upper()}: {source.name}", source)]


class ModeAxis(Axis):
    """The formula; model C and beta are left out where it has no use for them."""

    name = "mode"
    sets = frozenset({"mode"})
    form = "names of merge modes"
    example = "weight-sum, add-difference"
    applies_first = True  # other axes may set ratios that only this mode has

    def read(self, text: str, context: AxisContext) -> list[AxisValue]:  # noqa: ARG002
        modes = {mode.value: mode for mode in MergeMode}
        name = "-".join(text.lower().replace("_", " ").split())  # supermerger writes "Weight sum"
        if name not in modes:
            raise RecipeError(f'There is no mode "{text}"{suggest(name, modes) or "."} Known are {", ".join(modes)}.')
        return [AxisValue(name, name, modes[name])]

    def apply(self, setting: Setting, meaning: MergeMode) -> Setting:
        return replace(setting, recipe=setting.recipe.with_mode(meaning))


class PromptAxis(FieldAxis):
    """A prompt."""

    form = 'one a line; "" for an empty one'
    example = "a cat, sitting"

    def split(self, text: str) -> list[str]:
        return split_at_lines(text)

    def read(self, text: str, context: AxisContext) -> list[AxisValue]:  # noqa: ARG002
        prompt = "" if text == '""' else text
        return [AxisValue(text, f"{self.name}: {prompt}" if prompt else f"no {self.name}", prompt)]


class SamplerAxis(FieldAxis):
    """The sampler."""

    form = "names, separated by commas"
    example = "Euler a, Euler"

    def read(self, text: str, context: AxisContext) -> list[AxisValue]:
        name = choose_sampler(text, context.samplers)
        return [AxisValue(name, name, name)]


def _parse_finite(text: str) -> float:
    number = parse_ratio(text)
    if number is None or not math.isfinite(number):
        raise RecipeError(f'"{text}" is no finite number{explain_ratio(text)}.')
    return number
