"""The host's live model with the user's merge in it: merge, make images, restore."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import CheckpointError, ElementalError, HostError, MergeError, Stopped
from ..hosts.base import NO_FIELDS, CheckpointRef, Host, LiveModel
from ..merge.files.checkpoint import Checkpoint, is_there
from ..merge.files.hashes import remembered_sha256
from ..merge.files.metadata import LABEL_FIELD, RECIPE_FIELD, name_recipe, recipe_as_json
from ..merge.files.model_file import Identity, describe_change, read_identity
from ..merge.files.model_locator import ModelLocator
from ..merge.files.open_models import OpenModels
from ..merge.plan import MergePlan
from ..merge.progress import Controls
from ..recipe.chains import base_file
from ..recipe.recipe import MergeRecipe, ModelSource
from ..workflows import images_of_merge, live_merge

if TYPE_CHECKING:
    from ..images.image_request import GeneratedImage, ImageRequest
    from ..merge.live_merge import LiveMerge

_log = logging.getLogger(__name__)

OnPlan = Callable[[MergePlan], None]
"""Gets the plan of a merge before any tensor is read."""


class LiveState(Enum):
    """What is in the live model: no model, a checkpoint, a merge, or something loaded over a merge."""

    NOTHING = "nothing"
    FILE = "file"
    ACTIVE = "active"
    LOST = "lost"


@dataclass(frozen=True)
class LiveNow:
    """What is in the live model now.

    Attributes:
        kind: No model, a checkpoint, a merge, or a merge that was lost.
        checkpoint: The checkpoint it was loaded from.
        recipe: The recipe of the merge, also of a lost one.
    """

    kind: LiveState
    checkpoint: CheckpointRef | None = None
    recipe: MergeRecipe | None = None


@dataclass
class _ActiveMerge:
    """A merge in the live model.

    Attributes:
        live: The live model.
        opened: Its checkpoint, model A.
        models: The open models of its recipes.
        merge: Makes the live model equal to a recipe.
        stack: Restores the live model when it is closed.
        recipe: The recipe of the merge; None until the first one is complete.
        checkpoint_before: The checkpoint that the user had chosen before the merge.
    """

    live: LiveModel
    opened: CheckpointRef
    models: OpenModels
    merge: LiveMerge
    stack: ExitStack
    recipe: MergeRecipe | None
    checkpoint_before: CheckpointRef | None


@dataclass(frozen=True)
class _Before:
    """What was in the live model, to be put back.

    Attributes:
        now: What was in it; if no merge was, the user's checkpoint, whatever was loaded for a request.
        to_reload: The user's checkpoint, if that was not loaded again yet.
        active: The merge, if there was one.
        files: The identities of the files of the merge, or that of the checkpoint.
    """

    now: LiveNow
    to_reload: CheckpointRef | None
    active: _ActiveMerge | None
    files: Mapping[Path, Identity]

    def change(self) -> str | None:
        """Say in words that one of the files is not what it was; None if all are."""
        return _describe_any_change(self.files)


class MergedModel:
    """The live model of a host, with the user's merge in it.

    All methods but :meth:`live` are called within a job of the host, one at a time.

    Args:
        host: The host.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._active: _ActiveMerge | None = None
        # the user's checkpoint, while the merge is out of the model but this checkpoint is not loaded again yet
        self._to_reload: CheckpointRef | None = None
        self._lock = threading.RLock()
        host.before_loading(self._on_user_loads)

    def live(self) -> LiveNow:
        """Tell what is in the model; fast enough to be asked every second."""
        active = self._active
        loaded = self._host.loaded()
        if active is not None and active.recipe is not None:
            kind = LiveState.LOST if active.live.replaced() else LiveState.ACTIVE
            return LiveNow(kind, loaded, active.recipe)
        return LiveNow(LiveState.NOTHING if loaded is None else LiveState.FILE, loaded)

    @property
    def left_out(self) -> str:
        """What of model A is not merged, because the host does not use it, as a sentence; empty if there is none."""
        return self._active.live.left_out if self._active is not None else ""

    def merge(
        self,
        recipe: MergeRecipe,
        *,
        controls: Controls | None = None,
        on_plan: OnPlan | None = None,
    ) -> None:
        """Make the model equal to a recipe. The merge stays in it until :meth:`restore`.

        If the merge fails, what was in the model before is put back, which may be another merge.

        Args:
            recipe: The merge.
            controls: Progress and stop.
            on_plan: Called with the plan before any tensor is read; an error that it raises ends the merge.

        Raises:
            CheckpointError: A model is missing or damaged, has changed, or cannot be merged.
            HostError: The host fails; or the previous state could not be restored, which the message says.
            MergeError: The models do not fit together, or cannot be merged into the live model.
            RecipeError: Block weights are for another architecture.
            Stopped: The user stopped the merge.
        """
        with self._lock:
            before = self._remember()
            try:
                self._merge(recipe, controls, on_plan)
            except BaseException as exc:
                self._put_back_after(exc, before)
                raise

    def refuse_changed(self) -> None:
        """Refuse to repeat the merge in the model if the files of its models are not those that were merged.

        Raises:
            CheckpointError: One of them has changed, or is not there any more.
        """
        with self._lock:
            change = _describe_any_change(_files_of(self._active))
            if self.live().kind is LiveState.ACTIVE and change:
                raise CheckpointError(f"{change} since it was merged; merge again.")

    def _merge(self, recipe: MergeRecipe, controls: Controls | None, on_plan: OnPlan | None = None) -> None:
        active = self._begin(recipe, on_plan)
        recipe = active.merge.apply(recipe, controls=controls).plan.recipe
        active.recipe = recipe
        if not active.merge.is_intact():
            raise MergeError("Another program or extension has written to the live model; the merge is not in it.")
        text = recipe_as_json(recipe, active.merge.models)
        active.live.describe({LABEL_FIELD: name_recipe(recipe)}, {RECIPE_FIELD: text})

    @property
    def _locator(self) -> ModelLocator:
        return ModelLocator(self._host.models_folder())

    @property
    def _users_checkpoint(self) -> CheckpointRef | None:
        """The checkpoint that the user had chosen before the first merge."""
        return self._active.checkpoint_before if self._active is not None else self._to_reload or self._chosen()

    def _chosen(self) -> CheckpointRef | None:
        """Give the checkpoint of the user's next image: another is loaded after a request that asked for another."""
        loaded = self._host.loaded()
        return None if loaded is None else self._host.selected() or loaded

    def _remember(self) -> _Before:
        """Note what is in the model: a merge, or what the user has chosen."""
        now = self.live()
        if now.kind is LiveState.FILE:
            now = replace(now, checkpoint=self._chosen())
        if now.kind is LiveState.ACTIVE:
            return _Before(now, self._to_reload, self._active, _files_of(self._active))
        files = {}
        if now.kind is LiveState.FILE and now.checkpoint is not None:
            with suppress(CheckpointError):
                files = {now.checkpoint.path: read_identity(now.checkpoint.path)}
        return _Before(now, self._to_reload, None, files)

    def _put_back_after(self, error: BaseException, before: _Before) -> None:
        """Put the previous state back after an error; if that fails too, raise one error that says both."""
        try:
            self._put_back(before)
        except ElementalError as exc:
            if not isinstance(error, ElementalError):
                _log.warning("What was in the live model could not be put back: %s", exc)
                return
            first = "Stopped." if isinstance(error, Stopped) else str(error)
            raise HostError(f"{first}\nWhat was in the live model could not be put back: {exc}") from error

    def _put_back(self, before: _Before) -> None:
        """Put back what was in the model: a merge, or the user's checkpoint.

        Raises:
            HostError: It could not be put back, or not as it was; the message says what is in the model.
        """
        active, recipe = self._active, before.now.recipe
        if active is not None and active is before.active and recipe is not None and active.merge.holds(recipe):
            return  # nothing was written
        self._end_merge()
        if before.active is not None and recipe is not None:
            self._put_merge_back(before, before.active, recipe)
            return
        checkpoint = before.now.checkpoint
        if before.now.kind is LiveState.FILE and checkpoint is not None:
            self._to_reload = before.to_reload or checkpoint
            loaded_anew, change = self._load(checkpoint), before.change()
            self._to_reload = before.to_reload
            if loaded_anew and change:
                raise HostError(f"{change}; it was loaded as it is now.")
        self._to_reload = before.to_reload

    def _put_merge_back(self, before: _Before, active: _ActiveMerge, recipe: MergeRecipe) -> None:
        """Merge again, if the files are those that were merged before; otherwise load the user's checkpoint."""
        change = before.change()
        if change is None:
            try:
                self._merge(recipe, None)
            except BaseException:
                self._end_merge()
                raise
            if _files_of(self._active) == before.files:
                return
            self._end_merge()
        self._to_reload = active.checkpoint_before or active.opened
        try:
            remark = self._load_users_checkpoint(active.opened)
        except CheckpointError as exc:
            remark = f"{exc}\nNo model is loaded now."
        change = change or before.change() or "A model has changed on disk"
        raise HostError(f"{change} since it was merged, so the merge was not put back; merge again.\n{remark}".rstrip())

    def _load_users_checkpoint(self, model_a: CheckpointRef | None = None, *, force: bool = False) -> str:
        """Load the checkpoint that was chosen before the merge; if it cannot be read any more, stay with model A.

        Args:
            model_a: Model A of the merge that was taken out.
            force: Whether to ask the host for it even if it says that it is loaded.

        Returns:
            What the user did not expect, in words; empty if there is nothing.

        Raises:
            CheckpointError: Neither can be read.
            HostError: The host cannot load it.
        """
        wanted = self._to_reload
        if wanted is None:
            return ""
        try:
            if force:
                self._open(wanted.path)
            self._load(wanted)
        except CheckpointError as exc:  # after other errors another try may help
            if self._host.loaded() is None and model_a is not None and model_a.path != wanted.path:
                self._load(model_a)
            loaded = self._host.loaded()
            if loaded is None:
                raise
            self._to_reload = None
            return f"{exc}\nModel {loaded.path.name} stays loaded instead."
        self._to_reload = None
        return ""

    def _load(self, checkpoint: CheckpointRef) -> bool:
        """Load a checkpoint unless it is loaded, and tell whether it was not."""
        loaded = self._host.loaded()
        if loaded is not None and loaded.path == checkpoint.path:
            return False
        self._open(checkpoint.path)
        return True

    def images(
        self, request: ImageRequest, *, fallback: ModelSource | None = None, controls: Controls | None = None
    ) -> Sequence[GeneratedImage]:
        """Make images of what is in the model.

        Args:
            request: The images to make.
            fallback: The model to load if none is loaded.
            controls: Progress and stop.

        Returns:
            As many images as the request's batch, in the order of their seeds.

        Raises:
            CheckpointError: A model of the merge, or the one to load, is missing or damaged, or has changed.
            HostError: No model is loaded, the merge was lost, or the host fails.
            MergeError: The merge cannot be repeated.
            RecipeError: Block weights are for another architecture.
            Stopped: The user pressed Stop.
        """
        with self._lock:
            state = self.live()
            if state.kind is LiveState.LOST:
                raise HostError(
                    "The merge was lost, because another checkpoint was loaded over it. Merge again, or press Restore."
                )
            if self._active is not None and state.recipe is not None:
                return images_of_merge(self._host, request, self._active.merge, state.recipe, controls=controls)
            if state.checkpoint is None:
                if fallback is None:
                    raise HostError("No model is loaded. Choose models and merge them first.")
                self._open(self._locator.locate(fallback))
            if controls is not None and controls.should_stop():
                raise Stopped
            return self._host.make_images(request, model=self._checkpoint_names(), fields=NO_FIELDS)

    def _checkpoint_names(self) -> Mapping[str, str]:
        """Name the loaded checkpoint for the infotext, with its hash if that was computed before."""
        loaded = self._host.loaded()
        path = loaded.path if loaded else Path()
        sha256 = remembered_sha256(path) if is_there(path) else None
        return {**({"Model hash": sha256[:10]} if sha256 else {}), "Model": path.stem}

    def restore(self) -> str:
        """Take the merge out of the model, and load the checkpoint that the user had chosen before the first merge.

        If that cannot be read any more, model A stays. If another program has written to A's file, it is loaded anew.

        Returns:
            What the user did not expect, in words; empty if there is nothing.

        Raises:
            CheckpointError: Another program has written to A's file, and no checkpoint can be loaded.
            HostError: The host could not take the merge out, or cannot load a checkpoint.
        """
        with self._lock:
            active, lost = self._active, self.live().kind is LiveState.LOST
            changed = active is not None and not lost and active.merge.cannot_restore
            if active is not None and changed:
                _refuse_unreadable(active)
            self._end_merge()
            if lost:
                self._to_reload = None  # what was loaded over the merge is the user's choice
            # if an earlier try failed, what the host has loaded may not be that checkpoint
            remark = self._load_users_checkpoint(active.opened if active else None, force=active is None)
            loaded = self._host.loaded()
            if active is not None and changed and loaded is not None and loaded.path == active.opened.path:
                anew = f"{loaded.path} has changed on disk since it was loaded: it was loaded anew, as it is now."
                return f"{remark}\n{anew}".strip()
            return remark

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Take the merge out of the model for a run of many merges; afterwards the model is what it was before.

        Raises:
            HostError: The host could not take the merge out, or cannot load what was in the model.
            ElementalError: The merge could not be repeated, for one of the reasons in :meth:`merge`.
        """
        with self._lock:
            before = self._remember()
        try:
            with self._lock:
                self._end_merge()
            yield
        finally:
            with self._lock:
                self._put_back(before)

    def _begin(self, recipe: MergeRecipe, on_plan: OnPlan | None) -> _ActiveMerge:
        """Plan a merge, and open its model A; if model A is that of the active merge, continue with that one."""
        path = self._locator.locate(base_file(recipe.model_a))
        if self._active is not None and self._can_continue(self._active, path):
            if on_plan is not None:  # to continue, no whole plan is needed
                on_plan(self._active.models.planner(recipe).plan(recipe))
            return self._active
        checkpoint_before = self._users_checkpoint
        with ExitStack() as stack:
            models = stack.enter_context(OpenModels(self._locator))
            plan = models.planner(recipe).plan(recipe)  # a recipe that cannot be merged must not end the last merge
            if on_plan is not None:
                on_plan(plan)
            self._end_merge()
            live = self._open(path)
            merge = stack.enter_context(live_merge(live, models))
            opened = CheckpointRef(path.stem, path)
            self._active = _ActiveMerge(live, opened, models, merge, stack.pop_all(), None, checkpoint_before)
            self._to_reload = None
        return self._active

    def _can_continue(self, active: _ActiveMerge, path: Path) -> bool:
        """Tell whether a merge with this model A can be written over the active one."""
        loaded = self._host.loaded()
        is_same = loaded is not None and loaded.path == path and not active.live.replaced()
        return is_same and _describe_any_change(_files_of(active)) is None

    def _open(self, path: Path) -> LiveModel:
        return self._host.open_model(CheckpointRef(path.stem, path))

    def _end_merge(self) -> None:
        """Take the merge out of the model, unless the host has loaded something over it."""
        with self._lock:
            active = self._active
            if active is None:
                return
            self._to_reload = active.checkpoint_before
            if active.merge.cannot_restore and not active.live.replaced():
                active.merge.give_up()
                self._to_reload = active.checkpoint_before or active.opened
            try:
                with active.stack:
                    active.live.describe({}, NO_FIELDS)
            except Exception:
                self._active = None
                raise
            except BaseException:  # an interrupt, which may have come before the merge was out, or after
                if active.merge.given_back:
                    active.stack.close()
                    self._active = None
                raise
            self._active = None

    def _on_user_loads(self) -> None:
        """End the merge, because the user loads another checkpoint."""
        with self._lock:
            try:
                self._end_merge()
            finally:
                self._to_reload = None


def _files_of(active: _ActiveMerge | None) -> Mapping[Path, Identity]:
    """Give the identities of the files that a merge was made of."""
    models = active.merge.models.values() if active is not None else ()
    return {file.path: file.identity for model in models for file in model.files}


def _describe_any_change(files: Mapping[Path, Identity]) -> str | None:
    """Say in words that one of some files is not what it was; None if all are."""
    changes = (describe_change(path, identity) for path, identity in files.items())
    return next((change for change in changes if change is not None), None)


def _refuse_unreadable(active: _ActiveMerge) -> None:
    """Refuse to end a merge that cannot be taken out, if no checkpoint can be loaded in its place.

    Raises:
        CheckpointError: Neither the checkpoint that was loaded before it, nor its model A can be read.
    """
    error: CheckpointError | None = None
    for checkpoint in (active.checkpoint_before, active.opened):
        try:
            if checkpoint is not None:
                Checkpoint(checkpoint.path).close()
                return
        except CheckpointError as exc:
            error = exc
    raise CheckpointError(
        f"{active.opened.path} has changed on disk since it was loaded, and cannot be loaded anew: {error}\n"
        "The merge stays in the live model; load another checkpoint."
    ) from error
