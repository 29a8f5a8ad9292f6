"""What the page shows of a search: the images of its round to pick from, and how far it has come, as HTML."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from html import escape
from pathlib import Path

from ..recipe.rules import format_ratio


class RoundState(Enum):
    """How far a round is."""

    PLANNED = "planned"
    MADE = "made"
    READY = "ready"
    STOPPED = "stopped"


@dataclass(frozen=True)
class ShownCandidate:
    """A candidate as the page shows it.

    Attributes:
        number: Its number; 0 is the best so far.
        images: The files of its images, one for each prompt and seed; None for one that is not there.
        values: Its numbers.
        trouble: Why images of it are missing; empty if none failed.
    """

    number: int
    images: tuple[Path | None, ...] = ()
    values: tuple[float, ...] = ()
    trouble: str = ""


@dataclass(frozen=True)
class PastRound:
    """A round that was judged.

    Attributes:
        words: What was said of it, such as "3, 1, 5".
        values: The numbers of the best so far after it.
    """

    words: str
    values: tuple[float, ...]


@dataclass(frozen=True)
class ShownSearch:
    """A search as the page shows it.

    Attributes:
        key: Tells it from others: the name of its folder.
        number: Of the round.
        state: How far the round is.
        candidates: The best so far, and those of the round.
        images: What each image of a candidate shows: prompt and seed.
        names: Of the numbers that vary.
        ranges: The least and the largest value of each.
        past: The rounds that were judged, the first first.
        vary: What varies, as the field has it.
    """

    key: str
    number: int
    state: RoundState
    candidates: tuple[ShownCandidate, ...]
    images: tuple[str, ...]
    names: tuple[str, ...]
    ranges: tuple[tuple[float, float], ...]
    past: tuple[PastRound, ...] = ()
    vary: str = ""

    @property
    def best(self) -> str:
        """What the best so far is called."""
        return name_best(first=not self.past)

    @property
    def distance(self) -> float:
        """How far the candidates lie from the best so far: the root of the mean square, as a share of each range."""
        best = next(candidate for candidate in self.candidates if not candidate.number)
        shares = [
            (value - start) / (high - low)
            for candidate in self.candidates
            for value, start, (low, high) in zip(candidate.values, best.values, self.ranges, strict=True)
            if candidate.number
        ]
        return math.sqrt(sum(share**2 for share in shares) / max(1, len(shares)))

    @property
    def files(self) -> list[tuple[str, str]]:
        """Each image that is there, with what the page finds it by: numbers of candidate and image."""
        return [
            (str(path), f"{self.key} {self.number} {candidate.number} {at}")
            for candidate in self.candidates
            for at, path in enumerate(candidate.images)
            if path is not None
        ]


NOTHING = '<p class="elemental-hint">No search is open: begin one above, with <b>Start search</b>.</p>'
"""What is shown without a search."""

_ENOUGH = "one is enough, and {best} can be picked, too"
_SAID = {
    RoundState.PLANNED: "Its images wait for their turn ...",
    RoundState.MADE: "Its images are being made. You can pick already: first the best, then the second and the third; "
    f"{_ENOUGH}. Next round opens when all are there.",
    RoundState.READY: "Click the best image, then the second and the third, or press their numbers; "
    f"{_ENOUGH}. Then press Next round.",
    RoundState.STOPPED: "Some of its images are missing.",
}
_NONE = (
    "<b>None is better</b> keeps {best}, as picking it alone does, and needs nothing picked. If some of the others are "
    "better than the rest, pick 0 first and then these: the search learns more from that."
)

_ACTS = (
    ("next", "Next round", "Learn from what is picked, and make other images (Enter)"),
    (
        "none",
        "None is better",
        "With nothing picked: 0 stays the best, the others count the same, and the next round moves to 0",
    ),
    ("undo", "Back a round", "Back to the round before, to pick otherwise"),
    (
        "anew",
        "Start anew around the best",
        "Forget what was learned, and look around the best so far with half the step",
    ),
)
_USES = (
    ("use", "Use {best}", "Fill in the Merge panel with what is picked first, or else with 0"),
    ("simplify", "Simplify 0", "Fill in the Merge panel with 0, and find the shortest spec for it"),
)


def name_best(*, first: bool) -> str:
    """Name the best so far, which in the first round is the merge that the search begins with."""
    return f"0 ({'the start' if first else 'best so far'})"


def draw_search(shown: ShownSearch) -> str:
    """Draw the round of a search with its buttons, and the rounds before."""
    marks = {"search": shown.key, "round": shown.number, "state": shown.state.value, "vary": shown.vary}
    marks["best"] = shown.best
    attributes = " ".join(f'data-{name}="{escape(str(value))}"' for name, value in marks.items())
    items = "".join(_draw_candidate(shown, candidate) for candidate in shown.candidates)
    return (
        f'<section class="elemental-search" {attributes} tabindex="-1" aria-label="Round {shown.number} of the search">'
        f'<p class="said"><b>Round {shown.number}</b> <span role="status">'
        f"{_SAID[shown.state].format(best=shown.best)}</span> {_draw_distance(shown)}</p>"
        f'<ol class="candidates" style="--images:{max(1, len(shown.images))}">{items}</ol>'
        f'<div class="buttons">{_draw_buttons(shown)}</div>'
        f'<p class="elemental-hint">{_NONE.format(best=shown.best)}</p>'
        f"{_draw_past(shown)}</section>"
    )


def _draw_distance(shown: ShownSearch) -> str:
    title = "How far from 0 a round looks, the search chooses by what you have picked."
    away = f"Its candidates are {shown.distance:.2f} of each range away from 0, on average."
    return f'<span class="distance" title="{title}">{away}</span>'


def _draw_buttons(shown: ShownSearch) -> str:
    """Draw the buttons; which of them need something that is picked, the page knows."""
    go_on = ("go-on", "Make the missing images", "Go on with this round")
    lacks = shown.state is RoundState.READY and any(None in each.images for each in shown.candidates)
    acts = [*([go_on] if lacks or shown.state is RoundState.STOPPED else []), *_ACTS]
    busy = shown.state in (RoundState.PLANNED, RoundState.MADE)
    buttons = [
        f'<button type="button" data-act="{act}" title="{escape(title)}"'
        f"{' disabled data-off' if busy or (act == 'undo' and not shown.past) else ''}>{escape(label)}</button>"
        for act, label, title in acts
    ]
    uses = [
        f'<button type="button" data-search-use="{act}" title="{escape(title)}">'
        f"{escape(label.format(best=shown.best))}</button>"
        for act, label, title in _USES
    ]
    return f'{"".join(buttons)}<span class="uses">{"".join(uses)}</span>'


def _draw_candidate(shown: ShownSearch, candidate: ShownCandidate) -> str:
    """Draw a cell: all images of a candidate, which one button picks, and one that opens them large."""
    number, name = candidate.number, _name(candidate)
    images = "".join(
        _draw_image(shown, candidate, at, words, path)
        for at, (words, path) in enumerate(zip(shown.images, candidate.images, strict=False))
    )
    trouble = f'<span class="trouble">{escape(candidate.trouble)}</span>' if candidate.trouble else ""
    numbers = escape(_describe(shown.names, candidate.values))
    shown_number = str(number) if number else shown.best
    return (
        f'<li class="{"best" if not number else "candidate"}{" broken" if trouble else ""}">'
        f'<button type="button" class="pick" data-candidate="{number}" data-name="{name}" aria-label="{name}"'
        f' aria-pressed="false" aria-keyshortcuts="{number if number < 10 else ""}" title="{numbers}">'
        f'<span class="head"><span class="number">{shown_number}</span><span class="badge"></span></span>'
        f'<span class="images">{images}</span>{trouble}</button>'
        f'<button type="button" class="look" data-compare="{number}"'
        f' aria-label="Compare {name} with the best so far, or with the goal"'
        ' title="Large, beside the best so far or the goal (double click)">⤢</button></li>'
    )


def _draw_image(shown: ShownSearch, candidate: ShownCandidate, at: int, words: str, path: Path | None) -> str:
    if path is None:
        return f'<span class="missing" title="{escape(words)}"></span>'
    alt = f"{_name(candidate)}{f', {words}' if len(shown.images) > 1 else ''}"
    return f'<img data-file="{escape(f"{shown.key} {shown.number} {candidate.number} {at}")}" alt="{escape(alt)}">'


def _name(candidate: ShownCandidate) -> str:
    return f"Candidate {candidate.number}" if candidate.number else "The best so far"


def _describe(names: Sequence[str], values: Sequence[float]) -> str:
    return "\n".join(f"{name} {format_ratio(value)}" for name, value in zip(names, values, strict=False))


def _draw_past(shown: ShownSearch) -> str:
    """Draw the rounds as a table: what was picked, and a bar for each number of the best so far."""
    names = "".join(f'<th scope="col" title="{escape(name)}"><span>{escape(name)}</span></th>' for name in shown.names)
    best = next(candidate for candidate in shown.candidates if not candidate.number)
    rows = [_draw_row(shown, str(at), past.words, past.values) for at, past in enumerate(shown.past, 1)]
    last = _draw_row(shown, "now", "", best.values)
    return (
        '<div class="rounds" tabindex="0" role="group" aria-label="Rounds so far"><table>'
        "<caption>The best so far after each round</caption>"
        f'<thead><tr><th scope="col">round</th><th scope="col">picked</th>{names}</tr></thead>'
        f"<tbody>{''.join(rows) or last}</tbody></table></div>"
    )


def _draw_row(shown: ShownSearch, name: str, words: str, values: Sequence[float]) -> str:
    cells = "".join(
        f'<td class="bar" style="--v:{_share(value, *limits):.0f}%">{format_ratio(value)}</td>'
        for value, limits in zip(values, shown.ranges, strict=True)
    )
    return f'<tr><th scope="row">{escape(name)}</th><td>{escape(words)}</td>{cells}</tr>'


def _share(value: float, low: float, high: float) -> float:
    """Give where in its range a value is, in percent."""
    return 100 * min(1.0, max(0.0, (value - low) / (high - low)))
