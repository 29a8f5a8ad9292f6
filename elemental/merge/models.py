"""What a merge asks of a model, be it a file or a recipe in the place of one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

from ..architectures.blocks import Architecture
from .files.checkpoint import Checkpoint
from .files.tensor_info import TensorInfo
from .plan import FileRole, LoraRole, Role

if TYPE_CHECKING:
    from .computation import StoredData
    from .files.lora_file import OpenLora


class Model(Protocol):
    """A model of a merge, open for reading: a :class:`.files.checkpoint.Checkpoint`, or a chained recipe."""

    @property
    def name(self) -> str:
        """What it is called."""

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Number format and shape of each tensor."""

    @property
    def file_keys(self) -> Mapping[str, str]:
        """What a merge of which it is model A calls each tensor."""

    @property
    def renamings(self) -> tuple[str, ...]:
        """In words, how it spells its keys otherwise."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """In sentences, what of it may not be as it is meant."""

    @property
    def metadata(self) -> Mapping[str, str]:
        """The header fields that a merge of which it is model A may keep."""

    @property
    def architecture(self) -> Architecture:
        """The architecture of the model."""

    @property
    def files(self) -> tuple[Checkpoint, ...]:
        """The files that it is read from."""

    @property
    def base(self) -> Checkpoint:
        """The file whose keys and shapes it has."""

    def data(self, key: str) -> StoredData:
        """Give a tensor, to be read piece by piece."""

    def read_nbytes(self, key: str) -> int:
        """Give the size of a tensor in bytes, as :meth:`data` gives its numbers."""


_Opened = TypeVar("_Opened", bound=Model)


def with_loras(models: Mapping[Role, _Opened], loras: Sequence[_Opened]) -> dict[FileRole, _Opened]:
    """Give the models and LoRAs of a merge by their roles.

    Args:
        models: The models.
        loras: The files of its LoRAs, in the order of the recipe.
    """
    together: dict[FileRole, _Opened] = dict(models.items())
    together.update((LoraRole(place), lora) for place, lora in enumerate(loras))
    return together


def all_models(models: Mapping[Role, Model], loras: Iterable[OpenLora]) -> dict[FileRole, Model]:
    """Give the models of a merge, and the files of its LoRAs, by their roles."""
    return with_loras(models, [lora.file for lora in loras])


def files_in(models: Mapping[FileRole, Model]) -> list[Checkpoint]:
    """Give the files that models are read from, each once."""
    return list(dict.fromkeys(file for model in models.values() for file in model.files))
