"""Merge recipes into a live model, one after the other, rewriting only what differs, and restore it afterwards."""

from __future__ import annotations

import logging
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from ..architectures.tensor_sets import members
from ..errors import HostError, MergeError
from ..recipe.recipe import MergeRecipe
from .execute import Sink, execute
from .files.checkpoint import Checkpoint
from .files.hashes import remember_place
from .files.open_models import OpenModels
from .files.tensor_data import Buffer
from .interrupts import uninterrupted
from .live_contents import (
    LiveContents,
    Witness,
    choose_sample,
    fits,
    identities,
    present_tensors,
    unchanged,
    wrong_live_model,
)
from .live_sinks import ComparingSink, LiveSink
from .measuring import with_measured_numbers
from .models import Model
from .plan import FileRole, MergePlan, TensorPlan
from .planner import planning_key
from .progress import Controls
from .recent_tensors import RecentTensors
from .tensor_identity import identify_tensor
from .tensor_views import Parts, copy_piece, count_numbers, equals, pieces_of

_log = logging.getLogger(__name__)

_LOAD_AGAIN = "Load the checkpoint again."


class LiveTensors(Protocol):
    """The part of a host's live model that merging needs; see ``hosts.base.LiveModel``."""

    def tensors(self) -> Mapping[str, Sequence[Tensor]]:
        """Give the parts of each tensor by its checkpoint key."""

    def changed(self, keys: Collection[str]) -> None:
        """Note that these tensors were written to."""

    def claim(self) -> AbstractContextManager[None]:
        """Reserve the model for one merge."""

    def keep(self, label: str) -> None:
        """Note that the merge stays in the model."""

    def replaced(self) -> bool:
        """Tell whether the host has loaded another checkpoint since."""


class Written(NamedTuple):
    """What :meth:`LiveMerge.apply` wrote.

    Attributes:
        plan: The tensors that were written; the others were up to date. Its recipe has the numbers that were measured.
        nbytes: Their size in bytes, in the live tensors' dtypes.
    """

    plan: MergePlan
    nbytes: int


