"""What is made of a search: the best image, its recipe and spec, and a table of the rounds."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ImageError
from ..images.files import write_whole
from ..merge.files.metadata import recipe_to_share
from ..recipe.rules import format_rules
from .search_record import SaidPick
from .steering import BEST

if TYPE_CHECKING:
    from .search_folder import PastRound, Search


def spec_of_best(search: Search) -> str:
    """Give the rules of the best so far as a spec."""
    return format_rules(search.round.best.recipe.rules)


def describe_said(past: PastRound) -> str:
    """Say in a few characters how a round was judged: "3 1 7", or "from 2.5, step 0.1"."""
    if isinstance(past.said, SaidPick):
        return " ".join(map(str, past.said.order))
    return f"from {past.said.round}.{past.said.number}, step {past.said.step:g}"


def search_to_dict(search: Search) -> dict[str, Any]:
    """Give the rounds and the best so far as plain data."""
    return {
        "rounds": [
            {
                "round": past.number,
                "picked": describe_said(past),
                "score": past.score,
                "best": _named(search, past.values),
            }
            for past in search.past
        ],
        "best": _named(search, search.round.best.values),
        "spec": spec_of_best(search),
        "images": [None if path is None else str(path) for path in search.images(BEST)],
    }


def write_results(search: Search) -> list[Path]:
    """Write ``best.png``, the first image of the best, if there is one, ``best.json``, ``best.txt`` and ``rounds.csv``.

    Raises:
        ImageError: A file cannot be written.
    """
    recipe = search.round.best.recipe
    contents = {
        "best.json": recipe_to_share(recipe.to_dict()).encode(),
        "best.txt": f"{spec_of_best(search)}\n".encode(),
        "rounds.csv": _table(search).encode(),
    }
    image = search.images(BEST)[0]
    if image is not None:
        contents = {"best.png": _bytes_of(image), **contents}
    for name, content in contents.items():
        write_whole(search.folder / name, content, replace=True)
    return [search.folder / name for name in contents]


def _named(search: Search, values: tuple[float, ...]) -> dict[str, float]:
    return {number.name: value for number, value in zip(search.space.numbers, values, strict=True)}


def _table(search: Search) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["round", "picked", "score", *(number.name for number in search.space.numbers)])
    writer.writerows(_rows(search))
    return text.getvalue()


def _rows(search: Search) -> Iterator[list[object]]:
    for past in search.past:
        yield [past.number, describe_said(past), "" if past.score is None else past.score, *past.values]


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise ImageError(f"Cannot read {path}: {exc.strerror or exc}.") from exc
