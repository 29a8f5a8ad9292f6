"""The element map: a table of elements by blocks whose colours are the ratios that they will get, as HTML.

The page adds what moves: names of keys under the pointer, the choice of cells, the completion of names. What it needs
for that stands in attributes, so that nothing about keys, ratios and rules is known twice.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import groupby
from typing import NamedTuple

from ..architectures.blocks import BASE, TEXT_ENCODER, VAE, Architecture
from ..architectures.element_families import Family
from ..architectures.element_groups import Group, Place
from ..architectures.keys import FULL_KEY_PREFIXES, UNET_PREFIX
from ..merge.plan import MORE_ROLES, MergePlan, Role, TensorPlan
from ..modes.base import Coefficients
from ..recipe.recipe import MergeRecipe
from ..recipe.rules import NOT, format_ratio
from .map_effects import MapEffects

_OF_MODE = ("alpha", "beta")
_MOST_RATIOS = 4
_MOST_DIGITS = 4
"""Characters that fit into a cell."""


def draw_map(plan: MergePlan, families: Sequence[Family], effects: MapEffects | None = None) -> str:
    """Draw a plan as one table for each ratio that its mode has, and for that of each further model that rules set.

    The names for the editor are listed beside them.

    Args:
        plan: What is drawn.
        families: The rows, which fold, made from the names of the same tensors.
        effects: What the cells do to the image, for the other way to paint them.
    """
    tables = [_draw_table(_Table(plan, "alpha", effects, {}), families)]
    if plan.mode.uses_beta:
        tables.append(_draw_table(_Table(plan, "beta", None, {}), families))
    tables += [_draw_table(_Table(plan, target, None, {}), families) for target in _ruled_targets(plan)]
    groups = [group for family in families for group in family.groups]
    blocks, elements = list_block_words(plan.architecture), list_element_words(groups)
    names = f'data-blocks="{" ".join(blocks)}" data-elements="{escape(" ".join(elements))}"'
    legend = effects.legend if effects else ""
    return "".join([legend, *tables, f'<div class="elemental-names" {names} hidden></div>'])


def _ruled_targets(plan: MergePlan) -> list[str]:
    """Give the further models whose ratios rules set, as rules name them, in the order of the recipe."""
    named = {rule.target for rule in plan.recipe.rules.of_targets}
    return [role.name for role in MORE_ROLES[: len(plan.recipe.more)] if role.name in named]


def name_ends(recipe: MergeRecipe) -> tuple[str, str]:
    """Say which models a ratio of 0 and one of 1 give, or what sum of them; empty where neither is so.

    Args:
        recipe: The recipe; where the answer depends on its other ratios, there is none.
    """
    further = [[some] * len(recipe.more) for some in (0.25, 0.5)]
    choices = [(beta, more) for beta in (0.25, 0.5) for more in further]
    at_0, at_1 = ({_name_sum(recipe.mode.coefficients(end, *choice)) for choice in choices} for end in (0.0, 1.0))
    return at_0.pop() if len(at_0) == 1 else "", at_1.pop() if len(at_1) == 1 else ""


def _name_sum(coefficients: Coefficients | None) -> str:
    """Write a sum of whole models: "A", "A + B - C"; empty for any other."""
    if coefficients is None or any(each not in (-1, 0, 1) for each in coefficients):
        return ""
    names = [("- " if each < 0 else "+ ") + name for each, name in zip(coefficients, "ABC", strict=False) if each]
    return " ".join(names).removeprefix("+ ")


def list_block_words(architecture: Architecture) -> tuple[str, ...]:
    """List the words that may stand before the first colon of a rule, ranges aside.

    Args:
        architecture: Of the models.
    """
    return (NOT, TEXT_ENCODER, VAE, *architecture.blocks)


def list_element_words(groups: Sequence[Group]) -> list[str]:
    """List the words that name elements in rules: the beginnings of the rows' names, and their words.

    Args:
        groups: The rows.
    """
    words: set[str] = {NOT}
    for part in {place.part for group in groups for place in group.places.values()}:
        if part and not part.startswith((".", *FULL_KEY_PREFIXES)):
            pieces = part.strip(".").split(".")
            words.update(".".join(pieces[:end]) for end in range(1, len(pieces) + 1))
            words.update(piece for piece in pieces if piece[:1].isalpha())
    return sorted(word for word in words if not word.isdecimal())


class _Table(NamedTuple):
    """What one table is drawn from; ``rules`` collects those that its cells name."""

    plan: MergePlan
    ratio: str
    effects: MapEffects | None
    rules: dict[int, None]


def _draw_table(table: _Table, families: Sequence[Family]) -> str:
    plan, ratio = table.plan, table.ratio
    rows = "".join(row for family in families for row in _draw_family(table, family))
    is_further = ratio not in _OF_MODE
    caption = f"<caption>{ratio}</caption>" if plan.mode.uses_beta or _ruled_targets(plan) else ""
    deciding_rules = "".join(
        f'<i hidden data-rule="{index + 1}">{escape(str(plan.recipe.rules.rules[index]))}</i>' for index in table.rules
    )
    label = f"{ratio} of every element: rows are elements, columns are blocks"
    effects = table.effects.table_attributes if table.effects else ""
    source = f"from the line of {ratio}" if is_further else f"from {ratio}"
    at_0, at_1 = name_ends(plan.recipe)
    marks = f' data-target="{ratio}"' if is_further else f' data-zero="{at_0}" data-one="{at_1}"'
    return (
        f'<table class="elemental-map" data-ratio="{ratio}" data-source="{source}"{marks} tabindex="0" role="grid" '
        f'aria-label="{label}"{effects}>{caption}<thead>{_draw_head(plan, ratio)}</thead><tbody>{rows}</tbody></table>'
        f'<div class="elemental-rules" hidden>{deciding_rules}</div>'
    )


def _draw_head(plan: MergePlan, ratio: str) -> str:
    """Two rows: the sides of the U-Net, and the numbers of the blocks."""
    sides, weights = [], _block_weights(plan, ratio)
    for side, blocks in groupby(plan.architecture.blocks, key=lambda block: re.sub(r"\d+", "", block)):
        count = len(list(blocks))
        sides.append(f'<th colspan="{count}" scope="colgroup">{side}</th>')
    numbers = [
        f'<th scope="col" data-block="{block}" data-prefix="{_key_prefix(block)}"{_draw_source(block, weights)}>'
        f"{re.sub('[A-Z]', '', block)}</th>"
        for block in plan.architecture.blocks
    ]
    return f"<tr><td></td>{''.join(sides)}</tr><tr><td></td>{''.join(numbers)}</tr>"


def _block_weights(plan: MergePlan, ratio: str) -> dict[str, float]:
    """Give the ratios that come from block weights, by block; BASE is none of them where they leave it out."""
    weights = {"alpha": plan.recipe.block_alpha, "beta": plan.recipe.block_beta}.get(ratio)
    if weights is None:
        return {}
    by_block = weights.by_block(plan.architecture, base=0.0)
    return {block: weight for block, weight in by_block.items() if block != BASE or weights.base is not None}


def _draw_source(block: str, weights: Mapping[str, float]) -> str:
    """Say where a block's ratio comes from, if it is not the plain one."""
    if block not in weights:
        return ""
    return f' data-source="from block weights ({block} = {format_ratio(weights[block])})"'


