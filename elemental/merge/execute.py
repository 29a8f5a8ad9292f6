"""Execute a plan: compute the result piece by piece, and write it to a sink, a file or a live model."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Protocol

import torch
from torch import Tensor

from ..errors import MergeError, Stopped
from ..modes.base import Needs
from ..recipe.rules import format_ratio
from .computation import Computation, Piece, TensorReader, put_into
from .files.dtypes import TORCH_DTYPES, round_to
from .files.lora_file import OpenLora
from .files.writer import SafetensorsWriter
from .findings import Findings
from .interrupts import Crew, work_together
from .out_of_memory import is_out_of_memory
from .plan import MORE_ROLES, MergePlan, Role, TensorPlan
from .progress import Controls

_MAX_THREADS = 3
_THREAD_BYTES = 1 << 26
"""Larger results, in bytes, are computed by several threads: some read and write while others compute. Smaller ones are
done sooner with torch's threads alone, which are running already."""


class Sink(Protocol):
    """Takes results; several threads call it at once, for different pieces."""

    def write(self, tensor: TensorPlan, start: int, values: Tensor) -> None:
        """Write a piece of a result.

        Args:
            tensor: The tensor.
            start: The index of the piece's first number in the flattened tensor.
            values: The piece, 1-D, contiguous, in the result's dtype; valid only during the call.
        """

    def room(self, tensor: TensorPlan, start: int, count: int) -> Tensor | None:  # noqa: ARG002
        """Give the memory that a piece goes to, to compute it there and not write it; or None, as most sinks do.

        Args:
            tensor: The tensor.
            start: The index of the piece's first number in the flattened tensor.
            count: How many numbers it has.

        Returns:
            Memory of any dtype on any device, 1-D, contiguous.
        """
        return None


class FileSink(Sink):
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


def execute(
    plan: MergePlan,
    models: Mapping[Role, TensorReader],
    sink: Sink,
    *,
    loras: Sequence[OpenLora] = (),
    device: str = "cpu",
    controls: Controls | None = None,
) -> Findings:
    """Compute every tensor of a plan, and write it to a sink.

    Float tensors are computed in float64 (float32 on Apple's devices, which have no float64) and rounded once; weight
    sums of fp16 are computed by :func:`~.half_precision.half_weight_sum`. A few threads hold a few pieces
    each in memory, whatever the size of the models.

    Args:
        plan: What to compute.
        models: A reader for each model of the plan.
        sink: Takes the results.
        loras: The LoRAs of the recipe, in its order.
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
    run = _Run(plan, models, sink, loras=loras, device=check_device(device), controls=controls)
    controls.begin(plan.nbytes)
    if plan.nbytes > _THREAD_BYTES:
        with one_torch_thread_each():
            work_together(run.work, min(_MAX_THREADS, os.cpu_count() or 1), run.report_progress)
    elif any(tensor.loras for tensor in plan.tensors):
        with one_torch_thread_each():  # matrix products of several threads can differ in the last bit
            run.work()
    else:
        run.work()
    run.report_progress()
    return Findings(tuple(sorted(run.not_finite, key=lambda entry: (entry[0].value, entry[1]))))


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
    """One execution: threads take pieces from a shared iterator until it is exhausted or their crew has ended."""

    def __init__(
        self,
        plan: MergePlan,
        models: Mapping[Role, TensorReader],
        sink: Sink,
        *,
        loras: Sequence[OpenLora],
        device: torch.device,
        controls: Controls,
    ) -> None:
        self.not_finite: set[tuple[Role, str]] = set()
        self._plan = plan
        self._computation = Computation(plan, models, loras=loras, device=device)
        self._sink = sink
        self._device = device
        self._controls = controls
        self._pieces = self._cut()
        self._lock = threading.Lock()
        self._unreported = 0

    def work(self, crew: Crew | None = None) -> None:
        """Compute pieces until there are none left or the crew's work has ended; alone if there is no crew."""
        try:
            while crew is None or not crew.ended:
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

    def report_progress(self) -> None:
        with self._lock:
            done, self._unreported = self._unreported, 0
        if done:
            self._controls.advance(done)

    def _cut(self) -> Iterator[Piece]:
        for plan in self._plan.tensors:
            yield from self._computation.pieces(self._computation.prepare(plan))

    def _finish(self, piece: Piece) -> None:
        start, stop, _, _ = piece.span
        room = self._sink.room(piece.plan, start, stop - start) if piece.of_halves else None
        result = self._result(piece, room)
        if result is not room:
            self._sink.write(piece.plan, start, result)
        with self._lock:
            self._unreported += len(result) * result.element_size()

    def _result(self, piece: Piece, room: Tensor | None) -> Tensor:
        """Compute a piece, in its room where that can be."""
        inputs = self._computation.inputs(piece)
        if piece.of_halves:
            result, finite = self._computation.sum_halves(piece, inputs, room)
        else:
            saved = TORCH_DTYPES[piece.plan.info.dtype]
            result = round_to(self._computation.unrounded(piece, inputs), saved)
            finite = self._computation.is_finite_copy(piece)
        if not finite and piece.plan.info.is_float and not is_finite(result):
            self._report_not_finite(piece, inputs, result.cpu())
        return result

    def _report_not_finite(self, piece: Piece, inputs: Sequence[Tensor], result: Tensor) -> None:
        plan, finite = piece.plan, [torch.isfinite(tensor.double()) for tensor in inputs]
        if piece.kept is not None:
            finite = [put_into(torch.isfinite(piece.kept.double()) | (at > 0), part) for at, part in enumerate(finite)]
        overflowed = ~torch.isfinite(result.float())
        if self._plan.mode.record.needs is Needs.NUMBER and not piece.is_changed_as_whole:
            for is_finite_input in finite:
                overflowed &= is_finite_input
        elif not all(is_finite_input.all() for is_finite_input in finite):
            overflowed.zero_()  # one number that is not finite spreads
        if overflowed.any():
            beta = "" if plan.beta is None else f", beta {format_ratio(plan.beta)}"
            others = "".join(
                f", {role.name} {format_ratio(ratio)}" for role, ratio in zip(MORE_ROLES, plan.more, strict=False)
            )
            others += ", adjusted" if plan.adjusted else ""
            others += "".join(f", LoRA {use.place + 1} {format_ratio(use.ratio)}" for use in plan.loras)
            raise MergeError(
                f"{plan.name.key}: the result is too large for {plan.info.dtype}, though the models' numbers are "
                f"finite (alpha {format_ratio(plan.alpha)}{beta}{others}).\n"
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


@contextmanager
def one_torch_thread_each() -> Iterator[None]:
    """Let torch use one thread in each of ours; more would wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
