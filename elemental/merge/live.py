"""Keep a live model equal to a recipe, then to the next, touching only what differs; and give it back as it was."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ..architectures.tensor_sets import members
from ..errors import HostError, MergeError
from ..recipe.recipe import MergeRecipe
from .execute import execute
from .files.checkpoint import Checkpoint
from .files.open_models import OpenModels
from .interrupts import uninterrupted
from .live_contents import (
    LiveContents,
    Models,
    another_model,
    choose_sample,
    fits,
    identities,
    present_tensors,
    unchanged,
)
from .plan import MergePlan, TensorPlan
from .planner import planning_key
from .progress import Controls
from .tensor_views import Parts, copy_piece, count_numbers, equals, pieces_of

_log = logging.getLogger(__name__)

_LOAD_AGAIN = "Load the checkpoint again."


class LiveTensors(Protocol):
    """The live model, as far as merging is concerned; a host's live model is one."""

    def tensors(self) -> Mapping[str, Sequence[Tensor]]:
        """Give the parts of each tensor by its checkpoint key; see ``hosts.base.LiveModel``."""

    def changed(self, keys: Collection[str]) -> None:
        """Take note that these tensors were written to."""

    def claim(self) -> AbstractContextManager[None]:
        """Have the model to oneself."""

    def keep(self, label: str) -> None:
        """Take note that the merge is there to stay."""

    def replaced(self) -> bool:
        """Tell whether the host has since loaded something else over these tensors, or in their place."""


class Written(NamedTuple):
    """What a step of a live merge wrote.

    Attributes:
        plan: The tensors that had to change; the others were right already.
        nbytes: The size of what was written, in the live tensors' formats.
    """

    plan: MergePlan
    nbytes: int


