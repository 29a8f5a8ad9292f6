"""How long the images of a plot or check will take, by what others took last on this machine."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from ..errors import ElementalError
from ..images.image_request import ImageRequest
from ..recipe.chains import base_file
from ..runs.image_times import ImageTimes
from ..runs.run_files import RunFiles
from ..runs.run_record import read_record
from ..runs.runner import Run
from .form import architecture_of
from .job_texts import format_about, format_duration
from .run_devices import RunMaker
from .session import Session

_NOT_KNOWN = "How long it takes is not known: no image of this size and sampler was made here yet."


def describe_time(session: Session, run: Run, *, elsewhere: bool = False) -> str:
    """Say how long a run takes, and each of its images.

    Args:
        session: The session of the page.
        run: The run.
        elsewhere: Whether the cluster makes them.
    """
    cluster = session.devices.cluster
    place = cluster.name if elsewhere and cluster is not None else ""
    cells = [cell for part in run.rounds() for cell in part]
    times = _times_of(session, session.locator.locate(base_file(cells[0].recipe.model_a)), place)
    seconds = times.expect(cell.request for cell in cells)
    if seconds is None:
        return _NOT_KNOWN
    return f"About {format_about(seconds)}, {format_duration(seconds / len(cells))} an image."


def note_run(session: Session, run: Run, files: RunFiles, made: RunMaker) -> None:
    """Remember how long the images of a run took: of those made at the same time, a share of it.

    Args:
        session: The session of the page.
        run: The run.
        files: Its files.
        made: What has made them.
    """
    cells = {cell.name: cell for part in run.rounds() for cell in part}
    with suppress(ElementalError):  # a file was deleted meanwhile
        seconds = {name: sum(cell.seconds.values()) for name, cell in read_record(files).cells.items() if cell.seconds}
        model = session.locator.locate(base_file(next(iter(cells.values())).recipe.model_a))
        each = ((cells[name].request, whole / made.at_once) for name, whole in seconds.items())
        _times_of(session, model, made.place).note(each)


def note_images(session: Session, request: ImageRequest, seconds: float) -> None:
    """Remember how long the images of a request took that were made of the live model."""
    live = session.model.live()
    model = base_file(live.recipe.model_a) if live.recipe else live.checkpoint
    if model is not None:
        with suppress(ElementalError):
            _times_of(session, Path(model.path)).note([(request, seconds / request.batch)])


def _times_of(session: Session, model: Path, place: str = "") -> ImageTimes:
    return ImageTimes(session.host, architecture_of(model).name, place=place)
