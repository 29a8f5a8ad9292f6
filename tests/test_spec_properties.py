from __future__ import annotations

from functools import cache

from hypothesis import example, given, settings
from hypothesis import strategies as st

from elemental.demo.layout import tensor_shapes
from elemental.errors import SpecError
from elemental.spec.blocks import LONGEST, SD1, SD2, SDXL, Architecture
from elemental.spec.keys import KeyName, name_key
from elemental.spec.parser import parse_rules
from elemental.spec.rules import format_rules
from elemental.spec.select import Selection, members

from .conftest import LAYOUTS
from .reference import slow_name, slow_ratio

ARCHITECTURES = {"sd1": SD1, "sd2": SD2, "sdxl": SDXL}


@cache
def names(layout: str) -> list[KeyName]:
    return [name_key(key, ARCHITECTURES[layout]) for key in tensor_shapes(LAYOUTS[layout])]


spaces = st.sampled_from(["", " ", "\t "])
plain_blocks = st.sampled_from([*LONGEST.blocks, "MID", "out03", "In07"])
ranges = st.tuples(plain_blocks, plain_blocks).map("-".join)
block_words = st.one_of(plain_blocks, ranges, st.sampled_from(["TE", "VAE", "te"]))
parts = st.one_of(
    st.sampled_from(["attn", "attn2", "attn1.to_out", "weight", "0.", "norm", "ff.net.0", "emb_layers", "bias", "zzz"]),
    st.sampled_from(["model.diffusion_model.output_blocks.5.", "first_stage_model.decoder", "model.", "conditioner."]),
    st.builds(lambda name, cut: name.element[cut : cut + 9] or "x", st.sampled_from(names("sd1")), st.integers(0, 40)),
)
ratios = st.one_of(
    st.floats(-2, 3, allow_nan=False).map(repr), st.sampled_from(["1", ".5", "0.25", "-0.3", "1e-1", "+1", "2."])
)


def side(words: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    chosen = st.lists(words, max_size=3)
    return st.builds(
        lambda found, inverted: " ".join([inverted, *found]) if found and inverted else " ".join(found),
        chosen,
        st.sampled_from(["", "NOT", "not"]),
    )


@st.composite
def rules(draw: st.DrawFn) -> str:
    pieces = [draw(side(block_words)), draw(side(parts)), *draw(st.lists(ratios, min_size=1, max_size=2))]
    return ":".join(draw(spaces) + piece + draw(spaces) for piece in pieces)


specs = st.lists(st.tuples(rules(), st.sampled_from([",", "\n", ",\n", " # why\n", ",,"])), max_size=8).map(
    lambda pieces: "".join(rule + separator for rule, separator in pieces)
)


@given(specs)
def test_text_survives_parsing(text: str) -> None:
    parsed = parse_rules(text)
    assert parse_rules(format_rules(parsed)) == parsed


@given(specs, st.sampled_from(list(LAYOUTS)))
@example("OUT06:attn:0.5,OUT06:attn2.to_k:0.2", "sd1")
@example("NOT OUT04:attn:1,OUT05:NOT attn proj:0.2", "sdxl")
@settings(deadline=None)
def test_the_last_matching_rule_wins(text: str, layout: str) -> None:
    parsed = parse_rules(text)
    decision = Selection(names(layout)).decide(parsed.rules)
    depth = ARCHITECTURES[layout].depth
    for field, sets in ((2, decision.alpha), (3, decision.beta)):
        ratios: list[float | None] = [None] * len(names(layout))
        for rule, tensors in zip(parsed.rules, sets, strict=True):
            for index in members(tensors):
                assert ratios[index] is None  # no tensor belongs to two rules
                ratios[index] = (rule.alpha, rule.beta)[field - 2]
        assert ratios == [slow_ratio(text, name.key, depth, field=field) for name in names(layout)]


@given(specs, st.sampled_from(list(LAYOUTS)))
@settings(deadline=None)
def test_a_rule_matches_what_the_selection_selects(text: str, layout: str) -> None:
    selection = Selection(names(layout))
    for rule in parse_rules(text).rules:
        selected = selection.matching(rule)
        assert [rule.matches(name) for name in names(layout)] == [
            bool(selected >> index & 1) for index in range(len(names(layout)))
        ]


@given(st.text(alphabet=st.sampled_from(" ,:\n\r\t#-NOTINUMBASEV0123456789.eattn_\uff1a\u00a0"), max_size=80))
@example("::")
@example("NOT:NOT:NOT")
def test_any_text_gives_rules_or_a_spec_error(text: str) -> None:
    try:
        parse_rules(text)
    except SpecError as error:
        lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        for problem in error.problems:
            line = lines[problem.span.line - 1]
            assert 1 <= problem.span.column <= len(line) + 1
            assert problem.message


def test_names_agree_with_the_table() -> None:
    for layout, architecture in ARCHITECTURES.items():
        assert_names(architecture, names(layout))


def assert_names(architecture: Architecture, found: list[KeyName]) -> None:
    for name in found:
        assert (name.block, name.element) == slow_name(name.key, architecture.depth)
        assert name.block in architecture.blocks
