"""The Search panel without a page: a search begins, is judged, taken back, begun anew, stopped, and gone on with."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from elemental.demo.checkpoint_pair import copy_pair
from elemental.errors import ElementalError, ImageError
from elemental.images.image_request import ImageRequest
from elemental.session import search_groups
from elemental.session.form import MergeForm
from elemental.session.jobs import Job, JobState, JobView
from elemental.session.search_jobs import SearchForm, act, found_form, go_on, searches, shown_search, start
from elemental.session.search_view import RoundState, ShownCandidate, ShownSearch, draw_search
from elemental.session.search_wish import say_used
from elemental.session.session import Session, session_of
from elemental.workflows import CONFIG_VARIABLE

from .fake_host import FakeHost
from .serving import make_host

FORM = MergeForm("a.safetensors", "b.safetensors", spec="OUT05:attn2:0.25")
REQUEST = ImageRequest("a circle", seed=3, steps=2, cfg=4.0, width=16, height=16)
ASKED = SearchForm("OUT03:attn2:0-1\nOUT05:attn2\nalpha:0.25-0.75", candidates=4)
"""Three numbers, so few that images are made at once."""


@pytest.fixture(name="pair", scope="module")
def demo_pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's checkpoints."""
    folder = tmp_path_factory.mktemp("pair")
    copy_pair(folder)
    return folder


