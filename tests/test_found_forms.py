"""What images, grids and files of recipes say of their making, read back as fields of the page."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from elemental.errors import ElementalError
from elemental.images.files import read_image, read_texts, write_png
from elemental.images.image_request import ImageRequest
from elemental.images.infotext import format_infotext, parse_infotext
from elemental.runs.axes.catalogue import AXES
from elemental.runs.axes.value_texts import format_groups
from elemental.session import merge_jobs
from elemental.session import plot_and_check_jobs as run_jobs
from elemental.session.form import MergeForm, form_from_dict
from elemental.session.found_forms import read_cell, read_form_file, read_place
from elemental.session.jobs import JobState
from elemental.session.page_values import ALL_FIELDS, PLOT_FIELDS, values_as_json, values_from_json
from elemental.session.run_plans import CheckForm, PlotForm, plan_plot
from elemental.session.session import Session, session_of

from .fake_host import FakeHost
from .plotting import ended, load, stopped_after_one

FORM = MergeForm("a.safetensors", "b.safetensors", alpha=0.3, spec="OUT03:attn2:1\nIN01::0.2")
REQUEST = ImageRequest("a cat, sitting\nin the rain", "sun: no", seed=7, steps=2, cfg=4.5, width=16, height=24)
PLOT = PlotForm("elemental", "\n\nOUT03:attn2:0.5\n\nOUT04::1\nIN01::0|\nOUT05::1", "seed", "1, 2", compare=True)


@pytest.fixture
def session(models: Mapping[str, Path], tmp_path: Path) -> Session:
    return session_of(FakeHost(load, output=tmp_path / "out", models=models["a"].parent))


def wanted(values: Mapping[str, object], request: ImageRequest) -> None:
    """Compare the fields of an image request."""
    assert {name: values[name] for name in request.to_dict()} == request.to_dict()


def test_no_two_fields_have_one_name() -> None:
    assert len(set(ALL_FIELDS)) == len(ALL_FIELDS)


def test_the_same_values_are_the_same_text() -> None:
    assert values_as_json({"alpha": 1.0, "x": "1\r\n2"}) == values_as_json({"alpha": 1, "x": "1\n2"})
    assert values_from_json(values_as_json(FORM.to_dict())) == FORM.to_dict()
    for broken in ("", "[]", "{", "[" * 100_000, "5"):
        assert values_from_json(broken) == {}


@pytest.mark.parametrize(
    "request_",
    [REQUEST, ImageRequest(""), ImageRequest("", "no prompt"), ImageRequest("x, Steps: 3\n\ny", sampler="Euler a")],
)
def test_an_infotext_reads_back(request_: ImageRequest) -> None:
    text = format_infotext(request_, seed=request_.seed, model={"Elemental": "a, b: c"})
    assert parse_infotext(text) == {name: value for name, value in request_.to_dict().items() if name != "batch"}


def test_infotexts_of_others_give_what_they_have() -> None:
    assert parse_infotext("a cat\nSteps: 20, Sampler: DPM++ 2M, Schedule type: Karras, Seed: x") == {
        "prompt": "a cat",
        "negative": "",
        "steps": 20,
        "sampler": "DPM++ 2M Karras",
    }
    for text in ("", "a cat", "a cat\nSeed 5"):
        assert parse_infotext(text) == {}


@pytest.mark.parametrize(
    ("axis", "groups"),
    [
        ("alpha", [["0", "0.5"], ["1"]]),
        ("elemental", [["", "OUT03::1", "OUT04::1\nIN01::0"]]),
        ("elemental", [["OUT03::1"], ["", "OUT04::1"]]),
        ("prompt", [["a cat, sitting", "a | b", '""']]),
        ("model-b", [["x, y.safetensors", "z.safetensors"]]),
        ("mbw-alpha", [["GRAD_V:0,1,0", "0.5,1"]]),
        ("pinpoint-element", [["OUT03:attn1", "OUT04"]]),
    ],
)
def test_values_of_an_axis_are_written_as_users_write_them(axis: str, groups: list[list[str]]) -> None:
    text = format_groups(AXES[axis], groups)
    assert text is not None
    from elemental.runs.axes.values import split_groups

    assert [AXES[axis].split(part) for part in split_groups(text)] == groups


def test_values_that_no_text_gives_are_not_guessed() -> None:
    assert format_groups(AXES["elemental"], [["OUT03::1", ""]]) is None


def test_an_image_fills_form_prompt_and_seed(session: Session) -> None:
    view = ended(merge_jobs.merge(session, FORM, REQUEST, print_change=False))
    found = read_form_file(session, view.images[0][0])
    assert (found.panel, found.remarks) == ("merge", ())
    assert form_from_dict(found.values) == FORM
    wanted({**found.values, "batch": 1}, REQUEST)
    (entry,) = session.history.entries()
    assert form_from_dict(entry.form) == FORM
    wanted(entry.form, REQUEST)
    assert entry.image == str(view.images[0][0])
    assert session.history.thumbnail_of(entry.number).is_file()


def middle_of(grid: Path, column: int, row: int) -> tuple[float, float]:
    """Give the middle of a cell as parts of the grid's width and height."""
    places, (width, height) = json.loads(read_texts(grid)["elemental_cells"]), read_image(grid).size
    return sum(places["columns"][column]) / 2 / width, sum(places["rows"][row]) / 2 / height


