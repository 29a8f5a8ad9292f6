"""How Forge and Forge Neo compute images, for steps that are computed again."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from modules import shared

from ..webui.traced_patchers import PatchedModel

_NOTES = "last_extra_generation_params"
"""What the infotext of the next image says of its prompts: a dictionary of the encoder's."""


class ForgeTracedModel(PatchedModel):
    """An engine of Forge or Forge Neo, for one image."""

    @contextmanager
    def as_during_image(self) -> Iterator[None]:
        """Use the patchers and the clip skip of the image; nothing is said of it in the next one's infotext."""
        notes = _notes()
        kept, skips = dict(notes), [(each, each.clip_skip) for each in _text_engines(self.module)]
        try:
            self.module.set_clip_skip(int(shared.opts.CLIP_stop_at_last_layers))
            with super().as_during_image():
                yield
        finally:
            for each, skip in skips:
                each.clip_skip = skip
            notes.clear()
            notes.update(kept)


def _text_engines(engine: Any) -> list[Any]:
    return [each for each in vars(engine).values() if hasattr(each, "clip_skip")]


def _notes() -> dict[str, Any]:
    """Find the encoder's notes: Forge has them in a module, Forge Neo in an object."""
    found = getattr(sys.modules.get("backend.text_processing.classic_engine"), _NOTES, None)
    if found is None:
        found = getattr(getattr(sys.modules.get("backend.args"), "dynamic_args", None), _NOTES, None)
    return found if isinstance(found, dict) else {}
