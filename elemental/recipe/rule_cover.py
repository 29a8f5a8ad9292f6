"""Few, short rules that give each tensor exactly the ratios that it is to have."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from ..architectures.blocks import BASE, TEXT_ENCODER, VAE
from ..architectures.keys import KeyName, shown_key
from ..architectures.tensor_sets import TensorSet, members, union
from ..errors import RecipeError
from .covering.name_parts import find_blocks, find_parts, is_writable
from .covering.search import find_patches
from .covering.task import RatioSets, Task
from .covering.wording import Wording, reading_effort
from .covering.writing import write_rules
from .rule_matching import RuleMatcher
from .rules import Ratios, Rule, rule_of_tensor

_MOST_WRITTEN = 60
"""Rules of one length of which the shortest are chosen."""


def cover(names: Sequence[KeyName], wanted: RatioSets, base: RatioSets) -> tuple[Rule, ...]:
    """Find few rules that give tensors certain ratios: the fewest that were found, and of these the easiest to read.

    The same rules are found each time. It takes about a second for an SDXL checkpoint.

    Args:
        names: The tensors of a checkpoint; bit i of a set stands for the i-th.
        wanted: The tensors of each pair of ratios; beta is None for all or for none. Tensors in none of these sets may
            get any ratios.
        base: The ratios that tensors have without rules.

    Returns:
        Rules to apply in this order: at most one for each tensor that needs one, unless its key is a part of others.

    Raises:
        RecipeError: A tensor's key has characters that no rule can have.
    """
    matcher = RuleMatcher(names)
    asked = Task(matcher, wanted, base)
    task = Task(matcher, *_without_beta(wanted, base)) if _keeps_beta(asked) else asked
    if not task.wrong:
        return ()
    right = [rules for rules in _write(task) if task.is_solved_by(rules)]
    rules = min(right, key=_effort, default=None)
    if rules is None or len(rules) > task.wrong.bit_count():
        rules = _one_rule_each(task)
    rules = _without_needless_beta(asked, rules)
    assert asked.is_solved_by(rules), rules
    return rules


def whole_layers(names: Sequence[KeyName], tensors: TensorSet) -> TensorSet:
    """Add to some tensors the others of their layers, such as the bias of a weight: often far fewer rules do for these.

    Args:
        names: The tensors of a checkpoint.
        tensors: Some of them.
    """
    layers: dict[tuple[str, str], TensorSet] = {}
    for index, name in enumerate(names):
        layer = name.block, re.sub(r"\.(weight|bias)$", "", name.element)
        layers[layer] = layers.get(layer, 0) | 1 << index
    return union(layer for layer in layers.values() if layer & tensors)


def _write(task: Task) -> Iterator[tuple[Rule, ...]]:
    blocks = find_blocks(task.matcher)
    parts = find_parts(task.matcher, union(tensors for tensors in _apart(blocks) if _is_mixed(task, tensors)))
    wording = Wording(task.matcher, blocks, parts)
    for count, patches in enumerate(find_patches(task, list(blocks.values()), parts)):
        if count * len(patches) < _MOST_WRITTEN:
            yield from write_rules(wording, task, patches)


def _apart(blocks: Mapping[str, TensorSet]) -> Iterator[TensorSet]:
    """Give the tensors of each block, those of BASE without its parts."""
    own_parts = blocks.get(TEXT_ENCODER, 0) | blocks.get(VAE, 0)
    return (tensors & ~own_parts if word == BASE else tensors for word, tensors in blocks.items())


def _is_mixed(task: Task, block: TensorSet) -> bool:
    """Tell whether a block needs more than one rule for all of it."""
    return bool(block & task.wrong) and sum(bool(tensors & block) for tensors in task.wanted.values()) > 1


def _effort(rules: Sequence[Rule]) -> tuple[int, int]:
    return len(rules), sum(reading_effort(rule.blocks, rule.elements) for rule in rules)


def _one_rule_each(task: Task) -> tuple[Rule, ...]:
    """Give each tensor a rule with its full key, and those with longer keys that such a rule matches, too."""
    tensors, before = task.wrong, 0
    rules: dict[int, Rule] = {}
    while tensors != before:
        before = tensors
        rules = {index: _rule_for(task, index) for index in members(tensors)}
        tensors |= task.at_stake & union(map(task.matcher.matching, rules.values()))
    return tuple(sorted(rules.values(), key=lambda rule: len(rule.elements.parts[0])))


def _rule_for(task: Task, index: int) -> Rule:
    name = task.matcher.names[index]
    if not is_writable(name.key):
        raise RecipeError(f'The key "{shown_key(name.key)}" has characters that no rule can have.')
    ratios = next(ratios for ratios, tensors in task.wanted.items() if tensors >> index & 1)
    return rule_of_tensor(name, *ratios)


def _keeps_beta(task: Task) -> bool:
    betas: dict[float | None, TensorSet] = {}
    for (_, beta), tensors in task.base.items():
        betas[beta] = betas.get(beta, 0) | tensors
    return not any(tensors & ~betas.get(beta, 0) for (_, beta), tensors in task.wanted.items())


def _without_beta(*all_sets: RatioSets) -> Iterator[RatioSets]:
    for sets in all_sets:
        merged: dict[Ratios, TensorSet] = {}
        for (alpha, _), tensors in sets.items():
            merged[alpha, None] = merged.get((alpha, None), 0) | tensors
        yield merged


def _without_needless_beta(task: Task, rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
    for index, rule in enumerate(rules):
        shorter = (*rules[:index], rule._replace(beta=None), *rules[index + 1 :])
        if rule.beta is not None and task.is_solved_by(shorter):
            rules = shorter
    return rules
