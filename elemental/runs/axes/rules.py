"""Axes that set rules: whole specs, and elements or blocks whose ratio is on the other axis."""

# ruff: noqa: D102 (the methods are described in Axis)

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ...errors import RecipeError
from ...recipe.rule_targets import Target, expand_targets, format_skipped
from ...recipe.rules import RuleSet
from ...recipe.spec_parser import parse_rules, parse_targets
from .base import Axis, AxisValue, Setting
from .context import AxisContext
from .value_lists import split_at_commas, without_comments


class ElementalAxis(Axis):
    """Whole specs, in the place of the recipe's rules, or after them.

    Args:
        name: The name of the axis.
        add: Whether the rules come after those of the recipe.
    """

    sets = frozenset({"rules"})
    example = "OUT05:attn2:0.5, OUT06:ff:1"

    def __init__(self, name: str, *, add: bool) -> None:
        self.name = name
        self.add = add
        place = "after the rules of the merge" if add else "in place of the rules of the merge"
        self.form = f"specs, separated by blank lines, {place}"

    @property
    def baseline(self) -> AxisValue:
        return self._value(RuleSet())

    def split(self, text: str) -> list[str]:
        lines = text.splitlines()
        pieces = re.split(r"\n(?:[ \t]*\n)+", "\n".join(lines).strip("\n"))
        specs = [piece for piece in pieces if re.sub(r"#.*", "", piece).strip(" \t\n,")]
        starts_blank = len(lines) > 1 and not lines[0].strip() and not lines[1].strip()
        return ["", *specs] if starts_blank else specs

    def read(self, text: str, context: AxisContext) -> list[AxisValue]:  # noqa: ARG002
        return [self._value(parse_rules(text, name="value"))]

    def read_stored(self, text: str, context: AxisContext) -> list[AxisValue]:  # noqa: ARG002
        return [self._value(parse_rules(text, name="value", recorded=True))]

    def _value(self, rules: RuleSet) -> AxisValue:
        label = ", ".join(map(str, rules.rules)) or ("the recipe's rules alone" if self.add else "no rules")
        return AxisValue("\n".join(map(str, rules.rules)), label, rules.rules)

    def apply(self, setting: Setting, meaning: Any) -> Setting:
        rules = (*setting.recipe.rules.rules, *meaning) if self.add else meaning
        return replace(setting, recipe=replace(setting.recipe, rules=RuleSet(rules)))


class PinpointAxis(Axis):
    """Elements, or whole blocks, whose ratio is on the other axis.

    Args:
        name: The name of the axis.
        whole_blocks: Whether its values are blocks alone.
    """

    sets = frozenset({"rules"})
    example = "OUT05:attn2, OUT06:ff"
    pins_elements = True
    applies_first = True  # the alpha axis needs to find the elements pinned

    def __init__(self, name: str, *, whole_blocks: bool) -> None:
        self.name = name
        self.whole_blocks = whole_blocks
        targets = "blocks" if whole_blocks else "blocks:elements"
        self.form = f"{targets}, separated by commas; another axis must be alpha, which is their ratio"
        if whole_blocks:
            self.example = "IN03 IN04, OUT05, NOT M00"

    def split(self, text: str) -> list[str]:
        return split_at_commas(without_comments(text))

    def read(self, text: str, context: AxisContext) -> list[AxisValue]:
        return self._values(parse_targets(text, name="value"), context)

    def read_stored(self, text: str, context: AxisContext) -> list[AxisValue]:
        return self._values(parse_targets(text, name="value", recorded=True), context)

    def remark(self, text: str, context: AxisContext) -> str:
        return format_skipped(parse_targets(text), context.names, context.architecture.blocks)

    def _values(self, written: Sequence[Target], context: AxisContext) -> list[AxisValue]:
        targets = expand_targets(written, context.names, context.architecture.blocks)
        if not targets:
            raise RecipeError(f'No block has elements with "{written[0].elements}" in their names.')
        if self.whole_blocks and any(target.elements.parts for target in targets):
            raise RecipeError(f'"{written[0]}" names elements; {self.name} takes whole blocks.')
        return [AxisValue(str(target), str(target) or ":", target) for target in targets]

    def apply(self, setting: Setting, meaning: Any) -> Setting:
        return replace(setting, pinned=meaning)
