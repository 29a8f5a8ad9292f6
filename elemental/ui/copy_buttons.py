"""The buttons that copy the merge of the form: as a command line, and as the JSON of its recipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from ..session.command_line import command_of, recipe_of
from ..session.form import MergeForm
from ..session.session import Session
from .form_values import parse_form
from .gradio_compat import make, on

_BUTTONS = """
<div class="elemental-copy">
<button type="button" data-copy="command">Copy as command line</button>
<button type="button" data-copy="recipe">Copy recipe</button>
</div>"""


def draw_copy_buttons() -> None:
    """Make the buttons, which the page's JavaScript answers to."""
    make("HTML", value=_BUTTONS, elem_id="elemental_copy_buttons")


def wire_copying(session: Session, copy: Any, copied: Any, name: Any, form_components: Sequence[Any]) -> None:
    """Give the text that the page puts into the clipboard.

    Args:
        session: Of the host.
        copy: A hidden text: which of them, and in the last line the number of the request.
        copied: A hidden place for the text.
        name: The field of the name of a file.
        form_components: Of the merge panel.
    """
    texts: Mapping[str, Callable[[MergeForm, str], str]] = {
        "command": lambda form, file: command_of(session, form, name=file.strip().removesuffix(".safetensors")),
        "recipe": lambda form, _: recipe_of(session, form),
    }

    def answer(request: str, file: str, *values: Any) -> str:
        what, _, number = request.rpartition("\n")
        text = texts[what](parse_form(values), file) if what in texts else ""
        return f'<i data-number="{escape(number)}">{escape(text)}</i>'

    on(copy, "change", answer, [copy, name, *form_components], [copied])
