"""Simplify as a job of a session, on the standalone host and the demo's pair."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from PIL import Image

pytest.importorskip("diffusers")

import elemental
from elemental.errors import ElementalError
from elemental.hosts.standalone.host import StandaloneHost
from elemental.images.files import read_image
from elemental.images.image_request import ImageRequest
from elemental.merge.plan import MergePlan
from elemental.runs.simplify import Simplified, SimplifyOrder, without_ratios
from elemental.session import merge_jobs, simplify_jobs
from elemental.session.form import MergeForm
from elemental.session.found_forms import read_form_file
from elemental.session.jobs import JobState, JobView
from elemental.session.session import Session, session_of
from elemental.session.simplify_jobs import describe, draw_spec, form_of, simplify_form
from elemental.workflows import CONFIG_VARIABLE, read_recipe

from .demo_sessions import demo_pair, demo_session  # noqa: F401
from .fake_host import FakeHost
from .plotting import ended, load
from .serving import digest_of

WEIGHTS = ",".join(["0.5", *["1", "0.25"] * 12, "1"])
FORM = MergeForm(
    "a.safetensors", "b.safetensors", alpha=0.75, blocks=WEIGHTS, spec="OUT03:attn2:1  # mine", dtype="fp16"
)
LIVE = MergeForm("a.safetensors", "b.safetensors", alpha=0.5)
REQUEST = ImageRequest("a red circle on blue", seed=3, steps=2, cfg=4.0, width=64, height=64, batch=4)


class Done(NamedTuple):
    """A session that has simplified a merge, what its job showed, and the form that it found."""

    session: Session
    view: JobView
    form: MergeForm
    leave_out: bool


@pytest.fixture(scope="module", params=[False, True], ids=["moves", "leaves out"])
def done(pair: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Done]:
    """A merge that was simplified from few passes while another one was in the live model."""
    folder = tmp_path_factory.mktemp("simplified")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CONFIG_VARIABLE, str(folder / "config"))
        patch.setattr(simplify_jobs, "SimplifyOrder", partial(SimplifyOrder, passes=3))
        session = session_of(StandaloneHost(models=pair, output=folder / "out"))
        ended(merge_jobs.merge(session, LIVE, None, print_change=False))
        before = _live(session)
        view = ended(simplify_form(session, FORM, REQUEST, 60.0, leave_out=request.param))
        assert _live(session) == before
        assert view.form is not None
        yield Done(session, view, view.form, request.param)


def _live(session: Session) -> tuple[Any, str]:
    loaded = session.host.loaded()
    assert loaded is not None
    return session.model.live().recipe, digest_of(session.host.open_model(loaded))


def _plan(session: Session, form: MergeForm) -> MergePlan:
    plan = session.previewer.look(form).plan
    assert plan is not None
    return plan


@pytest.mark.slow
def test_the_form_is_the_simplified_merge(done: Done) -> None:
    (grid,) = done.view.products
    plan = _plan(done.session, replace(done.form, dtype=MergeForm.dtype))
    assert plan.tensors == elemental.plan_merge(read_recipe(grid), locator=done.session.locator).tensors
    assert plan.recipe.rules == read_recipe(grid).rules
    assert elemental.format_rules(plan.recipe.rules).endswith(grid.with_suffix(".txt").read_text().strip())
    if done.leave_out:
        assert done.form.spec.startswith(f"{FORM.spec}\n")
        assert replace(done.form, spec=FORM.spec) == FORM
    else:
        assert replace(done.form, spec="") == replace(FORM, alpha=0.0, blocks="", spec="")


@pytest.mark.slow
def test_the_result_is_told_in_words_images_and_history(done: Done) -> None:
    first, second, *notes = done.view.text.splitlines()
    left, near, far = (" left out,", "A's", "the merge's") if done.leave_out else ("", "the merge's", "A's")
    found = re.fullmatch(
        rf"(\d+) of 1,1\d\d elements{left} in (\d+) rules?; the image differs from {near} by ([\d.]+) % of what {far} "
        rf"does \(mean [\d.]+ of 255, {far} [\d.]+\)\.",
        first,
    )
    assert found is not None, first
    assert 0 < int(found[1]) < 1100
    assert int(found[2]) == len(done.form.spec.splitlines()) - done.leave_out
    assert 0 <= float(found[3]) <= 60
    assert re.fullmatch(r"\d+ images in [\d.]+ s\. Folder: \S+simplified", second)
    assert "One image is used, with the first seed: the batch of 4 images is not used here." in notes
    assert [caption for _, caption in done.view.images[:3]] == ["A", "half of the way", "the merge"]
    assert re.fullmatch(r"\d+ elements?", done.view.images[-1][1])
    assert all(read_image(path).size == (64, 64) for path, _ in done.view.images)
    assert "data-take" in done.view.table
    entries = {entry.kind: entry for entry in done.session.history.entries()}
    assert entries["simplify"].form == FORM.to_dict()
    assert entries["simplified"].form == done.form.to_dict()


@pytest.mark.slow
def test_the_image_of_the_form_is_one_that_was_shown(done: Done) -> None:
    shown = [read_image(path).tobytes() for path, _ in done.view.images]
    made = ended(merge_jobs.merge(done.session, done.form, replace(REQUEST, batch=1), print_change=False))
    assert read_image(made.images[0][0]).tobytes() in shown[3:]


@pytest.mark.slow
def test_each_image_that_was_shown_can_be_used(done: Done) -> None:
    own = 1 if done.leave_out else 0
    for path, label in done.view.images:
        assert not read_form_file(done.session, path).remarks, label
        if count := re.fullmatch(r"(\d+) elements", label):
            assert len(read_recipe(path).rules) == int(count[1]) + own
    first, _, merge = (read_recipe(path) for path, _ in done.view.images[:3])
    assert (first.alpha, merge.alpha, len(merge.rules)) == (0.0, 0.75, 1)


@pytest.mark.slow
def test_a_stop_leaves_the_live_merge(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    ended(merge_jobs.merge(session, LIVE, None, print_change=False))
    before, report = _live(session), session.host.report

    def stop(done: int, total: int, text: str) -> None:
        report(done, total, text)
        if text == "simplifying" and done == 3:
            session.stop()

    with monkeypatch.context() as patched:
        patched.setattr(session.host, "report", stop)
        ended(simplify_form(session, FORM, REQUEST), JobState.STOPPED)
    assert _live(session) == before
    assert session.board.job is not None
    assert session.board.job.view.form is None


@pytest.mark.parametrize(
    ("form", "tolerance", "message"),
    [
        (FORM, None, "Tolerance is blank; enter a percentage above 0 and below 100."),
        (FORM, 0, "Tolerance is 0 %; enter"),
        (FORM, 100.0, "Tolerance is 100 %; enter"),
        (MergeForm(), 10, "Choose model A and B."),
        (replace(FORM, model_b="a.safetensors"), 10, "Model B is the same file as model A"),
        (MergeForm("a.safetensors", "b.safetensors", alpha=0.0), 10, "nothing to simplify: with this form"),
        (replace(FORM, spec="OUT03"), 10, "rule"),
    ],
)
def test_what_cannot_be_simplified_is_refused(
    form: MergeForm, tolerance: float | None, message: str, pair: Path, tmp_path: Path
) -> None:
    session = session_of(FakeHost(load, output=tmp_path, models=pair))
    with pytest.raises(ElementalError, match=re.escape(message)):
        simplify_form(session, form, REQUEST, tolerance)
    assert session.board.job is None


def test_a_host_that_cannot_says_so(pair: Path, tmp_path: Path) -> None:
    session = session_of(FakeHost(load, output=tmp_path, models=pair))
    view = ended(simplify_form(session, FORM, REQUEST), JobState.FAILED)
    assert view.text == "This host cannot differentiate images, which merges are simplified by."


@pytest.mark.parametrize("mode", ["triple-sum", "sum-twice", "add-difference"])
def test_other_modes_become_forms(mode: str, pair: Path, tmp_path: Path) -> None:
    session = session_of(FakeHost(load, output=tmp_path, models=pair))
    form = replace(FORM, model_c="b.safetensors", mode=mode, beta=0.5, blocks_beta=WEIGHTS, spec="", dtype="as in A")
    recipe = session.recipe(form)
    ratios = "0.5:0.25" if form.merge_mode.uses_beta else "0.5"
    rules = elemental.parse_rules(f"OUT03:attn2:{ratios}\nTE::{ratios}")
    image = Image.new("RGB", (8, 8))
    order = SimplifyOrder(recipe, (REQUEST,))
    result = Simplified(replace(without_ratios(recipe), rules=rules), 12, 1.0, 10.0, 9, ((image, image, image),))
    taken = form_of(session, form, order, result)
    assert session.recipe(taken) == result.recipe
    assert taken.blocks == ""
    assert describe(order, result, 1126) == (
        "12 of 1,126 elements in 2 rules; the image differs from the merge's by 10.0 % of what A's does "
        "(mean 1.00 of 255, A's 10.00)."
    )


def test_a_spec_is_drawn_as_text() -> None:
    assert "<pre>&lt;b&gt;</pre>" in draw_spec("<b>")


def test_a_form_is_kept_once(pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CONFIG_VARIABLE, str(tmp_path / "config"))
    session = session_of(FakeHost(load, output=tmp_path, models=pair))
    for form in (FORM, FORM, MergeForm(), LIVE):
        session.keep_form(form)
    assert [entry.form for entry in session.history.entries()] == [LIVE.to_dict(), FORM.to_dict()]
