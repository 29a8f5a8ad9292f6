"""What the buttons of the merge panel do, each as a job: the page is neither needed for it nor waited for."""

from __future__ import annotations

import time
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

from ..errors import ElementalError, ImageError, MergeError
from ..images.files import free_names, write_png
from ..images.request import GeneratedImage, ImageRequest
from ..merge.describe import describe_changes, format_size
from ..merge.plan import MergePlan
from ..workflows import merge_to_file
from .form import MergeForm, finder, is_file, safe_file_name, shown_path
from .jobs import Job
from .merged_model import LiveNow, LiveState
from .session import Session


def merge(session: Session, form: MergeForm, request: ImageRequest | None, *, print_change: bool) -> Job:
    """Merge into the live model, and make images if some are asked for.

    Args:
        session: What the page works on.
        form: What to merge, and how.
        request: The images; None for none.
        print_change: Whether to write the log of what changes, to the console and to the page.

    Raises:
        ElementalError: The form is no recipe, or a job is running.
    """
    recipe = session.recipe(form)

    def work(job: Job) -> None:
        def show_changes(plan: MergePlan) -> None:
            if print_change:
                job.show(details=_print_changes(plan))

        with session.host_job(job, "merge", request.batch if request else 0):
            started = time.perf_counter()
            job.show(text="merging ...")
            session.model.merge(recipe, controls=session.controls(), on_plan=show_changes)
            session.live_form = form
            text = f"Merged in {_duration(time.perf_counter() - started)}; it is in the live model and not saved."
            try:
                text += f" {_make_images(session, job, request)}" if request is not None else ""
            except ElementalError as exc:
                session.remember("merge", recipe, text, form)
                raise type(exc)(f"{text}\nNo image: {exc or 'stopped'}") from exc
        job.show(text=text)
        session.remember("generate" if request else "merge", recipe, text, form)

    return session.board.start("Merge and generate" if request else "Merge", work)


def generate(session: Session, form: MergeForm, request: ImageRequest) -> Job:
    """Make images of what is in the live model, or of model A if nothing is.

    Args:
        session: What the page works on.
        form: Names model A; what else it says that is not in the live model is told of.
        request: The images.

    Raises:
        ElementalError: A job is running, or model A is not there.
    """
    title = form.model_a.strip()
    otherwise = (
        finder(session.checkpoints())(title) if title and session.model.live().kind is LiveState.NOTHING else None
    )

    def work(job: Job) -> None:
        with session.host_job(job, "generate", request.batch):
            text = _make_images(session, job, request, otherwise=otherwise)
        now = session.model.live()
        drawn = _describe_drawn(session, now, form)
        text = f"{text} {drawn if now.recipe is None else f'They show {drawn}.'}"
        job.show(text=text)
        if now.recipe is not None:
            session.remember("generate", now.recipe, text, session.live_form)

    return session.board.start("Generate", work)


def save(session: Session, form: MergeForm, name: str, *, overwrite: bool) -> Job:
    """Save the merge that is in the live model, or what the form says if none is, from the models' files.

    Args:
        session: What the page works on.
        form: Decides the number format in any case.
        name: Of the file in the folder of models, with or without ``.safetensors``.
        overwrite: Whether a file of that name is replaced.

    Raises:
        ElementalError: The name or the form cannot be used, or a job is running.
    """
    now = session.model.live()
    seen = now.recipe if now.kind is LiveState.ACTIVE else None
    recipe = session.recipe(form) if seen is None else replace(seen, dtype=form.save_dtype)
    made_from = form if seen is None else session.live_form
    target = safe_file_name(name, session.host.models_folder())
    what = "what the form says" if seen is None else _describe_drawn(session, now, form)

    def work(job: Job) -> None:
        if is_file(target) and not overwrite:
            raise MergeError(f"{target.name} exists; choose another name, or tick Overwrite.")
        job.show(text=f"saving {target.name} ...")
        controls = replace(session.controls(), should_stop=job.should_stop)  # no turn of the host's is needed for it
        result = merge_to_file(recipe, target, locator=session.locator, overwrite=overwrite, controls=controls)
        session.host.refresh()
        size, folder = format_size(result.path.stat().st_size), shown_path(result.path.parent)
        text = f"Saved {result.path.name} ({size}) in {folder}: {what}."
        if result.not_finite:
            count = len(result.not_finite)
            text += f"\n{count} tensors of the models hold NaN or infinite numbers, and so does the file."
        job.show(text=text)
        session.remember("save", recipe, text, made_from)

    return session.board.start(f"Save {target.name}", work)


def restore(session: Session) -> Job:
    """Give the live model back as it was before the merge.

    Raises:
        HostError: A job is running.
    """

    def work(job: Job) -> None:
        with session.host_job(job, "restore", 0):
            session.model.restore()
        loaded = session.host.loaded()
        job.show(text=f"Model {loaded.path.name} restored." if loaded else "No model is loaded.")

    return session.board.start("Restore", work)


def _print_changes(plan: MergePlan) -> str:
    """Write the print-change log to the console, and give it for the page."""
    lines = list(describe_changes(plan))
    print("\n".join(lines), flush=True)  # noqa: T201
    return f'<pre class="elemental-changes">{escape(chr(10).join(lines))}</pre>'


def _make_images(session: Session, job: Job, request: ImageRequest, **options: Any) -> str:
    """Make and keep images, show them, and say where they are."""
    job.show(text="generating ...", done=0.0)
    images = session.model.images(request, controls=session.controls(), **options)
    paths = [_keep(session.images, image) for image in images]
    job.show(images=tuple((path, f"seed {image.seed}") for path, image in zip(paths, images, strict=True)))
    return f"{len(paths)} image{'s' * (len(paths) != 1)} in {shown_path(session.images)}."


def _keep(folder: Path, image: GeneratedImage) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise ImageError(f"Cannot make the folder {folder}: {exc.strerror or exc}.") from exc
    (path,) = free_names(folder, [image.seed])
    write_png(path, image)
    return path


def _describe_drawn(session: Session, now: LiveNow, form: MergeForm) -> str:
    """Say what is in the live model, and if the form says something else by now."""
    if now.recipe is None:
        return f"The model is {now.checkpoint.path.name}, without a merge." if now.checkpoint else ""
    same = replace(form, dtype="") == replace(session.live_form, dtype="")
    return "the live merge" if same else "the live merge, not what the form says by now"


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 0.1 else f"{1000 * seconds:.0f} ms"
