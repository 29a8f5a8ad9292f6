"""The history panel: what was merged, drawn and saved before, and the way back into the form."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

from ..errors import ElementalError, RecipeError
from ..merge.files.checkpoint import SAFETENSORS
from ..merge.files.metadata import with_sources
from ..merge.files.model_locator import ModelLocator, expand_home
from ..recipe.recipe import MergeRecipe, ModelSource, recipe_from_dict
from ..session.form import form_from_dict, form_from_recipe, is_file
from ..session.history import HistoryEntry
from ..session.session import Session
from ..workflows import doubts_of, name_where_found, read_any_recipe
from .answer import Updates
from .check_panel import CheckPanel
from .gradio_compat import file_path, make, make_file, on
from .merge_panel import MergePanel
from .plot_panel import PlotPanel
from .results_panel import draw_message

_CUT = 300
_LARGEST_JSON = 4_000_000


class HistoryPanel:
    """The components of the panel, and what they do.

    Args:
        session: Of the host.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        with make("Row"):
            self.file = make_file(
                label="Load the recipe of an image, or of a JSON file", elem_id="elemental_recipe_file",
                file_types=[".png", ".json"],
            )  # fmt: skip
            self.of_a = make(
                "Button", value="Recipe of model A", elem_id="elemental_recipe_of_a", scale=0, min_width=140
            )
            self.refresh = make("Button", value="Refresh", elem_id="elemental_refresh_history", scale=0, min_width=90)
        self.answer = make("HTML", value="", elem_id="elemental_history_answer")
        self.table = make("HTML", value="", elem_id="elemental_history")

    def wire(self, merge: MergePanel, plot: PlotPanel, check: CheckPanel, choice: Any) -> None:
        """Make the panel work.

        Args:
            merge: Filled by an entry or a file, as are
            plot: and
            check: by an entry.
            choice: A hidden text that names the entry that was clicked.
        """
        session = self._session
        outputs = [
            self.answer,
            *merge.form_components,
            merge.preset,
            *plot.fields.values(),
            check.elements,
            check.ratio,
        ]

        def load(asked: str) -> Updates:
            number = asked.partition("\n")[0]
            entry = session.history.find(int(number)) if re.fullmatch(r"[0-9]{1,20}", number) else None
            if entry is None:
                return {self.answer: draw_message("failed", "This entry no longer exists.")}
            data = dict(entry.form)
            try:
                remarks = _remarks(session, recipe_from_dict(entry.recipe))
            except ElementalError as exc:
                remarks = [str(exc)]
            text = "\n".join([f"Loaded: {_cut(entry.name)}", *remarks])
            return {
                **merge.fill(form_from_dict(data)),
                **plot.fill(data),
                **check.fill(data),
                self.answer: draw_message("done", text),
            }

        def load_recipe(find: Callable[[], Path]) -> Updates:
            try:
                path = find()
                found = read_any_recipe(path)
                recipe = find_listed(session, found.recipe)
                remarks = [*found.remarks, *doubts_of(found.recipe, recipe), *_remarks(session, recipe)]
                form = form_from_recipe(recipe, session.checkpoints())
            except ElementalError as exc:
                return {self.answer: draw_message("failed", str(exc))}
            text = "\n".join([f"Loaded the recipe of {path.name}.", *remarks])
            return {**merge.fill(form), self.answer: draw_message("done", text)}

        def load_file(file: Any) -> Updates:
            return {} if file is None else load_recipe(lambda: _small(file_path(file)))

        def load_of_a(title: str | None) -> Updates:
            """Read the header where the file lies; uploading it would copy gigabytes."""
            return load_recipe(lambda: _with_header(expand_home(session.find_model(title or "").path)))

        on(choice, "change", load, [choice], outputs)
        on(self.file, "change", load_file, [self.file], [self.answer, *merge.form_components, merge.preset])
        on(
            self.of_a,
            "click",
            load_of_a,
            [merge.fields["model_a"]],
            [self.answer, *merge.form_components, merge.preset],
        )
        on(self.refresh, "click", self.draw, [], [self.table])

    def draw(self) -> str:
        """Draw the entries as a table with a button in each row."""
        rows = "".join(map(_draw_entry, self._session.history.entries()))
        if not rows:
            return (
                '<p class="elemental-hint">Nothing yet. Merges, plots, checks and saved files will be listed here.</p>'
            )
        return (
            '<table class="elemental-table"><thead><tr><th>when</th><th>kind</th><th>merge</th><th>result</th>'
            f"<th></th></tr></thead><tbody>{rows}</tbody></table>"
        )


