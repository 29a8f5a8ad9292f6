"""Plan merges: what a recipe computes for each tensor, from the names and shapes in the models alone."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import NamedTuple

from ..architectures.blocks import Architecture
from ..architectures.keys import EMA_PREFIX, UNET_PREFIX, Component, KeyName, name_key, shown_key
from ..architectures.tensor_sets import TensorSet, members
from ..errors import MergeError
from ..modes.base import A
from ..recipe.adjustments import Adjustment, adjustments_of, names_for
from ..recipe.recipe import MergeRecipe, VaeChoice
from ..recipe.rule_matching import Decision, RuleMatcher, by_ratio, rule_by_tensor
from ..recipe.rules import Ratios
from ..recipe.spec_warnings import SpecWarning, warn_of_ratios, warn_of_rules, warn_of_weights
from .lora_plan import LoraPlanner, is_baked
from .model_fit import (
    VAE_ROLES,
    FileFacts,
    ModelInfos,
    common_architecture,
    left_out_keys,
    refuse_quantised,
    result_infos,
    warn_of_channels,
    warn_of_ema,
    warn_of_models,
)
from .more_plan import MorePlan, MoreRatios, more_sets, warn_of_unused
from .part_fit import U_NET, VAE, Partners, compare_parts, describe_no_floats, warn_of_unknown_names, why_unet_is_unfit
from .plan import (
    MODEL_ROLES,
    NOTHING_CHANGES,
    NOTHING_MERGED,
    Infos,
    LoraUse,
    MergePlan,
    Role,
    TensorPlan,
    formula_roles,
    sources_of,
)
from .shape_fit import Misfit, can_merge_shapes, describe_misfits, has_same_numbers

_NO_FACTS = FileFacts()


def plan_tensors(recipe: MergeRecipe, models: ModelInfos, files: FileFacts = _NO_FACTS) -> MergePlan:
    """Plan one recipe; nothing is read or computed.

    Args:
        recipe: What to merge and how.
        models: Number format and shape of each tensor, for every file of the recipe; paths do not matter.
        files: What else is known of these files.

    Raises:
        CheckpointError: A model is of an architecture that cannot be merged.
        MergeError: The models do not fit together, or one is quantised.
        RecipeError: Block weights are for another architecture.
    """
    return Planner(recipe, models, files).plan(recipe)


def planning_key(recipe: MergeRecipe) -> Hashable:
    """Give a key that is equal for two recipes only if one :class:`Planner` can plan both."""
    files = tuple(sources_of(recipe).items())
    return recipe.mode, recipe.vae, recipe.dtype, recipe.force, recipe.drop_ema, files


class Planner:
    """Plans recipes that differ in ratios and rules alone: of the same models, LoRAs, mode, VAE and number format.

    Models need not fit together where a recipe takes nothing from them.

    Args:
        recipe: Any of these recipes.
        models: Number format and shape of each tensor, for every file of the recipes.
        files: What else is known of these files.

    Attributes:
        architecture: The architecture of the models.
        names: The tensors of the result, in the order of A's file. Bit i of a set of tensors stands for the i-th.
        infos: Their number formats and shapes in the result, by key.
        loras: The LoRAs beside the result.

    Raises:
        CheckpointError: A model is of an architecture that cannot be merged.
        MergeError: The models are of different architectures, one is quantised, or one lacks the VAE to take from it;
            a LoRA is for another architecture.
    """

    def __init__(self, recipe: MergeRecipe, models: ModelInfos, files: FileFacts = _NO_FACTS) -> None:
        self._recipe = recipe
        self._files = files
        self._models = models
        self._merged_roles = tuple(role for role in MODEL_ROLES if role in models)
        self._merged = tuple((role, models[role]) for role in self._merged_roles)
        refuse_quantised(models, files)
        self.architecture = common_architecture(models)
        self.infos = result_infos(recipe, models)
        self.names = [name_key(key, self.architecture) for key in self.infos]
        self._places = {name.key: index for index, name in enumerate(self.names)}
        self._matcher = RuleMatcher(self.names)
        self._notes = [self._why_not_merged(name) for name in self.names]
        self._misfits = self._find_misfits()
        self._unfit = self._find_unfit()
        self._partners = self._compare_parts()
        self._no_floats = [
            SpecWarning(text)
            for role in self._merged_roles
            for text in describe_no_floats(self._kept_because(_no_float(role)), role)
        ]
        self._unknown_names = {
            role: list(warn_of_unknown_names(models[Role.A], models[role], role)) for role in self._merged_roles[1:]
        }
        self._about_models = list(warn_of_models(models, files))
        self._left_out = left_out_keys(models, recipe, self.infos)
        self._lora_planner = LoraPlanner(
            recipe, files.loras, self.names, infos=self.infos, architecture=self.architecture
        )
        self.loras = self._lora_planner.fits

    @property
    def everything(self) -> TensorSet:
        """The set of all tensors."""
        return self._matcher.everything

    def plan(self, recipe: MergeRecipe) -> MergePlan:
        """Plan all tensors, and warn of what was probably not meant.

        Raises:
            MergeError: The models do not fit together.
            RecipeError: Block weights are for another architecture.
        """
        decision = self._matcher.decide(recipe.rules.rules)
        tensors = self._plan_set(recipe, decision, self.everything)
        warnings = [
            *map(SpecWarning, self._files.doubts),
            *warn_of_ratios(recipe),
            *warn_of_weights(recipe, self.architecture),
            *warn_of_rules(recipe.rules, self._matcher, decision, architecture=self.architecture),
            *self._warn_of_no_change(tensors),
            *_warn_of_result(recipe, tensors, self._files),
            *self._about_models,
            *warn_of_channels(self._models, tensors),
            *self._warn_of_fit(tensors),
            *warn_of_ema(tensors),
            *warn_of_unused(recipe, tensors),
            *self._lora_planner.warnings(recipe, decision),
        ]
        return MergePlan(
            self.architecture,
            recipe,
            tensors,
            warnings=tuple(warnings),
            left_out=self._left_out,
            renamings=self._files.renamings,
            is_model_a=NOTHING_CHANGES in warnings,
            loras=self.loras,
        )

    def plan_some(self, recipe: MergeRecipe, tensors: TensorSet) -> MergePlan:
        """Plan some tensors, without warnings.

        Raises:
            MergeError: The models do not fit together.
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

    def more_ratios(self, recipe: MergeRecipe) -> dict[MoreRatios, TensorSet]:
        """Give the tensors of each choice of ratios of the further models, whether or not they are merged."""
        return more_sets(recipe, self._matcher.decide(recipe.rules.rules), self.everything)

    def lora_uses(self, recipe: MergeRecipe) -> dict[tuple[LoraUse, ...], TensorSet]:
        """Give the tensors of each choice of LoRAs and their ratios."""
        return self._lora_planner.sets(recipe, self._matcher.decide(recipe.rules.rules))

    def _by_ratio(
        self, base: Mapping[str, float | None], ruled: Sequence[TensorSet], ratios: Sequence[float | None]
    ) -> dict[float | None, TensorSet]:
        """Give the tensors of each ratio; ``ruled`` and ``ratios`` have an entry a rule, ``base`` one a block."""
        of_blocks = ((ratio, self._matcher.with_block(block)) for block, ratio in base.items())
        return by_ratio(zip(ratios, ruled, strict=True), of_blocks, self.everything)

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
        loras = self._lora_planner.uses(recipe, decision, tensors)
        lora_rules = self._lora_planner.rules(recipe, decision, tensors)
        rules, adjusted = recipe.rules.rules, _adjustments(recipe, self.architecture, self.infos)
        further = MorePlan(recipe, decision, tensors)
        uses: dict[tuple[float, float | None, MoreRatios], _Use] = {}
        plans = []
        for index in range(len(self.names)) if tensors == self.everything else members(tensors):
            name, note = self.names[index], self._notes[index]
            alpha_rule, beta_rule = alpha_rules.get(index), beta_rules.get(index)
            base_alpha, base_beta = base_alphas[name.block], base_betas[name.block]
            alpha = base_alpha if alpha_rule is None else rules[alpha_rule].alpha
            beta = base_beta if beta_rule is None else rules[beta_rule].beta
            more, more_rules = further.of(index)
            use = uses.get((alpha, beta, more))
            if use is None:
                use = uses[alpha, beta, more] = self._use(alpha, beta, more)
            inputs = self._unmerged_input(name) if note else self._inputs(index, use)
            info = self.infos[name.key]
            added, ruled = loras.get(index, ()), lora_rules.get(index, ())
            after = (added, ruled, more, more_rules, adjusted.get(name.key))
            ratios = (alpha, beta, alpha_rule, beta_rule, base_alpha, base_beta)
            plans.append(TensorPlan(name, info, *ratios, inputs, note, *after))
        self._refuse_what_does_not_fit(recipe, plans)
        return tuple(plans)

    def _refuse_what_does_not_fit(self, recipe: MergeRecipe, plans: Sequence[TensorPlan]) -> None:
        """Refuse a merge that takes something from a model that does not fit there."""
        for role, why in self._unfit.items():
            if not recipe.force and _takes_unet(plans, role):
                raise MergeError(
                    f"Models A and {role.name} do not fit together: {why}.\n"
                    '--force merges what has a partner all the same ("Merge although models do not fit" in the tab).'
                )
        if not self._misfits:
            return
        wrong = [
            misfit
            for plan in plans
            for misfit in self._misfits.get(self._places[plan.name.key], ())
            if misfit.role in plan.inputs
        ]
        if wrong:
            keeps_a = recipe.mode.coefficients(0.0, 0.0, recipe.more_ratios) == A
            zero = ("0:0" if recipe.mode.uses_beta else "0") if keeps_a else ""
            raise MergeError(describe_misfits(wrong, vae_taken_from=VAE_ROLES.get(recipe.vae), zero=zero))

    def _find_misfits(self) -> dict[int, list[Misfit]]:
        """Find the tensors that a model has in another shape, whether or not a recipe takes something from them."""
        misfits: dict[int, list[Misfit]] = {}
        for index, (name, note) in enumerate(zip(self.names, self._notes, strict=True)):
            result = self.infos[name.key].shape
            unmerged = [(role, self._models[role]) for role in self._unmerged_input(name)] if note else None
            for role, infos in self._merged if unmerged is None else unmerged:
                shape = infos[name.key].shape
                if shape != result and not can_merge_shapes(name.key, result, shape):
                    misfits.setdefault(index, []).append(Misfit(name, result, role, shape))
        return misfits

    def _kept_because(self, note: str) -> list[str]:
        """List the tensors that are not merged for a reason."""
        return [name.key for name, why in zip(self.names, self._notes, strict=True) if why == note]

    def _find_unfit(self) -> dict[Role, str]:
        """Find the models whose U-Net does not belong to A's, and say why."""
        infos_a = self._models[Role.A]
        whys = {role: why_unet_is_unfit(infos_a, self._models[role], role) for role in self._merged_roles[1:]}
        return {role: why for role, why in whys.items() if why}

    def _compare_parts(self) -> list[Partners]:
        """Find the parts of which something has no partner, other than those that the recipe takes whole."""
        infos_a = self._models[Role.A]
        return [
            partners
            for role in self._merged_roles[1:]
            for partners in compare_parts(infos_a, self._models[role], role)
            if (partners.alone or partners.left_out)
            and not (partners.part == VAE and not self._recipe.merges_vae)
            and not (partners.part == U_NET and role in self._unfit)
        ]

    def _warn_of_no_change(self, tensors: Sequence[TensorPlan]) -> Iterator[SpecWarning]:
        if not any(tensor.changed for tensor in tensors):
            yield NOTHING_CHANGES if self.infos == self._models[Role.A] else NOTHING_MERGED

    def _warn_of_fit(self, tensors: Sequence[TensorPlan]) -> Iterator[SpecWarning]:
        for role, why in self._unfit.items():
            if _takes_unet(tensors, role):
                yield SpecWarning(f"A and {role.name} do not fit together: {why}; the rest is merged.")
        for partners in self._partners:
            ratios = {_ratios_of(tensors[self._places[key]]) for key in partners.alone}
            if any(partners.role in self._use(*each).roles for each in ratios):
                yield SpecWarning(partners.alone_text)
            taken = any(partners.role in tensors[self._places[key]].inputs for key in partners.own)
            if taken and partners.left_out_text:
                yield SpecWarning(partners.left_out_text)
        used = self._roles_used(tensors)
        for role, texts in self._unknown_names.items():
            if role in used:
                yield from map(SpecWarning, texts)
        yield from self._no_floats

    def _roles_used(self, tensors: Sequence[TensorPlan]) -> set[Role]:
        """Give the models that a recipe takes something from, or would take if it could be merged."""
        ratios = set(map(_ratios_of, tensors))
        return {role for each in ratios for role in self._use(*each).roles}.union(*(t.inputs for t in tensors))

    def _why_not_merged(self, name: KeyName) -> str:
        if name.component is Component.VAE and self._recipe.vae is not VaeChoice.MERGED:
            return f"VAE taken from {VAE_ROLES[self._recipe.vae].spoken}"
        if name.component is Component.VAE and not self._recipe.merges_vae:
            return f"the VAE, which {self._recipe.mode.value} keeps from A"
        if name.key.endswith("position_ids"):
            return "an index, kept from A"
        if name.component is Component.OTHER and not name.key.startswith((UNET_PREFIX, EMA_PREFIX)):
            return "no weight (noise schedule, marker), kept from A"
        for role, infos in self._merged:
            if (info := infos.get(name.key)) is None:
                return f"not in {role.name}, kept from A"
            if not info.is_float:
                return _no_float(role)
        return ""

    def _unmerged_input(self, name: KeyName) -> tuple[Role, ...]:
        """Give the model that a tensor is copied from if it is not merged."""
        return (VAE_ROLES.get(self._recipe.vae, Role.A) if name.component is Component.VAE else Role.A,)

    def _use(self, alpha: float, beta: float | None, more: MoreRatios) -> _Use:
        """Tell what the formula needs with these ratios."""
        coefficients = self._recipe.mode.coefficients(alpha, beta or 0.0, more)
        looked_at = formula_roles(self._recipe.mode, more)
        if coefficients is None:
            return _Use(looked_at, looked_at, None)
        pairs = zip(MODEL_ROLES, coefficients, strict=False)
        used = {role: coefficient for role, coefficient in pairs if coefficient}
        return _Use(tuple(used), looked_at, next(iter(used)) if list(used.values()) == [1.0] else None)

    def _inputs(self, index: int, use: _Use) -> tuple[Role, ...]:
        if use.whole is Role.A:
            return (use.whole,)
        if index in self._misfits:  # what the formula does not need can have any shape
            return use.roles if self._recipe.more or self._fits(index, use.roles) else use.looked_at
        key = self.names[index].key
        # a first convolution of fewer channels cannot replace A's
        if use.whole and has_same_numbers(self._models[use.whole][key].shape, self._models[Role.A][key].shape):
            return (use.whole,)
        return self._with_a(key, use.roles) if self._recipe.more else use.looked_at

    def _with_a(self, key: str, roles: tuple[Role, ...]) -> tuple[Role, ...]:
        """Give models and, where one of them lacks channels that the result has, A."""
        result = self._models[Role.A][key].shape
        alike = all(has_same_numbers(self._models[role][key].shape, result) for role in roles)
        return roles if alike or Role.A in roles else (Role.A, *roles)

    def _fits(self, index: int, roles: Sequence[Role]) -> bool:
        return not any(misfit.role in roles for misfit in self._misfits[index])


