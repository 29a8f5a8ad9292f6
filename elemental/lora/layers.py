"""The layers of a LoRA file, from the names and shapes of its tensors."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError
from .formats import FORMATS, Format, refused_format, role_of
from .keys import BIAS, WEIGHT, LayerName, layer_name
from .matrices import Matrix
from .of_weight import ANY, DORA, Shape, decompose, magnitude_axis

if TYPE_CHECKING:
    from torch import Tensor

_SCALES = {"alpha", "scale"}
_PEFT_FIELD = "lora_adapter_metadata"
"""The header field of diffusers with the settings of PEFT, among them alpha, for which its files have no tensors."""


@dataclass(frozen=True)
class Change:
    """What a LoRA does to the weight or the bias of a layer.

    Attributes:
        written: The layer's name in the file.
        layer: The layer.
        kind: ``weight`` or ``bias``.
        format: The format.
        tensors: The keys in the file, by role.
        shapes: Their shapes, by role.
        size: Rows and columns of the matrix that is added; 0 for what the shapes do not tell.
        rank: The rank that alpha is divided by; None if alpha means nothing.
        alpha: Alpha, if the file's header says it.
    """

    written: str
    layer: LayerName
    kind: str
    format: Format
    tensors: Mapping[str, str]
    shapes: Mapping[str, Shape]
    size: tuple[int, int]
    rank: int | None = None
    alpha: float | None = None

    @property
    def has_magnitudes(self) -> bool:
        """Whether it is a DoRA, which gives each output or input a length."""
        return any(role in self.tensors for role in DORA)

    @property
    def needs_weight(self) -> bool:
        """Whether what it does depends on the weight, so that it is no sum."""
        return self.format.changed is not None or self.has_magnitudes

    def fits(self, layer: Shape) -> bool:
        """Tell whether a weight or bias of a shape can be changed."""
        if self.format.fits is not None:
            return self.format.fits(self.shapes, layer)
        if self.has_magnitudes and magnitude_axis(self.shapes, layer) is None:
            return False
        return self.size == (layer[0], math.prod(layer[1:]))

    def changed(self, weight: Tensor, numbers: Mapping[str, Tensor]) -> Tensor:
        """Give the changed weight for a ratio of 1, of a change that needs it.

        Args:
            weight: The weight as the layer has it, float64, on the CPU; it is not written to.
            numbers: The tensors by role, on the CPU.

        Returns:
            Float64, of the same shape, in memory of its own.

        Raises:
            CheckpointError: The tensors do not fit to the weight.
        """
        if self.format.changed is not None:
            return self.format.changed(numbers, weight)
        added = self.matrix(numbers).rows(0, self.size[0]).mul_(self.scale(numbers))
        return decompose(weight, added, {role: numbers[role] for role in DORA if role in numbers})

    def matrix(self, numbers: Mapping[str, Tensor]) -> Matrix:
        """Make the matrix, which is still to be multiplied with :meth:`scale`.

        Args:
            numbers: The tensors by role, on the CPU.
        """
        assert self.format.matrix is not None
        return self.format.matrix(numbers)

    def scale(self, numbers: Mapping[str, Tensor]) -> float:
        """Give what the matrix is multiplied with: alpha by the rank; 1 without alpha."""
        if "scale" in numbers:
            return float(numbers["scale"])
        alpha = float(numbers["alpha"]) if "alpha" in numbers else self.alpha
        return 1.0 if alpha is None or self.rank is None else alpha / self.rank


@dataclass(frozen=True)
class LoraLayers:
    """The content of a LoRA file.

    Attributes:
        changes: What it does to layers.
        unread: The keys of tensors that are none of a LoRA's.
    """

    changes: tuple[Change, ...]
    unread: tuple[str, ...] = ()


def read_layers(shapes: Mapping[str, Shape], header: Mapping[str, str], *, name: str) -> LoraLayers:
    """Read the layers of a LoRA file from its keys and shapes.

    Args:
        shapes: The shape of each tensor, by key.
        header: The text fields of the file.
        name: How errors call the file.

    Raises:
        CheckpointError: It is no LoRA, is of a format that cannot be computed, or a layer is not whole.
    """
    _refuse_formats(shapes, name)
    layers: dict[str, dict[str, str]] = {}
    unread = []
    for key in shapes:
        found = role_of(key, shapes)
        if found is None:
            unread.append(key)
        else:
            layers.setdefault(found[0], {})[found[1]] = key
    alphas = _Alphas(header)
    changes = [
        change for written, keys in layers.items() for change in _changes(written, keys, shapes, alphas, name=name)
    ]
    return LoraLayers(tuple(changes), tuple(unread))


def _refuse_formats(shapes: Mapping[str, Shape], name: str) -> None:
    for key in shapes:
        refused = refused_format(key)
        if refused is not None:
            raise CheckpointError(
                f'{name} is PEFT\'s {refused} (it holds "{key}"), which cannot be merged.\n'
                "LoRA, LoCon, LoHa, LoKr, their DoRA, full differences, and LyCORIS' OFT, BOFT, IA3 and GLoRA can be "
                "merged."
            )


def _changes(
    written: str, keys: Mapping[str, str], shapes: Mapping[str, Shape], alphas: _Alphas, *, name: str
) -> Iterator[Change]:
    left = set(keys) - _SCALES
    for found in FORMATS:
        tensors = {role: key for role, key in keys.items() if role in found.roles}
        if not left & found.roles or not found.is_whole(frozenset(tensors)):
            continue
        left -= found.roles
        by_role = {role: shapes[key] for role, key in tensors.items()}
        size = found.size(by_role)
        if size is None:
            raise CheckpointError(f"{name}: the shapes of the tensors of {written} do not fit together.")
        rank = next((by_role[role][0] for role in found.rank_of if role in by_role), None)
        kind = BIAS if found.of_bias else WEIGHT
        alpha = alphas.of(written, rank)
        yield Change(written, layer_name(written), kind, found, tensors, by_role, size, rank, alpha)
    if left or not set(keys) - _SCALES:
        rest = ", ".join(keys[role] for role in sorted(left or keys))
        raise CheckpointError(f"{name} is damaged: of the layer {written} there is only {rest}.")


class _Alphas:
    """The alphas in the header of a file that diffusers wrote; other files have them as tensors."""

    def __init__(self, header: Mapping[str, str]) -> None:
        self._settings: Mapping[str, Any] = {}
        with suppress(ValueError, RecursionError):
            data = json.loads(header.get(_PEFT_FIELD, "{}"))
            self._settings = data if isinstance(data, dict) else {}

    def of(self, written: str, rank: int | None) -> float | None:
        """Give the alpha of a layer, as a number to divide by the rank; None if the header does not say it."""
        network, _, layer = written.partition(".")
        pattern = self._settings.get(f"{network}.alpha_pattern")
        alphas = [
            alpha
            for name, alpha in (pattern.items() if isinstance(pattern, dict) else ())
            if layer == name or layer.endswith(f".{name}")
        ]
        alpha = alphas[0] if alphas else self._settings.get(f"{network}.lora_alpha")
        if rank is None or not isinstance(alpha, int | float) or isinstance(alpha, bool) or not math.isfinite(alpha):
            return None
        return alpha * math.sqrt(rank) if self._settings.get(f"{network}.use_rslora") else float(alpha)


_TEXT_WIDTHS = {768: "SD 1.x", 1024: "SD 2.x", 2048: "SDXL"}
"""The inputs of the layers that read the prompt, in the sizes that models have."""


def guess_architecture(layers: LoraLayers) -> str:
    """Tell by the names and sizes of its layers which models a LoRA is for; empty if they do not tell."""
    for change in layers.changes:
        network, name = change.layer
        if network in ("te1", "te2") or (network == "unet" and re.search(r"transformer_blocks_[1-9]", name)):
            return "SDXL"
    widths = {change.size[1] for change in layers.changes if re.search(r"_attn2_to_[kv]$", change.layer.name)} - {ANY}
    return _TEXT_WIDTHS.get(widths.pop(), "") if len(widths) == 1 else ""
