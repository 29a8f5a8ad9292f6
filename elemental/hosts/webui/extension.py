"""What the WebUI calls: the tab, a script that runs with every image, and pasted infotexts."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any

from modules import script_callbacks, scripts, sd_models, shared

from ...errors import HostError
from ..base import ImageOrder
from .checkpoints import find_checkpoint, is_file_of
from .host import WebUIHost
from .images import NO_MODEL, Mark, infotext_names, mark, mark_of, parse_request
from .kinds import choose_parts
from .live_model import WebUIModel
from .loading import CHECKPOINT_OPTION
from .parts import Page
from .prompts import forget_prompts
from .requirements import why_unsupported
from .txt2img_settings import TabInput, Txt2imgSettings, name_inputs

_log = logging.getLogger(__name__)

MakeTab = Callable[[WebUIHost, "Txt2imgForm"], Any]
"""Builds the tab from the host and the form of the image, and gives its ``gradio.Blocks``."""

MakeErrorPage = Callable[[str], Any]
"""Builds a page with the reason why there is no tab, and gives its ``gradio.Blocks``."""

Tabs = list[tuple[Any, str, str]]
"""A list of tabs for the WebUI: the blocks, the title, the id."""

RECIPE_NAME = "Elemental recipe"
"""The infotext name of the field elemental_recipe."""

_GENERATE_BUTTON = "txt2img_generate"


@functools.cache
def webui_host() -> WebUIHost:
    """Give the one host of the process: a running job continues while the WebUI builds its pages again."""
    return WebUIHost(choose_parts())


def register(make_tab: MakeTab, make_error_page: MakeErrorPage) -> None:
    """Register all callbacks with the WebUI, which drops them each time before it runs the scripts of extensions.

    In a host that the port does not work in, nothing is hooked, and the tab says why.

    Args:
        make_tab: Builds the tab.
        make_error_page: Builds the page that is shown instead if that fails.
    """
    reason = why_unsupported()
    if reason is not None:
        script_callbacks.on_ui_tabs(lambda: [(make_error_page(reason), "Elemental", "elemental")])
        return
    host = webui_host()
    host.guard_loading()
    form = Txt2imgForm(host.page)
    host.tab_inputs = form.inputs
    script_callbacks.on_after_component(form.on_component)
    script_callbacks.on_after_component(functools.partial(_watch_checkpoint_list, host))
    script_callbacks.on_ui_tabs(functools.partial(_make_tabs, make_tab, make_error_page, host, form))
    script_callbacks.on_infotext_pasted(functools.partial(_on_infotext_pasted, host))
    script_callbacks.on_model_loaded(functools.partial(_on_model_loaded, host))
    script_callbacks.on_cfg_denoiser(_on_step)


class Txt2imgForm:
    """The txt2img tab as the form of the image.

    Args:
        page: Finds its fields.
    """

    own = False

    def __init__(self, page: Page) -> None:
        self._page = page
        self._button: Any = None

    def on_component(self, component: Any, **_: Any) -> None:
        """Remember the Generate button when the WebUI makes it."""
        if getattr(component, "elem_id", None) == _GENERATE_BUTTON:
            self._button = component

    @property
    def components(self) -> Sequence[Any]:
        """The inputs of the Generate button, in order, without the first, which names the task; empty if not found."""
        return self._page.inputs(self._button)[1:] if self._button is not None else []

    def inputs(self) -> Sequence[TabInput]:
        """Give the same inputs, with their names."""
        return name_inputs(self.components)

    def draw(self, make: Callable[..., Any]) -> None:
        """Say where the settings of the image are.

        Args:
            make: Makes a component, as ``ui.gradio_compat.make`` does.
        """
        make(
            "HTML",
            value='<p class="elemental_note">Prompt, sampler, size, seed and everything else are taken from the '
            "txt2img tab, scripts and extensions included.</p>",
        )

    def read(self, values: Sequence[Any]) -> ImageOrder:
        """Read the request of the tab, and everything else that it says.

        Raises:
            ImageError: A number is out of range.
            HostError: The tab was not found, or the WebUI cannot read it.
        """
        if not values:
            raise HostError("The fields of the txt2img tab were not found; this version of the WebUI is not supported.")
        return ImageOrder(parse_request(values), Txt2imgSettings(tuple(values), tuple(self.inputs())))


class ElementalScript(scripts.Script):  # type: ignore[misc]
    """Has the WebUI's own images made with the merge in the model, and names the merge in their infotexts."""

    create_group = False

    def title(self) -> str:
        """Give the name of the script."""
        return "Elemental"

    def show(self, is_img2img: bool) -> object:  # noqa: ARG002
        """Run with every image; there are no settings."""
        return scripts.AlwaysVisible

    def before_process(self, p: Any, *_: Any) -> None:
        """Use the merge for an image, or end the merge if the image asks for another checkpoint."""
        host = webui_host()
        if mark_of(p) is not None:
            return
        with host.queue.entered():
            host.loader.settle()
        live = host.merged()
        if live is None:
            return
        if _asks_for_checkpoint(p, live) or host.loader.refusal(p) is not None:
            with host.queue.entered():
                host.load_calls()
                host.loader.release()
            p.comment("Elemental: this image asks for a checkpoint, so the merge was taken out of the model.")
            return
        _use_merge(host, p, live)

    def process(self, p: Any, *_: Any) -> None:
        """Leave the checkpoint out of the infotext of an image of a merge."""
        marked = mark_of(p)
        if marked is not None and marked.merged:
            p.sd_model_name = p.sd_model_hash = None

    def postprocess_batch(self, p: Any, *_: Any, **__: Any) -> None:
        """Note that an image was skipped, which the WebUI forgets before the next one, and that it is decoded."""
        marked = mark_of(p)
        if marked is None:
            return
        if shared.state.skipped:
            marked.skipped = True
        if marked.recorder is not None:
            marked.recorder.finish()


