"""Where the results of a live merge go: into the live tensors, or only to be compared with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from .execute import Sink
from .plan import TensorPlan
from .tensor_views import copy_piece, equals, pieces_of, room_in


class LiveSink(Sink):
    """Writes results into the live tensors.

    Args:
        live: All tensors of the live model.
    """

    def __init__(self, live: Mapping[str, Sequence[Tensor]]) -> None:
        self._live = live

    def write(self, tensor: TensorPlan, start: int, values: Tensor) -> None:
        """Write a piece of a result."""
        for part, at, piece in pieces_of(self._live[tensor.name.key], start, values):
            copy_piece(part, at, piece)

    def room(self, tensor: TensorPlan, start: int, count: int) -> Tensor | None:
        """Give the memory of a piece."""
        return room_in(self._live[tensor.name.key], start, count)


class ComparingSink(Sink):
    """Compares results with the live tensors without writing.

    Args:
        live: All tensors of the live model.

    Attributes:
        differs: Whether a result is another one than what the live model holds.
    """

    def __init__(self, live: Mapping[str, Sequence[Tensor]]) -> None:
        self.differs = False
        self._live = live

    def write(self, tensor: TensorPlan, start: int, values: Tensor) -> None:
        """Compare a piece of a result."""
        for part, at, piece in pieces_of(self._live[tensor.name.key], start, values):
            if not equals(part, at, piece):
                self.differs = True
