"""Patches as rules: each as short as the others allow, in the order of the blocks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

from ...architectures.tensor_sets import TensorSet, union
from ..rules import Rule
from .task import Patch, Task
from .wording import Wording

_MOST_JOINED = 40
"""Rules that are tried in pairs; the time that takes grows with their square."""


def write_rules(wording: Wording, task: Task, patches: Sequence[Patch]) -> Iterator[tuple[Rule, ...]]:
    """Write patches as rules, in some ways.

    Each rule sets what no other sets right; what others set right as well, it may match or not.

    Args:
        wording: Writes the sides of a rule.
        task: What is asked.
        patches: They solve the task, one after the other.
    """
    for order in (range(len(patches)), range(len(patches) - 1, -1, -1)):
        if rules := _write_in_order(wording, task, list(patches), order):
            joined = _join(wording, task, rules) if len(rules) <= _MOST_JOINED else rules
            yield _sort(wording, task, joined)


def _write_in_order(
    wording: Wording, task: Task, patches: list[Patch], order: Sequence[int]
) -> tuple[Rule, ...] | None:
    rules: dict[int, Rule] = {}
    for index in order:
        ratios, _ = patches[index]
        later = union(patch.tensors for patch in patches[index + 1 :])
        must = _set_by_it_alone(task, patches, index) & ~later
        sides = wording.shortest(must, task.harm(Patch(ratios, task.at_stake & ~later))) if must else None
        if must and sides is None:
            return None
        if sides:
            rules[index] = Rule(*sides, *ratios)
        patches[index] = Patch(ratios, task.at_stake & wording.matcher.matching(rules[index]) if sides else 0)
    return tuple(rules[index] for index in sorted(rules))


def _set_by_it_alone(task: Task, patches: Sequence[Patch], index: int) -> TensorSet:
    """Give the tensors that a patch sets right, and that the patches before it do not."""
    wrong = task.wrong
    for patch in patches[:index]:
        wrong = task.wrong_after(patch, wrong)
    return patches[index].tensors & wrong & ~task.harm(patches[index])


def _join(wording: Wording, task: Task, rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
    """Make one rule of two with the same ratios, as long as there are such: what NOT gives, the search does not see."""
    for first, second in combinations(range(len(rules)), 2):
        one, other = rules[first], rules[second]
        if one[2:] == other[2:] and any(rule.elements.inverted or not rule.elements.parts for rule in (one, other)):
            before, after = (*rules[:first], *rules[first + 1 : second]), rules[second + 1 :]
            joined = (*before, *_write_one(wording, task, (*before, *after), after, one), *after)
            if task.is_solved_by(joined):
                return _join(wording, task, joined)
    return rules


def _write_one(
    wording: Wording, task: Task, others: Sequence[Rule], after: Sequence[Rule], model: Rule
) -> Iterator[Rule]:
    """Write a rule for what other rules leave wrong, with the ratios of a model; none if that cannot be done."""
    must = task.wrong_with(others)
    spared = task.harm(Patch((model.alpha, model.beta), task.at_stake & ~union(map(wording.matcher.matching, after))))
    sides = wording.shortest(must, spared) if must else None
    if sides:
        yield Rule(*sides, model.alpha, model.beta)


def _sort(wording: Wording, task: Task, rules: Sequence[Rule]) -> tuple[Rule, ...]:
    """Sort rules by the first block of each, as far as the result stays the same."""
    matched = {rule: task.at_stake & wording.matcher.matching(rule) for rule in rules}
    blocks = list(wording.blocks.values())
    place = {
        rule: next((index for index, block in enumerate(blocks) if block & tensors), len(blocks))
        for rule, tensors in matched.items()
    }
    ordered: list[Rule] = []
    for rule in rules:
        index = len(ordered)
        while index and place[rule] < place[ordered[index - 1]] and _commute(rule, ordered[index - 1], matched):
            index -= 1
        ordered.insert(index, rule)
    return tuple(ordered)


def _commute(one: Rule, other: Rule, matched: Mapping[Rule, TensorSet]) -> bool:
    return one[2:] == other[2:] or not matched[one] & matched[other]
