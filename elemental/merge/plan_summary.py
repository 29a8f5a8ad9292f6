"""Describe plans and checkpoints, as text and as dicts for JSON."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from ..architectures.blocks import BASE, Architecture
from ..architectures.detection import input_channels
from ..architectures.element_groups import group_name, natural_key
from ..architectures.keys import Component, KeyName, name_key, shown_key
from ..recipe.adjustments import format_adjust
from ..recipe.block_weights import BlockWeights, format_block_weights
from ..recipe.chains import recipes_in
from ..recipe.lora_texts import format_lora
from ..recipe.numbers import format_numbers
from ..recipe.recipe import MergeRecipe
from ..recipe.rules import format_ratio
from ..recipe.target_checks import target_of_lora
from .change_counts import Tally, count_changes
from .files.tensor_info import TensorInfo
from .plan import MORE_ROLES, MergePlan, Role, TensorPlan
from .quantised import find_quantised
from .shape_fit import INPUT_KINDS, LATENT_CHANNELS

if TYPE_CHECKING:
    from .lora_fit import LoraFit

_RatioOf = Callable[[TensorPlan], float]

_GLYPHS = "0123456789#"
_MIXED, _BELOW, _ABOVE, _KEPT, _ABSENT = "~", "-", "+", "=", " "
LEGEND = """\
One column a block, one row a group of elements. Ratio: 0 none, 1-9 tenths, # one, - below 0, + above 1, ~ several;
= kept from A whatever the ratio; blank where a block has no such element."""
"""What the characters of :func:`draw_map` mean."""


_MEASURED = "not known yet; a pass over the models measures them before the merge"


def describe_measuring(recipe: MergeRecipe) -> str:
    """Say in a sentence what is measured before a merge; empty if nothing is."""
    within = [source.recipe for source in recipes_in(recipe) if source.recipe is not None]
    names = list(dict.fromkeys(name for part in (recipe, *within) for name in part.unmeasured))
    return f"{' and '.join(names)} are measured before the merge, by a pass over the models." if names else ""


def plan_as_dict(plan: MergePlan) -> dict[str, Any]:
    """Give a plan as a dict: architecture, tensors, warnings; rules and LoRAs are indices from 0."""
    return {
        "architecture": plan.architecture.name,
        "tensors": [
            {
                "key": tensor.name.key,
                "block": tensor.name.block,
                "element": tensor.name.element,
                "alpha": tensor.alpha,
                "beta": tensor.beta,
                "rule": tensor.rule,
                "beta_rule": tensor.beta_rule,
                "inputs": [role.value for role in tensor.inputs],
                "note": tensor.note,
                **({"more": list(tensor.more)} if tensor.more else {}),
                **({"more_rules": list(tensor.more_rules)} if tensor.more_rules else {}),
                **({"loras": [list(use) for use in tensor.loras]} if tensor.loras else {}),
                **({"lora_rules": list(tensor.lora_rules)} if tensor.lora_rules else {}),
                **({"adjusted": tensor.adjusted._asdict()} if tensor.adjusted else {}),
            }
            for tensor in plan.tensors
        ],
        "warnings": [warning.message for warning in plan.warnings],
        **({"loras": [_lora_as_dict(fit) for fit in plan.loras]} if plan.loras else {}),
        **({"names": {role.value: list(words) for role, words in plan.renamings.items()}} if plan.renamings else {}),
    }


def _lora_as_dict(fit: LoraFit) -> dict[str, Any]:
    unfit = {"no_place": list(fit.alone), "other_shape": list(fit.misshapen)}
    return {"file": fit.name, "layers": fit.layers, "applied": fit.applied, "tensors": len(fit.changes), **unfit}


def describe_plan(plan: MergePlan, *, colour: bool = False) -> Iterator[str]:
    """Describe a plan in lines of text: models, ratios, and a map of the U-Net.

    Args:
        plan: The plan.
        colour: Whether to highlight ratios that rules set, with terminal colours.
    """
    yield from _describe_recipe(plan)
    yield ""
    yield from draw_map(plan, colour=colour)


def summarise_plan(plan: MergePlan) -> Iterator[str]:
    """Count in a few lines what changes, what stays and why."""
    counts = count_changes(plan)
    parts = ", ".join(f"{part.value} {_of(tally)}" for part, tally in counts.by_component.items())
    yield f"{_of(counts.all_tensors)} tensors change; {parts}."
    if plan.recipe.rules:
        yield f"{counts.rules_set}."
    for note, count in Counter(t.note for t in plan.tensors if t.note).most_common():
        yield f"{_tensors(count)}: {note}."
    for role, keys in plan.left_out.items():
        if keys:
            where = "EMA weights of A" if role is Role.A else f"only in {role.name}"
            yield f"{_tensors(len(keys))}: {where}, left out, such as {shown_key(keys[0])}."
    if adjusted := describe_adjusted(plan):
        yield adjusted
    yield from (fit.summary for fit in plan.loras)
    yield from describe_names(plan)


def describe_adjusted(plan: MergePlan) -> str:
    """Say how many tensors are adjusted, and how; empty if none are."""
    count = sum(tensor.adjusted is not None for tensor in plan.tensors)
    return f"{_tensors(count)} adjusted: {format_adjust(plan.recipe.adjust or ())}." if count else ""


def describe_names(plan: MergePlan) -> Iterator[str]:
    """Say which files name their tensors in another way, and which."""
    for role, words in plan.renamings.items():
        yield f"Names in {role.spoken.removeprefix('model ')}: {', '.join(words)}."


def describe_changes(plan: MergePlan) -> Iterator[str]:
    """List each tensor that a rule sets: block, element, ratio before and after, the rules, and why it stays A's.

    Of a rule for the ratio of a LoRA, the ratio is that of the LoRA, and stands on a line of its own.
    """
    ruled = [tensor for tensor in plan.tensors if _rules_of(tensor) or tensor.lora_rules]
    width = max((len(shown_key(tensor.name.element)) for tensor in ruled), default=0)
    for tensor in ruled:
        place = f"{tensor.name.block:5} {shown_key(tensor.name.element):{width}}"
        if indices := _rules_of(tensor):
            before = _ratios(tensor.base_alpha, tensor.base_beta, plan.recipe.more_ratios)
            after = _ratios(tensor.alpha, tensor.beta, tensor.more)
            rules = "; ".join(_numbered_rule(plan, index) for index in indices)
            note = f" ({tensor.note})" if tensor.note else ""
            yield f"{place} {before} -> {after}  {rules}{note}"
        yield from (f"{place} {line}" for line in _lora_changes(plan, tensor))
    counts = count_changes(plan)
    moved = f"{counts.mode_rules_set}; {counts.all_tensors.moved:,} to another ratio than before"
    said = [moved] if counts.rules or not counts.lora_rules_set else []
    yield f"{'; '.join(filter(None, (*said, counts.lora_rules_set)))}."


def _lora_changes(plan: MergePlan, tensor: TensorPlan) -> Iterator[str]:
    """Say which LoRA has another ratio in a tensor by a rule, and which."""
    by_target = {target_of_lora(lora): lora for lora in plan.recipe.loras}
    for index in tensor.lora_rules:
        rule = plan.recipe.rules.rules[index]
        lora = by_target[rule.target]
        base = lora.in_text_encoders if tensor.name.component is Component.TEXT_ENCODER else lora.ratio
        yield f"{rule.target} {format_ratio(base)} -> {format_ratio(rule.alpha)}  {_numbered_rule(plan, index)}"


def _numbered_rule(plan: MergePlan, index: int) -> str:
    return f"rule {index + 1}: {plan.recipe.rules.rules[index]}"


def draw_map(plan: MergePlan, *, colour: bool = False) -> Iterator[str]:
    """Draw the U-Net's blocks and elements as a table of characters, one for each ratio, and the parts of BASE.

    Modes with beta have a second table, for it, and each further model has one.

    Args:
        plan: The plan.
        colour: Whether to highlight ratios that rules set, with terminal colours.
    """
    kinds = dict(_kinds_of_ratio(plan))
    for name, ratio_of in kinds.items():
        if len(kinds) > 1:
            yield f"{name}:"
        table = _Table(plan.architecture)
        for tensor in plan.tensors:
            table.add(tensor.name, None if tensor.note else ratio_of(tensor), ruled=bool(_rules_of(tensor)))
        yield from table.lines(_coloured if colour else _glyph)
        yield from _draw_base(plan, ratio_of)
        yield ""
    yield LEGEND + (" Inverse: set by a rule." if colour else "")


def _kinds_of_ratio(plan: MergePlan) -> Iterator[tuple[str, _RatioOf]]:
    """Give the ratios that a plan has, with their names and what gives them of a tensor."""
    yield "alpha", attrgetter("alpha")
    if plan.mode.uses_beta:
        yield "beta", attrgetter("beta")
    for place, _ in enumerate(plan.recipe.more):
        yield MORE_ROLES[place].name, partial(_ratio_of_more, place)


def _ratio_of_more(place: int, tensor: TensorPlan) -> float:
    return tensor.more[place]


def _draw_base(plan: MergePlan, ratio_of: _RatioOf) -> Iterator[str]:
    for component in (Component.TEXT_ENCODER, Component.VAE, Component.OTHER):
        tensors = [tensor for tensor in plan.tensors if tensor.name.component is component]
        ratios = sorted({ratio_of(tensor) for tensor in tensors if not tensor.note})
        listed = " ".join(map(format_ratio, ratios[:6])) + (" ..." if len(ratios) > 6 else "")
        notes = ", ".join({tensor.note: None for tensor in tensors}) if tensors and not ratios else ""
        if tensors:
            yield f"{BASE}: {component.value} {listed or notes}"


def describe_checkpoint(
    tensors: Mapping[str, TensorInfo],
    architecture: Architecture,
    *,
    name: str,
    size: int,
    header: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """Describe a checkpoint in lines of text: architecture, size, dtypes, tensors of each part.

    Args:
        tensors: Dtype and shape of each tensor, by key.
        architecture: The architecture of the model.
        name: The name of the checkpoint.
        size: The size of the file in bytes.
        header: The text fields of its header.
    """
    facts = checkpoint_as_dict(tensors, architecture, size=size)
    channels = facts["input_channels"]
    usual = INPUT_KINDS.get(channels)
    kind = "" if channels == LATENT_CHANNELS else f" {usual}" if usual else f" with {channels} input channels"
    yield f"{name}: {architecture.name}{kind}"
    yield f"size:     {format_size(size)}, {len(tensors)} tensors, {facts['parameters'] / 1e6:,.1f} million parameters"
    yield "formats:  " + ", ".join(f"{dtype} {count}" for dtype, count in facts["dtypes"].items())
    yield "tensors:  " + ", ".join(f"{part} {count}" for part, count in facts["tensors"].items())
    yield f"blocks:   {architecture.block_summary}"
    if (found := find_quantised(tensors, header)) is not None:
        yield f"The numbers are {found.format} ({shown_key(found.sign)}), which cannot be merged."


def checkpoint_as_dict(tensors: Mapping[str, TensorInfo], architecture: Architecture, *, size: int) -> dict[str, Any]:
    """Describe a checkpoint as a dict: size in bytes, number of parameters, and counts of tensors.

    Args:
        tensors: Dtype and shape of each tensor, by key.
        architecture: The architecture of the model.
        size: The size of the file in bytes.
    """
    names = [name_key(key, architecture) for key in tensors]
    parts = Counter(name.component for name in names)
    return {
        "architecture": architecture.name,
        "input_channels": input_channels({key: info.shape for key, info in tensors.items()}),
        "size": size,
        "parameters": sum(info.numel for info in tensors.values()),
        "dtypes": dict(Counter(info.dtype for info in tensors.values()).most_common()),
        "tensors": {part.value: parts[part] for part in Component if parts[part]},
        "blocks": dict(Counter(name.block for name in names)),
    }


def format_size(size: int) -> str:
    """Write a number of bytes as people do: 2.13 GB, 28.0 MB."""
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def elements_as_dict(tensors: Iterable[str], architecture: Architecture) -> dict[str, list[str]]:
    """List the elements of each block, BASE first; the tensors are given by their keys."""
    blocks: dict[str, list[str]] = {block: [] for block in architecture.blocks}
    for key in tensors:
        name = name_key(key, architecture)
        blocks[name.block].append(name.element)
    return blocks


def draw_elements(tensors: Iterable[str], architecture: Architecture) -> Iterator[str]:
    """Draw which group of elements exists in which block of the U-Net; the tensors are given by their keys."""
    table = _Table(architecture)
    for key in tensors:
        table.add(name_key(key, architecture), 1.0, ruled=False)
    yield from table.lines(lambda cell: "x" if cell.ratios else _ABSENT)
    yield "One column a block, one row a group of elements: x where the block has it. BASE holds whatever is not U-Net."


@dataclass
class _Cell:
    """The ratios of a group's tensors in one block, None for those kept from A, and whether a rule set any."""

    ratios: set[float | None] = field(default_factory=set)
    ruled: bool = False


