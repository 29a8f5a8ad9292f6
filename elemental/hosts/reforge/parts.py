"""The parts of reForge: the page is the WebUI's."""

from __future__ import annotations

from typing import Any

from ..patchers import unpatch
from ..webui.differentiable_weights import Originals
from ..webui.page import WebUIPage
from ..webui.parts import MakeTraced, Parts
from ..webui.traced_image import WebUIDifferentiator
from .layout import ReForgeLayout
from .loader import ReForgeLoader
from .traced import ReForgeTracedModel


def reforge_parts() -> Parts:
    """Give the parts of reForge."""
    return Parts(ReForgeLoader(), WebUIPage(), ReForgeLayout, _make_differentiator)


def _make_differentiator(module: Any, make: MakeTraced) -> WebUIDifferentiator:
    from ldm_patched.modules import model_management

    originals = Originals()
    return WebUIDifferentiator(lambda: ReForgeTracedModel(module, originals, model_management, unpatch), make)
