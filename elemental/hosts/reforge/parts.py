"""The parts of reForge: those of the WebUI, but for the live model."""

from __future__ import annotations

from ..webui.loader import WebUILoader
from ..webui.page import WebUIPage
from ..webui.parts import Parts
from .layout import ReForgeLayout


def reforge_parts() -> Parts:
    """Give the parts of reForge; nothing differentiates images there yet."""
    return Parts(WebUILoader(), WebUIPage(), ReForgeLayout)
