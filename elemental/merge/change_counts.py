"""How many elements and tensors a plan changes, counted and worded in one way for the command line and the tab."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import NamedTuple

from ..architectures.keys import Component
from ..recipe.ratio_targets import is_further
from ..recipe.rules import RuleSet
from .plan import MergePlan, TensorPlan


class Tally(NamedTuple):
    """Counts for one set of tensors.

    Attributes:
        total: All of them.
        ruled: Those of which a rule sets a ratio.
        moved: Those that rules give another ratio than they would have without rules.
        changed: Those that differ from model A in more than number format.
    """

    total: int = 0
    ruled: int = 0
    moved: int = 0
    changed: int = 0


class ChangeCounts(NamedTuple):
    """What a plan changes.

    Attributes:
        rules: The number of rules in the recipe for ratios of the mode: alpha, beta, and those of further models.
        unet: The U-Net's elements.
        outside: All tensors outside the U-Net.
        all_tensors: Both together.
        by_component: One tally for each part of the checkpoint that has tensors, the U-Net first.
        lora_rules_set: What the rules for ratios of LoRAs set, without a full stop; empty if there are none.
    """

    rules: int
    unet: Tally
    outside: Tally
    all_tensors: Tally
    by_component: Mapping[Component, Tally]
    lora_rules_set: str = ""

    @property
    def rules_set(self) -> str:
        """What the rules set, without a full stop: "3 rules set 15 of 686 U-Net elements"."""
        if not self.lora_rules_set:
            return self.mode_rules_set
        return "; ".join([*([self.mode_rules_set] if self.rules else ()), self.lora_rules_set])

    @property
    def mode_rules_set(self) -> str:
        """What those for ratios of the mode set."""
        verb = "rule sets" if self.rules == 1 else "rules set"
        beside = f", and {self.outside.ruled:,} of {self.outside.total:,} tensors outside the U-Net"
        unet = f"{self.rules:,} {verb} {self.unet.ruled:,} of {self.unet.total:,} U-Net elements"
        return unet + (beside if self.outside.ruled else "")


def count_changes(plan: MergePlan) -> ChangeCounts:
    """Count what a plan changes.

    Args:
        plan: A plan of all tensors, as ``Planner.plan`` makes it.
    """
    kinds = Counter(
        (
            tensor.name.component,
            has_rule(tensor),
            (tensor.alpha, tensor.beta, tensor.more) != (tensor.base_alpha, tensor.base_beta, plan.recipe.more_ratios),
            tensor.changed,
        )
        for tensor in plan.tensors
    )
    tallies = {component: _tally(kinds, (component,)) for component in Component}
    present = {component: tally for component, tally in tallies.items() if tally.total}
    outside = [component for component in Component if component is not Component.UNET]
    return ChangeCounts(
        len(plan.recipe.rules) - count_of_lora_rules(plan.recipe.rules),
        tallies[Component.UNET],
        _tally(kinds, outside),
        _tally(kinds, list(Component)),
        present,
        count_lora_rules(plan).removesuffix("."),
    )


def count_lora_rules(plan: MergePlan) -> str:
    """Say in a sentence what the rules for ratios of LoRAs set; empty if there are none."""
    count = count_of_lora_rules(plan.recipe.rules)
    tensors = sum(bool(tensor.lora_rules) for tensor in plan.tensors)
    verb = "rule sets" if count == 1 else "rules set"
    return f"{count:,} {verb} the ratios of LoRAs in {tensors:,} tensor{'s' * (tensors != 1)}." if count else ""


def count_of_lora_rules(rules: RuleSet) -> int:
    """Count the rules for ratios of LoRAs; the others are for those of the mode."""
    return sum(not is_further(rule.target) for rule in rules.of_targets)


def has_rule(tensor: TensorPlan) -> bool:
    """Tell whether a rule sets a ratio of the mode for a tensor: alpha, beta, or that of a further model."""
    return tensor.rule is not None or tensor.beta_rule is not None or bool(tensor.more_rules)


def _tally(kinds: Mapping[tuple[Component, bool, bool, bool], int], components: Collection[Component]) -> Tally:
    chosen = [(kind[1:], count) for kind, count in kinds.items() if kind[0] in components]
    ruled, moved, changed = (sum(count for flags, count in chosen if flags[flag]) for flag in range(3))
    return Tally(sum(count for _, count in chosen), ruled, moved, changed)