class LiveMerge:
    """A live model that follows one recipe after the other; a context manager.

    What is in the model is always what loading the merged file of the last recipe would put there, bit for bit: results
    are rounded to the file's number format, and then to the live tensor's. On leaving, the model is what it was before,
    bit for bit, whatever happened; unless :meth:`keep` was called, or the host has loaded another model meanwhile.

    Memory is that of a few tensors: what a tensor held before is remembered by the file it came from. Only a tensor
    that differs from that file (a VAE chosen separately, say), and each one if there is no file, is copied before it
    is written to.

    Args:
        live: The model.
        models: Opens the models of a recipe, and plans it.
        original: The file that the live model was loaded from, if any.

    Raises:
        HostError: On entering, another merge is using the model; on leaving, the host did not take it back.
    """

    def __init__(self, live: LiveTensors, models: OpenModels, *, original: Checkpoint | None) -> None:
        self._live = live
        self._opened = models
        self._original = original
        self._claim = live.claim()
        self._saved: dict[str, Parts | None] = {}  # None: as in the original's file
        self._touched: set[str] = set()
        self._untold: set[str] = set()
        self._contents: LiveContents | None = None
        self._kept = False

    def __enter__(self) -> LiveMerge:
        self._claim.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.give_back()
        finally:
            self._claim.__exit__(None, None, None)

    def give_back(self) -> None:
        """Restore the model, whatever fails or interrupts; done on leaving, and of no effect if it is done again.

        Raises:
            HostError: The host did not take it back.
        """
        if not self.given_back:
            uninterrupted(self._give_back)

    @property
    def given_back(self) -> bool:
        """Whether nothing of a merge is in the model, or what is left of it there is to stay."""
        return self._kept or not (self._touched or self._untold)

    @property
    def models(self) -> Models:
        """The files of the last recipe."""
        return self._contents.models if self._contents else {}

    def apply(self, recipe: MergeRecipe, *, controls: Controls | None = None) -> Written:
        """Make the live model equal to a recipe.

        Args:
            recipe: What to merge and how.
            controls: Progress, in the bytes of results, and stop.

        Returns:
            What had to be written.

        Raises:
            CheckpointError: A model is missing, damaged, has changed, or is none that can be merged.
            HostError: The host has loaded another checkpoint, cannot give its tensors, or did not take the new ones.
            MergeError: The models do not fit together or the live model; or see :func:`~.execute.execute`.
            RecipeError: Block weights are for another architecture.
            Stopped: The caller asked for it.

        After an error the model is neither the one nor the other, until the next successful call, or until the
        ``with`` block is left.
        """
        if self._live.replaced():
            raise HostError("Another checkpoint was loaded meanwhile, and the merge is gone: merge again.")
        live = self._live.tensors()
        contents = self._contents_for(recipe, live)
        ratios = contents.planner.ratios(recipe)
        tensors = contents.present & ~(unchanged(contents.ratios, ratios) & contents.up_to_date)
        planned = contents.planner.plan_some(recipe, tensors)
        keys = [tensor.name.key for tensor in planned.tensors]
        contents.up_to_date &= ~tensors
        self._touched.update(keys)
        if keys:
            self._run(planned, contents.models, live, _LiveSink(live), controls)
            self._tell(keys)
        contents.recipe, contents.ratios, contents.up_to_date = recipe, ratios, contents.present
        return Written(planned, sum(part.nbytes for key in keys for part in live[key]))

    def is_intact(self) -> bool:
        """Tell whether the merge is still in the live model, by some of its tensors.

        Returns:
            False if they are not what the last recipe makes of them, nothing whole was applied yet, or the host has
            loaded over it.

        Raises:
            CheckpointError: A tensor of the recipe's models cannot be read.
            HostError: The host cannot give the tensors now.
            MergeError: They cannot be computed on their device.
        """
        contents = self._contents
        if contents is None or contents.up_to_date != contents.present or self._live.replaced():
            return False
        live = self._live.tensors()
        sample = choose_sample(contents.planner.plan_some(contents.recipe, contents.up_to_date))
        sink = _ComparingSink(live)
        if all(fits(tensor, live) for tensor in sample.tensors):
            self._run(sample, contents.models, live, sink, None)
            if not sink.differs:
                return True
        contents.up_to_date = 0  # the next recipe is written whole
        return False

    def keep(self, label: str) -> None:
        """Leave the merge in the model when the ``with`` block is left.

        Args:
            label: What to call it.

        Raises:
            CheckpointError: A tensor of the recipe's models cannot be read.
            HostError: The host cannot give the tensors now.
            MergeError: There is no whole merge in the model, or it cannot be compared.
        """
        if not self.is_intact():
            raise MergeError("There is no whole merge in the live model to keep.")
        self._live.keep(label)
        self._kept = True

    def restore(self, keys: Iterable[str] | None = None) -> None:
        """Make the live model what it was before.

        Args:
            keys: The tensors to restore; all that were written to by default.

        Raises:
            HostError: The host did not take some of the tensors back, while the others are restored all the same; or
                it has loaded something else in their place, and nothing is restored.
        """
        live = self._live.tensors()
        failures: list[Exception] = []
        restored = sorted(self._touched if keys is None else self._touched.intersection(keys))
        for key in restored:
            try:
                self._restore(key, live[key])
                self._touched.discard(key)
            except Exception as exc:  # the other tensors are to be restored all the same
                failures.append(exc)
        if self._contents is not None:
            gone = [self._contents.places[key] for key in restored if key in self._contents.places]
            self._contents.up_to_date &= ~sum(1 << place for place in gone)
        try:
            self._tell(restored)
        except Exception as exc:
            failures.append(exc)
        if failures:
            lost = len(self._touched.intersection(restored))
            what = f"{lost} tensors of the live model could not be restored" if lost else "The host failed"
            raise HostError(f"{what} ({failures[0]}).\n{_LOAD_AGAIN}") from failures[0]

    def _give_back(self) -> None:
        """Restore the model; what fails is tried once more, since nobody can later."""
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
            self._kept = True
            self._live.keep("the rest of a merge")  # so that the host does not take it for the checkpoint
            if _LOAD_AGAIN in str(exc):
                raise
            raise HostError(f"The live model could not be restored ({exc}).\n{_LOAD_AGAIN}") from exc
        if interrupt is not None:
            raise interrupt

    def _restore_unless_replaced(self) -> None:
        if self._live.replaced():
            self._touched.clear()
            self._untold.clear()
        else:
            self.restore()

    def _tell(self, keys: Iterable[str]) -> None:
        """Have the host drop what it computed from tensors; what it did not take, it is told again with the next."""
        self._untold.update(keys)
        if self._untold:
            self._live.changed(sorted(self._untold))
            self._untold.clear()

    def _restore(self, key: str, parts: Sequence[Tensor]) -> None:
        saved = self._saved[key]
        start = 0
        for numbers in [self._original_numbers(key)] if saved is None else saved:
            for part, at, piece in pieces_of(parts, start, numbers.reshape(-1)):
                copy_piece(part, at, piece)
            start += numbers.numel()

    def _original_numbers(self, key: str) -> Tensor:
        assert self._original is not None
        return self._original.tensor(key).reshape(-1)

    def _contents_for(self, recipe: MergeRecipe, live: Mapping[str, Sequence[Tensor]]) -> LiveContents:
        """Prepare for a recipe, unless the last one was of the same models, mode, VAE and format."""
        before = self._contents
        key = planning_key(recipe), len(live)  # a VAE chosen separately takes keys away, and brings them back
        if before is not None and before.key == key:
            return before
        models, planner = self._opened.open(recipe), self._opened.planner(recipe)
        if self._original is not None and self._original.architecture != planner.architecture:
            raise MergeError(another_model(f"it is {self._original.architecture.name}", planner))
        contents = LiveContents(key, planner, models, present_tensors(planner, live), recipe, planner.ratios(recipe))
        if any(part.device.type == "meta" for parts in live.values() for part in parts):
            raise HostError("Some tensors of the live model are on no device now; load the checkpoint again.")
        self._restore_others(contents, live)
        held = identities(before, before.up_to_date) if before else {}
        self._save(contents, live, held)
        for name, wanted in identities(contents, contents.present).items():
            if held.get(name) == wanted:
                contents.up_to_date |= 1 << contents.places[name]
        self._contents = contents
        return contents

    def _restore_others(self, contents: LiveContents, live: Mapping[str, Sequence[Tensor]]) -> None:
        """Give back tensors that an earlier recipe wrote and that the result of this one does not have."""
        own = {contents.planner.names[index].key for index in members(contents.present)}
        self.restore([key for key in self._touched if key not in own and key in live])

    def _save(self, contents: LiveContents, live: Mapping[str, Sequence[Tensor]], held: dict[str, object]) -> None:
        """Make sure that every tensor can be given back, before it is written to for the first time."""
        for index in members(contents.present):
            key = contents.planner.names[index].key
            if key in self._saved:
                continue
            if self._original is not None and self._is_original(key, live[key]):
                self._saved[key] = None
                held[key] = (str(self._original.path), self._original.tensors[key].dtype)
            else:
                self._saved[key] = tuple(part.to("cpu", copy=True) for part in live[key])

    def _is_original(self, key: str, parts: Sequence[Tensor]) -> bool:
        assert self._original is not None
        info = self._original.tensors.get(key)
        if info is None or info.numel != count_numbers(parts):
            return False
        return all(equals(*piece) for piece in pieces_of(parts, 0, self._original_numbers(key)))

    def _run(
        self,
        plan: MergePlan,
        models: Models,
        live: Mapping[str, Sequence[Tensor]],
        sink: _LiveSink,
        controls: Controls | None,
    ) -> None:
        """Execute a plan, each tensor on the device that it lives on."""
        devices: dict[torch.device, list[TensorPlan]] = {}
        for tensor in plan.tensors:
            devices.setdefault(live[tensor.name.key][0].device, []).append(tensor)
        for device, tensors in devices.items():
            part = MergePlan(plan.architecture, plan.recipe, tuple(tensors))
            execute(part, models, sink, device=str(device), controls=controls)


class _LiveSink:
    """Writes results into the live tensors."""

    def __init__(self, live: Mapping[str, Sequence[Tensor]]) -> None:
        self._live = live

    def write(self, tensor: TensorPlan, start: int, values: Tensor) -> None:
        """Write a piece of a result."""
        for part, at, piece in pieces_of(self._live[tensor.name.key], start, values):
            self._take(part, at, piece)

    def _take(self, part: Tensor, at: int, piece: Tensor) -> None:
        copy_piece(part, at, piece)


class _ComparingSink(_LiveSink):
    """Compares results with the live tensors, and writes nothing."""

    differs = False

    def _take(self, part: Tensor, at: int, piece: Tensor) -> None:
        if not equals(part, at, piece):
            self.differs = True
