"""Plan merges: what a recipe computes for each tensor, from the names and shapes in the models alone."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence

from ..architectures.keys import EMA_PREFIX, UNET_PREFIX, Component, KeyName, name_key
from ..architectures.tensor_sets import TensorSet, members
from ..recipe.recipe import MergeRecipe, VaeChoice
from ..recipe.rule_matching import Decision, RuleMatcher, rule_by_tensor
from ..recipe.spec_warnings import SpecWarning, warn_of_ratios, warn_of_rules, warn_of_weights
from .model_fit import (
    VAE_ROLES,
    ModelInfos,
    check_shapes,
    common_architecture,
    left_out_keys,
    refuse_scaled_fp8,
    result_infos,
    warn_of_models,
)
from .plan import NOTHING_CHANGES, MergePlan, Role, TensorPlan

Ratios = tuple[float, "float | None"]
"""Alpha, and beta in modes that have it."""


def plan_tensors(recipe: MergeRecipe, models: ModelInfos) -> MergePlan:
    """Plan one recipe; nothing is read or computed.

    Args:
        recipe: What to merge and how.
        models: Number format and shape of each tensor, for every file of the recipe; paths do not matter.

    Raises:
        CheckpointError: A model is of an architecture that cannot be merged.
        MergeError: The models do not fit together, or one is scaled fp8.
        RecipeError: Block weights are for another architecture.
    """
    return Planner(recipe, models).plan(recipe)


def planning_key(recipe: MergeRecipe) -> Hashable:
    """Give a key that is equal for two recipes only if one :class:`Planner` can plan both."""
    return recipe.mode, recipe.vae, recipe.dtype, tuple(recipe.sources.items())


class Planner:
    """Plans recipes that differ in ratios and rules alone: of the same models, mode, VAE and number format.

    Args:
        recipe: Any of these recipes.
        models: Number format and shape of each tensor, for every file of the recipes.
        renamings: For each file in words how it spells its keys otherwise, for the plan.

    Attributes:
        architecture: The architecture of the models.
        names: The tensors of the result, in the order of A's file. Bit i of a set of tensors stands for the i-th.
        infos: Their number formats and shapes in the result, by key.

    Raises:
        CheckpointError: A model is of an architecture that cannot be merged.
        MergeError: The models do not fit together, or one is scaled fp8.
    """

    def __init__(
        self, recipe: MergeRecipe, models: ModelInfos, renamings: Mapping[Role, tuple[str, ...]] | None = None
    ) -> None:
        self._recipe = recipe
        self._renamings = renamings or {}
        self._models = models
        self._merged_roles = tuple(role for role in (Role.A, Role.B, Role.C) if role in models)
        refuse_scaled_fp8(models)
        self.architecture = common_architecture(models)
        self.infos = result_infos(recipe, models)
        self.names = [name_key(key, self.architecture) for key in self.infos]
        self._matcher = RuleMatcher(self.names)
        self._notes = [self._why_not_merged(name) for name in self.names]
        check_shapes(self.infos, self._possible_inputs(), models)
        self._left_out = left_out_keys(models, self.infos)

    @property
    def everything(self) -> TensorSet:
        """The set of all tensors."""
        return self._matcher.everything

    def plan(self, recipe: MergeRecipe) -> MergePlan:
        """Plan all tensors, and warn of what was probably not meant.

        Raises:
            RecipeError: Block weights are for another architecture.
        """
        decision = self._matcher.decide(recipe.rules.rules)
        tensors = self._plan_set(recipe, decision, self.everything)
        warnings = [
            *warn_of_ratios(recipe),
            *warn_of_weights(recipe, self.architecture),
            *warn_of_rules(recipe.rules, self._matcher, decision, architecture=self.architecture),
            *_warn_of_result(recipe, tensors),
            *warn_of_models(self.names, self._models),
        ]
        return MergePlan(self.architecture, recipe, tensors, tuple(warnings), self._left_out, self._renamings)

    def plan_some(self, recipe: MergeRecipe, tensors: TensorSet) -> MergePlan:
        """Plan some tensors, without warnings.

        Raises:
            RecipeError: Block weights are for another architecture.
        """
        decision = self._matcher.decide(recipe.rules.rules)
        return MergePlan(self.architecture, recipe, self._plan_set(recipe, decision, tensors))

    def ratios(self, recipe: MergeRecipe) -> dict[Ratios, TensorSet]:
        """Give the tensors of each pair of ratios that a recipe sets, whether or not they are merged.

        Raises:
            RecipeError: Block weights are for another architecture.
        """
        decision = self._matcher.decide(recipe.rules.rules)
        rules = recipe.rules.rules
        base_alphas, base_betas = self._base_ratios(recipe)
        alphas = self._by_ratio(base_alphas, decision.alpha, [rule.alpha for rule in rules])
        betas = self._by_ratio(base_betas, decision.beta, [rule.beta for rule in rules])
        return {
            (alpha or 0.0, beta): both
            for alpha, with_alpha in alphas.items()
            for beta, with_beta in betas.items()
            if (both := with_alpha & with_beta)
        }

    def _by_ratio(
        self, base: Mapping[str, float | None], ruled: Sequence[TensorSet], ratios: Sequence[float | None]
    ) -> dict[float | None, TensorSet]:
        """Give the tensors of each ratio; ``ruled`` and ``ratios`` have an entry a rule, ``base`` one a block."""
        by_ratio: dict[float | None, TensorSet] = {}
        unruled = self.everything
        for tensors, ratio in zip(ruled, ratios, strict=True):
            by_ratio[ratio] = by_ratio.get(ratio, 0) | tensors
            unruled &= ~tensors
        for block, ratio in base.items():
            by_ratio[ratio] = by_ratio.get(ratio, 0) | (self._matcher.with_block(block) & unruled)
        return by_ratio

    def _base_ratios(self, recipe: MergeRecipe) -> tuple[Mapping[str, float], Mapping[str, float | None]]:
        """Give alpha and beta of each block without rules."""
        blocks = self.architecture.blocks
        alpha, beta = recipe.alpha, recipe.beta
        alphas = dict.fromkeys(blocks, alpha)
        if recipe.block_alpha is not None:
            alphas = recipe.block_alpha.by_block(self.architecture, base=alpha)
        if recipe.block_beta is not None:
            return alphas, {**recipe.block_beta.by_block(self.architecture, base=beta or 0.0)}
        return alphas, dict.fromkeys(blocks, beta)

    def _plan_set(self, recipe: MergeRecipe, decision: Decision, tensors: TensorSet) -> tuple[TensorPlan, ...]:
        base_alphas, base_betas = self._base_ratios(recipe)
        alpha_rules = rule_by_tensor(decision.alpha, tensors)
        beta_rules = rule_by_tensor(decision.beta, tensors)
        rules = recipe.rules.rules
        whole_roles: dict[Ratios, Role | None] = {}
        plans = []
        for index in range(len(self.names)) if tensors == self.everything else members(tensors):
            name, note = self.names[index], self._notes[index]
            alpha_rule, beta_rule = alpha_rules.get(index), beta_rules.get(index)
            base_alpha, base_beta = base_alphas[name.block], base_betas[name.block]
            alpha = base_alpha if alpha_rule is None else rules[alpha_rule].alpha
            beta = base_beta if beta_rule is None else rules[beta_rule].beta
            if (alpha, beta) not in whole_roles:
                whole_roles[alpha, beta] = self._whole_role(alpha, beta or 0.0)
            inputs = self._unmerged_input(name) if note else self._inputs(name, whole_roles[alpha, beta])
            info = self.infos[name.key]
            plans.append(
                TensorPlan(name, info, alpha, beta, alpha_rule, beta_rule, base_alpha, base_beta, inputs, note)
            )
        return tuple(plans)

    def _possible_inputs(self) -> Iterator[tuple[str, tuple[Role, ...]]]:
        """Give for each key the models that its tensor may be computed from, whatever the ratios."""
        for name, note in zip(self.names, self._notes, strict=True):
            yield name.key, self._unmerged_input(name) if note else self._merged_roles

    def _why_not_merged(self, name: KeyName) -> str:
        if name.component is Component.VAE and self._recipe.vae is not VaeChoice.MERGED:
            return f"VAE taken from {VAE_ROLES[self._recipe.vae].spoken}"
        if name.key.endswith("position_ids"):
            return "an index, kept from A"
        if name.component is Component.OTHER and not name.key.startswith((UNET_PREFIX, EMA_PREFIX)):
            return "no weight (noise schedule, marker), kept from A"
        for role in self._merged_roles:
            if name.key not in self._models[role]:
                return f"not in {role.name}, kept from A"
            if not self._models[role][name.key].is_float:
                return f"not a float tensor in {role.name}, kept from A"
        return ""

    def _unmerged_input(self, name: KeyName) -> tuple[Role, ...]:
        """Give the model that a tensor is copied from if it is not merged."""
        return (VAE_ROLES.get(self._recipe.vae, Role.A) if name.component is Component.VAE else Role.A,)

    def _whole_role(self, alpha: float, beta: float) -> Role | None:
        """Give the model whose numbers the formula leaves as they are with these ratios, if there is one."""
        coefficients = zip((Role.A, Role.B, Role.C), self._recipe.mode.coefficients(alpha, beta), strict=True)
        used = {role: coefficient for role, coefficient in coefficients if coefficient}
        return next(iter(used)) if list(used.values()) == [1.0] else None

    def _inputs(self, name: KeyName, whole_role: Role | None) -> tuple[Role, ...]:
        if whole_role is Role.A:
            return (whole_role,)
        models = self._models
        # a first convolution of 4 channels cannot replace an inpainting model's, which has 9
        if whole_role is not None and models[whole_role][name.key].shape == models[Role.A][name.key].shape:
            return (whole_role,)
        return self._merged_roles


def _warn_of_result(recipe: MergeRecipe, tensors: Sequence[TensorPlan]) -> Iterator[SpecWarning]:
    if not any(tensor.changed for tensor in tensors):
        yield NOTHING_CHANGES
    paths = [source.path for source in recipe.sources.values()]
    if len(set(paths)) < len(paths):
        yield SpecWarning("The same file is given for two of the models.")
    if recipe.vae is not VaeChoice.MERGED:
        yield from _warn_of_vae_rules(recipe, tensors)


def _warn_of_vae_rules(recipe: MergeRecipe, tensors: Sequence[TensorPlan]) -> Iterator[SpecWarning]:
    unmerged = (tensor for tensor in tensors if tensor.name.component is Component.VAE and tensor.note)
    for rule in sorted({tensor.rule for tensor in unmerged if tensor.rule is not None}):
        yield SpecWarning(
            f'Rule {rule + 1} "{recipe.rules.rules[rule]}" sets elements of the VAE, which is not merged '
            f"(vae: {recipe.vae.value}).",
            rule,
        )
