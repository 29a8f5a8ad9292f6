"""What the form would do, as one types: the mistakes, the warnings, the counts, and the element map."""

from __future__ import annotations

import itertools
import threading
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from html import escape
from itertools import groupby
from pathlib import Path

from ..architectures.blocks import Architecture
from ..architectures.element_families import Family, find_families
from ..architectures.element_groups import find_groups
from ..architectures.keys import Component, KeyName
from ..errors import ElementalError
from ..hosts.base import CheckpointRef, LoraRef
from ..merge.change_counts import count_lora_rules, count_of_lora_rules, has_rule
from ..merge.files.checkpoint import Signature, read_signature
from ..merge.files.model_locator import expand_home
from ..merge.files.open_models import OpenModels
from ..merge.plan import NOTHING_MERGED, ONLY_MODEL_A, MergePlan
from ..merge.plan_summary import describe_adjusted, describe_measuring, describe_names
from ..merge.planner import Planner, planning_key
from ..recipe.chains import files_of
from ..recipe.recipe import MergeRecipe
from .element_map import draw_map
from .form import KEEP, MergeForm, finder
from .further_models import describe_more_models
from .map_effects import MapEffects

FindEffects = Callable[[MergePlan], MapEffects | None]

_MOST_PLANNERS = 4
_MOST_WARNINGS = 8


@dataclass(frozen=True)
class Preview:
    """What the page shows beside the form.

    Attributes:
        report: Mistakes or counts and warnings, as HTML, stamped with the text that it is about.
        table: The element map, as HTML; None to leave it as it is.
        architecture: Of the models, if they could be read.
        plan: What would be done; None if something is wrong.
    """

    report: str
    table: str | None
    architecture: Architecture | None = None
    plan: MergePlan | None = None


@dataclass(frozen=True)
class _Opened:
    planner: Planner
    families: Sequence[Family]
    signatures: dict[Path, Signature]


class Previewer:
    """Plans forms quickly: what depends on the models alone is kept for the last few of them.

    Args:
        checkpoints: Lists the host's checkpoints.
        folder: Gives the host's folder of models.
        loras: Lists the host's LoRAs.

    Attributes:
        find_effects: Gives the effects that the map of a plan shows, or None if there are none for it.
        kept_effects: The last of each kind of effects, which can be shown instead: "effect", estimated, and "check".
    """

    def __init__(
        self,
        checkpoints: Callable[[], Sequence[CheckpointRef]],
        folder: Callable[[], Path | None] = lambda: None,
        loras: Callable[[], Sequence[LoraRef]] = tuple,
    ) -> None:
        self.find_effects: FindEffects | None = None
        self.kept_effects: dict[str, FindEffects] = {}
        self._checkpoints = checkpoints
        self._folder = folder
        self._loras = loras
        self._numbers = itertools.count(
            time.time_ns() // 1_000_000
        )  # goes on after a restart, for pages that stay open
        self._opened: OrderedDict[object, _Opened] = OrderedDict()
        self._lock = threading.Lock()
        self._last: tuple[MergeForm, MergePlan] | None = None

    def look(self, form: MergeForm) -> Preview:
        """Tell what a form would do."""
        stamps = f'{_draw_stamps(form)} data-number="{next(self._numbers)}"'
        try:
            recipe = self._recipe(form)
            opened = self._open(recipe)
            plan = opened.planner.plan(recipe)
        except ElementalError as exc:
            return Preview(_draw_error(str(exc), stamps), None)
        self._last = form, plan
        effects = self.find_effects(plan) if self.find_effects else None
        kinds = (kind for kind, find in tuple(self.kept_effects.items()) if find(plan))  # a job may add one meanwhile
        stamps += f' data-painted="{" ".join(kinds)}"'
        report = _draw_report(plan, stamps, effects.expect(plan) if effects else "")
        return Preview(report, draw_map(plan, opened.families, effects), plan.architecture, plan)

    def paint(self, kind: str, find: FindEffects) -> None:
        """Have the map show new effects, and keep them; those of the other kind can be shown again."""
        self.kept_effects[kind] = self.find_effects = find

    def show_kind(self, kind: str) -> None:
        """Have the map show the last effects of a kind, if there are any."""
        self.find_effects = self.kept_effects.get(kind, self.find_effects)

    def names(self, form: MergeForm) -> Sequence[KeyName]:
        """Give the tensors of a form's models, whatever its spec says.

        Raises:
            ElementalError: A model is missing, or they do not fit together.
        """
        return self._open(self._recipe(replace(form, spec=""))).planner.names

    def changes_nothing(self, form: MergeForm) -> bool:
        """Tell whether a form that can be planned gives the weights of model A; the plan of the last form is kept."""
        last = self._last
        plan = last[1] if last is not None and last[0] == form else self.look(form).plan
        return plan is not None and not plan.changes

    def _recipe(self, form: MergeForm) -> MergeRecipe:
        loras = self._loras()
        return form.recipe(finder(self._checkpoints(), self._folder(), loras), loras)

    def _open(self, recipe: MergeRecipe) -> _Opened:
        key = planning_key(recipe)
        with self._lock:
            opened = self._opened.get(key)
            if opened is None or any(read_signature(path) != then for path, then in opened.signatures.items()):
                opened = self._opened[key] = _read_models(recipe)
            self._opened.move_to_end(key)
            while len(self._opened) > _MOST_PLANNERS:
                self._opened.popitem(last=False)
            return opened


