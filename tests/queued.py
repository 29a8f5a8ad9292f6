"""A job that runs as long as a test wants it to, and what a page lists behind it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from elemental.session.jobs import Job
from elemental.session.session import Session, session_of

from .browser import Page
from .serving import Site


class Running:
    """A job that runs until it is let go.

    Args:
        session: Of the page.
    """

    def __init__(self, session: Session) -> None:
        self._gate = threading.Event()
        self._session = session
        self.job = session.board.start("A long one", self._work)

    def _work(self, job: Job) -> None:
        job.show(text="at work ...", done=0.37)
        with self._session.host_job(job, "long", 0):
            self._gate.wait(60)
        job.show(text="All of it.")

    def end(self, seconds: float = 0.0) -> None:
        """Let it end, as if it had taken so long."""
        self.job.show(started=self.job.view.started - seconds)
        self._gate.set()


@contextmanager
def running(site: Site) -> Iterator[Running]:
    made = Running(session_of(site.host))
    try:
        yield made
    finally:
        made.end()


def listed(page: Page) -> list[str]:
    """Give the names of the jobs that wait."""
    return [str(name) for name in page.page.locator("#elemental_queue ol li b").all_inner_texts()]


def lists(page: Page, *names: str) -> None:
    page.wait(lambda: listed(page) == list(names), f"{names} in the queue, not {listed(page)}")


def act(page: Page, name: str, job: str) -> None:
    page.page.locator("#elemental_queue ol li").filter(has_text=job).first.locator(f"[data-queue={name}]").click()
