"""The right side of the tab: what is live, how far the job is, and what it made; always in view, whatever the panel."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import ElementalError
from ..hosts.base import StepProgress
from ..merge.files.metadata import name_recipe
from ..session.form import MergeForm
from ..session.job_board import JobBoard
from ..session.jobs import Job, JobState, JobView
from ..session.merge_preview import stamp_of, stamp_of_merge
from ..session.merged_model import LiveNow, LiveState
from ..session.session import Session
from .answer import Answer, Updates
from .gradio_compat import make, on, update
from .image_buttons import draw_image_buttons
from .queue_list import NOTIFY, QueueList, mark, read_number, tell

_MOST_COLUMNS = 12
_MOST_LETTERS = 300
_LIVE = {LiveState.NOTHING: "none", LiveState.FILE: "file", LiveState.ACTIVE: "active", LiveState.LOST: "lost"}


class Results:
    """The components of the right side.

    Args:
        session: Of the host.
        seen: A hidden text: what the page has seen of the job.
    """

    def __init__(self, session: Session, seen: Any) -> None:
        self._session = session
        self._seen = seen
        self.live = make("HTML", value=draw_live(session), elem_id="elemental_live")
        with make("Row", elem_id="elemental_result_buttons"):
            self.stop = make("Button", value="Stop", variant="stop", interactive=False, elem_id="elemental_stop")
            self.restore = make("Button", value="Restore", elem_id="elemental_restore")
            make("HTML", value=NOTIFY, elem_id="elemental_notify")
        self.notice = Answer("elemental_notice")
        self.filled = Answer("elemental_filled")  # how the form was filled, while its fields change by that
        self.progress = make("HTML", value="", elem_id="elemental_progress")
        self.queue = QueueList(session.board)
        self.made = make("HTML", value="", elem_id="elemental_made")
        self.table = make("HTML", value="", elem_id="elemental_table")
        self.gif = make("HTML", value="", elem_id="elemental_gif_view")
        self.products = _make_gallery(label="Grids and charts", elem_id="elemental_products", columns=1)
        self.gallery = _make_gallery(label="Images", elem_id="elemental_gallery", columns=3)
        make("HTML", value=draw_image_buttons(session.host), elem_id="elemental_sending")
        self.details = make("HTML", value="", elem_id="elemental_details")
        make("HTML", value='<div class="elemental-strip" hidden></div>', elem_id="elemental_strip")

    @property
    def outputs(self) -> list[Any]:
        """What a job changes."""
        made = [self.made, self.table, self.gif, self.products, self.gallery, self.details]
        return [self.live, self.stop, self.progress, self.queue.shown, *made, self._seen]

    @property
    def start_outputs(self) -> list[Any]:
        """What the start of a job changes."""
        return [*self.notice.outputs, *self.filled.outputs, *self.outputs]

    def start(self, begin: Callable[[], Job], form: MergeForm | None = None) -> Updates:
        """Begin a job, or have it wait for its turn, and show it or why it is refused.

        Args:
            begin: Asks for it.
            form: The form that it is begun with: when it changes, an error is taken away.
        """
        try:
            self._session.board.refuse_many()  # before anything is planned for it
            job = begin()
        except ElementalError as exc:
            # in a place of its own: a job that runs draws over its progress again and again
            return self.notice.give(draw_message("failed", str(exc)), form=form)
        if job.view.state is JobState.WAITING:
            return {**self._show_queue(), **self.notice.give(""), **self.filled.give("")}
        return {**self.look(""), **self.notice.give(""), **self.filled.give("")}

    def look(self, seen: str) -> Updates:
        """Show the job that runs, or that ran last, as far as a page has not seen it yet; any number of pages may.

        Pages ask again and again, rather than being told: a page that is left takes nothing with it then.

        Args:
            seen: What the page was given when it asked last.
        """
        job = self._session.board.job
        updates: Updates = {self.live: draw_live(self._session)}
        if job is None:
            return updates
        view = job.view
        known = _Seen.read(seen)
        queue = self.queue.draw()
        now = _Seen(job_id(job), str(view.version), self._stamp_images(), self._stamp_figures(), stamp_of(queue))
        if not view.ended or (known.job, known.version) != (now.job, now.version):
            updates[self.progress] = self._draw_progress(job, view)
            updates[self.stop] = update(interactive=not view.ended)
        if known.queue != now.queue:
            updates[self.queue.shown] = queue
        if known.images != now.images:
            updates |= self._show_images()
        if known.figures != now.figures:
            updates |= self._show_figures()
        updates[self._seen] = " ".join(now)
        return updates

    def _show_queue(self) -> Updates:
        """Show the queue; if this comes late, and others have shown a newer one, the page is to ask for it again."""
        return {self.queue.shown: self.queue.draw(), self._seen: ""}

    def found_form(self, seen: str) -> MergeForm | None:
        """Give the form that was found with the figures that a page shows; None if it shows others, or there is none.

        Args:
            seen: What the page was given when it asked last.
        """
        shown = self._session.board.latest_results()
        return shown.form if shown is not None and _Seen.read(seen).figures == self._stamp_figures() else None

    def _stamp_images(self) -> str:
        board = self._session.board
        shown = board.latest_images()
        return "" if shown is None else stamp_of(repr((shown.images, shown.products, _is_earlier(board, shown))))

    def _stamp_figures(self) -> str:
        shown = self._session.board.latest_results()
        return "" if shown is None else stamp_of(repr((shown.number, shown.table, shown.details)))

    def _show_images(self) -> Updates:
        board = self._session.board
        view = board.latest_images()
        if view is None:
            return {self.made: "", self.gallery: update(value=[]), self.products: update(value=[])}
        earlier = _is_earlier(board, view)
        # what an earlier job has made can be deleted by now
        images = [(str(path), caption) for path, caption in view.images if not earlier or path.is_file()]
        products = [(str(path), words) for path, words in _captions(view) if not earlier or path.is_file()]
        columns = min(view.columns, _MOST_COLUMNS) or min(3, math.ceil(math.sqrt(max(1, len(images)))))
        return {
            self.made: _draw_made(view) if earlier else "",
            self.gallery: update(value=images, columns=columns),
            self.products: update(value=products),
        }

    def _show_figures(self) -> Updates:
        view = self._session.board.latest_results()
        table, details = ("", "") if view is None else (view.table, view.details)
        return {self.table: table, self.details: details, self.gif: ""}  # the GIF is one of another check

    def _draw_progress(self, job: Job, view: JobView) -> str:
        """Draw the job; if its text is about an image that is being made, with the step that it is at."""
        now, text = self._step_progress(view), view.text
        if now.steps:
            first, line_end, notes = text.partition("\n")
            text = f"{first.removesuffix(' ...')}, step {now.step} of {now.steps}{line_end}{notes}"
        return draw_message(view.state.value, text, job=job, done=None if view.ended else self._share(view, now))

    def _step_progress(self, view: JobView) -> StepProgress:
        return self._session.host.step_progress() if view.steps and not view.ended else StepProgress()

    @staticmethod
    def _share(view: JobView, now: StepProgress) -> float:
        return view.done if view.parts or not now.steps else max(view.done, now.step / now.steps)

    def tell(self) -> str:
        """Say how far all jobs are, for a page that nobody sees."""

        def percent(view: JobView) -> str:
            return "" if view.ended else f"{100 * self._share(view, self._step_progress(view)):.0f}"

        return tell(self._session.board, percent)

    def wire(self) -> None:
        """Make the buttons work."""
        from ..session import merge_jobs as actions

        session = self._session

        def restore() -> Updates:
            return self.start(lambda: actions.restore(session))

        def stop(seen: str) -> None:
            session.stop(read_number(_Seen.read(seen).job))

        on(self.stop, "click", stop, [self._seen])
        on(self.restore, "click", restore, [], self.start_outputs)

    def wire_queue(self, asked: Any, answered: Any) -> None:
        """Make the buttons of the queue work.

        Args:
            asked: A hidden text: what a button asks for, and in the last line the number of the request.
            answered: A hidden place for that number.
        """

        def act(request: str) -> Updates:
            wanted, _, number = request.rpartition("\n")
            said = self.queue.act(wanted)
            notice = self.notice.give(draw_message("failed", said)) if said else {}
            return {**notice, **self._show_queue(), answered: f'<i data-number="{escape(number)}"></i>'}

        on(asked, "change", act, [asked], [self.queue.shown, self._seen, answered, *self.notice.outputs])


class _Seen(NamedTuple):
    """What a page has seen: of which job and in which version, and stamps of the images, figures and queue it shows."""

    job: str = ""
    version: str = ""
    images: str = ""
    figures: str = ""
    queue: str = ""

    @classmethod
    def read(cls, text: str) -> _Seen:
        """Read what a page sends back; anything else is taken for a page that has seen nothing."""
        parts = (text or "").split(" ")
        return cls(*parts) if len(parts) == len(cls._fields) else cls()


def _captions(view: JobView) -> list[tuple[Path, str]]:
    """Give the products, each with what is said of it."""
    headings = view.headings or ("",) * len(view.products)
    named = zip(view.products, headings, strict=False)
    return [(path, f"{view.name}: {path.name}{f', {heading}' if heading else ''}") for path, heading in named]


def _make_gallery(**arguments: Any) -> Any:
    """Make a gallery without buttons: the page's own viewer opens its images."""
    return make(
        "Gallery", show_label=False, height="auto", object_fit="contain", interactive=False, buttons=[],
        show_share_button=False, show_download_button=False, **arguments,
    )  # fmt: skip


