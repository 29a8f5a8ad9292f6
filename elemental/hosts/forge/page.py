"""The page of Forge and Forge Neo, in gradio 4."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from modules_forge import main_entry

from ..webui.page import SendsImages, root_of

_EVENTS = ("input", "select")
"""What a list does when its user picks something else than what it shows."""

_LEFT = "blur"
"""All that a list of gradio 4 does when its user picks what it shows already."""

_IF_PICKED = '(shown) => (document.documentElement.hasAttribute("data-elemental-picked") ? shown : null)'
"""Whether a list was left because something was picked; only the page knows, and null is no checkpoint."""


class ForgePage(SendsImages):
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

    def watch_list(self, component: Any, picked: Callable[[str | None], None]) -> None:
        """Listen to the list of checkpoints as soon as it is on the page; its id is no help, since Forge gives it none.

        Args:
            component: A component that was made just now, maybe after the list.
            picked: Called with what the user picks, or with None when the list is left without a choice.
        """
        listed = getattr(main_entry, "ui_checkpoint", None)
        if listed is None or listed is self._watched or listed is component:
            return  # events of the list itself can be wired only once its constructor has ended
        self._watched = listed
        for name, script in (*((name, None) for name in _EVENTS), (_LEFT, _IF_PICKED)):
            listen = getattr(listed, name, None)
            if listen is not None:
                listen(
                    fn=picked, inputs=[listed], outputs=[], js=script, queue=False, show_progress=False, api_name=False
                )
