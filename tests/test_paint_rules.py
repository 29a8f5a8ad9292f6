"""The rules of painted cells, and their place in a spec; without a page."""

from __future__ import annotations

import json
import random

import pytest

from elemental.architectures.detection import detect_architecture
from elemental.architectures.element_groups import find_groups
from elemental.architectures.keys import name_key
from elemental.architectures.tensor_sets import members
from elemental.demo.layout import SD1_LAYOUT, SD2_LAYOUT, SDXL_LAYOUT, tensor_shapes
from elemental.errors import ElementalError, RecipeError
from elemental.recipe.rule_matching import RuleMatcher
from elemental.recipe.spec_parser import parse_rules
from elemental.session.paint_rules import Stroke, make_rules, paint, read_stroke

OUT = ("OUT03", "OUT04", "OUT05", "OUT06")


def stroke(*parts: str, columns: tuple[str, ...] = OUT, ratio: float = 0.25) -> Stroke:
    """Choose parts in all of some columns."""
    return Stroke(columns, tuple((column, part) for part in parts for column in columns), ratio)


@pytest.mark.parametrize(
    ("chosen", "rules"),
    [
        (stroke("attn2", columns=("OUT04",)), ["OUT04:attn2:0.25"]),
        (stroke("attn2", columns=("OUT04", "OUT05")), ["OUT04 OUT05:attn2:0.25"]),
        (stroke("attn2"), ["OUT03-OUT06:attn2:0.25"]),
        (stroke("attn1", "attn2", ratio=1.0), ["OUT03-OUT06:attn1 attn2:1"]),
        (stroke("ff", columns=("IN11", "M00", "OUT00"), ratio=-0.5), ["IN11-OUT00:ff:-0.5"]),
        (Stroke(("BASE",), (("TE", ""),), 0.5), ["TE::0.5"]),
        (Stroke(("BASE",), (("TE", ""), ("VAE", "")), 0.5), ["TE VAE::0.5"]),
        (
            Stroke(OUT, (("OUT03", "a"), ("OUT04", "a"), ("OUT04", "b"), ("OUT03", "c"), ("OUT04", "c")), 1e-10),
            ["OUT03 OUT04:a c:1e-10", "OUT04:b:1e-10"],
        ),
        (Stroke(OUT, tuple((block, "op") for block in (OUT[0], OUT[1], OUT[3])), 1.0), ["OUT03-OUT06:op:1"]),
        (Stroke((), (), 1.0), []),
        (
            Stroke(OUT, tuple((block, "op") for block in (OUT[0], OUT[1], OUT[3])), 1.0, ((OUT[2], "op"),)),
            ["OUT03 OUT04 OUT06:op:1"],
        ),
        (
            Stroke((*OUT, "OUT07"), tuple((block, "op") for block in (*OUT[:3], "OUT07")), 1.0, ((OUT[3], "op"),)),
            ["OUT03-OUT05 OUT07:op:1"],
        ),
    ],
)
def test_parts_in_the_same_blocks_share_a_rule(chosen: Stroke, rules: list[str]) -> None:
    assert [str(rule) for rule in make_rules(chosen)] == rules