def stamp_of(text: str) -> str:
    """Give the CRC-32 of a text, by which the page sees whether a report is about what stands there now."""
    return f"{zlib.crc32((text or '').replace(chr(13) + chr(10), chr(10)).encode('utf-8', 'surrogatepass')):08x}"


def _draw_stamps(form: MergeForm) -> str:
    """Give the attributes by which the page sees what a report is about: the spec, the whole form, and its merge."""
    stamps = {"stamp": stamp_of(form.spec), "form": stamp_of(repr(form)), "merge": stamp_of_merge(form)}
    return " ".join(f'data-{name}="{stamp}"' for name, stamp in stamps.items())


def stamp_of_merge(form: MergeForm) -> str:
    """Give a stamp of what a form merges, by which the page sees whether that is what is in the live model."""
    return stamp_of(repr(replace(form, dtype=KEEP)))


def _read_models(recipe: MergeRecipe) -> _Opened:
    paths = [expand_home(source.path) for _, source in files_of(recipe)]
    signatures = {path: read_signature(path) for path in paths}
    with OpenModels() as open_models:
        planner = open_models.planner(recipe)
    return _Opened(planner, find_families(find_groups(planner.names), planner.names), signatures)


def _draw_error(text: str, stamps: str) -> str:
    """Draw a message whose indented lines, a line of the spec and carets under it, keep their places."""
    parts = []
    for quoted, lines in groupby(text.splitlines(), key=lambda line: line.startswith("    ")):
        shown = escape("\n".join(lines))
        parts.append(f"<pre>{shown}</pre>" if quoted else f"<p>{shown}</p>")
    return f'<div class="elemental-report error" role="alert" {stamps}>{"".join(parts)}</div>'


def _draw_report(plan: MergePlan, stamps: str, expected: str) -> str:
    warnings = [warning.message for warning in plan.warnings if warning not in ONLY_MODEL_A]
    shown = warnings[:_MOST_WARNINGS]
    if len(warnings) > len(shown):
        shown.append(f"... and {len(warnings) - len(shown)} more warnings.")
    loras = (fit.summary for fit in plan.loras)
    added = (describe_more_models(plan.recipe.more), describe_adjusted(plan), *loras)
    said = (*_count(plan), *added, describe_measuring(plan.recipe), expected, *describe_names(plan))
    lines = "".join(f"<p>{escape(line)}</p>" for line in said if line)
    notes = "".join(f'<p class="warning"><b>warning:</b> {escape(warning)}</p>' for warning in shown)
    return f'<div class="elemental-report" role="status" {stamps}>{lines}{notes}</div>'


def _count(plan: MergePlan) -> Iterator[str]:
    """Say in some lines what rules set, and what changes."""
    count = len(plan.recipe.rules) - count_of_lora_rules(plan.recipe.rules)
    if count:
        verb = "rule sets" if count == 1 else "rules set"
        unet, others = (
            [t for t in plan.tensors if (t.name.component is Component.UNET) is inside] for inside in (True, False)
        )
        ruled = [sum(has_rule(t) for t in part) for part in (unet, others)]
        beside = f" and {ruled[1]:,} of {len(others):,} others" if ruled[1] else ""
        yield f"{count:,} {verb} {ruled[0]:,} of {len(unet):,} U-Net elements{beside}."
    yield count_lora_rules(plan)
    if plan.changes:
        yield f"{plan.architecture.name}: {plan.changes:,} of {len(plan.tensors):,} tensors differ from A."
    elif plan.is_model_a:
        yield f"{plan.architecture.name}: nothing would change; the result is model A."
    else:
        yield f"{plan.architecture.name}. {NOTHING_MERGED.message}"
