"""A recipe in the place of a model: names and shapes from its plan, numbers that are computed when they are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from ..architectures.blocks import Architecture
from ..architectures.keys import VAE_PREFIX, is_vae_key
from ..errors import CheckpointError
from .files.checkpoint import Checkpoint
from .files.lora_file import OpenLora
from .files.tensor_info import TensorInfo
from .models import Model, all_models, files_in
from .plan import MergePlan, Role, TensorPlan

if TYPE_CHECKING:
    from .computation import StoredData
    from .inner_merge import InnerMerge

_FLOAT64_BYTES = 8


class ChainedModel:
    """A recipe that stands in the place of a model, as :class:`.models.Model`.

    Its tensors are computed when they are read, and not rounded: to number formats as to pieces, the merge that reads
    them is one with it. A tensor that it copies is read from the file.

    Args:
        name: What the recipe is called.
        plan: Its plan, of all tensors.
        models: Its models, open as long as this one is used.
        loras: Its LoRAs, likewise.
        vae_alone: Whether it stands for the file of a VAE, and has nothing else.

    Attributes:
        name: What the recipe is called.
        plan: Its plan.
        models: Its models.
        loras: Its LoRAs.
        tensors: Shape of each tensor of the result, and the number format that a file of it would have.
        warnings: The warnings of its plan.

    Raises:
        CheckpointError: Its VAE is asked for, and it has none.
    """

    def __init__(
        self,
        name: str,
        plan: MergePlan,
        models: Mapping[Role, Model],
        *,
        loras: Sequence[OpenLora] = (),
        vae_alone: bool = False,
    ) -> None:
        self.name = name
        self.plan = plan
        self.models = models
        self.loras = loras
        self.warnings = tuple(f"{name}: {warning.message}" for warning in plan.warnings)
        self._planned = {
            tensor.name.key: tensor for tensor in plan.tensors if not vae_alone or is_vae_key(tensor.name.key)
        }
        if vae_alone and VAE_PREFIX + "decoder.conv_in.weight" not in self._planned:
            raise CheckpointError(f"{name} has no VAE.")
        self.tensors: Mapping[str, TensorInfo] = {key: tensor.info for key, tensor in self._planned.items()}

    @property
    def file_keys(self) -> Mapping[str, str]:
        """The keys of the file that its result would be."""
        of_a = self.models[Role.A].file_keys
        return {key: of_a.get(key, key) for key in self.tensors}

    @property
    def renamings(self) -> tuple[str, ...]:
        """How its model A spells its keys otherwise."""
        return self.models[Role.A].renamings

    @property
    def metadata(self) -> Mapping[str, str]:
        """The header fields of its model A, which its merges keep."""
        return self.models[Role.A].metadata

    @property
    def architecture(self) -> Architecture:
        """The architecture of its models."""
        return self.plan.architecture

    @property
    def files(self) -> tuple[Checkpoint, ...]:
        """The files of its models and LoRAs, each once."""
        return tuple(files_in(all_models(self.models, self.loras)))

    @property
    def base(self) -> Checkpoint:
        """The file whose keys and shapes it has."""
        return self.models[Role.A].base

    def planned(self, key: str) -> TensorPlan:
        """Tell how a tensor is made."""
        return self._planned[key]

    def data(self, key: str) -> StoredData:
        """Give a tensor, to be computed piece by piece.

        Raises:
            KeyError: There is no such tensor.
            MergeError: A tensor does not have the planned shape.
        """
        return self._merge.data(self._planned[key])

    def read_nbytes(self, key: str) -> int:
        """Give the size of a tensor in bytes, as :meth:`data` gives its numbers."""
        planned = self._planned[key]
        if len(planned.inputs) == 1 and not planned.is_changed_after:
            return self.models[planned.inputs[0]].read_nbytes(key)
        return planned.info.numel * _FLOAT64_BYTES

    @cached_property
    def _merge(self) -> InnerMerge:
        from .inner_merge import InnerMerge

        return InnerMerge(self.plan, self.models, self.loras)
