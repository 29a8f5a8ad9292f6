"""Runs of many images: a failure stays in its cell, and a run that was stopped or killed goes on where it ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from torch import Tensor

from elemental import CheckpointError, ElementalError, HostError, ImageError, model_source
from elemental.hosts.base import NO_FIELDS, CheckpointRef
from elemental.images.files import read_image
from elemental.images.grid_drawing import BLANK
from elemental.images.image_request import GeneratedImage, ImageRequest
from elemental.runs.axes.base import Setting
from elemental.runs.cells import Cell
from elemental.runs.run_files import latest_run
from elemental.runs.run_record import CellState, read_record
from elemental.runs.runner import Progress

from .fake_host import FakeHost
from .killing import killed_at
from .plotting import load, plot, resume, run


def test_each_recipe_is_merged_once(fake: FakeHost, base: Setting, tmp_path: Path) -> None:
    live = fake.open_model(CheckpointRef("a", Path(base.recipe.model_a.path)))
    run(fake, plot(fake, base, ("seed", "1,2,3,4"), ("alpha", "0.5, 1")), tmp_path)
    assert len(live.moved) == 3  # the two recipes, and the way back


class Broken(FakeHost):
    """Fails for one seed, in a way that no host should."""

    def make_images(
        self, request: ImageRequest, *, model: Mapping[str, str], fields: Mapping[str, str] = NO_FIELDS
    ) -> Sequence[GeneratedImage]:
        if request.seed == 2:
            raise RuntimeError("a part came off")
        return super().make_images(request, model=model, fields=fields)


@pytest.mark.slow
def test_a_failing_cell_is_a_labelled_blank(base: Setting, tmp_path: Path) -> None:
    host = Broken(load)
    result = run(host, plot(host, base, ("seed", "1,2,3")), tmp_path)
    assert result.failed == {"x01-y00": "RuntimeError: a part came off"}
    assert result.made == 2
    colours = read_image(result.products[0]).getcolors(1 << 24)
    assert colours is not None
    blank = {colour: count for count, colour in colours}[BLANK]
    assert 0.5 < blank / 192**2 < 1  # a box of this colour, with words in it
    good = FakeHost(load)
    again = resume(good, tmp_path)
    assert (again.made, again.failed, again.waiting) == (1, {}, 0)
    whole = run(good, plot(good, base, ("seed", "1,2,3")), tmp_path / "whole")
    assert again.products[0].read_bytes() == whole.products[0].read_bytes()


def test_a_model_that_cannot_be_opened_fails_its_cells_alone(
    base: Setting, models: Mapping[str, Path], tmp_path: Path
) -> None:
    def refuse(path: Path) -> Mapping[str, Sequence[Tensor]]:
        if path == models["b"]:
            raise HostError("b is too large")
        return load(path)

    host = FakeHost(refuse)
    text = f"{models['b']}, {models['a']}"
    result = run(host, plot(host, base, ("model-a", text), ("seed", "1,2")), tmp_path)
    assert result.failed == {"x00-y00": "b is too large", "x00-y01": "b is too large"}
    assert result.made == 2


@pytest.mark.slow
@pytest.mark.parametrize("interrupt", [True, False])
def test_stop_keeps_what_is_done_and_goes_on_later(
    fake: FakeHost, base: Setting, tmp_path: Path, interrupt: bool
) -> None:
    plotted = plot(fake, base, ("alpha", "0, 0.5, 1"), ("seed", "1, 2"))
    live = fake.open_model(CheckpointRef("a", Path(base.recipe.model_a.path)))
    before = live.digest()

    def stop(_cell: Cell, _image: Image.Image | None, progress: Progress) -> None:
        assert progress.total == 6
        assert progress.seconds_each > 0
        assert progress.seconds_left == pytest.approx(progress.seconds_each * (6 - progress.done))
        if progress.done == 2 and interrupt:
            raise KeyboardInterrupt
        fake.stopped = progress.done == 2

    result = run(fake, plotted, tmp_path / "stopped", stop)
    fake.stopped = False
    assert (result.made, result.waiting) == (2, 4)
    assert live.digest() == before
    early = read_image(tmp_path / "stopped" / "grid.png")
    again = resume(fake, tmp_path / "stopped")
    assert (again.made, again.waiting) == (4, 0)
    whole = run(fake, plotted, tmp_path / "whole")
    assert again.products[0].read_bytes() == whole.products[0].read_bytes()
    assert early.size == read_image(whole.products[0]).size
    assert early.tobytes() != read_image(whole.products[0]).tobytes()


@pytest.mark.slow
def test_a_run_killed_anywhere_goes_on_to_the_same_grid(
    fake: FakeHost, base: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed as each of its files is about to appear, one after the other: record, images, grids."""
    plotted = plot(fake, base, ("alpha", "0, 1"), ("seed", "1 | 2"))
    whole = run(fake, plotted, tmp_path / "whole")
    at = 0
    while True:
        at += 1
        folder = tmp_path / str(at)
        with killed_at(at, monkeypatch) as watched:
            run(fake, plotted, folder)
        if not watched.killed:
            break
        if at == 1:  # before its record there is no run
            with pytest.raises(ImageError, match="no run to go on with"):
                resume(fake, folder)
            continue
        times = {path: path.stat().st_mtime_ns for path in (folder / "cells").glob("x*.png")}
        result = resume(fake, folder)
        assert (result.made, result.failed, result.waiting) == (4 - len(times), {}, 0)
        assert all(path.stat().st_mtime_ns == time for path, time in times.items())  # none was made again
        assert [path.read_bytes() for path in result.products] == [path.read_bytes() for path in whole.products]
        assert {cell.state for cell in read_record(latest_run(folder)).cells.values()} == {CellState.DONE}
    assert {"run.json", "x00-y00.png", "x01-y01.png", "grid-1of2.png", "grid-2of2.png"} <= set(watched.appeared)


