"""What the WebUI calls: the tab, the part of every image's making that knows of merges, pasted infotexts."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any

from modules import script_callbacks, scripts, sd_models, shared

from ...errors import HostError
from ...images.request import ImageRequest
from .checkpoints import find_checkpoint, is_file_of, override_checkpoint, secure_settings, selected_checkpoint
from .host import WebUIHost
from .images import NO_MODEL, Mark, infotext_names, mark, mark_of, parse_request
from .live_model import WebUIModel, count_loads, forget_prompts
from .loading import CHECKPOINT_OPTION

_log = logging.getLogger(__name__)

MakeTab = Callable[[WebUIHost, "Txt2imgForm"], Any]
"""Builds the tab of a host, with that form in it, and gives its ``gradio.Blocks``."""

MakeErrorPage = Callable[[str], Any]
"""Builds a page that says why there is no tab, and gives its ``gradio.Blocks``."""

Tabs = list[tuple[Any, str, str]]
"""What the WebUI wants of a tab: the blocks, the title, the id."""

RECIPE_NAME = "Elemental recipe"
"""The infotext's name for the field elemental_recipe."""

_GENERATE = "txt2img_generate"
_LIST = "setting_sd_model_checkpoint"


@functools.cache
def webui_host() -> WebUIHost:
    """Give the process's one host: what runs goes on while the pages are built anew."""
    return WebUIHost()


def register(make_tab: MakeTab, make_error_page: MakeErrorPage) -> None:
    """Register everything with the WebUI, which forgets it each time before it runs the extensions' scripts.

    Args:
        make_tab: Builds the tab.
        make_error_page: Builds what is shown in its place if that fails.
    """
    host = webui_host()
    host.guard_loading()
    form = Txt2imgForm(host)
    script_callbacks.on_after_component(form.notice)
    script_callbacks.on_after_component(functools.partial(_watch_list, host))
    script_callbacks.on_ui_tabs(functools.partial(_tabs, make_tab, make_error_page, host, form))
    script_callbacks.on_infotext_pasted(functools.partial(_pasted, host))
    script_callbacks.on_model_loaded(_loaded)


class Txt2imgForm:
    """The txt2img tab as the form that says what image is wanted.

    Args:
        host: Is told what it says.
    """

    def __init__(self, host: WebUIHost) -> None:
        self._host = host
        self._button: Any = None

    def notice(self, component: Any, **_: Any) -> None:
        """Wait for the Generate button among all components that are made."""
        if getattr(component, "elem_id", None) == _GENERATE:
            self._button = component

    @property
    def components(self) -> Sequence[Any]:
        """The Generate button's inputs, in its order, without the first, which names the task; none if not found."""
        return find_inputs(self._button)[1:] if self._button is not None else []

    def draw(self, make: Callable[..., Any]) -> None:
        """Say where the image's settings are.

        Args:
            make: Makes a component, as ``ui.compat.make`` does.
        """
        make(
            "HTML",
            value='<p class="elemental_note">Prompt, sampler, size, seed and everything else are taken from the '
            "txt2img tab, scripts and extensions included.</p>",
        )

    def read(self, values: Sequence[Any]) -> ImageRequest:
        """Read what is asked for.

        Raises:
            ImageError: A number is out of its range.
            HostError: The tab was not found, or the host cannot read it.
        """
        if not values:
            raise HostError("The fields of the txt2img tab were not found; this version of the WebUI is not known.")
        request = parse_request(values)
        self._host.txt2img_values = tuple(values)
        return request


def find_inputs(button: Any) -> list[Any]:
    """Find the components that a button's click sends, as gradio 3.41 keeps them; none if there is no such click."""
    root = button
    while getattr(root, "parent", None) is not None:
        root = root.parent
    for dependency in getattr(root, "dependencies", []):
        targets = [target[0] if isinstance(target, (tuple, list)) else target for target in dependency["targets"]]
        if dependency.get("js") == "submit" and button._id in targets:
            return [root.blocks[number] for number in dependency["inputs"]]
    return []


class ElementalScript(scripts.Script):  # type: ignore[misc]
    """Has the images of the host's own tabs and API made of the merge that is in the model, and say so."""

    create_group = False

    def title(self) -> str:
        """Give the script's name."""
        return "Elemental"

    def show(self, is_img2img: bool) -> object:  # noqa: ARG002
        """Run always; there is nothing to set."""
        return scripts.AlwaysVisible

    def before_process(self, p: Any, *_: Any) -> None:
        """Keep the merge in place for an image, unless another checkpoint is asked for: that ends it."""
        host = webui_host()
        live = host.merged()
        if mark_of(p) is not None or live is None:
            return
        if _asks_for_another(p, live):
            with host.turn.granted():
                host.calls()
            p.comment("Elemental: the merge was taken out of the model, since another checkpoint was asked for.")
            return
        _note_merge(p, live)

    def process(self, p: Any, *_: Any) -> None:
        """Have the infotext not say that the image is of the checkpoint alone."""
        noted = mark_of(p)
        if noted is not None and noted.merged:
            p.sd_model_name = p.sd_model_hash = None

    def postprocess_batch(self, p: Any, *_: Any, **__: Any) -> None:
        """Note a skipped image, which the host forgets before the next one."""
        noted = mark_of(p)
        if noted is not None and shared.state.skipped:
            noted.skipped = True


def _asks_for_another(p: Any, live: WebUIModel) -> bool:
    """Tell whether a request names a checkpoint, be it the merge's own, or would load another in mid-image."""
    if p.override_settings.get(CHECKPOINT_OPTION) is not None:
        return True
    others = [p.refiner_checkpoint]
    if getattr(p, "enable_hr", False):
        others.append(p.hr_checkpoint_name)
    found = [sd_models.get_closet_checkpoint_match(name) for name in others if name not in NO_MODEL]
    return any(info is not None and not is_file_of(info, live.opened.path) for info in found)


def _note_merge(p: Any, live: WebUIModel) -> None:
    """Keep the merge for an image and name it; dictionaries are replaced, since scripts share them among requests."""
    assert live.description is not None
    chosen = selected_checkpoint()
    if chosen is None or not is_file_of(chosen, live.opened.path):
        override_checkpoint(p, find_checkpoint(live.opened.path))
        secure_settings(p)
    names = infotext_names(live.description.model, live.description.fields)
    p.extra_generation_params = {**p.extra_generation_params, **names}
    mark(p, Mark(ours=False, merged=True))


def _watch_list(host: WebUIHost, component: Any, **_: Any) -> None:
    """Have the host's list of checkpoints tell of each pick, when it is made within the page."""
    if getattr(component, "elem_id", None) == _LIST and hasattr(component, "select"):
        component.select(fn=host.choose_again, inputs=[component], outputs=[], show_progress=False)


def _loaded(module: Any) -> None:
    count_loads(module).note_host()
    forget_prompts()  # the host takes them for valid if the checkpoint is the same, whatever was in the model


def _pasted(host: WebUIHost, _infotext: str, params: dict[str, Any]) -> None:
    recipe = params.get(RECIPE_NAME)
    if isinstance(recipe, str) and recipe:
        host.offer_pasted(recipe)


def _tabs(make_tab: MakeTab, make_error_page: MakeErrorPage, host: WebUIHost, form: Txt2imgForm) -> Tabs:
    try:
        blocks = make_tab(host, form)
    except Exception as exc:  # a missing tab would leave the user without a word
        _log.exception("The tab could not be made")
        blocks = make_error_page(f"{type(exc).__name__}: {exc}")
    return [(blocks, "Elemental", "elemental")]
