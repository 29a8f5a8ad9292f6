"""Plots and checks that version 0.1.0 made, or began: they are read, go on, and make the images that they would have.

The files are in ``data/version_0_1_0``, whose README.txt says how each was made.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest

import elemental.cli.make_host
from elemental import CheckpointError, ModelLocator, read_recipe
from elemental.cli.main import main
from elemental.images.image_request import ImageRequest, request_from_dict
from elemental.recipe.recipe import recipe_from_dict
from elemental.runs.element_check_run import CheckRun
from elemental.runs.resume import open_run
from elemental.runs.run_files import RunFiles, latest_run, new_run
from elemental.runs.run_record import CellState, RunRecord, read_record
from elemental.runs.runner import RunResult, continue_run
from elemental.runs.xy_plot_run import read_stored_plot
from elemental.session.plot_and_check_jobs import unfinished_runs
from elemental.session.session import session_of

from .version_0_1_0 import CHECK, DATA, EXPECTED, KILLED, PLOT, SECOND, TAB, Watched, home_of_0_1_0  # noqa: F401

STATES = {
    PLOT: {"done": 6},
    SECOND: {"done": 2, "failed": 1, "waiting": 6},
    KILLED: {"waiting": 3},  # two of them have their image all the same
    CHECK: {"done": 3, "waiting": 2},
    TAB: {"done": 2, "waiting": 4},
}
RUNS = sorted(path.relative_to(DATA / "home").as_posix() for path in DATA.rglob("run*.json"))
REQUEST = ImageRequest("a red circle", "grey", seed=5, steps=3, sampler="Euler", cfg=4.5, width=64, height=64)


@pytest.fixture
def drawn(home: Path, monkeypatch: pytest.MonkeyPatch) -> Watched:
    """Give the host that the command line makes its images with."""
    if find_spec("diffusers") is None or find_spec("transformers") is None:
        pytest.skip("the command line makes images with diffusers alone")
    host = Watched(home)

    def make_host(device: str, **_options: object) -> Watched:
        host.devices.append(device)
        return host

    for name, module in list(sys.modules.items()):
        if name.startswith("elemental.cli") and hasattr(module, "make_host"):
            monkeypatch.setattr(module, "make_host", make_host)
    assert id(elemental.cli.make_host.make_host) == id(make_host)
    return host


def record_of(path: Path) -> RunRecord:
    return read_record(RunFiles(path.parent, int(path.stem.partition("-")[2] or 1)))


def figures_in(path: Path) -> dict[str, tuple[float, ...]]:
    """Read the figures of each cell from the record's text."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    names = ("share", "mean", "largest", "similarity")
    return {
        cell: tuple(facts["figures"][name] for name in names) for cell, facts in cells.items() if "figures" in facts
    }


def go_on(host: Watched, record: RunRecord) -> RunResult:
    locator = ModelLocator(Path("models").absolute())
    return continue_run(host, open_run(host, record, locator=locator), record, locator=locator)


@pytest.mark.parametrize("name", ["grid-1of2.png", "grid-2of2.png"])
def test_a_grid_holds_its_plot(home: Path, name: str) -> None:
    stored = read_stored_plot(home / "plot" / name)
    assert stored is not None
    assert stored.data == json.loads((home / PLOT).read_text(encoding="utf-8"))["definition"]
    assert (stored.request, stored.compare) == (REQUEST, True)


def test_a_plot_is_made_again_from_its_grid(home: Path, drawn: Watched) -> None:
    assert main(["plot", "--recipe", str(home / "plot" / "grid-2of2.png"), "-o", str(home / "new")]) == 0
    old, new = (open_run(drawn, record_of(home / name)) for name in (PLOT, "new/run.json"))
    assert new == old
    assert len(drawn.made) == 6


@pytest.mark.parametrize("name", RUNS)
def test_a_run_has_the_cells_that_it_had(home: Path, name: str) -> None:
    record = record_of(home / name)
    run = open_run(Watched(home), record, locator=ModelLocator(home / "models"))
    cells = {cell.name: cell for cells in run.rounds() for cell in cells}
    assert cells.keys() == record.cells.keys()
    for cell_name, recorded in record.cells.items():
        cell = cells[cell_name]
        assert cell.recipe == recipe_from_dict(recorded.recipe)
        assert cell.request == request_from_dict(recorded.request)
        assert run.labels(cell).keys() == recorded.labels.keys()