class _Table:
    """Groups of elements by block. A group is what a layer's weight and bias share, whichever transformer it is in."""

    def __init__(self, architecture: Architecture) -> None:
        self._blocks = architecture.unet_blocks
        self._cells: dict[str, dict[str, _Cell]] = {}
        self._rows: dict[str, dict[str, _Cell]] = {}  # by element: most are in several blocks

    def add(self, name: KeyName, ratio: float | None, *, ruled: bool) -> None:
        if name.component is Component.UNET:
            row = self._rows.get(name.element)
            if row is None:
                row = self._rows[name.element] = self._cells.setdefault(shown_key(group_name(name.element)), {})
            cell = row.get(name.block)
            if cell is None:
                cell = row[name.block] = _Cell()
            cell.ratios.add(ratio)
            cell.ruled |= ruled

    def lines(self, draw: Callable[[_Cell], str]) -> Iterator[str]:
        rows = sorted(self._cells, key=natural_key)
        width = max(map(len, rows), default=0)
        for part in zip(*(f"{re.sub(r'[0-9]', '', block):>3.3}{block[-2:]}" for block in self._blocks), strict=True):
            yield " " * width + "  " + " ".join(part)
        for row in rows:
            cells, none = self._cells[row], _Cell()
            yield (f"{row:{width}}  " + " ".join(draw(cells.get(block, none)) for block in self._blocks).rstrip())


