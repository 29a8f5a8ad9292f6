"""The plan: what will be computed for each tensor, from a recipe and the checkpoints' names and shapes alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from ..errors import MergeError
from ..spec.blocks import Architecture
from ..spec.keys import FIRST_CONV, VAE_PREFIX, Component, KeyName, detect_architecture, name_key
from ..spec.lint import SpecWarning, warn_of_ratios, warn_of_rules
from ..spec.recipe import MergeMode, MergeRecipe, SaveDtype, VaeChoice
from ..spec.select import Selection
from .tensors import TensorInfo

Infos = Mapping[str, TensorInfo]

_SAVED_AS = {SaveDtype.FP16: "F16", SaveDtype.BF16: "BF16", SaveDtype.FP32: "F32"}

_MARKERS = {"v_pred": "v-prediction", "ztsnr": "zero-terminal-SNR"}


class Role(Enum):
    """A file's part in a merge."""

    A = "a"
    B = "b"
    C = "c"
    VAE = "vae"

    @property
    def spoken(self) -> str:
        """The role in a sentence: "model A", "the VAE file"."""
        return "the VAE file" if self is Role.VAE else f"model {self.name}"


_VAE_ROLES = {VaeChoice.A: Role.A, VaeChoice.B: Role.B, VaeChoice.FILE: Role.VAE}


class TensorPlan(NamedTuple):
    """What becomes of one tensor.

    Attributes:
        name: Its key, component, block and element.
        info: Number format and shape in the result.
        alpha: Its ratio, and
        beta: the second one, in modes that have it.
        rule: Index of the rule that set alpha, from 0, or None where block weights or the plain ratio did.
        beta_rule: The same for beta.
        base_alpha: What alpha would be without rules, and
        base_beta: what beta would be.
        inputs: The models it is computed from; a single one is copied, and converted if the format differs.
        note: Why it is not merged though the ratios say so; empty otherwise.
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

    @property
    def changed(self) -> bool:
        """Whether the result differs from A in more than number format."""
        return self.inputs != (Role.A,)


@dataclass(frozen=True)
class MergePlan:
    """Everything a merge will do, tensor by tensor, in the order of A.

    Attributes:
        architecture: Of the models.
        recipe: What the plan was made from.
        tensors: One entry for each tensor of the result.
        warnings: What the user probably did not mean.
        left_out: For each other model the keys that only it has, and that the result does without.
    """

    architecture: Architecture
    recipe: MergeRecipe
    tensors: tuple[TensorPlan, ...]
    warnings: tuple[SpecWarning, ...] = ()
    left_out: Mapping[Role, tuple[str, ...]] = field(default_factory=dict)

    @property
    def mode(self) -> MergeMode:
        """The formula."""
        return self.recipe.mode

    @property
    def nbytes(self) -> int:
        """The size of the result's tensors in bytes."""
        return sum(tensor.info.nbytes for tensor in self.tensors)


def plan_tensors(recipe: MergeRecipe, models: Mapping[Role, Infos]) -> MergePlan:
    """Work out what a recipe does to each tensor; nothing is read or computed.

    Args:
        recipe: What to merge and how.
        models: Number format and shape of every tensor of each file the recipe names; its paths play no part.

    Raises:
        CheckpointError: A model is none that can be merged.
        MergeError: The models do not fit together.
        RecipeError: Block weights are for another architecture.
    """
    architecture = _common_architecture(models)
    infos = _result_infos(recipe, models)
    names = [name_key(key, architecture) for key in infos]
    selection = Selection(names)
    decision = selection.decide(recipe.rules.rules)
    planner = _Planner(recipe, models, architecture)
    tensors = tuple(
        planner.plan(name, infos[name.key], alpha_rule=alpha_rule, beta_rule=beta_rule)
        for name, alpha_rule, beta_rule in zip(names, decision.alpha_rules, decision.beta_rules, strict=True)
    )
    _check_shapes(tensors, models)
    left_out = _left_out(models, infos)
    warnings = [
        *warn_of_ratios(recipe),
        *warn_of_rules(recipe.rules, selection, decision, architecture=architecture),
        *_warn_of_result(recipe, tensors, left_out),
    ]
    return MergePlan(architecture, recipe, tensors, tuple(warnings), left_out)


