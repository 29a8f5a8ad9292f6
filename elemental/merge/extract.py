"""A LoRA of the difference between two models: the nearest matrices of a rank, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..architectures.blocks import SDXL
from ..architectures.keys import Component
from ..errors import MergeError, Stopped
from ..lora.keys import Place, kohya_layers
from ..recipe.recipe import MergeRecipe
from .execute import check_device
from .files.checkpoint import SAFETENSORS
from .files.model_locator import AS_RECORDED, ModelLocator, expand_home
from .files.open_models import OpenModels
from .files.spool import Spool
from .files.tensor_data import Buffer
from .files.writer import check_target, resolve_target
from .low_rank import RankChoice, nearest_factors
from .measuring import with_measured_numbers
from .models import Model, all_models, files_in
from .plan import ONLY_MODEL_A, MergePlan, Role, TensorPlan
from .progress import Controls

_WITH_LAYERS = (Component.UNET, Component.TEXT_ENCODER)
_USUAL = RankChoice(32)
_PIECE = 1 << 20
"""Numbers that are read at a time."""
_DYNAMIC = "Dynamic"
"""What a header says in place of a rank if layers have ranks of their own: networks/resize_lora.py of
github.com/kohya-ss/sd-scripts."""


@dataclass(frozen=True)
class Extraction:
    """A LoRA that was made from two models.

    Attributes:
        path: The file.
        plan: The plan of the weight sum that it stands for.
        ranks: The rank of each of its layers.
        cut: How many of them would need a higher rank to hold the share that was asked for.
        remaining: What it does not hold of the differences in these layers, by their Frobenius norms: 0 is nothing.
        left_out: The tensors that differ, too, and have no layer in it: biases, norms, embeddings, the VAE.
    """

    path: Path
    plan: MergePlan
    ranks: tuple[int, ...]
    cut: int
    remaining: float
    left_out: tuple[str, ...]

    @property
    def layers(self) -> int:
        """How many layers it has."""
        return len(self.ranks)


class _Layer(NamedTuple):
    """A layer that was made: see :class:`.low_rank.Factors`."""

    rank: int
    is_cut: bool
    square: float
    rest: float


def extract_lora(
    recipe: MergeRecipe,
    output: str | Path,
    *,
    ranks: RankChoice = _USUAL,
    locator: ModelLocator = AS_RECORDED,
    device: str = "cpu",
    overwrite: bool = False,
    controls: Controls | None = None,
    on_plan: Callable[[MergePlan], None] = lambda _: None,
) -> Extraction:
    """Write a LoRA that makes of model A what a weight sum would, as nearly as a rank can; its names are kohya's.

    Differences are float32, their singular values float64, and what is saved is fp16. Layers that are alike in both
    models, and those of ratio 0, are left out. One layer is in memory at a time.

    Args:
        recipe: A weight sum of models A and B, without LoRAs: the ratio of a tensor multiplies its difference B - A.
        output: The file to write, named .safetensors or .sft.
        ranks: The rank of each layer.
        locator: Finds the models.
        device: Where to compute, as torch names it.
        overwrite: Whether to replace an existing file.
        controls: Progress, in bytes of model A, and stop.
        on_plan: Called with the plan before any tensor is read; what it raises ends the extraction.

    Raises:
        CheckpointError: A model is missing, damaged, or is none that can be merged.
        MergeError: The models do not fit together or do not differ; the file cannot be written.
        RecipeError: Block weights are for another architecture.
        Stopped: ``controls`` asked to stop.
        Exception: Whatever ``on_plan`` raises.
    """
    target = resolve_target(expand_home(output))
    if target.suffix.lower() not in SAFETENSORS:
        raise MergeError(f"{target}: the name of the result must end in .safetensors.")
    check_target(target, overwrite=overwrite)
    controls = controls or Controls()
    recipe = replace(recipe, drop_ema=True)  # which a LoRA has no layers for
    with OpenModels(locator) as open_models, Spool(target, overwrite=overwrite) as spool:
        plan = open_models.planner(recipe).plan(recipe)
        # that nothing changes is an error here
        plan = replace(plan, warnings=tuple(each for each in plan.warnings if each not in ONLY_MODEL_A))
        _refuse_models(target, open_models.open(recipe))
        on_plan(plan)
        models = open_models.open(with_measured_numbers(recipe, open_models, controls=controls))
        extractor = _Extractor(models, spool, ranks, device=check_device(device))
        layers = extractor.run(plan, controls)
        if not layers:
            raise MergeError(f"There is nothing to extract: {_why_nothing(plan, extractor.left_out)}.")
        spool.save(_header(str(ranks.most) if ranks.energy is None else _DYNAMIC))
    return Extraction(
        target,
        plan,
        tuple(layer.rank for layer in layers),
        sum(layer.is_cut for layer in layers),
        math.sqrt(math.fsum(layer.rest for layer in layers) / math.fsum(layer.square for layer in layers)),
        tuple(extractor.left_out),
    )


def _refuse_models(target: Path, models: Mapping[Role, Model]) -> None:
    if any(target.exists() and target.samefile(file.path) for file in files_in(all_models(models, ()))):
        raise MergeError(f"{target} is one of the models; give the LoRA another name.")


def _why_nothing(plan: MergePlan, left_out: Sequence[str]) -> str:
    if left_out:
        return f"what differs has no layer in a LoRA, such as {left_out[0]}"
    if not plan.changes:
        return "all ratios are 0"
    limit = "" if all(tensor.alpha for tensor in plan.tensors) else " whose ratio is not 0"
    return f"all layers of the models{limit} are alike"


class _Extractor:
    """Extracts layer after layer; one difference is in memory at a time.

    Attributes:
        left_out: The keys of tensors that differ, and have no layer.
    """

    def __init__(self, models: Mapping[Role, Model], spool: Spool, ranks: RankChoice, *, device: torch.device) -> None:
        self.left_out: list[str] = []
        self._a, self._b = models[Role.A], models[Role.B]
        self._spool = spool
        self._ranks = ranks
        self._device = device
        self._buffers = Buffer(), Buffer()

    def run(self, plan: MergePlan, controls: Controls) -> list[_Layer]:
        """Extract all layers.

        Raises:
            Stopped: ``controls`` asked to stop.
        """
        tensors = [tensor for tensor in plan.tensors if tensor.changed]
        controls.begin(sum(tensor.info.nbytes for tensor in tensors))
        layers: list[_Layer] = []
        for tensor in tensors:
            if controls.should_stop():
                raise Stopped
            layers += self._of_tensor(tensor, checkpoint_names=plan.architecture is SDXL)
            controls.advance(tensor.info.nbytes)
        return layers

    def _of_tensor(self, tensor: TensorPlan, *, checkpoint_names: bool) -> Iterator[_Layer]:
        name, info = tensor.name, tensor.info
        has_layers = name.component in _WITH_LAYERS and len(info.shape) > 1
        found = kohya_layers(name.key, checkpoint_names=checkpoint_names) if has_layers else []
        if info.numel != self._b.tensors[name.key].numel:  # a first convolution of other channels
            self.left_out.append(name.key)
        elif not found:
            if any(piece.any() for _, piece in self._pieces(tensor)):
                self.left_out.append(name.key)
        else:
            difference = self._difference(tensor)
            for layer, place in found:
                part = _part(difference, place)
                if _is_any(part, layer):
                    yield self._extract(layer, part)

    def _extract(self, layer: str, difference: Tensor) -> _Layer:
        factors = nearest_factors(difference.flatten(1), self._ranks)
        points = [1] * (difference.dim() - 2)
        self._spool.add(f"{layer}.lora_up.weight", factors.up.reshape(*factors.up.shape, *points))
        self._spool.add(f"{layer}.lora_down.weight", factors.down.reshape(-1, *difference.shape[1:]))
        self._spool.add(f"{layer}.alpha", torch.tensor(float(factors.rank)).half())
        return _Layer(factors.rank, factors.is_cut, factors.square, factors.rest)

    def _difference(self, tensor: TensorPlan) -> Tensor:
        whole = torch.empty(tensor.info.numel, dtype=torch.float32, device=self._device)
        for start, piece in self._pieces(tensor):
            whole[start : start + len(piece)] = piece
        return whole.view(tensor.info.shape)

    def _pieces(self, tensor: TensorPlan) -> Iterator[tuple[int, Tensor]]:
        """Give the difference times its ratio, some numbers of the flattened tensor at a time, float32."""
        stored = [model.data(tensor.name.key) for model in (self._a, self._b)]
        for start in range(0, tensor.info.numel, _PIECE):
            stop = min(start + _PIECE, tensor.info.numel)
            a, b = (
                data.read(start, stop, buffer).to(device=self._device, dtype=torch.float32)
                for data, buffer in zip(stored, self._buffers, strict=True)
            )
            yield start, (b - a) * tensor.alpha


def _part(difference: Tensor, place: Place) -> Tensor:
    rows = difference.shape[0] // place.parts
    part = difference[place.part * rows : (place.part + 1) * rows]
    return part.t() if place.transposed else part


def _is_any(difference: Tensor, layer: str) -> bool:
    """Tell whether a difference is not 0 everywhere.

    Raises:
        MergeError: It is not finite.
    """
    least, most = map(float, difference.aminmax())  # unlike other ways to ask, without a copy of a large layer
    if not (math.isfinite(least) and math.isfinite(most)):
        raise MergeError(f"{layer}: a model holds NaN or infinite numbers there.")
    return least != 0 or most != 0


def _header(rank: str) -> dict[str, str]:
    return {
        "format": "pt",
        "ss_network_module": "networks.lora",
        "ss_network_dim": rank,
        "ss_network_alpha": rank,
    }
