"""Rules of an elemental spec: what each selects, and the ratio it sets; rules back to text."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from ..architectures.blocks import expand_block
from ..architectures.keys import KeyName, part_of_base, searched_name
from ..errors import Span

NOT = "NOT"


@dataclass(frozen=True)
class BlockSelector:
    """Which blocks a rule is for.

    Attributes:
        words: Normalised names and ranges, any of which may match; empty stands for every block.
        inverted: True for every block but those.
    """

    words: tuple[str, ...] = ()
    inverted: bool = False

    @cached_property
    def names(self) -> frozenset[str]:
        """The words with their ranges expanded."""
        return frozenset(name for word in self.words for name in expand_block(word))

    def matches(self, name: KeyName) -> bool:
        """Tell whether a tensor lies in these blocks."""
        if not self.words:
            return True
        found = name.block in self.names or part_of_base(name.component) in self.names
        return found is not self.inverted

    def __str__(self) -> str:
        return " ".join((NOT, *self.words) if self.inverted else self.words)


class ElementSelector(NamedTuple):
    """Which elements of those blocks a rule is for.

    Attributes:
        parts: Pieces of element names, any of which may match; empty stands for every element.
        inverted: True for every element that has none of them.
    """

    parts: tuple[str, ...] = ()
    inverted: bool = False

    def matches(self, name: KeyName) -> bool:
        """Tell whether a tensor is one of these elements."""
        if not self.parts:
            return True
        return any(part in searched_name(part, name) for part in self.parts) is not self.inverted

    def __str__(self) -> str:
        return " ".join((NOT, *self.parts) if self.inverted else self.parts)


class Rule(NamedTuple):
    """The ratio ``alpha``, and perhaps ``beta``, for the chosen elements of the chosen blocks."""

    blocks: BlockSelector
    elements: ElementSelector
    alpha: float
    beta: float | None = None

    def matches(self, name: KeyName) -> bool:
        """Tell whether the rule sets the ratio of a tensor."""
        return self.blocks.matches(name) and self.elements.matches(name)

    def __str__(self) -> str:
        ratios = [self.alpha] if self.beta is None else [self.alpha, self.beta]
        return ":".join((str(self.blocks), str(self.elements), *map(format_ratio, ratios)))


@dataclass(frozen=True)
class RuleSet:
    """The rules of a spec in order; where several match a tensor, the last one decides.

    Attributes:
        rules: The rules.
        source: The text they were read from, for messages; made from the rules where they were not read.
            Two sets of equal rules are equal whatever it says.
        spans: Where each rule stands in the source.
        name: What to call the source, "spec" or a file name.
    """

    rules: tuple[Rule, ...] = ()
    source: str = field(default="", compare=False, repr=False)
    spans: tuple[Span, ...] = field(default=(), compare=False, repr=False)
    name: str = field(default="spec", compare=False, repr=False)

    def __post_init__(self) -> None:
        if len(self.spans) != len(self.rules):
            lines = [str(rule) for rule in self.rules]
            object.__setattr__(self, "source", "\n".join(lines))
            object.__setattr__(self, "spans", tuple(Span(n, 1, len(line)) for n, line in enumerate(lines, 1)))

    def __len__(self) -> int:
        return len(self.rules)

    def __bool__(self) -> bool:
        return bool(self.rules)


def format_ratio(ratio: float) -> str:
    """Write a finite ratio in the shortest form that reads back as the same number: 1, 0.5, 1e-10."""
    return str(int(ratio)) if abs(ratio) < 1e15 and ratio == int(ratio) else repr(float(ratio))


def format_rules(rules: RuleSet) -> str:
    """Write rules as a spec that parses back to them, one rule a line."""
    return "\n".join(map(str, rules.rules))
