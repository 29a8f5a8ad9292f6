"""All that the WebUI executes: register the tab, and what belongs to it, on the host that is there."""

from modules import script_callbacks

try:
    from elemental.hosts.webui_hooks import ElementalScript, register  # noqa: F401 - the WebUI looks for scripts here
    from elemental.ui.tab import make_tab

    register(make_tab)
except Exception as exc:  # without a tab, nobody would know what is wrong
    _REASON = f"Elemental could not start: {type(exc).__name__}: {exc}"

    def _tell() -> list[tuple[object, str, str]]:
        import gradio as gr

        with gr.Blocks(analytics_enabled=False) as blocks:
            gr.Textbox(_REASON, label="Elemental", interactive=False)
        return [(blocks, "Elemental", "elemental")]

    script_callbacks.on_ui_tabs(_tell)
    raise
