"""Merges, images, saves, plots and element checks as jobs of a session, on the host in memory."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from elemental import ImageError
from elemental.hosts.base import CheckpointRef
from elemental.images.image_request import GeneratedImage, ImageRequest
from elemental.session import merge_jobs
from elemental.session import plot_and_check_jobs as run_jobs
from elemental.session.form import KEEP, MergeForm
from elemental.session.job_texts import count_images, format_duration
from elemental.session.jobs import JobState
from elemental.session.run_plans import CheckForm, PlotForm, describe_estimate, plan_plot
from elemental.session.session import Session, first_form, session_of

from .fake_host import FakeHost, FakeModel
from .plotting import ended, load

FORM = MergeForm("a.safetensors", "b.safetensors", spec="OUT03:attn2:1")
REQUEST = ImageRequest("a cat", seed=3, steps=1, width=16, height=16)
PLOT = PlotForm(x_type="alpha", x="0,0.5", y_type="seed", y="1,2")


@pytest.fixture
def session(models: Mapping[str, Path], tmp_path: Path) -> Session:
    return session_of(FakeHost(load, output=tmp_path, models=models["a"].parent))


def test_merge_generate_restore(session: Session) -> None:
    merged = ended(merge_jobs.merge(session, FORM, REQUEST, print_change=True))
    assert re.match(r"Merged in [\d.]+ m?s into the live model; no file was written\. 1 image in .*\.", merged.text)
    assert len(merged.images) == 1
    assert "elemental-changes" in merged.details
    same = ended(merge_jobs.generate(session, FORM, REQUEST))
    assert same.text.endswith(" They show the merge in the live model.")
    changed = ended(merge_jobs.generate(session, replace(FORM, spec=""), REQUEST))
    assert changed.text.endswith("They show the merge in the live model, not what the form says now.")
    assert ended(merge_jobs.restore(session)).text == "Model a.safetensors restored."
    plain = ended(merge_jobs.generate(session, FORM, replace(REQUEST, batch=2)))
    assert re.match(r"2 images in .*\. Model: a\.safetensors\.$", plain.text)
    assert [entry.kind for entry in session.history.entries()] == ["generate"] * 3


def test_a_merge_says_what_the_host_leaves_out(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeModel, "left_out", "The VAE is another file's.")
    text = ended(merge_jobs.merge(session, FORM, None, print_change=False)).text
    assert text.endswith("no file was written. The VAE is another file's.")


def test_a_merge_that_changes_nothing_says_so(session: Session) -> None:
    said = "Nothing has changed: with this form the merge is model A."
    for form in (replace(FORM, spec="", alpha=0), replace(FORM, spec="", blocks=",".join(["0"] * 26))):
        assert ended(merge_jobs.merge(session, form, None, print_change=False)).text.endswith(said)
        assert said in ended(merge_jobs.merge(session, form, REQUEST, print_change=False)).text
    assert said not in ended(merge_jobs.merge(session, FORM, None, print_change=False)).text
    session.previewer.look(replace(FORM, spec="", alpha=0))  # of another page
    assert said not in ended(merge_jobs.merge(session, FORM, None, print_change=False)).text


def test_a_saved_file_without_changes_is_told_from_a_copy(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge_jobs, "safe_file_name", lambda name, _folder: tmp_path / name)
    same = "Its tensors are those of model A: this merge changes nothing."
    other = "Its weights are those of model A: only their number format"
    for dtype, said, unsaid in ((KEEP, same, other), ("fp32", other, same)):
        form = replace(FORM, spec="", alpha=0, dtype=dtype)
        text = ended(merge_jobs.save(session, form, f"{len(dtype)}.safetensors", overwrite=False)).text
        assert said in text
        assert unsaid not in text
        assert ("the result is model A." in session.previewer.look(form).report) is (dtype == KEEP)
        assert session.previewer.changes_nothing(form)


def test_model_a_is_chosen_whatever_the_number_of_models(models: Mapping[str, Path], tmp_path: Path) -> None:
    host = FakeHost(load, output=tmp_path, models=models["a"].parent)
    assert len(host.checkpoints()) == 3
    assert first_form(host) == MergeForm("a.safetensors")
    host.open_model(CheckpointRef("b", models["b"]))
    assert first_form(host) == MergeForm("b.safetensors")
    host.checkpoints = list  # type: ignore[method-assign]
    assert first_form(host) == MergeForm()


def test_images_of_model_a_if_nothing_is_loaded(session: Session) -> None:
    assert "Model: a.safetensors." in ended(merge_jobs.generate(session, FORM, REQUEST)).text


def test_save_names_the_merge(session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merge_jobs, "safe_file_name", lambda name, _folder: tmp_path / name)
    from_form = ended(merge_jobs.save(session, FORM, "form.safetensors", overwrite=False))
    assert from_form.text.endswith("the merge of the form.")
    ended(merge_jobs.merge(session, FORM, None, print_change=False))
    from_model = ended(merge_jobs.save(session, FORM, "live.safetensors", overwrite=False))
    assert from_model.text.endswith("the merge in the live model.")
    refused = ended(merge_jobs.save(session, FORM, "live.safetensors", overwrite=False), JobState.FAILED)
    assert refused.text == "live.safetensors exists; choose another name, or tick Overwrite."
    assert (tmp_path / "form.safetensors").read_bytes() == (tmp_path / "live.safetensors").read_bytes()


def test_a_plot_is_shown_as_it_is_made_and_the_merge_is_back_afterwards(session: Session) -> None:
    ended(merge_jobs.merge(session, FORM, None, print_change=False))
    recipe = session.model.live().recipe
    assert describe_estimate(plan_plot(session, FORM, PLOT, REQUEST)[1]).startswith("4 images, 2 merges.")
    job = run_jobs.run_plot(session, FORM, PLOT, REQUEST)
    view = ended(job)
    assert re.match(r"4 images in [\d.]+ m?s\. Folder: \S+$", view.text)
    assert (view.name, view.columns, len(view.images), len(view.products)) == ("XY plot", 2, 4, 1)
    assert next(caption for _, caption in view.images).count(" / ") == 1
    assert session.model.live().recipe == recipe
    assert session.history.entries()[0].result == view.text


def test_an_element_check_is_ranked(session: Session) -> None:
    view = ended(run_jobs.run_check(session, FORM, CheckForm("OUT03, OUT04:attn1", 1.0), REQUEST))
    assert (view.name, view.columns, len(view.images)) == ("Element check", 0, 3)
    assert view.text.startswith("3 images in ")
    assert "Effect of each element at ratio 1." in view.table
    assert view.table.count("<tr data-gif") == 2


def test_the_figures_of_a_check_are_on_the_map(session: Session) -> None:
    ended(run_jobs.run_check(session, FORM, CheckForm("OUT03, OUT04:attn1", 1.0), REQUEST))
    table = session.previewer.look(FORM).table or ""
    assert "Element check of 2 elements at ratio 1" in table
    assert table.count('data-rank="') == 1  # OUT04:attn1; no cell is the whole of OUT03
    assert 'data-within="OUT03"' in table
    assert "data-measured" in table
    other = replace(FORM, mode="add-difference", model_c=FORM.model_a)
    assert "data-measured" not in (session.previewer.look(other).table or "")


def test_a_stopped_run_is_listed_and_resumed(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    make_images = session.host.make_images

    def make_one_and_stop(request: ImageRequest, **options: Any) -> Sequence[GeneratedImage]:
        images = make_images(request, **options)
        session.stop()
        return images

    with monkeypatch.context() as patched:
        patched.setattr(session.host, "make_images", make_one_and_stop)
        stopped = ended(run_jobs.run_plot(session, FORM, PLOT, REQUEST), JobState.STOPPED)
    assert stopped.text.endswith("Stopped; 3 images left to make. Resume continues.")
    ((text, _),) = run_jobs.unfinished_runs(session)
    assert text.endswith(": 1 of 4 images")
    assert ended(run_jobs.resume(session, text)).text.startswith("3 images in ")
    assert run_jobs.unfinished_runs(session) == []
    with pytest.raises(ImageError, match="There is no unfinished run"):
        run_jobs.resume(session, text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0804, "80 ms"), (0.1, "0.1 s"), (2.44, "2.4 s"), (9.94, "9.9 s"), (9.96, "10 s"), (28.4, "28 s")],
)
def test_durations(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_counts() -> None:
    assert [count_images(count) for count in (0, 1, 1200)] == ["0 images", "1 image", "1,200 images"]
