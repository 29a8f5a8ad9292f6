"""A value that several threads need, and one of them computes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

_T = TypeVar("_T")


class Once(Generic[_T]):
    """Computes something when it is first asked for; other threads that ask wait.

    Args:
        compute: What computes it.
    """

    def __init__(self, compute: Callable[[], _T]) -> None:
        self._compute = compute
        self._found: tuple[_T] | None = None
        self._lock = threading.Lock()

    def __call__(self) -> _T:
        """Give it."""
        with self._lock:
            if self._found is None:
                self._found = (self._compute(),)
            return self._found[0]
