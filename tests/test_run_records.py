"""Records of runs: ``run.json`` stays as version 0.1.0 wrote it, and what is damaged is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from elemental import ImageError
from elemental.images.diff import Difference
from elemental.runs.axes.base import Setting
from elemental.runs.run_files import RunFiles, latest_run
from elemental.runs.run_record import CellRecord, CellState, RunRecord, SessionRecord, read_record

from .fake_host import FakeHost
from .plotting import plot, resume, run

WRITTEN_BY_0_1_0 = Path(__file__).parent / "data"
RECORDS = ("run-0.1.0-stopped-plot.json", "run-0.1.0-resumed-plot.json", "run-0.1.0-check.json")

Damage = Callable[[dict[str, Any]], object]


def read_old(name: str, folder: Path) -> RunRecord:
    files = RunFiles(folder)
    files.record.write_bytes((WRITTEN_BY_0_1_0 / name).read_bytes())
    return read_record(files)


@pytest.mark.parametrize("name", RECORDS)
def test_records_of_0_1_0_are_written_as_they_were(tmp_path: Path, name: str) -> None:
    record = read_old(name, tmp_path)
    record.write()
    assert record.files.record.read_bytes() == (WRITTEN_BY_0_1_0 / name).read_bytes()


@pytest.mark.parametrize("name", RECORDS)
def test_records_are_made_as_0_1_0_made_them(tmp_path: Path, name: str) -> None:
    """The same text comes from the typed parts alone, without what was read."""
    record = read_old(name, tmp_path)
    record.as_read = {}
    for cell in record.cells.values():
        cell.as_read = {}
    record.sessions = [SessionRecord(old.made, old.outside, old.seconds) for old in record.sessions]
    record.write()
    assert record.files.record.read_bytes() == (WRITTEN_BY_0_1_0 / name).read_bytes()


def test_what_a_record_says(tmp_path: Path) -> None:
    record = read_old("run-0.1.0-stopped-plot.json", tmp_path)
    assert (record.kind, record.options) == ("plot", {"device": "cpu", "models": None})
    assert record.models["/models/a.safetensors"].size == 1920622
    states = [(CellState.WAITING, 1), (CellState.DONE, 3), (CellState.FAILED, 2)]
    assert [(state, record.count(state)) for state in CellState] == states
    failed = record.cells["x01-y00"]
    assert (failed.state, failed.error) == (CellState.FAILED, "RuntimeError: a part came off")
    done = record.cells["x00-y00"]
    assert (done.labels, set(done.seconds)) == ({"x": "seed 1", "y": "alpha 0"}, {"merging", "generating", "saving"})
    assert isinstance(record.cells["x02-y00"].figures, Difference)
    assert [session.made for session in record.sessions] == [3]


def test_unknown_keys_are_kept(tmp_path: Path) -> None:
    record = read_old("run-0.1.0-resumed-plot.json", tmp_path)
    data = json.loads(record.files.record.read_text())
    data = {"first": 1, **data, "last": [2]}
    data["cells"]["x01-y00"] = {"before": None, **data["cells"]["x01-y00"], "behind": {"a": 3}}
    data["sessions"][0]["host"] = "standalone"
    record.files.record.write_text(json.dumps(data, indent=1))
    written = record.files.record.read_bytes()
    again = read_record(record.files)
    again.cells["x01-y00"].set_done()
    again.write()
    assert record.files.record.read_bytes() == written


def test_a_cell_goes_from_state_to_state() -> None:
    cell = CellRecord({"x": "seed 1"}, {"alpha": 0}, {"seed": 1})
    begun = {"x": "seed 1", "state": "waiting", "recipe": {"alpha": 0}, "request": {"seed": 1}}
    assert list(cell.to_dict().items()) == list(begun.items())
    cell.set_failed("out of memory")
    assert cell.to_dict() == {**begun, "state": "failed", "error": "out of memory"}
    cell.set_done({"merging": 0.5})
    cell.figures = Difference(1.0, 2.0, 3, None)
    figures = {"share": 1.0, "mean": 2.0, "largest": 3, "similarity": None}
    done = {**begun, "state": "done", "error": None, "seconds": {"merging": 0.5}, "figures": figures}
    assert list(cell.to_dict().items()) == list(done.items())


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data.clear(),
        lambda data: data.update(version=2),
        lambda data: data.update(kind=None),
        lambda data: data.update(definition=[]),
        lambda data: data.pop("options"),
        lambda data: data["models"].update(b=[1]),
        lambda data: data["models"].update(b=["1", 2]),
        lambda data: data.update(cells=[]),
        lambda data: data["cells"].update({"../x": {"state": "done"}}),
        lambda data: data["cells"].update({"x00-y00": None}),
        lambda data: data["cells"]["x00-y00"].pop("state"),
        lambda data: data["cells"]["x00-y00"].update(state="lost"),
        lambda data: data["cells"]["x00-y00"].update(state=[]),
        lambda data: data["cells"]["x00-y00"].update(x=5),
        lambda data: data["cells"]["x00-y00"].update(recipe="a"),
        lambda data: data["cells"]["x00-y00"].update(seconds={"merging": "long"}),
        lambda data: data["cells"]["x02-y00"].update(figures={"share": 1}),
        lambda data: data["cells"]["x02-y00"]["figures"].update(mean="much"),
        lambda data: data["cells"]["x01-y00"].update(error=None),
        lambda data: data.update(sessions={}),
        lambda data: data["sessions"][0].pop("made"),
    ],
)
def test_damaged_records_are_refused(tmp_path: Path, damage: Damage) -> None:
    files = read_old("run-0.1.0-stopped-plot.json", tmp_path).files
    data = json.loads(files.record.read_text())
    damage(data)
    files.record.write_text(json.dumps(data))
    with pytest.raises(ImageError, match=r"run\.json is no record of a run that this program knows"):
        read_record(files)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "5"])
def test_what_is_no_record_is_refused(tmp_path: Path, text: str) -> None:
    files = RunFiles(tmp_path)
    files.record.write_text(text)
    with pytest.raises(ImageError, match=r"run\.json"):
        read_record(files)


def test_a_record_without_a_cell_of_its_plot_is_told_of(fake: FakeHost, base: Setting, tmp_path: Path) -> None:
    run(fake, plot(fake, base, ("seed", "1, 2")), tmp_path)
    record = latest_run(tmp_path).record
    data = json.loads(record.read_text())
    del data["cells"]["x01-y00"]
    record.write_text(json.dumps(data))
    with pytest.raises(ImageError, match=r"run\.json is damaged: it has no cell x01-y00\. Start a new run"):
        resume(fake, tmp_path)
