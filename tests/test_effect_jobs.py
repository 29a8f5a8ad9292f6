"""The effect map as a job of a session, on the standalone host and the demo's pair."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("diffusers")

from elemental.effects.samples import IMAGE, Pass, Samples
from elemental.effects.samples_file import read_samples
from elemental.errors import ImageError
from elemental.hosts.base import CheckpointRef
from elemental.hosts.standalone.host import StandaloneHost
from elemental.images.image_request import ImageRequest
from elemental.modes.catalogue import MergeMode
from elemental.runs.effect_ranking import rank_effects
from elemental.session import effect_jobs, merge_jobs
from elemental.session.form import MergeForm
from elemental.session.found_effects import FoundEffects, models_of, ratios_of
from elemental.session.jobs import JobState
from elemental.session.merge_preview import Previewer
from elemental.session.session import Session, session_of
from elemental.workflows import CONFIG_VARIABLE

from .demo_sessions import demo_pair, demo_session  # noqa: F401
from .fake_host import FakeHost
from .plotting import ended, load
from .serving import digest_of

FORM = MergeForm("a.safetensors", "b.safetensors", alpha=0.0)
LIVE = MergeForm("a.safetensors", "b.safetensors", alpha=0.5, spec="OUT03:attn2:1")
REQUEST = ImageRequest("a red circle on blue", seed=3, steps=2, cfg=4.0, width=64, height=64)


@pytest.fixture(scope="module")
def estimated(pair: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """A session with effects on model A, and a merge in the live model from before."""
    folder = tmp_path_factory.mktemp("estimated")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CONFIG_VARIABLE, str(folder / "config"))
        session = session_of(StandaloneHost(models=pair, output=folder / "out"))
        ended(merge_jobs.merge(session, LIVE, None, print_change=False))
        before = _live(session)
        ended(effect_jobs.estimate(session, FORM, REQUEST, 2))
        assert _live(session) == before
        yield session


def _live(session: Session) -> tuple[Any, str]:
    loaded = session.host.loaded()
    assert loaded is not None
    return session.model.live().recipe, digest_of(session.host.open_model(loaded))


def _table(session: Session, form: MergeForm) -> str:
    table = session.previewer.look(form).table
    assert table is not None
    return table


@pytest.mark.slow
def test_the_map_shows_the_effects_of_all_groups(estimated: Session) -> None:
    assert estimated.board.job is not None
    view = estimated.board.job.view
    assert re.match(
        r"2 backward passes in [\d.]+ s\. The element map shows the effects\. Folder: \S+effects\n", view.text
    )
    assert "A backward pass needs about" in view.text
    table = _table(estimated, FORM)
    ranks = sorted(map(int, re.findall(r'data-rank="(\d+)"', table)))
    assert ranks == list(range(1, len(ranks) + 1))
    assert len(ranks) > 300
    assert "estimated from 2 backward passes of U-Net steps" in table
    assert table.count('class="elemental-legend"') == 1
    assert estimated.history.entries()[0].kind == "effects"


def test_the_first_twenty_are_in_the_table(estimated: Session) -> None:
    assert estimated.board.job is not None
    rows = re.findall(r"<tr><td>(\d+)</td><td>([^<]+)</td>", estimated.board.job.view.table)
    assert [int(rank) for rank, _ in rows] == list(range(1, 21))
    assert len({name for _, name in rows}) == 20


def test_effects_stay_with_their_models_and_mode(estimated: Session) -> None:
    for form in (FORM, LIVE, MergeForm("a.safetensors", "b.safetensors", spec="OUT03::0.2")):
        assert "data-effect=" in _table(estimated, form)
    for other in (
        MergeForm("b.safetensors", "a.safetensors"),
        MergeForm("a.safetensors", "b.safetensors", "a.safetensors", mode=MergeMode.ADD_DIFFERENCE.value),
    ):
        assert "data-effect=" not in _table(estimated, other)
    assert "data-effect=" in _table(estimated, FORM)


def _stop_at(session: Session, monkeypatch: pytest.MonkeyPatch, part: int) -> str:
    """Estimate from six passes, press Stop at a part of the work, and give what the job says then."""
    report = session.host.report

    def stop(done: int, total: int, text: str) -> None:
        report(done, total, text)
        if text == "estimating effects" and done == part:
            session.stop()

    with monkeypatch.context() as patched:
        patched.setattr(session.host, "report", stop)
        return ended(effect_jobs.estimate(session, FORM, REQUEST, 6), JobState.STOPPED).text


@pytest.mark.slow
def test_a_stop_keeps_the_passes_and_paints_the_map_by_them(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    ended(merge_jobs.merge(session, LIVE, None, print_change=False))
    before = _live(session)
    stopped = _stop_at(session, monkeypatch, 4)
    assert "passes that are kept: 1." in stopped  # of the U-Net, and one of the VAE
    assert stopped.endswith("\nThe element map is painted by the passes that are kept.")
    assert _live(session) == before
    assert session.board.job is not None
    assert "<caption>The first 20 of" in session.board.job.view.table
    table = _table(session, FORM)
    assert "estimated from 1 backward pass of U-Net steps" in table  # the other one only decodes
    assert "data-effect=" in table
    (file,) = (session.host.output_folder() / "effects").glob("*.safetensors")
    kept, _ = read_samples(file)
    assert len(kept.passes) == 2
    assert list(kept.slopes) == [0]
    assert "2 backward passes (1 of them were there)" in ended(effect_jobs.estimate(session, FORM, REQUEST, 2)).text


def test_a_stop_before_the_first_pass_leaves_the_map_alone(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "element map" not in _stop_at(session, monkeypatch, 1)
    assert session.previewer.find_effects is None


def test_a_host_that_cannot_says_so(pair: Path, tmp_path: Path) -> None:
    session = session_of(FakeHost(load, output=tmp_path, models=pair))
    view = ended(effect_jobs.estimate(session, FORM, REQUEST, 2), JobState.FAILED)
    assert view.text == "This host cannot differentiate images, which effects are estimated by."
    assert session.previewer.find_effects is None


@pytest.mark.parametrize("passes", [None, 0, 1.5, 1001])
def test_passes_that_are_no_number_are_refused(passes: float | None, pair: Path, tmp_path: Path) -> None:
    session = session_of(FakeHost(load, output=tmp_path, models=pair))
    with pytest.raises(ImageError, match="enter a whole number from 1 to 1,000"):
        effect_jobs.estimate(session, FORM, REQUEST, passes)


KEYS = tuple(
    f"model.diffusion_model.output_blocks.{number}.1.transformer_blocks.0.attn2.to_k.weight" for number in (3, 4, 5)
)
NUMBERS = torch.tensor([[3.0, 0.0, 1.0], [0.0, 4.0, 1.0]])
"""Two passes over :data:`KEYS`: everything together is the root of 4 * 4 + 5 * 5."""


def _previewer(pair: Path, form: MergeForm) -> Previewer:
    """A previewer with known effects, made on top of a form."""
    checkpoints = [CheckpointRef(f"{name}.safetensors", pair / f"{name}.safetensors") for name in "ab"]
    previewer = Previewer(lambda: checkpoints)
    plan = previewer.look(form).plan
    assert plan is not None
    samples = Samples(KEYS, (Pass(0, 0, IMAGE), Pass(0, 1, IMAGE)), NUMBERS, {})
    ranking = rank_effects(samples, [tensor.name for tensor in plan.tensors])
    ratios = {key: ratios for key, ratios in ratios_of(plan).items() if key in KEYS}
    previewer.find_effects = FoundEffects(ranking, "known", models_of(plan.recipe), ratios).find
    return previewer


def _expected(previewer: Previewer, form: MergeForm) -> str:
    return next(iter(re.findall(r"<p>Estimate: (.*?)</p>", previewer.look(form).report)), "")


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("", "no change."),
        ("IN00::1", "no change."),
        ("OUT03:attn2.to_k:0.5", "about 23 % of the change, 1 element."),  # 1.5 / 6.403
        ("OUT03 OUT04:attn2.to_k:1", "about 78 % of the change, 2 elements."),  # 5 / 6.403
        ("OUT03:attn2.to_k:1\nOUT05:attn2.to_k:-1", "about 35 % of the change, 2 elements."),  # (2, -1)
        ("ALL::1", "about 100 % of the change, 3 elements."),
        ("ALL::2", "about 100 % of the change, 3 elements."),
    ],
)
def test_the_expected_share_is_known(spec: str, said: str, pair: Path) -> None:
    assert _expected(_previewer(pair, FORM), replace(FORM, spec=spec)) == said


def test_the_expected_share_is_that_from_a_wherever_effects_were_estimated(pair: Path) -> None:
    previewer = _previewer(pair, replace(FORM, alpha=0.5, spec="OUT04:attn2.to_k:0.25"))
    assert _expected(previewer, FORM) == "no change."
    assert _expected(previewer, replace(FORM, spec="OUT03:attn2.to_k:0.5")) == "about 23 % of the change, 1 element."
    assert _expected(previewer, replace(FORM, model_a="b.safetensors", model_b="a.safetensors")) == ""


def test_the_expected_share_of_all_tensors_costs_little(estimated: Session) -> None:
    plan = estimated.previewer.look(LIVE).plan
    find = estimated.previewer.find_effects
    assert plan is not None
    assert find is not None
    effects = find(plan)
    assert effects is not None
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        said = effects.expect(plan)
        seconds.append(time.perf_counter() - started)
    assert re.fullmatch(r"Estimate: about \d+ % of the change, 1,\d+ elements\.", said)
    assert min(seconds) < 0.01
