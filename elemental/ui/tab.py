"""The tab: the panels on the left, the results on the right, and the bridges to the page's JavaScript."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from ..hosts.base import Host
from ..runs.sample_file import find_samples
from ..session.form import MergeForm
from ..session.run_devices import RunDevices
from ..session.session import Session, first_form, session_of
from .answer import Updates
from .check_panel import CheckPanel
from .copy_buttons import wire_copying
from .device_list import DeviceList
from .gradio_compat import blocks, make, on
from .history_panel import HistoryPanel, pasted_values
from .image_actions import ImageActions
from .image_form import ImageForm
from .merge_panel import MergePanel
from .page_memory import PageMemory, longer_reader
from .plot_panel import PlotPanel
from .results_panel import Results, draw_live
from .search_panel import SearchPanel

TITLE = "Elemental"
ROOT_ID = "elemental_tab"

_STANDALONE = """
.gradio-container { overflow: clip !important; }
.gradio-container, .gradio-container :is(main, .main, .app) { max-width: none !important; }
#elemental_style { display: none; }
"""
"""Style of the standalone page: with its overflow hidden instead, no column would stay in view when it is scrolled."""


_UNDO = """
<div class="elemental-undo">
<button type="button" data-step="-1" title="Undo (Ctrl+Z)" aria-label="Undo" disabled>↶</button>
<button type="button" data-step="1" title="Redo (Ctrl+Shift+Z)" aria-label="Redo" disabled>↷</button>
</div>"""

_BRIDGES = (
    *(("Button", name) for name in ("sync", "poll", "boot", "keep", "list_runs", "take", "fill_pasted", "away")),
    *(("Textbox", name) for name in ("entry", "gif", "seen", "paint", "refill", "copy", "use", "show")),
    *(("Textbox", name) for name in ("queue_act", "told", "pick", "painted_by")),
    *(("HTML", name) for name in ("painted", "kept", "copied", "opens", "pasted", "shown", "queue_answer")),
    *(("Textbox", name) for name in ("search_act", "search_use", "search_seen")),
    ("HTML", "search_answer"),
    *(("Gallery", name) for name in ("shown_images", "search_images")),
)


def make_tab(host: Host, images: ImageForm, *, standalone: bool = False, devices: RunDevices | None = None) -> Any:
    """Build the tab; what runs meanwhile, and what is in the live model, is the same in each tab of a host.

    Args:
        host: What makes the images.
        images: Says what image is wanted.
        standalone: Whether it is the standalone page, which brings its style and JavaScript along.
        devices: Where the images of runs can be made; None for the host alone.

    Returns:
        The ``gradio.Blocks``.
    """
    session, samples = _session_for(host, devices or RunDevices()), list(find_samples().values())
    with blocks(TITLE) as page:
        if standalone:
            make("HTML", value=f"<style>{read_style()}{_STANDALONE}</style>", elem_id="elemental_style")
        with make("Column", elem_id=ROOT_ID):
            # hidden by the style, since what is invisible for gradio is not on the page at all
            with make("Column", elem_id="elemental_bridges"):
                bridges = {kind_name[1]: _bridge(*kind_name) for kind_name in _BRIDGES}
                actions = ImageActions(session)
            with make("Row", elem_id="elemental_columns"):
                with make("Column", scale=13, min_width=560, elem_id="elemental_controls"):
                    images.draw(make)
                    made_on = DeviceList(session)
                    make("HTML", value=_UNDO, elem_id="elemental_undo")
                    with make("Tabs", elem_id="elemental_panels"):
                        with make("Tab", label="Merge", elem_id="elemental_panel_merge"):
                            merge = MergePanel(session, images)
                        with make("Tab", label="XY plot", elem_id="elemental_panel_plot") as plot_tab:
                            plot = PlotPanel(session, images, made_on, samples, bridges["pick"])
                        with make("Tab", label="Element check", elem_id="elemental_panel_check"):
                            check = CheckPanel(session, images, made_on, samples)
                        with make("Tab", label="Search", elem_id="elemental_panel_search") as search_tab:
                            search = SearchPanel(session, images, made_on, bridges)
                        with make("Tab", label="History", elem_id="elemental_panel_history") as history_tab:
                            history = HistoryPanel(session, bridges["opens"], with_images=images.own)
                with make("Column", scale=9, min_width=420, elem_id="elemental_results"):
                    results = Results(session, bridges["seen"])
        of_images = {**getattr(images, "fields", {}), **made_on.fields}
        fields = {**merge.kept_fields, **plot.fields, **check.fields, **search.fields, **of_images}
        memory = PageMemory(session, fields, bridges["kept"])
        panels = _Panels(session, merge, plot, check, search, history, results, memory)
        _wire_panels(panels, bridges)
        plot.wire_list(plot_tab, bridges["list_runs"], merge)
        search.wire_list(search_tab, bridges["list_runs"])
        history.wire_opening(history_tab)
        history.wire_showing(bridges["show"], bridges["shown"], bridges["shown_images"])
        actions.wire(results.notice)
        _wire_page(panels, bridges)
        if standalone:
            on(page, "load", None, js=f"() => {{ {read_scripts()} }}")
    return page


def _session_for(host: Host, devices: RunDevices) -> Session:
    session = session_of(host)
    session.devices = devices
    session.board.drop_all()  # of a tab before this one: what they were asked with can be gone with its page
    return session


class _Panels(NamedTuple):
    session: Session
    merge: MergePanel
    plot: PlotPanel
    check: CheckPanel
    search: SearchPanel
    history: HistoryPanel
    results: Results
    memory: PageMemory


def _wire_panels(panels: _Panels, bridges: dict[str, Any]) -> None:
    """Wire what each panel does."""
    session, merge, plot, check, search, history, results, memory = panels
    merge.wire(results, bridges["sync"], bridges["painted_by"], [plot.answer, check.answer])
    merge.wire_taking(results, memory, bridges["take"], bridges["seen"])
    merge.wire_painting(bridges["paint"], bridges["painted"])
    wire_copying(session, bridges["copy"], bridges["copied"], merge.name, merge.form_components)
    plot.wire(results, merge.form_components, memory)
    check.wire(results, merge.form_components, memory, bridges["gif"])
    search.wire(results, merge.form_components, memory)
    history.wire(memory, results.filled, merge.fields["model_a"], bridges["entry"])
    history.wire_using(memory, results.filled, bridges["use"])
    results.wire()
    results.wire_queue(bridges["queue_act"], bridges["queue_answer"])


def _wire_page(panels: _Panels, bridges: dict[str, Any]) -> None:
    """Wire what the page's JavaScript asks for: its whole form, filled and kept, and what is live, again and again."""
    session, merge, search, results, memory = panels.session, panels.merge, panels.search, panels.results, panels.memory
    host = session.host

    def begin(filled: Updates) -> Updates:
        """Give what a page that was just loaded needs besides the values of its fields."""
        lists = merge.choices()
        both = {field: {**filled[field], **lists.pop(field)} for field in [*lists] if field in filled}
        return {**filled, **lists, **both, results.live: draw_live(session, first=True)}

    def boot() -> Updates:
        if not session.form.model_a:  # when the session began, the host may not have known its models yet
            session.form = replace(first_form(host), **_chosen_fields(session.form))
        return begin(memory.fill({**session.form.to_dict(), **session.panels}))

    def refill(request: str) -> Updates:
        filled, first = memory.refill(request)
        return begin(filled) if first else filled

    take_pasted = host.pasted_recipes()
    numbers, pasted = itertools.count(time.time_ns()), [""]  # larger than those of a server before

    def poll(seen: str, seen_of_search: str) -> Updates:
        updates = {**results.look(seen), **search.look(seen_of_search)}
        recipe = take_pasted() if take_pasted is not None else None
        if recipe:
            pasted[0] = recipe
            updates[bridges["pasted"]] = f'<i data-number="{next(numbers)}"></i>'
        return updates

    def fill_pasted() -> Updates:
        return memory.fill(pasted_values(session, pasted[0]))

    everything = list(dict.fromkeys([*memory.outputs, *merge.lists, results.live]))
    on(bridges["boot"], "click", boot, [], everything)
    on(longer_reader(bridges["refill"]), "change", refill, [bridges["refill"]], [*everything, memory.kept])
    memory.wire_keeping(bridges["keep"])
    # each output costs the page time, and it asks often: the fields are filled by a request of its own
    shown = [*results.outputs, *search.outputs, bridges["pasted"]]
    on(bridges["poll"], "click", poll, [bridges["seen"], bridges["search_seen"]], shown)
    on(bridges["away"], "click", results.tell, [], [bridges["told"]])
    on(bridges["fill_pasted"], "click", fill_pasted, [], merge.form_components)


def _chosen_fields(form: MergeForm) -> dict[str, Any]:
    """Give the fields of a form that somebody has filled."""
    untouched = MergeForm().to_dict()
    return {name: value for name, value in form.to_dict().items() if value != untouched[name]}


def _bridge(kind: str, name: str) -> Any:
    label = {} if kind == "Button" else {"label": name}
    return make(kind, value=None if kind == "Gallery" else "", elem_id=f"elemental_{name}", **label)


def read_style() -> str:
    """Give the tab's style, which the WebUI loads itself."""
    return (asset_folder() / "style.css").read_text(encoding="utf-8")


def read_scripts() -> str:
    """Give the tab's JavaScript, which the WebUI loads file by file."""
    files = sorted((asset_folder() / "javascript").glob("*.js"))
    return "\n".join(file.read_text(encoding="utf-8") for file in files)


def asset_folder() -> Path:
    """Give the folder of the style and the JavaScript: in the package where it was installed, beside it elsewhere."""
    packed = Path(__file__).parent / "assets"
    return packed if packed.is_dir() else packed.parents[2]
