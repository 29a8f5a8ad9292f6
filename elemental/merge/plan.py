"""The plan: what will be computed for each tensor, from a recipe and the checkpoints' names and shapes alone."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from ..architectures.blocks import Architecture
from ..architectures.detection import detect_architecture
from ..architectures.keys import EMA_PREFIX, FIRST_CONV, PREFIXES, UNET_PREFIX, VAE_PREFIX, Component, KeyName, name_key
from ..architectures.tensor_sets import TensorSet, members
from ..errors import MergeError
from ..recipe.modes import MergeMode
from ..recipe.recipe import MergeRecipe, SaveDtype, VaeChoice
from ..recipe.rule_matching import Decision, RuleMatcher, rule_by_tensor
from ..recipe.spec_warnings import SpecWarning, warn_of_ratios, warn_of_rules
from .files.tensor_info import TensorInfo

Infos = Mapping[str, TensorInfo]
"""Number format and shape of every tensor of a file by its key."""

_SAVED_AS = {SaveDtype.FP16: "F16", SaveDtype.BF16: "BF16", SaveDtype.FP32: "F32"}

# Empty tensors that tell how a model was trained; source: comfy/supported_models.py, github.com/comfyanonymous/ComfyUI
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


NOTHING_CHANGES = SpecWarning("Nothing would change: the result is model A.")

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


Ratio = tuple[float, "float | None"]
"""Alpha and beta."""


def plan_tensors(recipe: MergeRecipe, models: Mapping[Role, Infos]) -> MergePlan:
    """Work out what a recipe does to each tensor; nothing is read or computed.

    Args:
        recipe: What to merge and how.
        models: Number format and shape of every tensor of each file the recipe names; its paths play no part.

    Raises:
        CheckpointError: A model is none that can be merged.
        MergeError: The models do not fit together, or the numbers of one are scaled fp8.
        RecipeError: Block weights are for another architecture.
    """
    return Planner(recipe, models).plan(recipe)


def planning_key(recipe: MergeRecipe) -> Hashable:
    """Give what is equal for two recipes only if one planner serves both."""
    return recipe.mode, recipe.vae, recipe.dtype, tuple(recipe.sources.items())


class Planner:
    """Plans recipes of the same models, mode, VAE and number format, which differ in ratios and rules alone.

    Args:
        recipe: Any of them.
        models: Number format and shape of every tensor of each file the recipes name.

    Attributes:
        architecture: Of the models.
        names: The tensors of the result, in the order of A. Sets of tensors (bit i for the i-th of them) mean these.
        infos: Their number formats and shapes in the result, by key.

    Raises:
        CheckpointError: A model is none that can be merged.
        MergeError: The models do not fit together, or the numbers of one are scaled fp8.
    """

    def __init__(self, recipe: MergeRecipe, models: Mapping[Role, Infos]) -> None:
        self._recipe = recipe
        self._models = models
        self._roles = tuple(role for role in (Role.A, Role.B, Role.C) if role in models)
        _refuse_scaled(models)
        self.architecture = _common_architecture(models)
        self.infos = _result_infos(recipe, models)
        self.names = [name_key(key, self.architecture) for key in self.infos]
        self._matcher = RuleMatcher(self.names)
        self._notes = [self._why_not_merged(name) for name in self.names]
        _check_shapes(self.infos, self._sources(), models)
        self._left_out = _left_out(models, self.infos)

    @property
    def everything(self) -> TensorSet:
        """The set of all tensors."""
        return self._matcher.everything

    def plan(self, recipe: MergeRecipe) -> MergePlan:
        """Work out what a recipe does to each tensor, and what in it was probably not meant.

        Raises:
            RecipeError: Block weights are for another architecture.
        """
        decision = self._matcher.decide(recipe.rules.rules)
        tensors = self._plan_set(recipe, decision, self.everything)
        warnings = [
            *warn_of_ratios(recipe),
            *warn_of_rules(recipe.rules, self._matcher, decision, architecture=self.architecture),
            *_warn_of_result(recipe, tensors),
            *_warn_of_models(self.names, self._models),
        ]
        return MergePlan(self.architecture, recipe, tensors, tuple(warnings), self._left_out)

    def plan_some(self, recipe: MergeRecipe, tensors: TensorSet) -> MergePlan:
        """Work out what a recipe does to some tensors; nothing is warned of, and errors are those of :meth:`plan`."""
        decision = self._matcher.decide(recipe.rules.rules)
        return MergePlan(self.architecture, recipe, self._plan_set(recipe, decision, tensors))

    def ratios(self, recipe: MergeRecipe) -> dict[Ratio, TensorSet]:
        """Tell which tensors a recipe gives which ratios, whether or not they are merged; errors as in :meth:`plan`."""
        decision = self._matcher.decide(recipe.rules.rules)
        rules = recipe.rules.rules
        base_alpha, base_beta = self._base_ratios(recipe)
        alphas = self._by_ratio(base_alpha, decision.alpha, [rule.alpha for rule in rules])
        betas = self._by_ratio(base_beta, decision.beta, [rule.beta for rule in rules])
        return {
            (alpha or 0.0, beta): both
            for alpha, with_alpha in alphas.items()
            for beta, with_beta in betas.items()
            if (both := with_alpha & with_beta)
        }

    def _by_ratio(
        self, base: Mapping[str, float | None], sets: Sequence[TensorSet], ratios: Sequence[float | None]
    ) -> dict[float | None, TensorSet]:
        found: dict[float | None, TensorSet] = {}
        left = self.everything
        for tensors, ratio in zip(sets, ratios, strict=True):
            found[ratio] = found.get(ratio, 0) | tensors
            left &= ~tensors
        for block, ratio in base.items():
            found[ratio] = found.get(ratio, 0) | (self._matcher.with_block(block) & left)
        return found

    def _base_ratios(self, recipe: MergeRecipe) -> tuple[Mapping[str, float], Mapping[str, float | None]]:
        """Give alpha and beta of each block, without rules."""
        blocks = self.architecture.blocks
        alpha, beta = recipe.alpha, recipe.beta
        alphas = dict.fromkeys(blocks, alpha)
        if recipe.block_alpha is not None:
            alphas = recipe.block_alpha.by_block(self.architecture, base=alpha)
        if recipe.block_beta is not None:
            return alphas, {**recipe.block_beta.by_block(self.architecture, base=beta or 0.0)}
        return alphas, dict.fromkeys(blocks, beta)

    def _plan_set(self, recipe: MergeRecipe, decision: Decision, tensors: TensorSet) -> tuple[TensorPlan, ...]:
        alphas, betas = self._base_ratios(recipe)
        alpha_rules = rule_by_tensor(decision.alpha, tensors)
        beta_rules = rule_by_tensor(decision.beta, tensors)
        rules = recipe.rules.rules
        sole: dict[Ratio, Role | None] = {}
        planned = []
        for index in range(len(self.names)) if tensors == self.everything else members(tensors):
            name, note = self.names[index], self._notes[index]
            alpha_rule, beta_rule = alpha_rules.get(index), beta_rules.get(index)
            base_alpha, base_beta = alphas[name.block], betas[name.block]
            alpha = base_alpha if alpha_rule is None else rules[alpha_rule].alpha
            beta = base_beta if beta_rule is None else rules[beta_rule].beta
            if (alpha, beta) not in sole:
                sole[alpha, beta] = self._sole_source(alpha, beta or 0.0)
            inputs = self._whole_source(name) if note else self._inputs(name, sole[alpha, beta])
            info = self.infos[name.key]
            planned.append(
                TensorPlan(name, info, alpha, beta, alpha_rule, beta_rule, base_alpha, base_beta, inputs, note)
            )
        return tuple(planned)

    def _sources(self) -> Iterator[tuple[str, tuple[Role, ...]]]:
        """Give for each tensor the models that it may be computed from, whatever the ratios."""
        for name, note in zip(self.names, self._notes, strict=True):
            yield name.key, self._whole_source(name) if note else self._roles

    def _why_not_merged(self, name: KeyName) -> str:
        if name.component is Component.VAE and self._recipe.vae is not VaeChoice.MERGED:
            return f"VAE taken from {_VAE_ROLES[self._recipe.vae].spoken}"
        if name.key.endswith("position_ids"):
            return "an index, kept from A"
        if name.component is Component.OTHER and not name.key.startswith((UNET_PREFIX, EMA_PREFIX)):
            return "no weight (noise schedule, marker), kept from A"
        for role in self._roles:
            if name.key not in self._models[role]:
                return f"not in {role.name}, kept from A"
            if not self._models[role][name.key].is_float:
                return f"not a float tensor in {role.name}, kept from A"
        return ""

    def _whole_source(self, name: KeyName) -> tuple[Role, ...]:
        return (_VAE_ROLES.get(self._recipe.vae, Role.A) if name.component is Component.VAE else Role.A,)

    def _sole_source(self, alpha: float, beta: float) -> Role | None:
        """Give the model that the formula leaves as it is with these ratios, if there is one."""
        factors = zip((Role.A, Role.B, Role.C), self._recipe.mode.coefficients(alpha, beta), strict=True)
        used = {role: factor for role, factor in factors if factor}
        return next(iter(used)) if list(used.values()) == [1.0] else None

    def _inputs(self, name: KeyName, sole: Role | None) -> tuple[Role, ...]:
        if sole is Role.A:
            return (sole,)
        models = self._models
        # a narrower convolution cannot stand for an inpainting model's
        if sole is not None and models[sole][name.key].shape == models[Role.A][name.key].shape:
            return (sole,)
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


def _check_shapes(infos: Infos, sources: Iterable[tuple[str, tuple[Role, ...]]], models: Mapping[Role, Infos]) -> None:
    unlike = [
        f"{key} is {list(infos[key].shape)} in the result, {list(other)} in {role.spoken}"
        for key, roles in sources
        for role in roles
        if not _fits(key, infos[key].shape, other := models[role][key].shape)
    ]
    if not unlike:
        return
    channels = [infos[FIRST_CONV].shape[1] for role, infos in models.items() if role is not Role.VAE]
    swap = "\nAn inpainting model (9 channels) must be model A." if 9 in channels[1:] and channels[0] != 9 else ""
    more = f"\n... and {len(unlike) - 3} more" if len(unlike) > 3 else ""
    raise MergeError("The models' shapes differ:\n" + "\n".join(unlike[:3]) + more + swap)


def _fits(key: str, own: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    if key == FIRST_CONV and (own[1], shape[1]) == (9, 4):
        return own[0] == shape[0] and own[2:] == shape[2:]
    return own == shape


def _left_out(models: Mapping[Role, Infos], result: Infos) -> dict[Role, tuple[str, ...]]:
    others = {role: infos for role, infos in models.items() if role in (Role.B, Role.C)}
    return {role: tuple(key for key in infos if key not in result) for role, infos in others.items()}


def _refuse_scaled(models: Mapping[Role, Infos]) -> None:
    """Refuse fp8 numbers that are weights only together with a factor beside them.

    Raises:
        MergeError: A model has such.
    """
    for role, infos in models.items():
        key = next((key for key in infos if key == "scaled_fp8" or key.endswith(".scale_weight")), None)
        if key is not None:
            what = f"The numbers of {role.spoken} are scaled fp8 ({key}), which cannot be merged"
            raise MergeError(f"{what}; use its fp16 file.")


def _warn_of_models(names: Sequence[KeyName], models: Mapping[Role, Infos]) -> Iterator[SpecWarning]:
    """Tell of what the models are, and of parts that go unmerged since their tensors are called otherwise."""
    own = models[Role.A]
    for role, infos in models.items():
        if role not in (Role.B, Role.C):
            continue
        for marker, meaning in _MARKERS.items():
            if (marker in own) != (marker in infos):
                marked, other = (Role.A, role) if marker in own else (role, Role.A)
                yield SpecWarning(f'{marked.name} is marked as {meaning} ("{marker}") and {other.name} is not.')
        for component in (Component.TEXT_ENCODER, Component.VAE):
            keys = [name.key for name in names if name.component is component and name.key in own]
            has_it = any(key.startswith(PREFIXES[component]) for key in infos)
            if keys and has_it and not any(key in infos for key in keys):
                part = f"The {component.value} of {role.name}"
                yield SpecWarning(f"{part} has other names for its tensors than A's; none of it is merged.")


def _warn_of_result(recipe: MergeRecipe, tensors: Sequence[TensorPlan]) -> Iterator[SpecWarning]:
    if not any(tensor.changed for tensor in tensors):
        yield NOTHING_CHANGES
    paths = [source.path for source in recipe.sources.values()]
    if len(set(paths)) < len(paths):
        yield SpecWarning("The same file is given for two of the models.")
    idle = sorted({t.rule for t in tensors if t.rule is not None and t.name.component is Component.VAE and t.note})
    for rule in idle if recipe.vae is not VaeChoice.MERGED else ():
        yield SpecWarning(
            f'Rule {rule + 1} "{recipe.rules.rules[rule]}" sets elements of the VAE, which is not merged '
            f"(vae: {recipe.vae.value}).",
            rule,
        )
