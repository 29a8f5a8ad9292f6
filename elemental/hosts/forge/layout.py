"""What the live model of Forge and Forge Neo is made of."""

from __future__ import annotations

import weakref
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...architectures.keys import TEXT_PREFIXES
from ...errors import HostError
from ...merge.files.checkpoint import Checkpoint
from ..other_files import describe, find_other_files
from ..patchers import LiveNetworks
from ..webui.prompts import forget_prompts
from .lora import undo_loras
from .packed import refuse_packed


class ForgeLayout:
    """An engine of Forge, which is no module: each load makes a new one, and nothing is loaded over it.

    The engine is not kept alive: with another one loaded, there would be two in memory.

    Args:
        engine: The engine.
        file: The open file of its checkpoint.
        has_other_files: Whether a VAE or text encoders were loaded from files beside the checkpoint.

    Attributes:
        overwritten: Never.
        overwritten_by_others: Never.
        left_out: What of the checkpoint is not in use, and not merged, as a sentence for the user.
    """

    overwritten = overwritten_by_others = False

    def __init__(self, engine: Any, file: Checkpoint, *, has_other_files: bool) -> None:
        self._engine = weakref.ref(engine)
        keys = [key for key, info in file.tensors.items() if info.is_float]
        others: frozenset[str] = frozenset()
        if has_other_files:
            others = find_other_files(keys, self._find(keys), file)
        self._keys = [key for key in keys if not key.startswith(tuple(others))]
        self.left_out = describe(others, place="VAE / Text Encoder")

    @property
    def module(self) -> Any:
        """The engine; None once Forge has freed it."""
        return self._engine()

    def tensors(self) -> Mapping[str, Sequence[Tensor]]:
        """Take LoRAs out of the tensors, and give those in use by their keys in the file.

        Raises:
            HostError: The weights are packed, or Forge has freed the engine.
        """
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
