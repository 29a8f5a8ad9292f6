"""Computes tensors for another merge, which has this one in the place of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .computation import Computation, Piece, StoredData, TensorReader
from .files.lora_file import OpenLora
from .files.tensor_data import Buffer
from .once import Once
from .plan import MergePlan, Role, TensorPlan


class InnerMerge:
    """Computes tensors for another merge, which takes them in the place of a file's: they are not rounded.

    Args:
        plan: The merge.
        models: A reader for each model of the plan.
        loras: Its LoRAs.
    """

    def __init__(self, plan: MergePlan, models: Mapping[Role, TensorReader], loras: Sequence[OpenLora] = ()) -> None:
        self._computation = Computation(plan, models, loras=loras)

    def data(self, tensor: TensorPlan) -> StoredData:
        """Give a tensor of the plan: its float64 numbers, or those of the only input as they are.

        Raises:
            CheckpointError: A file cannot be read, or has changed.
            MergeError: A tensor does not have the planned shape.
        """
        whole = self._computation.prepare(tensor)
        return whole.inputs[0] if whole.is_copy else _ComputedData(self._computation, whole)


class _ComputedData:
    """A tensor that is computed when it is read, as :class:`StoredData`."""

    dtype = torch.float64
    in_memory = False

    def __init__(self, computation: Computation, whole: Piece) -> None:
        self.shape: tuple[int, ...] = tuple(whole.plan.info.shape)
        self._computation = computation
        self._whole = whole
        self._all = Once(self._compute_all) if computation.is_at_once(whole) else None

    def read(self, start: int, stop: int, buffer: Buffer) -> Tensor:
        """Compute some numbers, and give them in the buffer's memory."""
        values, _ = buffer.room(stop - start, self.dtype)
        if self._all is not None:
            return values.copy_(self._all()[start:stop])
        for span in self._computation.spans(self._whole, start, stop):
            first, last = max(start, span.start), min(stop, span.stop)
            computed = self._compute(self._whole._replace(span=span))
            values[first - start : last - start] = computed[first - span.start : last - span.start]
        return values

    def _compute(self, piece: Piece) -> Tensor:
        return self._computation.unrounded(piece, self._computation.inputs(piece))

    def _compute_all(self) -> Tensor:
        return self._compute(self._whole).clone()

    def largest(self, start: int, stop: int) -> None:
        """Give None: it is known of stored fp16 numbers alone."""

    def tensor(self) -> Tensor:
        """Compute the whole tensor into memory of its own."""
        return self.read(0, self._whole.plan.info.numel, Buffer()).view(self.shape)
