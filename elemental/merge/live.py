"""Keep a live model equal to a recipe, then to the next, touching only what differs; and give it back as it was."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from types import TracebackType
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ..errors import HostError, MergeError
from ..spec.keys import UNET_PREFIX
from ..spec.recipe import MergeRecipe
from ..spec.select import TensorSet, members
from .checkpoint import Checkpoint
from .controls import Controls, uninterrupted
from .execute import execute
from .parts import Parts, copy_piece, count_numbers, equals, pieces_of
from .plan import MergePlan, Planner, Ratio, Role, TensorPlan, planning_key

Models = Mapping[Role, Checkpoint]

_SAMPLES = 16
_SAMPLE_SIZE = 1 << 18


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


class LiveState(Enum):
    """Whether the merge is still in the live model."""

    ACTIVE = "active"
    LOST = "lost"


class Written(NamedTuple):
    """What a step of a live merge wrote.

    Attributes:
        plan: The tensors that had to change; the others were right already.
        nbytes: The size of what was written, in the live tensors' formats.
    """

    plan: MergePlan
    nbytes: int


@dataclass
class _Frame:
    """What recipes of the same models, mode, VAE and number format share."""

    key: object
    planner: Planner
    models: Models
    present: TensorSet
    recipe: MergeRecipe
    ratios: Mapping[Ratio, TensorSet] = field(default_factory=dict)
    right: TensorSet = 0
    """Tensors of the live model that are as the last recipe wants them."""

    @cached_property
    def places(self) -> Mapping[str, int]:
        """Which bit each key has in sets of tensors."""
        return {name.key: index for index, name in enumerate(self.planner.names)}


class LiveMerge:
    """A live model that follows one recipe after the other; a context manager.

    What is in the model is always what loading the merged file of the last recipe would put there, bit for bit: results
    are rounded to the file's number format, and then to the live tensor's. On leaving, the model is what it was before,
    bit for bit, whatever happened; unless :meth:`keep` was called, or the host has loaded another model meanwhile.

    Memory is that of a few tensors: what a tensor held before is remembered by the file it came from. Only a tensor
    that differs from that file (a VAE chosen separately, say) is copied before it is written to.

    Args:
        live: The model.
        open_models: Opens the models of a recipe; called whenever the models change.
        original: The file that the live model was loaded from, if any.

    Raises:
        HostError: Another merge is using the model.
    """

    def __init__(
        self, live: LiveTensors, open_models: Callable[[MergeRecipe], Models], *, original: Checkpoint | None
    ) -> None:
        self._live = live
        self._open_models = open_models
        self._original = original
        self._claim = live.claim()
        self._saved: dict[str, Parts | None] = {}  # None: as in the original's file
        self._touched: set[str] = set()
        self._frame: _Frame | None = None
        self._kept = False

    def __enter__(self) -> LiveMerge:
        self._claim.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if not self._kept and not self._live.replaced():
                uninterrupted(self.restore)
        finally:
            self._claim.__exit__(None, None, None)

    @property
    def models(self) -> Models:
        """The files of the last recipe."""
        return self._frame.models if self._frame else {}

    def apply(self, recipe: MergeRecipe, *, controls: Controls | None = None) -> Written:
        """Make the live model equal to a recipe.

        Args:
            recipe: What to merge and how.
            controls: Progress, in the bytes of results, and stop.

        Raises:
            ElementalError: It cannot be done; the model is then neither the one nor the other, until the next
                successful call, or until the ``with`` block is left.
        """
        if self._live.replaced():
            raise HostError("Another checkpoint was loaded meanwhile, and the merge is gone: merge again.")
        live = self._live.tensors()
        frame = self._frame_for(recipe, live)
        ratios = frame.planner.ratios(recipe)
        tensors = frame.present & ~(_unchanged(frame.ratios, ratios) & frame.right)
        planned = frame.planner.plan_some(recipe, tensors)
        keys = [tensor.name.key for tensor in planned.tensors]
        frame.right &= ~tensors
        self._touched.update(keys)
        if keys:
            self._run(planned, frame.models, live, _LiveSink(live), controls)
            self._live.changed(keys)
        frame.recipe, frame.ratios, frame.right = recipe, ratios, frame.present
        return Written(planned, sum(part.nbytes for key in keys for part in live[key]))

    def check(self) -> LiveState:
        """Compare some tensors of the live model with what the last recipe makes of them."""
        frame = self._frame
        if frame is None or frame.right != frame.present or self._live.replaced():
            return LiveState.LOST
        live = self._live.tensors()
        sample = _sample(frame.planner.plan_some(frame.recipe, frame.right))
        sink = _ComparingSink(live)
        if all(_fits(tensor, live) for tensor in sample.tensors):
            self._run(sample, frame.models, live, sink, None)
            if not sink.differs:
                return LiveState.ACTIVE
        frame.right = 0  # the next recipe is written whole
        return LiveState.LOST

    def keep(self, label: str) -> None:
        """Leave the merge in the model when the ``with`` block is left.

        Args:
            label: What to call it.

        Raises:
            MergeError: There is no whole merge in the model.
        """
        if self.check() is LiveState.LOST:
            raise MergeError("There is no whole merge in the live model to keep.")
        self._live.keep(label)
        self._kept = True

    def restore(self, keys: Iterable[str] | None = None) -> None:
        """Make the live model what it was before.

        Args:
            keys: The tensors to restore; all that were written to by default.

        Raises:
            HostError: The host did not take some of the tensors back; the others are restored all the same.
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
        if self._frame is not None:
            gone = [self._frame.places[key] for key in restored if key in self._frame.places]
            self._frame.right &= ~sum(1 << place for place in gone)
        if restored and not failures:
            self._live.changed(restored)
        if failures:
            raise HostError(
                f"{len(failures)} tensors of the live model could not be restored ({failures[0]}).\n"
                "Load the checkpoint again."
            ) from failures[0]

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

    def _frame_for(self, recipe: MergeRecipe, live: Mapping[str, Sequence[Tensor]]) -> _Frame:
        """Prepare for a recipe, unless the last one was of the same models, mode, VAE and format."""
        before = self._frame
        key = planning_key(recipe), len(live)  # a VAE chosen separately takes keys away, and brings them back
        if before is not None and before.key == key:
            return before
        models = self._open_models(recipe)
        planner = Planner(recipe, {role: model.tensors for role, model in models.items()})
        if self._original is not None and self._original.architecture != planner.architecture:
            raise MergeError(_another_model(f"it is {self._original.architecture.name}", planner))
        frame = _Frame(key, planner, models, _present(planner, live), recipe, planner.ratios(recipe))
        if any(part.device.type == "meta" for parts in live.values() for part in parts):
            raise HostError("Some tensors of the live model are on no device now; load the checkpoint again.")
        self._restore_others(frame, live)
        held = _identities(before, before.right) if before else {}
        self._save(frame, live, held)
        for name, wanted in _identities(frame, frame.present).items():
            if held.get(name) == wanted:
                frame.right |= 1 << frame.places[name]
        self._frame = frame
        return frame

    def _restore_others(self, frame: _Frame, live: Mapping[str, Sequence[Tensor]]) -> None:
        """Give back tensors that an earlier recipe wrote and that the result of this one does not have."""
        own = {frame.planner.names[index].key for index in members(frame.present)}
        self.restore([key for key in self._touched if key not in own and key in live])

    def _save(self, frame: _Frame, live: Mapping[str, Sequence[Tensor]], held: dict[str, object]) -> None:
        """Make sure that every tensor can be given back, before it is written to for the first time."""
        for index in members(frame.present):
            key = frame.planner.names[index].key
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