def _is_earlier(board: JobBoard, view: JobView) -> bool:
    return board.job is not None and view.number != board.job.view.number


def _draw_made(view: JobView) -> str:
    """Say what the images are of that an earlier job has made."""
    when = time.strftime("%H:%M:%S", time.localtime(view.started))
    return f'<p class="elemental-hint">Images of <b>{escape(view.name)}</b>, {when}</p>'


def draw_live(session: Session, *, first: bool = False) -> str:
    """Say what is in the live model; which job runs stands in an attribute, for pages that do not follow it yet.

    Args:
        session: Of the host.
        first: Whether this comes with what fills a page that was just loaded.
    """
    job = session.board.job
    followed = "" if job is None else job_id(job)
    now = session.model.live()
    mark = " data-first" if first else ""
    mark += f' data-merge="{stamp_of_merge(session.live_form)}"' if now.kind is LiveState.ACTIVE else ""
    return (
        f'<div class="elemental-live {_LIVE[now.kind]}" data-job="{followed}"{mark} role="status"><b>Live model</b> '
        f"{_describe_live(now)}</div>"
    )


def _describe_live(now: LiveNow) -> str:
    title = escape(now.checkpoint.path.name) if now.checkpoint else ""
    if now.recipe is None:
        return title or "none is loaded at the moment"
    name = name_recipe(now.recipe).replace("\n", ", ")
    name = escape(name if len(name) <= _MOST_LETTERS else f"{name[:_MOST_LETTERS]} ...")
    if now.kind is LiveState.LOST:
        return (
            f"{title or 'another one'} <em>lost: another checkpoint was loaded over the merge</em> <span>{name}</span>"
        )
    return f"<em>merge active</em> <span>{name}</span>"


def draw_message(state: str, text: str, *, job: Job | None = None, done: float | None = None) -> str:
    """Draw how far a job is.

    Args:
        state: The name of its state.
        text: What to read.
        job: The job that it is about, if it is about one.
        done: The part that is done, from 0 to 1; None for no bar.
    """
    marks = 'data-job=""' if job is None else mark(job.view)
    name = "" if job is None else f"<b>{escape(job.view.name)}</b> "
    percent = "" if done is None else f"{100 * done:.0f}"
    bar = "" if done is None else f'<progress max="100" value="{percent}">{percent} %</progress>'
    role = "alert" if state == "failed" else "status"
    return (
        f'<div class="elemental-message {state}" {marks} role="{role}">{bar}<div>{name}'
        f"<span>{state if state != 'running' else ''}</span></div><pre>{escape(text)}</pre></div>"
    )


def job_id(job: Job) -> str:
    """Give what tells one job from another on a page."""
    return str(job.view.number)