@pytest.mark.parametrize(
    ("spec", "painted"),
    [
        ("", "OUT03-OUT06:attn2:0.25"),
        ("\n \n", "OUT03-OUT06:attn2:0.25"),
        ("IN00::1\n\n", "IN00::1\nOUT03-OUT06:attn2:0.25"),
        ("IN00::1\r\n\r\nIN01::1", "IN00::1\n\nIN01::1\nOUT03-OUT06:attn2:0.25"),
        ("OUT03-OUT06:attn2:1\nIN00::1", "IN00::1\nOUT03-OUT06:attn2:0.25"),
        (" out06-out03 : attn2 : 1 ", "OUT03-OUT06:attn2:0.25"),
        ("OUT03 OUT04 OUT05 OUT06:attn2:1", "OUT03-OUT06:attn2:0.25"),
        ("OUT03-OUT06:attn2:1  # mine", "OUT03-OUT06:attn2:1  # mine\nOUT03-OUT06:attn2:0.25"),
        ("OUT03-OUT06:attn2:1:0.5", "OUT03-OUT06:attn2:1:0.5\nOUT03-OUT06:attn2:0.25"),
        ("OUT03-OUT06:attn2:1, IN00::1", "OUT03-OUT06:attn2:1, IN00::1\nOUT03-OUT06:attn2:0.25"),
        ("NOT OUT03-OUT06:attn2:1", "NOT OUT03-OUT06:attn2:1\nOUT03-OUT06:attn2:0.25"),
        ("OUT03-OUT06:NOT attn2:1", "OUT03-OUT06:NOT attn2:1\nOUT03-OUT06:attn2:0.25"),
        ("OUT03-OUT99:attn2:1\n::", "OUT03-OUT99:attn2:1\n::\nOUT03-OUT06:attn2:0.25"),
        ("# attn2", "# attn2\nOUT03-OUT06:attn2:0.25"),
    ],
)
def test_a_rule_that_says_no_more_is_replaced(spec: str, painted: str) -> None:
    assert paint(spec, stroke("attn2")) == painted
    assert paint(painted, stroke("attn2")) == painted


def test_rules_that_were_there_still_decide_elsewhere() -> None:
    """Random strokes over random specs: the rules of the stroke come last, and all others stay in order."""
    rng = random.Random(1)
    pool = [f"{rng.choice(OUT)}:{rng.choice(('attn1', 'attn2', 'ff'))}:0.{rng.randrange(1, 10)}" for _ in range(30)]
    for _ in range(200):
        spec = "\n".join(rng.sample(pool, rng.randrange(6)))
        chosen = stroke(*rng.sample(("attn1", "attn2", "ff"), 2), columns=OUT[: rng.randrange(1, 5)])
        rules, before = list(make_rules(chosen)), parse_rules(spec).rules
        after = list(parse_rules(paint(spec, chosen)).rules)
        assert after[-len(rules) :] == rules
        others = after[: -len(rules)]
        assert others == [rule for rule in before if rule in others]
        assert len(before) - len(others) <= sum(rule.elements == rules[0].elements for rule in before)


@pytest.mark.parametrize("layout", [SD1_LAYOUT, SD2_LAYOUT, SDXL_LAYOUT])
def test_a_range_selects_the_chosen_cells_and_no_others(layout: object) -> None:
    """Each row over each run of columns: what a range passes over has no such element."""
    shapes = tensor_shapes(layout)  # type: ignore[arg-type]
    architecture = detect_architecture(shapes, name="x")
    names = [name_key(key, architecture) for key in shapes]
    matcher, columns = RuleMatcher(names), architecture.blocks
    for group in find_groups(names):
        for first in range(len(columns)):
            run = columns[first : first + 5]
            places = [group.places[block] for block in run if block in group.places]
            rules = make_rules(Stroke(run, tuple((place.word, place.part) for place in places), 1.0))
            selected = {index for rule in rules for index in members(matcher.matching(rule))}
            assert selected == {index for place in places for index in place.indices}, (group.name, run)


@pytest.mark.parametrize("layout", [SD1_LAYOUT, SD2_LAYOUT, SDXL_LAYOUT])
def test_rules_of_any_cells_select_these_and_no_others(layout: object) -> None:
    """Random choices over the whole map, as the first by effect are; the page names what is left of their rows."""
    shapes = tensor_shapes(layout)  # type: ignore[arg-type]
    architecture = detect_architecture(shapes, name="x")
    names = [name_key(key, architecture) for key in shapes]
    matcher, rng = RuleMatcher(names), random.Random(1)
    groups = find_groups(names)
    cells = [(group, place) for group in groups for place in group.places.values()]
    for count in (1, 3, 10, 30, 100, 200, len(cells)):
        chosen = rng.sample(cells, count)
        rows = {group.name for group, _ in chosen}
        left = [(group, place) for group, place in cells if group.name in rows and (group, place) not in chosen]
        others = [(place.word, part) for group, place in left for part in (place.part, group.label)]
        pairs = tuple((place.word, place.part) for _, place in chosen)
        rules = make_rules(Stroke(architecture.blocks, pairs, 1.0, tuple(others)))
        selected = {index for rule in rules for index in members(matcher.matching(rule))}
        assert selected == {index for _, place in chosen for index in place.indices}
        assert len(rules) <= len(rows)