_KILL_AT_THE_SECOND_IMAGE = """
import os, signal, sys
from pathlib import Path
from safetensors.torch import load_file
from tests.fake_host import FakeHost
from elemental.runs.resume import open_run
from elemental.runs.run_record import read_record
from elemental.runs.run_files import latest_run
from elemental.runs.runner import RunWatcher, continue_run
def load(path):
    return {key: (tensor,) for key, tensor in load_file(path).items() if tensor.is_floating_point()}
def kill(cell, image, progress):
    if progress.done == 2:
        os.kill(os.getpid(), signal.SIGKILL)
host, record = FakeHost(load), read_record(latest_run(Path(sys.argv[1])))
continue_run(host, open_run(host, record), record, watcher=RunWatcher(on_cell=kill))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_killed_process_goes_on_to_the_same_grid(fake: FakeHost, base: Setting, tmp_path: Path) -> None:
    plotted = plot(fake, base, ("alpha", "0, 1"), ("seed", "1, 2"))
    whole = run(fake, plotted, tmp_path / "whole")
    folder = tmp_path / "killed"

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    run(fake, plotted, folder, stop)
    command = [sys.executable, "-c", _KILL_AT_THE_SECOND_IMAGE, str(folder)]
    ended = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    result = resume(fake, folder)
    assert (result.made, result.waiting) == (1, 0)
    assert result.products[0].read_bytes() == whole.products[0].read_bytes()


def test_a_damaged_image_is_made_again(fake: FakeHost, base: Setting, tmp_path: Path) -> None:
    run(fake, plot(fake, base, ("seed", "1, 2")), tmp_path)
    cell = tmp_path / "cells" / "x01-y00.png"
    cell.write_bytes(cell.read_bytes()[:500])
    assert resume(fake, tmp_path).made == 1
    before = read_record(latest_run(tmp_path)).sessions
    assert [session.made for session in before] == [2, 1]
    assert resume(fake, tmp_path).made == 0
    assert read_record(latest_run(tmp_path)).sessions == before


def test_a_run_does_not_go_on_with_other_models(
    fake: FakeHost, base: Setting, models: Mapping[str, Path], tmp_path: Path
) -> None:
    copy = tmp_path / "b.safetensors"
    copy.write_bytes(models["b"].read_bytes())
    base = replace(base, recipe=replace(base.recipe, model_b=model_source(copy)))
    run(fake, plot(fake, base, ("seed", "1, 2")), tmp_path / "run")
    os.utime(copy, ns=(1, 1))
    with pytest.raises(CheckpointError, match="changed since the run began"):
        resume(fake, tmp_path / "run")
    with pytest.raises(ImageError, match="no run to go on with"):
        resume(fake, tmp_path / "none")


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage", [{"definition": {}}, {"definition": 5}, {"definition": {"recipe": 5, "request": {}, "x": {}}}]
)
def test_a_damaged_record_is_told_of(fake: FakeHost, base: Setting, tmp_path: Path, damage: dict[str, object]) -> None:
    run(fake, plot(fake, base, ("seed", "1, 2")), tmp_path)
    record = tmp_path / "run.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | damage))
    with pytest.raises(ElementalError) as caught:
        resume(fake, tmp_path)
    assert "recipe" in str(caught.value) or "run.json" in str(caught.value)
