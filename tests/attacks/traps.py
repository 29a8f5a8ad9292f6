"""A trap at every call into the port: counts the moments at which something can go wrong, and raises at one of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from elemental import Controls, HostError, Stopped
from elemental.hosts.base import Differentiator, Host, LiveModel, TracedImage
from elemental.merge import live_merge as live_module
from elemental.merge.files.tensor_data import Buffer, TensorData
from elemental.merge.tensor_views import copy_piece

Kind = Callable[[], BaseException]

KINDS: Mapping[str, Kind] = {
    "HostError": lambda: HostError("The host failed here."),
    "out of memory": lambda: torch.cuda.OutOfMemoryError("CUDA out of memory."),
    "KeyboardInterrupt": KeyboardInterrupt,
    "Stopped": Stopped,
    "MemoryError": MemoryError,
}
READ = "read a tensor"
WRITE = "write a piece"
WRITTEN = f"{WRITE} has ended"
OF_TENSORS = (READ, WRITE, WRITTEN)
"""The moments that come for each tensor."""


_PROPERTIES = ("checkpoint",)
_CONTEXTS = ("claim", "job")
_TRAPPED = ("open_model", "differentiator", "trace")
"""Calls whose results are trapped, too."""


@dataclass
class Trap:
    """Counts moments by name, and raises at one of them.

    Attributes:
        at: The number of that moment, from 0; None to count alone.
        kind: Makes what is raised.
        lasting: Whether to raise at each later moment of the same name, too.
        moments: The names of all moments so far, in order.
        raised: How often it has raised.
    """

    at: int | None = None
    kind: Kind = KeyboardInterrupt
    lasting: bool = False
    moments: list[str] = field(default_factory=list)
    raised: int = 0
    _paused: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, name: str) -> None:
        if self._paused:
            return
        with self._lock:
            number = len(self.moments)
            self.moments.append(name)
            due = number == self.at or (
                self.lasting and self.at is not None and number > self.at and name == self.moments[self.at]
            )
            self.raised += due
        if due:
            raise self.kind()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let everything pass, uncounted."""
        self._paused += 1
        try:
            yield
        finally:
            self._paused -= 1

    def controls(self) -> Controls:
        """Give progress and stop that are trapped, too."""

        def should_stop() -> bool:
            self("asked whether to stop")
            return False

        return Controls(lambda _: self("begin"), lambda _: self("stage"), lambda _: self("advance"), should_stop)


def trapped_host(host: Host, trap: Trap) -> Host:
    """Put a trap before and behind each call of a host and of its live models."""
    return cast(Host, _Trapped(host, trap))


class _Trapped:
    """Passes everything on, and tells the trap before and after."""

    def __init__(self, real: Host | LiveModel | Differentiator | TracedImage, trap: Trap) -> None:
        self._real = real
        self._trap = trap

    def __getattr__(self, name: str) -> Any:
        if name in _PROPERTIES:
            self._trap(name)
        value = getattr(self._real, name)
        return partial(self._call, name, value) if callable(value) else value

    def _call(self, name: str, real: Callable[..., Any], *args: Any, **more: Any) -> Any:
        self._trap(name)
        result = real(*args, **more)
        if name in _CONTEXTS:
            return _TrappedContext(result, self._trap, name)
        self._trap(f"{name} has ended")
        return _Trapped(result, self._trap) if name in _TRAPPED else result


def trapped(real: Callable[..., Any], trap: Trap, name: str) -> Callable[..., Any]:
    """Put a trap before and behind each call of a function."""

    def call(*args: Any, **more: Any) -> Any:
        trap(name)
        result = real(*args, **more)
        trap(f"{name} has ended")
        return result

    return call


class _TrappedContext:
    """A context of the host's: one that fails on entry holds nothing, and one that fails on exit has let go."""

    def __init__(self, real: AbstractContextManager[None], trap: Trap, name: str) -> None:
        self._real = real
        self._trap = trap
        self._name = name

    def __enter__(self) -> None:
        self._trap(f"{self._name}: enter")
        self._real.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._real.__exit__(kind, error, trace)
        self._trap(f"{self._name}: exit")


@contextmanager
def trapped_tensors(trap: Trap) -> Iterator[None]:
    """Put a trap before and behind each write to a live tensor, and before each read of a file's."""
    write, read = copy_piece, TensorData.read

    def trapped_write(part: Tensor, start: int, values: Tensor) -> None:
        trap(WRITE)
        write(part, start, values)
        trap(WRITTEN)

    def trapped_read(data: TensorData, start: int, stop: int, buffer: Buffer) -> Tensor:
        trap(READ)
        return read(data, start, stop, buffer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(live_module, "copy_piece", trapped_write)
        patch.setattr(TensorData, "read", trapped_read)
        yield