def _present(planner: Planner, live: Mapping[str, Sequence[Tensor]]) -> TensorSet:
    """Tell which tensors of a result the live model has.

    Raises:
        MergeError: It is not a model of the same kind.
    """
    present = 0
    for index, name in enumerate(planner.names):
        parts = live.get(name.key)
        if parts is None:
            if name.key.startswith(UNET_PREFIX):
                raise MergeError(_another_model(f"it has no {name.key}", planner))
            continue
        size = count_numbers(parts)
        if size != planner.infos[name.key].numel:
            raise MergeError(
                _another_model(f"{name.key} has {size} numbers, not {planner.infos[name.key].numel}", planner)
            )
        present |= 1 << index
    return present


def _another_model(what: str, planner: Planner) -> str:
    return (
        f"The live model is not of the same kind as the models to merge ({planner.architecture.name}): {what}.\n"
        "Load model A first."
    )


def _unchanged(before: Mapping[Ratio, TensorSet], after: Mapping[Ratio, TensorSet]) -> TensorSet:
    """Tell which tensors keep their ratios."""
    same = 0
    for ratio, tensors in after.items():
        same |= before.get(ratio, 0) & tensors
    return same


def _fits(tensor: TensorPlan, live: Mapping[str, Sequence[Tensor]]) -> bool:
    return count_numbers(live.get(tensor.name.key, ())) == tensor.info.numel


def _identities(frame: _Frame, tensors: TensorSet) -> dict[str, object]:
    """Tell by key what tensors hold: equal for two tensors only if their numbers are the same."""
    found: dict[str, object] = {}
    for tensor in frame.planner.plan_some(frame.recipe, tensors).tensors:
        paths = tuple(str(frame.models[role].path) for role in tensor.inputs)
        if len(paths) == 1:
            found[tensor.name.key] = (paths[0], tensor.info.dtype)
        else:
            found[tensor.name.key] = (paths, tensor.info.dtype, frame.recipe.mode, tensor.alpha, tensor.beta)
    return found


def _sample(plan: MergePlan) -> MergePlan:
    """Choose some tensors, not too large, of those that differ from A if there are any."""
    tensors = [tensor for tensor in plan.tensors if tensor.changed] or list(plan.tensors)
    small = [tensor for tensor in tensors if tensor.info.numel <= _SAMPLE_SIZE] or tensors
    step = max(1, len(small) // _SAMPLES)
    return MergePlan(plan.architecture, plan.recipe, tuple(small[::step][:_SAMPLES]))
