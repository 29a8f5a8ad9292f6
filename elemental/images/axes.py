"""What an axis of an XY plot varies: one small class each, from the text of its values to a changed recipe or request.

A class names itself, tells which parts of a cell it sets, reads its values, and applies one of them to a setting, as a
pure function. To add an axis, write such a class and put it into ``AXES``.
"""

from __future__ import annotations

import csv
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from ..errors import ElementalError, ImageError, RecipeError
from ..spec.blocks import Architecture
from ..spec.keys import KeyName
from ..spec.parser import parse_ratio, parse_rules, parse_targets
from ..spec.problems import suggest
from ..spec.recipe import MergeMode, MergeRecipe, ModelSource
from ..spec.rules import RuleSet, format_ratio
from ..spec.targets import Target, expand_targets
from ..spec.weights import Presets, choose_block_weights, format_block_weights
from .request import ImageRequest, choose_sampler


@dataclass(frozen=True)
class Setting:
    """What decides one picture.

    Attributes:
        recipe: The merge.
        request: The picture.
        pinned: Elements whose ratio a later alpha is, instead of the recipe's own alpha.
    """

    recipe: MergeRecipe
    request: ImageRequest
    pinned: Target | None = None


class AxisValue(NamedTuple):
    """One value of an axis.

    Attributes:
        text: Reads back as the same value, whatever was random or looked up when it was first read.
        label: What people see.
        meaning: What the axis applies.
    """

    text: str
    label: str
    meaning: Any


@dataclass(frozen=True)
class Known:
    """What the values of an axis are read against.

    Attributes:
        architecture: Of the models.
        names: The tensors of model A.
        presets: Block weights by name.
        samplers: Their names, as the host spells them.
        find_model: Finds a model by what the user calls it.
        draw_seed: Draws a seed, from 0 to 2^32 - 1.
    """

    architecture: Architecture
    names: Sequence[KeyName]
    presets: Presets
    samplers: Sequence[str]
    find_model: Callable[[str], ModelSource]
    draw_seed: Callable[[], int]


class Axis(ABC):
    """Something that varies along a side of a plot.

    Attributes:
        name: As the command line has it.
        sets: The parts of a setting that it decides; two axes of a plot share none.
        form: What its values look like, for help.
    """

    name: str
    sets: frozenset[str]
    form: str

    def split(self, text: str) -> list[str]:
        """Cut the text of all values into that of each: at commas and line ends, unless the axis does otherwise."""
        return _at_commas(text)

    @abstractmethod
    def read(self, text: str, known: Known) -> list[AxisValue]:
        """Read one value, or several that one word stands for.

        Args:
            text: One of the pieces that :meth:`split` gives.
            known: What it is read against.

        Raises:
            ElementalError: It is none.
        """

    @abstractmethod
    def apply(self, setting: Setting, meaning: Any) -> Setting:
        """Give the setting with this value.

        Args:
            setting: What is changed, in a copy.
            meaning: That of a value which this axis has read.

        Raises:
            ElementalError: The value does not go with the rest.
        """


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

    def read(self, text: str, known: Known) -> list[AxisValue]:  # noqa: ARG002
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

    def read(self, text: str, known: Known) -> list[AxisValue]:
        (value,) = super().read(text, known)
        if value.meaning != -1:
            return [value]
        drawn = known.draw_seed()
        return [AxisValue(str(drawn), f"seed {drawn}", drawn)]


