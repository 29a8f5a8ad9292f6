"""What varies in a search if nobody says so: groups of elements of the effect map, which is estimated if need be."""

from __future__ import annotations

from ..errors import HostError
from ..images.image_request import ImageRequest
from ..recipe.recipe import MergeRecipe
from ..runs.effect_estimate import EffectOrder
from ..searches.effect_groups import groups_of
from ..workflows import plan_merge
from .effect_jobs import PASSES, find_effects
from .found_effects import FoundEffects
from .jobs import Job
from .noted_view import NotedView
from .session import Session


def groups_that_vary(session: Session, recipe: MergeRecipe, request: ImageRequest, job: Job) -> tuple[str, ...]:
    """Give groups of elements as texts of what varies.

    Args:
        session: The session of the page.
        recipe: The merge that the search begins from.
        request: The image whose effects are estimated if no map is there for this merge.
        job: Shows the progress, and whether to stop.

    Raises:
        ElementalError: The effects cannot be estimated, or there are none.
    """
    known: FoundEffects | None = session.effects
    plan = plan_merge(recipe, locator=session.locator)
    if known is None or known.find(plan) is None:
        known = _estimate(session, EffectOrder(recipe, (request,), PASSES), job)
    return tuple(groups_of(known.ranking, by="groups"))


def _estimate(session: Session, order: EffectOrder, job: Job) -> FoundEffects:
    view = NotedView(job, ["No effect map is there for this merge yet: it is estimated first."])
    try:
        found = find_effects(session, order, view)
    except HostError as exc:
        raise HostError(f"{exc}\nThe effect map would say what varies; write it into the field yourself.") from exc
    session.effects = found
    session.previewer.paint("effect", found.find)
    return found
