"""A LoRA file, open for reading."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import NamedTuple

from ...architectures.key_spelling import Spelling
from ...architectures.keys import FIRST_CONV, shown_key
from ...errors import CheckpointError
from ...lora.layers import LoraLayers, read_layers
from ..lora_fit import LoraFit
from .checkpoint import Checkpoint


class LoraFile(Checkpoint):
    """A LoRA file; its tensors have the keys that are in the file.

    Raises:
        CheckpointError: The file cannot be read, is no LoRA, or one of a format that cannot be merged.
    """

    @cached_property
    def layers(self) -> LoraLayers:
        """The layers that it changes."""
        shapes = {key: info.shape for key, info in self.tensors.items()}
        layers = read_layers(shapes, self.metadata, name=str(self.path))
        if not layers.changes:
            raise CheckpointError(self._refusal())
        return layers

    def _spell(self, keys: Iterable[str]) -> Spelling:
        return Spelling({key: key for key in keys})

    def _refusal(self) -> str:
        if any(key.endswith(FIRST_CONV.removeprefix("model.diffusion_model.")) for key in self.tensors):
            return f"{self.path} is a whole checkpoint and no LoRA: name it as a model, without --lora."
        held = next((f'it holds "{shown_key(key)}"' for key in self.tensors), "it holds no tensors")
        return f"{self.path} is no LoRA ({held})."


class OpenLora(NamedTuple):
    """A LoRA of a merge, and what of it has a place in model A."""

    file: LoraFile
    fit: LoraFit
