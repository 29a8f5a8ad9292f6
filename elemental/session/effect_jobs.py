"""The button Effect map as a job: estimates effects, and paints the element map by them."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import replace
from html import escape
from pathlib import Path

from ..errors import ElementalError, ImageError, Stopped
from ..hosts.base import HostSettings
from ..images.effect_scale import UNIT, format_effect, format_share
from ..images.image_request import ImageRequest
from ..runs.differentiated_merge import single_images
from ..runs.effect_estimate import EffectOrder, Effects, estimate_effects
from ..runs.effect_ranking import Effect, EffectRanking, rank_effects
from ..runs.effect_results import describe_passes
from ..workflows import plan_merge
from .form import KEEP, MergeForm, shown_path
from .found_effects import FoundEffects, found_effects, models_of
from .job_texts import describe_order, format_duration, not_put_back
from .jobs import Job
from .noted_view import NotedView
from .run_plans import batch_notes
from .session import Session

PASSES, MOST_PASSES = 16, 1000
_ROWS = 20
_IMAGES = 2
"""One that is differentiated, and one that the unit is measured by."""


def estimate(
    session: Session,
    form: MergeForm,
    request: ImageRequest,
    passes: float | None = PASSES,
    settings: HostSettings | None = None,
) -> Job:
    """Estimate the effects of all elements on an image, and show them on the element map.

    Args:
        session: The session of the page.
        form: The merge on top of which the effects are estimated.
        request: The image; of a batch, the first.
        passes: Backward passes in all, those that are kept from before included.
        settings: What else the host's own page says of the image.

    Raises:
        ElementalError: The form is not a valid recipe, the number of passes is not valid, or too many jobs are
            waiting.
    """
    count = _read_passes(passes)
    recipe = session.recipe(replace(form, dtype=KEEP))  # a number format is one of files
    order = EffectOrder(recipe, single_images((request,), session.host), count)

    def work(job: Job) -> None:
        view = NotedView(job, batch_notes(request, "One image is used"))
        try:
            with session.host_job(job, "effects", _IMAGES, settings):
                found = find_effects(session, order, view)
        except Stopped as exc:
            raise Stopped(_show_kept(session, order, view, str(exc))) from exc
        session.effects = found
        session.previewer.paint("effect", found.find)
        session.remember("effects", recipe, job.view.text, form)

    words = describe_order(recipe, request, f"{count:,} passes")
    return session.board.start("Effect map", work, words=words, inputs=(form, request, count))


def _read_passes(passes: float | None) -> int:
    """Read the number of passes.

    Raises:
        ImageError: It is blank, or no whole number from 1 to the most.
    """
    if passes is None or passes != int(passes) or not 1 <= passes <= MOST_PASSES:
        shown = "is blank" if passes is None else f"is {passes:g}"
        raise ImageError(f"Passes {shown}; enter a whole number from 1 to {MOST_PASSES:,}.")
    return int(passes)


def find_effects(session: Session, order: EffectOrder, view: NotedView) -> FoundEffects:
    """Estimate while the user's merge is out of the model, and show the result.

    Args:
        session: Of the job that holds the host.
        order: What is estimated.
        view: Shows it.

    Raises:
        ElementalError: It cannot be estimated.
        Stopped: The user stopped the job.
    """
    done = ""
    started = time.perf_counter()
    view.show("planning ...")
    try:
        with session.model.suspended():
            plan, models = plan_merge(order.recipe, locator=session.locator), models_of(order.recipe)
            effects = estimate_effects(
                session.host,
                order,
                folder=_folder(session),
                watcher=view.watcher(session, "estimating effects"),
                locator=session.locator,
            )
            ranking = rank_effects(effects.samples, [tensor.name for tensor in plan.tensors])
            done = _describe(effects, time.perf_counter() - started)
    except ElementalError as exc:
        if not done:
            raise
        raise not_put_back(done, exc) from exc
    view.show(done, table=draw_ranking(ranking))
    return found_effects(order, ranking, plan, models)


def _folder(session: Session) -> Path:
    """Give the folder in which passes are kept."""
    return session.host.output_folder() / "effects"


def _show_kept(session: Session, order: EffectOrder, view: NotedView, stopped: str) -> str:
    """Show the effects of the passes that are kept after a stop, if there are any, and give the text of the result."""
    from ..effects.samples_file import file_of, read_samples

    with suppress(ElementalError):  # there are none, or a model was deleted a moment ago
        samples, _ = read_samples(file_of(_folder(session), order.origin(session.locator)))
        plan = plan_merge(order.recipe, locator=session.locator)
        ranking = rank_effects(samples, [tensor.name for tensor in plan.tensors])
        if ranking.whole and samples.slopes:  # without these they would have no unit
            session.previewer.paint("effect", found_effects(order, ranking, plan, models_of(order.recipe)).find)
            view.show(stopped, table=draw_ranking(ranking))
            return f"{stopped}\nThe element map is painted by the passes that are kept."
    return stopped


def _describe(effects: Effects, seconds: float) -> str:
    """Say what was made, and where it is kept."""
    text = f"{describe_passes(effects)} in {format_duration(seconds)}."
    folder = f" Folder: {shown_path(effects.file.parent)}" if effects.file is not None else ""
    return f"{text} The element map shows the effects.{folder}"


def draw_ranking(ranking: EffectRanking) -> str:
    """Draw the first groups of elements as an HTML table."""
    first = ranking.groups[:_ROWS]
    together = ranking.shares_together(first)
    rows = [
        _draw_row(rank, effect, share, first[0].effect)
        for rank, (effect, share) in enumerate(zip(first, together, strict=True), 1)
    ]
    head = "".join(f"<th>{name}</th>" for name in ("", "elements", "effect", "share", "together"))
    caption = f"The first {len(first)} of {len(ranking.groups):,} groups of elements. Effect: {UNIT}."
    return (
        f'<table class="elemental-ranking estimate"><caption>{escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )


def _draw_row(rank: int, effect: Effect, together: float, full: float) -> str:
    """Draw an effect; its bar is as long as its part of the largest one, ``full``."""
    bar = f'<td class="bar" style="--v:{100 * effect.effect / (full or 1.0):.0f}%">{format_effect(effect.effect)}</td>'
    return (
        f"<tr><td>{rank}</td><td>{escape(effect.ranked().name)}</td>{bar}"
        f"<td>{format_share(effect.share)}</td><td>{format_share(together)}</td></tr>"
    )
