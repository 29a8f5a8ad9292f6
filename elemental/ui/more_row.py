"""The further models of the merge: a text with one a line, and a list to add from, with a ratio."""

from __future__ import annotations

from html import escape
from typing import Any

from ..modes.catalogue import MergeMode
from ..recipe.more_models import describe_more
from ..session.form import MergeForm
from ..session.further_models import add_more, usual_ratio
from .answer import Updates
from .gradio_compat import make, on, update


class MoreRow:
    """The components, and what they do.

    Whether the mode takes further models is for the style to see: what gradio hides is not on the page at all.

    Args:
        form: What the fields say at first.

    Attributes:
        field: The models.
        list: Those of the host, to add one.
        ratio: That of the one that is added.
        hint: Says what a ratio is in the mode.
    """

    def __init__(self, form: MergeForm) -> None:
        with make("Row", elem_id="elemental_more_row"):
            self.field = make(
                "Textbox", label="Further models: one NAME:RATIO a line", value=form.more, lines=2, max_lines=9,
                elem_id="elemental_more", scale=4, min_width=200, placeholder="d.safetensors:0.2\ne.safetensors:0.1",
                info="The first line is B2, the next one B3. Rules set their ratios: B2 OUT03:attn2:0.5",
            )  # fmt: skip
            # what is listed later is not known here, so that any choice is taken
            self.list = make(
                "Dropdown", label="Add a model", choices=[], value=None, elem_id="elemental_more_model", scale=3,
                min_width=160,
            )  # fmt: skip
            self.ratio = make(
                "Textbox", label="Ratio", value=usual_ratio(form.merge_mode), lines=1, elem_id="elemental_more_ratio",
                scale=1, min_width=80,
            )  # fmt: skip
            self._add = make("Button", value="Add", elem_id="elemental_more_add", scale=1, min_width=70, size="sm")
        self.hint = make("HTML", value=_draw_hint(form.merge_mode), elem_id="elemental_more_hint")

    def wire(self) -> None:
        """Make the button work."""

        def add(name: str | None, ratio: str, text: str) -> Updates:
            return {self.field: add_more(text, name, ratio), self.list: update(value=None)} if name else {}

        on(self._add, "click", add, [self.list, self.ratio, self.field], [self.field, self.list])

    @property
    def of_mode(self) -> list[Any]:
        """The components that depend on the mode."""
        return [self.ratio, self.hint]

    def suit(self, mode: MergeMode) -> Updates:
        """Show what a ratio is in a mode, and begin with its usual one."""
        return {self.ratio: usual_ratio(mode), self.hint: _draw_hint(mode)}


def _draw_hint(mode: MergeMode) -> str:
    return f'<p class="elemental-hint">{escape(f"The ratio of each: {describe_more(mode)}.")}</p>'
