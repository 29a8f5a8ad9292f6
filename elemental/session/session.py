"""What all pages of one host share: its merged model, the job that runs, the history, and what the form said last."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import ElementalError, Stopped
from ..hosts.base import CheckpointRef, Host
from ..merge.files.metadata import name_recipe
from ..merge.files.model_locator import ModelLocator
from ..merge.progress import Controls
from ..recipe.recipe import MergeRecipe
from ..workflows import identify_models, user_presets_path
from .form import MergeForm, finder
from .history import History, HistoryEntry
from .jobs import Job, JobBoard
from .merged_model import MergedModel
from .preview import Previewer


@dataclass
class Session:
    """What all pages of one host share.

    Attributes:
        host: What makes the images.
        model: Its live model.
        board: The job that runs.
        history: What was done before.
        previewer: Plans what the form says.
        form: What was previewed last, for a page that is loaded anew.
        live_form: What the form said when the merge was made that is in the live model.
        panels: What the other panels said when they were used last, by the names of their fields.
    """

    host: Host
    model: MergedModel
    board: JobBoard
    history: History
    previewer: Previewer
    form: MergeForm
    live_form: MergeForm = field(default_factory=MergeForm)
    panels: dict[str, Any] = field(default_factory=dict)

    def recipe(self, form: MergeForm) -> MergeRecipe:
        """Make the recipe that a form asks for.

        Raises:
            ElementalError: It cannot be made.
        """
        return form.recipe(finder(self.checkpoints()))

    @property
    def locator(self) -> ModelLocator:
        """What finds the models of recipes: where they were, or in the host's folder."""
        return ModelLocator(self.host.models_folder())

    def checkpoints(self) -> Sequence[CheckpointRef]:
        """List the host's checkpoints."""
        return self.host.checkpoints()

    def remember(
        self, kind: str, recipe: MergeRecipe, result: str, form: MergeForm, extra: Mapping[str, Any] | None = None
    ) -> None:
        """Put what was done into the history.

        Args:
            kind: Of :class:`HistoryEntry`.
            recipe: What was merged.
            result: What came of it, in words.
            form: What the merge panel said.
            extra: What another panel said, by the names of its fields.
        """
        with suppress(ElementalError):  # a file that went meanwhile is no reason to forget what was done with it
            recipe = identify_models(recipe)
        fields = {**form.to_dict(), **(extra or {})}
        self.history.add(HistoryEntry(kind, name_recipe(recipe), result, fields, recipe.to_dict()))

    @contextmanager
    def host_job(self, job: Job, name: str, images: int) -> Iterator[None]:
        """Have the host to oneself for a job, unless it was stopped while it waited for that.

        Raises:
            Stopped: It was.
        """
        with self.host.job(f"elemental {name}", images):
            if job.should_stop():
                raise Stopped
            yield

    def stop(self) -> None:
        """Ask the job to end."""
        if self.board.job is not None and not self.board.job.view.ended:
            self.board.job.stop()
            self.host.stop()

    def controls(self) -> Controls:
        """Give what makes the running job's progress be seen, and stops it."""
        job = self.board.job
        assert job is not None
        total = done = 0

        def begin(size: int) -> None:
            nonlocal total
            total += size

        def advance(size: int) -> None:
            nonlocal done
            done += size
            self.host.report(done, total, "merging")
            job.show(done=min(1.0, done / total) if total else 0.0)

        def stage(text: str) -> None:
            job.show(text=f"{text} ...")

        return Controls(begin, stage, advance, lambda: job.should_stop() or self.host.should_stop())

    @property
    def images(self) -> Path:
        """The folder in which images of single merges are kept."""
        return self.host.output_folder() / "images"


def session_of(host: Host) -> Session:
    """Give the session of a host: the same one however often the tab is built, so that what runs goes on meanwhile."""
    return _session_of(host)  # type: ignore[arg-type]  # the port need not say that hosts can be told apart


@functools.cache
def _session_of(host: Host) -> Session:
    history = History(user_presets_path().with_name("history.jsonl"))
    return Session(host, MergedModel(host), JobBoard(), history, Previewer(host.checkpoints), _first_form(host))


def _first_form(host: Host) -> MergeForm:
    """Choose what cannot be meant otherwise: as A the model that is loaded, and where there are but two, both."""
    loaded, titles = host.loaded(), [known.title for known in host.checkpoints()]
    first = next((known.title for known in host.checkpoints() if loaded and known.path == loaded.path), "")
    if len(titles) != 2:
        return MergeForm(model_a=first)
    first = first or titles[0]
    return MergeForm(model_a=first, model_b=next(title for title in titles if title != first))