class LiveMerge:
    """Merges recipes into a live model; a context manager.

    The model always holds what loading the merged file of the last recipe would give, bit for bit: results are rounded
    to the file's dtype, and then to the live tensor's. When the ``with`` block ends, the model is restored bit for bit,
    whatever happened, unless :meth:`keep` was called or the host has loaded another model.

    It needs the memory of a few tensors: they are restored from the file that the model was loaded from. Only tensors
    that differ from this file (for example a VAE chosen separately), or all if there is no file, are copied before they
    are written to. The file may be renamed, deleted or replaced meanwhile; if another program writes to it, the model
    cannot be restored.

    Args:
        live: The live model.
        models: Opens the models of recipes, and plans them.
        original: The file that the live model was loaded from, if any; open until the end.

    Raises:
        HostError: On entering, another merge is using the model; on leaving, the model could not be restored.
    """

    # so that a merge that is dropped unfinished, in a cycle of references, is taken out before its file is closed
    _files_in_use: ClassVar[dict[int, Checkpoint | None]] = {}
    _process_ends = staticmethod(sys.is_finalizing)  # kept here: at that time modules are empty already

    def __init__(self, live: LiveTensors, models: OpenModels, *, original: Checkpoint | None) -> None:
        self._live = live
        self._recent = RecentTensors()
        self._open_models = models
        self._original = original
        self._claim = live.claim()
        self._saved: dict[str, Parts | None] = {}  # None: as in the original's file
        self._touched: set[str] = set()
        self._unreported: set[str] = set()
        self._contents: LiveContents | None = None
        self._witness: Witness | None = None
        self._buffer = Buffer()
        self._kept = False

    def __enter__(self) -> LiveMerge:
        self._claim.__enter__()
        self._files_in_use[id(self)] = self._original
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process_ends():
            return  # the model ends with it, and a tensor that is touched now would abort the process
        try:
            self.give_back()
        finally:
            self._recent.wait()
            self._files_in_use.pop(id(self), None)
            self._claim.__exit__(None, None, None)

    def give_back(self) -> None:
        """Restore the model in spite of errors and interrupts; leaving the ``with`` block does the same.

        Raises:
            HostError: The model could not be restored.
        """
        if not self.given_back and not self._process_ends():
            uninterrupted(self._give_back)

    @property
    def given_back(self) -> bool:
        """Whether the model is restored, or its merge is to stay."""
        return self._kept or not (self._touched or self._unreported)

    @property
    def cannot_restore(self) -> bool:
        """Whether tensors that were written to are lost, because another program has written to their file."""
        from_file = any(self._saved[key] is None for key in self._touched)
        return from_file and self._original is not None and self._original.has_changed()

    def give_up(self) -> None:
        """Leave the rest of the merge in the model, and have the host know that the model is not its checkpoint."""
        self._kept = True
        self._live.keep("the rest of a merge")

    def holds(self, recipe: MergeRecipe) -> bool:
        """Tell whether a recipe was merged completely, and nothing was written by this object since."""
        contents = self._contents
        return contents is not None and contents.recipe == recipe and contents.up_to_date == contents.present

    @property
    def models(self) -> Mapping[FileRole, Model]:
        """The models and LoRAs of the last recipe."""
        return self._contents.all_models if self._contents else {}

    def apply(self, recipe: MergeRecipe, *, controls: Controls | None = None) -> Written:
        """Merge a recipe into the live model.

        After an error the model is partly merged, until the next successful call or the end of the ``with`` block.

        Args:
            recipe: What to merge and how.
            controls: Progress, in bytes of results, and stop.

        Returns:
            The tensors that were written.

        Raises:
            CheckpointError: A model is missing, damaged, has changed, or cannot be merged.
            HostError: The host has loaded another checkpoint, cannot give its tensors, or did not accept new ones.
            MergeError: The models do not fit together, or do not fit the live model; or see
                :func:`~.execute.execute`.
            RecipeError: Block weights are for another architecture; or there is nothing that the mode could measure.
            Stopped: ``controls`` asked to stop.
        """
        if self._live.replaced():
            raise HostError("Another checkpoint was loaded since, and the merge is gone: merge again.")
        recipe = with_measured_numbers(recipe, self._open_models, controls=controls)
        live = self._live.tensors()
        contents = self._contents_for(recipe, live)
        ratios, lora_uses = contents.planner.ratios(recipe), contents.planner.lora_uses(recipe)
        more_ratios = contents.planner.more_ratios(recipe)
        same = unchanged(contents.ratios, ratios) & unchanged(contents.lora_uses, lora_uses)
        same &= unchanged(contents.more_ratios, more_ratios)
        tensors = contents.present & ~(same & contents.up_to_date)
        planned = contents.planner.plan_some(recipe, tensors)
        keys = [tensor.name.key for tensor in planned.tensors]
        contents.up_to_date &= ~tensors
        self._touched.update(keys)
        if keys:
            self._witness = None
            self._run(planned, contents, live, LiveSink(live), controls)
            self._report(keys)
        contents.recipe, contents.ratios, contents.lora_uses = recipe, ratios, lora_uses
        contents.more_ratios = more_ratios
        contents.up_to_date = contents.present
        return Written(planned, sum(part.nbytes for key in keys for part in live[key]))

    def is_intact(self) -> bool:
        """Tell whether the merge is still in the live model, by a sample of its tensors.

        The sample is merged again. If another program has written to one of the files, it is compared with what it was
        at the last call.

        Returns:
            False if they differ from the last recipe's results, no recipe was applied completely, or the host has
            loaded another checkpoint.

        Raises:
            CheckpointError: A tensor of the recipe's models cannot be read.
            HostError: The host cannot give its tensors now.
            MergeError: The sample cannot be computed on the tensors' device.
        """
        contents = self._contents
        if contents is None or contents.up_to_date != contents.present or self._live.replaced():
            return False
        live = self._live.tensors()
        sample = choose_sample(contents.planner.plan_some(contents.recipe, contents.up_to_date))
        if all(fits(tensor, live) for tensor in sample.tensors) and self._is_in(sample, contents, live):
            return True
        contents.up_to_date = 0  # the next recipe is written completely
        return False

    def _is_in(self, sample: MergePlan, contents: LiveContents, live: Mapping[str, Sequence[Tensor]]) -> bool:
        if self._witness is not None and any(file.has_changed() for file in contents.files):
            return self._witness.agrees(live)
        sink = ComparingSink(live)
        self._run(sample, contents, live, sink, None)
        if not sink.differs:
            self._witness = Witness([tensor.name.key for tensor in sample.tensors], live)
        return not sink.differs

    def keep(self, label: str) -> None:
        """Leave the merge in the model when the ``with`` block ends.

        Args:
            label: The name of the merge.

        Raises:
            CheckpointError: A tensor of the recipe's models cannot be read.
            HostError: The host cannot give its tensors now.
            MergeError: There is no complete merge in the model, or it cannot be compared.
        """
        if not self.is_intact():
            raise MergeError("There is no complete merge in the live model to keep.")
        self._live.keep(label)
        self._kept = True

    def restore(self, keys: Iterable[str] | None = None) -> None:
        """Restore the live model to its state before the merge.

        Args:
            keys: The tensors to restore; by default all that were written to.

        Raises:
            HostError: Some tensors could not be restored, while all others are; or the host has loaded something else,
                and nothing is restored.
        """
        keys = sorted(self._touched if keys is None else self._touched.intersection(keys))
        failures = self._restore_each(keys)
        if self._contents is not None:
            places = [self._contents.places[key] for key in keys if key in self._contents.places]
            self._contents.up_to_date &= ~sum(1 << place for place in places)
        try:
            self._report(keys)
        except Exception as exc:
            failures.append(exc)
        if failures:
            lost = len(self._touched.intersection(keys))
            failed = f"{lost} tensors of the live model could not be restored" if lost else "The host failed"
            raise HostError(f"{failed} ({failures[0]}).\n{_LOAD_AGAIN}") from failures[0]

    def _restore_each(self, keys: Iterable[str]) -> list[Exception]:
        """Restore as many tensors as possible; give the errors of the others."""
        live = self._live.tensors()
        failures: list[Exception] = []
        for key in keys:
            try:
                self._restore(key, live[key])
                self._touched.discard(key)
            except Exception as exc:
                failures.append(exc)
        return failures

    def _give_back(self) -> None:
        """Restore the model; after a failure try once more, as this is the last chance."""
        if self.cannot_restore and not self._live.replaced():
            self.give_up()
            raise HostError(self._lost())
        interrupt: BaseException | None = None
        try:
            self._restore_unless_replaced()
            return
        except Exception:
            _log.info("The live model was not restored at once", exc_info=True)
        except BaseException as exc:
            interrupt = exc
        try:
            self._restore_unless_replaced()
        except BaseException as exc:
            self.give_up()
            if _LOAD_AGAIN in str(exc):
                raise
            raise HostError(f"The live model could not be restored ({exc}).\n{_LOAD_AGAIN}") from exc
        if interrupt is not None:
            raise interrupt

    def _lost(self) -> str:
        path = self._original.path if self._original else None
        return (
            f"{path} has changed on disk since it was loaded, so the merge could not be taken out of the live model: "
            "the checkpoint has to be loaded again."
        )

    def _restore_unless_replaced(self) -> None:
        if self._live.replaced():
            self._touched.clear()
            self._unreported.clear()
        else:
            self.restore()

    def _report(self, keys: Iterable[str]) -> None:
        """Tell the host which tensors changed; after a failure they are reported again next time."""
        self._unreported.update(keys)
        if self._unreported:
            self._live.changed(sorted(self._unreported))
            self._unreported.clear()

    def _restore(self, key: str, parts: Sequence[Tensor]) -> None:
        for start, numbers in self._original_numbers(key):
            for part, at, piece in pieces_of(parts, start, numbers):
                copy_piece(part, at, piece)

    def _original_numbers(self, key: str) -> Iterator[tuple[int, Tensor]]:
        """Give the numbers that a tensor had, in pieces: the index of the first number, and the numbers."""
        saved = self._saved.get(key)
        if saved is None:
            assert self._original is not None
            yield from self._original.data(key).pieces(self._buffer)
            return
        start = 0
        for numbers in saved:
            yield start, numbers.reshape(-1)
            start += numbers.numel()

    def _contents_for(self, recipe: MergeRecipe, live: Mapping[str, Sequence[Tensor]]) -> LiveContents:
        """Give the contents for a recipe: the last ones if all but ratios and rules is the same."""
        before = self._contents
        # choosing a VAE in the host removes keys and brings them back
        contents_key = planning_key(recipe), recipe.numbers, recipe.adjust, len(live)
        if before is not None and before.key == contents_key:
            return before
        models, planner = self._open_models.open(recipe), self._open_models.planner(recipe)
        if self._original is not None and self._original.architecture != planner.architecture:
            raise MergeError(wrong_live_model(f"it is {self._original.architecture.name}", planner))
        contents = LiveContents(
            contents_key,
            planner,
            models,
            present_tensors(planner, live),
            recipe,
            self._open_models.loras(recipe),
            planner.ratios(recipe),
            planner.lora_uses(recipe),
            planner.more_ratios(recipe),
        )
        if any(part.device.type == "meta" for parts in live.values() for part in parts):
            raise HostError(f"Some tensors of the live model are not in memory now. {_LOAD_AGAIN}")
        self._restore_others(contents, live)
        held = identities(before, before.up_to_date) if before else {}
        self._save(contents, live, held)
        for key, identity in identities(contents, contents.present).items():
            if held.get(key) == identity:
                contents.up_to_date |= 1 << contents.places[key]
        for file in contents.files:
            remember_place(file.path)  # images only name them
        self._contents = contents
        return contents

    def _restore_others(self, contents: LiveContents, live: Mapping[str, Sequence[Tensor]]) -> None:
        """Restore tensors that an earlier recipe wrote and this one does not have."""
        present_keys = {contents.planner.names[index].key for index in members(contents.present)}
        self.restore([key for key in self._touched if key not in present_keys and key in live])

    def _save(self, contents: LiveContents, live: Mapping[str, Sequence[Tensor]], held: dict[str, object]) -> None:
        """Make sure that every tensor can be restored before it is written to."""
        for index in members(contents.present):
            key = contents.planner.names[index].key
            if key in self._saved:
                continue
            if self._original is not None and self._is_original(key, live[key]):
                self._saved[key] = None
                held[key] = (identify_tensor(self._original, key), self._original.tensors[key].dtype)
            else:
                self._saved[key] = tuple(part.to("cpu", copy=True) for part in live[key])

    def _is_original(self, key: str, parts: Sequence[Tensor]) -> bool:
        assert self._original is not None
        info = self._original.tensors.get(key)
        if info is None or info.numel != count_numbers(parts):
            return False
        return all(
            equals(*piece)
            for start, numbers in self._original_numbers(key)
            for piece in pieces_of(parts, start, numbers)
        )

    def _run(
        self,
        plan: MergePlan,
        contents: LiveContents,
        live: Mapping[str, Sequence[Tensor]],
        sink: Sink,
        controls: Controls | None,
    ) -> None:
        """Execute a plan, each tensor on its live tensor's device."""
        devices: dict[torch.device, list[TensorPlan]] = {}
        for tensor in plan.tensors:
            devices.setdefault(live[tensor.name.key][0].device, []).append(tensor)
        for device, tensors in devices.items():
            part = MergePlan(plan.architecture, plan.recipe, tuple(tensors))
            readers = self._recent.readers(contents.models, part)
            execute(part, readers, sink, loras=contents.loras, device=str(device), controls=controls)
