"""Attributes of modules that are removed or replaced during a merge, and put back after it."""

from __future__ import annotations

from typing import Any

from torch import nn


class SavedAttributes:
    """The original values of attributes that were removed or replaced."""

    def __init__(self) -> None:
        self._originals: dict[tuple[nn.Module, str], Any] = {}

    def remove(self, module: nn.Module, name: str) -> None:
        """Remove an attribute, if it is there."""
        if hasattr(module, name):
            self._originals.setdefault((module, name), getattr(module, name))
            delattr(module, name)

    def replace(self, module: nn.Module, name: str, value: object) -> None:
        """Replace the value of an attribute."""
        self._originals.setdefault((module, name), getattr(module, name))
        setattr(module, name, value)

    def restore(self, *names: str) -> None:
        """Put the original values back: of the attributes with these names, or of all if there are none."""
        for place in [place for place in self._originals if not names or place[1] in names]:
            setattr(*place, self._originals.pop(place))

    def forget(self) -> None:
        """Drop the original values, because the WebUI has computed new ones."""
        self._originals.clear()
