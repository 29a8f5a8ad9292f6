"""The buttons below images, which the page's JavaScript answers to."""

from __future__ import annotations

from html import escape

from ..hosts.base import Host

FOLDER = "folder"
"""What the page sends to have a folder opened; any other word is a page of the host."""


def draw_image_buttons(host: Host) -> str:
    """Draw the buttons for what the host can do with an image."""
    texts = {page: f"Send to {page}" for page in host.image_pages()}
    if host.folder_opener() is not None:
        texts[FOLDER] = "Open folder"
    buttons = (f'<button type="button" data-send="{escape(name)}">{text}</button>' for name, text in texts.items())
    return f'<div class="elemental-sending" hidden>{"".join(buttons)}</div>'
