"""The axes of the plot panel: kind, values, a hint, and a list to pick values from for each of the three."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from typing import Any

from ..errors import ElementalError
from ..runs.axes.base import SIDES
from ..runs.axes.catalogue import AXES
from ..session.axis_picks import add_pick, list_axes, list_picks
from ..session.session import Session
from .answer import Answer, Updates
from .gradio_compat import make, on
from .page_memory import NO_AXIS
from .results_panel import draw_message

_PLACES = {"x": "columns", "y": "rows", "z": "grids"}
_FIRST = {"x": "elemental", "y": NO_AXIS, "z": NO_AXIS}


class PlotAxes:
    """The components, and what they do.

    Args:
        session: Of the host.
        picked: A hidden text: a side, and in the next line what was picked for its axis.

    Attributes:
        fields: The fields by their names in the plot's form.
        without_rules: Whether specs begin with an image without any.
    """

    def __init__(self, session: Session, picked: Any) -> None:
        self._session = session
        self._picked = picked
        self.fields: dict[str, Any] = {}
        self._hints: dict[str, Any] = {}
        for side in SIDES:
            self._make_side(side)

    def _make_side(self, side: str) -> None:
        first, names = _FIRST[side], list_axes()
        with make("Row", elem_id=f"elemental_{side}_axis"):
            self.fields[f"{side}_type"] = make(
                "Dropdown", label=f"{side.upper()}: {_PLACES[side]}", value=first,
                choices=names if side == "x" else [NO_AXIS, *names], elem_id=f"elemental_{side}_type", scale=1,
                min_width=150,
            )  # fmt: skip
            self.fields[side] = make(
                "Textbox", label="Values", lines=2, max_lines=16, elem_id=f"elemental_{side}_values", scale=3,
                min_width=240,
            )  # fmt: skip
        with make("Row", elem_classes=["elemental-axis"]):
            self._hints[side] = make("HTML", value=self._draw_hint(side, first), elem_id=f"elemental_{side}_hint")
            if side == "x":
                self._swap = make(
                    "Button", value="⇅ Swap X and Y", elem_id="elemental_swap_axes", scale=0, min_width=120
                )

    def make_box(self) -> Any:
        """Make the tick box, where it stands, and give it."""
        self.without_rules = make(
            "Checkbox", label="First image without rules", value=False, elem_id="elemental_without_rules", scale=2,
            min_width=140,
        )  # fmt: skip
        return self.without_rules

    @property
    def kinds(self) -> list[Any]:
        """The fields of the kinds of axes."""
        return [self.fields[f"{side}_type"] for side in SIDES]

    @property
    def hints(self) -> list[Any]:
        """The hints, which hold the lists to pick from."""
        return list(self._hints.values())

    def list_again(self, *kinds: str | None) -> Updates:
        """List anew what can be picked: a model or a preset may have been saved meanwhile."""
        return {self._hints[side]: self._draw_hint(side, kind) for side, kind in zip(SIDES, kinds, strict=True)}

    def wire(self, answer: Answer) -> None:
        """Make them work.

        Args:
            answer: Where it is said why something was not done.
        """
        texts = [self.fields[side] for side in SIDES]
        for side in SIDES:
            kind = self.fields[f"{side}_type"]
            on(kind, "change", self._describe(side), [kind], [self._hints[side]])
        on(self._picked, "change", self._add(answer), [self._picked, *self.kinds, *texts], [*texts, *answer.outputs])
        swapped = [self.fields[name] for name in ("x_type", "x", "y_type", "y")]

        def swap(x_type: str | None, x: str, y_type: str | None, y: str) -> Updates:
            if not chosen(y_type):
                return answer.give(draw_message("failed", "Choose an axis for Y first: a plot needs columns."))
            return dict(zip(swapped, (y_type, y, x_type, x), strict=True))

        on(self._swap, "click", swap, swapped, [*swapped, *answer.outputs])

    def _describe(self, side: str) -> Callable[[str | None], str]:
        """Give what draws the hint of a side; gradio 3 cannot take a partial function."""

        def describe(kind: str | None) -> str:
            return self._draw_hint(side, kind)

        return describe

    def _add(self, answer: Answer) -> Any:
        """Give what writes down what was picked."""

        def add(picked: str, *kinds_and_texts: str | None) -> Updates:
            side, value = [*picked.split("\n"), ""][:2]
            if side not in SIDES:
                return {}
            at = SIDES.index(side)
            kind, text = kinds_and_texts[at], kinds_and_texts[at + len(SIDES)]
            try:
                return {self.fields[side]: add_pick(chosen(kind), text or "", value)}
            except ElementalError as exc:
                return answer.give(draw_message("failed", str(exc)))

        return add

    def _draw_hint(self, side: str, kind: str | None) -> str:
        """Draw in one line what the values of an axis look like, and those that are known as a list.

        Its class tells the style whether there is an axis, and whether one of specs: gradio would leave a list open
        whose choice shows or hides another field.
        """
        axis = AXES.get(chosen(kind))
        if axis is None:
            return '<i class="elemental-no-axis"></i>'
        specs = " elemental-specs" if axis.baseline else ""
        form = axis.form[0].upper() + axis.form[1:]
        example = "" if axis.example in form else f" Example: <code>{escape(axis.example)}</code>"
        picks = _draw_picks(side, list_picks(self._session, axis.name))
        return f'<p class="elemental-hint elemental-axis-hint{specs}">{picks}<span>{escape(form)}.{example}</span></p>'


def _draw_picks(side: str, picks: Sequence[str]) -> str:
    if not picks:
        return ""
    options = "".join(f"<option>{escape(pick)}</option>" for pick in picks)
    label = f"Add a value to {side.upper()}"
    return f'<select data-pick="{side}" aria-label="{label}"><option value="">Add ...</option>{options}</select>'


def chosen(kind: str | None) -> str:
    """Give the kind of an axis that a list shows; empty for none."""
    return "" if kind in (None, NO_AXIS) else str(kind)
