"""Which images of the history are opened together; without a page."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("gradio")

from elemental.session.history import History, HistoryEntry
from elemental.ui import history_table
from elemental.ui.history_table import describe_entry, draw_history, images_around


def entry(number: int, image: Path | None, kind: str = "generate", **form: object) -> HistoryEntry:
    return HistoryEntry(kind, f"merge {number}", "", form, {}, number=number, image=str(image or ""))


def write(path: Path, size: int = 10) -> Path:
    path.write_bytes(b"x" * size)
    return path


def test_the_images_around_one_are_those_that_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    out.mkdir()
    elsewhere.mkdir()
    entries = [
        entry(6, write(out / "6.png")),
        entry(5, write(elsewhere / "5.png")),
        entry(4, write(out / "4.png")),
        entry(3, None),
        entry(2, out / "gone.png"),
        entry(1, write(out / "1.png", 60)),
    ]
    numbers = [found.number for found in images_around(entries, 4, out)]
    assert numbers == [6, 4, 1]
    for number in (2, 3, 5, 7):
        assert images_around(entries, number, out) == []
    monkeypatch.setattr(history_table, "_MOST_BYTES", 50)
    assert [found.number for found in images_around(entries, 4, out)] == [6, 4]
    assert [found.number for found in images_around(entries, 1, out)] == [1]  # the one that was asked for, at any size


def test_an_image_can_be_opened_if_it_is_there(tmp_path: Path) -> None:
    history = History(tmp_path / "history.jsonl")
    history.thumbnails.mkdir()
    for number, image in ((1, write(tmp_path / "1.png")), (2, tmp_path / "gone.png")):
        history.add(entry(number, image))
        history.thumbnail_of(number).write_bytes(b"small")
    drawn = draw_history(history, folder=tmp_path)
    assert drawn.count("<img") == 2
    assert ('data-show="1"' in drawn, 'data-show="2"' in drawn) == (True, False)
    assert "data-show" not in draw_history(history)


def test_a_caption_says_what_was_made(tmp_path: Path) -> None:
    plot = entry(1, tmp_path / "grid.png", "plot", x_type="alpha", x="0, 1", y_type="", y="")
    assert describe_entry(plot).startswith("plot 20")
    assert describe_entry(plot).endswith(": merge 1; alpha: 0, 1")
