"""What varies in a search, from text: which numbers, where a search of them begins, and the recipes that they give."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from elemental import MergeMode, MergeRecipe, ModelSource, RecipeError, SpecError, parse_block_weights, parse_rules
from elemental.architectures.blocks import SDXL
from elemental.architectures.keys import name_key
from elemental.demo.layout import SDXL_LAYOUT, tensor_shapes
from elemental.recipe.recipe import LoraSource, MoreModel
from elemental.runs.axes.ranges import range_ends
from elemental.searches.space import Part, Space
from elemental.searches.vary_texts import parse_vary, read_space

from .test_axes import CONTEXT

GUIDE = (Path(__file__).parents[1] / "docs" / "guide.md").read_text(encoding="utf-8")
BASE = MergeRecipe(ModelSource("a"), ModelSource("b"), alpha=0.3)
LORAS = (LoraSource(ModelSource("/l/detail.safetensors"), 0.8, 0.4), LoraSource(ModelSource("Old style.pt"), 0.5))
RICH = replace(BASE, loras=LORAS, adjust=(1, 0, 0, -2))
DARE = replace(BASE, mode=MergeMode("dare"))
MORE = replace(BASE, mode=MergeMode("karcher"), model_c=ModelSource("c"), more=(MoreModel(ModelSource("d"), 0.4),))
SDXL_CONTEXT = replace(CONTEXT, architecture=SDXL, names=[name_key(key, SDXL) for key in tensor_shapes(SDXL_LAYOUT)])


def ranges(part: Part) -> list[tuple[str, float, float, float]]:
    return [(number.name, number.low, number.high, number.start) for number in part.numbers]


@pytest.mark.parametrize(
    ("text", "recipe", "again", "number"),
    [
        ("OUT03 OUT04:attn2:0-1", BASE, "OUT03 OUT04:attn2:0-1", ("OUT03 OUT04:attn2", 0, 1, 0.3)),
        ("out03", BASE, "OUT03::0-1", ("OUT03", 0, 1, 0.3)),
        (" MID : attn2 ", BASE, "M00:attn2:0-1", ("M00:attn2", 0, 1, 0.3)),
        (":attn2:-.5-1.25", BASE, ":attn2:-0.5-1.25", (":attn2", -0.5, 1.25, 0.3)),
        (
            "NOT OUT03-OUT05:NOT ff:-2 - -1",
            BASE,
            "NOT OUT03-OUT05:NOT ff:-2--1",
            ("NOT OUT03-OUT05:NOT ff", -2, -1, 0.3),
        ),
        ("ALL::0-0.00001", BASE, "::0-0.00001", (":", 0, 0.00001, 0.3)),
        (
            "lora.Detail OUT03:attn2:0-1.5",
            RICH,
            "lora.detail OUT03:attn2:0-1.5",
            ("lora.detail OUT03:attn2", 0, 1.5, 0.8),
        ),
        ("lora.detail", RICH, "lora.detail::0-1", ("lora.detail", 0, 1, 0.8)),
        ("lora.detail TE", RICH, "lora.detail TE::0-1", ("lora.detail TE", 0, 1, 0.4)),
        ("b2 OUT03:attn2:0-1", MORE, "B2 OUT03:attn2:0-1", ("B2 OUT03:attn2", 0, 1, 0.4)),
        ("alpha", BASE, "alpha:0-1", ("alpha", 0, 1, 0.3)),
        ("Alpha : 0.2-0.6", BASE, "alpha:0.2-0.6", ("alpha", 0.2, 0.6, 0.3)),
        ("lora detail:0-1.5", RICH, "lora detail:0-1.5", ("lora detail", 0, 1.5, 0.8)),
        ("lora Old style.pt", RICH, "lora Old style.pt:0-1", ("lora Old style.pt", 0, 1, 0.5)),
        ("lora:0-2", replace(RICH, loras=LORAS[1:]), "lora:0-2", ("lora Old style", 0, 2, 0.5)),
        ("adjust-cont:-3-3", RICH, "adjust-CONT:-3-3", ("adjust-CONT", -3, 3, -2)),
        ("adjust-BRI:0-1", BASE, "adjust-BRI:0-1", ("adjust-BRI", 0, 1, 0)),
        ("number-p", DARE, "number-p:0-0.999", ("number-p", 0, 0.999, 0.5)),
        ("number-p:0.2-0.4", DARE, "number-p:0.2-0.4", ("number-p", 0.2, 0.4, 0.5)),
    ],
)
def test_one_number(text: str, recipe: MergeRecipe, again: str, number: tuple[str, float, float, float]) -> None:
    part = parse_vary(text, recipe, CONTEXT)
    assert (part.text, ranges(part), part.remarks) == (again, [number], ())
    assert parse_vary(part.text, recipe, CONTEXT) == part
    assert part.apply(recipe, [number[2] - number[1] / 4]) != recipe
    assert Space(recipe, (part,)).numbers == part.numbers


def applied(text: str, recipe: MergeRecipe, *values: float) -> MergeRecipe:
    return parse_vary(text, recipe, CONTEXT).apply(recipe, values)


def test_values_stand_where_the_text_says() -> None:
    ruled = replace(RICH, rules=parse_rules("IN00::0.1"))
    assert applied("OUT03:attn2", ruled, 0.7).rules == parse_rules("IN00::0.1,OUT03:attn2:0.7")
    assert applied("lora.detail OUT03", ruled, 0.7).rules == parse_rules("IN00::0.1,lora.detail OUT03::0.7")
    assert applied("alpha", ruled, 0.7) == replace(ruled, alpha=0.7)
    assert applied("lora detail", ruled, 0.7).loras == (replace(LORAS[0], ratio=0.7), LORAS[1])
    assert applied("adjust-IN:0-1", ruled, 0.7).adjust == (0.7, 0, 0, -2, 0, 0, 0, 0)
    assert applied("number-p", DARE, 0.7).numbers == {"p": 0.7, "seed": 0}
    triple = replace(BASE, mode=MergeMode.TRIPLE_SUM, model_c=ModelSource("c"), beta=0.2)
    assert applied("beta:0-0.5", triple, 0.4) == replace(triple, beta=0.4)
    assert ranges(parse_vary("beta:0-0.5", triple, CONTEXT)) == [("beta", 0, 0.5, 0.2)]


def test_whole_numbers_stay_whole() -> None:
    space = Space(DARE, (parse_vary("number-seed:0-10", DARE, CONTEXT),))
    assert space.values([0.26]) == (3,)
    assert space.recipe([0.26]).numbers["seed"] == 3


@pytest.mark.parametrize(
    ("text", "rules", "weights", "start"),
    [
        ("OUT03:attn2", "OUT03:attn2:0.9", None, 0.9),
        ("OUT03:attn2", "OUT03:attn:0.9, OUT03:attn2:0.6, :ff:0", None, 0.6),
        ("OUT03", "OUT03:attn2:0.9", None, 0.3),  # several
        ("OUT03", "", "0.1" + ",0.2" * 25, 0.2),
        ("BASE", "", "0.1" + ",0.2" * 25, 0.1),
        ("BASE", "", "0.2" + ",0.2" * 24, 0.3),
        ("OUT03", "OUT03::0.5, lora.detail OUT03::0.1", "0.1" + ",0.2" * 25, 0.5),
        ("lora.detail OUT03", "OUT03::0.5, lora.detail OUT03::0.1", None, 0.1),
        ("lora.detail", "", None, 0.8),  # several
        ("OUT03", "OUT03::2", None, 2),
    ],
)
def test_a_search_begins_at_the_ratio_that_these_elements_have(
    text: str, rules: str, weights: str | None, start: float
) -> None:
    recipe = replace(
        RICH, rules=parse_rules(rules), block_alpha=None if weights is None else parse_block_weights(weights)
    )
    part = parse_vary(text, recipe, CONTEXT)
    assert part.numbers[0].start == pytest.approx(start)
    assert Space(recipe, (part,)).start == (min(1.0, start),)


def test_a_curve_is_block_weights_that_are_linear_between_its_points() -> None:
    part = parse_vary("curve:5", BASE, CONTEXT)
    assert part.text == "curve:5:0-1"
    assert ranges(part) == [(f"curve {b}", 0, 1, 0.3) for b in ("IN00", "IN06", "M00", "OUT05", "OUT11")]
    weights = part.apply(BASE, [0, 0.6, 0, 1, 0.4]).block_alpha
    assert weights is not None
    assert weights.base is None
    assert weights.unet[:7] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    assert weights.unet[12:] == pytest.approx(
        [0, *(n / 6 for n in range(1, 7)), *(1 - n / 10 for n in range(1, 7))], abs=1e-6
    )
    assert parse_vary("curve:5:0-1", BASE, CONTEXT) == part


def test_a_curve_begins_at_the_block_weights_and_keeps_base() -> None:
    weights = parse_block_weights("0.9," + ",".join(f"{n / 24:.4f}" for n in range(25)))
    recipe = replace(BASE, block_alpha=weights)
    part = parse_vary("curve:3:0-2", recipe, CONTEXT)
    assert [number.start for number in part.numbers] == [0, 0.5, 1]
    again = part.apply(recipe, [number.start for number in part.numbers]).block_alpha
    assert again is not None
    assert again.base == 0.9
    assert again.unet == pytest.approx(weights.unet, abs=1e-4)


def test_a_curve_of_sdxl_has_its_blocks() -> None:
    part = parse_vary("curve:4", BASE, SDXL_CONTEXT)
    assert [number.name for number in part.numbers] == ["curve IN00", "curve IN06", "curve OUT02", "curve OUT08"]
    weights = part.apply(BASE, [0, 0.6, 1, 1]).block_alpha
    assert weights is not None
    assert weights.unet == pytest.approx(
        [*(n / 10 for n in range(7)), *(0.6 + n / 15 for n in range(1, 7)), *[1.0] * 6], abs=1e-6
    )
    assert len(parse_vary("curve:19", BASE, SDXL_CONTEXT).numbers) == 19


def test_words_that_match_nothing_are_told() -> None:
    part = parse_vary("OUT03:attn2 atn1", BASE, CONTEXT)
    assert part.remarks == ('"OUT03:attn2 atn1" "atn1" matches nothing here; did you mean "attn1"?',)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "OUT12:attn2:0-1",
            'vary, line 1, column 1: unknown block "OUT12"\n    OUT12:attn2:0-1\n    ^^^^^\nSD 1.x has',
        ),
        ("OUT03 attn2", 'column 7: unknown block "attn2"'),
        ("OUT03:at*:0-1", "column 7"),
        (
            "lora.other OUT03",
            'the merge has no LoRA "other"\n    lora.other OUT03\n    ^^^^^^^^^^\nThe merge has lora.detail',
        ),
        ("B2 OUT03:attn2:0-1", "the merge has no model B2"),
    ],
)
def test_mistakes_in_rules_have_carets(text: str, told: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_vary(text, RICH, CONTEXT)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("text", "recipe", "told"),
    [
        ("", BASE, "What can be written: OUT03"),
        (
            "OUT03:atn2",
            BASE,
            '"OUT03:atn2" matches no tensor: "atn2" is not in this SD 1.x checkpoint; did you mean "attn2"?',
        ),
        ("OUT03:attn2:0.5", BASE, '"0.5" is no range LOW-HIGH, as in OUT03'),
        ("OUT03:attn2:", BASE, '"" is no range'),
        ("OUT03:attn2:0-1(+0.1)", BASE, '"0-1(+0.1)" is no range'),
        ("OUT03:attn2:1-0", BASE, "write the smaller one first"),
        ("OUT03:attn2:0-1:0-1", BASE, "it has one range"),
        ("OUT03:0-1", BASE, 'two colons before it: "OUT03::0-1"'),
        ("OUT03:attn2:0-1, OUT04:attn2:0-1", BASE, "is not one rule"),
        ("alpah:0-1", BASE, 'did you mean "alpha"?'),
        ("alpha 3:0-1", BASE, '"3" has no place in'),
        ("alpha:0.5", BASE, '"0.5" is no range LOW-HIGH, as in alpha:0-1'),
        (
            "alpha",
            replace(BASE, block_alpha=parse_block_weights("0" + ",0" * 25)),
            "Block weights set it in every block",
        ),
        ("alpha", replace(BASE, rules=parse_rules("::0.5")), "Rules set it everywhere"),
        ("beta", BASE, "has no beta that could vary"),
        ("number-p", BASE, 'weight-sum has no number "p"'),
        ("number-q", DARE, 'dare has no number "q". It has p, seed.'),
        ("number-p:0-2", DARE, "p is from 0 to 0.999"),
        ("lora:0-1", RICH, "The merge has several LoRAs"),
        ("lora other", RICH, 'The merge has no LoRA "other"'),
        ("lora", BASE, "has no LoRA whose ratio"),
        ("lora detail:1", RICH, '"1" is no range LOW-HIGH, as in lora detail:0-1'),
        ("adjust-CON:0-1", BASE, 'There is no adjustment "CON"; did you mean "CONT"'),
        ("adjust-CONT", BASE, "as in adjust-CONT:-2-2"),
        ("curve", BASE, "a curve has from 2 to 25 points"),
        ("curve:1", BASE, "a curve has from 2 to 25 points"),
        ("curve:26", BASE, "a curve has from 2 to 25 points"),
        ("curve:0-1", BASE, "a curve has from 2 to 25 points"),
    ],
)
def test_mistakes_are_told_with_what_can_be_written(text: str, recipe: MergeRecipe, told: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_vary(text, recipe, CONTEXT)
    assert told in str(caught.value)


def test_the_parts_of_a_space_are_named_where_they_are_wrong_or_twice() -> None:
    space = read_space(["OUT03:attn2", "alpha:0-0.5"], BASE, CONTEXT)
    assert [part.text for part in space.parts] == ["OUT03:attn2:0-1", "alpha:0-0.5"]
    with pytest.raises(RecipeError, match="alpha varies twice"):
        read_space(["alpha", "alpha:0-0.5"], BASE, CONTEXT)
    with pytest.raises(RecipeError, match="Nothing varies"):
        read_space([], BASE, CONTEXT)


def test_every_text_in_the_guide_can_be_read() -> None:
    triple = replace(RICH, mode=MergeMode.TRIPLE_SUM, model_c=ModelSource("c"), beta=0.2, loras=LORAS[:1])
    recipes = {"B2": MORE, "number-p": DARE}
    table = GUIDE.split("### What varies\n")[1].split("\n\n- A range")[0]
    texts = re.findall(
        r"`([^`]+)`", "".join(line.split("|")[1] for line in table.splitlines() if line.startswith("| `"))
    )
    assert len(texts) == 15
    for text in texts[1:]:  # the first is the name of the option
        if not text.startswith("effects:"):
            parse_vary(
                text, next((recipe for word, recipe in recipes.items() if text.startswith(word)), triple), CONTEXT
            )
    for text in re.findall(r"`([^`]+)`", GUIDE.split("\n\n- A range is")[1].split("Values are")[0]):
        assert range_ends(text), text
