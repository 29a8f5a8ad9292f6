"""Rules of an elemental spec: the blocks and elements that each selects, and the ratios it sets."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from ..architectures.blocks import expand_block
from ..architectures.keys import KeyName, part_of_base, searched_name
from ..errors import Span

NOT = "NOT"

Ratios = tuple[float, "float | None"]
"""Alpha, and beta in modes that have it."""


@dataclass(frozen=True)
class BlockSelector:
    """The block side of a rule.

    Attributes:
        words: Normalised names and ranges, one of which must match; empty for every block.
        inverted: Whether every block except these matches.
    """

    words: tuple[str, ...] = ()
    inverted: bool = False

    @cached_property
    def names(self) -> frozenset[str]:
        """The block names, with ranges expanded."""
        return frozenset(name for word in self.words for name in expand_block(word))

    def matches(self, name: KeyName) -> bool:
        """Tell whether a tensor is in these blocks."""
        if not self.words:
            return True
        is_named = name.block in self.names or part_of_base(name.component) in self.names
        return is_named is not self.inverted

    def __str__(self) -> str:
        return " ".join((NOT, *self.words) if self.inverted else self.words)


class ElementSelector(NamedTuple):
    """The element side of a rule.

    Attributes:
        parts: Parts of element names, one of which must match; empty for every element.
        inverted: Whether every element except these matches.
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
    """Sets ``alpha``, and optionally ``beta``, for the selected elements of the selected blocks.

    Attributes:
        blocks: The blocks.
        elements: The elements of these blocks.
        alpha: The ratio: the mode's alpha or, with a target, that of the target.
        beta: The mode's beta; None where the rule does not set it, and with a target.
        target: Whose ratio it is, as :func:`.ratio_targets.read_target` spells it; empty for the mode's.
    """

    blocks: BlockSelector
    elements: ElementSelector
    alpha: float
    beta: float | None = None
    target: str = ""

    def matches(self, name: KeyName) -> bool:
        """Tell whether a tensor matches the rule."""
        return self.blocks.matches(name) and self.elements.matches(name)

    def __str__(self) -> str:
        ratios = [self.alpha] if self.beta is None else [self.alpha, self.beta]
        blocks = " ".join(filter(None, (self.target, str(self.blocks))))
        return ":".join((blocks, str(self.elements), *map(format_ratio, ratios)))


def rule_of_tensor(name: KeyName, alpha: float, beta: float | None = None) -> Rule:
    """Give the rule that names one tensor by its block and its full key; longer keys that contain it match, too."""
    return Rule(BlockSelector((name.block,)), ElementSelector((name.key,)), alpha, beta)


@dataclass(frozen=True)
class RuleSet:
    """The rules of a spec in order; if several match a tensor, the last one wins.

    Attributes:
        rules: The rules. Rule sets are equal if their rules are.
        source: The text that the rules were read from, for messages; generated if there was none.
        spans: The place of each rule in the source.
        name: How errors call the source: "spec" or a file name.
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

    @property
    def of_mode(self) -> tuple[Rule, ...]:
        """The rules that set alpha and beta of the mode."""
        return tuple(rule for rule in self.rules if not rule.target)

    @property
    def of_targets(self) -> tuple[Rule, ...]:
        """The rules that set other ratios: those with a target."""
        return tuple(rule for rule in self.rules if rule.target)


def format_ratio(ratio: float) -> str:
    """Write a finite ratio in the shortest form that gives the same number again: 1, 0.5, 1e-10."""
    return str(int(ratio)) if abs(ratio) < 1e15 and ratio == int(ratio) else repr(float(ratio))


def format_rules(rules: RuleSet) -> str:
    """Write rules as a spec, one rule a line, that :func:`.parser.parse_rules` reads back."""
    return "\n".join(map(str, rules.rules))
