"""The buttons of the merge panel as jobs: Merge, Generate, Save, Restore."""

from __future__ import annotations

import time
from collections.abc import Sequence
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
from .job_texts import count_images, describe_order, format_duration, name_in_one_line
from .jobs import Job
from .merged_model import LiveState
from .run_times import note_images
from .save_names import suggest_name
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
        ElementalError: The form is not a valid recipe, or too many jobs are waiting.
    """
    recipe = session.recipe(form)

    def work(job: Job) -> None:
        with session.host_job(job, "merge", request.batch if request else 0, settings):
            text = _merge(session, job, recipe, print_change=print_change)
            text += f" {_NOTHING_CHANGED}" if session.previewer.changes_nothing(replace(form, dtype=KEEP)) else ""
            session.live_form = form
            try:
                made = [] if request is None else _make_images(session, job, request)
                text += f" {_count_made(session, made)}" if made else ""
            except ElementalError as exc:
                session.remember("merge", recipe, text, form)
                raise type(exc)(f"{text}\nNo image: {exc or 'stopped'}") from exc
        job.show(text=text)
        kind, extra = ("generate", request.to_dict()) if request else ("merge", {})
        session.remember(kind, recipe, text, form, extra, image=next(iter(made), None))

    name, words = "Merge and generate" if request else "Merge", describe_order(recipe, request)
    return session.board.start(name, work, words=words, inputs=(form, request, print_change))


def generate(session: Session, form: MergeForm, request: ImageRequest, settings: HostSettings | None = None) -> Job:
    """Make images of what is in the live model when the job begins, or of model A if no model is loaded.

    Args:
        session: The session of the page.
        form: Names model A; if the form has changed since the merge, the result says so.
        request: The images.
        settings: What else the host's own page says of the images.

    Raises:
        ElementalError: Too many jobs are waiting, or model A does not exist.
    """
    model_a = _model_if_none_is_loaded(session, form.model_a.strip())

    def work(job: Job) -> None:
        with session.host_job(job, "generate", request.batch, settings):
            made = _make_images(session, job, request, fallback=model_a)
        text = _count_made(session, made)
        live = session.model.live()
        if live.recipe is None:
            job.show(text=f"{text} Model: {live.checkpoint.path.name}." if live.checkpoint else text)
            return
        text = f"{text} They show {_describe_merge(session, form)}."
        job.show(text=text)
        session.remember("generate", live.recipe, text, session.live_form, request.to_dict(), image=made[0])

    words = describe_order(None, request, "what is in the live model then")
    return session.board.start("Generate", work, words=words, inputs=(form, request))


def _model_if_none_is_loaded(session: Session, title: str) -> ModelSource | None:
    """Find model A; None if it does not exist, which only matters if no model is loaded.

    Raises:
        ElementalError: It does not exist, no model is loaded, and no job runs that could load one.
    """
    try:
        return session.find_model(title) if title else None
    except ElementalError:
        if not session.board.busy and session.model.live().kind is LiveState.NOTHING:
            raise
        return None


def save(session: Session, form: MergeForm, name: str, *, overwrite: bool) -> Job:
    """Save the merge that is in the live model when the job begins, or that of the form if there is none.

    It is made from the models' files.

    Args:
        session: The session of the page.
        form: The merge if none is in the live model; the number format of the file in any case.
        name: The name of the file in the folder of models, with or without ``.safetensors``; empty for the one that
            :func:`suggest_save` gives.
        overwrite: Whether to replace an existing file.

    Raises:
        ElementalError: The name or the form is not valid, or too many jobs are waiting.
    """
    own, dtype = _recipe_to_save(session, form), form.save_dtype
    folder = session.host.models_folder()
    named = safe_file_name(name, folder) if name.strip() else None

    def work(job: Job) -> None:
        live = _live_recipe(session)
        recipe = replace(live, dtype=dtype) if live else own or session.recipe(form)
        source_form = session.live_form if live else form
        what = _describe_merge(session, form) if live else "the merge of the form"
        target = named or safe_file_name(suggest_name(recipe, folder, blocks=source_form.blocks), folder)
        if is_file(target) and not overwrite:
            raise MergeError(f"{target.name} exists; choose another name, or tick Overwrite.")

        def refuse_changed(_plan: MergePlan | None = None) -> None:
            if live:
                session.model.refuse_changed()

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

    words = f"the merge in the live model then; without one, {name_in_one_line(own)}" if own else ""
    return session.board.start(f"Save {named.name}" if named else "Save", work, words=words, inputs=(form, overwrite))


def _recipe_to_save(session: Session, form: MergeForm) -> MergeRecipe | None:
    """Give the recipe of a form; None if it has none, which only matters if no merge is in the live model.

    Raises:
        ElementalError: It has none, and there is none in the live model, and no job that could change that.
    """
    try:
        return session.recipe(form)
    except ElementalError:
        if not session.board.busy and _live_recipe(session) is None:
            raise
        return None


def _live_recipe(session: Session) -> MergeRecipe | None:
    live = session.model.live()
    return live.recipe if live.kind is LiveState.ACTIVE else None


def suggest_save(session: Session, form: MergeForm, recipe: MergeRecipe | None) -> str:
    """Suggest a name for what :func:`save` would save; empty if it could not.

    Args:
        session: The session of the page.
        form: The form.
        recipe: Its merge; None if it asks for none.
    """
    live_recipe = _live_recipe(session)
    saved, source_form = (recipe, form) if live_recipe is None else (live_recipe, session.live_form)
    return "" if saved is None else suggest_name(saved, session.host.models_folder(), blocks=source_form.blocks)


def restore(session: Session) -> Job:
    """Take the merge out of the live model, after the jobs that were asked for before.

    Raises:
        HostError: Too many jobs are waiting.
    """

    def work(job: Job) -> None:
        with session.host_job(job, "restore", 0):
            remark = session.model.restore()
        loaded = session.host.loaded()
        job.show(text=remark or (f"Model {loaded.path.name} restored." if loaded else "No model is loaded."))

    return session.board.start("Restore", work, inputs="restore")


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


def _make_images(
    session: Session, job: Job, request: ImageRequest, *, fallback: ModelSource | None = None
) -> list[Path]:
    """Make, save and show images, and give their files."""
    job.show(text="generating ...", done=0.0, steps=True)
    started = time.perf_counter()
    images = session.model.images(request, fallback=fallback, controls=session.controls())
    if fallback is None:  # without the time of loading a model
        note_images(session, request, time.perf_counter() - started)
    folder = session.images_folder
    paths = [_save_image(folder, image) for image in images]
    name = _name_model(session)
    job.show(images=tuple((path, f"{name}; seed {image.seed}") for path, image in zip(paths, images, strict=True)))
    return paths


def _count_made(session: Session, paths: Sequence[Path]) -> str:
    return f"{count_images(len(paths))} in {shown_path(session.images_folder)}."


def _name_model(session: Session) -> str:
    """Name the merge in the live model, or else its checkpoint, in one line."""
    live = session.model.live()
    if live.recipe is None:
        return live.checkpoint.path.stem if live.checkpoint else ""
    return name_in_one_line(live.recipe)


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
