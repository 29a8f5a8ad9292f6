"""The history panel: what was merged, drawn and saved before, and the way back into the form, also from files."""

from __future__ import annotations

import itertools
import json
import re
import time
from collections.abc import Callable, Mapping
from html import escape
from pathlib import Path
from typing import Any

from ..errors import ElementalError, RecipeError
from ..merge.files.checkpoint import SAFETENSORS
from ..merge.files.model_locator import expand_home
from ..recipe.recipe import recipe_from_dict
from ..session.found_forms import FoundForm, read_form_file, read_place
from ..session.history import HistoryEntry
from ..session.listed_models import find_listed, missing_models
from ..session.page_values import IMAGE_FIELDS
from ..session.session import Session
from .answer import Answer, Updates
from .gradio_compat import cache_folder, file_path, make, make_file, on, update
from .history_table import cut, describe_entry, draw_history, find_entries, images_around
from .page_memory import PageMemory
from .request_guard import file_below
from .results_panel import draw_message

PANEL_NAMES = {"merge": "Merge", "plot": "XY plot", "check": "Element check"}
"""The panels of the page by what entries and files call them."""

_ASKED = re.compile(r"(?:(all|star|delete) )?([0-9]{1,20})")


class HistoryPanel:
    """The components of the panel, and what they do.

    Args:
        session: Of the host.
        opens: A hidden place, on the page whatever panel is open: which panel the page is to open.
        with_images: Whether the page has fields of an image request.
    """

    def __init__(self, session: Session, opens: Any, *, with_images: bool) -> None:
        self._session = session
        self._opens = opens
        self._with_images = with_images
        self._numbers = itertools.count(time.time_ns() // 1_000_000)
        with make("Row"):
            self.file = make_file(
                label="Load how an image, a grid or a recipe (JSON) was made", elem_id="elemental_recipe_file",
                file_types=[".png", ".json"],
            )  # fmt: skip
            self.of_a = make(
                "Button", value="Recipe of model A", elem_id="elemental_recipe_of_a", scale=0, min_width=140
            )
            self.refresh = make("Button", value="Refresh", elem_id="elemental_refresh_history", scale=0, min_width=90)
        self.answer = make("HTML", value="", elem_id="elemental_history_answer")
        with make("Row", elem_id="elemental_history_filter"):
            self.search = make("Textbox", label="Search", lines=1, elem_id="elemental_history_search", scale=4)
            self.starred = make(
                "Checkbox", label="Starred only", value=False, elem_id="elemental_history_starred", scale=1,
                min_width=120,
            )  # fmt: skip
        self.table = make("HTML", value="", elem_id="elemental_history")

    def wire(self, memory: PageMemory, notice: Answer, model_a: Any, choice: Any) -> None:
        """Make the panel work.

        Args:
            memory: Fills the fields of the page.
            notice: Where it is read when another panel is open how the form was filled.
            model_a: The field of model A.
            choice: A hidden text that says what is to be done with which entry.
        """
        shown = [self.search, self.starred]
        outputs = [self.answer, self._opens, *memory.outputs, *notice.outputs]

        def act(asked: str, search: str, starred: bool) -> Updates:
            match = _ASKED.fullmatch(asked.partition("\n")[0])
            entry = self._session.history.find(int(match[2])) if match else None
            if match is None or entry is None:
                return {self.answer: draw_message("failed", "This entry no longer exists.")}
            if match[1] in ("star", "delete"):
                return {self.table: self._change(match[1], entry, search, starred=starred)}
            found = self._of_entry(entry, whole=match[1] == "all")
            return self._give(memory, notice, found, f"The form is filled in from the history: {cut(entry.name)}")

        def load(find: Callable[[], Path]) -> Updates:
            try:
                path = find()
                found = read_form_file(self._session, path)
            except ElementalError as exc:
                return {self.answer: draw_message("failed", str(exc))}
            return self._give(memory, notice, found, f"The form is filled in from {path.name}.")

        def load_file(file: Any) -> Updates:
            return {} if file is None else load(lambda: file_path(file))

        def load_of_a(title: str | None) -> Updates:
            """Read the header where the file lies; uploading it would copy gigabytes."""
            return load(lambda: _with_header(expand_home(self._session.find_model(title or "").path)))

        on(choice, "change", act, [choice, *shown], [*outputs, self.table])
        on(self.file, "change", load_file, [self.file], outputs)
        on(self.of_a, "click", load_of_a, [model_a], outputs)
        on(self.refresh, "click", self.draw, shown, [self.table])
        for field in shown:
            on(field, "change", self.draw, shown, [self.table], latest=True)

    def wire_using(self, memory: PageMemory, notice: Answer, used: Any) -> None:
        """Fill the page by an image of the results.

        Args:
            memory: Fills the fields of the page.
            notice: Where it is said how the form was filled, or what could not be read.
            used: A hidden text: the file's path in a line, and in the next the place in a grid that was clicked, from
                0 to 1 from the left and from the top, or nothing.
        """

        def use(asked: str) -> Updates:
            path, place = [*asked.split("\n"), ""][:2]
            try:
                found = _read_used(self._session, path, place)
            except ElementalError as exc:
                return notice.give(draw_message("failed", str(exc)))
            return self._give(memory, notice, found, f"The form is filled in from {Path(path).name}.")

        on(used, "change", use, [used], [self.answer, self._opens, *memory.outputs, *notice.outputs])

    def wire_opening(self, tab: Any) -> None:
        """Draw the entries when the panel is opened.

        Args:
            tab: The tab of this panel.
        """
        on(tab, "select", self.draw, [self.search, self.starred], [self.table])

    def wire_showing(self, asked: Any, shown: Any, images: Any) -> None:
        """Show the images of entries in the viewer: gradio gives addresses only to what one of its components shows.

        Args:
            asked: A hidden text: the number of an entry, and in the last line that of the request.
            shown: A hidden place that says which images these are, and which of them is to be opened.
            images: A hidden gallery for that entry's image and those around it.
        """

        def show(asked: str, search: str, starred: bool) -> Updates:
            number = asked.partition("\n")[0]
            entries = find_entries(self._session.history, search or "", starred=bool(starred))
            folder = self._session.host.output_folder()
            near = images_around(entries, int(number) if number.isdecimal() else 0, folder)
            if not near:
                return {self.answer: draw_message("failed", "This image is gone.")}
            captions = [describe_entry(entry) for entry in near]
            listed = escape(json.dumps([str(entry.number) for entry in near]))
            marks = f'data-entry="{number}" data-entries="{listed}" data-first="{escape(captions[0])}"'
            mark = f'<i data-number="{next(self._numbers)}" {marks}></i>'
            files = [(entry.image, caption) for entry, caption in zip(near, captions, strict=True)]
            return {shown: mark, images: update(value=files)}

        on(asked, "change", show, [asked, self.search, self.starred], [shown, images, self.answer])

    def draw(self, search: str = "", starred: bool = False) -> str:
        """Draw the entries that have the words of a search."""
        return draw_history(
            self._session.history,
            search or "",
            starred=bool(starred),
            with_images=self._with_images,
            folder=self._session.host.output_folder(),
        )

    def _change(self, what: str, entry: HistoryEntry, search: str, *, starred: bool) -> str:
        if what == "star":
            self._session.history.star(entry.number, starred=not entry.starred)
        else:
            self._session.history.delete(entry.number)
        return self.draw(search, starred)

    def _of_entry(self, entry: HistoryEntry, *, whole: bool) -> FoundForm:
        """Give what an entry says; of images only where all is asked for."""
        values = {name: value for name, value in entry.form.items() if whole or name not in IMAGE_FIELDS}
        try:
            remarks = missing_models(self._session, recipe_from_dict(entry.recipe))
        except ElementalError as exc:
            remarks = [str(exc)]
        panel = entry.kind if entry.kind in PANEL_NAMES else "merge"
        return FoundForm(values, panel, tuple(remarks))

    def _give(self, memory: PageMemory, notice: Answer, found: FoundForm, text: str) -> Updates:
        """Fill the page, open the panel that it belongs to, and say beside it what could not be found."""
        said = draw_message("stopped" if found.remarks else "done", "\n".join([text, *found.remarks]))
        mark = f'<i hidden data-open="{escape(PANEL_NAMES[found.panel])}" data-number="{next(self._numbers)}"></i>'
        return {**memory.fill(found.values), **notice.give(said), self.answer: said, self._opens: mark}


def _read_used(session: Session, path: str, place: str) -> FoundForm:
    """Read how an image of the results was made; no other file is read."""
    file = file_below(path, [session.host.output_folder(), cache_folder()])
    if file is None:
        raise RecipeError("This image is gone; its entry in the History may still be there.")
    if not place:
        return read_form_file(session, file)
    try:
        x, y = map(float, place.split(","))
    except ValueError as exc:
        raise RecipeError("The place in the grid cannot be read.") from exc
    return read_place(session, file, x, y)


def _with_header(path: Path) -> Path:
    """Refuse a model that can hold no recipe; all of it would be read."""
    if path.suffix.lower() not in SAFETENSORS:
        raise RecipeError(f"{path.name} holds no recipe: only {' and '.join(SAFETENSORS)} files do.")
    return path


def pasted_values(session: Session, text: str) -> Mapping[str, Any]:
    """Read the JSON of a recipe that was pasted somewhere else; nothing if it is none."""
    from ..merge.files.metadata import recipe_from_json

    try:
        recipe = find_listed(session, recipe_from_json(text, name="the image"))
        return session.form_of(recipe).to_dict()
    except ElementalError:
        return {}
