"""Run a plan: read the inputs piece by piece, compute, hand each piece to a sink; a file or a live model."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cache
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ..errors import MergeError, Stopped
from ..spec.recipe import MergeMode
from .controls import Controls
from .dtypes import TORCH_DTYPES, working_dtype
from .modes import FORMULAS, half_weight_sum
from .plan import MergePlan, Role, TensorPlan
from .writer import SafetensorsWriter

_CPU_PIECE = 1 << 20
_DEVICE_PIECE = 1 << 24
"""Numbers computed at a time: on the CPU what its caches bear, elsewhere enough to hide the cost of a call."""

_MAX_THREADS = 3
_POLL_SECONDS = 0.1


class TensorReader(Protocol):
    """Where a model's tensors come from."""

    def tensor(self, key: str) -> Tensor:
        """Give one tensor; it is not written to."""


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
        """Write a piece of a result."""
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

    Float tensors are computed in float32 or better (see :func:`~.dtypes.working_dtype`) and rounded once. Memory
    is a few pieces for each of a few threads, whatever the models' size.

    Args:
        plan: What to compute.
        models: A reader for each model of the plan.
        sink: Takes the results.
        device: Where to compute, as torch names it.
        controls: Progress and stop.

    Raises:
        MergeError: A result is not finite though its inputs are, the device cannot be used, or memory runs out.
        Stopped: The caller asked for it.
    """
    controls = controls or Controls()
    run = _Run(plan, models, sink, check_device(device), controls)
    controls.begin(plan.nbytes)
    count = min(_MAX_THREADS, os.cpu_count() or 1)
    with _one_torch_thread_each(), ThreadPoolExecutor(count, thread_name_prefix="merge") as pool:
        try:  # from the first thread on: an interrupt at any moment must end them all
            workers = [pool.submit(run.work) for _ in range(count)]
            while wait(workers, _POLL_SECONDS, FIRST_EXCEPTION).not_done and not run.ended.is_set():
                run.report_progress()
        except BaseException:
            run.ended.set()
            raise
        for worker in workers:
            worker.result()
    run.report_progress()
    return Findings(tuple(sorted(run.not_finite, key=lambda found: (found[0].value, found[1]))))


def check_device(name: str) -> torch.device:
    """Make sure that torch can compute on a device.

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
        device: torch.device,
        controls: Controls,
    ) -> None:
        self.ended = threading.Event()
        self.not_finite: set[tuple[Role, str]] = set()
        self._plan = plan
        self._models = models
        self._sink = sink
        self._device = device
        self._controls = controls
        self._pieces = self._cut()
        self._lock = threading.Lock()
        self._done = 0

    def work(self) -> None:
        """Take and finish pieces; what one thread raises ends the others."""
        try:
            while not self.ended.is_set():
                if self._controls.should_stop():
                    raise Stopped("Stopped; nothing was changed.")
                with self._lock:
                    piece = next(self._pieces, None)
                if piece is None:
                    return
                self._finish(piece)
        except torch.cuda.OutOfMemoryError as exc:
            self.ended.set()
            raise MergeError(f"The memory of {self._device} is too small for this merge; try --device cpu.") from exc
        except BaseException:
            self.ended.set()
            raise

    def report_progress(self) -> None:
        with self._lock:
            done, self._done = self._done, 0
        if done:
            self._controls.advance(done)

    def _cut(self) -> Iterator[_Piece]:
        size = _CPU_PIECE if self._device.type == "cpu" else _DEVICE_PIECE
        for plan in self._plan.tensors:
            inputs = self._read(plan)
            for start in range(0, plan.info.numel, size):
                yield _Piece(plan, inputs, start, min(start + size, plan.info.numel))

    def _read(self, plan: TensorPlan) -> tuple[Tensor, ...]:
        tensors = [self._models[role].tensor(plan.name.key) for role in plan.inputs]
        first = tensors[0]
        return tuple(_widen(t, first).reshape(-1) if t.shape != first.shape else t.reshape(-1) for t in tensors)

    def _finish(self, piece: _Piece) -> None:
        plan = piece.plan
        inputs = [tensor[piece.start : piece.stop] for tensor in piece.inputs]
        result = self._compute(plan, inputs)
        if plan.info.is_float and not is_finite(result):
            self._blame(plan, inputs)
        self._sink.write(plan, piece.start, result)
        with self._lock:
            self._done += result.numel() * result.element_size()

    def _compute(self, plan: TensorPlan, inputs: list[Tensor]) -> Tensor:
        saved = TORCH_DTYPES[plan.info.dtype]
        if len(inputs) == 1:
            return inputs[0].to(saved)
        mode = self._plan.mode
        if mode is MergeMode.WEIGHT_SUM and saved is torch.float16:
            if not self._fuses(inputs):
                inputs = [tensor.to(device=self._device, dtype=torch.float32) for tensor in inputs]
            return half_weight_sum(inputs[0], inputs[1], plan.alpha)
        dtype = working_dtype(plan.info.dtype, self._device)
        a, b, *rest = (tensor.to(device=self._device, dtype=dtype) for tensor in inputs)
        c = rest[0] if rest else a
        return FORMULAS[mode](a, b, c, plan.alpha, plan.beta or 0.0).to(saved)

    def _fuses(self, inputs: list[Tensor]) -> bool:
        on_cpu = self._device.type == "cpu"
        return on_cpu and _has_half_lerp() and all(tensor.dtype is torch.float16 for tensor in inputs)

    def _blame(self, plan: TensorPlan, inputs: list[Tensor]) -> None:
        guilty = [role for role, tensor in zip(plan.inputs, inputs, strict=True) if not is_finite(tensor)]
        if not guilty:
            beta = "" if plan.beta is None else f", beta {plan.beta:g}"
            raise MergeError(
                f"{plan.name.key}: the result is too large for {plan.info.dtype}, though the models' own numbers are "
                f"finite (alpha {plan.alpha:g}{beta}).\nUse ratios nearer to 0 to 1, or save as bf16 or fp32."
            )
        with self._lock:
            self.not_finite.update((role, plan.name.key) for role in guilty)


def is_finite(values: Tensor) -> bool:
    """Tell whether a float tensor holds neither NaN nor infinite numbers, at the speed of reading it."""
    if values.element_size() == 1:  # torch has hardly any arithmetic for fp8
        values = values.float()
    # NaN and infinity survive a sum; one that overflows without them is looked at more closely.
    return math.isfinite(values.sum().item()) or bool(torch.isfinite(values).all())


def _widen(narrow: Tensor, wide: Tensor) -> Tensor:
    """Give a 4-channel first convolution the inpainting model's other channels.

    Mixing these with themselves leaves them as they are, so that the shared channels alone are merged.
    """
    widened = wide.to(torch.float32, copy=True)
    widened[:, : narrow.shape[1]] = narrow
    return widened


@cache
def _has_half_lerp() -> bool:
    try:
        torch.lerp(torch.zeros(1, dtype=torch.float16), torch.zeros(1, dtype=torch.float16), 0.5)
    except RuntimeError:  # torch before 2.2
        return False
    return True


@contextmanager
def _one_torch_thread_each() -> Iterator[None]:
    """Let torch use one thread in each of ours; more would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
