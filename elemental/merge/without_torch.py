"""Weight sums of fp16 files without torch, whose import takes as long as such a merge.

The numbers are those of :mod:`.execute`, bit by bit: torch's ``lerp`` computes A + alpha (B - A), with one rounding to
float32 for the product and the sum, and so does this, with numpy and NumKong (github.com/ashvardanian/NumKong). What
is not an fp16 sum or a copy, and whatever is not as usual, such as numbers that are not finite, is left to torch.
"""

from __future__ import annotations

import os
import platform
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..architectures.keys import FIRST_CONV
from ..errors import MergeError, Stopped
from .files.checkpoint import Checkpoint
from .files.tensor_info import BITS
from .files.writer import SafetensorsWriter
from .findings import Findings
from .half_bits import HALF_STEP, HALF_UNIT, factor_of, largest, may_cancel, near_zero, surely_finite
from .interrupts import Crew, work_together
from .models import Model
from .plan import MergePlan, Role, TensorPlan
from .progress import Controls

_PIECE = 1 << 17
"""Numbers that are computed at a time; two copies of them in float32 stay in a CPU's second cache."""
_MOST_THREADS = 3
"""Some read or write while one computes; NumKong lets no two compute at once."""
_AS_BITS = {"F16": ("u2", 0x7C00), "BF16": ("u2", 0x7F80), "F32": ("u4", 0x7F800000), "F64": ("u8", 0x7FF0000000000000)}
"""Floats that can be copied: integers of their size, and the bits that are all set in NaN and infinite numbers."""


class _NotUsual(Exception):
    """Something that only torch's way answers for."""


class _Piece(NamedTuple):
    """A part of a tensor.

    Attributes:
        plan: How the tensor is made.
        inputs: The files that it is made from.
        start: The index of the first number in the flattened tensor.
        stop: The index behind the last one.
    """

    plan: TensorPlan
    inputs: tuple[Checkpoint, ...]
    start: int
    stop: int


def write_weight_sums(
    plan: MergePlan,
    models: Mapping[Role, Model],
    writer: SafetensorsWriter,
    *,
    file_keys: Mapping[str, str],
    controls: Controls,
) -> Findings | None:
    """Compute every tensor of a plan, and write it, if that needs no torch.

    Args:
        plan: What to compute.
        models: The models of the plan.
        writer: The file.
        file_keys: The keys in the file, where they are others than the plan's.
        controls: Progress and stop.

    Returns:
        That nothing was found; None if torch is needed: then :func:`~.execute.execute` is to write all tensors.

    Raises:
        CheckpointError: A tensor cannot be read.
        MergeError: The disk is full or failed, or memory runs out.
        Stopped: ``controls`` asked to stop.
    """
    fused = find_fused_sums()
    if fused is None or not plan.mode.record.is_lerp or not all(_is_usual(tensor, models) for tensor in plan.tensors):
        return None
    run = _Run(plan, models, writer, fused, file_keys=file_keys, controls=controls)
    controls.begin(plan.nbytes)
    try:
        work_together(run.work, min(_MOST_THREADS, os.cpu_count() or 1), run.report_progress)
    except _NotUsual:
        run.report_progress()
        controls.advance(plan.nbytes - run.reported)  # so that the end of both is the end
        return None
    run.report_progress()
    return Findings()


@cache
def find_fused_sums() -> Any:
    """Give NumKong, where it multiplies and adds with one rounding, as torch does on such processors; or None.

    On Windows, the compiler of torch may round twice at the end of a tensor.
    """
    if platform.machine().lower() not in ("x86_64", "amd64") or sys.platform == "win32":
        return None
    try:
        import numkong
    except ImportError:
        return None
    try:
        return numkong if numkong.get_capabilities().get("haswell") and rounds_once(numkong) else None
    except (AttributeError, TypeError, ValueError):  # of another version
        return None


