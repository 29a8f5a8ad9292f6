"""What all pages of a host share: the live model, the running job, the history, and the last form."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ElementalError, Stopped
from ..hosts.base import CheckpointRef, Host, HostSettings, LoraRef
from ..merge.files.metadata import name_recipe
from ..merge.files.model_locator import ModelLocator
from ..merge.progress import Controls
from ..recipe.recipe import MergeRecipe
from ..workflows import identify_models, user_presets_path
from .form import FindModel, MergeForm, finder, form_from_recipe
from .history import History, HistoryEntry
from .job_board import JobBoard
from .jobs import Job
from .merge_preview import Previewer
from .merged_model import MergedModel
from .recipe_models import list_recipes
from .run_devices import RunDevices
from .thumbnails import keep_thumbnail

if TYPE_CHECKING:
    from .found_effects import FoundEffects
    from .search_jobs import OpenSearch

_REPLACED = "What the form said before a simplified merge was put into it."


@dataclass
class Session:
    """What all pages of a host share.

    Attributes:
        host: The host.
        model: Its live model, with the user's merge in it.
        board: The running job, or the last one, and those that wait.
        history: What was merged, made and saved before.
        previewer: Plans the form while the user types.
        form: The last form that was previewed; a page that is loaded again starts with it.
        live_form: The form of the merge in the live model.
        panels: The last values of the other panels, by field name.
        told: Records of runs of version 0.1.0 whose user was told that they lack the host's settings.
        running: The record of the run whose images are being made; None if there is none.
        search: The search that is open; None if there is none.
        effects: The effects that were estimated last; None if there are none.
        devices: Where the images of runs can be made.
    """

    host: Host
    model: MergedModel
    board: JobBoard
    history: History
    previewer: Previewer
    form: MergeForm
    live_form: MergeForm = field(default_factory=MergeForm)
    panels: dict[str, Any] = field(default_factory=dict)
    told: set[Path] = field(default_factory=set)
    running: Path | None = None
    search: OpenSearch | None = None
    effects: FoundEffects | None = None
    devices: RunDevices = field(default_factory=RunDevices)

    def recipe(self, form: MergeForm) -> MergeRecipe:
        """Make the recipe of a form.

        Raises:
            ElementalError: The form is not complete, or does not fit together.
        """
        return form.recipe(self.find_model, self.loras())

    @property
    def find_model(self) -> FindModel:
        """Finds a model by its title in the host's list, or by its path in the list or in the host's folder."""
        return finder(self.checkpoints(), self.host.models_folder(), self.loras())

    @property
    def locator(self) -> ModelLocator:
        """Finds the models of recipes: at their path, or in the host's folder of models."""
        return ModelLocator(self.host.models_folder())

    def checkpoints(self) -> Sequence[CheckpointRef]:
        """List the checkpoints of the host."""
        return self.host.checkpoints()

    def loras(self) -> Sequence[LoraRef]:
        """List the LoRAs of the host."""
        return self.host.loras()

    def form_of(self, recipe: MergeRecipe) -> MergeForm:
        """Fill a form from a recipe, by the host's names.

        Raises:
            RecipeError: The form has no field for something in the recipe.
        """
        return form_from_recipe(recipe, self.checkpoints(), self.loras())

    def model_titles(self) -> list[str]:
        """List what can be chosen as a model: the checkpoints of the host, and the recipes in its folder."""
        checkpoints = self.checkpoints()
        recipes = list_recipes(self.host.models_folder()) if checkpoints else []  # else it may be any folder
        return [listed.title for listed in (*checkpoints, *recipes)]

    def remember(
        self,
        kind: str,
        recipe: MergeRecipe,
        result: str,
        form: MergeForm,
        extra: Mapping[str, Any] | None = None,
        *,
        image: Path | None = None,
    ) -> None:
        """Add an entry to the history.

        Args:
            kind: The kind of :class:`HistoryEntry`.
            recipe: The recipe of the merge.
            result: The result, as a text.
            form: The values of the merge panel.
            extra: The values of another panel and of the image request, by field name.
            image: An image or a grid that shows the result.
        """
        with suppress(ElementalError):  # a deleted model must not prevent the entry
            recipe = identify_models(recipe)
        fields = {**form.to_dict(), **(extra or {})}
        shown = "" if image is None else str(image)
        entry = HistoryEntry(kind, name_recipe(recipe), result, fields, recipe.to_dict(), image=shown)
        self.history.add(entry)
        if image is not None:
            keep_thumbnail(self.history, entry.number, image)

    def keep_form(self, form: MergeForm) -> None:
        """Add a form that another one takes the place of to the history, unless it is there, or asks for no merge."""
        if any(entry.form == form.to_dict() for entry in self.history.entries()):
            return
        with suppress(ElementalError):
            recipe = self.recipe(form)
            self.history.add(HistoryEntry("form", name_recipe(recipe), _REPLACED, form.to_dict(), recipe.to_dict()))

    @contextmanager
    def host_job(self, job: Job, name: str, images: int, settings: HostSettings | None = None) -> Iterator[None]:
        """Hold the host for a job, after waiting for the jobs before it.

        Args:
            job: The job.
            name: Its name.
            images: How many images it makes.
            settings: What they are made with besides their requests, as the page said when the job was asked for.

        Raises:
            Stopped: The user stopped the job while it waited.
        """
        with self.host.job(f"elemental {name}", images, settings):
            if job.should_stop():
                raise Stopped
            yield

    def stop(self, number: int = 0) -> None:
        """Stop the running job, if there is one; those that wait go on.

        Args:
            number: Of the job that is meant, since another one may run by now; 0 for any.
        """
        self.board.stop(number, self.host.stop)

    def controls(self) -> Controls:
        """Give the controls of the running job: they show its progress, and tell when the user stops it."""
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

    def stop_controls(self) -> Controls:
        """Give the controls of a job that shows its progress itself: they tell when the user stops it."""
        return Controls(should_stop=self.controls().should_stop)

    @property
    def images_folder(self) -> Path:
        """The folder for images that are not part of a run."""
        return self.host.output_folder() / "images"


def session_of(host: Host) -> Session:
    """Give the session of a host; it stays the same if the tab is built again, so a running job continues."""
    return _session_of(host)  # type: ignore[arg-type]  # the port does not say that hosts are hashable, but all are


@functools.cache
def _session_of(host: Host) -> Session:
    history = History(user_presets_path().with_name("history.jsonl"))
    previewer = Previewer(host.checkpoints, host.models_folder, host.loras)
    return Session(host, MergedModel(host), JobBoard(), history, previewer, first_form(host))


def first_form(host: Host) -> MergeForm:
    """Choose model A: the loaded one, or the one that the host is about to load, or the first of its list.

    If the host has exactly two models, both are chosen.
    """
    checkpoints = host.checkpoints()
    titles = [checkpoint.title for checkpoint in checkpoints]
    titles_by_path = {checkpoint.path: checkpoint.title for checkpoint in checkpoints}
    chosen = [titles_by_path.get(ref.path, "") for ref in (host.loaded(), host.selected()) if ref is not None]
    model_a = next(filter(None, [*chosen, *titles]), "")
    model_b = next(title for title in titles if title != model_a) if len(titles) == 2 else ""
    return MergeForm(model_a=model_a, model_b=model_b)
