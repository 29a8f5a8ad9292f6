"""What is said of the chosen models below their lists, in one line: kind, size, number format, and an image."""

from __future__ import annotations

import base64
import textwrap
from collections.abc import Iterator
from html import escape

from ..errors import ElementalError
from ..merge.files.metadata import name_recipe
from ..merge.files.model_locator import expand_home
from ..recipe.chains import base_file
from ..recipe.recipe import ModelSource
from ..session.form import MergeForm
from ..session.model_facts import read_facts, read_preview
from ..session.session import Session

_LONGEST = 90
"""Characters of what a recipe is; all of it is shown when the pointer is on it."""


def draw_cards(session: Session, form: MergeForm) -> str:
    """Draw a card for each model of the form that there is.

    Args:
        session: Knows the host's models.
        form: What is chosen.
    """
    return f'<div class="elemental-cards">{"".join(_cards(session, form))}</div>'


def _cards(session: Session, form: MergeForm) -> Iterator[str]:
    find = session.find_model
    mode = form.merge_mode
    for letter in ("a", *("b" * mode.uses_b), *("c" * mode.uses_c)):
        title = getattr(form, f"model_{letter}") or ""
        try:
            yield _draw(letter.upper(), title, find(title))
        except ElementalError:  # none is chosen, or it is gone; the report says so
            continue


def _draw(letter: str, title: str, source: ModelSource) -> str:
    path = expand_home(source.path)
    facts = read_facts(expand_home(base_file(source).path))
    said = [facts.kind, facts.size, facts.dtype]
    if source.recipe is not None:
        name = name_recipe(source.recipe)
        said, title = [facts.kind, "recipe", textwrap.shorten(name, _LONGEST, placeholder=" ...")], f"{title}: {name}"
    code = base64.b64encode(read_preview(path)).decode()
    image = f'<i><img src="data:image/jpeg;base64,{code}" alt=""></i>' if code else ""
    return f'<span title="{escape(title)}"><b>{letter}</b>{image} {escape(" · ".join(filter(None, said)))}</span>'
