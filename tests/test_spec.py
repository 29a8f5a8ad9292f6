from __future__ import annotations

import pytest

from elemental.errors import SpecError
from elemental.recipe.rules import BlockSelector, ElementSelector, Rule, RuleSet, format_rules
from elemental.recipe.spec_parser import parse_rules


def only(text: str) -> Rule:
    (rule,) = parse_rules(text).rules
    return rule


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("OUT03: attn2 : 0.5", "OUT03:attn2:0.5"),
        (" out03 Mid in00 :attn1.to_out\tff: .25 ", "OUT03 M00 IN00:attn1.to_out ff:0.25"),
        ("not OUT04:attn:1", "NOT OUT04:attn:1"),
        ("OUT05:Not attn proj:-0.3", "OUT05:NOT attn proj:-0.3"),
        ("in11-base::1e-1", "IN11-BASE::0.1"),
        ("::1.", "::1"),
        ("TE VAE BASE:attn:+2:.5", "TE VAE BASE:attn:2:0.5"),
        (":model.diffusion_model.out.0.weight:0", ":model.diffusion_model.out.0.weight:0"),
        ("MID-out02:: 1 # to the end, of:the:line", "M00-OUT02::1"),
        ("lora.detail OUT03 out04: attn2:.5", "lora.detail OUT03 OUT04:attn2:0.5"),
        ("  LORA.My_Style-v1.5\tnot OUT04:attn:-1", "lora.my_style-v1.5 NOT OUT04:attn:-1"),
        ("lora.detail::0", "lora.detail::0"),
        ("lora.detail ALL:ALL:1e3", "lora.detail::1000"),
        ("lora.\u0391\u03a3 TE::2", "lora.\u03b1\u03c3 TE::2"),
    ],
)
def test_spellings_are_read_as_one_form(text: str, canonical: str) -> None:
    assert format_rules(parse_rules(text)) == canonical


@pytest.mark.parametrize("text", ["", " ", ",,\n, ,", "# nothing\n#:::", "\r\n\r"])
def test_nothing_is_no_rule(text: str) -> None:
    assert parse_rules(text) == RuleSet()


def test_separators_mix() -> None:
    rules = parse_rules("IN00:a:1,IN01:b:2\nIN02:c:3\r\nIN03:d:4\rIN04:e:5,\n,IN05:f:6")
    assert [rule.alpha for rule in rules.rules] == [1, 2, 3, 4, 5, 6]
    assert [(span.line, span.column) for span in rules.spans] == [(1, 1), (1, 10), (2, 1), (3, 1), (4, 1), (5, 2)]


def test_a_rule_is_data() -> None:
    assert only("NOT OUT04 IN00-IN02:attn:0.5:0.25") == Rule(
        BlockSelector(("OUT04", "IN00-IN02"), inverted=True), ElementSelector(("attn",)), 0.5, 0.25
    )


def test_ranges_hold_both_ends_in_block_order() -> None:
    assert only("IN10-OUT01::1").blocks.names == {"IN10", "IN11", "M00", "OUT00", "OUT01"}
    assert only("OUT01-IN10::1").blocks.names == only("IN10-OUT01::1").blocks.names
    assert only("BASE-IN01::1").blocks.names == {"BASE", "IN00", "IN01"}


