"""The entries of the history as HTML: a small image, what was made, and buttons."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from ..runs.axes.base import SIDES
from ..session.history import History, HistoryEntry
from ..session.thumbnails import read_thumbnail
from .request_guard import file_below

_CUT = 300
MOST_SHOWN = 60
_MOST_BYTES = 100_000_000
"""Of images that are shown beside another one; gradio copies each."""


def draw_history(
    history: History, search: str = "", *, starred: bool = False, with_images: bool = True, folder: Path | None = None
) -> str:
    """Draw the entries that have all words of a search somewhere in them, newest first.

    Args:
        history: Where they are.
        search: The words.
        starred: Whether only those with a star are drawn.
        with_images: Whether the page has fields of an image request, which *load all* fills.
        folder: Of the images that can be opened; None for none.
    """
    found = find_entries(history, search, starred=starred)
    if not found:
        return f'<p class="elemental-hint">{_nothing(history.entries())}</p>'
    rows = "".join(_draw_entry(history, entry, with_images=with_images, folder=folder) for entry in found[:MOST_SHOWN])
    left = len(found) - MOST_SHOWN
    more = f'<p class="elemental-hint">{left:,} older ones are not shown: search for them.</p>' if left > 0 else ""
    return f'<table class="elemental-table elemental-entries"><tbody>{rows}</tbody></table>{more}'


def find_entries(history: History, search: str = "", *, starred: bool = False) -> list[HistoryEntry]:
    """Find the entries that have all words of a search somewhere in them, newest first; all of them without a word."""
    return [entry for entry in history.entries() if (entry.starred or not starred) and _has(entry, search)]


def images_around(entries: Sequence[HistoryEntry], number: int, folder: Path) -> list[HistoryEntry]:
    """Give an entry and its neighbours whose images are still there, in order, as many as are quickly shown.

    Args:
        entries: Those of the table.
        number: Of the entry.
        folder: Of the images that can be opened: gradio shows no others.

    Returns:
        The entries; none if the image of that one is gone.
    """
    with_images = [entry for entry in entries if entry.image]
    at = next((index for index, entry in enumerate(with_images) if entry.number == number), None)
    if at is None or not _size(with_images[at], folder):
        return []
    near = {at: with_images[at]}
    room = _MOST_BYTES - _size(with_images[at], folder)
    for index in sorted(range(len(with_images)), key=lambda index: abs(index - at))[1:MOST_SHOWN]:
        size = _size(with_images[index], folder)
        room -= size
        if size and room >= 0:
            near[index] = with_images[index]
    return [near[index] for index in sorted(near)]


def _size(entry: HistoryEntry, folder: Path) -> int:
    file = file_below(entry.image, [folder]) if entry.image else None
    return 0 if file is None else file.stat().st_size


def describe_entry(entry: HistoryEntry) -> str:
    """Say what the image of an entry shows, in a line."""
    run = describe_run(entry)
    return f"{entry.kind} {_when(entry)}: {cut(entry.name)}{f'; {run}' if run else ''}"


def cut(text: str) -> str:
    """Shorten a text that is too long for a page."""
    return text if len(text) <= _CUT else text[: _CUT - 4] + " ..."


def describe_run(entry: HistoryEntry) -> str:
    """Say which axes a plot had, or which elements a check; empty for other entries."""
    form = entry.form
    if entry.kind == "plot":
        sides = [(form.get(f"{side}_type"), form.get(side)) for side in SIDES]
        return "; ".join(f"{kind}: {_in_one_line(values)}" for kind, values in sides if kind)
    if entry.kind == "check" and form.get("elements"):
        return f"elements: {_in_one_line(form['elements'])}, ratio {form.get('ratio')}"
    return ""


def _in_one_line(value: object) -> str:
    return cut(", ".join(filter(None, (line.strip(" ,") for line in str(value or "").splitlines()))))


def _nothing(entries: Sequence[HistoryEntry]) -> str:
    if entries:
        return "No entry has all these words."
    return "Nothing yet. Merges, plots, checks and saved files will be listed here."


def _has(entry: HistoryEntry, search: str) -> bool:
    words = search.lower().split()
    text = " ".join(_searched(entry)).lower() if words else ""
    return all(word in text for word in words)


def _searched(entry: HistoryEntry) -> Iterator[str]:
    yield from (entry.kind, entry.name, entry.result, _when(entry))
    yield from (str(value) for name, value in entry.form.items() if isinstance(value, str) and name != "dtype")


def _when(entry: HistoryEntry) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(entry.when))


def _draw_load(act: str, entry: HistoryEntry, label: str, title: str) -> str:
    return f'<button type="button" data-{act}="{entry.number}" title="{title}">{label}</button>'


def _draw_entry(history: History, entry: HistoryEntry, *, with_images: bool, folder: Path | None) -> str:
    code = base64.b64encode(read_thumbnail(history, entry.number)).decode()
    image = f'<img src="data:image/jpeg;base64,{code}" alt="" loading="lazy">' if code else ""
    if image and folder is not None and _size(entry, folder):
        image = f'<button type="button" data-show="{entry.number}" aria-label="Open image">{image}</button>'
    lines = [cut(entry.name), describe_run(entry), cut(str(entry.form.get("prompt") or "")), cut(entry.result)]
    texts = "".join(f"<p>{escape(line)}</p>" for line in lines if line)
    star = f'data-star="{entry.number}" aria-pressed="{str(entry.starred).lower()}" aria-label="star"'
    load = _draw_load("entry", entry, "load", "Fill in the form")
    load_all = _draw_load("entry-all", entry, "load all", "Fill in the form, prompt and seed") if with_images else ""
    return (
        f'<tr><td class="image">{image}</td>'
        f"<td><b>{escape(entry.kind)}</b> <time>{_when(entry)}</time>{texts}</td>"
        f'<td class="buttons">{load}{load_all}'
        f'<button type="button" {star} title="Starred entries are kept">{"★" if entry.starred else "☆"}</button>'
        f'<button type="button" data-delete="{entry.number}" aria-label="delete" title="Delete the entry">✕</button>'
        "</td></tr>"
    )