@pytest.fixture
def session(pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    monkeypatch.setenv(CONFIG_VARIABLE, str(tmp_path / "config"))
    return session_of(make_host(pair, tmp_path / "out", noise=True))


def ended(job: Job | None, state: JobState = JobState.DONE) -> JobView:
    assert job is not None
    while not job.view.ended:
        job.wait(job.view.version, 60)
    assert job.view.state is state, job.view.text
    return job.view


def shown(session: Session) -> ShownSearch:
    found = shown_search(session)
    assert found is not None
    return found


def wish(session: Session, name: str, *order: int) -> str:
    now = shown(session)
    return " ".join(map(str, (name, now.key, now.number, *order)))


def begun(session: Session, asked: SearchForm = ASKED) -> ShownSearch:
    ended(start(session, FORM, asked, REQUEST))
    return shown(session)


@pytest.mark.slow
def test_a_search_is_begun_judged_and_taken_back(session: Session) -> None:
    assert shown_search(session) is None
    first = begun(session)
    assert (first.number, first.state) == (1, RoundState.READY)
    assert [candidate.number for candidate in first.candidates] == [0, 1, 2, 3, 4]
    assert all(path is not None and path.is_file() for each in first.candidates for path in each.images)
    assert first.names == ("OUT03:attn2", "OUT05:attn2", "alpha")
    assert first.candidates[0].values == (0.5, 0.25, 0.5)
    view = ended(act(session, wish(session, "next", 3, 1)))
    assert view.text.startswith("Round 2: 4 images in ")
    second = shown(session)
    assert (second.number, [past.words for past in second.past]) == (2, ["3, 1"])
    assert second.candidates[0].values == first.candidates[3].values
    assert second.candidates[0].images == first.candidates[3].images
    ended(act(session, wish(session, "none")))
    assert [past.words for past in shown(session).past] == ["3, 1", "none"]
    assert act(session, wish(session, "undo")) is None
    assert shown(session) == second
    ended(act(session, wish(session, "anew")))
    third = shown(session)
    assert [past.words for past in third.past] == ["3, 1", "anew, step 0.15"]
    assert third.candidates[0].values == second.candidates[0].values
    ended(act(session, wish(session, "anew")))
    assert shown(session).past[-1].words == "anew, step 0.075"


def test_what_is_picked_goes_into_the_form(session: Session) -> None:
    first = begun(session)
    present = replace(FORM, dtype="fp16")
    best = found_form(session, wish(session, "use"), present)
    assert best.dtype == "fp16"
    assert session.recipe(replace(best, dtype=FORM.dtype)).rules.rules[-1].alpha == 0.25
    picked = found_form(session, wish(session, "use", 2, 1), present)
    values = dict(zip(first.names, first.candidates[2].values, strict=True))
    assert picked.alpha == values["alpha"]
    assert f"OUT05:attn2:{values['OUT05:attn2']:g}" in picked.spec
    assert found_form(session, wish(session, "simplify", 2), present) == best
    with pytest.raises(ImageError, match="There is no candidate 9"):
        found_form(session, wish(session, "use", 9), present)


def test_the_headline_says_what_can_be_picked(session: Session) -> None:
    first = begun(session)
    html = draw_search(first)
    assert "one is enough, and 0 (the start) can be picked, too" in html
    assert '<span class="number">0 (the start)</span>' in html
    assert "Its candidates are 0." in html
    ended(act(session, wish(session, "next", 3, 0)))
    second = shown(session)
    assert [past.words for past in second.past] == ["3, 0 (the start)"]
    assert '<span class="number">0 (best so far)</span>' in draw_search(second)
    ended(act(session, wish(session, "next", 0, 2)))
    assert shown(session).past[-1].words == "0 (best so far), 2"


def test_how_far_candidates_lie_is_a_share_of_each_range() -> None:
    candidates = tuple(
        ShownCandidate(number, values=values) for number, values in enumerate([(0.5, 1), (1, 1), (0.5, 3)])
    )
    found = ShownSearch("s", 1, RoundState.READY, candidates, ("",), ("x", "y"), ((0, 1), (0, 4)))
    assert found.distance == pytest.approx(((0.5**2 + 0.5**2) / 4) ** 0.5)


def test_what_was_put_into_the_form_is_said() -> None:
    assert say_used("use x 2 5 1") == "Candidate 5 of round 2 is in the form now. Merge & Generate makes its image."
    for best in ("use x 2", "use x 2 0 1", "simplify x 2 5"):
        assert say_used(best).startswith("The best so far of the search is in the form now.")


@pytest.mark.slow
def test_each_prompt_is_made_with_each_seed(session: Session) -> None:
    first = begun(session, replace(ASKED, prompts="a cat\n\na dog", seeds="5, 7-8"))
    assert first.images == tuple(f"{prompt}, seed {seed}" for prompt in ("a cat", "a dog") for seed in (5, 7, 8))
    assert {len(candidate.images) for candidate in first.candidates} == {6}
    html = draw_search(first)
    assert html.count("<img") == 30
    assert 'alt="Candidate 2, a dog, seed 8"' in html


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (replace(ASKED, vary="OUT03:attn2:0-1\nOUT99::0-1"), "OUT99"),
        (replace(ASKED, vary="alpha:1-0"), "alpha"),
        (replace(ASKED, seeds="x"), 'Seeds: "x" is no whole number. Give whole numbers'),
        (replace(ASKED, candidates=None), "Candidates is blank or no whole number; a round can have 4 to 64."),
        (replace(ASKED, candidates=4.5), "Candidates is blank or no whole number"),
        (replace(ASKED, candidates=3), "A round has 3 candidates; it can have 4 to 64."),
        (replace(ASKED, step=None), "Step is blank"),
        (replace(ASKED, step=2), "The step is 2; it must be above 0"),
        (replace(ASKED, seeds="1-1000"), "images"),
    ],
)
def test_what_cannot_be_searched_is_refused(session: Session, asked: SearchForm, message: str) -> None:
    with pytest.raises(ElementalError, match=re.escape(message)):
        start(session, FORM, asked, REQUEST)
    assert session.board.job is None
    assert shown_search(session) is None


def test_another_page_has_judged_the_round(session: Session) -> None:
    begun(session)
    asked = wish(session, "next", 1)
    ended(act(session, asked))
    for late in (asked, asked.replace("next", "undo")):
        with pytest.raises(ImageError, match="judged on another page"):
            act(session, late)
    with pytest.raises(ImageError, match="Another search is open by now"):
        act(session, "next 2020-01-01_00-00-00 1 1")
    for nonsense in ("", "next", "next x y", "next x 1 y"):
        with pytest.raises(ImageError, match="cannot be read"):
            act(session, nonsense)
    assert shown(session).number == 2