@pytest.mark.parametrize(
    ("text", "line", "column", "length", "words"),
    [
        ("\n NOT OUT12:attn:1", 2, 6, 5, 'unknown block "OUT12"\n'),
        ("IN3::1", 1, 1, 3, 'did you mean "IN03"?'),
        ("OUT05:attn2", 1, 1, 11, "two or three colons"),
        ("OUT05:1", 1, 1, 7, "OUT05::1"),
        ("a:b:c:d:e", 1, 1, 9, "two or three colons"),
        ("OUT05:attn:", 1, 12, 1, "the ratio is missing"),
        ("OUT05:attn:0.5.1", 1, 12, 5, 'the ratio "0.5.1" is not a number'),
        ("OUT05:attn:nan", 1, 12, 3, "not a number"),
        ("OUT05:attn:inf", 1, 12, 3, "not a number"),
        ("OUT05:attn:1e999", 1, 12, 5, "too large"),
        ("OUT05:attn:1_0", 1, 12, 3, "not a number"),
        ("OUT05:attn:٣", 1, 12, 1, "not a number"),
        ("OUT05:attn:1:x", 1, 14, 1, 'the ratio "x" is not a number'),
        ("NOT:attn:1", 1, 1, 3, "NOT with nothing after it"),
        ("OUT05: not :1", 1, 8, 3, "NOT with nothing after it"),
        ("OUT05:attn NOT proj:1", 1, 12, 3, "NOT must come first"),
        ("OUT05 NOT IN00:attn:1", 1, 7, 3, "NOT must come first"),
        ("NOT NOT IN00:attn:1", 1, 5, 3, "NOT must come first"),
        ("TE-IN03::1", 1, 1, 7, "cannot be in ranges"),
        ("IN00 - IN03::1", 1, 6, 1, "without spaces"),
        ("IN00-IN01-IN02::1", 1, 1, 14, 'did you mean "IN00-IN02"?'),
        ("OUT05:attn:0,5", 1, 14, 1, "decimal point"),
        ("lora.detail OUT03:attn:1:0.5", 1, 26, 3, '"lora.detail" has no beta'),
        ("OUT03 lora.detail:attn:1", 1, 7, 11, "stands first"),
        ("NOT lora.detail OUT03:attn:1", 1, 5, 11, "stands first"),
        ("lora.a lora.b OUT03:attn:1", 1, 8, 6, "a rule for each"),
        ("lora.a  NOT:attn:1", 1, 9, 3, "NOT with nothing after it"),
        ("lora.a OUT12:attn:1", 1, 8, 5, 'unknown block "OUT12"'),
        ("lora. OUT03:attn:1", 1, 1, 5, 'in one word, as in "lora.detail OUT03::0.5"'),
        ("lora.a OUT03:0.5", 1, 1, 16, '"lora.a OUT03::0.5"'),
        ("lora.a:0.5", 1, 1, 10, '"lora.a::0.5"'),
        ("lora.a OUT03 attn2 0.5", 1, 1, 22, "two or three colons"),
        ("lora.a attn2 0.5", 1, 1, 16, '"lora.a:attn2:0.5"'),
        ("lora.a attn2:0.5", 1, 1, 16, '"lora.a:attn2:0.5"'),
        ("lora.a attn2:OUT03:0.5", 1, 8, 5, 'blocks stand first: "lora.a OUT03:attn2:0.5"'),
        ("lora.a attn2::0.5", 1, 8, 5, 'the first colon: "lora.a :attn2:0.5"'),
    ],
)
def test_mistakes_have_their_place(text: str, line: int, column: int, length: int, words: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_rules(text)
    (problem,) = caught.value.problems
    assert problem.span == (line, column, length)
    assert words in str(caught.value)
    assert f"spec, line {line}, column {column}: " in str(caught.value)


def test_all_mistakes_are_reported_at_once_with_carets() -> None:
    with pytest.raises(SpecError) as caught:
        parse_rules("OUT12:attn:1,IN00:a:x\n\n  FOO BSE:attn:1", name="my.txt")
    assert str(caught.value).splitlines() == [
        'my.txt, line 1, column 1: unknown block "OUT12"',
        "    OUT12:attn:1,IN00:a:x",
        "    ^^^^^",
        "SD 1.x and SD 2.x have BASE, IN00-IN11, M00, OUT00-OUT11; SDXL has BASE, IN00-IN08, M00, OUT00-OUT08. "
        "TE and VAE are the two parts of BASE.",
        'my.txt, line 1, column 21: the ratio "x" is not a number',
        "    OUT12:attn:1,IN00:a:x",
        "                        ^",
        "A ratio is a decimal number such as 1, .5, 0.25, -0.3 or 1e-1.",
        'my.txt, line 3, column 3: unknown block "FOO"',
        "      FOO BSE:attn:1",
        "      ^^^",
        'my.txt, line 3, column 7: unknown block "BSE"; did you mean "BASE"?',
        "      FOO BSE:attn:1",
        "          ^^^",
    ]


def test_a_long_line_is_shown_around_its_mistake() -> None:
    with pytest.raises(SpecError) as caught:
        parse_rules("IN00:attn:1," * 1000 + "IN99:attn:1")
    shown, caret = str(caught.value).splitlines()[1:3]
    assert len(shown) < 120
    assert shown[caret.index("^") :].startswith("IN99")


def test_thousands_of_mistakes_make_a_short_message() -> None:
    with pytest.raises(SpecError) as caught:
        parse_rules("x," * 900)
    assert len(caught.value.problems) == 900
    assert "... and 800 more" in str(caught.value)
    assert len(str(caught.value)) < 25_000


@pytest.mark.parametrize("text", ["x," * 5000, "NOT " * 5000, "x " * 5000 + "::1"])
def test_a_text_that_is_no_spec_is_not_read_to_its_end(text: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_rules(text)
    assert len(caught.value.problems) <= 1000
    assert len(str(caught.value)) < 25_000


def test_more_mistakes_than_are_looked_for() -> None:
    with pytest.raises(SpecError, match=r"and at least 900 more"):
        parse_rules("x," * 5000)
