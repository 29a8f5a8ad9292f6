"""What other pages are told of an image, and where its file is, without a page."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest
from PIL import Image

from elemental import HostError, ImageError
from elemental.hosts.standalone.file_manager import file_manager
from elemental.images.files import write_png
from elemental.images.image_request import GeneratedImage
from elemental.images.infotext import without_values
from elemental.session.history import HistoryEntry
from elemental.session.sent_images import find_original, read_infotext
from elemental.session.session import Session, session_of

from .fake_host import FakeHost
from .plotting import load

MERGE = 'Elemental: "weight-sum of a, b; alpha 0.5", Elemental recipe: "{\\"a\\": \\", Model: x\\"}"'
SETTINGS = "Steps: 2, Sampler: Euler a, CFG scale: 4.0, Seed: 7, Size: 64x64"


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return session_of(FakeHost(load, output=tmp_path / "out"))


def save(path: Path, infotext: str, *, seed: int = 7) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_png(path, GeneratedImage(Image.new("RGB", (8, 8)), seed, infotext, {}))
    return path


@pytest.mark.parametrize(
    ("pairs", "told"),
    [
        (f"{SETTINGS}, {MERGE}", f'{SETTINGS}, Elemental: "weight-sum of a, b; alpha 0.5"'),
        (
            f"{SETTINGS}, Model hash: 0123456789, Model: a, {MERGE}, Version: v1.10.1",
            f'{SETTINGS}, Elemental: "weight-sum of a, b; alpha 0.5", Version: v1.10.1',
        ),
        (f"{SETTINGS}, Model hash: 0123456789, Model: a", f"{SETTINGS}, Model hash: 0123456789, Model: a"),
    ],
)
def test_an_image_of_a_merge_asks_for_no_checkpoint(tmp_path: Path, pairs: str, told: str) -> None:
    head = "a cat, Model: no name\nNegative prompt: fog\n"
    assert read_infotext(save(tmp_path / "1.png", head + pairs)) == head + told


@pytest.mark.parametrize("infotext", ["", "a cat"])
def test_what_was_not_made_by_one_request_is_not_sent(tmp_path: Path, infotext: str) -> None:
    with pytest.raises(ImageError, match=r"grid\.png does not say how it was made"):
        read_infotext(save(tmp_path / "grid.png", infotext))


def test_values_are_left_out_wherever_they_stand() -> None:
    assert without_values("p\nModel: a, Steps: 2", ["Model"]) == "p\nSteps: 2"
    assert without_values("Steps: 2, Model: a", ["Model"]) == "Steps: 2"


def test_the_file_behind_a_copy_is_found(session: Session, tmp_path: Path) -> None:
    output = session.host.output_folder()
    grid = save(output / "plots" / "1" / "grid.png", "", seed=1)
    cell = save(grid.parent / "cells" / "0-0.png", SETTINGS)
    session.history.add(HistoryEntry("plot", "", "", {}, {}, image=str(grid)))
    session.history.add(HistoryEntry("generate", "", "", {}, {}, image=str(cell)))
    copied = tmp_path / "copies"
    copied.mkdir()
    for file in (grid, cell):
        assert find_original(session, Path(shutil.copy(file, copied))) == file
    assert find_original(session, cell) == cell
    (copied / "grid.png").unlink()
    other = save(copied / "grid.png", SETTINGS)
    assert find_original(session, other) == other


def test_a_folder_is_opened_where_somebody_sees_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command, opened = tmp_path / "xdg-open", tmp_path / "opened"
    command.write_text(f'#!/bin/sh\necho "$1" > {opened}\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("platform.system", lambda: "Linux")
    assert file_manager({}) is None
    opener = file_manager({"DISPLAY": ":0"})
    assert opener is not None
    with pytest.raises(HostError, match="There is no folder"):
        opener(tmp_path / "gone")
    opener(tmp_path)
    end = time.monotonic() + 60
    while not (opened.exists() and opened.read_text().strip()) and time.monotonic() < end:
        time.sleep(0.02)
    assert opened.read_text().strip() == str(tmp_path)
