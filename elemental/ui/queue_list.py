"""The jobs that wait, and how those before them ended, as a list with buttons; each page shows the same one."""

from __future__ import annotations

import json
from collections.abc import Callable
from html import escape

from ..session.job_board import JobBoard
from ..session.job_texts import format_duration
from ..session.jobs import JobView
from .gradio_compat import make

_MOVES = {"up": -1, "down": 1}
_MOST_LETTERS = 400

NOTIFY = """
<label class="elemental-notify" title="Show a notification of the browser when a job of 30 seconds or more has ended">
<input type="checkbox"> Notify me <span role="status"></span></label>"""


class QueueList:
    """The component, and what its buttons do.

    Args:
        board: The jobs.
    """

    def __init__(self, board: JobBoard) -> None:
        self._board = board
        self.shown = make("HTML", value="", elem_id="elemental_queue")

    def draw(self) -> str:
        """Draw the list; an empty one is hidden."""
        ended, waiting = self._board.ended(), self._board.waiting()
        head = f"<b>Queue</b> <span>{len(waiting)} waiting</span>" if waiting else "<b>Queue</b>"
        if len(waiting) > 1:
            head += '<button type="button" data-queue="drop-all">Drop all</button>'
        rows = [_draw_waiting(view, at, len(waiting)) for at, view in enumerate(waiting)]
        lists = f"<ul>{''.join(map(_draw_ended, ended))}</ul><ol>{''.join(rows)}</ol>"
        shown = f"<header>{head}</header>{lists}" if ended or waiting else ""
        marks = f'data-waiting="{len(waiting)}"{"" if shown else " hidden"}'
        return f'<section class="elemental-queue" aria-label="Queue" {marks}>{shown}</section>'

    def act(self, request: str) -> str:
        """Do what a button asks for, and give what is to be said about it; the list can have changed meanwhile.

        Args:
            request: "up", "down" or "drop" with the number of a job, or "drop-all".
        """
        act, _, number = request.partition(" ")
        if act == "drop-all":
            self._board.drop_all()
        elif act in _MOVES:
            self._board.move(read_number(number), _MOVES[act])
        elif act == "drop" and not self._board.drop(read_number(number)):
            job = self._board.job
            if job is not None and str(job.view.number) == number and not job.view.ended:
                return f"{job.view.name} has begun; press Stop to end it."
        return ""


def read_number(text: str) -> int:
    """Read a job's number, which a page sends back; any other text is that of none."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0


def _draw_ended(view: JobView) -> str:
    duration = f" in {format_duration(view.took)}"
    return (
        f'<li class="{view.state.value}" {mark(view)} title="{escape(view.words)}"><b>{escape(view.name)}</b> '
        f"<span>{view.state.value}{duration}</span><p>{escape(_cut(view.text))}</p></li>"
    )


def _draw_waiting(view: JobView, at: int, count: int) -> str:
    name = escape(view.name)
    shown = [("up", "↑", f"Move {name} up", at == 0), ("down", "↓", f"Move {name} down", at == count - 1)]
    buttons = "".join(
        f'<button type="button" data-queue="{act}" title="{title}" aria-label="{title}"{" disabled" if off else ""}>'
        f"{sign}</button>"
        for act, sign, title, off in [*shown, ("drop", "✕", f"Drop {name}", False)]
    )
    words = escape(view.words)
    return f'<li {mark(view)}><p title="{words}"><b>{name}</b> {words}</p><span class="buttons">{buttons}</span></li>'


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_LETTERS else f"{text[:_MOST_LETTERS]} ..."


def mark(view: JobView) -> str:
    """Give the attributes by which the page tells jobs, and sees how long each took."""
    facts = {"job": view.number, "name": view.name, "state": view.state.value, "took": f"{view.took:.0f}"}
    return " ".join(f'data-{name}="{escape(str(fact))}"' for name, fact in facts.items())


def tell(board: JobBoard, percent: Callable[[JobView], str]) -> str:
    """Say how far all jobs are, as JSON, for a page that nobody sees.

    Args:
        board: The jobs.
        percent: Says how much of the one that runs is done; "" if it has ended.
    """
    job = board.job
    views = [*board.ended(), *board.waiting(), *([] if job is None else [job.view])]
    jobs = [
        {"job": str(view.number), "name": view.name, "state": view.state.value, "took": round(view.took)}
        for view in views
    ]
    texts = {str(view.number): _cut(view.text) for view in views if view.ended}
    return json.dumps({"percent": "" if job is None else percent(job.view), "jobs": jobs, "texts": texts})
