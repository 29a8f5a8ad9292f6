"""The parts of Forge and Forge Neo."""

from __future__ import annotations

from typing import Any

from ...merge.files.checkpoint import Checkpoint
from ..webui.differentiable_weights import Originals
from ..webui.parts import MakeTraced, Parts
from ..webui.traced_image import WebUIDifferentiator
from .layout import ForgeLayout
from .loader import ForgeLoader
from .lora import undo_loras
from .page import ForgePage
from .traced import ForgeTracedModel


def forge_parts() -> Parts:
    """Give the parts of Forge and Forge Neo."""
    loader = ForgeLoader()

    def make_layout(engine: Any, file: Checkpoint) -> ForgeLayout:
        return ForgeLayout(engine, file, other_files=loader.additional_modules())

    return Parts(loader, ForgePage(), make_layout, _make_differentiator)


def _make_differentiator(engine: Any, make: MakeTraced) -> WebUIDifferentiator:
    from backend import memory_management

    originals = Originals()
    return WebUIDifferentiator(lambda: ForgeTracedModel(engine, originals, memory_management, undo_loras), make)
