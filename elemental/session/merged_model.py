"""The host's live model as the user works with it: a merge that stays in it, images of it, and the way back."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ElementalError, HostError, MergeError, Stopped
from ..hosts.base import NO_FIELDS, CheckpointRef, Host, LiveModel
from ..merge.files.checkpoint import is_there, read_signature
from ..merge.files.hashes import remembered_sha256
from ..merge.files.metadata import LABEL_FIELD, RECIPE_FIELD, name_recipe, recipe_as_json
from ..merge.files.model_locator import ModelLocator
from ..merge.files.open_models import OpenModels
from ..merge.plan import MergePlan
from ..merge.progress import Controls
from ..recipe.recipe import MergeRecipe, ModelSource
from ..workflows import images_of_merge, live_merge

if TYPE_CHECKING:
    from ..images.request import GeneratedImage, ImageRequest
    from ..merge.live import LiveMerge

_log = logging.getLogger(__name__)


class LiveState(Enum):
    """What is in the live model."""

    NOTHING = "nothing"
    FILE = "file"
    ACTIVE = "active"
    LOST = "lost"


@dataclass(frozen=True)
class LiveNow:
    """What is in the live model.

    Attributes:
        kind: Nothing, a checkpoint as it is, a merge, or no longer the merge that was.
        checkpoint: The file it was loaded from.
        recipe: The merge, if there is one or was one.
    """

    kind: LiveState
    checkpoint: CheckpointRef | None = None
    recipe: MergeRecipe | None = None


@dataclass
class _Active:
    """A merge in the live model.

    Attributes:
        live: The model.
        models: The files of its merges.
        merge: What keeps it equal to the recipe.
        stack: Gives the model back when it is closed.
        recipe: The merge; None until the first is whole.
        before: The checkpoint that was loaded before.
    """

    live: LiveModel
    models: OpenModels
    merge: LiveMerge
    stack: ExitStack
    recipe: MergeRecipe | None
    before: CheckpointRef | None


class MergedModel:
    """The live model of a host; its methods but :meth:`live` are called within a job of the host's, one at a time.

    Args:
        host: Whose model it is.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._active: _Active | None = None
        self._home: CheckpointRef | None = None  # what was loaded before a merge that is out again, until it is back
        self._lock = threading.RLock()
        host.before_loading(self._let_go)

    def live(self) -> LiveNow:
        """Tell what is in the model; cheap enough to be asked each second."""
        active = self._active
        loaded = self._host.loaded()
        if active is not None and active.recipe is not None:
            kind = LiveState.LOST if active.live.replaced() else LiveState.ACTIVE
            return LiveNow(kind, loaded, active.recipe)
        return LiveNow(LiveState.NOTHING if loaded is None else LiveState.FILE, loaded)

    def merge(
        self,
        recipe: MergeRecipe,
        *,
        controls: Controls | None = None,
        on_plan: Callable[[MergePlan], None] = lambda _: None,
    ) -> None:
        """Make the model equal to a recipe, and leave it so.

        Args:
            recipe: What to merge and how.
            controls: Progress and stop.
            on_plan: Called with the plan before any tensor is read; what it raises ends the merge.

        Raises:
            CheckpointError: A model is missing, damaged, has changed, or is none that can be merged.
            HostError: The host fails; or what was in the model before could not be put back, which the message says.
            MergeError: The models do not fit together, or cannot be merged into the live model.
            RecipeError: Block weights are for another architecture.
            Stopped: The caller asked for it.

        Unless putting it back failed, what was in the model before, another merge maybe, is in it again then.
        """
        with self._lock:
            now, home = self.live(), self._home
            try:
                self._merge(recipe, controls, on_plan)
            except BaseException as exc:
                self._put_back_after(exc, now, home)
                raise

    def _merge(
        self, recipe: MergeRecipe, controls: Controls | None, on_plan: Callable[[MergePlan], None] = lambda _: None
    ) -> None:
        active = self._begin(recipe, on_plan)
        active.merge.apply(recipe, controls=controls)
        active.recipe = recipe
        if not active.merge.is_intact():
            raise MergeError("The merge is not in the live model; something else has written to it.")
        text = recipe_as_json(recipe, active.merge.models)
        active.live.describe({LABEL_FIELD: name_recipe(recipe)}, {RECIPE_FIELD: text})

    @property
    def _locator(self) -> ModelLocator:
        return ModelLocator(self._host.models_folder())

    @property
    def _before(self) -> CheckpointRef | None:
        """The checkpoint that the user had before the first merge."""
        return self._active.before if self._active is not None else self._home or self._host.loaded()

    def _put_back_after(self, error: BaseException, now: LiveNow, home: CheckpointRef | None) -> None:
        """Have the model be what it was before an error, and tell of both if that fails, too."""
        try:
            self._put_back(now, home)
        except ElementalError as exc:
            if not isinstance(error, ElementalError):
                _log.warning("What was in the live model could not be put back: %s", exc)
                return
            first = "It was stopped." if isinstance(error, Stopped) else str(error)
            raise HostError(f"{first}\nWhat was in the live model could not be put back: {exc}") from error

    def _put_back(self, now: LiveNow, home: CheckpointRef | None) -> None:
        """Have the model be what it was: with the merge that was in it, or as the user's checkpoint is."""
        self._leave()
        if now.kind is LiveState.ACTIVE and now.recipe is not None:
            try:
                self._merge(now.recipe, None)
            except BaseException:
                self._leave()
                raise
            return
        if now.kind is LiveState.FILE and now.checkpoint is not None:
            self._home = home or now.checkpoint
            self._load(now.checkpoint)
        self._home = home

    def _load(self, wanted: CheckpointRef) -> None:
        loaded = self._host.loaded()
        if loaded is None or loaded.path != wanted.path:
            self._open(wanted.path)

    def images(
        self, request: ImageRequest, *, otherwise: ModelSource | None = None, controls: Controls | None = None
    ) -> Sequence[GeneratedImage]:
        """Make images of what is in the model.

        Args:
            request: What to make.
            otherwise: What to load if nothing is.
            controls: Progress and stop.

        Returns:
            As many as the request's batch, in the order of their seeds.

        Raises:
            CheckpointError: A model of the merge, or the one to load, is missing, damaged, or has changed.
            HostError: No model is loaded, the merge was lost, or the host fails.
            MergeError: The merge cannot be done again.
            RecipeError: Block weights are for another architecture.
            Stopped: The user asked for it.
        """
        with self._lock:
            now = self.live()
            if now.kind is LiveState.LOST:
                raise HostError("The merge was lost: another checkpoint was loaded meanwhile. Merge again, or restore.")
            if self._active is not None and now.recipe is not None:
                return images_of_merge(self._host, request, self._active.merge, now.recipe, controls=controls)
            if now.checkpoint is None:
                if otherwise is None:
                    raise HostError("No model is loaded: choose models and merge them first.")
                self._open(self._locator.locate(otherwise))
                now = self.live()
            if controls is not None and controls.should_stop():
                raise Stopped
            path = now.checkpoint.path if now.checkpoint else Path()
            sha256 = remembered_sha256(path) if is_there(path) else None
            names = {**({"Model hash": sha256[:10]} if sha256 else {}), "Model": path.stem}
            return self._host.make_images(request, model=names, fields=NO_FIELDS)

    def restore(self) -> None:
        """Give the model back as it was before the first merge, and load what was loaded then.

        Raises:
            CheckpointError: The file that was loaded then cannot be read any more.
            HostError: The host did not take the model back, or cannot load that file.
        """
        with self._lock:
            again, lost = self._active is None, self.live().kind is LiveState.LOST
            self._leave()
            if lost:
                self._home = None  # what took a lost merge's place is the user's own choice
            if self._home is not None:
                if again:  # the last time it failed, and what the host has loaded is nothing to go by
                    self._open(self._home.path)
                self._load(self._home)
                self._home = None

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Put the merge aside for a run of many merges; afterwards the model is what it was, the merge included.

        Raises:
            HostError: The host did not take the model back, or cannot load what was in it.
            ElementalError: The merge could not be made again afterwards, for the reasons that :meth:`merge` has.
        """
        with self._lock:
            now, home = self.live(), self._home
        try:
            with self._lock:
                self._leave()
            yield
        finally:
            with self._lock:
                self._put_back(now, home)

    def _begin(self, recipe: MergeRecipe, on_plan: Callable[[MergePlan], None]) -> _Active:
        """Plan, and open model A, in which the merge of the same model may go on."""
        path = self._locator.locate(recipe.model_a)
        active, loaded = self._active, self._host.loaded()
        before = self._before
        here = active is not None and loaded is not None and loaded.path == path and not active.live.replaced()
        if active is not None and here and not _any_changed(active.merge):
            on_plan(active.models.planner(recipe).plan(recipe))
            return active
        with ExitStack() as stack:
            models = stack.enter_context(OpenModels(self._locator))
            on_plan(models.planner(recipe).plan(recipe))  # what cannot be merged costs nobody a model
            self._leave()
            live = self._open(path)
            merge = stack.enter_context(live_merge(live, models))
            self._active, self._home = _Active(live, models, merge, stack.pop_all(), None, before), None
        return self._active

    def _open(self, path: Path) -> LiveModel:
        return self._host.open_model(CheckpointRef(path.stem, path))

    def _leave(self) -> None:
        """End the merge; the model is what it was before it, unless the host has loaded something over it."""
        with self._lock:
            active = self._active
            if active is None:
                return
            self._home = active.before
            try:
                with active.stack:
                    active.live.describe({}, NO_FIELDS)
            except Exception:
                self._active = None
                raise
            except BaseException:  # an interrupt: it may have come before the merge was out, or after
                if active.merge.given_back:
                    active.stack.close()
                    self._active = None
                raise
            self._active = None

    def _let_go(self) -> None:
        """End the merge, for the user loads something else."""
        with self._lock:
            try:
                self._leave()
            finally:
                self._home = None


def _any_changed(merge: LiveMerge) -> bool:
    """Tell whether the file of a model has changed since it was opened."""
    return any(read_signature(model.path) != model.signature for model in merge.models.values())
