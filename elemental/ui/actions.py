"""What the buttons of the merge panel do, each as a job: the page is neither needed for it nor waited for."""

from __future__ import annotations

import time
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

from ..errors import ElementalError, ImageError
from ..images.files import free_names, write_png
from ..images.request import GeneratedImage, ImageRequest
from ..jobs import Job
from ..merge.show import describe_changes, format_size
from ..spec.recipe import MergeRecipe
from ..workflows import merge_to_file, plan_merge
from .desk import Desk
from .form import MergeForm, safe_file_name, shown_path


def merge(desk: Desk, form: MergeForm, request: ImageRequest | None, *, print_change: bool) -> Job:
    """Merge into the live model, and make pictures if some are asked for.

    Raises:
        ElementalError: The form is no recipe, or a job is running.
    """
    recipe = desk.recipe(form)

    def work(job: Job) -> None:
        with desk.host.job("elemental merge", request.batch if request else 0):
            started = time.perf_counter()
            job.show(text="merging ...")
            if print_change:
                job.show(details=_print_changes(recipe))
            desk.bench.merge(recipe, controls=desk.controls())
            seconds = time.perf_counter() - started
            took = f"{seconds:.1f} s" if seconds >= 0.1 else f"{1000 * seconds:.0f} ms"
            text = f"Merged in {took}; it is in the live model, and in no file."
            if request is not None:
                text += _make_pictures(desk, job, request)
        job.show(text=text)
        desk.remember("generate" if request else "merge", recipe, text, form)

    return desk.board.start("Merge and generate" if request else "Merge", work)


def generate(desk: Desk, form: MergeForm, request: ImageRequest) -> Job:
    """Make pictures of what is in the live model, or of model A if nothing is.

    Raises:
        ElementalError: A job is running.
    """

    def work(job: Job) -> None:
        now = desk.bench.live()
        otherwise = desk.recipe(replace(form, model_b=form.model_b or form.model_a)).model_a if form.model_a else None
        with desk.host.job("elemental generate", request.batch):
            text = _make_pictures(desk, job, request, otherwise=None if now.checkpoint else otherwise)
        job.show(text=text.strip())
        if now.recipe is not None:
            desk.remember("generate", now.recipe, text.strip(), form)

    return desk.board.start("Generate", work)


def save(desk: Desk, form: MergeForm, name: str, *, overwrite: bool) -> Job:
    """Save what is in the live model, or what the form says if no merge is, from the models' files.

    Raises:
        ElementalError: The name or the form cannot be used, or a job is running.
    """
    now = desk.bench.live()
    wanted = desk.recipe(form) if now.recipe is None else None
    recipe = wanted or replace(now.recipe or desk.recipe(form), dtype=_dtype(desk, form))
    target = safe_file_name(name, desk.host.models_folder())

    def work(job: Job) -> None:
        job.show(text=f"saving {target.name} ...")
        result = merge_to_file(
            recipe, target, models_folder=desk.host.models_folder(), overwrite=overwrite, controls=desk.controls()
        )
        desk.host.refresh()
        text = (
            f"Saved {result.path.name} ({format_size(result.path.stat().st_size)}) in {shown_path(result.path.parent)}."
        )
        if result.not_finite:
            text += (
                f"\n{len(result.not_finite)} tensors of the models hold NaN or infinite numbers, and so does the file."
            )
        job.show(text=text)
        desk.remember("save", recipe, text, form)

    return desk.board.start(f"Save {target.name}", work)


def restore(desk: Desk) -> Job:
    """Give the live model back as it was before the merge.

    Raises:
        HostError: A job is running.
    """

    def work(job: Job) -> None:
        with desk.host.job("elemental restore", 0):
            desk.bench.restore()
        loaded = desk.host.loaded()
        job.show(text=f"The live model is {loaded.title}, as it is." if loaded else "No model is loaded.")

    return desk.board.start("Restore", work)


def _print_changes(recipe: MergeRecipe) -> str:
    """Write the print-change log to the console, and give it for the page."""
    lines = list(describe_changes(plan_merge(recipe)))
    print("\n".join(lines), flush=True)  # noqa: T201
    return f'<pre class="elemental-changes">{escape(chr(10).join(lines))}</pre>'


def _make_pictures(desk: Desk, job: Job, request: ImageRequest, **options: Any) -> str:
    """Make and keep pictures, show them, and say where they are."""
    job.show(text="generating ...", done=0.0)
    pictures = desk.bench.pictures(request, controls=desk.controls(), **options)
    paths = [_keep(desk.pictures, picture) for picture in pictures]
    job.show(pictures=tuple((path, f"seed {picture.seed}") for path, picture in zip(paths, pictures, strict=True)))
    return f" {len(paths)} picture{'s' * (len(paths) != 1)} in {shown_path(desk.pictures)}."


def _keep(folder: Path, picture: GeneratedImage) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise ImageError(f"Cannot make the folder {folder}: {exc.strerror or exc}.") from exc
    (path,) = free_names(folder, [picture.seed])
    write_png(path, picture)
    return path


def _dtype(desk: Desk, form: MergeForm) -> Any:
    """Read the number format of a file from the form, whatever else it says by now."""
    try:
        return desk.recipe(form).dtype
    except ElementalError:
        return None
