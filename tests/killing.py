"""Kills what a test runs at the moment at which one of its files is about to appear."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest


class Killed(BaseException):
    """Ends a run as a kill does: nothing handles it."""


@dataclass
class Watched:
    """What became of what ran.

    Attributes:
        appeared: The names of the files that appeared, the one that was to be next at the end.
        killed: Whether it was killed.
    """

    appeared: list[str] = field(default_factory=list)
    killed: bool = False


@contextmanager
def killed_at(file: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    """Kill what runs in the block as its so manieth file, from 1 on, is about to appear; it may end before that."""
    watched, real = Watched(), Path.replace

    def replace(self: Path, target: Path) -> Path:
        watched.appeared.append(target.name)
        if len(watched.appeared) == file:
            raise Killed
        return real(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", replace)
        try:
            yield watched
        except Killed:
            watched.killed = True
