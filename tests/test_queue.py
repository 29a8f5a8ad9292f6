"""Jobs of a session that wait: made of what was asked for, on a model that those before them have left."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from elemental import ElementalError, ImageError
from elemental.images.image_request import ImageRequest
from elemental.session import effect_jobs, merge_jobs, simplify_jobs
from elemental.session import plot_and_check_jobs as run_jobs
from elemental.session.form import MergeForm
from elemental.session.jobs import Job, JobState
from elemental.session.merged_model import LiveState
from elemental.session.run_plans import CheckForm, PlotForm
from elemental.session.session import Session, session_of

from .fake_host import FakeHost
from .plotting import ended, load, stopped_after_one

FORM = MergeForm("a.safetensors", "b.safetensors", spec="OUT03:attn2:1")
OTHER = replace(FORM, spec="OUT05::0.5")
REQUEST = ImageRequest("a cat", seed=3, steps=1, width=16, height=16)
PLOT = PlotForm(x_type="alpha", x="0,0.5")


@pytest.fixture
def session(models: Mapping[str, Path], tmp_path: Path) -> Session:
    folder = tmp_path / "models"
    folder.mkdir()
    for name in "ab":
        (folder / f"{name}.safetensors").write_bytes(models[name].read_bytes())
    return session_of(FakeHost(load, output=tmp_path / "out", models=folder))


@contextmanager
def held(session: Session) -> Iterator[Callable[[], None]]:
    """Keep a job running; what is asked for waits. Gives what lets it end."""
    gate = threading.Event()

    def work(job: Job) -> None:
        with session.host_job(job, "held", 0):
            gate.wait(20)

    session.board.start("held", work)
    try:
        yield gate.set
    finally:
        gate.set()


def rules(session: Session) -> str:
    recipe = session.model.live().recipe
    return "" if recipe is None else ",".join(map(str, recipe.rules.rules))


def test_each_kind_of_job_waits_and_says_what_it_is_about(session: Session) -> None:
    merge_of = "weight-sum of a, b; alpha 0.5; rules OUT03:attn2:1"
    with held(session):
        merge_jobs.merge(session, FORM, REQUEST, print_change=False)
        merge_jobs.generate(session, FORM, REQUEST)
        merge_jobs.save(session, FORM, "new", overwrite=False)
        merge_jobs.restore(session)
        run_jobs.run_plot(session, FORM, PLOT, REQUEST)
        run_jobs.run_check(session, FORM, CheckForm("OUT03, OUT04"), REQUEST)
        effect_jobs.estimate(session, FORM, REQUEST)
        simplify_jobs.simplify_form(session, FORM, REQUEST, leave_out=True)
        waiting = session.board.waiting()
        assert {view.name: view.words for view in waiting} == {
            "Merge and generate": f'{merge_of}; "a cat", seed 3',
            "Generate": 'what is in the live model then; "a cat", seed 3',
            "Save new.safetensors": f"the merge in the live model then; without one, {merge_of}",
            "Restore": "",
            "XY plot": f"2 images; {merge_of}",
            "Element check": f"3 images; {merge_of}",
            "Effect map": f'16 passes; {merge_of}; "a cat", seed 3',
            "Simplify": f'what to leave out; {merge_of}; "a cat", seed 3',
        }
        session.board.drop_all()


def test_a_job_is_made_of_the_form_that_it_was_asked_with(session: Session) -> None:
    with held(session) as go:
        first = merge_jobs.merge(session, FORM, REQUEST, print_change=False)
        second = merge_jobs.merge(session, OTHER, replace(REQUEST, seed=4), print_change=False)
        session.form = MergeForm()  # what the page says by now
        go()
        seeds = [caption.rpartition(" ")[2] for job in (first, second) for _, caption in ended(job).images]
    assert seeds == ["3", "4"]
    assert rules(session) == "OUT05::0.5"
    assert session.live_form == OTHER
    assert [entry.form["spec"] for entry in session.history.entries()] == [OTHER.spec, FORM.spec]


def test_what_cannot_be_done_is_refused_when_it_is_asked_for(session: Session) -> None:
    with held(session):
        for wrong in (replace(FORM, spec="OUT12::1"), replace(FORM, model_b="none.safetensors")):
            with pytest.raises(ElementalError):
                merge_jobs.merge(session, wrong, None, print_change=False)
        assert session.board.waiting() == []


def test_a_model_that_is_gone_by_its_turn_fails_and_the_next_job_starts(session: Session) -> None:
    folder = session.host.models_folder()
    (folder / "c.safetensors").write_bytes((folder / "b.safetensors").read_bytes())
    session.host.refresh()
    with held(session) as go:
        failing = merge_jobs.merge(session, replace(FORM, model_b="c.safetensors"), REQUEST, print_change=False)
        following = merge_jobs.merge(session, FORM, REQUEST, print_change=False)
        (folder / "c.safetensors").unlink()
        go()
        assert "c.safetensors" in ended(failing, JobState.FAILED).text
        assert len(ended(following).images) == 1
    assert rules(session) == FORM.spec


def test_save_writes_what_is_in_the_model_by_its_turn(session: Session) -> None:
    folder = session.host.models_folder()
    with held(session) as go:
        merge_jobs.merge(session, OTHER, None, print_change=False)
        live = merge_jobs.save(session, FORM, "live", overwrite=False)
        merge_jobs.restore(session)
        own = merge_jobs.save(session, FORM, "own", overwrite=False)
        go()
        assert "the merge in the live model, not what the form says now" in ended(live).text
        assert "the merge of the form" in ended(own).text
    assert (folder / "live.safetensors").read_bytes() != (folder / "own.safetensors").read_bytes()
    assert session.model.live().kind is LiveState.FILE


def test_save_of_no_merge_at_all_fails_in_its_turn(session: Session) -> None:
    incomplete = replace(FORM, model_b="")
    with pytest.raises(ElementalError, match="Choose model B"):
        merge_jobs.save(session, incomplete, "new", overwrite=False)
    with held(session) as go:
        saving = merge_jobs.save(session, incomplete, "new", overwrite=False)
        go()
        assert ended(saving, JobState.FAILED).text == "Choose model B."


def test_restore_has_its_turn_after_what_was_asked_for_before(session: Session) -> None:
    ended(merge_jobs.merge(session, FORM, None, print_change=False))
    with held(session) as go:
        merge_jobs.merge(session, OTHER, REQUEST, print_change=False)
        restoring = merge_jobs.restore(session)
        assert rules(session) == FORM.spec  # nothing is taken from under the running job
        go()
        assert ended(restoring).text == "Model a.safetensors restored."
    assert session.model.live().kind is LiveState.FILE


def test_plots_of_the_same_second_have_folders_of_their_own(session: Session) -> None:
    with held(session) as go:
        jobs = [run_jobs.run_plot(session, form, PLOT, REQUEST) for form in (FORM, OTHER)]
        go()
        folders = [ended(job).text.partition("Folder: ")[2] for job in jobs]
    assert len(set(folders)) == 2
    assert len(list((session.host.output_folder() / "plots").iterdir())) == 2


def test_a_run_that_is_finished_by_then_is_not_resumed(session: Session) -> None:
    with stopped_after_one(session):
        ended(run_jobs.run_plot(session, FORM, PLOT, REQUEST), JobState.STOPPED)
    ((_, record),) = run_jobs.unfinished_runs(session)
    with held(session) as go:
        first = run_jobs.resume(session, "")
        merge_jobs.merge(session, FORM, None, print_change=False)
        second = run_jobs.resume(session, "")
        go()
        assert ended(first).text.startswith("1 image in ")
        assert ended(second, JobState.FAILED).text == "This run is finished; there is no image left to make."
    assert len(json.loads(Path(record).read_text())["sessions"]) == 2
    with pytest.raises(ImageError, match="There is no unfinished run"):
        run_jobs.resume(session, "")


def test_stop_leaves_what_waits(session: Session) -> None:
    with held(session) as go:
        waiting = merge_jobs.merge(session, FORM, REQUEST, print_change=False)
        session.stop()
        go()
        assert len(ended(waiting).images) == 1


def test_steps_are_told_of_images_alone(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[tuple[str, bool]] = []
    show = Job.show

    def note(job: Job, **parts: object) -> None:
        show(job, **parts)
        said.append((job.view.text.partition("\n")[0], job.view.steps))

    monkeypatch.setattr(Job, "show", note)
    ended(run_jobs.run_plot(session, FORM, PLOT, REQUEST))
    ended(merge_jobs.merge(session, FORM, REQUEST, print_change=False))
    ended(merge_jobs.save(session, FORM, "new", overwrite=False))
    about_images = re.compile(r"image \d of 2: .*|generating \.\.\.")
    assert {text for text, steps in said if steps and text} >= {"generating ..."}
    texts = {text for text, steps in said if steps and text.endswith(" ...")}
    assert len(texts) == 3
    assert all(about_images.fullmatch(text) for text in texts)


def test_a_run_is_unfinished_when_it_does_not_run_any_more(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    make_images, listed = session.host.make_images, []

    def look(request: ImageRequest, **options: Any) -> Any:
        listed.append(run_jobs.unfinished_runs(session))
        return make_images(request, **options)

    monkeypatch.setattr(session.host, "make_images", look)
    with stopped_after_one(session):
        ended(run_jobs.run_plot(session, FORM, PLOT, REQUEST), JobState.STOPPED)
    assert listed == [[]]
    ((words, _),) = run_jobs.unfinished_runs(session)
    assert words.endswith(": 1 of 2 images")


def test_grids_of_a_third_axis_say_its_values(session: Session) -> None:
    third = replace(PLOT, z_type="cfg", z="3, 5")
    made = ended(run_jobs.run_plot(session, FORM, third, REQUEST))
    assert len(made.products) == 2
    assert made.headings == ("cfg 3", "cfg 5")
    assert [caption.partition(";")[0] for _, caption in made.images] == [
        f"alpha {alpha} / cfg {cfg}" for cfg in (3, 5) for alpha in ("0", "0.5")
    ]
