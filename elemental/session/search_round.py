"""The job that makes the images of a round, and what the pages show of it: the images, its progress, its result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ..errors import ElementalError, Stopped
from ..runs.runner import Progress, RunResult, RunWatcher
from ..searches.search_folder import Search
from ..searches.steering import BEST
from .form import shown_path
from .job_texts import count_images, format_duration, not_put_back
from .jobs import Job, JobState
from .run_devices import DEVICE, RunOrder, run_maker
from .session import Session

if TYPE_CHECKING:
    from PIL import Image

    from ..hosts.base import HostSettings
    from ..runs.cells import Cell


def round_work(
    session: Session,
    begin: Callable[[Job], Search],
    count: int,
    settings: HostSettings | None,
    *,
    elsewhere: bool,
) -> Callable[[Job], None]:
    """Give the work of a job that makes the images of a round.

    Args:
        session: The session of the page.
        begin: Gives the search, when the job begins.
        count: How many images it makes.
        settings: What the host's own page said of the images.
        elsewhere: Whether the cluster makes them.
    """

    def work(job: Job) -> None:
        view = RoundView(job)
        view.show("planning ...")
        result = None
        try:
            with session.host_job(job, "search", count, settings):
                search = begin(job)
                view.follow(search)
                with run_maker(session, _order(session, search, elsewhere=elsewhere), view.show_stage) as made:
                    if made.device and (DEVICE not in search.options or not _has_images(search)):
                        search.keep(**made.options)
                    watcher = view.watcher(session)
                    result = search.make_images(made.maker, watcher=watcher, locator=session.locator)
                    view.show_result(result)
        except ElementalError as exc:
            if result is None:
                raise
            raise not_put_back(job.view.text, exc) from exc
        if result.waiting:
            raise Stopped(job.view.text)
        if result.failed and not result.made:
            job.show(state=JobState.FAILED)

    return work


def _order(session: Session, search: Search, *, elsewhere: bool) -> RunOrder:
    options = search.options if _has_images(search) else {}  # before its first image, a search can go elsewhere
    return RunOrder(elsewhere, lambda: search.estimate(locator=session.locator).models, options)


def _has_images(search: Search) -> bool:
    numbers = (BEST, *(each.number for each in search.round.candidates))
    return bool(search.past) or any(any(search.images(number)) for number in numbers)


class RoundView:
    """Shows a round on its job.

    Args:
        job: The job.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._notes: Sequence[str] = ()
        self._search: Search | None = None
        self._pace = ""

    def show(self, text: str, **parts: object) -> None:
        """Show a text, and below it what the user is told about the search."""
        self._job.show(text="\n".join([text, *self._notes]), parts=True, **parts)

    def show_stage(self, stage: str) -> None:
        """Show what is being done until the first image can be made."""
        self.show(f"round {self._number}: {stage} ...")

    def follow(self, search: Search) -> None:
        """Show the round of a search, with the images that were made before."""
        self._search, self._notes = search, search.page.notes
        self.show(f"round {search.round.number}: planning ...")
        self._show_images()

    def watcher(self, session: Session) -> RunWatcher:
        """Show the progress; the controls can stop it, but do not show the progress of each merge."""
        return RunWatcher(on_start=self._show_start, on_cell=self._show_cell, controls=session.stop_controls())

    def show_result(self, result: RunResult) -> None:
        """Show what was made, and what could not be."""
        assert self._search is not None
        duration, folder = format_duration(result.seconds["whole"]), shown_path(self._search.folder)
        lines = [f"Round {self._search.round.number}: {count_images(result.made)} in {duration}. Folder: {folder}"]
        lines += [f"Candidate {int(name[1:3])} failed: {error}" for name, error in result.failed.items()]
        if result.waiting:
            lines.append(f"Stopped; {count_images(result.waiting)} left to make. The Search panel goes on with it.")
        self._show_images()
        self.show("\n".join(lines), steps=False)

    def _show_start(self, cell: Cell, number: int) -> None:
        what = f"candidate {cell.x}" if cell.x != BEST else "the merge that it begins with"
        self.show(f"round {self._number}, image {number}: {what} ...{self._pace}", steps=True)

    def _show_cell(self, _cell: Cell, image: Image.Image | None, progress: Progress) -> None:
        if image is not None:
            self._show_images()
        minutes, seconds = divmod(round(progress.seconds_left), 60)
        self._pace = f"\n{progress.seconds_each:.1f} s each, {minutes}:{seconds:02} left"
        text = f"round {self._number}: {progress.done} of {progress.total} images{self._pace}"
        self.show(text, done=progress.done / max(1, progress.total), steps=False)

    @property
    def _number(self) -> int:
        assert self._search is not None
        return self._search.round.number

    def _show_images(self) -> None:
        assert self._search is not None
        search, requests = self._search, self._search.order.requests
        images = [
            (path, f"{_name(candidate.number)}; seed {request.seed}")
            for candidate in (search.round.best, *search.round.candidates)
            for request, path in zip(requests, search.images(candidate.number), strict=True)
            if path is not None
        ]
        self._job.show(images=tuple(images))


def _name(number: int) -> str:
    return f"candidate {number}" if number != BEST else "the best so far"
