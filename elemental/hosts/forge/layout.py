"""What the live model of Forge and Forge Neo is made of."""

from __future__ import annotations

import os
import weakref
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...architectures.keys import TEXT_PREFIXES, UNET_PREFIX
from ...errors import HostError
from ...merge.files.checkpoint import Checkpoint
from ..other_files import describe, find_other_files
from ..patchers import LiveNetworks
from ..webui.prompts import forget_prompts
from .lora import undo_loras
from .packed import find_packing, refuse_packed

_PLACE = "VAE / Text Encoder"
"""The list of files beside the checkpoint. Of a whole checkpoint that is chosen there, Forge takes the U-Net, too."""


class ForgeLayout:
    """An engine of Forge, which is no module: each load makes a new one, and nothing is loaded over it.

    The engine is not kept alive: with another one loaded, there would be two in memory.

    Args:
        engine: The engine.
        file: The open file of its checkpoint.
        other_files: The files beside the checkpoint that a VAE or text encoders were loaded from.

    Attributes:
        overwritten: Never.
        overwritten_by_others: Never.
        left_out: What of the checkpoint is not in use, and not merged, as a sentence for the user.
    """

    overwritten = overwritten_by_others = False

    def __init__(self, engine: Any, file: Checkpoint, *, other_files: Sequence[str]) -> None:
        self._engine = weakref.ref(engine)
        keys = [key for key, info in file.tensors.items() if info.is_float]
        others = self._networks_of_others(keys, file) if other_files else frozenset()
        self._whole_model = ", ".join(map(os.path.basename, other_files)) if UNET_PREFIX in others else ""
        self._keys = [key for key in keys if not key.startswith(tuple(others))]
        self.left_out = "" if self._whole_model else describe(others, place=_PLACE)

    @property
    def module(self) -> Any:
        """The engine; None once Forge has freed it."""
        return self._engine()

    def tensors(self) -> Mapping[str, Sequence[Tensor]]:
        """Take LoRAs out of the tensors, and give those in use by their keys in the file.

        Raises:
            HostError: The weights are packed or none of them are of model A, or Forge has freed the engine.
        """
        if self._whole_model:
            raise HostError(
                f'The live model has the U-Net of another checkpoint, which is chosen in "{_PLACE}" '
                f"({self._whole_model}). Take it out there and merge again."
            )
        found = self._find(self._keys)
        refuse_packed(self._objects().unet.model, found)
        with torch.inference_mode():
            return {key: tuple(part.detach() for part in parts) for key, parts in found.items()}

    def changed(self, keys: Collection[str]) -> None:
        """Forget encoded prompts; Forge computes nothing else from weights."""
        if any(key.startswith(TEXT_PREFIXES) for key in keys):
            forget_prompts()

    def restored(self) -> None:
        """Do nothing: nothing was put aside."""

    def _networks_of_others(self, keys: Sequence[str], file: Checkpoint) -> frozenset[str]:
        """Give the prefixes of networks that are not the checkpoint's; a packed U-Net cannot be compared."""
        found = self._find(keys)
        is_packed = find_packing(self._objects().unet.model, found)
        compared = [key for key in keys if not (is_packed and key.startswith(UNET_PREFIX))]
        return find_other_files(compared, found, file)

    def _objects(self) -> Any:
        engine = self._engine()
        if engine is None:
            raise HostError("Forge has loaded another model in place of this one; merge again.")
        return engine.forge_objects_original

    def _find(self, keys: Sequence[str]) -> dict[str, tuple[Tensor, ...]]:
        objects = self._objects()
        with torch.inference_mode():  # Forge makes its tensors in this mode, and views of them are written in it
            for patcher in _patchers(objects):
                undo_loras(patcher)
            networks = LiveNetworks(objects)
            found = {key: networks.parts(key) for key in keys}
        return {key: parts for key, parts in found.items() if parts is not None}


def _patchers(objects: Any) -> Iterator[Any]:
    """Give the patchers of networks that LoRAs are for."""
    yield objects.unet
    if objects.clip is not None:
        yield objects.clip.patcher
