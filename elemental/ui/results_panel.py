"""The right side of the tab: what is live, how far the job is, and what it made; always in view, whatever the panel."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import Any

from ..errors import ElementalError
from ..merge.files.metadata import name_recipe
from ..session.form import MergeForm
from ..session.jobs import Job, JobView
from ..session.merge_preview import stamp_of
from ..session.merged_model import LiveNow, LiveState
from ..session.session import Session
from .answer import Answer, Updates
from .gradio_compat import make, on, update

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
            self.stop = make("Button", value="Stop", variant="stop", elem_id="elemental_stop")
            self.restore = make("Button", value="Restore", elem_id="elemental_restore")
        self.notice = Answer("elemental_notice")
        self.progress = make("HTML", value="", elem_id="elemental_progress")
        self.table = make("HTML", value="", elem_id="elemental_table")
        self.gif = make("HTML", value="", elem_id="elemental_gif_view")
        self.products = make(
            "Gallery", label="Grids and charts", show_label=False, elem_id="elemental_products", columns=1,
            height="auto", object_fit="contain", interactive=False,
        )  # fmt: skip
        self.gallery = make(
            "Gallery", label="Images", show_label=False, elem_id="elemental_gallery", columns=3, height="auto",
            object_fit="contain", interactive=False,
        )  # fmt: skip
        self.details = make("HTML", value="", elem_id="elemental_details")

    @property
    def outputs(self) -> list[Any]:
        """What a job changes."""
        made = [self.table, self.gif, self.products, self.gallery, self.details]
        return [self.live, self.progress, *made, self._seen]

    @property
    def start_outputs(self) -> list[Any]:
        """What the start of a job changes."""
        return [*self.notice.outputs, *self.outputs]

    def start(self, begin: Callable[[], Job], form: MergeForm | None = None) -> Updates:
        """Begin a job, and show it or why it cannot be begun.

        Args:
            begin: Begins it.
            form: The form that it is begun with: when it changes, an error is taken away.
        """
        try:
            self._session.board.refuse_another()  # before anything is planned for it
            begin()
        except ElementalError as exc:
            # in a place of its own: a job that runs draws over its progress again and again
            return self.notice.give(draw_message("failed", str(exc)), form=form)
        return {**self.look(""), **self.notice.give("")}

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
        known_job, _, rest = (seen or "").partition(" ")
        known_version, _, known_made = rest.partition(" ")
        same_job = known_job == job_id(job)
        if not view.ended or not same_job or known_version != str(view.version):
            updates[self.progress] = self._draw_progress(job, view)
        made = stamp_of(repr((view.images, view.products, view.table, view.details)))
        if not same_job:
            updates[self.gif] = ""  # of another check
        if not same_job or known_made != made:
            updates |= self._show_made(view)
        updates[self._seen] = f"{job_id(job)} {view.version} {made}"
        return updates

    def found_form(self, seen: str) -> MergeForm | None:
        """Give the form that the last job has found; None if the page has not seen that job, or it has found none.

        Args:
            seen: What the page was given when it asked last.
        """
        job = self._session.board.job
        return job.view.form if job is not None and (seen or "").split(" ")[0] == job_id(job) else None

    def _show_made(self, view: JobView) -> Updates:
        columns = min(view.columns, _MOST_COLUMNS) or (3 if len(view.images) > 1 else 1)
        images = [(str(path), caption) for path, caption in view.images]
        products = [str(path) for path in view.products]
        return {
            self.gallery: update(value=images, columns=columns),
            self.products: update(value=products),
            self.table: view.table,
            self.details: view.details,
        }

    def _draw_progress(self, job: Job, view: JobView) -> str:
        step_progress = self._session.host.step_progress() if view.steps and not view.ended else None
        text, done = view.text, view.done
        if step_progress is not None and step_progress.steps:
            first, line_end, notes = text.partition("\n")
            step = f"step {step_progress.step} of {step_progress.steps}"
            text = f"{first.removesuffix(' ...')}, {step}{line_end}{notes}"
            done = done if view.parts else max(done, step_progress.step / step_progress.steps)
        return draw_message(view.state.value, text, job=job, done=None if view.ended else done)

    def wire(self) -> None:
        """Make the buttons work."""
        from ..session import merge_jobs as actions

        session = self._session

        def restore() -> Updates:
            return self.start(lambda: actions.restore(session))

        on(self.stop, "click", session.stop)
        on(self.restore, "click", restore, [], self.start_outputs)


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
    return (
        f'<div class="elemental-live {_LIVE[now.kind]}" data-job="{followed}"{mark} role="status"><b>Live model</b> '
        f"{_describe_live(now)}</div>"
    )


def _describe_live(now: LiveNow) -> str:
    title = escape(now.checkpoint.path.name) if now.checkpoint else ""
    if now.recipe is None:
        return title or "none is loaded"
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
    followed = "" if job is None else job_id(job)
    name = "" if job is None else f"<b>{escape(job.view.name)}</b> "
    percent = "" if done is None else f"{100 * done:.0f}"
    bar = "" if done is None else f'<progress max="100" value="{percent}">{percent} %</progress>'
    role = "alert" if state == "failed" else "status"
    return (
        f'<div class="elemental-message {state}" data-job="{followed}" role="{role}">{bar}<div>{name}'
        f"<span>{state if state != 'running' else ''}</span></div><pre>{escape(text)}</pre></div>"
    )


def job_id(job: Job) -> str:
    """Give what tells one job from another on a page."""
    return f"{job.view.started:.6f}"
