"""The element check, which shows what each element does to an image: its targets and its cells."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import RecipeError
from ..images.image_request import request_from_dict, with_known_sampler
from ..recipe.recipe import recipe_from_dict
from ..recipe.rule_targets import Target, expand_targets, format_skipped
from ..recipe.rules import RuleSet
from ..recipe.spec_parser import parse_targets
from .axes.base import Setting
from .axes.context import AxisContext
from .axes.values import split_groups
from .cells import Cell

BASE_COLUMN, PROBE_COLUMN, DIFFERENCE_COLUMN = range(3)


@dataclass(frozen=True)
class ElementCheck:
    """A base image, and a probe for each target: the image in which only the target's elements have another ratio.

    Attributes:
        base: The setting of the base image.
        groups: The targets of each grid; one group unless they were split by ``|``.
        ratio: The ratio of the target's elements in a probe.
        remarks: What was left out when the targets were read.
    """

    base: Setting
    groups: tuple[tuple[Target, ...], ...]
    ratio: float
    remarks: tuple[str, ...] = field(default=(), compare=False)

    @property
    def targets(self) -> tuple[Target, ...]:
        """The targets of all groups, one after the other."""
        return tuple(target for group in self.groups for target in group)

    def cells(self) -> Iterator[Cell]:
        """Compute the base's cell, and the probe of each target; a probe's rule comes after all others."""
        recipe, request = self.base.recipe, self.base.request
        yield Cell(BASE_COLUMN, 0, recipe, request)
        for row, target in enumerate(self.targets):
            rules = RuleSet((*recipe.rules.rules, target.rule(self.ratio)))
            yield Cell(PROBE_COLUMN, row, replace(recipe, rules=rules), request)

    def describe(self, cell: Cell) -> str:
        """Say which target a cell shows."""
        return "the base" if cell.x == BASE_COLUMN else f'element "{self.targets[cell.y]}"'

    def to_dict(self) -> dict[str, Any]:
        """Give the element check as plain data that :func:`check_from_dict` reads back."""
        groups = [[str(target) for target in group] for group in self.groups]
        settings = {"recipe": self.base.recipe.to_dict(), "request": self.base.request.to_dict()}
        return {**settings, "elements": groups, "ratio": float(self.ratio)}


def parse_check(
    base: Setting, text: str, ratio: float, context: AxisContext, *, watch_count: Callable[[int], None] = lambda _: None
) -> ElementCheck:
    """Read an element check as users write it.

    Args:
        base: The setting of the base image; its request is for one image.
        text: The targets: ``blocks:elements`` or blocks, separated by commas or line ends; ALL for each of them;
            ``|`` between the targets of several grids.
        ratio: The ratio of the targets' elements.
        context: What ALL is read against; its samplers are those of the host.
        watch_count: Gets the number of targets as it grows, and may refuse it: a short text can name millions.

    Raises:
        SpecError: A target cannot be read.
        RecipeError: A grid has no target.
        HostError: The sampler is not known.
    """
    written = [parse_targets(part) for part in split_groups(text)]
    groups = tuple(_expand_groups(written, context, watch_count))
    base = replace(base, request=with_known_sampler(base.request, context.samplers))
    skipped = (format_skipped(targets, context.names, context.architecture.blocks) for targets in written)
    return ElementCheck(base, groups, ratio, tuple(filter(None, dict.fromkeys(skipped))))


def _expand_groups(
    groups: Sequence[Sequence[Target]], context: AxisContext, watch_count: Callable[[int], None]
) -> Iterator[tuple[Target, ...]]:
    """Replace each ALL by what it stands for; the targets are counted as they are found."""
    watch_count(sum(map(len, groups)))
    count = 0
    for group in groups:
        targets: list[Target] = []
        for target in group:
            targets += expand_targets([target], context.names, context.architecture.blocks)
            watch_count(count + len(targets))
        if not targets and group:
            raise RecipeError(f'elements: no block has elements with "{group[0].elements}" in their names.')
        if not targets:
            raise RecipeError("elements: no block or element is named; write OUT05:attn2, OUT05, OUT05:ALL or ALL.")
        count += len(targets)
        yield tuple(targets)


def check_from_dict(data: Mapping[str, Any]) -> ElementCheck:
    """Read an element check from what :meth:`ElementCheck.to_dict` gave.

    Raises:
        ElementalError: A value, the recipe or the request cannot be read.
        LookupError, TypeError, ValueError, AttributeError: An entry is missing, or of another kind.
    """
    base = Setting(recipe_from_dict(data["recipe"]), request_from_dict(data["request"]))
    groups = tuple(
        tuple(target for text in group for target in parse_targets(text, recorded=True)) for group in data["elements"]
    )
    return ElementCheck(base, groups, float(data["ratio"]))
