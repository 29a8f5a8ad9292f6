"""The form of one page as a whole: what all its fields say as one text, and all of them filled from such a text."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ..errors import ElementalError
from ..session.form import FIELDS, MergeForm
from ..session.merge_preview import stamp_of
from ..session.page_values import (
    CHECK_FIELDS,
    PLOT_FIELDS,
    SEARCH_FIELDS,
    values_as_json,
    values_from_json,
    whole_merge,
    whole_plot,
)
from ..session.session import Session
from .answer import Updates
from .form_values import VAE_LABELS, parse_form, vae_label, visible_fields
from .gradio_compat import on, update

NO_AXIS = "none"
"""The choice of a plot without this axis."""

_LONGEST = 2_500_000
"""Letters of what a page has kept: more than one text of the greatest length."""


class PageMemory:
    """The fields of a page by name, and what they say.

    Args:
        session: Of the host.
        fields: The components by the names of :data:`~..session.page_values.ALL_FIELDS`, and others by names of theirs.
        kept: A hidden place for what the fields say, which the page keeps.
    """

    def __init__(self, session: Session, fields: Mapping[str, Any], kept: Any) -> None:
        self._session = session
        self.fields = dict(fields)
        self.kept = kept
        self._numbers = itertools.count(time.time_ns() // 1_000_000)  # goes on after a restart

    @property
    def outputs(self) -> list[Any]:
        """What :meth:`fill` may change."""
        return list(self.fields.values())

    def wire_keeping(self, keep: Any) -> None:
        """Answer with what all fields say.

        Args:
            keep: A hidden button, which the page presses after each change.
        """

        def answer(*values: Any) -> str:
            said, form = self._read(values), self._form(values)
            of_panels = (*PLOT_FIELDS, *CHECK_FIELDS, *SEARCH_FIELDS)
            self._session.panels.update({name: said[name] for name in of_panels if name in said})
            stamps = f'data-number="{next(self._numbers)}" data-form="{stamp_of(repr(form))}"'
            return f"<i {stamps}>{escape(values_as_json(said))}</i>"

        on(keep, "click", answer, self.outputs, [self.kept])

    def fill(self, values: Mapping[str, Any], texts: Mapping[str, Any] | None = None) -> Updates:
        """Fill the fields that there is something for; what a field cannot hold is left out.

        Args:
            values: What they are to say, by their names.
            texts: What stood in the fields when the page was left, by the ids of components; newer than the values.
        """
        updates: Updates = {}
        values = whole_merge(whole_plot(values))
        visible = _visible(values.get("mode"))
        for name, field in self.fields.items():
            given = {"value": value} if (value := self._value(name, field, values, texts or {})) is not None else {}
            shown = {"visible": visible[name]} if name in visible else {}
            if given or shown:
                updates[field] = update(**given, **shown)
        return updates

    def refill(self, request: str) -> tuple[Updates, bool]:
        """Fill the fields from what a page has kept.

        Args:
            request: JSON: ``page``, a text that :attr:`kept` has shown; ``texts``, as in :meth:`fill`; ``first``,
                whether the page was just loaded. In a last line the number of the request.

        Returns:
            The changes, and whether the page was just loaded.
        """
        text, _, number = request.rpartition("\n")
        data = values_from_json(text)
        page, texts = data.get("page"), data.get("texts")
        values = values_from_json(page) if isinstance(page, str) else {}
        mark = f'<i data-refilled="{escape(number)}"></i>'
        filled = self.fill(values, texts if isinstance(texts, dict) else {})
        return {**filled, self.kept: mark}, bool(data.get("first"))

    def _read(self, values: Sequence[Any]) -> dict[str, Any]:
        said = dict(zip(self.fields, values, strict=True))
        said |= {name: "" for name, value in said.items() if value is None and _is_text(self.fields[name])}
        labels = {label: stored for stored, label in VAE_LABELS.items()}
        said["vae"] = labels.get(said["vae"], MergeForm.vae)
        said |= {name: "" for name in ("y_type", "z_type") if said[name] == NO_AXIS}
        return said

    def _form(self, values: Sequence[Any]) -> MergeForm:
        """Give the merge panel's part as its preview reads it, whose report has the same stamp then."""
        said = dict(zip(self.fields, values, strict=True))
        return parse_form([said[name] for name in FIELDS])

    def _value(self, name: str, field: Any, values: Mapping[str, Any], texts: Mapping[str, Any]) -> Any:
        """Give what a field is to show; None to leave it as it is."""
        value = values.get(name)
        if name == "vae" and value is not None:
            value = vae_label(str(value))
        if name in ("y_type", "z_type") and value is not None:
            value = value or NO_AXIS
        for candidate in (_typed(field, texts.get(field.elem_id)), value):
            if candidate is None:
                continue
            try:
                read = field.elemental_reader(candidate)
            except ElementalError:
                continue
            if read is not None:
                return read
        return None


def longer_reader(component: Any) -> Any:
    """Let a hidden text bring a whole page; more than that is left out."""
    component.elemental_reader = lambda value: value if isinstance(value, str) and len(value) <= _LONGEST else ""
    return component


def _typed(field: Any, text: Any) -> Any:
    """Read what stood in a field when the page was left; None for what no such field can have shown."""
    kind = field.elemental_kind
    if kind == "Checkbox":
        return text if isinstance(text, bool) else None
    if not isinstance(text, str) or kind == "Textbox":
        return text if isinstance(text, str) else None
    if kind == "Dropdown":
        return text or None
    try:
        return float(text)
    except ValueError:
        return None


def _is_text(field: Any) -> bool:
    return field.elemental_kind in ("Textbox", "Dropdown")


def _visible(mode: Any) -> dict[str, bool]:
    try:
        return {} if mode is None else visible_fields(MergeForm(mode=mode).merge_mode)
    except ElementalError:
        return {}
