"""What should vary in a search, found by an estimate of effects: the blocks or groups of elements that change most."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import RecipeError
from ..hosts.base import Host
from ..images.image_request import ImageRequest
from ..merge.files.model_locator import AS_RECORDED, ModelLocator
from ..recipe.recipe import MergeRecipe
from ..runs.effect_estimate import EffectOrder, EffectWatcher, Method, estimate_effects
from ..runs.effect_ranking import Effect, EffectRanking, rank_effects
from ..workflows import plan_merge

USUAL_COUNT = 8
"""So many numbers are found by looking at some dozens of images."""
KINDS = ("blocks", "groups", "elements")
"""What can share a ratio: a whole block, alike elements of a block, or nothing."""
_PASSES = 4
"""Through whole images, in all: what ``elemental effects`` makes, for the price of about 11 images."""


def groups_of(ranking: EffectRanking, count: int = USUAL_COUNT, *, by: str = "blocks") -> list[str]:
    """Give what changes an image most as texts that :func:`.vary_texts.parse_vary` reads, the largest effect first.

    Args:
        ranking: The effects.
        count: How many; fewer if the others have no effect.
        by: One of :data:`KINDS`.

    Raises:
        RecipeError: There is no such kind, or the count is not from 1 on.
    """
    if count < 1:
        raise RecipeError(f"{count} groups cannot vary: name 1 or more, such as {USUAL_COUNT}.")
    ranked = {"blocks": ranking.blocks, "groups": ranking.groups, "elements": ranking.tensors}
    if by not in ranked:
        raise RecipeError(f'Effects have no "{by}": there are {", ".join(KINDS)}.')
    strongest = sorted(ranked[by], key=lambda effect: -effect.effect)  # those that images confirmed stand first there
    return [_text(effect, by) for effect in strongest[:count] if effect.effect]


def _text(effect: Effect, by: str) -> str:
    """Write a rule without ratio for exactly these tensors; a part of a name could be in longer names, too."""
    element = effect.name if by == "elements" else effect.element
    return f"{effect.block}:{element}".rstrip(":")


def estimate_groups(
    host: Host,
    recipe: MergeRecipe,
    requests: Sequence[ImageRequest],
    count: int = USUAL_COUNT,
    *,
    by: str = "blocks",
    watcher: EffectWatcher | None = None,
    locator: ModelLocator = AS_RECORDED,
) -> list[str]:
    """Estimate with few backward passes what changes some images most; afterwards the host has A loaded as it is.

    Args:
        host: Makes the images, and differentiates them.
        recipe: The merge; what more of alpha does on top of it is estimated.
        requests: The images; they count the same.
        count: How many texts.
        by: One of :data:`KINDS`.
        watcher: Hears of the progress.
        locator: Finds the models.

    Returns:
        As :func:`groups_of`.

    Raises:
        ElementalError: As :func:`~.effect_estimate.estimate_effects`; HostError for a host that cannot differentiate.
        Stopped: The user asked for it.
    """
    plan = plan_merge(recipe, locator=locator)
    order = EffectOrder(recipe, tuple(requests), max(_PASSES, len(requests)), Method.WHOLE)
    effects = estimate_effects(host, order, watcher=watcher, locator=locator)
    return groups_of(rank_effects(effects.samples, [tensor.name for tensor in plan.tensors]), count, by=by)
