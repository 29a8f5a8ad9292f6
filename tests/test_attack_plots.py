"""A short run of the attack on plots and checks, and what the long one found, by itself."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

pytest.importorskip("fcntl")

import fcntl

from elemental import MergeRecipe, Stopped, model_source
from elemental.cli.progress import ProgressBar, run_watcher
from elemental.cli.run_options import stopped_anywhere
from elemental.images.files import write_whole
from elemental.runs.axes.base import Setting
from elemental.runs.estimate import estimate_plot
from elemental.runs.run_files import new_run
from elemental.runs.runner import start_run
from elemental.runs.xy_plot_run import PlotRun

from .fake_host import FakeHost
from .killing import Killed
from .plotting import REQUEST, load, plot, resume

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs fork, and signals as Linux has them")


@pytest.mark.slow
def test_short_attack(tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    only = ["--only", "short plot", "short check"]
    command = [sys.executable, "-m", "tests.attacks.plots", "--rounds", "3", *only]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    for done_so_often in ("kills: 3", "plots finished: ", "checks finished: "):
        assert f"\n{done_so_often}" in f"\n{done.stdout}"


def test_a_run_killed_before_its_record_gives_its_place_to_the_next(tmp_path: Path) -> None:
    def begin_and_die() -> None:
        with new_run(tmp_path) as files:
            files.record.with_name(f".{files.record.name}.part").write_bytes(b"half a rec")
            raise Killed

    with pytest.raises(Killed):
        begin_and_die()
    with new_run(tmp_path) as first, new_run(tmp_path) as second:  # two that begin at once
        assert (first.number, second.number) == (1, 2)
        for files in (second, first):
            write_whole(files.record, b"a record", replace=True)
    with new_run(tmp_path) as third:
        assert third.number == 3
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == [
        "run-2.json",
        "run-3.json",
        "run.json",
    ]


def test_a_place_without_locks_is_never_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There, a run that was killed cannot be told from one that begins."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with new_run(tmp_path) as first, new_run(tmp_path) as second:
        assert (first.number, second.number) == (1, 2)


def test_an_interrupt_that_fails_a_cell_stops_the_run(
    models: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch makes an error of its own of an interrupt that hits it at the wrong moment."""
    host, interrupts = FakeHost(load), list[int]()
    recipe = MergeRecipe(model_source(models["a"]), model_source(models["b"]), alpha=0.3)
    plotted = plot(host, Setting(recipe, REQUEST), ("seed", "1, 2, 3"))

    def fail(*_: object, **__: object) -> None:
        interrupts.append(15)
        raise ValueError("could not determine the shape")

    with monkeypatch.context() as patched:
        patched.setattr(host, "make_images", fail)
        watcher = run_watcher(ProgressBar(), interrupts)
        result = start_run(host, PlotRun(plotted), tmp_path, estimate=estimate_plot(plotted), watcher=watcher)
    assert (result.made, result.failed, result.waiting) == (0, {}, 3)
    assert resume(host, tmp_path).made == 3


@pytest.mark.parametrize("has_begun", [True, False])
def test_an_interrupt_while_grids_are_drawn_tells_how_to_go_on(has_begun: bool, tmp_path: Path) -> None:
    def draw() -> None:
        with stopped_anywhere("plot", tmp_path):
            raise KeyboardInterrupt

    if has_begun:
        with new_run(tmp_path) as files:
            write_whole(files.record, b"a record", replace=True)
    with pytest.raises(
        Stopped if has_begun else KeyboardInterrupt, match=f"--resume {tmp_path}" if has_begun else None
    ):
        draw()
