"""The page of AUTOMATIC1111's WebUI, in gradio 3.41."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from modules import shared

from ...errors import HostError

_CHECKPOINT_LIST = "setting_sd_model_checkpoint"

_IMAGE_PAGES = ("txt2img", "img2img")


class SendsImages:
    """What the pages of the WebUI and all its descendants do with an image; they share the code for it."""

    def image_pages(self) -> Sequence[str]:
        """List the pages that register fields to be filled by a button; none where no button can be registered."""
        pasting = _pasting()
        able = all(hasattr(pasting, name) for name in ("ParamBinding", "register_paste_params_button"))
        return [name for name in _IMAGE_PAGES if name in getattr(pasting, "paste_fields", {})] if able else []

    def wire_image_page(self, name: str, *, button: Any, infotext: Any, image: Any) -> None:
        """Register a button, as the WebUI does for those of its PNG Info; it wires it when all pages are built."""
        pasting = _pasting()
        pasting.register_paste_params_button(
            pasting.ParamBinding(
                paste_button=button, tabname=name, source_text_component=infotext, source_image_component=image
            )
        )

    def folder_opener(self) -> Callable[[Path], None] | None:
        """Give what the WebUI's own button does, unless it hides that button."""
        try:
            from modules.util import open_folder
        except ImportError:  # before 1.9
            return None
        if getattr(shared.cmd_opts, "hide_ui_dir_config", False):
            return None

        def open_it(folder: Path) -> None:
            try:
                open_folder(str(folder))
            except OSError as exc:  # there is no file manager
                raise HostError(f"The folder cannot be opened: {exc.strerror or exc}.") from exc

        return open_it


def _pasting() -> Any:
    """Give the WebUI's module that fills its pages from infotexts; None if it is called otherwise."""
    try:
        from modules import infotext_utils
    except ImportError:
        return None
    return infotext_utils


class WebUIPage(SendsImages):
    """The WebUI's page."""

    def inputs(self, button: Any) -> list[Any]:
        """Find the inputs of a button's click event, as gradio 3.41 stores it; empty if there is none."""
        root = root_of(button)
        for dependency in getattr(root, "dependencies", []):
            targets = [target[0] if isinstance(target, (tuple, list)) else target for target in dependency["targets"]]
            if dependency.get("js") == "submit" and button._id in targets:
                return [root.blocks[number] for number in dependency["inputs"]]
        return []

    def watch_list(self, component: Any, picked: Callable[[str | None], None]) -> None:
        """Listen to the list of checkpoints at the top of the page, if a component is that."""
        if getattr(component, "elem_id", None) == _CHECKPOINT_LIST and hasattr(component, "select"):
            component.select(fn=picked, inputs=[component], outputs=[], show_progress=False)


def root_of(component: Any) -> Any:
    """Give the blocks that a component is in, or itself."""
    while getattr(component, "parent", None) is not None:
        component = component.parent
    return component
