"""The tab: the panels on the left, the results on the right, and the bridges to the page's JavaScript."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from ..hosts.base import Host
from ..runs.sample_file import find_samples
from ..session.form import MergeForm
from ..session.session import Session, first_form, session_of
from .answer import Updates
from .check_panel import CheckPanel
from .gradio_compat import blocks, make, on
from .history_panel import HistoryPanel, recipe_updates
from .image_form import ImageForm
from .merge_panel import MergePanel
from .plot_panel import PlotPanel
from .results_panel import Results, draw_live

TITLE = "Elemental"
ROOT_ID = "elemental_tab"

_STANDALONE = """
.gradio-container { overflow: clip !important; max-width: 1800px !important; }
#elemental_style { display: none; }
"""
"""Style of the standalone page: with its overflow hidden instead, no column would stay in view when it is scrolled."""


def make_tab(host: Host, images: ImageForm, *, standalone: bool = False) -> Any:
    """Build the tab; what runs meanwhile, and what is in the live model, is the same in each tab of a host.

    Args:
        host: What makes the images.
        images: Says what image is wanted.
        standalone: Whether it is the standalone page, which brings its style and JavaScript along.

    Returns:
        The ``gradio.Blocks``.
    """
    session, samples = session_of(host), list(find_samples().values())
    with blocks(TITLE) as page:
        if standalone:
            style = (asset_folder() / "style.css").read_text(encoding="utf-8")
            make("HTML", value=f"<style>{style}{_STANDALONE}</style>", elem_id="elemental_style")
        with make("Column", elem_id=ROOT_ID):
            # hidden by the style, since what is invisible for gradio is not on the page at all
            with make("Column", elem_id="elemental_bridges"):
                bridges = {name: _bridge("Button", name) for name in ("sync", "poll", "boot", "list_runs", "take")}
                bridges |= {name: _bridge("Textbox", name) for name in ("entry", "gif", "seen", "paint")}
                bridges["painted"] = _bridge("HTML", "painted")
            with make("Row", elem_id="elemental_columns"):
                with make("Column", scale=11, min_width=560, elem_id="elemental_controls"):
                    images.draw(make)
                    with make("Tabs", elem_id="elemental_panels"):
                        with make("Tab", label="Merge", elem_id="elemental_panel_merge"):
                            merge = MergePanel(session, images)
                        with make("Tab", label="XY plot", elem_id="elemental_panel_plot") as plot_tab:
                            plot = PlotPanel(session, images, samples)
                        with make("Tab", label="Element check", elem_id="elemental_panel_check"):
                            check = CheckPanel(session, images, samples)
                        with make("Tab", label="History", elem_id="elemental_panel_history") as history_tab:
                            history = HistoryPanel(session)
                with make("Column", scale=9, min_width=420, elem_id="elemental_results"):
                    results = Results(session, bridges["seen"])
        merge.wire(results, bridges["sync"], [plot.answer, check.answer])
        merge.wire_taking(results, bridges["take"], bridges["seen"])
        merge.wire_painting(bridges["paint"], bridges["painted"])
        plot.wire(results, merge.form_components)
        plot.wire_list(plot_tab, bridges["list_runs"])
        check.wire(results, merge.form_components, bridges["gif"])
        history.wire(merge, plot, check, bridges["entry"])
        results.wire()
        on(history_tab, "select", history.draw, [], [history.table])
        _wire_page(_Panels(session, merge, plot, check, history, results), bridges)
        if standalone:
            script = (asset_folder() / "javascript" / "elemental.js").read_text(encoding="utf-8")
            on(page, "load", None, js=f"() => {{ {script} }}")
    return page


class _Panels(NamedTuple):
    session: Session
    merge: MergePanel
    plot: PlotPanel
    check: CheckPanel
    history: HistoryPanel
    results: Results


def _wire_page(panels: _Panels, bridges: dict[str, Any]) -> None:
    """Wire what the page's JavaScript asks for: a first filling, and what is live, again and again."""
    session, merge, plot, check, history, results = panels
    host = session.host

    def boot() -> Updates:
        if not session.form.model_a:  # when the session began, the host may not have known its models yet
            session.form = replace(first_form(host), **_chosen_fields(session.form))
        fields, choices = merge.fill(session.form), merge.choices()
        models = {field: {**fields[field], **choices[field]} for field in choices}
        others = {**plot.fill(session.panels), **check.fill(session.panels)}
        return {
            **fields,
            **models,
            **others,
            history.table: history.draw(),
            results.live: draw_live(session, first=True),
        }

    take_pasted = host.pasted_recipes()

    def poll(seen: str) -> Updates:
        updates = results.look(seen)
        pasted = take_pasted() if take_pasted is not None else None
        return updates | (recipe_updates(session, merge, pasted) if pasted else {})

    form = [*merge.form_components, merge.preset]
    others = [*plot.fields.values(), check.elements, check.ratio]
    on(bridges["boot"], "click", boot, [], [*form, *others, history.table, results.live])
    # each output costs time, pages ask often, and only some hosts have a place to paste something
    pasted_into = form if take_pasted is not None else []
    on(bridges["poll"], "click", poll, [bridges["seen"]], [*results.outputs, *pasted_into])


def _chosen_fields(form: MergeForm) -> dict[str, Any]:
    """Give the fields of a form that somebody has filled."""
    untouched = MergeForm().to_dict()
    return {name: value for name, value in form.to_dict().items() if value != untouched[name]}


def _bridge(kind: str, name: str) -> Any:
    label = {} if kind == "Button" else {"label": name}
    return make(kind, value="", elem_id=f"elemental_{name}", **label)


def asset_folder() -> Path:
    """Give the folder of the style and the JavaScript: in the package where it was installed, beside it elsewhere."""
    packed = Path(__file__).parent / "assets"
    return packed if packed.is_dir() else packed.parents[2]
