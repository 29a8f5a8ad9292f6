"""What the pages show of an estimate or a simplification: its progress and, below it, notes that stay to the end."""

from __future__ import annotations

from collections.abc import Sequence

from ..runs.effect_estimate import EffectWatcher
from .jobs import Job
from .session import Session


class NotedView:
    """Shows a text and notes on a job.

    Args:
        job: The job.
        notes: What the user is told from its beginning to its end.
    """

    def __init__(self, job: Job, notes: Sequence[str]) -> None:
        self._job = job
        self._notes = list(notes)
        self._text = ""

    def show(self, text: str, **parts: object) -> None:
        """Show a text, and below it the notes."""
        self._text = text
        self._job.show(text="\n".join([text, *self._notes]), parts=True, **parts)

    def note(self, text: str) -> None:
        """Add a note."""
        self._notes.append(text)
        self.show(self._text)

    def watcher(self, session: Session, title: str) -> EffectWatcher:
        """Show the progress; the controls can stop it, but do not show the progress of each merge.

        Args:
            session: Of the job.
            title: What the host is told that it is, such as "estimating effects".
        """

        def show(done: int, total: int, text: str) -> None:
            session.host.report(done, total, title)
            self.show(f"{text} ...", done=min(1.0, done / max(1, total)))

        return EffectWatcher(on_progress=show, on_note=self.note, controls=session.stop_controls())