def _asks_for_checkpoint(p: Any, live: WebUIModel) -> bool:
    """Tell whether a request names a checkpoint, even model A of the merge, or would load another during an image."""
    if p.override_settings.get(CHECKPOINT_OPTION) is not None:
        return True
    names = [p.refiner_checkpoint]
    if getattr(p, "enable_hr", False):
        names.append(p.hr_checkpoint_name)
    infos = [sd_models.get_closet_checkpoint_match(name) for name in names if name not in NO_MODEL]
    return any(info is not None and not is_file_of(info, live.opened.path) for info in infos)


def _use_merge(host: WebUIHost, p: Any, live: WebUIModel) -> None:
    """Keep the merge in the model for an image, and name it in the infotext.

    Dictionaries of the request are replaced, because scripts share them among requests.
    """
    assert live.description is not None
    host.loader.keep(p, find_checkpoint(live.opened.path))
    names = infotext_names(live.description.model, live.description.fields)
    p.extra_generation_params = {**p.extra_generation_params, **names}
    mark(p, Mark(ours=False, merged=True))


def _watch_checkpoint_list(host: WebUIHost, component: Any, **_: Any) -> None:
    host.page.watch_list(component, host.on_checkpoint_picked)


def _on_model_loaded(host: WebUIHost, module: Any) -> None:
    host.loader.loaded(module)
    forget_prompts()  # the WebUI keeps them if the checkpoint is the same, even if a merge was in the model


def _on_step(params: Any) -> None:
    """Note a step of an image whose way is traced; other images have no recorder."""
    marked = mark_of(getattr(params.denoiser, "p", None))
    if marked is not None and marked.recorder is not None:
        marked.recorder.begin_step(params.denoiser, shared.opts.data)


def _on_infotext_pasted(host: WebUIHost, _infotext: str, params: dict[str, Any]) -> None:
    recipe = params.get(RECIPE_NAME)
    if isinstance(recipe, str) and recipe:
        host.offer_pasted(recipe)


def _make_tabs(make_tab: MakeTab, make_error_page: MakeErrorPage, host: WebUIHost, form: Txt2imgForm) -> Tabs:
    try:
        blocks = make_tab(host, form)
    except Exception as exc:  # otherwise the tab would be missing without a reason
        _log.exception("The tab could not be built")
        blocks = make_error_page(f"{type(exc).__name__}: {exc}")
    return [(blocks, "Elemental", "elemental")]
