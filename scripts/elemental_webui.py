"""Register the extension with the WebUI, which runs this file at its start and at each "Reload UI"."""

from __future__ import annotations

from typing import Any

from modules import script_callbacks


def make_error_page(reason: str) -> Any:
    """Make a page that says why the tab could not be built."""
    import gradio as gr

    with gr.Blocks(analytics_enabled=False) as page:
        gr.Textbox(f"Elemental could not start: {reason}", label="Elemental", interactive=False)
    return page


try:
    # The WebUI finds scripts by searching this module for their classes.
    from elemental.hosts.webui.extension import ElementalScript, register  # noqa: F401
    from elemental.ui.tab import make_tab

    register(make_tab, make_error_page)
except Exception as exc:
    _REASON = f"{type(exc).__name__}: {exc}"
    script_callbacks.on_ui_tabs(lambda: [(make_error_page(_REASON), "Elemental", "elemental")])
    raise
