"""The progress bar of merges, images and runs: on a terminal only, never in a pipe."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from ..merge.progress import Controls
from .command import Interrupts
from .output import printable

if TYPE_CHECKING:
    from PIL import Image

    from ..runs.cells import Cell
    from ..runs.effect_estimate import EffectWatcher
    from ..runs.runner import Progress, RunWatcher

_CELLS = "{desc}{n_fmt}/{total_fmt} |{bar}|{postfix}"
_PARTS = "{desc}{n_fmt}/{total_fmt} |{bar}| {elapsed}"


class ProgressBar:
    """One bar at a time; it is drawn only between :meth:`begin` and :meth:`close`, and only on a terminal."""

    def __init__(self) -> None:
        self._bar: Any = None

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def begin(self, total: int, **style: Any) -> None:
        """Draw it, unless it is drawn already.

        Args:
            total: What is reached at its end.
            **style: Arguments of tqdm: ``unit``, ``desc``, ``bar_format``.
        """
        if self._bar is None and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, leave=False, **style)

    def extend(self, total: int, **style: Any) -> None:
        """Draw it, or let its end be so much further."""
        if self._bar is None:
            self.begin(total, **style)
        else:
            self._bar.total += total

    def label(self, text: str, after: str = "") -> None:
        """Write a text before it and one after it; the next step draws both."""
        if self._bar is not None:
            self._bar.set_description(text, refresh=not after)
            self._bar.set_postfix_str(after, refresh=False)

    def advance(self, count: int) -> None:
        """Go on by a count."""
        if self._bar is not None:
            self._bar.update(count)

    def move_to(self, done: int) -> None:
        """Go on to where so much is done."""
        if self._bar is not None:
            self._bar.update(done - self._bar.n)

    def show(self, done: int, total: int, text: str) -> None:
        """Draw how much is done, of how much, and what is done next; the whole may change."""
        self.begin(total, bar_format=_PARTS)
        if self._bar is not None:
            self._bar.total = total
            self._bar.set_description(text, refresh=False)
            self._bar.n = done
            self._bar.refresh()

    def close(self) -> None:
        """Take it away."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def merge_controls(bar: ProgressBar, interrupts: Interrupts) -> Controls:
    """Show the bytes of a merge, and stop the merge after an interrupt."""
    return Controls(
        begin=lambda size: bar.extend(size, unit="B", unit_scale=True, desc="merging"),
        stage=bar.label,
        advance=bar.advance,
        should_stop=lambda: bool(interrupts),
    )


class StepReport:
    """Shows the steps of each image, as a host reports them."""

    def __init__(self, bar: ProgressBar) -> None:
        self._bar = bar

    def __call__(self, done: int, total: int, text: str) -> None:
        """Show one step: how many are done, of how many, and of what."""
        self._bar.begin(total, desc=text, unit="step")
        self._bar.move_to(done)
        if done >= total:
            self._bar.close()


def effect_watcher(bar: ProgressBar, interrupts: Interrupts) -> EffectWatcher:
    """Show passes and images done, print notes on stderr, and stop after an interrupt.

    Args:
        bar: What progress is shown on.
        interrupts: Signals that asked to stop.
    """
    from ..runs.effect_estimate import EffectWatcher

    def print_note(text: str) -> None:
        bar.close()
        print(printable(f"note: {text}"), file=sys.stderr)

    controls = Controls(should_stop=lambda: bool(interrupts))
    return EffectWatcher(on_progress=bar.show, on_note=print_note, controls=controls)


def run_watcher(bar: ProgressBar, interrupts: Interrupts) -> RunWatcher:
    """Show images done and the time left, and stop the run after an interrupt, even one that looks like a failed image.

    Args:
        bar: What it is shown on.
        interrupts: Signals that asked to stop.
    """
    from ..runs.runner import RunWatcher

    def show_cell(cell: Cell, image: Image.Image | None, progress: Progress) -> None:
        minutes, seconds = divmod(round(progress.seconds_left), 60)
        bar.begin(progress.total, bar_format=_CELLS)
        bar.label(
            cell.name if image else f"{cell.name} failed",
            f"{progress.seconds_each:.1f} s each, {minutes}:{seconds:02} left",
        )
        bar.move_to(progress.done)

    return RunWatcher(on_cell=show_cell, controls=Controls(should_stop=lambda: bool(interrupts)))
