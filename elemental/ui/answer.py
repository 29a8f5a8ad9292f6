"""An answer on the page that is taken away when the fields that it is about say something else."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..session.merge_preview import stamp_of
from .gradio_compat import make

Updates = dict[Any, Any]


class _About(NamedTuple):
    """Stamps of what an answer is about; empty for what it does not depend on."""

    form: str = ""
    fields: str = ""


class Answer:
    """A place for an answer, and what the page remembers of the fields that it is about.

    Args:
        elem_id: The id of the place.
    """

    def __init__(self, elem_id: str) -> None:
        self.shown = make("HTML", value="", elem_id=elem_id)
        self.about = make("State", value=tuple(_About()))

    @property
    def outputs(self) -> list[Any]:
        """The components that it changes."""
        return [self.shown, self.about]

    def give(self, html: str, *, form: object = None, fields: object = None) -> Updates:
        """Show an answer.

        Args:
            html: The answer.
            form: What the merge panel said; None if the answer does not depend on it.
            fields: The same for the answer's own panel.
        """
        return {self.shown: html, self.about: tuple(_About(_stamp(form), _stamp(fields)))}

    def renew(self, about: Any, *, form: object = None, fields: object = None) -> Updates:
        """Take the answer away if it is about something else.

        Args:
            about: What the page remembers.
            form: What the merge panel says now; None if it is not known.
            fields: The same for the answer's own panel.
        """
        known = _About(*about) if isinstance(about, (tuple, list)) and len(about) == 2 else _About()
        now = _About(_stamp(form), _stamp(fields))
        is_old = any(was and stands and was != stands for was, stands in zip(known, now, strict=True))
        return self.give("") if is_old else {}


def _stamp(value: object) -> str:
    return "" if value is None else stamp_of(repr(value))
