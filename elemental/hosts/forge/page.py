"""The page of Forge and Forge Neo, in gradio 4."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from modules_forge import main_entry

from ..webui.page import root_of

_EVENTS = ("input", "select")
"""What a list does when its user picks something; not every version tells of what was shown already."""


class ForgePage:
    """The page of Forge and Forge Neo."""

    def __init__(self) -> None:
        self._watched: Any = None

    def inputs(self, button: Any) -> list[Any]:
        """Find the inputs of a button's click event, as gradio 4 stores it; empty if there is none."""
        config = getattr(root_of(button), "default_config", None)
        for function in getattr(config, "fns", {}).values():
            if function.js == "submit" and (button._id, "click") in map(tuple, function.targets):
                return list(function.inputs)
        return []

    def watch_list(self, component: Any, picked: Callable[[str], None]) -> None:
        """Listen to the list of checkpoints as soon as it is on the page; its id is no help, since Forge gives it none.

        Args:
            component: A component that was made just now, maybe after the list.
            picked: Called with what the user picks.
        """
        listed = getattr(main_entry, "ui_checkpoint", None)
        if listed is None or listed is self._watched or listed is component:
            return  # events of the list itself can be wired only once its constructor has ended
        self._watched = listed
        for name in _EVENTS:
            listen = getattr(listed, name, None)
            if listen is not None:
                listen(fn=picked, inputs=[listed], outputs=[], queue=False, show_progress=False, api_name=False)