class _AlphaBeta(Axis):
    """Alpha and beta together."""

    name = "alpha-beta"
    sets = frozenset({"alpha", "beta"})
    form = "pairs such as 0.5 0.2, separated by commas or line ends"

    def read(self, text: str, known: Known) -> list[AxisValue]:  # noqa: ARG002
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
            f"a text that begins with two blank lines has {empty} in its first picture"
        )

    def split(self, text: str) -> list[str]:
        lines = text.splitlines()
        specs = re.split(r"\n(?:[ \t]*\n)+", "\n".join(lines).strip("\n"))
        written = [spec for spec in specs if re.sub(r"#.*", "", spec).strip(" \t\n,")]
        starts_blank = len(lines) > 1 and not lines[0].strip() and not lines[1].strip()
        return ["", *written] if starts_blank else written

    def read(self, text: str, known: Known) -> list[AxisValue]:  # noqa: ARG002
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
        return _at_commas(_without_comments(text))

    def read(self, text: str, known: Known) -> list[AxisValue]:
        targets = expand_targets(parse_targets(text, name="value"), known.names, known.architecture.blocks)
        if self.whole_blocks and any(target.elements.parts for target in targets):
            raise RecipeError(f'"{text}" names elements; {self.name} takes whole blocks.')
        return [AxisValue(str(target), str(target) or ":", target) for target in targets]

    def apply(self, setting: Setting, meaning: Any) -> Setting:
        return replace(setting, pinned=meaning)


class _Weights(_FieldAxis):
    """Block weights of alpha or of beta."""

    form = "the name of a preset, or numbers, one value a line"

    def split(self, text: str) -> list[str]:
        return _at_lines(_without_comments(text))

    def read(self, text: str, known: Known) -> list[AxisValue]:
        name, colon, numbers = text.partition(":")
        weights = choose_block_weights(numbers if colon else text, known.presets, known.architecture)
        numbers = format_block_weights(weights)
        own_name = name.strip() if colon or text.strip().upper() in known.presets else ""
        return [AxisValue(f"{own_name}:{numbers}" if own_name else numbers, own_name or numbers, weights)]


class _Model(_FieldAxis):
    """One of the models."""

    form = 'files, separated by commas or line ends; "..." around a name with a comma'

    def split(self, text: str) -> list[str]:
        return _quoted(text)

    def read(self, text: str, known: Known) -> list[AxisValue]:
        source = known.find_model(text)
        return [AxisValue(source.path, f"{self.name[-1].upper()}: {source.name}", source)]


class _Mode(Axis):
    """The formula; model C and beta are left out where it has no use for them."""

    name = "mode"
    sets = frozenset({"mode"})
    form = ", ".join(mode.value for mode in MergeMode)

    def read(self, text: str, known: Known) -> list[AxisValue]:  # noqa: ARG002
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
        return _at_lines(text)

    def read(self, text: str, known: Known) -> list[AxisValue]:  # noqa: ARG002
        prompt = "" if text == '""' else text
        return [AxisValue(text, f"{self.name}: {prompt}" if prompt else f"no {self.name}", prompt)]


class _Sampler(_FieldAxis):
    """The sampler."""

    form = "names, separated by commas or line ends"

    def read(self, text: str, known: Known) -> list[AxisValue]:
        name = choose_sampler(text, known.samplers)
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


def explain(error: ElementalError, *, side: str, axis: Axis, value: str) -> ElementalError:
    """Put the axis and the value that an error is about before it.

    Args:
        error: What was raised; the result is of the same class, and says no more than its text.
        side: "x" or "y".
        axis: Which the value is of.
        value: As it was written.
    """
    return type(error)(f'{side} axis, {axis.name}, value "{value}": {error}')


def _finite(text: str) -> float:
    number = parse_ratio(text)
    if number is None or not math.isfinite(number):
        raise RecipeError(f'"{text}" is no finite number.')
    return number


def _at_commas(text: str) -> list[str]:
    return [piece.strip() for piece in re.split(r"[,\n]", text) if piece.strip()]


def _at_lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _without_comments(text: str) -> str:
    return "\n".join(line.partition("#")[0] for line in text.splitlines())


def _quoted(text: str) -> list[str]:
    rows = csv.reader(_at_lines(text), skipinitialspace=True)
    return [field.strip() for row in rows for field in row if field.strip()]
