"""The page of AUTOMATIC1111's WebUI, in gradio 3.41."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_CHECKPOINT_LIST = "setting_sd_model_checkpoint"


class WebUIPage:
    """The WebUI's page."""

    def inputs(self, button: Any) -> list[Any]:
        """Find the inputs of a button's click event, as gradio 3.41 stores it; empty if there is none."""
        root = root_of(button)
        for dependency in getattr(root, "dependencies", []):
            targets = [target[0] if isinstance(target, (tuple, list)) else target for target in dependency["targets"]]
            if dependency.get("js") == "submit" and button._id in targets:
                return [root.blocks[number] for number in dependency["inputs"]]
        return []

    def watch_list(self, component: Any, picked: Callable[[str], None]) -> None:
        """Listen to the list of checkpoints at the top of the page, if a component is that."""
        if getattr(component, "elem_id", None) == _CHECKPOINT_LIST and hasattr(component, "select"):
            component.select(fn=picked, inputs=[component], outputs=[], show_progress=False)


def root_of(component: Any) -> Any:
    """Give the blocks that a component is in, or itself."""
    while getattr(component, "parent", None) is not None:
        component = component.parent
    return component
