"""What is done with cells that were chosen on the element map."""

from __future__ import annotations

import json
from typing import Any

import pytest

from elemental.errors import RecipeError
from elemental.session.map_strokes import apply_stroke

from .test_erase_rules import NAMES

COLUMNS = ["OUT03", "OUT04", "OUT05"]


def stroke(cells: list[list[str]], **more: Any) -> str:
    return json.dumps({"columns": COLUMNS, "cells": cells, "ratio": "0.2", **more})


def apply(spec: str, text: str) -> str:
    return apply_stroke(spec, text, lambda: NAMES)


def test_cells_are_painted_erased_or_kept_alone() -> None:
    cells = [[column, "attn2"] for column in COLUMNS]
    assert apply("IN01::1", stroke(cells)) == "IN01::1\nOUT03-OUT05:attn2:0.2"
    assert apply("IN01::1\nOUT03-OUT06:attn2:1", stroke(cells, action="erase")) == "IN01::1\nOUT06:attn2:1"
    assert apply("IN01::1", stroke(cells, action="only")) == "OUT03-OUT05:attn2:0.2"


def test_rules_for_ratios_of_loras_stay() -> None:
    cells = [[column, "attn2"] for column in COLUMNS]
    others = "lora.style OUT03-OUT05:attn2:0.5"
    assert apply(f"{others} # why", stroke(cells)) == f"{others} # why\nOUT03-OUT05:attn2:0.2"
    assert apply(others, stroke(cells, ratio="0.5")) == f"{others}\nOUT03-OUT05:attn2:0.5"
    assert apply(others, stroke(cells, action="erase")) == others
    erased = apply(f"IN03-OUT03:attn2:1, {others}, OUT04:attn2:1", stroke(cells, action="erase"))
    assert erased.split(", ")[-1] == others
    assert apply(f"IN01::1, {others}\nIN99::1", stroke(cells, action="only")) == f"{others}\nOUT03-OUT05:attn2:0.2"


def test_a_ratio_at_the_end_gives_each_column_its_own() -> None:
    cells = [["OUT03", "attn2"], ["OUT04", "attn2"], ["OUT05", "in_layers out_layers"]]
    assert apply("", stroke(cells, end="0.8")).splitlines() == [
        "OUT03:attn2:0.2", "OUT04:attn2:0.5", "OUT05:in_layers out_layers:0.8",
    ]  # fmt: skip
    assert apply("", stroke(cells[:2], end="0.8", leftward=True)) == "OUT03:attn2:0.8\nOUT04:attn2:0.5"
    alphas = ["0.5", "1"]
    assert apply("", stroke(cells[:2], end="0.8", alphas=alphas)) == "OUT03:attn2:0.5:0.2\nOUT04:attn2:1:0.5"
    assert apply("", stroke(cells[:1], end="0.2")) == "OUT03:attn2:0.2"
    assert apply("", stroke([["TE", ""]], end="0.8")) == "TE::0.2"


@pytest.mark.parametrize("more", [{"action": "burn"}, {"end": "x"}, {"action": ["erase"]}])
def test_what_no_page_says_is_refused(more: dict[str, Any]) -> None:
    with pytest.raises(RecipeError):
        apply("", stroke([["OUT03", "attn2"]], **more))
