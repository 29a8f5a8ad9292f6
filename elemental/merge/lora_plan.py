"""How much of each LoRA a recipe adds to each tensor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from ..architectures.blocks import Architecture
from ..architectures.keys import Component, KeyName
from ..architectures.tensor_sets import TensorSet, members
from ..recipe.recipe import MergeRecipe
from ..recipe.rule_matching import Decision, by_ratio
from ..recipe.rules import format_ratio
from ..recipe.spec_warnings import USUAL, SpecWarning, about_rule
from ..recipe.target_checks import target_of_lora
from .files.tensor_info import TensorInfo
from .plan import LoraUse, TensorPlan

if TYPE_CHECKING:
    from ..lora.layers import LoraLayers
    from .lora_fit import LoraFit

Uses = tuple[LoraUse, ...]


class LoraPlanner:
    """Plans the LoRAs of recipes that differ in ratios and rules alone.

    Args:
        recipe: Any of these recipes.
        loras: The name of each LoRA's file, and its layers.
        names: The tensors of the result.
        infos: Their number formats and shapes, by key.
        architecture: The architecture of the models.

    Attributes:
        fits: The LoRAs beside the result.

    Raises:
        MergeError: A LoRA belongs to another kind of model.
    """

    def __init__(
        self,
        recipe: MergeRecipe,
        loras: Sequence[tuple[str, LoraLayers]],
        names: Sequence[KeyName],
        *,
        infos: Mapping[str, TensorInfo],
        architecture: Architecture,
    ) -> None:
        self.fits = _fit(loras, infos) if loras else ()
        for fit, (_, layers) in zip(self.fits, loras, strict=True):
            fit.refuse(layers, architecture, force=recipe.force)
        self._everything = (1 << len(names)) - 1
        self._changed = [0] * len(self.fits)
        self._text_encoders = 0
        for index, name in enumerate(names) if loras else ():
            self._text_encoders |= (name.component is Component.TEXT_ENCODER) << index
            for place, fit in enumerate(self.fits):
                self._changed[place] |= (name.key in fit.changes) << index

    def sets(self, recipe: MergeRecipe, decision: Decision) -> dict[Uses, TensorSet]:
        """Give the tensors of each choice of LoRAs and ratios, also those that have none.

        Args:
            recipe: The recipe.
            decision: The tensors that each of its rules sets.
        """
        sets: dict[Uses, TensorSet] = {(): self._everything}
        for place in range(len(self.fits)):
            ratios = self._by_ratio(recipe, decision, place)
            split: dict[Uses, TensorSet] = {}
            for uses, tensors in sets.items():
                rest = tensors
                for ratio, added in ratios.items():
                    if ratio and (both := tensors & added):
                        together = (*uses, LoraUse(place, ratio))
                        split[together] = both
                        rest &= ~both
                if rest or not uses:
                    split[uses] = rest
            sets = split
        return sets

    def uses(self, recipe: MergeRecipe, decision: Decision, tensors: TensorSet) -> dict[int, Uses]:
        """Give the LoRAs that are added to each tensor, by its place in the result; not to the others."""
        sets = self.sets(recipe, decision)
        return {index: uses for uses, added in sets.items() if uses for index in members(added & tensors)}

    def rules(self, recipe: MergeRecipe, decision: Decision, tensors: TensorSet) -> dict[int, tuple[int, ...]]:
        """Give the rules that set ratios of LoRAs for each tensor, by its place in the result; not for the others."""
        rules: dict[int, list[int]] = {}
        for place, changed in enumerate(self._changed):
            for rule, ruled in _ruled(recipe, decision, place).items():
                for index in members(ruled & changed & tensors):
                    rules.setdefault(index, []).append(rule)
        return {index: tuple(sorted(found)) for index, found in rules.items()}

    def warnings(self, recipe: MergeRecipe, decision: Decision) -> Iterator[SpecWarning]:
        """Warn of what has no place, of rules without effect, and of ratios that were probably not meant."""
        yield from (SpecWarning(fit.warning) for fit in self.fits if fit.warning)
        for place, lora in enumerate(recipe.loras):
            for ratio in dict.fromkeys((lora.ratio, lora.in_text_encoders)):
                if not USUAL[0] <= ratio <= USUAL[1]:
                    usual = f"{USUAL[0]:g} to {USUAL[1]:g}"
                    yield SpecWarning(f"LoRA {lora.file.name}: {format_ratio(ratio)} is outside {usual}.")
            if not any(ratio and added for ratio, added in self._by_ratio(recipe, decision, place).items()):
                ruled = _ruled(recipe, decision, place)
                why = ": rules set its ratio to 0" if ruled and lora.ratio else ", since its ratio is 0"
                yield SpecWarning(f"LoRA {lora.file.name}: nothing of it is added{why}.")
        yield from self._rules_without_effect(recipe, decision)

    def _rules_without_effect(self, recipe: MergeRecipe, decision: Decision) -> Iterator[SpecWarning]:
        for place, lora in enumerate(recipe.loras):
            changed = self._changed[place]
            for rule, ruled in _ruled(recipe, decision, place).items():
                matched = decision.matched[rule]
                if matched and not matched & changed:
                    yield about_rule(recipe.rules, rule, f"the LoRA {lora.file.name} changes none of these tensors")
                elif ruled and not ruled & changed:
                    message = f"later rules override it wherever the LoRA {lora.file.name} changes something"
                    yield about_rule(recipe.rules, rule, message)

    def _by_ratio(self, recipe: MergeRecipe, decision: Decision, place: int) -> dict[float, TensorSet]:
        """Give the tensors that a LoRA changes by the ratio that it has there; some sets may be empty."""
        lora = recipe.loras[place]
        ruled = ((recipe.rules.rules[rule].alpha, own) for rule, own in _ruled(recipe, decision, place).items())
        base = (lora.in_text_encoders, self._text_encoders), (lora.ratio, ~self._text_encoders)
        return by_ratio(ruled, base, self._changed[place])


def _ruled(recipe: MergeRecipe, decision: Decision, place: int) -> Mapping[int, TensorSet]:
    """Give the tensors for which each rule sets a LoRA's ratio, whether or not the LoRA changes them."""
    return decision.targets.get(target_of_lora(recipe.loras[place]), {})


def _fit(loras: Sequence[tuple[str, LoraLayers]], infos: Mapping[str, TensorInfo]) -> tuple[LoraFit, ...]:
    """Put LoRAs beside the result."""
    from ..lora.keys import find_places  # most merges have no LoRA, and need none of this
    from .lora_fit import fit_lora

    places = find_places(infos)
    return tuple(fit_lora(name, layers, infos, places) for name, layers in loras)


def is_baked(recipe: MergeRecipe, tensors: Sequence[TensorPlan]) -> bool:
    """Tell whether LoRAs are added to model A, or it is adjusted, and nothing else is merged."""
    return bool(recipe.loras or recipe.adjust) and all(len(tensor.inputs) == 1 for tensor in tensors)
