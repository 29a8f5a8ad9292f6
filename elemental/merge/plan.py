"""The plan of a merge as data: what is computed for each tensor of the result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from ..architectures.blocks import Architecture
from ..architectures.keys import KeyName
from ..modes.catalogue import MergeMode
from ..recipe.adjustments import Adjustment
from ..recipe.more_models import MORE_ROLES as MORE
from ..recipe.recipe import MergeRecipe, ModelSource
from ..recipe.spec_warnings import SpecWarning
from .files.tensor_info import TensorInfo

if TYPE_CHECKING:
    from .lora_fit import LoraFit

Infos = Mapping[str, TensorInfo]
"""Number format and shape of each tensor of a file, by key."""

NOTHING_CHANGES = SpecWarning("Nothing would change: the result is model A.")
NOTHING_MERGED = SpecWarning("Nothing is merged: the result is model A, converted or without its EMA weights.")
ONLY_MODEL_A = (NOTHING_CHANGES, NOTHING_MERGED)
"""Warnings of a merge that takes nothing from other models."""


class Role(Enum):
    """The part that a file plays in a merge."""

    A = "a"
    B = "b"
    C = "c"
    B2 = "b2"
    B3 = "b3"
    B4 = "b4"
    B5 = "b5"
    B6 = "b6"
    B7 = "b7"
    B8 = "b8"
    B9 = "b9"
    VAE = "vae"

    @property
    def spoken(self) -> str:
        """The role in a sentence: "model A", "the VAE file"."""
        return "the VAE file" if self is Role.VAE else f"model {self.name}"


MODEL_ROLES = tuple(role for role in Role if role is not Role.VAE)
"""The models that are merged, in the order of formulas: A, B, C, and further ones."""

OTHER_MODELS = MODEL_ROLES[1:]
"""Those that are merged into A."""

MORE_ROLES = tuple(map(Role, MORE))
"""The further ones."""


def formula_roles(mode: MergeMode, more: Sequence[float] = ()) -> tuple[Role, ...]:
    """Give the models that a formula looks at: A, B, C where it has one, and further ones whose ratio is not 0.

    Args:
        mode: The mode.
        more: The ratio of each further model.
    """
    further = (role for role, ratio in zip(MORE_ROLES, more, strict=False) if ratio)
    return (Role.A, Role.B, *((Role.C,) if mode.uses_c else ()), *further)


class LoraRole(NamedTuple):
    """The part of a LoRA in a merge.

    Attributes:
        place: Its place among the recipe's LoRAs, from 0.
    """

    place: int

    @property
    def spoken(self) -> str:
        """The role in a sentence: "LoRA 1"."""
        return f"LoRA {self.place + 1}"


FileRole = Role | LoraRole
"""The part of any file of a merge."""


def sources_of(recipe: MergeRecipe) -> dict[FileRole, ModelSource]:
    """Give what stands in a recipe: its models, a VAE, and its LoRAs."""
    models: dict[FileRole, ModelSource] = {Role(role): source for role, source in recipe.sources.items()}
    return models | {LoraRole(place): lora.file for place, lora in enumerate(recipe.loras)}


class LoraUse(NamedTuple):
    """How much of a LoRA is added to a tensor.

    Attributes:
        place: The LoRA's place among the recipe's, from 0.
        ratio: The ratio; not 0.
    """

    place: int
    ratio: float


class TensorPlan(NamedTuple):
    """How one tensor of the result is made.

    Attributes:
        name: Its key, component, block and element.
        info: Its number format and shape in the result.
        alpha: Its alpha.
        beta: Its beta; None in modes without beta.
        rule: Index, from 0, of the rule that set alpha; None if block weights or the recipe's alpha did.
        beta_rule: The same for beta.
        base_alpha: The alpha it would have without rules.
        base_beta: The beta it would have without rules.
        inputs: The models it is computed from. A tensor with a single input is copied, and converted if the number
            format differs.
        note: Why it is not merged, whatever its ratios; empty if it is.
        loras: The LoRAs that are added to it, whether or not it is merged.
        lora_rules: Indices, from 0, of the rules that set ratios of LoRAs for it, also to 0.
        more: The ratio of each further model.
        more_rules: Index, from 0, of the rule that set each of these; None if the recipe's ratio did. Empty if no rule
            sets any.
        adjusted: What is done with what the formula gives, before LoRAs are added; whether or not it is merged.
    """

    name: KeyName
    info: TensorInfo
    alpha: float
    beta: float | None
    rule: int | None
    beta_rule: int | None
    base_alpha: float
    base_beta: float | None
    inputs: tuple[Role, ...]
    note: str = ""
    loras: tuple[LoraUse, ...] = ()
    lora_rules: tuple[int, ...] = ()
    more: tuple[float, ...] = ()
    more_rules: tuple[int | None, ...] = ()
    adjusted: Adjustment | None = None

    @property
    def changed(self) -> bool:
        """Whether the result differs from A in more than number format."""
        return self.inputs != (Role.A,) or self.is_changed_after

    @property
    def is_changed_after(self) -> bool:
        """Whether something is done with what the formula gives, so that even a single input is no copy."""
        return bool(self.loras) or self.adjusted is not None


@dataclass(frozen=True)
class MergePlan:
    """What a merge does, tensor by tensor.

    Attributes:
        architecture: The architecture of the models.
        recipe: The recipe that was planned.
        tensors: One entry for each tensor of the result, in the order of A's file.
        warnings: What the user probably did not mean.
        left_out: For the models other than A the keys that A does not have, for A its EMA weights if the recipe drops
            them; the result does without them.
        renamings: For each file in words how it spells its keys otherwise, and what of it is not read.
        is_model_a: Whether the result is model A as it is: the same tensors, numbers and number formats.
        loras: What of each LoRA of the recipe has a place in model A.
    """

    architecture: Architecture
    recipe: MergeRecipe
    tensors: tuple[TensorPlan, ...]
    warnings: tuple[SpecWarning, ...] = ()
    left_out: Mapping[Role, tuple[str, ...]] = field(default_factory=dict)
    renamings: Mapping[Role, tuple[str, ...]] = field(default_factory=dict)
    is_model_a: bool = False
    loras: tuple[LoraFit, ...] = ()

    @property
    def mode(self) -> MergeMode:
        """The merge mode."""
        return self.recipe.mode

    def needs_weight(self, tensor: TensorPlan) -> bool:
        """Tell whether LoRAs do more to a tensor than add something that does not depend on its numbers."""
        return any(self.loras[use.place].needs_weight(tensor.name.key) for use in tensor.loras)

    @property
    def changes(self) -> int:
        """How many tensors differ from A in more than number format."""
        return sum(tensor.changed for tensor in self.tensors)

    @property
    def nbytes(self) -> int:
        """The size of the result's tensors in bytes."""
        return sum(tensor.info.nbytes for tensor in self.tensors)
