"""How reForge loads checkpoints: as the WebUI, but it takes models apart before it loads others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from modules import sd_models

from ..webui.loader import WebUILoader


class ReForgeLoader(WebUILoader):
    """Loads by ``sd_models.reload_model_weights``.

    reForge takes the model in use apart before it loads another one, and only then out of ``model_data.sd_model``. If
    that load fails, what is left there still names its checkpoint, but has no tensors.
    """

    def model(self) -> Any:
        """Give reForge's model; None if none is loaded, or only what is left of one."""
        model = sd_models.model_data.sd_model
        return model if any(model is loaded for loaded in sd_models.model_data.loaded_sd_models) else None

    def in_memory(self) -> Sequence[Any]:
        """Give all models that reForge may use again."""
        return list(sd_models.model_data.loaded_sd_models)
