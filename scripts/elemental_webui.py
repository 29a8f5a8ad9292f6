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


def show_reason(reason: str) -> None:
    """Show a page with the reason in place of the tab."""
    script_callbacks.on_ui_tabs(lambda: [(make_error_page(reason), "Elemental", "elemental")])


try:
    from elemental.hosts.webui.requirements import why_unsupported

    unsupported = why_unsupported()
    if unsupported is None:
        # The WebUI finds scripts by searching this module for their classes: elsewhere there must be none.
        from elemental.hosts.webui.extension import ElementalScript, register  # noqa: F401
        from elemental.ui.tab import make_tab

        register(make_tab, make_error_page)
    else:
        show_reason(unsupported)
except Exception as exc:
    show_reason(f"{type(exc).__name__}: {exc}")
    raise
