"""Count how often a module of the WebUI is loaded over."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

_COUNT = "elemental_loads"
"""The attribute of a module that holds its count."""


class LoadCount:
    """How often a state dict was loaded over a whole module.

    Attributes:
        number: The count.
        last_reported: The count when the WebUI last reported a load.
        by_host: The count after the WebUI's own last load of a checkpoint.
        on_next_load: Called after the next load, once.
    """

    def __init__(self) -> None:
        self.number = self.last_reported = self.by_host = 0
        self.on_next_load: Callable[[], None] | None = None

    def note_load(self) -> None:
        """Count a load."""
        self.number += 1
        call, self.on_next_load = self.on_next_load, None
        if call is not None:
            call()

    def note_host(self) -> None:
        """Note that the WebUI reports a load: of a checkpoint if the count has changed, otherwise of a VAE."""
        if self.number != self.last_reported:
            self.last_reported = self.by_host = self.number


def count_loads(module: nn.Module) -> LoadCount:
    """Give the load count of a module; counting starts at the first call.

    Loads of a part of the module, such as another VAE, do not count.
    """
    existing = getattr(module, _COUNT, None)
    if isinstance(existing, LoadCount):
        return existing
    count = LoadCount()

    def note(_module: nn.Module, _keys: object) -> None:
        count.note_load()

    module.register_load_state_dict_post_hook(note)  # type: ignore[no-untyped-call]
    setattr(module, _COUNT, count)
    return count
