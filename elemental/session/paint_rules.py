"""Painting on the element map: the rules for cells that were chosen on it, put into the text of a spec.

Pure: the page says which cells were chosen and at what ratio, and gets the new text of its editor. Nothing about rules
is known to the page.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Any

from ..errors import ElementalError, RecipeError
from ..recipe.ratio_targets import is_further
from ..recipe.rules import BlockSelector, ElementSelector, Rule
from ..recipe.spec_errors import plain_line_ends
from ..recipe.spec_parser import parse_rules
from ..recipe.spec_reader import parse_ratio

_SHORTEST_RANGE = 3
_BLANK_RATIO = 1.0
"""What a blank paint ratio stands for: the first value of its field."""


@dataclass(frozen=True)
class Stroke:
    """Cells of the element map that were chosen together.

    Attributes:
        columns: The blocks that the choice reaches over, in the order of the map.
        cells: For each cell the block of its rule and the part, or parts, of an element's name; the part is empty where
            the whole block is meant.
        ratio: What their tensors get.
        others: Cells between them that were not chosen, as in ``cells``: no range may reach over them.
        alphas: The alpha of each cell, on the map of beta: there ``ratio`` is beta, and a rule that sets it sets alpha,
            too. Empty on the map of alpha.
        target: The further model whose ratio the map shows, as rules name it; empty for the mode's own ratios.
    """

    columns: tuple[str, ...]
    cells: tuple[tuple[str, str], ...]
    ratio: float
    others: tuple[tuple[str, str], ...] = ()
    alphas: tuple[float, ...] = ()
    target: str = ""


def read_stroke(text: str) -> Stroke:
    """Read what the page says of a stroke.

    Args:
        text: JSON: ``columns``, a list of block names; ``cells``, a list of pairs of block and part; ``ratio``, a text;
            ``others``, a list like ``cells``, ``alphas``, a list of texts, and ``target``, a text, all of which may be
            missing.

    Raises:
        RecipeError: It is no such JSON, or the ratio is no finite number.
    """
    try:
        data = json.loads(text)
        columns = tuple(_word(column) for column in data["columns"])
        cells, others = (
            tuple((_word(block), _word(part)) for block, part in listed)
            for listed in (data["cells"], data.get("others", ()))
        )
        ratio = _word(data["ratio"])
        alphas = tuple(_word(alpha) for alpha in data.get("alphas", ()))
        target = _word(data.get("target", ""))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as exc:
        raise RecipeError("The chosen cells cannot be read.") from exc
    if (alphas and len(alphas) != len(cells)) or (target and (alphas or not is_further(target))):
        raise RecipeError("The chosen cells cannot be read.")
    return Stroke(columns, cells, _read_ratio(ratio), others, tuple(map(_read_alpha, alphas)), target.upper())


def paint(spec: str, stroke: Stroke) -> str:
    """Put the rules of a stroke at the end of a spec.

    A rule of the same blocks and elements is removed if it has a line to itself and says nothing more: a second ratio
    and a comment stay.

    Args:
        spec: The text of the editor, which may be wrong.
        stroke: What was chosen.

    Raises:
        ElementalError: A cell has words that no rule may have.
    """
    lines = plain_line_ends(spec).rstrip().split("\n") if spec.strip() else []
    for rule in make_rules(stroke):
        lines = [line for line in lines if not _says_only(line, rule)]
        lines.append(str(rule))
    return "\n".join(lines)


def make_rules(stroke: Stroke) -> list[Rule]:
    """Make the rules of a stroke: one for all parts that were chosen in the same blocks.

    Args:
        stroke: What was chosen.

    Raises:
        ElementalError: A cell has words that no rule may have.
    """
    if stroke.alphas:
        return [rule for alpha in dict.fromkeys(stroke.alphas) for rule in _make_beta_rules(stroke, alpha)]
    blocks_of: dict[str, dict[str, None]] = {}
    kept_of: dict[str, set[str]] = {}
    for block, part in stroke.cells:
        blocks_of.setdefault(part, {})[block] = None
    for block, part in stroke.others:
        kept_of.setdefault(part, set()).add(block)
    parts_of: dict[tuple[str, ...], list[str]] = {}
    for part, blocks in blocks_of.items():
        shortened = _shorten(tuple(blocks), stroke.columns, kept_of.get(part, set()))
        parts_of.setdefault(shortened, []).append(part)
    return [_make_rule(blocks, parts, stroke) for blocks, parts in parts_of.items()]


def _make_beta_rules(stroke: Stroke, alpha: float) -> list[Rule]:
    """Make the rules of the cells that have this alpha; no range may reach over the others."""
    pairs = list(zip(stroke.cells, stroke.alphas, strict=True))
    cells = tuple(cell for cell, own in pairs if own == alpha)
    others = (*stroke.others, *(cell for cell, own in pairs if own != alpha))
    rules = make_rules(Stroke(stroke.columns, cells, alpha, others))
    return [rule._replace(beta=stroke.ratio) for rule in rules]


def _shorten(blocks: tuple[str, ...], columns: Sequence[str], kept: Set[str]) -> tuple[str, ...]:
    """Write each run of blocks as a range; other blocks in between were passed over because they lack the element."""
    if len(blocks) < _SHORTEST_RANGE or not set(blocks) <= set(columns):
        return blocks
    runs: list[list[str]] = [[]]
    for column in columns:
        if column in kept:
            runs.append([])
        elif column in blocks:
            runs[-1].append(column)
    return tuple(name for run in runs for name in _shorten_run(run))


def _shorten_run(run: Sequence[str]) -> Sequence[str]:
    return run if len(run) < _SHORTEST_RANGE else (f"{run[0]}-{run[-1]}",)


def _make_rule(blocks: Sequence[str], parts: Sequence[str], stroke: Stroke) -> Rule:
    words = tuple(word for part in parts for word in part.split())  # a family of groups has several
    rule = Rule(BlockSelector(tuple(blocks)), ElementSelector(words), stroke.ratio, target=stroke.target)
    if parse_rules(str(rule)).rules != (rule,):
        raise RecipeError("The chosen cells cannot be written as a rule.")
    return rule


def _says_only(line: str, rule: Rule) -> bool:
    """Tell whether a line holds nothing but one rule with the selectors of another, which sets all that it sets."""
    fields = line.split(":")
    if (
        not 3 <= len(fields) <= (3 if rule.beta is None else 4)
        or "#" in line
        or "," in line
        or set(fields[1].split()) != set(rule.elements.parts)
    ):
        return False  # most lines end here: to read all rules of a long spec would take longer than the rest
    try:
        (there,) = parse_rules(line).rules
    except (ElementalError, ValueError):
        return False
    return there.target == rule.target and not there.blocks.inverted and there.blocks.names == rule.blocks.names


def _read_ratio(text: str) -> float:
    ratio = parse_ratio(text.strip()) if text.strip() else _BLANK_RATIO
    if ratio is None or not math.isfinite(ratio):
        raise RecipeError("The paint ratio must be a number.")
    return ratio


def _read_alpha(text: str) -> float:
    ratio = parse_ratio(text.strip())
    if ratio is None or not math.isfinite(ratio):
        raise RecipeError(f"Alpha is {text} in one of these cells: write its rule by hand, with one alpha.")
    return ratio


def _word(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value
