"""Chooses the parts of the host that this runs in by what the host can, never by its name or version."""

from __future__ import annotations

from typing import Any

from ...merge.files.checkpoint import Checkpoint
from .parts import MakeTraced, Parts
from .requirements import has, loads_as_forge

PATCHES_MODELS = "forge_loader.load_model_for_a1111"
"""reForge gives the WebUI's ``sd_models`` this loader, whose models are behind patchers."""


def choose_parts() -> Parts:
    """Give the parts of this host; parts of other hosts import what is not there."""
    if loads_as_forge():
        from ..forge.parts import forge_parts

        return forge_parts()
    if has("sd_models", PATCHES_MODELS):
        from ..reforge.parts import reforge_parts

        return reforge_parts()
    return webui_parts()


def webui_parts() -> Parts:
    """Give the parts of AUTOMATIC1111's WebUI."""
    from .layout import WebUILayout
    from .loader import WebUILoader
    from .page import WebUIPage
    from .traced_image import WebUIDifferentiator
    from .traced_webui import WebUITracedModel

    def make_layout(module: Any, file: Checkpoint) -> WebUILayout:
        return WebUILayout(module, frozenset(file.tensors))

    def make_differentiator(module: Any, make: MakeTraced) -> WebUIDifferentiator:
        return WebUIDifferentiator(lambda: WebUITracedModel(module), make)

    return Parts(WebUILoader(), WebUIPage(), make_layout, make_differentiator)
