"""Execute a plan: compute the result piece by piece, and write it to a sink, a file or a live model."""

from __future__ import annotations

import math
import os
import threading
from _thread import start_new_thread
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ..architectures.keys import FIRST_CONV
from ..errors import MergeError, Stopped
from ..recipe.modes import MergeMode
from ..recipe.rules import format_ratio
from .files.dtypes import TORCH_DTYPES, round_to, working_dtype
from .files.tensor_data import Buffer, HeldData
from .files.writer import SafetensorsWriter
from .formulas.by_mode import FORMULAS
from .formulas.half_precision import HalfSum, half_weight_sum
from .interrupts import raise_error_of, uninterrupted
from .out_of_memory import is_out_of_memory
from .plan import MergePlan, Role, TensorPlan
from .progress import Controls
from .shape_fit import LATENT_CHANNELS, has_same_numbers

_CPU_PIECE = 1 << 18
_DEVICE_PIECE = 1 << 24
"""Numbers processed at a time. On the CPU: few enough to stay in its caches, where they are read into and computed. On
other devices: enough to hide the cost of a call."""

_OPERANDS = (Role.A, Role.B, Role.C)
_MAX_THREADS = 3
_THREAD_BYTES = 1 << 26
"""Larger results, in bytes, are computed by several threads: some read and write while others compute. Smaller ones are
done sooner with torch's threads alone, which are running already."""
_POLL_SECONDS = 0.1