def test_what_the_page_says_is_read() -> None:
    said = {"columns": ["OUT03"], "cells": [["OUT03", "attn2"]], "ratio": "0.30"}
    assert read_stroke(json.dumps(said)) == Stroke(("OUT03",), (("OUT03", "attn2"),), 0.3)
    assert read_stroke(json.dumps({**said, "ratio": ""})).ratio == 1.0
    assert read_stroke(json.dumps({**said, "others": [["OUT04", "attn2"]]})).others == (("OUT04", "attn2"),)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "[]",
        "null",
        "[" * 100_000,
        '{"columns": [1], "cells": [], "ratio": "1"}',
        '{"columns": [], "cells": [["OUT03"]], "ratio": "1"}',
        '{"columns": [], "cells": [], "others": [["OUT03", 1]], "ratio": "1"}',
        '{"columns": [], "cells": [], "others": null, "ratio": "1"}',
        '{"columns": [], "cells": [["OUT03", null]], "ratio": "1"}',
        '{"columns": [], "cells": [], "ratio": 1}',
        '{"columns": [], "cells": [], "ratio": "1e999"}',
        '{"columns": [], "cells": [], "ratio": "x"}',
    ],
)
def test_what_no_page_says_is_refused(text: str) -> None:
    with pytest.raises(RecipeError):
        read_stroke(text)


@pytest.mark.parametrize("cell", [("OUT99", "x"), ("OUT03", "a:b"), ("OUT03", "a,b"), ("OUT03", "#")])
def test_words_that_no_rule_has_are_refused(cell: tuple[str, str]) -> None:
    with pytest.raises(ElementalError):
        paint("", Stroke(("OUT03",), (cell,), 1.0))


def test_cells_of_the_beta_map_write_beta_and_keep_their_alpha() -> None:
    cells = tuple((block, "attn2") for block in OUT)
    chosen = Stroke(OUT, cells, 0.75, alphas=(0.5, 0.5, 1.0, 0.5))
    assert [str(rule) for rule in make_rules(chosen)] == ["OUT03 OUT04 OUT06:attn2:0.5:0.75", "OUT05:attn2:1:0.75"]
    assert [str(rule) for rule in make_rules(Stroke(OUT, cells, 0.75, alphas=(0.5,) * 4))] == [
        "OUT03-OUT06:attn2:0.5:0.75"
    ]
    one = Stroke(OUT, cells[:1], 0.75, alphas=(0.5,))
    assert paint("OUT03:attn2:0.5\nOUT03:attn2:0.5:0.1\nOUT03:attn2:0.5:0.1 # mine", one) == (
        "OUT03:attn2:0.5:0.1 # mine\nOUT03:attn2:0.5:0.75"
    )
    assert paint("OUT03:attn2:0.5:0.1", stroke("attn2", columns=("OUT03",))) == (
        "OUT03:attn2:0.5:0.1\nOUT03:attn2:0.25"
    )  # beta stays as it was


def test_a_cell_with_two_alphas_is_left_to_its_user() -> None:
    text = json.dumps({"columns": ["OUT03"], "cells": [["OUT03", "ff"]], "ratio": "1", "alphas": ["0.5 2"]})
    with pytest.raises(RecipeError, match=r"Alpha is 0\.5 2 in one of these cells"):
        read_stroke(text)
    with pytest.raises(RecipeError, match="cannot be read"):
        read_stroke(text.replace('["0.5 2"]', '["1", "1"]'))