def _coloured(cell: _Cell) -> str:
    return f"\x1b[7m{_glyph(cell)}\x1b[0m" if cell.ruled else _glyph(cell)


def _glyph(cell: _Cell) -> str:
    if not cell.ratios:
        return _ABSENT
    if len(cell.ratios) > 1:
        return _MIXED
    (ratio,) = cell.ratios
    if ratio is None:
        return _KEPT
    if ratio < 0:
        return _BELOW
    if ratio > 1:
        return _ABOVE
    # Only a ratio of exactly 0 or 1 is drawn as such: the rest is never nothing, nor all.
    return _GLYPHS[int(ratio * 10)] if ratio in (0, 1) else _GLYPHS[min(9, max(1, int(ratio * 10 + 0.5)))]


def _describe_recipe(plan: MergePlan) -> Iterator[str]:
    yield from describe_models(plan.recipe)
    mode, *ratios = _describe_ratios(plan.recipe)
    yield from (f"{plan.architecture.name}, {mode}", *ratios)


def describe_models(recipe: MergeRecipe) -> Iterator[str]:
    """List the models of a recipe, and indented below a recipe in the place of one what that is made of."""
    for role, source in recipe.sources.items():
        if role == "b" and recipe.has_one_model:
            continue  # it is A once more
        yield f"{role.upper()}: {source.path}{'' if source.recipe is None else ', a recipe:'}"
        if source.recipe is not None:
            yield from (f"   {line}" for line in (*describe_models(source.recipe), *_describe_ratios(source.recipe)))
            if source.recipe.dtype is not None:
                yield f"   {source.recipe.dtype.value} would be the format of its file; nothing is rounded to it here"


