"""Tensors of files that were read last, kept in memory: the next cell of a sweep needs the same ones again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import NamedTuple

from ..errors import CheckpointError
from .execute import TensorReader
from .files.checkpoint import Checkpoint
from .files.tensor_data import HeldData
from .plan import MergePlan, Role

MOST_BYTES = 1 << 27
"""The memory for them; a cell of a sweep reads a few MB, and reading them again would take as long as computing."""


class RecentTensors:
    """Reads tensors of models, and keeps those that were read last."""

    def __init__(self) -> None:
        self._held: OrderedDict[tuple[Checkpoint, str], HeldData] = OrderedDict()
        self._nbytes = 0

    def readers(self, models: Mapping[Role, Checkpoint], plan: MergePlan) -> Mapping[Role, TensorReader]:
        """Give what reads the models for a plan; a plan of more than there is room for reads the files alone."""
        if plan.nbytes * len(models) > MOST_BYTES:
            return models
        return {role: _Reader(self, model) for role, model in models.items()}

    def data(self, model: Checkpoint, key: str) -> HeldData:
        """Give a tensor of a model.

        Raises:
            CheckpointError: The file cannot be read, has changed since it was opened, or is closed.
            KeyError: It has no such tensor.
        """
        held = self._held.pop((model, key), None)
        if held is None:
            held = HeldData(model.tensor(key))
            self._nbytes += held.nbytes
        elif model.has_changed():
            raise CheckpointError(f"{model.path} changed while it was read.")
        self._held[model, key] = held
        while self._nbytes > MOST_BYTES:
            self._nbytes -= self._held.popitem(last=False)[1].nbytes
        return held


class _Reader(NamedTuple):
    """Reads the tensors of one model."""

    recent: RecentTensors
    model: Checkpoint

    def data(self, key: str) -> HeldData:
        """Give a tensor."""
        return self.recent.data(self.model, key)
