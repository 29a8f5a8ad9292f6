"""Read what varies in a search from text: rules whose ratio is a range, and names of numbers.

::

    part   = blocks [":" elements [":" range]]      without range 0 to 1; "lora.NAME" or "B2" to "B9" first, as in rules
           | "alpha" ":" range | "beta" ":" range
           | "number-" name [":" range]              without range as far as the mode takes it
           | "lora" [name] [":" range]               the ratio of a LoRA of the recipe; without name its only one
           | "adjust-" name ":" range
           | "curve" ":" points [":" range]          block weights between points that are spread evenly
    range  = number "-" number
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import NamedTuple

from ..architectures.blocks import BASE
from ..architectures.tensor_sets import union
from ..errors import RecipeError, SpecError
from ..recipe.adjustments import NAMES
from ..recipe.lookalikes import plain_text
from ..recipe.lora_texts import without_ending
from ..recipe.numbers import all_numbers
from ..recipe.ratio_targets import is_further
from ..recipe.recipe import MergeRecipe
from ..recipe.rule_matching import RuleMatcher
from ..recipe.rules import RuleSet, format_ratio
from ..recipe.spec_errors import for_architecture, spec_error
from ..recipe.spec_parser import parse_rules
from ..recipe.spec_warnings import about_rule, warn_of_rules
from ..recipe.suggestions import suggest
from ..runs.axes.context import AxisContext
from ..runs.axes.loras import find_lora
from ..runs.axes.ranges import range_ends
from .parts import PutAdjustment, PutCurve, PutLora, PutNumber, PutRatio, PutRule, curve_points, ratio_of
from .space import Part, Space, Varying

_NAME = "vary"
"""How errors call such a text."""
_PLAIN = (0.0, 1.0)
"""The range of a ratio if none is given."""
FORMS = (
    "OUT03 OUT04:attn2:0-1 or OUT03 (blocks and elements as in rules), alpha:0-1, beta:0-1, number-NAME:LOW-HIGH, "
    "lora NAME:0-1, adjust-NAME:LOW-HIGH, curve:POINTS:0-1"
)
"""What can be written, for help and errors."""


def parse_vary(text: str, recipe: MergeRecipe, context: AxisContext) -> Part:
    """Read one part of what varies; see the module.

    Args:
        text: The text.
        recipe: What it varies; the search begins at its ratios, where they are within the range.
        context: The blocks and elements of model A.

    Raises:
        SpecError: Blocks, elements or whose ratio it is cannot be read; with carets, as for rules.
        RecipeError: A range or a name is missing or makes no sense, or nothing of the recipe would vary.
    """
    written = _Written.of(plain_text(text))
    if not written.text:
        raise RecipeError(f"Nothing is named that could vary. What can be written: {FORMS}.")
    begun = (read for beginning, read in _BEGINNINGS.items() if written.name.startswith(beginning))
    read = _NAMED.get(written.name) or next(begun, _rule)
    if written.rest and read not in (_rule, _lora):
        raise RecipeError(f'"{written.rest}" has no place in "{written.text}". What can be written: {FORMS}.')
    return read(written, recipe, context)


def read_space(texts: Sequence[str], recipe: MergeRecipe, context: AxisContext) -> Space:
    """Read all that varies; what is read later is put into the recipe later.

    Args:
        texts: A text for each part.
        recipe: What they vary.
        context: The blocks and elements of model A.

    Raises:
        RecipeError: As :func:`parse_vary` and :class:`.space.Space`; or a number is there twice.
    """
    parts = tuple(parse_vary(text, recipe, context) for text in texts)
    names = [number.name for part in parts for number in part.numbers]
    if twice := [name for name in names if names.count(name) > 1]:
        raise RecipeError(f"{twice[0]} varies twice: remove one of these.")
    return Space(recipe, parts)


class _Written(NamedTuple):
    """A text that is cut at its colons.

    Attributes:
        text: The whole, without blanks around it.
        name: The first word before the first colon, in small letters.
        rest: What follows the word there.
        fields: What follows the first colon.
    """

    text: str
    name: str
    rest: str
    fields: tuple[str, ...]

    @classmethod
    def of(cls, text: str) -> _Written:
        first, *fields = (field.strip() for field in text.split(":"))
        name, _, rest = first.partition(" ")
        return cls(text.strip(), name.lower(), rest.strip(), tuple(fields))

    def range(self, fields: Sequence[str], example: str, without: tuple[float, float] | None) -> tuple[float, float]:
        """Read the range, which is the only one of these fields, or say how it is written."""
        if not fields and without is not None:
            return without
        ends = range_ends(fields[0]) if len(fields) == 1 else None
        if ends is None:
            wrong = f'"{fields[0]}" is no range LOW-HIGH' if len(fields) == 1 else "it has one range"
            raise RecipeError(f'"{self.text}" cannot vary: {wrong}, as in {example}.')
        return ends


def _rule(written: _Written, recipe: MergeRecipe, context: AxisContext) -> Part:
    if re.search(r"[,;#\n]", written.text):
        raise RecipeError(
            f'"{written.text}" is not one rule: several blocks or elements have spaces between, not commas, and rules '
            "that vary are given one by one, each with its range."
        )
    _refuse_one_colon(written)
    ends = written.range(written.fields[1:], "OUT03 OUT04:attn2:0-1", _PLAIN)
    rules = _read_rules(written, ends, recipe, context)
    (rule,) = rules.rules
    remarks = _remarks(rules, context)
    sides = str(rule)[: -len(f":{format_ratio(rule.alpha)}")]
    number = Varying(sides.rstrip(":") or ":", *ends, ratio_of(rule, recipe, context))
    return Part(f"{sides}:{_format_range(ends)}", (number,), PutRule(rule), remarks)


def _refuse_one_colon(written: _Written) -> None:
    """Refuse what has a range after its only colon: a name that is none, or blocks."""
    if len(written.fields) != 1 or range_ends(written.fields[0]) is None:
        return
    before, _, ends = written.text.rpartition(":")
    near = suggest(before, [*_NAMED, *(f"number-{name}" for name in all_numbers()), *(f"adjust-{n}" for n in NAMES)])
    why = near or f'; for whole blocks, a range has two colons before it: "{before}::{ends}".'
    raise RecipeError(f'"{written.text}" cannot be read{why} What can be written: {FORMS}.')


def _read_rules(written: _Written, ends: tuple[float, float], recipe: MergeRecipe, context: AxisContext) -> RuleSet:
    """Read a rule with the end of the range as its ratio; mistakes are shown in the text as it was written."""
    sides = ":".join(written.text.split(":")[:2])
    spec = f"{sides}{':' * (2 - sides.count(':'))}{_format(ends[0])}"
    try:
        rules = parse_rules(spec, name=_NAME)
        replace(recipe, rules=rules)  # which refuses what the recipe does not have
    except SpecError as exc:
        error = spec_error(exc.problems, written.text, name=_NAME)
        raise for_architecture(error, context.architecture) from exc
    takes = recipe.mode.record.more
    if is_further(rules.rules[0].target) and takes is not None and takes.whole:
        raise RecipeError(f'"{written.text}" cannot vary: in {recipe.mode.value} the ratio of a model is 0 or 1.')
    return rules


def _remarks(rules: RuleSet, context: AxisContext) -> tuple[str, ...]:
    """Say which words of the rule match nothing.

    Raises:
        RecipeError: Nothing matches the rule.
    """
    matcher = RuleMatcher(context.names)
    decision = matcher.decide(rules.rules)
    warnings = warn_of_rules(rules, matcher, decision, architecture=context.architecture)
    before = about_rule(rules, 0, "").message.rstrip(".")
    sides = ":".join(str(rules.rules[0]).split(":")[:2]).rstrip(":")
    texts = tuple(f'"{sides}" {text}' for text in (warning.message.removeprefix(before) for warning in warnings))
    if not decision.matched[0]:
        raise RecipeError(" ".join(texts))
    return texts


def _ratio(written: _Written, recipe: MergeRecipe, context: AxisContext) -> Part:
    name = written.name
    ends = written.range(written.fields, f"{name}:0-1", _PLAIN)
    if name == "beta" and not recipe.mode.uses_beta:
        raise RecipeError(f"{recipe.mode.value}, {recipe.mode.formula}, has no beta that could vary.")
    matcher = RuleMatcher(context.names)
    decision = matcher.decide(recipe.rules.rules)
    left = matcher.everything & ~union(decision.alpha if name == "alpha" else decision.beta)
    weights = recipe.block_alpha if name == "alpha" else recipe.block_beta
    if weights is not None:
        left = 0 if weights.base is not None else left & matcher.with_block(BASE)
    if not left:
        why = "Rules set it everywhere" if weights is None else "Block weights set it in every block"
        raise RecipeError(f"{why}, so {name} changes nothing: let blocks or elements vary, or curve:5.")
    start = recipe.alpha if name == "alpha" else recipe.beta or 0.0
    return Part(f"{name}:{_format_range(ends)}", (Varying(name, *ends, start),), PutRatio(name))


def _number(written: _Written, recipe: MergeRecipe, context: AxisContext) -> Part:  # noqa: ARG001
    name, mode = written.name.removeprefix("number-"), recipe.mode
    known = {number.name: number for number in mode.record.numbers}
    if name not in known:
        has = f"It has {', '.join(known)}." if known else "It has no numbers."
        raise RecipeError(f'{mode.value} has no number "{name}"{suggest(name, known) or "."} {has}')
    number = known[name]
    most = (float(number.least), float(number.most))
    low, high = written.range(written.fields, f"number-{name}:{_format_range(most)}", most)
    if not (most[0] <= low and high <= most[1]):
        raise RecipeError(f'"{written.text}" cannot vary: {name} is from {_format(most[0])} to {_format(most[1])}.')
    start = float(recipe.numbers.get(name, (low + high) / 2))
    varying = Varying(f"number-{name}", low, high, start, whole=number.whole)
    return Part(f"number-{name}:{_format_range((low, high))}", (varying,), PutNumber(name))


def _lora(written: _Written, recipe: MergeRecipe, context: AxisContext) -> Part:  # noqa: ARG001
    before, colon, last = written.text[len("lora") :].rpartition(":")
    name = (before if colon else last).strip()
    ends = written.range([last.strip()] if colon else [], "lora detail:0-1", _PLAIN)
    place = find_lora(name, recipe.loras)
    words = f"lora {name}".rstrip()
    shown = Varying(f"lora {name or without_ending(recipe.loras[place].file.name)}", *ends, recipe.loras[place].ratio)
    return Part(f"{words}:{_format_range(ends)}", (shown,), PutLora(place))


def _adjustment(written: _Written, recipe: MergeRecipe, context: AxisContext) -> Part:  # noqa: ARG001
    name = written.name.removeprefix("adjust-").upper()
    if name not in NAMES:
        raise RecipeError(f'There is no adjustment "{name}"{suggest(name, NAMES) or "."} There are {", ".join(NAMES)}.')
    ends = written.range(written.fields, f"adjust-{name}:-2-2", None)
    start = recipe.adjust[NAMES.index(name)] if recipe.adjust is not None else 0.0
    number = Varying(f"adjust-{name}", *ends, start)
    return Part(f"adjust-{name}:{_format_range(ends)}", (number,), PutAdjustment(name))


def _curve(written: _Written, recipe: MergeRecipe, context: AxisContext) -> Part:
    blocks = len(context.architecture.unet_blocks)
    ends = written.range(written.fields[1:], "curve:5:0-1", _PLAIN)
    count = written.fields[0] if written.fields else ""
    if not re.fullmatch("[0-9]{1,3}", count) or not 2 <= int(count) <= blocks:
        raise RecipeError(
            f'"{written.text}" cannot vary: a curve has from 2 to {blocks} points, as in curve:5 or curve:5:0-1.'
        )
    points = curve_points(recipe, context.architecture, int(count))
    numbers = tuple(Varying(f"curve {point.block}", *ends, point.ratio) for point in points)
    return Part(f"curve:{int(count)}:{_format_range(ends)}", numbers, PutCurve(blocks))


def _format_range(ends: tuple[float, float]) -> str:
    return "-".join(map(_format, ends))


def _format(number: float) -> str:
    """Write a number as ranges have it, without an exponent."""
    return f"{Decimal(format_ratio(number)):f}"


_Read = Callable[[_Written, MergeRecipe, AxisContext], Part]

_NAMED: Mapping[str, _Read] = {"alpha": _ratio, "beta": _ratio, "lora": _lora, "curve": _curve}
"""What reads a text that begins with a word."""
_BEGINNINGS: Mapping[str, _Read] = {"number-": _number, "adjust-": _adjustment}
"""What reads a text that begins with a word that begins like this."""
