"""Which targets a recipe has, and the errors about rules that name others."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from ..errors import Span, SpecProblem
from .lora_texts import without_ending
from .more_models import MORE_ROLES, problem_of_ratio
from .ratio_targets import LORA, is_further, lora_target
from .rules import Rule, RuleSet
from .spec_errors import NO_SECOND_RATIO, PlainProblem, spec_error, split_lines
from .suggestions import suggest

if TYPE_CHECKING:
    from ..modes.catalogue import MergeMode
    from .recipe import LoraSource, MergeRecipe


def targets_of(recipe: MergeRecipe) -> dict[str, list[str]]:
    """Give the targets of a recipe, each with the paths of what it stands for: of more than one if names are the same.

    Args:
        recipe: The recipe.
    """
    targets: dict[str, list[str]] = {}
    for lora in recipe.loras:
        targets.setdefault(target_of_lora(lora), []).append(lora.file.path)
    more = zip(MORE_ROLES, recipe.more, strict=False)
    return targets | {role.upper(): [model.file.path] for role, model in more}


def target_of_lora(lora: LoraSource) -> str:
    """Give the target that stands for the ratio of a recipe's LoRA."""
    return lora_target(without_ending(lora.file.name))


def check_targets(recipe: MergeRecipe) -> None:
    """Refuse rules with targets that the recipe does not have, or ratios that those cannot have, or beta beside.

    Raises:
        SpecError: There are such rules; the error lists them all.
    """
    if not recipe.rules.of_targets:
        return
    rules, problems = recipe.rules, list(_find_problems(recipe.rules, targets_of(recipe), recipe.mode))
    if problems:
        raise spec_error(problems, rules.source, name=rules.name)


def renamed_targets(rules: RuleSet, before: Sequence[LoraSource], after: Sequence[LoraSource]) -> RuleSet:
    """Give rules that set the same ratios when files of LoRAs have other names than before.

    Args:
        rules: The rules.
        before: The LoRAs that they were written for.
        after: The same LoRAs under their new names, in the same order.
    """
    pairs = zip(map(target_of_lora, before), map(target_of_lora, after), strict=True)
    new = {old: name for old, name in pairs if old != name}
    if not any(rule.target in new for rule in rules.rules):
        return rules
    return RuleSet(tuple(rule._replace(target=new.get(rule.target, rule.target)) for rule in rules.rules))


def _find_problems(rules: RuleSet, targets: Mapping[str, Sequence[str]], mode: MergeMode) -> Iterator[SpecProblem]:
    lines = split_lines(rules.source)
    for rule, span in zip(rules.rules, rules.spans, strict=True):
        if not rule.target:
            continue
        written = lines[span.line - 1][span.column - 1 :]
        place = Span(span.line, span.column, len(re.split(r"[\s:]", written, maxsplit=1)[0]))
        files = targets.get(rule.target, ())
        if rule.beta is not None:
            yield PlainProblem(span, f'"{rule.target}" has no beta', NO_SECOND_RATIO)
        if not files:
            yield _unknown(rule, place, targets)
        elif len(files) > 1:
            message = f'"{rule.target}" could be any of {", ".join(files)}'
            yield PlainProblem(place, message, "Rename one of these files, so that each has a name of its own.")
        elif is_further(rule.target) and (problem := problem_of_ratio(mode, rule.alpha)):
            yield PlainProblem(span, problem, "Set another ratio, or remove the rule.")


def _unknown(rule: Rule, place: Span, targets: Mapping[str, Sequence[str]]) -> PlainProblem:
    if is_further(rule.target):
        own = ", ".join(filter(is_further, targets))
        has = f"The merge has {own}." if own else "The merge has no further models: add one, or remove the rule."
        return PlainProblem(place, f"the merge has no model {rule.target}", has)
    targets = {target: files for target, files in targets.items() if not is_further(target)}
    names = [target.removeprefix(LORA) for target in targets]
    name = rule.target.removeprefix(LORA)
    has = f"The merge has {', '.join(targets)}." if targets else "The merge has no LoRAs: add one, or remove the rule."
    return PlainProblem(place, f'the merge has no LoRA "{name}"{suggest(name, names)}', has)
