"""What users do with a live model, step by step, to be disturbed at any moment."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from elemental import ElementalError, MergeRecipe, VaeChoice, live_merge, make_images, model_source, parse_rules
from elemental.hosts.base import CheckpointRef, Host
from elemental.images.files import read_image
from elemental.runs.axes.base import Setting
from elemental.runs.axes.context import make_axis_context
from elemental.runs.axes.values import parse_axis
from elemental.runs.effect_estimate import EffectOrder, EffectWatcher, estimate_effects
from elemental.runs.element_check import parse_check
from elemental.runs.element_check_run import CheckRun
from elemental.runs.estimate import Estimate, estimate_check, estimate_plot
from elemental.runs.runner import Run, RunResult, start_run
from elemental.runs.simplify import SimplifyOrder
from elemental.runs.xy_plot_run import PlotRun, make_plot
from elemental.session import simplify_jobs
from elemental.session.form import FindModel, MergeForm
from elemental.session.history import History
from elemental.session.job_board import JobBoard
from elemental.session.jobs import Job, JobState
from elemental.session.merge_preview import Previewer
from elemental.session.merged_model import LiveNow, LiveState, MergedModel
from elemental.session.session import Session

from .places import Place
from .traps import Trap

LOANS = ("loan", "run", "restore")
"""Steps that may leave another model than before, if their last part fails."""


def recipes_of(place: Place) -> list[MergeRecipe]:
    """Give four merges: the second has other rules, the third another model B, the last another VAE."""
    first = MergeRecipe(place.source("a"), place.source("b"), alpha=0.0, rules=parse_rules("OUT05:attn2:0.5"))
    return [
        first,
        replace(first, rules=parse_rules("IN04:attn2:1,BASE:mlp.fc1:0.3")),
        replace(first, model_b=place.source("c")),
        replace(first, vae=VaeChoice.B, rules=parse_rules("OUT05:attn2:0.25")),
    ]


class Scene(ABC):
    """Something that a user does once.

    Attributes:
        start: The checkpoint that is loaded before.
        notes_interrupts: Whether Ctrl-C is no error, but an end that is told of.
        wrong: What was seen that must not be.
    """

    start = "a"
    notes_interrupts = False

    def __init__(self, place: Place, folder: Path) -> None:
        self.place = place
        self.folder = folder
        self.recipes = recipes_of(place)
        self.wrong: list[str] = []

    def prepare(self) -> None:
        """Find out what everything looks like when nothing goes wrong."""
        for recipe in self.recipes:
            self.place.learn(recipe)

    @abstractmethod
    def act(self, host: Host, trap: Trap) -> None:
        """Do it on a trapped host."""

    def after(self) -> None:  # noqa: B027 - most need nothing
        """Do what the user would do next to have the model back."""

    def expect(self, holds: bool, text: str) -> None:
        if not holds:
            self.wrong.append(text)


class Images(Scene):
    """Images of one merge."""

    def act(self, host: Host, trap: Trap) -> None:
        (image,) = make_images(host, self.place.request, self.recipes[0], controls=trap.controls())
        self.expect(image.image.tobytes() == self.place.pixels(self.recipes[0]), "a wrong image")


class Following(Scene):
    """A live merge that follows four recipes: rules, another model B, another VAE; a step that fails is tried again."""

    patient = True

    def act(self, host: Host, trap: Trap) -> None:
        live = host.open_model(CheckpointRef("a", self.place.paths["a"]))
        with live_merge(live) as merge:
            for recipe in self.recipes:
                try:
                    merge.apply(recipe, controls=trap.controls())
                except Exception:
                    if not self.patient:
                        raise
                    merge.apply(recipe, controls=trap.controls())
                self.expect(self.place.digest() == self.place.expected(recipe), "a step made another merge")
                self.expect(merge.is_intact(), "a merge was said to be lost")


class Leaving(Following):
    """The same, left at the first failure."""

    patient = False


class Bench(Scene):
    """A page: merge, images, another merge, a run that borrows the model, images, a third merge, restore."""

    start = "c"
    merged_model: MergedModel | None = None

    def act(self, host: Host, trap: Trap) -> None:
        merged_model = self.merged_model = MergedModel(host)
        steps: dict[str, Callable[[], object]] = {
            "merge": lambda: merged_model.merge(self.recipes[0], controls=trap.controls()),
            "images": lambda: self._draw(self.recipes[0], trap),
            "second merge": lambda: merged_model.merge(self.recipes[1], controls=trap.controls()),
            "loan": lambda: self._borrow(host),
            "more images": lambda: self._draw(self.recipes[1], trap),
            "third merge": lambda: merged_model.merge(self.recipes[3], controls=trap.controls()),
            "restore": lambda: merged_model.restore(),
        }
        for name, step in steps.items():
            self.step(host, trap, name, step)

    @property
    def model(self) -> MergedModel:
        assert self.merged_model is not None
        return self.merged_model

    def step(self, host: Host, trap: Trap, name: str, step: Callable[[], object], *, makes_job: bool = False) -> None:
        """Do a step in a job of its own; a merge or an image that fails leaves what was there before.

        Args:
            host: The host.
            trap: Raises at one of the step's calls.
            name: Of the step.
            step: Does it.
            makes_job: Whether it makes its job itself.
        """
        with trap.paused():
            before = self.model.live()
        done, raised = False, trap.raised
        try:
            with nullcontext() if makes_job else host.job(name, 1):
                step()
                done = True
        finally:
            struck = trap.raised > raised
            # what has failed by itself is put back, and that may fail then; what is lent is put back in any case
            kept = not done and not trap.lasting and struck != name.startswith("refused") and name not in LOANS
            with trap.paused():
                self._check(name, before if kept else None)

    def _check(self, name: str, wanted: LiveNow | None) -> None:
        """See that what the merged model says of the model is true, and if need be that it is what it was."""
        now = self.model.live()
        self.expect(wanted in (None, now), f"after a failed {name} there was {_describe(now)}")
        if now.recipe is not None:
            right = now.kind is LiveState.ACTIVE and self.place.digest() == self.place.expected(now.recipe)
        else:
            right = now.checkpoint is None or self.place.digest() == self.place.plain(now.checkpoint.path)
        self.expect(right, f"after {name} the model was not what the merged model said: {_describe(now)}")

    def _draw(self, recipe: MergeRecipe, trap: Trap) -> None:
        (image,) = self.model.images(self.place.request, controls=trap.controls())
        self.expect(image.image.tobytes() == self.place.pixels(recipe), "a wrong image")

    def _borrow(self, host: Host) -> None:
        with self.model.suspended():
            make_images(host, self.place.request, self.place.source("b"))

    def after(self) -> None:
        if self.merged_model is not None:
            with self.place.host.job("restore", 0):
                self.merged_model.restore()


class Refused(Bench):
    """A merge, one that is stopped half-way, and one of a damaged model: the first merge stays."""

    def act(self, host: Host, trap: Trap) -> None:
        merged_model = self.merged_model = MergedModel(host)
        self.step(host, trap, "merge", lambda: merged_model.merge(self.recipes[0], controls=trap.controls()))
        controls, polls = trap.controls(), iter(range(5))
        stopping = replace(controls, should_stop=lambda: controls.should_stop() or next(polls, None) is None)
        half = replace(self.recipes[0], rules=parse_rules(":attn2:0.75,BASE::0.5"))
        damaged = replace(self.recipes[0], model_a=self.place.source("damaged"))
        for recipe in (half, damaged):
            try:
                self.step(host, trap, "refused merge", partial(merged_model.merge, recipe, controls=stopping))
            except ElementalError:
                if trap.raised:
                    raise
            else:
                self.wrong.append("a merge was made that cannot be")


class _Run(Bench):
    """A merge that is put aside for a run, and is back after it."""

    notes_interrupts = True

    def prepare(self) -> None:
        super().prepare()
        run, _ = self.plan(self.place.host, Setting(self.recipes[0], self.place.request))
        for cell in (cell for cells in run.rounds() for cell in cells):
            self.place.pixels(cell.recipe, cell.request)

    def act(self, host: Host, trap: Trap) -> None:
        merged_model = self.merged_model = MergedModel(host)
        self.step(host, trap, "merge", lambda: merged_model.merge(self.recipes[0], controls=trap.controls()))
        self.step(host, trap, "run", lambda: self._make(host))

    def _make(self, host: Host) -> None:
        shutil.rmtree(self.folder / "run", ignore_errors=True)
        run, estimate = self.plan(host, Setting(self.recipes[0], self.place.request))
        with self.model.suspended():
            result = start_run(host, run, self.folder / "run", estimate=estimate)
        self._look(run, result)

    def _look(self, run: Run, result: RunResult) -> None:
        """See that each image that was made shows what it is said to show."""
        for cell in (cell for cells in run.rounds() for cell in cells):
            try:
                image = read_image(result.files.cell(cell.name))
            except ElementalError:
                continue
            same = image.tobytes() == self.place.pixels(cell.recipe, cell.request)
            self.expect(same, f"cell {cell.name} shows something else")

    @abstractmethod
    def plan(self, host: Host, base: Setting) -> tuple[Run, Estimate]:
        """Read the run, as the tab does before it puts the merge aside."""


class Plot(_Run):
    """A plot of four cells, of two models A."""

    def plan(self, host: Host, base: Setting) -> tuple[Run, Estimate]:
        context = make_axis_context(host, base.recipe)
        x = parse_axis("x", "elemental", "OUT05:attn2:0.3\n\nIN04:attn2:0.6", context)
        y = parse_axis("y", "model-a", "\n".join(str(self.place.paths[name]) for name in "ac"), context)
        plot = make_plot(base, {"x": x, "y": y}, context=context)
        return PlotRun(plot), estimate_plot(plot)


class Check(_Run):
    """A check of two elements."""

    def plan(self, host: Host, base: Setting) -> tuple[Run, Estimate]:
        check = parse_check(base, "OUT05:attn2.to_k,IN04:attn2", 1.0, make_axis_context(host, base.recipe))
        return CheckRun(check), estimate_check(check)


class Effects(Bench):
    """A merge that is put aside for an estimate of effects, and is back after it."""

    def act(self, host: Host, trap: Trap) -> None:
        merged_model = self.merged_model = MergedModel(host)
        self.step(host, trap, "merge", lambda: merged_model.merge(self.recipes[0], controls=trap.controls()))
        self.step(host, trap, "run", lambda: self._estimate(host, trap))
        self.step(host, trap, "images", lambda: self._draw(self.recipes[0], trap))

    def _estimate(self, host: Host, trap: Trap) -> None:
        watcher, requests = EffectWatcher(controls=trap.controls()), (self.place.request,)
        with self.model.suspended():
            estimate_effects(host, EffectOrder(self.recipes[1], requests, passes=2), watcher=watcher)


class _AtOnce(JobBoard):
    """Does jobs where they are asked for, so that what fails in them is raised there."""

    def start(self, name: str, work: Callable[[Job], None], **_: object) -> Job:
        self.job = job = Job(name)
        work(job)
        job.show(state=JobState.DONE)
        return job


class Simplifying(Bench):
    """A merge that is put aside while the tab's button Simplify simplifies another one, and is back after it."""

    def act(self, host: Host, trap: Trap) -> None:
        merged_model = self.merged_model = MergedModel(host)
        self.step(host, trap, "merge", lambda: merged_model.merge(self.recipes[0], controls=trap.controls()))
        self.step(host, trap, "run", lambda: self._simplify(host), makes_job=True)
        self.step(host, trap, "images", lambda: self._draw(self.recipes[0], trap))

    def _simplify(self, host: Host) -> None:
        shutil.rmtree(self.place.host.output_folder() / "simplified", ignore_errors=True)
        model_a, model_b = (str(self.place.paths[name]) for name in "ac")
        form = MergeForm(model_a, model_b, alpha=0.0, spec="OUT05:attn2:0.5")
        history, previewer = History(self.folder / "history.jsonl"), Previewer(host.checkpoints, host.models_folder)
        session = _OfAnyModel(host, self.model, _AtOnce(), history, previewer, form)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(simplify_jobs, "SimplifyOrder", partial(SimplifyOrder, passes=3))
            job = simplify_jobs.simplify_form(session, form, self.place.request, 50.0)
        self.expect(job.view.form is not None, "nothing was found")


class _OfAnyModel(Session):
    """A session that takes models from wherever they are."""

    @property
    def find_model(self) -> FindModel:
        return model_source


MERGING: Sequence[type[Scene]] = (Images, Following, Leaving, Bench, Refused, Plot, Check)
DIFFERENTIATING: Sequence[type[Scene]] = (Effects, Simplifying)
"""Scenes for hosts whose images can be differentiated."""
SCENES = (*MERGING, *DIFFERENTIATING)


def scenes_on(host: str) -> Sequence[type[Scene]]:
    """Give the scenes that can be played on a host, by its name."""
    if host in ("fake", "standalone"):
        return SCENES
    return DIFFERENTIATING if host == "webui-computing" else MERGING


def _describe(now: LiveNow) -> str:
    name = "" if now.checkpoint is None else now.checkpoint.path.name
    return f"{now.kind.value} {name} {'' if now.recipe is None else now.recipe.rules.rules}"