def _key_prefix(block: str) -> str:
    """Give what the keys of a block begin with, for most of its elements."""
    side, number = re.sub(r"\d+", "", block), re.sub(r"\D+", "", block)
    folders = {
        "IN": f"input_blocks.{int(number or 0)}.",
        "M": "middle_block.",
        "OUT": f"output_blocks.{int(number or 0)}.",
    }
    return f"{UNET_PREFIX}{folders[side]}" if side in folders else ""


def _draw_family(table: _Table, family: Family) -> Iterator[str]:
    """Draw one row for a whole family and one for each of its groups, which the page shows when it is unfolded."""
    if not family.folds:
        yield _draw_group(table, family.groups[0])
        return
    cells = (_draw_cell(table, family.name, place, "") for place in _cells(table, family.places))
    name = escape(family.name)
    fold = f'<button type="button" data-fold="{name}" aria-expanded="false" aria-label="rows of {name}"></button>'
    yield (
        f'<tr class="family" data-family="{name}"><th scope="row" data-part="" data-name="">{name}{fold}</th>'
        f"{''.join(cells)}</tr>"
    )
    for group in family.groups:
        yield _draw_group(table, group, f' data-in="{name}" hidden')


def _draw_group(table: _Table, group: Group, marks: str = "") -> str:
    part = group.places[next(iter(group.places))].part if len(group.places) == 1 else group.label
    prefixes = group.name.partition("*")[0]
    cells = (_draw_cell(table, group.name, place, part, prefixes) for place in _cells(table, group.places))
    return (
        f'<tr{marks}><th scope="row" data-part="{escape(part)}" data-name="{escape(group.name)}">'
        f"{escape(group.label)}</th>{''.join(cells)}</tr>"
    )