def _small(path: Path) -> Path:
    """Refuse what would be read whole, and is larger than any recipe."""
    if path.suffix.lower() != ".png" and path.stat().st_size > _LARGEST_JSON:
        raise RecipeError(f"{path.name} is too large for a recipe.")
    return path


def _with_header(path: Path) -> Path:
    """Refuse a model that can hold no recipe; all of it would be read."""
    if path.suffix.lower() not in SAFETENSORS:
        raise RecipeError(f"{path.name} holds no recipe: only {' and '.join(SAFETENSORS)} files do.")
    return path


def _draw_entry(entry: HistoryEntry) -> str:
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(entry.when))
    name, result = (escape(_cut(text)) for text in (entry.name, entry.result))
    button = f'<button type="button" data-entry="{entry.number}">load</button>'
    return f"<tr><td>{when}</td><td>{escape(entry.kind)}</td><td>{name}</td><td>{result}</td><td>{button}</td></tr>"


def find_listed(session: Session, recipe: MergeRecipe) -> MergeRecipe:
    """Give a recipe with the paths of its models that are found among the host's."""
    return name_where_found(_as_listed(session, recipe), _locator(session))


def _locator(session: Session) -> ModelLocator:
    """Find models that the host lists, or in its folder; of other places the page tells nobody."""
    paths = [checkpoint.path for checkpoint in session.checkpoints()]
    folder = session.host.models_folder()
    return ModelLocator(folder, folder, frozenset([*paths, *(Path(os.path.realpath(path)) for path in paths)]))


def _as_listed(session: Session, recipe: MergeRecipe) -> MergeRecipe:
    """Call the models of a recipe as the host lists them, or else by name; other paths are not looked at."""

    def listed(source: ModelSource) -> ModelSource:
        try:
            path = session.find_model(source.path).path
        except ElementalError:
            path = str(session.host.models_folder() / source.name) if source.sha256 else source.name
        return replace(source, path=path)

    return with_sources(recipe, lambda source, _: listed(source))


def _remarks(session: Session, recipe: MergeRecipe) -> list[str]:
    """Say which models of a recipe are not what they were when it was made."""
    listed, locator = _as_listed(session, recipe).sources, _locator(session)
    remarks = (_remark(source, listed[role], locator) for role, source in recipe.sources.items())
    return [f"Model {role.upper()}{remark}" for role, remark in zip(recipe.sources, remarks, strict=True) if remark]


def _remark(source: ModelSource, listed: ModelSource, locator: ModelLocator) -> str:
    """Say what is to be said of a model, which the host may list."""
    try:
        path = locator.locate(listed)
    except ElementalError as exc:
        return f": {exc}"
    if not is_file(path):
        return f': no model named "{source.name}" is in the list; choose one.'
    return "" if path == expand_home(source.path) else f" is now at {path}; choose it."


def _cut(text: str) -> str:
    return text if len(text) <= _CUT else text[: _CUT - 4] + " ..."


def recipe_updates(session: Session, merge: MergePanel, text: str) -> Updates:
    """Fill the form from the JSON of a recipe that was pasted somewhere else; nothing if it is none."""
    from ..merge.files.metadata import recipe_from_json

    try:
        recipe = find_listed(session, recipe_from_json(text, name="the image"))
        return merge.fill(form_from_recipe(recipe, session.checkpoints()))
    except ElementalError:
        return {}