def rounds_once(numkong: Any) -> bool:
    """Try whether what it computes with on this processor gives the numbers that this module counts on."""
    ratio = float(np.float32(0.3))
    a, b = np.linspace(-1, 2, 999, dtype="f4"), np.linspace(3, -2, 999, dtype="f4")
    total, halves = np.empty_like(a), np.empty(len(a), "f2")
    numkong.blend(a, b, alpha=1.0, beta=ratio, out=total)
    numkong.astype(total, "float16", out=halves)
    expected = (a.astype("f8") + b.astype("f8") * ratio).astype("f4")
    return np.array_equal(total, expected) and np.array_equal(halves, expected.astype("f2"))


def _is_usual(tensor: TensorPlan, models: Mapping[Role, Model]) -> bool:
    """Tell whether a tensor is a copy or a weight sum of fp16 numbers that lie in files one after the other."""
    found = [models[role] for role in tensor.inputs]
    if tensor.is_changed_after or not all(isinstance(model, Checkpoint) for model in found):
        return False
    if not all(_lies_as_planned(tensor, model) for model in found if isinstance(model, Checkpoint)):
        return False
    if len(found) == 1:
        return tensor.info.dtype in _AS_BITS or not tensor.info.is_float
    halves = tensor.info.dtype == "F16" and not any(tensor.more)
    return halves and tensor.inputs == (Role.A, Role.B) and factor_of(tensor.alpha).alpha not in (0.0, 1.0)


def _lies_as_planned(tensor: TensorPlan, model: Checkpoint) -> bool:
    key, info = tensor.name.key, model.tensors[tensor.name.key]
    same = info.dtype == tensor.info.dtype and info.numel == tensor.info.numel
    return same and model.is_in_sequence(key) and (key != FIRST_CONV or info.shape == tensor.info.shape)


class _Memory:
    """What a thread computes in."""

    def __init__(self) -> None:
        self.a, self.b, self.sum = (np.empty(_PIECE, "f2") for _ in range(3))
        self.wide, self.difference = (np.empty(_PIECE, "f4") for _ in range(2))
        self.copied = np.empty(8 * _PIECE, "u1")


class _Run:
    """One execution: threads take pieces from a shared iterator until it is exhausted or their crew has ended.

    Attributes:
        reported: How many bytes are reported as finished.
    """

    def __init__(
        self,
        plan: MergePlan,
        models: Mapping[Role, Model],
        writer: SafetensorsWriter,
        fused: Any,
        *,
        file_keys: Mapping[str, str],
        controls: Controls,
    ) -> None:
        self._writer = writer
        self._fused = fused
        self._file_keys = file_keys
        self._controls = controls
        self._pieces = _cut(plan, models)
        self._lock = threading.Lock()
        self._unreported = 0
        self.reported = 0

    def work(self, crew: Crew) -> None:
        """Compute pieces until there are none left or the crew's work has ended."""
        try:
            with np.errstate(all="ignore"):  # what is not finite is found afterwards
                self._finish_all(crew, _Memory())
        except MemoryError as exc:
            raise MergeError("Out of memory: this merge needs more than there is; close other programs.") from exc

    def _finish_all(self, crew: Crew, memory: _Memory) -> None:
        while not crew.ended:
            if self._controls.should_stop():
                raise Stopped
            with self._lock:
                piece = next(self._pieces, None)
            if piece is None:
                return
            self._finish(piece, memory)

    def report_progress(self) -> None:
        with self._lock:
            done, self._unreported = self._unreported, 0
        if done:
            self.reported += done
            self._controls.advance(done)

    def _finish(self, piece: _Piece, memory: _Memory) -> None:
        data = self._copy(piece, memory) if len(piece.inputs) == 1 else self._sum(piece, memory)
        key = piece.plan.name.key
        self._writer.write(self._file_keys.get(key, key), piece.start * _size_of(piece), data.data.cast("B"))
        with self._lock:
            self._unreported += data.nbytes

    def _copy(self, piece: _Piece, memory: _Memory) -> NDArray[Any]:
        (model,), dtype, size = piece.inputs, piece.plan.info.dtype, _size_of(piece)
        data = memory.copied[: (piece.stop - piece.start) * size]
        model.read_into(piece.plan.name.key, piece.start * size, data.data)
        if dtype in _AS_BITS:
            kind, exponent = _AS_BITS[dtype]
            if np.any((data.view(kind) & exponent) == exponent):
                raise _NotUsual
        return data

    def _sum(self, piece: _Piece, memory: _Memory) -> NDArray[Any]:
        count, key = piece.stop - piece.start, piece.plan.name.key
        a, b, result = memory.a[:count], memory.b[:count], memory.sum[:count]
        for model, values in zip(piece.inputs, (a, b), strict=True):
            model.read_into(key, 2 * piece.start, values.data.cast("B"))
        finite = sum_halves(self._fused, a, b, piece.plan.alpha, out=result, memory=(memory.wide, memory.difference))
        if not finite and not largest(result) <= np.finfo("f2").max:
            raise _NotUsual
        return result


