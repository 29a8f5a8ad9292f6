"""An image that a page shows a copy of: the file itself, and what other pages are told of its making."""

from __future__ import annotations

import filecmp
from collections.abc import Iterator
from pathlib import Path

from ..errors import ImageError
from ..images.files import INFOTEXT_FIELD, read_texts
from ..images.infotext import find_value, without_values
from ..merge.files.metadata import LABEL_FIELD, RECIPE_FIELD
from .session import Session

_RECIPE = RECIPE_FIELD.replace("_", " ").capitalize()
"""The recipe's name in an infotext."""

_MODEL = ("Model hash", "Model")
"""By these the WebUI finds the checkpoint of an image, which it then asks for."""


def read_infotext(image: Path) -> str:
    """Read the infotext of an image for a page that is filled from it.

    Its recipe is left out, since the form of the tab stays as it is; so is the checkpoint of an image of a merge, since
    the merge is made with what is in the model.

    Raises:
        ImageError: The image cannot be read, or has no infotext.
    """
    infotext = read_texts(image).get(INFOTEXT_FIELD, "").strip()
    if find_value(infotext, "Steps") is None:
        raise ImageError(f"{image.name} does not say how it was made: send a single image.")
    names = (_RECIPE, *(_MODEL if find_value(infotext, LABEL_FIELD) is not None else ()))
    return without_values(infotext, names)


def find_original(session: Session, shown: Path) -> Path:
    """Find the file that a page shows a copy of; the copy itself if there is none any more.

    Args:
        session: Knows what was made.
        shown: The copy, which has the same name.
    """
    if shown.resolve().is_relative_to(session.host.output_folder().resolve()):
        return shown
    return next((path for path in _made(session, shown.name) if _is_same(path, shown)), shown)


def _made(session: Session, name: str) -> Iterator[Path]:
    """Give the files of a name that were made: by the last job, and beside what entries of the history show."""
    view = session.board.latest_images()
    shown = () if view is None else (*(path for path, _ in view.images), *view.products)
    yield from (path for path in shown if path.name == name)
    folders = dict.fromkeys(Path(entry.image).parent for entry in session.history.entries() if entry.image)
    yield from (folder / name for folder in folders)


def _is_same(path: Path, shown: Path) -> bool:
    try:
        return path.is_file() and filecmp.cmp(path, shown, shallow=False)
    except OSError:
        return False