def _cells(table: _Table, places: Mapping[str, Place]) -> Iterator[Place | None]:
    return (places.get(block) for block in table.plan.architecture.blocks)


def _draw_cell(table: _Table, row: str, place: Place | None, part: str, prefix: str | None = None) -> str:
    """Draw a cell.

    Args:
        table: What it is drawn from.
        row: The name of its group or family.
        place: Its tensors; None where the block has none.
        part: What a rule calls it, unless the cell says otherwise.
        prefix: What the keys of the row begin with after their block; None if its cells hold several groups.
    """
    if place is None:
        return "<td></td>"
    tensors = [table.plan.tensors[index] for index in place.indices]
    merged = [tensor for tensor in tensors if not tensor.note]
    ratios = sorted({_ratio(tensor, table.ratio) for tensor in merged})
    deciding = sorted({rule for tensor in merged if (rule := _rule(tensor, table.ratio)) is not None})
    table.rules.update(dict.fromkeys(deciding))
    marks = dict(_marks(tensors, ratios, deciding))
    if place.part != part:
        marks["data-part"] = escape(place.part)
    if place.word != place.block:
        marks["data-word"] = place.word
    is_like_row = prefix is not None and place.block != BASE
    if not is_like_row or not place.key.startswith(_key_prefix(place.block) + str(prefix)):
        marks["data-key"] = escape(place.key if prefix is not None else f"{place.part} of {place.block}")
    if len(tensors) != 2:
        marks["data-count"] = str(len(tensors))
    style, effect = table.effects.marks(row, place, tensors) if table.effects else ("", "")
    if style:
        marks["style"] = ";".join(filter(None, (marks.get("style"), style)))
    shown = _short(ratios)
    return f"<td{''.join(f' {name}={_quoted(value)}' for name, value in marks.items())}{effect}>{shown}</td>"


def _short(ratios: Sequence[float]) -> str:
    """Write a ratio as it fits into a cell; nothing for 0, for several ratios, and for long ones."""
    text = format_ratio(ratios[0]) if len(ratios) == 1 else "0"
    short = text.replace("0.", ".", 1) if text.lstrip("-").startswith("0.") else text
    return "" if text == "0" or len(short) > _MOST_DIGITS else short


def _marks(
    tensors: Sequence[TensorPlan], ratios: Sequence[float], deciding: Sequence[int]
) -> Iterator[tuple[str, str]]:
    classes = ["e"]
    if not ratios:
        yield "data-note", escape(tensors[0].note)
        classes.append("kept")
    else:
        shown = " ".join(map(format_ratio, ratios[:_MOST_RATIOS])) + (" ..." if len(ratios) > _MOST_RATIOS else "")
        yield "data-r", shown
        classes += _range_class(ratios)
        yield "style", _shades(ratios)
    if deciding:
        classes.append("ruled")
        yield "data-rules", " ".join(str(rule + 1) for rule in deciding)
    yield "class", " ".join(classes)


def _range_class(ratios: Sequence[float]) -> list[str]:
    classes = ["mixed"] if len(ratios) > 1 else []
    if ratios[0] < 0:
        classes.append("below")
    if ratios[-1] > 1:
        classes.append("above")
    return classes


def _shades(ratios: Sequence[float]) -> str:
    """Give the colour of the smallest ratio and of the largest, in percent of the full one."""
    low, high = (f"{min(1.0, max(0.0, ratio)) * 100:.0f}%" for ratio in (ratios[0], ratios[-1]))
    return f"--v:{low}" if low == high else f"--v:{low};--w:{high}"


def _quoted(value: str) -> str:
    return value if re.fullmatch(r"[\w.%:;-]+", value) else f'"{value}"'


def _ratio(tensor: TensorPlan, ratio: str) -> float:
    if ratio in _OF_MODE:
        return tensor.alpha if ratio == "alpha" else tensor.beta or 0.0
    return tensor.more[_place(ratio)]


def _rule(tensor: TensorPlan, ratio: str) -> int | None:
    if ratio in _OF_MODE:
        return tensor.rule if ratio == "alpha" else tensor.beta_rule
    return tensor.more_rules[_place(ratio)] if tensor.more_rules else None


def _place(target: str) -> int:
    return MORE_ROLES.index(Role[target])
