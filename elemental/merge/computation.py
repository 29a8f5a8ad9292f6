"""What is computed for a piece of a tensor, from its inputs to numbers that are not rounded yet.

:mod:`.execute` rounds and writes them; a merge that has this one in the place of a model reads them as they are.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ..architectures.keys import FIRST_CONV
from ..errors import MergeError
from ..modes.base import Needs, Operands, Ratios, Read, Survey, Whole
from ..recipe.adjustments import Adjustment
from .files.dtypes import working_dtype
from .files.lora_file import OpenLora
from .files.tensor_data import Buffer, HeldData
from .half_bits import surely_finite
from .half_precision import HalfSum, half_weight_sum, largest
from .lora_deltas import Deltas
from .once import Once
from .pieces import Span, cut
from .plan import MODEL_ROLES, MORE_ROLES, MergePlan, Role, TensorPlan, formula_roles
from .shape_fit import LATENT_CHANNELS, has_same_numbers

CPU_PIECE = 1 << 18
DEVICE_PIECE = 1 << 24
"""Numbers processed at a time. On the CPU: few enough to stay in its caches, where they are read into and computed. On
other devices: enough to hide the cost of a call."""

_LARGER = 4
"""What lies in memory and is computed in one go gets pieces so many times as large, since each costs some calls."""

_CPU = torch.device("cpu")
_OPERANDS = MODEL_ROLES[: -len(MORE_ROLES)]


class StoredData(Protocol):
    """A tensor that can be read piece by piece; see :class:`.files.tensor_data.TensorData`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""

    @property
    def dtype(self) -> torch.dtype:
        """Its dtype."""

    @property
    def in_memory(self) -> bool:
        """Whether its numbers stay in memory, once they are read."""

    def read(self, start: int, stop: int, buffer: Buffer) -> Tensor:
        """Give some numbers."""

    def largest(self, start: int, stop: int) -> float | None:
        """Give the largest absolute value of numbers that were read, of fp16, if it is known; see :func:`largest`."""

    def tensor(self) -> Tensor:
        """Give the whole tensor."""


class TensorReader(Protocol):
    """Reads the tensors of a model."""

    def data(self, key: str) -> StoredData:
        """Give a tensor of the planned shape, to be read piece by piece."""


class Piece(NamedTuple):
    """A part of a tensor that is computed at a time.

    Attributes:
        plan: How the tensor is made.
        inputs: The tensor in each model that it is made from.
        span: The part.
        shape: The shape of what is merged of the tensor.
        of_halves: Whether it is a weight sum of fp16 numbers in fp16.
        found: Gives what the formula needs to know of the whole tensor.
        deltas: What LoRAs do.
        kept: A's whole tensor, if its channels beyond those of an image are kept; the piece is all of the others then.
    """

    plan: TensorPlan
    inputs: tuple[StoredData, ...]
    span: Span
    shape: tuple[int, ...]
    of_halves: bool
    found: Callable[[], Any]
    deltas: Deltas | None
    kept: Tensor | None

    @property
    def is_copy(self) -> bool:
        """Whether the numbers are those of the only input, but for the number format."""
        return len(self.inputs) == 1 and not self.plan.is_changed_after

    @property
    def is_changed_as_whole(self) -> bool:
        """Whether LoRAs need all of the tensor; the piece is all of it then."""
        return self.deltas is not None and self.deltas.need_weight


class _Memory:
    """What a thread computes in: new memory from the system costs more time than the sums."""

    def __init__(self) -> None:
        self.buffers = [Buffer() for _ in MODEL_ROLES]
        self._halves: Tensor | None = None
        self._rows: Tensor | None = None

    def halves(self, count: int) -> Tensor:
        """Give room for a result in fp16."""
        if self._halves is None or len(self._halves) < count:
            self._halves = torch.empty(max(count, CPU_PIECE), dtype=torch.float16)
        return self._halves[:count]

    def rows(self, count: int, length: int, dtype: torch.dtype) -> Tensor:
        """Give room for working copies of some inputs."""
        if length > CPU_PIECE:
            return torch.empty(count, length, dtype=dtype)
        if self._rows is None or len(self._rows) < count:
            self._rows = torch.empty(max(count, len(_OPERANDS)), CPU_PIECE, dtype=dtype)
        return self._rows[:count, :length]


