"""Takes LoRAs out of the weights of Forge's and Forge Neo's models.

Both put a new parameter, with the LoRA added, in the place of the old one, which is the backup. What is written into
the new one is gone with the next change of LoRAs. LoRAs that are added while a layer computes leave the weights alone.
"""

from __future__ import annotations

from typing import Any

from ..patchers import unpatch


def undo_loras(patcher: Any) -> None:
    """Give a model its weights without LoRAs; the next image has them added again.

    Args:
        patcher: Any patcher of the model; its clones, one of which has the LoRAs, share the backups.
    """
    loader = getattr(patcher.model, "lora_loader", None)
    if loader is None:
        unpatch(patcher)
    elif loader.backup:
        from backend import memory_management  # Forge's; where models have no lora_loader, it has other functions

        # A model that counts as loaded is not looked at before an image, and the LoRA would be missing from it.
        memory_management.unload_model_clones(patcher)
        loader.refresh(lora_patches={}, offload_device=patcher.offload_device)
