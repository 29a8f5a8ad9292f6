"""What an axis of an XY plot varies: one small class each, from the text of its values to a changed recipe or request.

A class names itself, tells which parts of a cell it sets, reads its values, and applies one of them to a setting, as a
pure function. To add an axis, write such a class and put it into ``AXES``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..errors import ImageError, RecipeError
from ..images.request import choose_sampler
from ..recipe.block_weights import choose_block_weights, format_block_weights
from ..recipe.modes import MergeMode
from ..recipe.parser import parse_ratio, parse_rules, parse_targets
from ..recipe.recipe import MergeRecipe
from ..recipe.rule_targets import expand_targets
from ..recipe.rules import RuleSet, format_ratio
from ..recipe.spec_errors import suggest
from .axis import Axis, AxisValue, Setting
from .axis_context import AxisContext
from .value_lists import split_at_commas, split_at_lines, split_quoted, without_comments


class _FieldAxis(Axis):
    """A field of the recipe or of the request."""

    def __init__(self, name: str, field: str) -> None:
        self.name = name
        self.sets = frozenset({field})
        self.field = field

    def apply(self, setting: Setting, meaning: Any) -> Setting:
        if self.field in MergeRecipe.__dataclass_fields__:
            return replace(setting, recipe=replace(setting.recipe, **{self.field: meaning}))
        return replace(setting, request=replace(setting.request, **{self.field: meaning}))


class _Number(_FieldAxis):
    """A number."""

    form = "numbers, separated by commas or line ends"

    def __init__(self, name: str, field: str, *, whole: bool = False) -> None:
        super().__init__(name, field)
        self.whole = whole

    def read(self, text: str, context: AxisContext) -> list[AxisValue]:  # noqa: ARG002
        if self.whole:
            if not re.fullmatch(r"[+-]?\d{1,12}", text):
                raise ImageError(f'"{text}" is no whole number.')
            return [AxisValue(text, f"{self.name} {int(text)}", int(text))]
        number = _finite(text)
        return [AxisValue(format_ratio(number), f"{self.name} {format_ratio(number)}", number)]


class _Alpha(_Number):
    """Alpha; beside a pinpoint axis the ratio of its elements alone."""

    def apply(self, setting: Setting, meaning: Any) -> Setting:
        if setting.pinned is None:
            return super().apply(setting, meaning)
        rules = (*setting.recipe.rules.rules, setting.pinned.rule(meaning))
        return replace(setting, recipe=replace(setting.recipe, rules=RuleSet(rules)), pinned=None)


class _Seed(_Number):
    """The seed; -1 draws one, which the label and the text then name."""

    form = "whole numbers, separated by commas or line ends; -1 draws one"

    def read(self, text: str, context: AxisContext) -> list[AxisValue]:
        (value,) = super().read(text, context)
        if value.meaning != -1:
            return [value]
        drawn = context.draw_seed()
        return [AxisValue(str(drawn), f"seed {drawn}", drawn)]


class _AlphaBeta(Axis):
    """Alpha and beta together."""

    name = "alpha-beta"
    sets = frozenset({"alpha", "beta"})
    form = "pairs such as 0.5 0.2, separated by commas or line ends"

    def read(self, text: str, context: AxisContext) -> list[AxisValue]:  # noqa: ARG002
        numbers = text.replace(":", " ").split()
        if len(numbers) != 2:
            raise RecipeError(f'"{text}" is no pair of alpha and beta, such as 0.5 0.2.')
        alpha, beta = map(_finite, numbers)
        return [
            AxisValue(
                f"{format_ratio(alpha)} {format_ratio(beta)}",
                f"alpha {format_ratio(alpha)}, beta {format_ratio(beta)}",
                (alpha, beta),
            )
        ]

    def apply(self, setting: Setting, meaning: Any) -> Setting:
        alpha, beta = meaning
        return replace(setting, recipe=replace(setting.recipe, alpha=alpha, beta=beta))


class _Elemental(Axis):
    """Whole specs, in the place of the recipe's rules, or after them."""

    sets = frozenset({"rules"})

    def __init__(self, name: str, *, add: bool) -> None:
        self.name = name
        self.add = add
        place, empty = ("after", "nothing added") if add else ("in the place of", "no rules")
        self.form = (
            f"specs {place} the recipe's rules, separated by blank lines; "
            f"a text that begins with two blank lines has {empty} in its first image"
        )

    def split(self, text: str) -> list[str]:
        lines = text.splitlines()
        specs = re.split(r"\n(?:[ \t]*\n)+", "\n".join(lines).strip("\n"))
        written = [spec for spec in specs if re.sub(r"#.*", "", spec).strip(" \t\n,")]
        starts_blank = len(lines) > 1 and not lines[0].strip() and not lines[1].strip()
        return ["", *written] if starts_blank else written

    def read(self, text: str, context: AxisContext) -> list[AxisValue]:  # noqa: ARG002
        rules = parse_rules(text, name="value")
        label = ", ".join(map(str, rules.rules)) or ("the recipe's rules alone" if self.add else "no rules")
        return [AxisValue("\n".join(map(str, rules.rules)), label, rules.rules)]

    def apply(self, setting: Setting, meaning: Any) -> Setting:
        rules = (*setting.recipe.rules.rules, *meaning) if self.add else meaning
        return replace(setting, recipe=replace(setting.recipe, rules=RuleSet(rules)))


