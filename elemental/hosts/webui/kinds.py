"""Chooses the parts of the host that this runs in, by what it can."""

from __future__ import annotations

from typing import Any

from ...merge.files.checkpoint import Checkpoint
from .layout import WebUILayout
from .loader import WebUILoader
from .page import WebUIPage
from .parts import Parts
from .traced_image import WebUIDifferentiator


def choose_parts() -> Parts:
    """Give the parts of this host."""
    return webui_parts()


def webui_parts() -> Parts:
    """Give the parts of AUTOMATIC1111's WebUI."""
    return Parts(WebUILoader(), WebUIPage(), _make_layout, WebUIDifferentiator)


def _make_layout(module: Any, file: Checkpoint) -> WebUILayout:
    return WebUILayout(module, frozenset(file.tensors))
