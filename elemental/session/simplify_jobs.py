"""The button Simplify as a job: finds the shortest spec whose image is like a merge's, as a form to take over."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ElementalError, ImageError, MergeError
from ..hosts.base import HostSettings
from ..images.files import free_names, make_folder, write_png
from ..images.image_request import GeneratedImage, ImageRequest
from ..runs.differentiated_merge import single_images
from ..runs.effect_estimate import refuse_same_file
from ..runs.simplify import Simplified, SimplifyOrder, refuse_further, simplify
from ..runs.simplify_results import spec_of, write_simplified
from ..workflows import plan_merge
from .form import KEEP, MergeForm, shown_path
from .job_texts import count_images, describe_order, format_duration, not_put_back
from .jobs import Job
from .noted_view import NotedView
from .run_plans import batch_notes
from .session import Session

if TYPE_CHECKING:
    pass

TOLERANCE = 10.0
"""In percent of the difference between A's image and the merge's."""
_IMAGES = 10
"""About as many are made."""
_FOLDER = "simplified"


def simplify_form(
    session: Session,
    form: MergeForm,
    request: ImageRequest,
    tolerance: float | None = TOLERANCE,
    settings: HostSettings | None = None,
    *,
    leave_out: bool = False,
) -> Job:
    """Find the shortest spec whose image is within a tolerance of the merge's; the result is a form to take over.

    Args:
        session: The session of the page.
        form: The merge.
        request: The image; of a batch, the first.
        tolerance: In percent of the difference between A's image and the merge's.
        settings: What else the host's own page says of the image.
        leave_out: Whether to find the opposite: rules that leave out what makes the difference.

    Raises:
        ElementalError: The form is not a valid recipe, or changes nothing; the tolerance is not valid; or too many
            jobs are waiting.
    """
    share = _read_tolerance(tolerance)
    recipe = session.recipe(replace(form, dtype=KEEP))  # a number format is one of files
    refuse_further(recipe)
    refuse_same_file(recipe, session.locator)
    if session.previewer.changes_nothing(replace(form, dtype=KEEP)):
        raise MergeError("There is nothing to simplify: with this form the merge is model A.")
    order = SimplifyOrder(recipe, single_images((request,), session.host), share, leave_out=leave_out)

    def work(job: Job) -> None:
        view = NotedView(job, batch_notes(request, "One image is used"))
        with session.host_job(job, "simplify", _IMAGES, settings):
            found = _simplify(session, order, job, view)
        taken = form_of(session, form, order, found.result)
        view.show(found.text, products=(found.grid,), table=draw_spec(spec_of(order, found.result)), form=taken)
        session.remember("simplify", recipe, found.text, form)
        session.remember("simplified", found.result.recipe, found.text, taken)

    words = describe_order(recipe, request, "what to leave out" if leave_out else "")
    return session.board.start("Simplify", work, words=words, inputs=(form, request, share, leave_out))


def _read_tolerance(percent: float | None) -> float:
    """Read the tolerance as a share.

    Raises:
        ImageError: It is blank, or not between 0 and 100.
    """
    if percent is None or not 0 < percent < 100:
        shown = "is blank" if percent is None else f"is {percent:g} %"
        raise ImageError(f"Tolerance {shown}; enter a percentage above 0 and below 100.")
    return percent / 100


@dataclass(frozen=True)
class _Found:
    """What was found, in words and in a file."""

    result: Simplified
    text: str
    grid: Path


def _simplify(session: Session, order: SimplifyOrder, job: Job, view: NotedView) -> _Found:
    """Simplify while the user's merge is out of the model, and write the files."""
    found: _Found | None = None
    started = time.perf_counter()
    view.show("planning ...")
    folder = session.host.output_folder() / _FOLDER
    try:
        with session.model.suspended():
            plan = plan_merge(order.recipe, locator=session.locator)
            show = _shower(job, folder / "images")
            watcher = replace(view.watcher(session, "simplifying"), on_image=show)
            result = simplify(session.host, order, watcher=watcher, locator=session.locator)
            grid, _ = write_simplified(folder, order, result)
            seconds = format_duration(time.perf_counter() - started)
            made = f"{count_images(result.generated)} in {seconds}. Folder: {shown_path(folder)}"
            found = _Found(result, f"{describe(order, result, plan.changes)}\n{made}", grid)
    except ElementalError as exc:
        if found is None:
            raise
        raise not_put_back(found.text, exc) from exc
    return found


def _shower(job: Job, folder: Path) -> Callable[[GeneratedImage, str], None]:
    """Give what writes each image that is made, and shows it."""

    def show(image: GeneratedImage, label: str) -> None:
        make_folder(folder)
        (path,) = free_names(folder, [image.seed])
        write_png(path, image)
        job.show(images=(*job.view.images, (path, label)))

    return show


def describe(order: SimplifyOrder, result: Simplified, changes: int) -> str:
    """Say how much a simplified merge moves, and how near its image is.

    Args:
        order: What was asked for.
        result: What was found.
        changes: How many elements the merge changes.
    """
    rules = len(spec_of(order, result).splitlines())
    count = f"{result.elements:,} of {changes:,} elements"
    in_rules = f"{rules:,} rule{'s' * (rules != 1)}"
    share = f"{100 * result.distance / result.full_distance:.1f} %"
    if order.leave_out:
        what, near, far = f"{count} left out, in {in_rules}", "A's", "the merge's"
    else:
        what, near, far = f"{count} in {in_rules}", "the merge's", "A's"
    return (
        f"{what}; the image differs from {near} by {share} of what {far} does "
        f"(mean {result.distance:.2f} of 255, {far} {result.full_distance:.2f})."
    )


def form_of(session: Session, form: MergeForm, order: SimplifyOrder, result: Simplified) -> MergeForm:
    """Give the form of a simplified merge.

    Args:
        session: The session of the page.
        form: The form that was simplified; what is not of ratios stays, and so does its text where rules are added.
        order: What was asked for.
        result: What was found.
    """
    found = session.form_of(result.recipe)
    if order.leave_out:
        return replace(form, spec="\n".join(filter(None, [form.spec.rstrip(), spec_of(order, result)])))
    taken = replace(form, alpha=found.alpha, blocks=found.blocks, spec=found.spec)
    return replace(taken, beta=found.beta, blocks_beta=found.blocks_beta) if form.merge_mode.uses_beta else taken


def draw_spec(spec: str) -> str:
    """Draw a spec with a button that puts it into the form."""
    return (
        f'<div class="elemental-found"><pre>{escape(spec)}</pre><button type="button" data-take '
        'title="Fill in the Merge panel with this merge">Put into the form</button></div>'
    )