def _size_of(piece: _Piece) -> int:
    """Give the bytes of one number."""
    return BITS[piece.plan.info.dtype] // 8


def _cut(plan: MergePlan, models: Mapping[Role, Model]) -> Iterator[_Piece]:
    for tensor in plan.tensors:
        inputs = tuple(model for role in tensor.inputs if isinstance(model := models[role], Checkpoint))
        for start in range(0, tensor.info.numel, _PIECE):
            yield _Piece(tensor, inputs, start, min(start + _PIECE, tensor.info.numel))


def sum_halves(
    fused: Any, a: NDArray[Any], b: NDArray[Any], alpha: float, *, out: NDArray[Any], memory: Sequence[NDArray[Any]]
) -> bool:
    """Give (1 - alpha) A + alpha B of fp16 numbers, with the bits of :func:`~.half_precision.half_weight_sum`.

    Args:
        fused: NumKong.
        a: A's numbers, fp16, 1-D.
        b: B's numbers, fp16, 1-D, of the same length.
        alpha: The ratio; in float32 neither 0 nor 1, which are copies.
        out: Memory for the result, fp16, of the same length.
        memory: Two arrays of float32 to compute in, at least as long.

    Returns:
        Whether the result surely holds neither NaN nor infinite numbers.
    """
    factor, (wide, difference) = factor_of(alpha), (values[: len(a)] for values in memory)
    fused.astype(a, "float32", out=wide)
    fused.astype(b, "float32", out=difference)
    if abs(factor.alpha) < 0.5:
        ratio = factor.alpha
        np.subtract(difference, wide, out=difference)
    else:
        ratio = -float(np.float32(1) - np.float32(factor.alpha))
        np.subtract(difference, wide, out=wide)
        wide, difference = difference, wide
    most_a, most_b = largest(a), largest(b)
    lost = 0.0
    if may_cancel(factor.error, most_a, most_b):
        fused.astype(difference, "float16", out=out)
        lost = factor.error * largest(out)
    fused.blend(wide, difference, alpha=1.0, beta=ratio, out=wide)
    fused.astype(wide, "float16", out=out)
    if not lost <= HALF_STEP:
        _mend_cancelled(out, a, b, alpha, error=factor.error, most_lost=lost)
    return surely_finite(alpha, most_a, most_b)


def _mend_cancelled(
    result: NDArray[Any], a: NDArray[Any], b: NDArray[Any], alpha: float, *, error: float, most_lost: float
) -> None:
    """Compute results anew that are small because large terms cancel; rounded by way of float32, as torch does it."""
    near = near_zero(result, most_lost / HALF_UNIT)
    some_a, some_b, fused = a[near], b[near], result[near]
    lost = error * np.abs(some_b - some_a).astype("f8")
    exact = (some_a.astype("f8") * (1 - alpha) + some_b.astype("f8") * alpha).astype("f4").astype("f2")
    result[near] = np.where((lost > HALF_STEP) & (np.abs(fused) <= lost / HALF_UNIT), exact, fused)