def test_a_finished_run_is_drawn_again_and_nothing_is_made(home: Path) -> None:
    host, record = Watched(home), record_of(home / PLOT)
    assert Counter(cell.state.value for cell in record.cells.values()) == STATES[PLOT]
    figures = figures_in(home / PLOT)
    assert figures["x01-y00"][0] > 0
    for cell in record.cells.values():
        cell.figures = None
    result = go_on(host, record)
    assert (result.made, result.failed, result.waiting, host.made) == (0, {}, 0, [])
    assert [path.name for path in result.products] == ["grid-1of2.png", "grid-2of2.png"]
    assert figures_in(home / PLOT) == figures


@pytest.mark.parametrize("name", [SECOND, KILLED, CHECK, TAB])
def test_an_unfinished_run_makes_the_missing_images_alone(home: Path, name: str) -> None:
    record, missing = record_of(home / name), EXPECTED["models"][name]
    assert Counter(cell.state.value for cell in record.cells.values()) == STATES[name]
    sessions = list(record.sessions)
    kept = {cell: record.files.cell(cell).read_bytes() for cell in record.cells.keys() - missing.keys()}
    host = Watched(home)
    result = go_on(host, record)
    assert (result.made, result.failed, result.waiting) == (len(missing), {}, 0)
    requests = [request_from_dict(record.cells[cell].request) for cell in missing]
    assert Counter(host.made) == Counter(zip(missing.values(), requests, strict=True))
    assert kept == {cell: record.files.cell(cell).read_bytes() for cell in kept}
    for cell in missing:
        assert read_recipe(record.files.cell(cell)).rules == recipe_from_dict(record.cells[cell].recipe).rules
    again = record_of(home / name)
    assert {cell.state for cell in again.cells.values()} == {CellState.DONE}
    assert again.sessions[:-1] == sessions


def test_a_run_does_not_go_on_with_other_models(home: Path) -> None:
    os.utime(home / "models" / "b.safetensors", ns=(1, 1))
    with pytest.raises(CheckpointError):
        go_on(Watched(home), record_of(home / KILLED))


def test_the_command_line_goes_on_with_the_last_run_of_a_folder(
    home: Path, drawn: Watched, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["plot", "--resume", str(home / "plot"), "--device", "cpu"])
    assert "cuda" in capsys.readouterr().err  # what the run began on
    assert main(["plot", "--resume", str(home / "plot")]) == 0  # its models are found in the folder that it names
    assert drawn.devices == ["cuda"]
    assert len(drawn.made) == len(EXPECTED["models"][SECOND])
    assert main(["check", "--resume", str(home / "checks")]) == 0
    assert len(drawn.made) == len(EXPECTED["models"][SECOND]) + len(EXPECTED["models"][CHECK])


def test_a_folder_of_runs_is_numbered_on(home: Path) -> None:
    assert [latest_run(home / name).number for name in ("plot", "axes", "checks")] == [2, 11, 1]
    with new_run(home / "plot") as files:
        assert files.number == 3


def test_the_tab_lists_unfinished_runs(home: Path) -> None:
    shutil.copytree(home / "checks", home / "outputs" / "checks")
    found = {Path(path).relative_to(home).as_posix() for _, path in unfinished_runs(session_of(Watched(home)))}
    assert found == {TAB, f"outputs/{CHECK}"}


def test_a_check_has_its_ranking(home: Path) -> None:
    record = record_of(home / CHECK)
    run = open_run(Watched(home), record, locator=ModelLocator(home / "models"))
    assert isinstance(run, CheckRun)
    effects = {effect.elements: (effect.ratio, tuple(effect.difference)) for effect, _ in run.list_effects(record)}
    figures = figures_in(home / CHECK)
    assert effects == {"OUT05:attn2": (0.75, figures["x01-y00"]), "OUT05": (0.75, figures["x01-y01"])}
    assert all(gif.is_file() for _, gif in run.list_effects(record))