class _Planner:
    """Plans one tensor after the other: block weights over the plain ratios, rules over both."""

    def __init__(self, recipe: MergeRecipe, models: Mapping[Role, Infos], architecture: Architecture) -> None:
        self._recipe = recipe
        self._models = models
        self._roles = tuple(role for role in (Role.A, Role.B, Role.C) if role in models)
        alpha, beta = recipe.alpha, recipe.beta
        self._alpha = dict.fromkeys(architecture.blocks, alpha)
        if recipe.block_alpha is not None:
            self._alpha = recipe.block_alpha.by_block(architecture, base=alpha)
        self._beta: dict[str, float] = {}
        if recipe.block_beta is not None:
            self._beta = recipe.block_beta.by_block(architecture, base=beta or 0.0)
        elif beta is not None:
            self._beta = dict.fromkeys(architecture.blocks, beta)

    def plan(self, name: KeyName, info: TensorInfo, *, alpha_rule: int | None, beta_rule: int | None) -> TensorPlan:
        rules = self._recipe.rules.rules
        base_alpha, base_beta = self._alpha[name.block], self._beta.get(name.block)
        alpha = base_alpha if alpha_rule is None else rules[alpha_rule].alpha
        beta = base_beta if beta_rule is None else rules[beta_rule].beta
        note = self._why_not_merged(name)
        inputs = self._whole_source(name) if note else self._inputs(name, alpha, beta or 0.0)
        return TensorPlan(name, info, alpha, beta, alpha_rule, beta_rule, base_alpha, base_beta, inputs, note)

    def _why_not_merged(self, name: KeyName) -> str:
        if name.component is Component.VAE and self._recipe.vae is not VaeChoice.MERGED:
            return f"VAE taken from {_VAE_ROLES[self._recipe.vae].spoken}"
        if name.key.endswith("position_ids"):
            return "an index, kept from A"
        for role in self._roles:
            if name.key not in self._models[role]:
                return f"not in {role.name}, kept from A"
            if not self._models[role][name.key].is_float:
                return f"not a float tensor in {role.name}, kept from A"
        return ""

    def _whole_source(self, name: KeyName) -> tuple[Role, ...]:
        return (_VAE_ROLES.get(self._recipe.vae, Role.A) if name.component is Component.VAE else Role.A,)

    def _inputs(self, name: KeyName, alpha: float, beta: float) -> tuple[Role, ...]:
        shapes = {role: self._models[role][name.key].shape for role in self._roles}
        factors = zip((Role.A, Role.B, Role.C), self._recipe.mode.coefficients(alpha, beta), strict=True)
        used = {role: factor for role, factor in factors if factor}
        if list(used.values()) == [1.0]:
            (only,) = used
            if shapes[only] == shapes[Role.A]:  # a narrower convolution cannot stand for an inpainting model's
                return (only,)
        return self._roles


def _common_architecture(models: Mapping[Role, Infos]) -> Architecture:
    found = {
        role: detect_architecture({key: info.shape for key, info in infos.items()}, name=f"Model {role.name}")
        for role, infos in models.items()
        if role is not Role.VAE
    }
    if len(set(found.values())) > 1:
        seen = ", ".join(f"{role.name} is {architecture.name}" for role, architecture in found.items())
        raise MergeError(f"Models of different architectures cannot be merged: {seen}.")
    return found[Role.A]


def _result_infos(recipe: MergeRecipe, models: Mapping[Role, Infos]) -> dict[str, TensorInfo]:
    """A's keys and formats; where A has no VAE and the user wants another's, that VAE is added."""
    infos = dict(models[Role.A])
    source = _VAE_ROLES.get(recipe.vae)
    if source is not None:
        vae = {key: info for key, info in models[source].items() if key.startswith(VAE_PREFIX)}
        own = [key for key in infos if key.startswith(VAE_PREFIX)]
        lacking = next((key for key in own if key not in vae), None)
        if not vae or lacking:
            what = f"lacks {lacking}" if lacking and vae else "has no VAE"
            raise MergeError(f"The VAE cannot be taken from {source.spoken}, which {what}.")
        infos.update({} if own else vae)
    if recipe.dtype is None:
        return infos
    saved = _SAVED_AS[recipe.dtype]
    return {key: info._replace(dtype=saved) if info.is_float else info for key, info in infos.items()}


def _check_shapes(tensors: Sequence[TensorPlan], models: Mapping[Role, Infos]) -> None:
    merged = [role for role in models if role is not Role.VAE]
    unlike = [
        f"{tensor.name.key} is {list(tensor.info.shape)} in the result, {list(other)} in {role.spoken}"
        for tensor in tensors
        for role in (tensor.inputs if tensor.note else merged)
        if not _fits(tensor, other := models[role][tensor.name.key].shape)
    ]
    if not unlike:
        return
    channels = [infos[FIRST_CONV].shape[1] for role, infos in models.items() if role is not Role.VAE]
    swap = "\nAn inpainting model (9 channels) must be model A." if 9 in channels[1:] and channels[0] != 9 else ""
    more = f"\n... and {len(unlike) - 3} more" if len(unlike) > 3 else ""
    raise MergeError("The models' shapes differ:\n" + "\n".join(unlike[:3]) + more + swap)


def _fits(tensor: TensorPlan, shape: tuple[int, ...]) -> bool:
    own = tensor.info.shape
    if tensor.name.key == FIRST_CONV and (own[1], shape[1]) == (9, 4):
        return own[0] == shape[0] and own[2:] == shape[2:]
    return own == shape


def _left_out(models: Mapping[Role, Infos], result: Infos) -> dict[Role, tuple[str, ...]]:
    others = {role: infos for role, infos in models.items() if role in (Role.B, Role.C)}
    return {role: tuple(key for key in infos if key not in result) for role, infos in others.items()}


def _warn_of_result(
    recipe: MergeRecipe, tensors: Sequence[TensorPlan], left_out: Mapping[Role, Sequence[str]]
) -> Iterator[SpecWarning]:
    if not any(tensor.changed for tensor in tensors):
        yield SpecWarning("Nothing would change: the result is model A.")
    paths = [source.path for source in recipe.sources.values()]
    if len(set(paths)) < len(paths):
        yield SpecWarning("The same file is given for two of the models.")
    for role, keys in left_out.items():
        for marker, meaning in _MARKERS.items():
            if marker in keys:
                yield SpecWarning(f'{role.name} is marked as {meaning} ("{marker}") and A is not.')
    idle = sorted({t.rule for t in tensors if t.rule is not None and t.name.component is Component.VAE and t.note})
    for rule in idle if recipe.vae is not VaeChoice.MERGED else ():
        yield SpecWarning(
            f'Rule {rule + 1} "{recipe.rules.rules[rule]}" sets elements of the VAE, which is not merged '
            f"(vae: {recipe.vae.value}).",
            rule,
        )
