"""Backward passes: each gives one sample of the effect of every tensor."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn

from ..errors import HostError, Stopped
from ..merge.out_of_memory import is_out_of_memory
from .directions import Movement
from .memory import free_bytes, graph_bytes
from .samples import IMAGE, SOURCES, UNET, Pass
from .weight_gradients import WeightGradients

_GOLDEN = (math.sqrt(5) - 1) / 2
_PIECE = 1 << 22
"""Numbers of a direction that are read at a time."""
_LITTLE = 1 << 28
"""Bytes of gradients that may be held without asking, 256 MB."""
_FIRST_SCALE = 2.0**16
"""As of torch's GradScaler: gradients in fp16 would underflow without it, and are finite with it for most models."""


class Differentiable(Protocol):
    """An image that was made, and can be computed again with gradients; see ``hosts.base.TracedImage``."""

    @property
    def steps(self) -> int:
        """How often its U-Net was called."""

    def predict(self, step: int) -> Tensor:
        """Compute the guided prediction of a step."""

    def draw(self) -> Tensor:
        """Give the whole image."""

    def decode(self) -> Tensor:
        """Decode its latents."""


class PassMaker:
    """Makes backward passes through a live model.

    Args:
        networks: The networks whose parameters hold the model.
        tensors: Their parts by checkpoint key, as the live model gives them.
        directions: Where the merge moves each tensor.
        should_stop: Asked at each weight.

    Attributes:
        keys: The tensors that samples are made of, sorted.
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        tensors: Mapping[str, Sequence[Tensor]],
        directions: Movement,
        *,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self._directions = directions
        self._should_stop = should_stop
        self._gradients = WeightGradients(networks, tensors, self._take, before=self._ask)
        self._row: dict[str, float] = {}
        self._scale = _FIRST_SCALE if _is_half(networks) else 1.0
        self._holds = False
        self.keys = tuple(sorted(directions.keys & self._gradients.keys))
        self._wanted: Collection[str] = frozenset(self.keys)

    def sample(self, image: Differentiable, which: Pass, weigh: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Make one pass.

        Args:
            image: The image of the pass's request.
            which: The pass; the same pass always has the same signs.
            weigh: Gives the weights of what is differentiated, from its values and of their shape; by default random
                signs.

        Returns:
            A sample for each key: float32, on the CPU. Tensors without an influence have 0.

        Raises:
            CheckpointError: A file cannot be read, or has changed.
            HostError: The model cannot be differentiated, its gradients are not finite, or memory runs out.
            Stopped: The user asked for it.
        """
        with _out_of_memory(), torch.inference_mode(False), torch.enable_grad(), self._gradients:
            while not self._try(image, which, weigh):
                self._scale /= 2
                if self._scale < 1:
                    raise HostError("The gradients of this model are not finite; use a larger number format (fp32).")
        return torch.tensor([self._row.get(key, 0.0) for key in self.keys])

    def values(self, image: Differentiable, which: Pass) -> Tensor:
        """Compute what a pass differentiates, with the model as it is: float32, without gradients."""
        with _out_of_memory(), torch.inference_mode(False), torch.no_grad():
            return _compute(image, which).float().clone()

    def memory(self, image: Differentiable, source: str) -> int:
        """Measure the memory that a pass needs beside the model, without needing it.

        Args:
            image: The image of a request.
            source: What is differentiated: one U-Net step, or the decoding. A whole image needs the memory of one
                after the other, and that of the gradients where they are held.

        Returns:
            About so many bytes: what the computation keeps to go back by, once more where several operations keep it.

        Raises:
            HostError: The model cannot be differentiated.
        """
        with torch.inference_mode(False), torch.enable_grad(), self._gradients:
            return graph_bytes(lambda: _compute(image, Pass(0, 0, source)), self._gradients.addresses)

    def hold_gradients(self, free: int | None) -> int:
        """Sum the gradients of whole images up until the pass ends, if there is memory for it.

        Directions are then read once for a pass, not for each step.

        Args:
            free: Bytes that are free beside what a pass needs; None if not known: then only those of a small model are.

        Returns:
            The bytes that they need; 0 if they are not held.
        """
        size = self._gradients.held_bytes
        self._holds = size <= (_LITTLE if free is None else free // 2)
        return size if self._holds else 0

    @contextmanager
    def differentiable(self) -> Iterator[None]:
        """Have parameters that require gradients, so that graphs of images can be kept as they are made.

        Raises:
            HostError: The model cannot be differentiated.
        """
        with _out_of_memory(), torch.inference_mode(False), self._gradients:
            yield

    def free_memory(self) -> int | None:
        """Give the free memory of the model's device in bytes; None if the system does not tell."""
        return free_bytes(self._gradients.device)

    def _try(self, image: Differentiable, which: Pass, weigh: Callable[[Tensor], Tensor] | None) -> bool:
        """Make the pass with the scale as it is; tell whether all is finite."""
        self._row = {}
        result = _compute(image, which)
        signs = weigh(result.detach()) if weigh else _draw_signs(result, which)
        with self._gradients.holding(self._holds and which.source == IMAGE):
            torch.autograd.backward((result.float() * signs).sum() * self._scale)
        divisor = self._scale * math.sqrt(result.numel())
        self._row = {key: number / divisor for key, number in self._row.items()}
        return all(map(math.isfinite, self._row.values()))

    def _ask(self) -> None:
        if self._should_stop():
            raise Stopped

    def _take(self, key: str, start: int, gradient: Tensor) -> None:
        if key not in self._wanted:
            return
        numbers, total = gradient.reshape(-1), 0.0
        for first in range(0, len(numbers), _PIECE):
            piece = numbers[first : first + _PIECE].float()
            direction = self._directions.read(key, start + first, start + first + len(piece))
            total += float(torch.dot(piece, direction.to(piece.device)))
        self._row[key] = self._row.get(key, 0.0) + total


@contextmanager
def _out_of_memory() -> Iterator[None]:
    """Turn the errors of a full memory into a HostError."""
    try:
        yield
    except (MemoryError, RuntimeError) as exc:
        if not is_out_of_memory(exc):
            raise
        raise HostError("Out of memory: a backward pass needs more than an image does; use smaller images.") from exc


def step_of_pass(number: int, steps: int) -> int:
    """Give the step of a pass: any number of first passes is spread over the steps, whatever comes after.

    The steps follow the golden ratio, as in a one-dimensional Kronecker sequence.
    """
    return int((0.5 + number * _GOLDEN) % 1.0 * steps)


def _compute(image: Differentiable, which: Pass) -> Tensor:
    if which.source == UNET:
        return image.predict(step_of_pass(which.number, image.steps))
    return image.draw() if which.source == IMAGE else image.decode()


def _draw_signs(like: Tensor, which: Pass) -> Tensor:
    """Draw random signs, the same for a pass on every device."""
    seed = (which.request << 32 | which.number) * len(SOURCES) + SOURCES.index(which.source)
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2, like.shape, generator=generator).mul_(2).sub_(1).float().to(like.device)


def _is_half(networks: Sequence[nn.Module]) -> bool:
    return any(parameter.dtype is torch.float16 for network in networks for parameter in network.parameters())