def stop_after(session: Session, count: int, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Have the user press Stop when so many images are made."""
    made = []
    make = session.host.make_images

    def make_and_stop(*args: Any, **kwargs: Any) -> Any:
        made.append(1)
        if len(made) > count:
            session.stop()
        return make(*args, **kwargs)

    monkeypatch.setattr(session.host, "make_images", make_and_stop)
    return lambda: monkeypatch.setattr(session.host, "make_images", make)


@pytest.mark.slow
def test_a_stopped_round_goes_on(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    again = stop_after(session, 2, monkeypatch)
    view = ended(start(session, FORM, ASKED, REQUEST), JobState.STOPPED)
    assert "Stopped; 3 images left to make. The Search panel goes on with it." in view.text
    stopped = shown(session)
    assert stopped.state is RoundState.STOPPED
    assert len(stopped.files) == 2
    assert 'data-act="go-on"' in draw_search(stopped)
    again()
    missing = next(each.number for each in stopped.candidates if None in each.images)
    with pytest.raises(ElementalError, match="has no image"):
        act(session, wish(session, "next", missing))
    ended(act(session, wish(session, "go-on")))
    assert shown(session).state is RoundState.READY
    assert act(session, wish(session, "go-on")) is None


@pytest.mark.slow
def test_a_search_of_an_earlier_time_is_gone_on_with(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    begun(session)
    again = stop_after(session, 1, monkeypatch)
    ended(act(session, wish(session, "next", 2)), JobState.STOPPED)
    again()
    before = shown(session)
    assert searches(session) == []
    session.search = None  # the program was started anew
    (listed,) = searches(session)
    assert listed == f"{before.key}: round 2"
    view = ended(go_on(session, listed))
    assert view.text.startswith("Round 2: 3 images")
    after = shown(session)
    assert after.state is RoundState.READY
    assert [each.values for each in after.candidates] == [each.values for each in before.candidates]
    for choice, message in (
        ("", "Choose the search"),
        ("../../x", "There is no search"),
        ("gone: round 1", "no search"),
    ):
        with pytest.raises(ImageError, match=message):
            go_on(session, choice)


def test_candidates_that_fail_say_why(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    make, made = session.host.make_images, []

    def fail_once(*args: Any, **kwargs: Any) -> Any:
        made.append(1)
        if len(made) == 3:
            raise ImageError("<b>no memory</b>")
        return make(*args, **kwargs)

    monkeypatch.setattr(session.host, "make_images", fail_once)
    first = begun(session)
    assert first.state is RoundState.READY
    (broken,) = [candidate for candidate in first.candidates if "no memory" in candidate.trouble]
    html = draw_search(first)
    assert "&lt;b&gt;no memory&lt;/b&gt;" in html
    job = session.board.job
    assert job is not None
    assert f"Candidate {broken.number} failed" in job.view.text
    assert "Make the missing images" in html
    view = ended(act(session, wish(session, "go-on")))
    assert view.text.startswith("Round 1: 1 image in ")
    html = draw_search(shown(session))
    assert "no memory" not in html
    assert "Make the missing images" not in html


def test_candidates_that_show_nothing_are_marked(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    make, made = session.host.make_images, []

    def blacken_once(*args: Any, **kwargs: Any) -> Any:
        made.append(1)
        drawn = [replace(each, image=Image.linear_gradient("L").resize((16, 16))) for each in make(*args, **kwargs)]
        return [replace(each, image=Image.new("RGB", (16, 16))) for each in drawn] if len(made) == 3 else drawn

    monkeypatch.setattr(session.host, "make_images", blacken_once)
    troubles = [candidate.trouble for candidate in begun(session).candidates]
    assert sorted(troubles) == ["", "", "", "", "one colour only"]


@pytest.mark.slow
def test_without_a_word_groups_of_the_effect_map_vary(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_groups, "PASSES", 2)
    host = session.host
    assert isinstance(host, FakeHost)
    view = ended(start(session, FORM, replace(ASKED, vary=" \n"), REQUEST), JobState.FAILED)
    assert "cannot differentiate" in view.text
    assert "write it into the field yourself" in view.text
    assert shown_search(session) is None
    host.differentiates = True
    ended(start(session, FORM, replace(ASKED, vary=""), REQUEST))
    first = shown(session)
    assert len(first.names) == 8
    assert first.vary.splitlines() == list(first.names)
    assert session.previewer.find_effects is not None
    passes = len(host.reports)
    ended(start(session, replace(FORM, alpha=0.25), replace(ASKED, vary=""), REQUEST))
    assert not any(text == "estimating effects" for _, _, text in host.reports[passes:])
    assert shown(session) != first
