"""The buttons of the merge panel as jobs: Merge, Generate, Save, Restore."""

from __future__ import annotations

import time
from dataclasses import replace
from html import escape
from pathlib import Path

from ..errors import ElementalError, ImageError, MergeError
from ..hosts.base import HostSettings
from ..images.files import free_names, write_png
from ..images.image_request import GeneratedImage, ImageRequest
from ..merge.merge_to_file import MergeResult, merge_to_file
from ..merge.plan import MergePlan
from ..merge.plan_summary import describe_changes, format_size
from ..recipe.recipe import MergeRecipe, ModelSource
from .form import KEEP, MergeForm, is_file, safe_file_name, shown_path
from .job_texts import count_images, format_duration
from .jobs import Job
from .merged_model import LiveState
from .session import Session

_NOTHING_CHANGED = "Nothing has changed: with this form the merge is model A."


def merge(
    session: Session,
    form: MergeForm,
    request: ImageRequest | None,
    *,
    print_change: bool,
    settings: HostSettings | None = None,
) -> Job:
    """Merge into the live model, and make images of the merge if a request is given.

    Args:
        session: The session of the page.
        form: The merge.
        request: The images; None for none.
        print_change: Whether to list every changed tensor on the console and on the page.
        settings: What else the host's own page says of the images.

    Raises:
        ElementalError: The form is not a valid recipe, or a job is running.
    """
    recipe = session.recipe(form)

    def work(job: Job) -> None:
        with session.host_job(job, "merge", request.batch if request else 0, settings):
            text = _merge(session, job, recipe, print_change=print_change)
            text += f" {_NOTHING_CHANGED}" if session.previewer.changes_nothing(replace(form, dtype=KEEP)) else ""
            session.live_form = form
            try:
                text += f" {_make_images(session, job, request)}" if request is not None else ""
            except ElementalError as exc:
                session.remember("merge", recipe, text, form)
                raise type(exc)(f"{text}\nNo image: {exc or 'stopped'}") from exc
        job.show(text=text)
        session.remember("generate" if request else "merge", recipe, text, form)

    return session.board.start("Merge and generate" if request else "Merge", work)


def generate(session: Session, form: MergeForm, request: ImageRequest, settings: HostSettings | None = None) -> Job:
    """Make images of what is in the live model, or of model A if no model is loaded.

    Args:
        session: The session of the page.
        form: Names model A; if the form has changed since the merge, the result says so.
        request: The images.
        settings: What else the host's own page says of the images.

    Raises:
        ElementalError: A job is running, or model A does not exist.
    """
    title = form.model_a.strip()
    needs_model = session.model.live().kind is LiveState.NOTHING
    model_a = session.find_model(title) if title and needs_model else None

    def work(job: Job) -> None:
        with session.host_job(job, "generate", request.batch, settings):
            text = _make_images(session, job, request, fallback=model_a)
        live = session.model.live()
        if live.recipe is None:
            job.show(text=f"{text} Model: {live.checkpoint.path.name}." if live.checkpoint else text)
            return
        text = f"{text} They show {_describe_merge(session, form)}."
        job.show(text=text)
        session.remember("generate", live.recipe, text, session.live_form)

    return session.board.start("Generate", work)


