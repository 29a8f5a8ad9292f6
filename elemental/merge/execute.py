"""Run a plan: read the inputs piece by piece, compute, hand each piece to a sink; a file or a live model."""

from __future__ import annotations

import math
import os
import threading
from _thread import start_new_thread
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ..architectures.keys import FIRST_CONV
from ..errors import MergeError, Stopped
from ..recipe.modes import MergeMode
from .files.dtypes import TORCH_DTYPES, round_to, working_dtype
from .files.writer import SafetensorsWriter
from .formulas.by_mode import FORMULAS
from .formulas.half_precision import half_weight_sum
from .interrupts import raise_error_of, uninterrupted
from .out_of_memory import is_out_of_memory
from .plan import MergePlan, Role, TensorPlan
from .progress import Controls

_COPIED_PIECE = 1 << 20
_COMPUTED_PIECE = 1 << 18
_DEVICE_PIECE = 1 << 24
"""Numbers taken at a time. On the CPU: many where they are read and written once, fewer where copies are computed with,
for its caches; elsewhere enough to hide the cost of a call."""

_MAX_THREADS = 3
_THREAD_BYTES = 1 << 26
"""A larger result is worth threads of our own, which read and write while others compute. A smaller one is done sooner
by torch's threads alone: they wait already, while ours have to be started, and take turns at every call."""
_POLL_SECONDS = 0.1


class TensorReader(Protocol):
    """Where a model's tensors come from."""

    def tensor(self, key: str) -> Tensor:
        """Give one tensor, on the CPU, in its file's number format and the shape that was planned; not written to.

        Raises:
            CheckpointError: It cannot be read.
        """


class Sink(Protocol):
    """Where results go. Called from several threads at once, for different pieces."""

    def write(self, tensor: TensorPlan, start: int, values: Tensor) -> None:
        """Take a piece of a result.

        Args:
            tensor: The tensor it belongs to.
            start: Where in the flattened tensor it begins, in numbers.
            values: The piece, 1-D, contiguous, in the result's number format; valid during the call only.
        """


class FileSink:
    """Hands results to a file that is being written."""

    def __init__(self, writer: SafetensorsWriter) -> None:
        self._writer = writer

    def write(self, tensor: TensorPlan, start: int, values: Tensor) -> None:
        """Write a piece of a result.

        Raises:
            MergeError: The disk is full, or failed.
        """
        data = values.cpu().view(torch.uint8).numpy().data
        self._writer.write(tensor.name.key, start * values.element_size(), data)


class Findings(NamedTuple):
    """What was noticed while computing: inputs that hold NaN or infinite values, by model and key."""

    not_finite: tuple[tuple[Role, str], ...]


class _Piece(NamedTuple):
    plan: TensorPlan
    inputs: tuple[Tensor, ...]
    start: int
    stop: int