class Computation:
    """Computes the tensors of a plan, piece by piece; several threads compute at once.

    Args:
        plan: What to compute.
        models: A reader for each model of the plan.
        loras: The LoRAs of the recipe, in its order.
        device: Where to compute.
    """

    def __init__(
        self,
        plan: MergePlan,
        models: Mapping[Role, TensorReader],
        *,
        loras: Sequence[OpenLora] = (),
        device: torch.device = _CPU,
    ) -> None:
        self._mode = plan.mode.record
        self._roles = formula_roles(plan.mode)
        self._numbers = plan.recipe.numbers
        self._models = models
        self._loras = loras
        self._device = device
        # By thread, and not thread-local: what a thread frees at its end, while the process exits, would abort that.
        self._memories: dict[int, _Memory] = {}

    def prepare(self, plan: TensorPlan) -> Piece:
        """Open the inputs of a tensor, and give all of it as one piece."""
        inputs, kept = self._read(plan)
        of_halves = self._is_half_weight_sum(plan, inputs)
        survey, shape = self._mode.survey, _merged_shape(plan, inputs, kept)
        found = Once(partial(self._look_at_all, survey, plan, inputs, shape)) if survey and len(inputs) > 1 else tuple
        deltas = Deltas(plan, self._loras) if plan.loras else None
        count = math.prod(shape)
        return Piece(plan, inputs, Span(0, count, 0, count), shape, of_halves, found, deltas, kept)

    def pieces(self, whole: Piece) -> Iterator[Piece]:
        """Cut a tensor as its mode and the device need it."""
        size = CPU_PIECE if self._device.type == "cpu" else DEVICE_PIECE
        if self._device.type == "cpu" and self._is_light(whole):
            size *= _LARGER
        for span in cut(whole.shape, self._mode, math.prod(whole.shape) if self.is_at_once(whole) else size):
            yield whole._replace(span=span)

    def _is_light(self, whole: Piece) -> bool:
        """Tell whether a tensor is in memory, and computed without working copies."""
        of_halves = whole.of_halves or (whole.is_copy and self._is_lerp_of_halves(whole.plan, whole.inputs))
        return of_halves and all(data.in_memory for data in whole.inputs)

    def is_at_once(self, whole: Piece) -> bool:
        """Tell whether a tensor is one piece however little of it is wanted, so that computing it again is dear."""
        return whole.kept is not None or whole.is_changed_as_whole

    def spans(self, whole: Piece, start: int, stop: int) -> Iterator[Span]:
        """Cut a part of a tensor into pieces; where a formula looks at more than one number, they may go beyond it."""
        if self._mode.needs is Needs.NUMBER:
            for at in range(start, stop, CPU_PIECE):
                end = min(at + CPU_PIECE, stop)
                yield Span(at, end, at, end)
        else:
            for span in cut(whole.shape, self._mode, CPU_PIECE):
                if span.start < stop and span.stop > start:
                    yield span

    def inputs(self, piece: Piece) -> list[Tensor]:
        """Read the numbers that a piece is computed from; valid until the same thread reads the next ones."""
        buffers = zip(piece.inputs, self._memory().buffers, strict=False)
        return [data.read(piece.span.first, piece.span.last, buffer) for data, buffer in buffers]

    def sum_halves(self, piece: Piece, inputs: Sequence[Tensor], room: Tensor | None = None) -> HalfSum:
        """Compute a weight sum of fp16 numbers, rounded.

        Args:
            piece: The piece.
            inputs: Its numbers in A and B.
            room: Where the result is to be; it is computed there if it is surely finite, and there is fp16 memory of
                the device.
        """
        (a, b), alpha = (values.to(self._device) for values in inputs), piece.plan.alpha
        on_cpu, most = self._device.type == "cpu", self._known_largest(piece)
        if most is None and on_cpu:
            most = largest(a), largest(b)
        fits = room is not None and room.dtype is torch.float16 and room.device == a.device
        if fits and most is not None and surely_finite(alpha, *most):
            with torch.inference_mode():  # as in :func:`.tensor_views.copy_piece`
                return half_weight_sum(a, b, alpha, most=most, out=room)
        return half_weight_sum(a, b, alpha, most=most, out=self._memory().halves(len(a)) if on_cpu else None)

    def is_finite_copy(self, piece: Piece) -> bool:
        """Tell whether a piece is a copy of fp16 numbers, all of which are known to be finite."""
        if not piece.is_copy or piece.plan.info.dtype != "F16":
            return False
        most = piece.inputs[0].largest(piece.span.first, piece.span.last)
        return most is not None and math.isfinite(most)

    @staticmethod
    def _known_largest(piece: Piece) -> tuple[float, float] | None:
        most_a, most_b = (data.largest(piece.span.first, piece.span.last) for data in piece.inputs)
        return None if most_a is None or most_b is None else (most_a, most_b)

    def unrounded(self, piece: Piece, inputs: Sequence[Tensor]) -> Tensor:
        """Compute a piece in the working dtype: the numbers that belong to it, not all of those that were read for it.

        They are valid until the same thread computes the next piece.
        """
        if piece.is_copy:
            return self._own(piece, inputs[0])
        result = self._merge(piece, self._working_copies(inputs))
        result = self._own(piece, result) if piece.kept is None else put_into(piece.kept, result)
        start = piece.span.start
        if piece.plan.adjusted is not None:
            adjust_numbers(result, piece.plan.adjusted, start)
        if piece.deltas is not None:
            result = piece.deltas.apply(result, start)
        return result

    def _own(self, piece: Piece, values: Tensor) -> Tensor:
        return values[piece.span.own] if self._mode.margin else values

    def _merge(self, piece: Piece, copies: Sequence[Tensor]) -> Tensor:
        if len(copies) == 1:
            return copies[0]
        plan = piece.plan
        whole = Whole(piece.shape, piece.span.first, piece.found(), plan.name.key)
        return self._mode.compute(self._operands(plan.inputs, copies), self._ratios(plan), whole)

    def _ratios(self, plan: TensorPlan) -> Ratios:
        more = (ratio for role, ratio in zip(MORE_ROLES, plan.more, strict=False) if role in plan.inputs)
        return Ratios(plan.alpha, plan.beta or 0.0, self._numbers, tuple(more))

    def _operands(self, roles: Sequence[Role], copies: Sequence[Tensor]) -> Operands:
        by_role = dict(zip(roles, copies, strict=True))
        spare = copies[0]
        if not by_role.keys() >= set(self._roles):
            spare = torch.zeros_like(spare)  # for a model that is no input, since its coefficient is 0
        a, b, c = (by_role.get(role, spare) for role in _OPERANDS)
        return Operands(a, b, c, tuple(by_role[role] for role in MORE_ROLES if role in by_role))

    def read_all(self, plan: TensorPlan) -> tuple[Read, tuple[int, ...]]:
        """Give what reads all that is merged of a tensor, and the shape of that."""
        inputs, kept = self._read(plan)
        shape = _merged_shape(plan, inputs, kept)
        return partial(self._operands_of_all, plan, inputs, shape), shape

    def _look_at_all(
        self, survey: Survey, plan: TensorPlan, inputs: Sequence[StoredData], shape: tuple[int, ...]
    ) -> Any:
        """Give what the formula needs to know of a whole tensor, whatever the pieces and the device are."""
        return survey(partial(self._operands_of_all, plan, inputs, shape), self._ratios(plan), shape)

    def _operands_of_all(
        self, plan: TensorPlan, inputs: Sequence[StoredData], shape: tuple[int, ...]
    ) -> Iterator[Operands]:
        buffers = [Buffer() for _ in inputs]
        rows = torch.empty(len(inputs), 0, dtype=torch.float64)
        for start, stop, _, _ in cut(shape, self._mode, CPU_PIECE):
            if rows.shape[1] < stop - start:
                rows = torch.empty(len(inputs), stop - start, dtype=torch.float64)
            pieces = [data.read(start, stop, buffer) for data, buffer in zip(inputs, buffers, strict=True)]
            yield self._operands(plan.inputs, _copied(pieces, rows[:, : stop - start]))

    def _memory(self) -> _Memory:
        """Give the memory of this thread."""
        thread = threading.get_ident()
        memory = self._memories.get(thread)
        if memory is None:
            memory = self._memories[thread] = _Memory()
        return memory

    def _working_copies(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        dtype = working_dtype(self._device)
        if self._device.type != "cpu":
            return [tensor.to(device=self._device, dtype=dtype, copy=True) for tensor in inputs]
        rows = self._memory().rows(len(inputs), len(inputs[0]), dtype)
        return _copied(inputs, rows)

    def _read(self, plan: TensorPlan) -> tuple[tuple[StoredData, ...], Tensor | None]:
        inputs = [self._models[role].data(plan.name.key) for role in plan.inputs]
        kept = None
        if plan.name.key == FIRST_CONV and len({data.shape[1] for data in inputs}) > 1:
            tensors = [data.tensor() for data in inputs]
            kept = tensors[0]
            inputs = [HeldData(tensor[:, :LATENT_CHANNELS].double().contiguous()) for tensor in tensors]
        elif any(not has_same_numbers(data.shape, plan.info.shape) for data in inputs):
            raise MergeError(f"{plan.name.key} does not have the shape that the merge was planned with.")
        return tuple(inputs), kept

    def _is_half_weight_sum(self, plan: TensorPlan, inputs: Sequence[StoredData]) -> bool:
        return plan.inputs == (Role.A, Role.B) and self._is_lerp_of_halves(plan, inputs)

    def _is_lerp_of_halves(self, plan: TensorPlan, inputs: Sequence[StoredData]) -> bool:
        half = plan.info.dtype == "F16" and all(data.dtype is torch.float16 for data in inputs)
        return half and self._mode.is_lerp and not plan.is_changed_after


def _merged_shape(plan: TensorPlan, inputs: Sequence[StoredData], kept: Tensor | None) -> tuple[int, ...]:
    return tuple(plan.info.shape if kept is None else inputs[0].shape)


def _copied(tensors: Sequence[Tensor], rows: Tensor) -> list[Tensor]:
    """Copy tensors into rows of float64; fp16 by way of float32, by which torch gets there three times as fast."""
    wider = (tensor.float() if tensor.dtype is torch.float16 else tensor for tensor in tensors)
    return [row.copy_(tensor) for row, tensor in zip(rows, wider, strict=True)]


def adjust_numbers(values: Tensor, adjustment: Adjustment, start: int) -> None:
    """Adjust a piece in its own memory.

    Args:
        values: The piece, 1-D, in the working dtype.
        adjustment: What is done.
        start: The index of its first number in the flattened tensor.
    """
    values.mul_(adjustment.factor)
    if adjustment.shift:
        values.add_(values.new_tensor(adjustment.shift[start : start + len(values)]))


def put_into(kept: Tensor, merged: Tensor) -> Tensor:
    """Give a first convolution with its channels of an image replaced by what was merged of them; both flattened."""
    whole = kept.to(merged.device, merged.dtype, copy=True)
    whole[:, :LATENT_CHANNELS] = merged.view(whole[:, :LATENT_CHANNELS].shape)
    return whole.reshape(-1)


def extend_channels(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Extend first convolutions to the channels of A, with zeros in place of what is not merged.

    Only the channels of the image, which come first, are merged. What comes after them, such as a mask or a depth map,
    differs in meaning between models of other widths: it is kept from A. The result is float64, which holds the numbers
    of every dtype exactly; the tensors are small.
    """
    extended = []
    for tensor in tensors:
        zeros = torch.zeros(tensors[0].shape, dtype=torch.float64)
        zeros[:, :LATENT_CHANNELS] = tensor[:, :LATENT_CHANNELS]
        extended.append(zeros)
    return extended
