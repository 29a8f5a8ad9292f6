"""A list of presets that fill a field, and beside it their names: saved, renamed and deleted here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from typing import Any

from ..errors import ElementalError
from ..session.form import FIELDS, MergeForm
from ..session.preset_stores import PresetStore
from .answer import Updates
from .form_values import parse_form
from .gradio_compat import make, on, update


class PresetRow:
    """The components, and what they do.

    Args:
        store: Holds the presets.
        what: What its ids begin with: "preset" or "spec_preset".
    """

    def __init__(self, store: PresetStore, what: str) -> None:
        self._store = store
        with make("Row", elem_id=f"elemental_{what}s"):
            self.list = make(
                "Dropdown", label="Preset to load", choices=[], value=None, elem_id=f"elemental_{what}", scale=3,
                min_width=130,
            )  # fmt: skip
            self.name = make("Textbox", label="Name", lines=1, elem_id=f"elemental_{what}_name", scale=3, min_width=110)
            self._buttons = {
                verb: make("Button", value=verb, elem_id=f"elemental_{what}_{verb.lower()}", scale=1, min_width=60)
                for verb in ("Save", "Rename", "Delete")
            }
        self._answer = make("HTML", value="", elem_id=f"elemental_{what}_answer")
        self._chosen = make("State", value="")

    def wire(self, target: Any, form_components: Sequence[Any]) -> None:
        """Make them work.

        Args:
            target: The field that they fill.
            form_components: Of the merge panel.
        """
        outputs = [target, self.list, self.name, self._answer, self._chosen]

        def load(name: str | None, *values: Any) -> Updates:
            if not name:  # the list is emptied when its choice was loaded, so that the same one can be chosen again
                return {}
            text = self._store.text(name, parse_form(values[: len(FIELDS)]))
            return {target: text, **self._say(name, ""), self.list: update(value=None)}

        def save(name: str, chosen: str, text: str) -> Updates:
            known = {other.lower() for other in self._store.names()}
            if name.strip().lower() in known - {chosen.lower()}:
                return self._say(name.strip(), f"There is a preset {name.strip()} already. Save again to replace it.")
            saved = self._store.save(name, text or "")
            return self._say(saved, f"Saved {saved}.")

        def rename(name: str, chosen: str) -> Updates:
            return self._say(renamed := self._store.rename(chosen, name), f"Renamed {chosen} to {renamed}.")

        def delete(name: str) -> Updates:
            self._store.delete(name)
            return self._say("", f"Deleted {name}.")

        on(self.list, "change", load, [self.list, *form_components], outputs)
        shown = outputs[1:]
        on(self._buttons["Save"], "click", self._explained(save), [self.name, self._chosen, target], shown)
        on(self._buttons["Rename"], "click", self._explained(rename), [self.name, self._chosen], shown)
        on(self._buttons["Delete"], "click", self._explained(delete), [self.name], shown)

    def choices(self) -> Updates:
        """List the presets anew."""
        return {self.list: update(choices=list(self._store.names()))}

    def _explained(self, act: Callable[..., Updates]) -> Callable[..., Updates]:
        """Say in its place why something was not done."""

        def handle(*values: Any) -> Updates:
            try:
                return act(*values)
            except ElementalError as exc:
                return {self._answer: _draw(str(exc))}

        return handle

    def _say(self, name: str, text: str) -> Updates:
        emptied = update(choices=list(self._store.names()), value=None)
        return {self.list: emptied, self.name: name, self._chosen: name, self._answer: _draw(text)}


def _draw(text: str) -> str:
    return f'<p class="elemental-hint" role="status">{escape(text)}</p>' if text else ""


def depth_of(find_depth: Callable[[str], int]) -> Callable[[MergeForm], int]:
    """Give what counts the U-Net blocks of a form's model A; 0 if it cannot be read."""

    def depth(form: MergeForm) -> int:
        try:
            return find_depth(form.model_a)
        except ElementalError:
            return 0

    return depth
