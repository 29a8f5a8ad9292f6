"""The tab: one code for gradio 3.41.2 to 6, in the WebUI and standalone."""
