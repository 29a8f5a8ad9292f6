"""Erasing on the element map: what is left of the rules sets everything else as before."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from elemental.architectures.detection import detect_architecture
from elemental.architectures.element_families import find_families
from elemental.architectures.element_groups import find_groups
from elemental.architectures.keys import KeyName, name_key
from elemental.architectures.tensor_sets import members
from elemental.demo.layout import DEMO_LAYOUT, SDXL_LAYOUT, tensor_shapes
from elemental.errors import SpecError
from elemental.recipe.rule_matching import RuleMatcher
from elemental.recipe.spec_parser import parse_rules
from elemental.session.erase_rules import erase


def names_of(layout: object) -> list[KeyName]:
    shapes = tensor_shapes(layout)  # type: ignore[arg-type]
    architecture = detect_architecture(shapes, name="x")
    return [name_key(key, architecture) for key in shapes]


NAMES = names_of(DEMO_LAYOUT)


def ratios(spec: str, names: Sequence[KeyName]) -> list[tuple[float | None, float | None]]:
    """Give the ratios that rules set, tensor by tensor; None where none does."""
    found: list[tuple[float | None, float | None]] = [(None, None)] * len(names)
    matcher = RuleMatcher(names)
    for rule in parse_rules(spec).rules:
        for index in members(matcher.matching(rule)):
            found[index] = rule.alpha, found[index][1] if rule.beta is None else rule.beta
    return found


@pytest.mark.parametrize(
    ("spec", "cell", "left"),
    [
        ("OUT04:attn2:0.5", ("OUT04", "attn2"), ""),
        ("OUT04:attn2:0.5\nIN01::1", ("OUT04", "attn2"), "IN01::1"),
        ("OUT04:attn2:0.5, IN01::1", ("OUT04", "attn2"), "IN01::1"),
        ("IN01::1, OUT04:attn2:0.5  # mine", ("OUT04", "attn2"), "IN01::1  # mine"),
        ("OUT04:attn2:0.5  # mine", ("OUT04", "attn2"), "# mine"),
        ("# all\n\nOUT03-OUT05:attn2:0.5  # mine", ("OUT04", "attn2"), "# all\n\nOUT03 OUT05:attn2:0.5  # mine"),
        ("OUT03-OUT05:attn2:0.5", ("OUT04", "attn2.to_q attn2.to_k attn2.to_v"), None),
        ("NOT BASE OUT04:attn:1:0.25", ("OUT05", ""), None),
        ("TE VAE::1", ("TE", ""), "VAE::1"),
        ("IN01::1", ("OUT04", "attn2"), "IN01::1"),
    ],
)
def test_rules_without_a_cell(spec: str, cell: tuple[str, str], left: str | None) -> None:
    result = erase(spec, [cell], NAMES)
    if left is not None:
        assert result == left
    check(spec, [cell], result, NAMES)


def check(spec: str, cells: Sequence[tuple[str, str]], result: str, names: Sequence[KeyName]) -> None:
    matcher = RuleMatcher(names)
    erased = {
        index
        for block, part in cells
        for rule in parse_rules(f"{block}:{part}:1").rules
        for index in members(matcher.matching(rule))
    }
    before, after = ratios(spec, names), ratios(result, names)
    assert after == [(None, None) if index in erased else ratio for index, ratio in enumerate(before)]


@pytest.mark.parametrize("layout", [DEMO_LAYOUT, SDXL_LAYOUT])
def test_what_is_left_sets_the_rest_as_before(layout: object) -> None:
    """Random cells of the map, folded or not, out of random specs."""
    names, rng = names_of(layout), random.Random(1)
    families = find_families(find_groups(names), names)
    cells = [(p.word, p.part) for family in families for p in family.places.values()]
    cells += [(p.word, p.part) for family in families for group in family.groups for p in group.places.values()]
    rules = ["OUT03-OUT05:attn2:0.5", "NOT M00:attn1 ff:0.25", ":NOT norm:1", "BASE::0.75", "IN04 OUT01::2:0.5", "::1"]
    for _ in range(4):
        spec = "\n".join(rng.sample(rules, 2))
        chosen = rng.sample(cells, rng.choice([1, 3]))
        check(spec, chosen, erase(spec, chosen, names), names)


def test_beta_is_erased_and_alpha_stays() -> None:
    spec = "OUT03-OUT05:attn2:0.5:0.25\nOUT04::1"
    assert erase(spec, [("OUT04", "attn2")], NAMES, beta_only=True) == (
        "OUT03 OUT05:attn2:0.5:0.25, OUT04:attn2:0.5\nOUT04::1"
    )


def test_a_spec_that_is_wrong_is_left_alone() -> None:
    with pytest.raises(SpecError):
        erase("OUT99::1", [("OUT04", "attn2")], NAMES)
