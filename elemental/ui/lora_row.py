"""The LoRAs of the merge: a text with one a line, a list to add from, and a hint where the host has none."""

from __future__ import annotations

from html import escape
from typing import Any

from ..session.form import shown_path
from ..session.loras import add_lora
from ..session.session import Session
from .answer import Updates
from .gradio_compat import make, on, update


class LoraRow:
    """The components, and what they do.

    Args:
        session: Knows the host's LoRAs.
        text: What the field says at first.

    Attributes:
        field: The LoRAs.
        list: Those of the host, to add one.
        hint: Says where they belong, if there are none.
    """

    def __init__(self, session: Session, text: str) -> None:
        self._session = session
        with make("Row", elem_id="elemental_lora_row"):
            self.field = make(
                "Textbox", label="LoRAs: one NAME:RATIO a line", value=text, lines=2, max_lines=12,
                elem_id="elemental_loras", scale=3, min_width=200, placeholder="style:0.8\ndetail:0.5:0.2",
                info="Added after the merge; without model B, to A alone. A second ratio is for text encoders.",
            )  # fmt: skip
            # what is listed later is not known here, so that any choice is taken
            self.list = make(
                "Dropdown", label="Add a LoRA", choices=[], value=None, elem_id="elemental_lora", scale=2,
                min_width=160, visible=bool(session.loras()),
            )  # fmt: skip
        self.hint = make("HTML", value=self._draw_hint(), elem_id="elemental_lora_hint")

    def wire(self) -> None:
        """Make the list work."""

        def add(name: str | None, text: str | None) -> Updates:
            if not name:  # the list is emptied when its choice was added, so that the same one can be chosen again
                return {}
            return {self.field: add_lora(text or "", name), self.list: update(value=None)}

        on(self.list, "change", add, [self.list, self.field], [self.field, self.list])

    @property
    def lists(self) -> list[Any]:
        """The components that depend on which LoRAs there are."""
        return [self.list, self.hint]

    def choices(self) -> Updates:
        """List the host's LoRAs anew."""
        names = [lora.name for lora in self._session.loras()]
        return {self.list: update(choices=names, visible=bool(names)), self.hint: self._draw_hint()}

    def _draw_hint(self) -> str:
        if self._session.loras():
            return ""
        folder = self._session.host.lora_folder()
        where = "The host has no folder of LoRAs" if folder is None else f"There are no LoRAs in {shown_path(folder)}"
        more = "." if folder is None else ": put some there, and press Refresh."
        return f'<p class="elemental-hint">{escape(where)}{more}</p>'