def save(session: Session, form: MergeForm, name: str, *, overwrite: bool) -> Job:
    """Save the merge in the live model, or that of the form if there is none; it is made from the models' files.

    Args:
        session: The session of the page.
        form: The merge if none is in the live model; the number format of the file in any case.
        name: The name of the file in the folder of models, with or without ``.safetensors``.
        overwrite: Whether to replace an existing file.

    Raises:
        ElementalError: The name or the form is not valid, or a job is running.
    """
    live = session.model.live()
    live_recipe = live.recipe if live.kind is LiveState.ACTIVE else None
    if live_recipe is None:
        recipe, source_form, what = session.recipe(form), form, "the merge of the form"
    else:
        recipe, source_form = replace(live_recipe, dtype=form.save_dtype), session.live_form
        what = _describe_merge(session, form)
    target = safe_file_name(name, session.host.models_folder())

    def refuse_changed(_plan: MergePlan | None = None) -> None:
        if live_recipe is not None:
            session.model.refuse_changed()

    def work(job: Job) -> None:
        if is_file(target) and not overwrite:
            raise MergeError(f"{target.name} exists; choose another name, or tick Overwrite.")
        refuse_changed()
        job.show(text=f"saving {target.name} ...")
        controls = replace(session.controls(), should_stop=job.should_stop)  # the host is not needed for it
        result = merge_to_file(  # the files are compared again when they are open
            recipe, target, locator=session.locator, overwrite=overwrite, controls=controls, on_plan=refuse_changed
        )
        session.host.refresh()
        text = _describe_saved(result, what)
        job.show(text=text)
        session.remember("save", recipe, text, source_form)

    return session.board.start(f"Save {target.name}", work)


def restore(session: Session) -> Job:
    """Take the merge out of the live model.

    Raises:
        HostError: A job is running.
    """

    def work(job: Job) -> None:
        with session.host_job(job, "restore", 0):
            remark = session.model.restore()
        loaded = session.host.loaded()
        job.show(text=remark or (f"Model {loaded.path.name} restored." if loaded else "No model is loaded."))

    return session.board.start("Restore", work)


def _merge(session: Session, job: Job, recipe: MergeRecipe, *, print_change: bool) -> str:
    """Merge into the live model, and give the text of the result."""

    def show_changes(plan: MergePlan) -> None:
        job.show(details=_print_changes(plan))

    started = time.perf_counter()
    job.show(text="merging ...")
    session.model.merge(recipe, controls=session.controls(), on_plan=show_changes if print_change else None)
    text = f"Merged in {format_duration(time.perf_counter() - started)} into the live model; no file was written."
    return f"{text} {session.model.left_out}".rstrip()


def _print_changes(plan: MergePlan) -> str:
    """Print every changed tensor to the console, and give the list for the page."""
    lines = list(describe_changes(plan))
    print("\n".join(lines), flush=True)  # noqa: T201
    return f'<pre class="elemental-changes">{escape(chr(10).join(lines))}</pre>'


def _make_images(session: Session, job: Job, request: ImageRequest, *, fallback: ModelSource | None = None) -> str:
    """Make, save and show images, and give the text of the result."""
    job.show(text="generating ...", done=0.0)
    images = session.model.images(request, fallback=fallback, controls=session.controls())
    folder = session.images_folder
    paths = [_save_image(folder, image) for image in images]
    job.show(images=tuple((path, f"seed {image.seed}") for path, image in zip(paths, images, strict=True)))
    return f"{count_images(len(paths))} in {shown_path(folder)}."


def _save_image(folder: Path, image: GeneratedImage) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise ImageError(f"Cannot make the folder {folder}: {exc.strerror or exc}.") from exc
    (path,) = free_names(folder, [image.seed])
    write_png(path, image)
    return path


def _describe_merge(session: Session, form: MergeForm) -> str:
    """Name the merge in the live model, and say if the form has changed since."""
    is_same = replace(form, dtype="") == replace(session.live_form, dtype="")
    return "the merge in the live model" + ("" if is_same else ", not what the form says now")


def _describe_saved(result: MergeResult, what: str) -> str:
    size, folder = format_size(result.path.stat().st_size), shown_path(result.path.parent)
    text = f"Saved {result.path.name} ({size}) in {folder}: {what}."
    if result.plan.is_model_a:
        text += "\nIts tensors are those of model A: this merge changes nothing."
    elif not result.plan.changes:
        text += "\nIts weights are those of model A: only their number format, or the EMA weights left out, differ."
    if result.not_finite:
        text += f"\n{len(result.not_finite)} tensors of the models hold NaN or infinite numbers, so the file does too."
    return "\n".join([text, *result.notes, *result.beside])