def _describe_ratios(recipe: MergeRecipe) -> Iterator[str]:
    yield f"{recipe.mode.value}: {recipe.mode.formula}"
    yield f"alpha: {_base_ratio(recipe.alpha, recipe.block_alpha)}"
    if recipe.mode.uses_beta:
        yield f"beta:  {_base_ratio(recipe.beta or 0.0, recipe.block_beta)}"
    for role, model in zip(MORE_ROLES, recipe.more, strict=False):
        yield f"ratio of {role.name}: {format_ratio(model.ratio)}"
    if recipe.numbers:
        yield f"numbers: {format_numbers(recipe.numbers)}"
    if recipe.unmeasured:
        yield f"{' and '.join(recipe.unmeasured)}: {_MEASURED}"
    for index, rule in enumerate(recipe.rules.rules, 1):
        yield f"rule {index}: {rule}"
    if recipe.adjust is not None:
        yield f"adjust: {format_adjust(recipe.adjust)}"
    for lora in recipe.loras:
        yield f"LoRA {format_lora(lora.file.path, lora.ratio, lora.ratio_te)}"


def _base_ratio(plain: float, weights: BlockWeights | None) -> str:
    if weights is None:
        return format_ratio(plain)
    base = f", BASE {format_ratio(plain)}" if weights.base is None else ""
    return f"by block: {format_block_weights(weights)}{base}"


def _of(tally: Tally) -> str:
    return f"{tally.changed} of {tally.total}"


def _ratios(alpha: float, beta: float | None, more: Sequence[float]) -> str:
    own = format_ratio(alpha) if beta is None else f"{format_ratio(alpha)}:{format_ratio(beta)}"
    return ", ".join(
        [own, *(f"{role.name} {format_ratio(ratio)}" for role, ratio in zip(MORE_ROLES, more, strict=False))]
    )


def _rules_of(tensor: TensorPlan) -> list[int]:
    return sorted({rule for rule in (tensor.rule, tensor.beta_rule, *tensor.more_rules) if rule is not None})


def _tensors(count: int) -> str:
    return f"{count:,} tensor{'s' * (count != 1)}"