class StoredData(Protocol):
    """A tensor that can be read piece by piece; see :class:`.files.tensor_data.TensorData`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""

    @property
    def dtype(self) -> torch.dtype:
        """Its dtype."""

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


class Sink(Protocol):
    """Takes results; several threads call it at once, for different pieces."""

    def write(self, tensor: TensorPlan, start: int, values: Tensor) -> None:
        """Write a piece of a result.

        Args:
            tensor: The tensor.
            start: The index of the piece's first number in the flattened tensor.
            values: The piece, 1-D, contiguous, in the result's dtype; valid only during the call.
        """


class FileSink:
    """Writes results to a file.

    Args:
        writer: The file.
        file_keys: The keys in the file, where they are others than the plan's.
    """

    def __init__(self, writer: SafetensorsWriter, file_keys: Mapping[str, str] = MappingProxyType({})) -> None:
        self._writer = writer
        self._file_keys = file_keys

    def write(self, tensor: TensorPlan, start: int, values: Tensor) -> None:
        """Write a piece of a result.

        Raises:
            MergeError: The disk is full or failed.
        """
        data = values.cpu().view(torch.uint8).numpy().data
        key = tensor.name.key
        self._writer.write(self._file_keys.get(key, key), start * values.element_size(), data)


class Findings(NamedTuple):
    """Inputs that hold NaN or infinite numbers, by model and key."""

    not_finite: tuple[tuple[Role, str], ...]


class _Piece(NamedTuple):
    plan: TensorPlan
    inputs: tuple[StoredData, ...]
    start: int
    stop: int
    of_halves: bool
    """Whether it is a weight sum of fp16 numbers in fp16."""


class _Memory(threading.local):
    """What each thread computes in: new memory from the system costs more time than the sums."""

    def __init__(self) -> None:
        self.buffers = [Buffer() for _ in Role]
        self._halves: Tensor | None = None
        self._rows: Tensor | None = None

    def halves(self, count: int) -> Tensor:
        """Give room for a result in fp16."""
        if self._halves is None:
            self._halves = torch.empty(_CPU_PIECE, dtype=torch.float16)
        return self._halves if count == _CPU_PIECE else self._halves[:count]

    def rows(self, count: int, length: int, dtype: torch.dtype) -> Tensor:
        """Give room for working copies of some inputs."""
        if self._rows is None:
            self._rows = torch.empty(3, _CPU_PIECE, dtype=dtype)
        return self._rows[:count, :length]


def execute(
    plan: MergePlan,
    models: Mapping[Role, TensorReader],
    sink: Sink,
    *,
    device: str = "cpu",
    controls: Controls | None = None,
) -> Findings:
    """Compute every tensor of a plan, and write it to a sink.

    Float tensors are computed in float64 (float32 on Apple's devices, which have no float64) and rounded once; weight
    sums of fp16 are computed by :func:`~.formulas.half_precision.half_weight_sum`. A few threads hold a few pieces
    each in memory, whatever the size of the models.

    Args:
        plan: What to compute.
        models: A reader for each model of the plan.
        sink: Takes the results.
        device: The torch device to compute on.
        controls: Progress and stop.

    Returns:
        The inputs that hold NaN or infinite numbers; their results hold them too.

    Raises:
        CheckpointError: A tensor cannot be read.
        MergeError: A result is not finite though its inputs are, a tensor does not have the planned shape, the device
            cannot be used, or memory runs out.
        Stopped: ``controls`` asked to stop.
        Exception: Whatever the sink raises.
    """
    controls = controls or Controls()
    run = _Run(plan, models, sink, device=check_device(device), controls=controls)
    controls.begin(plan.nbytes)
    if plan.nbytes <= _THREAD_BYTES:
        run.work()
    else:
        with _one_torch_thread_each():
            _work_together(run, min(_MAX_THREADS, os.cpu_count() or 1))
    run.report_progress()
    return Findings(tuple(sorted(run.not_finite, key=lambda entry: (entry[0].value, entry[1]))))


def _work_together(run: _Run, count: int) -> None:
    """Work in several threads, and wait until all of them have ended, even after an error or interrupt."""
    try:
        for _ in range(count):
            start_new_thread(run.work_in_thread, ())
        while not run.has_ended(_POLL_SECONDS):
            run.report_progress()
    finally:  # after this nothing is written any more, so that a caller can safely undo the merge
        uninterrupted(run.close)
    raise_error_of(run)


def check_device(name: str) -> torch.device:
    """Give a torch device after a check that it can be used.

    Raises:
        MergeError: This installation of torch cannot use the device; the message names those it can.
    """
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as exc:
        usable = "cpu, cuda" if torch.cuda.is_available() else "cpu"
        raise MergeError(f'The device "{name}" cannot be used by this installation of torch; {usable} can.') from exc
    return device


class _Run:
    """One execution: threads take pieces from a shared iterator until it is exhausted or the run has ended."""

    def __init__(
        self,
        plan: MergePlan,
        models: Mapping[Role, TensorReader],
        sink: Sink,
        *,
        device: torch.device,
        controls: Controls,
    ) -> None:
        self.ended = False
        self.error: BaseException | None = None
        self.not_finite: set[tuple[Role, str]] = set()
        self._plan = plan
        self._models = models
        self._sink = sink
        self._device = device
        self._controls = controls
        self._pieces = self._cut()
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._end_signal = threading.Lock()  # released when the run ends
        self._end_signal.acquire()
        self._active_threads = 0
        self._memory = _Memory()
        self._unreported = 0

    def work(self) -> None:
        """Compute pieces until there are none left or the run has ended."""
        try:
            while not self.ended:
                if self._controls.should_stop():
                    raise Stopped
                with self._lock:
                    piece = next(self._pieces, None)
                if piece is None:
                    return
                self._finish(piece)
        except (MemoryError, RuntimeError) as exc:
            if not is_out_of_memory(exc):
                raise
            advice = "close other programs" if self._device.type == "cpu" else "try the CPU"
            raise MergeError(f"Out of memory: {self._device} has too little for this merge; {advice}.") from exc

    def work_in_thread(self) -> None:
        """Work as one of several threads; the first one that has no more to do, or fails, ends the run."""
        with self._lock:
            if self.ended:
                return
            self._active_threads += 1
        error: BaseException | None = None
        try:
            self.work()
        except BaseException as exc:  # raised again in the thread that waits
            error = exc
        self._end(error)
        with self._idle:
            self._active_threads -= 1
            self._idle.notify_all()

    def _end(self, error: BaseException | None = None) -> None:
        with self._lock:
            self.error = self.error or error
            if not self.ended:
                self.ended = True
                self._end_signal.release()

    def has_ended(self, seconds: float) -> bool:
        """Wait up to some seconds, and tell whether the run has ended; threads may still compute their last pieces."""
        return self.ended or self._end_signal.acquire(timeout=seconds)

    def close(self) -> None:
        """End the run, and wait until no thread can write to the sink any more."""
        self._end()
        with self._idle:
            self._idle.wait_for(lambda: not self._active_threads)

    def report_progress(self) -> None:
        with self._lock:
            done, self._unreported = self._unreported, 0
        if done:
            self._controls.advance(done)

    def _cut(self) -> Iterator[_Piece]:
        size = _CPU_PIECE if self._device.type == "cpu" else _DEVICE_PIECE
        for plan in self._plan.tensors:
            inputs = self._read(plan)
            of_halves = self._is_half_weight_sum(plan, inputs)
            for start in range(0, plan.info.numel, size):
                yield _Piece(plan, inputs, start, min(start + size, plan.info.numel), of_halves)

    def _read(self, plan: TensorPlan) -> tuple[StoredData, ...]:
        inputs = [self._models[role].data(plan.name.key) for role in plan.inputs]
        if plan.name.key == FIRST_CONV and len({data.shape[1] for data in inputs}) > 1:
            inputs = [HeldData(tensor) for tensor in extend_channels([data.tensor() for data in inputs])]
        if any(not has_same_numbers(data.shape, plan.info.shape) for data in inputs):
            raise MergeError(f"{plan.name.key} does not have the shape that the merge was planned with.")
        return tuple(inputs)

    def _finish(self, piece: _Piece) -> None:
        plan = piece.plan
        buffers = zip(piece.inputs, self._memory.buffers, strict=False)
        inputs = [data.read(piece.start, piece.stop, buffer) for data, buffer in buffers]
        result, finite = self._sum_halves(piece, inputs) if piece.of_halves else (self._compute(plan, inputs), False)
        if not finite and plan.info.is_float and not is_finite(result):
            self._report_not_finite(plan, inputs, result.cpu())
        self._sink.write(plan, piece.start, result)
        with self._lock:
            self._unreported += (piece.stop - piece.start) * result.element_size()

    def _sum_halves(self, piece: _Piece, inputs: Sequence[Tensor]) -> HalfSum:
        (a, b), alpha = inputs, piece.plan.alpha
        if self._device.type != "cpu":
            return half_weight_sum(a.to(self._device), b.to(self._device), alpha)
        most_a, most_b = (data.largest(piece.start, piece.stop) for data in piece.inputs)
        most = None if most_a is None or most_b is None else (most_a, most_b)
        return half_weight_sum(a, b, alpha, most=most, out=self._memory.halves(len(a)))

    def _compute(self, plan: TensorPlan, inputs: Sequence[Tensor]) -> Tensor:
        saved = TORCH_DTYPES[plan.info.dtype]
        if len(inputs) == 1:
            return round_to(inputs[0], saved)
        copies = dict(zip(plan.inputs, self._working_copies(inputs), strict=True))
        spare = copies[plan.inputs[0]]
        if self._plan.mode.uses_c and len(inputs) < len(_OPERANDS):
            spare = torch.zeros_like(spare)  # for a model that is no input, since its coefficient is 0
        a, b, c = (copies.get(role, spare) for role in _OPERANDS)
        return round_to(FORMULAS[self._plan.mode](a, b, c, alpha=plan.alpha, beta=plan.beta or 0.0), saved)

    def _working_copies(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        dtype = working_dtype(self._device)
        if self._device.type != "cpu":
            return [tensor.to(device=self._device, dtype=dtype, copy=True) for tensor in inputs]
        rows = self._memory.rows(len(inputs), len(inputs[0]), dtype)
        return [row.copy_(tensor) for row, tensor in zip(rows, inputs, strict=True)]

    def _is_half_weight_sum(self, plan: TensorPlan, inputs: Sequence[StoredData]) -> bool:
        half = plan.info.dtype == "F16" and all(data.dtype is torch.float16 for data in inputs)
        return half and len(inputs) > 1 and self._plan.mode is MergeMode.WEIGHT_SUM

    def _report_not_finite(self, plan: TensorPlan, inputs: Sequence[Tensor], result: Tensor) -> None:
        finite = [torch.isfinite(tensor.float()) for tensor in inputs]
        overflowed = ~torch.isfinite(result.float())
        for is_finite_input in finite:
            overflowed &= is_finite_input
        if overflowed.any():
            beta = "" if plan.beta is None else f", beta {format_ratio(plan.beta)}"
            raise MergeError(
                f"{plan.name.key}: the result is too large for {plan.info.dtype}, though the models' numbers are "
                f"finite (alpha {format_ratio(plan.alpha)}{beta}).\n"
                "Use ratios closer to the range 0 to 1, or save as bf16 or fp32."
            )
        with self._lock:
            by_role = zip(plan.inputs, finite, strict=True)
            self.not_finite.update((role, plan.name.key) for role, values in by_role if not values.all())


def is_finite(values: Tensor) -> bool:
    """Tell whether a float tensor holds neither NaN nor infinite numbers, as fast as it can be read."""
    if values.element_size() == 1:  # torch has almost no arithmetic for fp8
        values = values.float()
    # A sum keeps NaN and infinity; a sum that overflows without them is checked number by number.
    return math.isfinite(values.sum().item()) or bool(torch.isfinite(values).all())


def extend_channels(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Extend first convolutions to the channels of A, with A's numbers.

    In every mode, merging A with itself gives A, so that only the shared channels are merged: those of the image, which
    come first. What comes after them, such as a mask or a depth map, differs in meaning between models of other widths.
    The result is float64, which holds the numbers of every dtype exactly; the tensors are small.
    """
    extended = []
    for tensor in tensors:
        copy_of_a = tensors[0].to(torch.float64, copy=True)
        copy_of_a[:, :LATENT_CHANNELS] = tensor[:, :LATENT_CHANNELS]
        extended.append(copy_of_a)
    return extended


@contextmanager
def _one_torch_thread_each() -> Iterator[None]:
    """Let torch use one thread in each of ours; more would wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