class _Pinpoint(Axis):
    """Elements, or whole blocks, whose ratio is on the other axis."""

    sets = frozenset({"rules"})

    def __init__(self, name: str, *, whole_blocks: bool) -> None:
        self.name = name
        self.whole_blocks = whole_blocks
        what = "blocks such as IN03 IN04 or NOT M00" if whole_blocks else "blocks:elements"
        self.form = f"{what}, separated by commas or line ends; the other axis is alpha"

    def split(self, text: str) -> list[str]:
        return split_at_commas(without_comments(text))

    def read(self, text: str, context: AxisContext) -> list[AxisValue]:
        targets = expand_targets(parse_targets(text, name="value"), context.names, context.architecture.blocks)
        if self.whole_blocks and any(target.elements.parts for target in targets):
            raise RecipeError(f'"{text}" names elements; {self.name} takes whole blocks.')
        return [AxisValue(str(target), str(target) or ":", target) for target in targets]

    def apply(self, setting: Setting, meaning: Any) -> Setting:
        return replace(setting, pinned=meaning)


class _Weights(_FieldAxis):
    """Block weights of alpha or of beta."""

    form = "the name of a preset, or numbers, one value a line"

    def split(self, text: str) -> list[str]:
        return split_at_lines(without_comments(text))

    def read(self, text: str, context: AxisContext) -> list[AxisValue]:
        name, colon, numbers = text.partition(":")
        weights = choose_block_weights(numbers if colon else text, context.presets, context.architecture)
        numbers = format_block_weights(weights)
        own_name = name.strip() if colon or text.strip().upper() in context.presets else ""
        return [AxisValue(f"{own_name}:{numbers}" if own_name else numbers, own_name or numbers, weights)]


class _Model(_FieldAxis):
    """One of the models."""

    form = 'files, separated by commas or line ends; "..." around a name with a comma'

    def split(self, text: str) -> list[str]:
        return split_quoted(text)

    def read(self, text: str, context: AxisContext) -> list[AxisValue]:
        source = context.find_model(text)
        return [AxisValue(source.path, f"{self.name[-1].upper()}: {source.name}", source)]


class _Mode(Axis):
    """The formula; model C and beta are left out where it has no use for them."""

    name = "mode"
    sets = frozenset({"mode"})
    form = ", ".join(mode.value for mode in MergeMode)

    def read(self, text: str, context: AxisContext) -> list[AxisValue]:  # noqa: ARG002
        names = {mode.value: mode for mode in MergeMode}
        if text.lower() not in names:
            raise RecipeError(
                f'There is no mode "{text}"{suggest(text.lower(), names) or "."} Known are {", ".join(names)}.'
            )
        return [AxisValue(text.lower(), text.lower(), names[text.lower()])]

    def apply(self, setting: Setting, meaning: MergeMode) -> Setting:
        return replace(setting, recipe=setting.recipe.with_mode(meaning))


class _Text(_FieldAxis):
    """A prompt."""

    form = 'one a line; "" for an empty one'

    def split(self, text: str) -> list[str]:
        return split_at_lines(text)

    def read(self, text: str, context: AxisContext) -> list[AxisValue]:  # noqa: ARG002
        prompt = "" if text == '""' else text
        return [AxisValue(text, f"{self.name}: {prompt}" if prompt else f"no {self.name}", prompt)]


class _Sampler(_FieldAxis):
    """The sampler."""

    form = "names, separated by commas or line ends"

    def read(self, text: str, context: AxisContext) -> list[AxisValue]:
        name = choose_sampler(text, context.samplers)
        return [AxisValue(name, name, name)]


AXES: Mapping[str, Axis] = {
    axis.name: axis
    for axis in (
        _Elemental("elemental", add=False),
        _Elemental("add-elemental", add=True),
        _Pinpoint("pinpoint-element", whole_blocks=False),
        _Pinpoint("pinpoint-blocks", whole_blocks=True),
        _Alpha("alpha", "alpha"),
        _Number("beta", "beta"),
        _AlphaBeta(),
        _Weights("mbw-alpha", "block_alpha"),
        _Weights("mbw-beta", "block_beta"),
        _Model("model-a", "model_a"),
        _Model("model-b", "model_b"),
        _Model("model-c", "model_c"),
        _Mode(),
        _Seed("seed", "seed", whole=True),
        _Text("prompt", "prompt"),
        _Text("negative", "negative"),
        _Number("steps", "steps", whole=True),
        _Number("cfg", "cfg"),
        _Sampler("sampler", "sampler"),
    )
}
"""Every axis by its name."""


def is_pinpoint(axis: Axis) -> bool:
    """Tell whether an axis names elements whose ratio the other axis gives."""
    return isinstance(axis, _Pinpoint)


def _finite(text: str) -> float:
    number = parse_ratio(text)
    if number is None or not math.isfinite(number):
        raise RecipeError(f'"{text}" is no finite number.')
    return number