class _Use(NamedTuple):
    """What a formula takes with certain ratios.

    Attributes:
        roles: The models that it needs.
        looked_at: Those that it has, with C also where its coefficient is 0.
        whole: The only one, if its numbers stay as they are.
    """

    roles: tuple[Role, ...]
    looked_at: tuple[Role, ...]
    whole: Role | None


def _ratios_of(tensor: TensorPlan) -> tuple[float, float | None, MoreRatios]:
    return tensor.alpha, tensor.beta, tensor.more


def _no_float(role: Role) -> str:
    return f"not a float tensor in {role.name}, kept from A"


def _adjustments(recipe: MergeRecipe, architecture: Architecture, infos: Infos) -> dict[str, Adjustment]:
    """Give what is adjusted of a result, by key.

    Raises:
        MergeError: Model A lacks such a tensor, or has one of another size.
    """
    found = adjustments_of(recipe.adjust, architecture) if recipe.adjust is not None else {}
    for key, adjustment in found.items():
        info = infos.get(key)
        size = len(adjustment.shift)
        if info is None or not info.is_float or (size and info.numel != size):
            wanted = f"{shown_key(key)} of {size} numbers" if size else shown_key(key)
            raise MergeError(f"--adjust: {names_for(key)} changes {wanted}, which model A lacks; set it to 0.")
    return found