def execute(
    plan: MergePlan,
    models: Mapping[Role, TensorReader],
    sink: Sink,
    *,
    device: str = "cpu",
    controls: Controls | None = None,
) -> Findings:
    """Compute every tensor of a plan and hand it to a sink.

    Float tensors are computed in float64 (float32 on devices of Apple's, which have no more) and rounded once, weight
    sums of fp16 as :func:`~.modes.half_weight_sum` says. Memory is a few pieces for each of a few threads, whatever the
    models' size.

    Args:
        plan: What to compute.
        models: A reader for each model of the plan.
        sink: Takes the results.
        device: Where to compute, as torch names it.
        controls: Progress and stop.

    Returns:
        Which inputs hold NaN or infinite numbers; their results hold them, too.

    Raises:
        CheckpointError: A tensor cannot be read.
        MergeError: A result is not finite though its inputs are, a tensor has another shape than planned, the device
            cannot be used, or memory runs out.
        Stopped: The caller asked for it.
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
    return Findings(tuple(sorted(run.not_finite, key=lambda found: (found[0].value, found[1]))))


def _work_together(run: _Run, count: int) -> None:
    """Have some threads work, and wait until none of them does, whatever happens meanwhile."""
    try:
        for _ in range(count):
            start_new_thread(run.work_beside, ())
        while not run.has_ended(_POLL_SECONDS):
            run.report_progress()
    finally:  # from here on nothing is written any more; what else would undo could be written over
        uninterrupted(run.close)
    raise_error_of(run)


def check_device(name: str) -> torch.device:
    """Make sure that torch can compute on a device, and give it.

    Raises:
        MergeError: It cannot; the message says which it can.
    """
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as exc:
        usable = "cpu, cuda" if torch.cuda.is_available() else "cpu"
        raise MergeError(f'The device "{name}" cannot be used by this installation of torch; {usable} can.') from exc
    return device


class _Run:
    """One execution: the threads take pieces from a common list until it is empty or the run has ended."""

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
        self._news = threading.Lock()  # free once the run has ended
        self._news.acquire()
        self._working = 0
        self._buffers = threading.local()
        self._done = 0

    def work(self) -> None:
        """Take and finish pieces until there are none, or the run has ended."""
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
            advice = "close other programs" if self._device.type == "cpu" else "try the CPU (--device cpu)"
            raise MergeError(f"The memory of {self._device} is too small for this merge; {advice}.") from exc

    def work_beside(self) -> None:
        """Work in a thread of its own; the first one to be done ends the run, and with it the others."""
        with self._lock:
            if self.ended:
                return
            self._working += 1
        error: BaseException | None = None
        try:
            self.work()
        except BaseException as exc:  # raised in the thread that waits
            error = exc
        self._end(error)
        with self._idle:
            self._working -= 1
            self._idle.notify_all()

    def _end(self, error: BaseException | None = None) -> None:
        with self._lock:
            self.error = self.error or error
            if not self.ended:
                self.ended = True
                self._news.release()

    def has_ended(self, seconds: float) -> bool:
        """Wait some seconds, and tell whether the run has ended; a thread may still be at its last piece."""
        return self.ended or self._news.acquire(timeout=seconds)

    def close(self) -> None:
        """End the run, and wait until no thread can hand a piece to the sink any more."""
        self._end()
        with self._idle:
            self._idle.wait_for(lambda: not self._working)

    def report_progress(self) -> None:
        with self._lock:
            done, self._done = self._done, 0
        if done:
            self._controls.advance(done)

    def _cut(self) -> Iterator[_Piece]:
        for plan in self._plan.tensors:
            inputs = self._read(plan)
            size = self._piece_size(plan, inputs)
            for start in range(0, plan.info.numel, size):
                yield _Piece(plan, inputs, start, min(start + size, plan.info.numel))

    def _piece_size(self, plan: TensorPlan, inputs: tuple[Tensor, ...]) -> int:
        if self._device.type != "cpu":
            return _DEVICE_PIECE
        return _COPIED_PIECE if len(inputs) == 1 or self._fuses(plan, inputs) else _COMPUTED_PIECE

    def _read(self, plan: TensorPlan) -> tuple[Tensor, ...]:
        tensors = [self._models[role].tensor(plan.name.key) for role in plan.inputs]
        if plan.name.key == FIRST_CONV and len({tensor.shape[1] for tensor in tensors}) > 1:
            tensors = _share_channels(tensors)
        if any(tensor.shape != plan.info.shape for tensor in tensors):
            raise MergeError(f"{plan.name.key} has another shape than when the merge was planned.")
        return tuple(tensor.reshape(-1) for tensor in tensors)

    def _finish(self, piece: _Piece) -> None:
        plan = piece.plan
        inputs = [tensor[piece.start : piece.stop] for tensor in piece.inputs]
        result = self._compute(plan, inputs)
        if plan.info.is_float and not is_finite(result):
            self._blame(plan, inputs, result.cpu())
        self._sink.write(plan, piece.start, result)
        with self._lock:
            self._done += result.numel() * result.element_size()

    def _compute(self, plan: TensorPlan, inputs: Sequence[Tensor]) -> Tensor:
        saved = TORCH_DTYPES[plan.info.dtype]
        if len(inputs) == 1:
            return round_to(inputs[0], saved)
        if self._fuses(plan, inputs):
            return half_weight_sum(inputs[0].to(self._device), inputs[1].to(self._device), plan.alpha)
        a, b, *rest = self._working_copies(inputs)
        c = rest[0] if rest else a
        return round_to(FORMULAS[self._plan.mode](a, b, c, alpha=plan.alpha, beta=plan.beta or 0.0), saved)

    def _working_copies(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        dtype = working_dtype(self._device)
        if self._device.type != "cpu":
            return [tensor.to(device=self._device, dtype=dtype, copy=True) for tensor in inputs]
        # On the CPU the same few buffers serve each piece: asking the system for new memory costs more than the sums.
        if not hasattr(self._buffers, "rows"):
            self._buffers.rows = torch.empty(3, _COMPUTED_PIECE, dtype=dtype)
        rows = self._buffers.rows[: len(inputs), : len(inputs[0])]
        return [row.copy_(tensor) for row, tensor in zip(rows, inputs, strict=True)]

    def _fuses(self, plan: TensorPlan, inputs: Sequence[Tensor]) -> bool:
        half = plan.info.dtype == "F16" and all(tensor.dtype is torch.float16 for tensor in inputs)
        return half and self._plan.mode is MergeMode.WEIGHT_SUM

    def _blame(self, plan: TensorPlan, inputs: Sequence[Tensor], result: Tensor) -> None:
        finite = [torch.isfinite(tensor.float()) for tensor in inputs]
        spoilt = ~torch.isfinite(result.float())
        for values in finite:
            spoilt &= values
        if spoilt.any():
            beta = "" if plan.beta is None else f", beta {plan.beta:g}"
            raise MergeError(
                f"{plan.name.key}: the result is too large for {plan.info.dtype}, though the models' own numbers are "
                f"finite (alpha {plan.alpha:g}{beta}).\nUse ratios nearer to 0 to 1, or save as bf16 or fp32."
            )
        with self._lock:
            found = zip(plan.inputs, finite, strict=True)
            self.not_finite.update((role, plan.name.key) for role, values in found if not values.all())


def is_finite(values: Tensor) -> bool:
    """Tell whether a float tensor holds neither NaN nor infinite numbers, at the speed of reading it."""
    if values.element_size() == 1:  # torch has hardly any arithmetic for fp8
        values = values.float()
    # NaN and infinity survive a sum; one that overflows without them is looked at more closely.
    return math.isfinite(values.sum().item()) or bool(torch.isfinite(values).all())


def _share_channels(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Make first convolutions of 9 and 4 channels alike: the channels that not all have become those of A.

    Whatever the mode, A's numbers mixed with themselves are A's, so that only the shared channels are merged. They
    are float64, in which every number of every format is exact; the tensors are small.
    """
    shared = min(tensor.shape[1] for tensor in tensors)
    alike = []
    for tensor in tensors:
        own = tensors[0].to(torch.float64, copy=True)
        own[:, :shared] = tensor[:, :shared]
        alike.append(own)
    return alike


@contextmanager
def _one_torch_thread_each() -> Iterator[None]:
    """Let torch use one thread in each of ours; more would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
