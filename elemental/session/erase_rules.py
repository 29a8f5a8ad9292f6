"""Erasing on the element map: the rules of a spec without the chosen cells, whose ratios are then those without rules.

A map shows alpha or beta of the mode, or the ratio of a further model: rules for other ratios stay as they are.

A rule that sets nothing else is removed. One that does is written anew, as one rule or several that set the same
tensors but those of the cells; everything else of the text stays, comments too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..architectures.keys import KeyName
from ..architectures.tensor_sets import TensorSet
from ..recipe.rule_cover import cover
from ..recipe.rule_matching import RuleMatcher
from ..recipe.rules import BlockSelector, ElementSelector, Rule
from ..recipe.spec_errors import plain_line_ends
from ..recipe.spec_parser import parse_rules


def erase(
    spec: str,
    cells: Sequence[tuple[str, str]],
    names: Sequence[KeyName],
    *,
    beta_only: bool = False,
    target: str = "",
) -> str:
    """Take cells out of the rules of a spec.

    Args:
        spec: The text of the editor.
        cells: For each cell the block of its rule and the part, or parts, of an element's name; the part is empty where
            the whole block is meant.
        names: The tensors of the checkpoint.
        beta_only: Whether the cells keep the alpha that rules give them.
        target: The further model whose rules these are; empty for those of the mode's own ratios.

    Raises:
        SpecError: The spec is wrong.
    """
    text = plain_line_ends(spec)
    rules, matcher = parse_rules(text), RuleMatcher(names)
    erased = _tensors(cells, matcher)
    lines = text.split("\n")
    for rule, span in reversed(list(zip(rules.rules, rules.spans, strict=True))):
        matched = matcher.matching(rule)
        if matched & erased and rule.target == target and not (beta_only and rule.beta is None):
            kept = _only(rule, matched & ~erased, matcher)
            if beta_only:
                kept += _only(rule._replace(beta=None), matched & erased, matcher)
            line, start = lines[span.line - 1], span.column - 1
            lines[span.line - 1] = _replace(line, start, start + span.length, ", ".join(map(str, kept)))
    return "\n".join(line for line in lines if line is not _GONE)


_GONE = "\n"
"""A line that nothing is left of; no line of a text is like it."""


def _tensors(cells: Sequence[tuple[str, str]], matcher: RuleMatcher) -> TensorSet:
    tensors = 0
    for block, part in cells:
        tensors |= matcher.of_blocks(BlockSelector((block,))) & matcher.of_elements(
            ElementSelector(tuple(part.split()))
        )
    return tensors


def _only(rule: Rule, kept: TensorSet, matcher: RuleMatcher) -> tuple[Rule, ...]:
    """Write rules that set what is kept of a rule to its ratios, and nothing else."""
    if not kept:
        return ()
    ratios, other = (rule.alpha, rule.beta), (rule.alpha + 1, None if rule.beta is None else rule.beta + 1)
    # another ratio stands for whatever the others have: they must not be set
    rules = cover(matcher.names, {ratios: kept, other: matcher.everything & ~kept}, {other: matcher.everything})
    return tuple(each._replace(target=rule.target) for each in rules)


def _replace(line: str, start: int, end: int, kept: str) -> str:
    """Put rules in the place of one in its line, or take its comma away with it; a line with nothing left is gone."""
    if kept:
        return line[:start] + kept + line[end:]
    before, after = line[:start], line[end:]
    if re.match(r"\s*,", after):
        after = re.sub(r"^\s*,\s*", "", after)
    else:
        before = re.sub(r"\s*,\s*$", "", before)
    left = before + after if before.strip() else after.lstrip()
    return left or _GONE