def _takes_unet(tensors: Sequence[TensorPlan], role: Role) -> bool:
    return any(role in tensor.inputs for tensor in tensors if tensor.name.component is Component.UNET)


def _warn_of_result(recipe: MergeRecipe, tensors: Sequence[TensorPlan], files: FileFacts) -> Iterator[SpecWarning]:
    named = [source.recipe or source.path for source in recipe.sources.values()]
    if (len(set(named)) < len(named) or files.same) and recipe.mode.uses_b and not is_baked(recipe, tensors):
        yield SpecWarning("The same file is given for two of the models.")
    if not recipe.merges_vae:
        yield from _warn_of_vae_rules(recipe, tensors)


def _warn_of_vae_rules(recipe: MergeRecipe, tensors: Sequence[TensorPlan]) -> Iterator[SpecWarning]:
    why = recipe.mode.value if recipe.vae is VaeChoice.MERGED else f"vae: {recipe.vae.value}"
    unmerged = (tensor for tensor in tensors if tensor.name.component is Component.VAE and tensor.note)
    for rule in sorted({tensor.rule for tensor in unmerged if tensor.rule is not None}):
        yield SpecWarning(
            f'Rule {rule + 1} "{recipe.rules.rules[rule]}" sets elements of the VAE, which is not merged ({why}).',
            rule,
        )
