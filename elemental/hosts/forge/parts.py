"""The parts of Forge and Forge Neo."""

from __future__ import annotations

from typing import Any

from ...merge.files.checkpoint import Checkpoint
from ..webui.parts import Parts
from .layout import ForgeLayout
from .loader import ForgeLoader
from .page import ForgePage


def forge_parts() -> Parts:
    """Give the parts of Forge and Forge Neo; nothing differentiates images there yet."""
    loader = ForgeLoader()

    def make_layout(engine: Any, file: Checkpoint) -> ForgeLayout:
        return ForgeLayout(engine, file, has_other_files=bool(loader.additional_modules()))

    return Parts(loader, ForgePage(), make_layout)
