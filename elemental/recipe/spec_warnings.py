"""Warnings about a recipe: rules without effect, and unusual ratios."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ..architectures.blocks import BASE, SDXL, Architecture
from ..architectures.tensor_sets import TensorSet
from .block_hints import extended_name
from .block_weights import BlockWeights, format_left_out
from .more_models import MORE_ROLES
from .part_hints import PartHints
from .recipe import MergeRecipe
from .rule_matching import Decision, RuleMatcher
from .rules import Rule, RuleSet, format_ratio

USUAL = (-1.0, 2.0)
"""The range of the ratio sliders; ratios outside it are allowed, but usually mistakes."""


class SpecWarning(NamedTuple):
    """A warning in whole sentences about the rule with index ``rule``, from 0, or about the whole recipe."""

    message: str
    rule: int | None = None


def warn_of_ratios(recipe: MergeRecipe) -> Iterator[SpecWarning]:
    """Warn of ratios outside -1 to 2."""
    by_name: dict[str, Iterable[float | None]] = {
        "alpha": [recipe.alpha],
        "beta": [recipe.beta],
        "block weights of alpha": _numbers(recipe.block_alpha),
        "block weights of beta": _numbers(recipe.block_beta),
        **{role.upper(): [model.ratio] for role, model in zip(MORE_ROLES, recipe.more, strict=False)},
    }
    for name, ratios in by_name.items():
        for ratio in _outside_range(ratios):
            yield SpecWarning(f"{name}: {format_ratio(ratio)} is outside {USUAL[0]:g} to {USUAL[1]:g}.")
    for index, rule in enumerate(recipe.rules.rules):
        for ratio in _outside_range((rule.alpha, rule.beta)):
            message = f"the ratio {format_ratio(ratio)} is outside {USUAL[0]:g} to {USUAL[1]:g}"
            yield about_rule(recipe.rules, index, message)


def warn_of_weights(recipe: MergeRecipe, architecture: Architecture) -> Iterator[SpecWarning]:
    """Warn of block weights for blocks that the architecture does not have."""
    for name, weights in (("alpha", recipe.block_alpha), ("beta", recipe.block_beta)):
        if weights is not None and (left_out := format_left_out(weights, architecture)):
            yield SpecWarning(f"block weights of {name}: {left_out}")


def warn_of_rules(
    rules: RuleSet, matcher: RuleMatcher, decision: Decision, *, architecture: Architecture
) -> Iterator[SpecWarning]:
    """Warn of rules, and names in rules, that have no effect on a checkpoint.

    Args:
        rules: The rules.
        matcher: Finds the checkpoint's tensors.
        decision: The tensors that each rule sets, from ``matcher``.
        architecture: The architecture of the checkpoint.
    """
    hints = PartHints(matcher)
    for index, rule in enumerate(rules.rules):
        if not decision.matched[index]:
            yield about_rule(rules, index, f"matches no tensor{_why_no_match(rule, matcher, architecture, hints)}")
            continue
        for word, suggestion in (*_absent_blocks(rule, matcher, architecture), *_absent_parts(rule, matcher, hints)):
            yield about_rule(rules, index, f'"{word}" matches nothing here{suggestion}')
        for word in rule.blocks.words:
            if matcher.with_block(word) and any(end not in architecture.blocks for end in _ends(word)):
                message = f'"{word}" goes beyond {architecture.name}, which has {architecture.block_summary}'
                yield about_rule(rules, index, message)
        if not decision.sets(index, rule):
            yield about_rule(rules, index, "later rules override all of it")


def about_rule(rules: RuleSet, index: int, message: str) -> SpecWarning:
    """Make a warning about a rule.

    Args:
        rules: All rules.
        index: Its place among them, from 0.
        message: What is wrong, without a full stop.
    """
    end = "" if message.endswith("?") else "."
    text = f'Rule {index + 1} "{rules.rules[index]}", line {rules.spans[index].line}: {message}{end}'
    return SpecWarning(text, index)


def _outside_range(ratios: Iterable[float | None]) -> list[float]:
    return [ratio for ratio in ratios if ratio is not None and not USUAL[0] <= ratio <= USUAL[1]]


def _numbers(weights: BlockWeights | None) -> list[float | None]:
    return [] if weights is None else [weights.base, *weights.unet]


def _why_no_match(rule: Rule, matcher: RuleMatcher, architecture: Architecture, hints: PartHints) -> str:
    """Say what in a rule has no match, as the end of a sentence."""
    for word, suggestion in (
        *_absent_blocks(rule, matcher, architecture),
        *_absent_parts(rule, matcher, hints, anywhere=True),
    ):
        return f': "{word}" is not in this {architecture.name} checkpoint{suggestion}'
    elsewhere = matcher.of_elements(rule.elements)
    if not elsewhere:
        return ""
    blocks = _blocks_of(elsewhere, matcher)
    return f'; "{rule.elements}" is in {_list_some(blocks)}'


def _absent_blocks(rule: Rule, matcher: RuleMatcher, architecture: Architecture) -> Iterator[tuple[str, str]]:
    """List the blocks that the checkpoint does not have, each with those that it has."""
    for word in rule.blocks.words:
        if not matcher.with_block(word):
            own = f"; {architecture.name} has {architecture.block_summary}" if word not in architecture.blocks else ""
            extended = extended_name(word) if own and architecture is SDXL else ""
            also = f', and supermerger\'s extended name "{word}" is "{extended}" here' if extended else ""
            yield word, f"{own}{also}"


def _absent_parts(
    rule: Rule, matcher: RuleMatcher, hints: PartHints, *, anywhere: bool = False
) -> Iterator[tuple[str, str]]:
    """List the parts without a match in the rule's blocks, or anywhere, each with what was meant."""
    blocks = matcher.everything if anywhere else matcher.of_blocks(rule.blocks)
    for part in rule.elements.parts:
        if not matcher.with_part(part) & blocks:
            yield part, hints.explain(part, rule)


def _ends(word: str) -> list[str]:
    """List the ends of a range; none for a single block."""
    return word.split("-") if "-" in word else []


def _blocks_of(tensors: TensorSet, matcher: RuleMatcher) -> list[str]:
    blocks = matcher.blocks_of(tensors)
    return [block for block in blocks if block != BASE] or blocks


def _list_some(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 6 else f"{', '.join(names[:5])} and {len(names) - 5} more blocks"
