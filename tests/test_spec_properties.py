from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import product

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from elemental.architectures.blocks import LONGEST, SD1, SD2, SDXL, Architecture
from elemental.architectures.keys import KeyName, name_key, searched_name
from elemental.architectures.tensor_sets import NameSearch, TensorSet, members
from elemental.demo.layout import tensor_shapes
from elemental.errors import SpecError
from elemental.recipe.name_pieces import NamePieces
from elemental.recipe.rule_matching import RuleMatcher
from elemental.recipe.rules import Rule, format_rules
from elemental.recipe.spec_parser import parse_rules
from elemental.recipe.suggestions import near_names

from .attacks.spec import check, large_texts, texts
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


targets = [("", 2), ("", 2), ("", 2), ("lora.detail", 1), ("LORA.Detail", 1), ("lora.a-b_1.5", 1)]
"""What rules begin with, and how many ratios may follow."""


def side(words: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    chosen = st.lists(words, max_size=3)
    return st.builds(
        lambda found, inverted: " ".join([inverted, *found]) if found and inverted else " ".join(found),
        chosen,
        st.sampled_from(["", "NOT", "not"]),
    )


@st.composite
def rules(draw: st.DrawFn) -> str:
    target, most = draw(st.sampled_from(targets))
    blocks = f"{target} {draw(side(block_words))}"
    pieces = [blocks, draw(side(parts)), *draw(st.lists(ratios, min_size=1, max_size=most))]
    return ":".join(draw(spaces) + piece + draw(spaces) for piece in pieces)


specs = st.lists(st.tuples(rules(), st.sampled_from([",", "\n", ",\n", " # why\n", ",,"])), max_size=8).map(
    lambda pieces: "".join(rule + separator for rule, separator in pieces)
)


@pytest.mark.slow
@given(specs)
def test_text_survives_parsing(text: str) -> None:
    parsed = parse_rules(text)
    assert parse_rules(format_rules(parsed)) == parsed


@pytest.mark.slow
@given(specs, st.sampled_from(list(LAYOUTS)))
@example("OUT06:attn:0.5,OUT06:attn2.to_k:0.2", "sd1")
@example("NOT OUT04:attn:1,OUT05:NOT attn proj:0.2", "sdxl")
@example("lora.detail OUT06:attn:0.5,OUT06:attn2:1,LORA.Detail NOT OUT06:attn2.to_k:0.2,::0.3", "sd1")
@settings(deadline=None)
def test_the_last_matching_rule_wins(text: str, layout: str) -> None:
    parsed = parse_rules(text)
    decision = RuleMatcher(names(layout)).decide(parsed.rules)
    depth = ARCHITECTURES[layout].depth
    for field, sets in ((2, decision.alpha), (3, decision.beta)):
        found = ratios_of(parsed.rules, dict(enumerate(sets)), layout, field=field)
        assert found == [slow_ratio(text, name.key, depth, field=field) for name in names(layout)]
    for target in ("lora.detail", "lora.a-b_1.5"):
        found = ratios_of(parsed.rules, decision.targets.get(target, {}), layout)
        assert found == [slow_ratio(text, name.key, depth, target=target) for name in names(layout)]


def ratios_of(
    parsed: Sequence[Rule], sets: Mapping[int, TensorSet], layout: str, *, field: int = 2
) -> list[float | None]:
    ratios: list[float | None] = [None] * len(names(layout))
    for rule, tensors in sets.items():
        for index in members(tensors):
            assert ratios[index] is None  # no tensor belongs to two rules
            ratios[index] = parsed[rule].alpha if field == 2 else parsed[rule].beta
    return ratios


@pytest.mark.slow
@given(specs, st.sampled_from(list(LAYOUTS)))
@settings(deadline=None)
def test_a_rule_matches_what_the_selection_selects(text: str, layout: str) -> None:
    matcher = RuleMatcher(names(layout))
    for rule in parse_rules(text).rules:
        selected = matcher.matching(rule)
        assert [rule.matches(name) for name in names(layout)] == [
            bool(selected >> index & 1) for index in range(len(names(layout)))
        ]


own_names = st.lists(st.text("aB1.\u03a3", max_size=12), min_size=1, max_size=12, unique=True)
pieces = st.lists(st.text("aB1.\u03a3", min_size=1, max_size=5), max_size=40)


@pytest.mark.slow
@given(own_names, pieces)
@example([".", "..a", "a.a.a.b", "ab.a"], ["a.a"] * 31)
def test_words_of_names_find_what_searching_the_names_finds(found: list[str], searched: list[str]) -> None:
    search = NameSearch({name: 1 << index for index, name in enumerate(found)})
    for piece in searched:
        plainly = sum(1 << index for index, name in enumerate(found) if piece in name)
        assert search.containing(piece) == search.words.containing(piece) == plainly, piece
    for size in range(1, 4):
        runs: dict[str, TensorSet] = {}
        for index, name in enumerate(found):
            for run in runs_of(name, size):
                runs[run] = runs.get(run, 0) | 1 << index
        assert without_blank(search.words.runs(size)) == without_blank(runs)


def without_blank(runs: dict[str, TensorSet]) -> dict[str, TensorSet]:
    return {run: tensors for run, tensors in runs.items() if run}  # no part is blank


def runs_of(name: str, size: int) -> list[str]:
    words = name.split(".")
    return [".".join(words[start : start + size]) for start in range(len(words) - size + 1)]


def all_pieces(names: Iterable[str], size: int) -> list[str]:
    """All runs of so many words, each before itself without a number at its end."""
    runs = [run for name in names for run in runs_of(name, size)]
    both = [piece for run in runs for piece in (run, run.rstrip("0123456789").rstrip("."))]
    return [piece for piece in dict.fromkeys(both) if piece]


@pytest.mark.slow
@given(parts, st.sampled_from(["x", "", "3", "."]), st.sampled_from([*SDXL.blocks, "IN03-OUT02"]))
@example("attn1.to_k", "x", "OUT00")
@example("transformer_blocks.1", "1", "IN04")
@settings(deadline=None)
def test_a_misspelt_part_is_compared_with_all_pieces_of_names(part: str, end: str, block: str) -> None:
    matcher = RuleMatcher(names("sdxl"))
    tensors = matcher.with_block(block)
    mistaken = part[:-1] + end or "x"
    size = mistaken.count(".") + 1
    plainly = all_pieces((searched_name(mistaken, matcher.names[index]) for index in members(tensors)), size)
    found = NamePieces(matcher.searched(mistaken), size)
    assert found.near(mistaken, tensors) == near_names(mistaken, plainly)
    stem = mistaken.rstrip("0123456789")
    other = [piece for piece in plainly if piece != stem and piece.rstrip("0123456789") == stem]
    assert found.with_other_digits(mistaken, tensors) == (other if stem != mistaken else [])


WORDS = ("IN03", "mid", "OUT02-IN10", "BASE", "TE", "vae", "NOT", "OUT12", "TE-IN00", "-")
PARTS = ("attn2", "to_k", "NOT", "not", "model.diffusion_model.output_blocks", "first_stage_model.")


def orders(words: tuple[str, ...]) -> list[str]:
    return [" ".join(chosen) for count in range(4) for chosen in product(words, repeat=count)]


def is_written_right(words: list[str], names: tuple[str, ...]) -> bool:
    """NOT comes first or not at all, something follows it, and all else is a name."""
    late = [word for word in words[1:] if word.upper() == "NOT"]
    alone = [word.upper() for word in words] == ["NOT"]
    return not late and not alone and all(word in names or word.upper() == "NOT" for word in words)


@pytest.mark.slow
@pytest.mark.parametrize("side", ["blocks", "elements"])
def test_names_ranges_and_not_in_every_order(side: str) -> None:
    allowed = WORDS[:6] if side == "blocks" else PARTS
    some = {(name.block, name.component, name.element[-9:]): name for name in names("sd1")}  # of each kind one
    matcher = RuleMatcher(list(some.values()))
    right = 0
    for text in orders(WORDS if side == "blocks" else PARTS):
        spec = f"{text}::1" if side == "blocks" else f":{text}:1"
        try:
            (rule,) = parse_rules(spec).rules
        except SpecError:
            assert not is_written_right(text.split(), allowed), text
            continue
        assert is_written_right(text.split(), allowed), text
        selected = matcher.matching(rule)
        found = [1.0 if selected >> index & 1 else None for index in range(len(matcher.names))]
        assert found == [slow_ratio(spec, name.key, SD1.depth) for name in matcher.names], text
        right += 1
    assert right > 100


@pytest.mark.slow
@given(texts)
@example("::")
@example("NOT:NOT:NOT")
def test_any_text_gives_rules_or_a_spec_error(text: str) -> None:
    check(text)


@pytest.mark.parametrize("name", large_texts(1))
def test_100_kb(name: str) -> None:
    check(large_texts(1)[name])


def test_names_agree_with_the_table() -> None:
    for layout, architecture in ARCHITECTURES.items():
        assert_names(architecture, names(layout))


def assert_names(architecture: Architecture, found: list[KeyName]) -> None:
    for name in found:
        assert (name.block, name.element) == slow_name(name.key, architecture.depth)
        assert name.block in architecture.blocks
