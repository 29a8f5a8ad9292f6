"""A LoRA of the difference between two models: the nearest matrices of a rank, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..architectures.blocks import SDXL
from ..architectures.keys import Component, KeyName
from ..errors import MergeError, Stopped
from ..lora.keys import Place, kohya_layers
from ..recipe.recipe import MergeRecipe, ModelSource
from .execute import check_device
from .files.checkpoint import SAFETENSORS, Checkpoint
from .files.model_locator import AS_RECORDED, ModelLocator, expand_home
from .files.open_models import OpenModels
from .files.tensor_info import TensorInfo
from .files.writer import SafetensorsWriter, check_target, resolve_target
from .low_rank import Factors, RankChoice, nearest_factors
from .plan import Role
from .progress import Controls

_WITH_LAYERS = (Component.UNET, Component.TEXT_ENCODER)
_USUAL = RankChoice(32)
_DYNAMIC = "Dynamic"
"""What a header says in place of a rank if layers have ranks of their own: networks/resize_lora.py of
github.com/kohya-ss/sd-scripts."""


@dataclass(frozen=True)
class Extraction:
    """A LoRA that was made from two models.

    Attributes:
        path: The file.
        ranks: The rank of each of its layers.
        cut: How many of them would need a higher rank to hold the share that was asked for.
        remaining: What it does not hold of the differences in these layers, by their Frobenius norms: 0 is nothing.
        left_out: The tensors that differ, too, and have no layer in it: biases, norms, embeddings, the VAE.
    """

    path: Path
    ranks: tuple[int, ...]
    cut: int
    remaining: float
    left_out: tuple[str, ...]

    @property
    def layers(self) -> int:
        """How many layers it has."""
        return len(self.ranks)


class _Layer(NamedTuple):
    tensors: Mapping[str, Tensor]
    """The tensors of the file, by key."""
    factors: Factors
    """What they were made of."""


def extract_lora(
    model_a: ModelSource,
    model_b: ModelSource,
    output: str | Path,
    *,
    ranks: RankChoice = _USUAL,
    locator: ModelLocator = AS_RECORDED,
    device: str = "cpu",
    overwrite: bool = False,
    controls: Controls | None = None,
) -> Extraction:
    """Write a LoRA that makes model B from model A, as nearly as a rank can; its names and tensors are kohya's.

    Each layer is computed in float32 and saved as fp16. Layers that are alike in both models are left out.

    Args:
        model_a: The model that the LoRA is for.
        model_b: The model that it leads to.
        output: The file to write, named .safetensors or .sft.
        ranks: The rank of each layer.
        locator: Finds the models.
        device: Where to compute, as torch names it.
        overwrite: Whether to replace an existing file.
        controls: Progress, in bytes of model A's layers, and stop.

    Raises:
        CheckpointError: A model is missing, damaged, or is none that can be merged.
        MergeError: The models do not fit together or do not differ; the file cannot be written.
        Stopped: ``controls`` asked to stop.
    """
    target = resolve_target(expand_home(output))
    if target.suffix.lower() not in SAFETENSORS:
        raise MergeError(f"{target}: the name of the result must end in .safetensors.")
    check_target(target, overwrite=overwrite)
    controls = controls or Controls()
    recipe = MergeRecipe(model_a, model_b, alpha=1.0)
    with OpenModels(locator) as open_models:
        planner = open_models.planner(recipe)
        planner.plan(recipe)  # refuses what does not fit
        file_a, file_b = open_models.open_one(model_a), open_models.open_one(model_b, Role.B)
        if any(target.exists() and target.samefile(file.path) for file in (file_a, file_b)):
            raise MergeError(f"{target} is one of the models; give the LoRA another name.")
        extractor = _Extractor(file_a, file_b, ranks, device=check_device(device))
        layers = extractor.run(planner.names, checkpoint_names=planner.architecture is SDXL, controls=controls)
    if not layers:
        raise MergeError("There is nothing to extract: all layers of the models are alike.")
    _save(layers, target, str(ranks.most) if ranks.energy is None else _DYNAMIC, overwrite=overwrite)
    made = [layer.factors for layer in layers]
    cut = sum(factors.is_cut for factors in made)
    square, rest = (math.fsum(getattr(factors, name) for factors in made) for name in ("square", "rest"))
    return Extraction(
        target, tuple(factors.rank for factors in made), cut, math.sqrt(rest / square), tuple(extractor.left_out)
    )


class _Extractor:
    """Extracts layer after layer.

    Attributes:
        left_out: The keys of tensors that differ, and have no layer.
    """

    def __init__(self, model_a: Checkpoint, model_b: Checkpoint, ranks: RankChoice, *, device: torch.device) -> None:
        self.left_out: list[str] = []
        self._a = model_a
        self._b = model_b
        self._ranks = ranks
        self._device = device

    def run(self, names: Sequence[KeyName], *, checkpoint_names: bool, controls: Controls) -> list[_Layer]:
        """Extract all layers.

        Raises:
            Stopped: ``controls`` asked to stop.
        """
        shared = [name for name in names if name.key in self._a.tensors and name.key in self._b.tensors]
        controls.begin(sum(self._a.tensors[name.key].nbytes for name in shared))
        layers: list[_Layer] = []
        for name in shared:
            if controls.should_stop():
                raise Stopped
            layers += self._of_tensor(name, checkpoint_names=checkpoint_names)
            controls.advance(self._a.tensors[name.key].nbytes)
        return layers

    def _of_tensor(self, name: KeyName, *, checkpoint_names: bool) -> Iterator[_Layer]:
        info, other = self._a.tensors[name.key], self._b.tensors[name.key]
        if not info.is_float or not other.is_float or info.numel != other.numel:
            return
        difference = self._read(self._b, name.key) - self._read(self._a, name.key)
        if not difference.any():
            return
        has_layers = name.component in _WITH_LAYERS and len(info.shape) > 1
        found = kohya_layers(name.key, checkpoint_names=checkpoint_names) if has_layers else []
        if not found:
            self.left_out.append(name.key)
        for layer, place in found:
            part = _part(difference, place)
            if part.any():
                yield _extract(layer, part, self._ranks)

    def _read(self, model: Checkpoint, key: str) -> Tensor:
        return model.tensor(key).to(device=self._device, dtype=torch.float32)


def _part(difference: Tensor, place: Place) -> Tensor:
    rows = difference.shape[0] // place.parts
    part = difference[place.part * rows : (place.part + 1) * rows]
    return part.t() if place.transposed else part


def _extract(layer: str, difference: Tensor, ranks: RankChoice) -> _Layer:
    matrix = difference.flatten(1)
    if not matrix.isfinite().all():
        raise MergeError(f"{layer}: a model holds NaN or infinite numbers there.")
    factors = nearest_factors(matrix, ranks)
    points = [1] * (difference.dim() - 2)
    tensors = {
        f"{layer}.lora_up.weight": factors.up.reshape(*factors.up.shape, *points).contiguous().cpu(),
        f"{layer}.lora_down.weight": factors.down.reshape(-1, *difference.shape[1:]).contiguous().cpu(),
        f"{layer}.alpha": torch.tensor(float(factors.rank)).half(),
    }
    return _Layer(tensors, factors)


def _save(layers: Sequence[_Layer], target: Path, rank: str, *, overwrite: bool) -> None:
    tensors = {key: tensor for layer in layers for key, tensor in layer.tensors.items()}
    header = {
        "format": "pt",
        "ss_network_module": "networks.lora",
        "ss_network_dim": rank,
        "ss_network_alpha": rank,
    }
    infos = {key: TensorInfo("F16", tuple(tensor.shape)) for key, tensor in tensors.items()}
    with SafetensorsWriter(target, infos, room=header, overwrite=overwrite) as writer:
        for key, tensor in tensors.items():
            writer.write(key, 0, tensor.reshape(-1).view(torch.uint8).numpy().data)
        writer.commit(header)