def test_a_grid_fills_the_plot_and_each_of_its_cells_a_form(session: Session, tmp_path: Path) -> None:
    view = ended(run_jobs.run_plot(session, FORM, PLOT, REQUEST))
    grid = view.products[0]
    definition = json.loads(grid.with_name("run.json").read_text())["definition"]
    elsewhere = Path(shutil.copy(grid, tmp_path / "grid.png"))
    for path in (grid, elsewhere, grid.with_name("run.json")):
        found = read_form_file(session, path)
        assert found.panel == "plot"
        assert bool(found.remarks) is (path == elsewhere)  # its models were found by their names
        assert form_from_dict(found.values) == FORM
        wanted(found.values, REQUEST)
        read = PlotForm(**{name: found.values[name] for name in PLOT_FIELDS})
        assert plan_plot(session, FORM, read, REQUEST)[0].to_dict() == definition
    for path in (grid, elsewhere):
        cell = read_cell(session, path, 2, 1)
        assert (cell.panel, cell.values["spec"], cell.values["seed"]) == ("merge", "OUT04::1\nIN01::0", 2)
        assert cell.values["prompt"] == REQUEST.prompt
        with pytest.raises(ElementalError, match="no image in column 10, row 1"):
            read_cell(session, path, 9, 0)
        assert read_place(session, path, *middle_of(path, 2, 1)) == cell
        with pytest.raises(ElementalError, match="no image at this place"):
            read_place(session, path, 0.001, 0.001)


def test_a_grid_of_a_check_fills_the_check(session: Session, tmp_path: Path) -> None:
    view = ended(run_jobs.run_check(session, FORM, CheckForm("OUT03:attn2, OUT04\n|\nOUT05", 1.5), REQUEST))
    grid = view.products[0]
    elsewhere = Path(shutil.copy(grid, tmp_path / "grid.png"))
    for path in (grid, elsewhere):
        found = read_form_file(session, path)
        assert found.panel == "check"
        assert (found.values["elements"], found.values["ratio"]) == ("OUT03:attn2\nOUT04\n|\nOUT05", 1.5)
        wanted(found.values, REQUEST)
        assert read_cell(session, path, 1, 2).values["spec"] == f"{FORM.spec}\nOUT05::1.5"
        assert read_cell(session, path, 2, 2).values["spec"] == f"{FORM.spec}\nOUT05::1.5"
        assert read_cell(session, path, 0, 2).values["spec"] == FORM.spec
    second = view.products[1]
    assert read_place(session, second, *middle_of(second, 1, 0)).values["spec"] == f"{FORM.spec}\nOUT05::1.5"
    (entry,) = session.history.entries()
    assert (entry.form["elements"], entry.form["prompt"]) == ("OUT03:attn2, OUT04\n|\nOUT05", REQUEST.prompt)


def test_what_is_not_here_is_said(session: Session, tmp_path: Path) -> None:
    view = ended(merge_jobs.merge(session, FORM, REQUEST, print_change=False))
    image, other = view.images[0][0], tmp_path / "hidden" / "x.png"
    assert read_form_file(session, image).values["sampler"] == "Euler a"
    other.parent.mkdir()
    other.write_bytes(b"broken")
    with pytest.raises(ElementalError) as caught:
        read_form_file(session, other)
    assert "x.png" in str(caught.value)
    assert "hidden" not in str(caught.value)
    (tmp_path / "hidden" / "y.json").write_text(json.dumps({"kind": "plot", "definition": {}}))
    with pytest.raises(ElementalError, match=r"The plot in y\.json is damaged"):
        read_form_file(session, tmp_path / "hidden" / "y.json")


def test_an_image_of_no_merge_gives_its_prompt(session: Session, tmp_path: Path) -> None:
    from PIL import Image

    from elemental.images.image_request import GeneratedImage

    text = format_infotext(ImageRequest("a cat", sampler="Heun"), seed=5, model={"Model": "x"})
    write_png(tmp_path / "plain.png", GeneratedImage(Image.new("RGB", (8, 8)), 5, text))
    found = read_form_file(session, tmp_path / "plain.png")
    assert (found.values["prompt"], found.values["seed"]) == ("a cat", 5)
    assert "sampler" not in found.values
    assert any("plain.png has no recipe" in remark for remark in found.remarks)
    assert any('no sampler "Heun"' in remark for remark in found.remarks)
    write_png(tmp_path / "nothing.png", GeneratedImage(Image.new("RGB", (8, 8)), 5, ""))
    with pytest.raises(ElementalError, match=r"^nothing\.png has no recipe"):
        read_form_file(session, tmp_path / "nothing.png")


def test_a_resumed_run_is_entered_as_it_was_begun(session: Session) -> None:
    with stopped_after_one(session):
        ended(run_jobs.run_plot(session, FORM, PlotForm("alpha", "0, 1"), REQUEST), JobState.STOPPED)
    ((text, path),) = run_jobs.unfinished_runs(session)
    data = json.loads(Path(path).read_text())
    for cell in data["cells"].values():
        cell["state"] = "waiting"  # as after the program was killed: the record is older than the image
    Path(path).write_text(json.dumps(data))
    ((counted, _),) = run_jobs.unfinished_runs(session)
    assert counted == text
    assert text.endswith(": 1 of 2 images")
    ended(run_jobs.resume(session, ""))
    newest, begun = session.history.entries()
    assert newest.result.startswith("1 image in ")
    assert {**begun.form, "x": "0, 1"} == {**newest.form, "y": ""}
    assert newest.image.endswith("grid.png")
