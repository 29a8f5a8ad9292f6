"""The rounds of a search on the command line: images are made, somebody judges them, and so on."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import RecipeError, Stopped
from .command import Interrupts
from .judge_options import JudgeOptions
from .output import count_of, print_json, print_lines, printable
from .progress import ProgressBar, run_watcher
from .run_options import resume_command

if TYPE_CHECKING:
    from ..hosts.base import Host
    from ..merge.files.model_locator import ModelLocator
    from ..runs.image_maker import ImageMaker
    from ..searches.judges import Score
    from ..searches.search_folder import Search

_ASK = "best first, such as 3 1 7; 0 none is better; u undo; q stop: "


@dataclass(frozen=True)
class Judging:
    """How the rounds of a search are made and judged.

    Attributes:
        maker: Makes the images.
        locator: Finds the models.
        judge: Who judges.
        scorer: What scores, unless a person judges all rounds.
        rounds: How many rounds there are in all; None until a person stops.
        command: The words after "elemental" that go on with the search, without its folder.
        json: Whether to print JSON alone.
    """

    maker: Host | ImageMaker
    locator: ModelLocator
    judge: JudgeOptions
    scorer: Score | None
    rounds: int | None
    command: str
    json: bool

    def again(self, search: Search) -> str:
        """Give the command that goes on with a search."""
        return resume_command(self.command, search.folder)


def judge_rounds(search: Search, judging: Judging, interrupts: Interrupts) -> None:
    """Make and judge rounds until there are as many as were asked for, or a person stops; then print what was found.

    Raises:
        ElementalError: Images cannot be made or judged.
        Stopped: The user asked for it; what is done is kept.
    """
    try:
        while judging.rounds is None or search.round.number <= judging.rounds:
            _make_images(search, judging, interrupts)
            if not judging.judge.asks(search.round.number):
                _score(search, judging)
            elif not _ask(search):
                break
    except KeyboardInterrupt as exc:
        raise Stopped(f"Stopped. To go on: {judging.again(search)}") from exc
    _print_result(search, judging)


def _make_images(search: Search, judging: Judging, interrupts: Interrupts) -> None:
    if search.is_complete and not search.failed and search.sheet is not None:
        return
    with ProgressBar() as bar:
        watcher = run_watcher(bar, interrupts)
        result = search.make_images(judging.maker, watcher=watcher, locator=judging.locator)
    if result.waiting:
        waiting = count_of(result.waiting, "image")
        raise Stopped(f"Stopped; {waiting} of round {search.round.number} not made. To go on: {judging.again(search)}")


def _score(search: Search, judging: Judging) -> None:
    from ..searches.judges import judge

    assert judging.scorer is not None  # only a person judges without one
    judged = judge(search, judging.scorer, judging.judge.name)
    _note(f"round {search.round.number}, candidate {number}: {fault}" for number, fault in judged.faults.items())
    search.pick(judged.order, scores=judged.scores)


def _ask(search: Search) -> bool:
    """Ask a person about a round until it is judged or taken back; False if they stop."""
    from ..searches.judges import faults_of

    print_lines([f"Round {search.round.number}: {search.sheet}"])
    for each in search.round.candidates:
        print_lines([f"  {each.number}: {', '.join(search.labels(each.number))}"])
    _note(f"candidate {number}: {fault}" for number, fault in faults_of(search).items())
    while True:
        try:
            answer = _read_line()
            if answer is None or answer in ("q", "quit"):
                return False
            if answer in ("u", "undo"):
                search.undo()
            else:
                search.pick(_read_numbers(answer))
        except RecipeError as exc:
            print_lines([str(exc)])
        else:
            return True


def _read_line() -> str | None:
    """Read an answer; None at the end of the input."""
    print(_ASK, end="", flush=True)
    line = sys.stdin.readline()
    if not line:
        print_lines([""])
        return None
    return line.strip().lower()


def _read_numbers(answer: str) -> list[int]:
    words = answer.replace(",", " ").split()
    for word in words:
        if not word.isdecimal():
            raise RecipeError(f'"{word}" is no number of a candidate: type {_ASK.removesuffix(": ")}.')
    return [int(word) for word in words]


def _print_result(search: Search, judging: Judging) -> None:
    from ..searches.search_results import search_to_dict

    files = search.write_results()
    if judging.json:
        print_json({**search_to_dict(search), "files": [str(path) for path in files], "resume": judging.again(search)})
        return
    print_lines([*_table(search), "", *_best(search), "", *map(str, files), f"To go on: {_longer(search, judging)}"])


def _longer(search: Search, judging: Judging) -> str:
    """Give the command that goes on, with more rounds than there were."""
    more = "" if judging.rounds is None else f" --rounds {max(judging.rounds, search.round.number - 1) + 4}"
    return judging.again(search) + more


def _table(search: Search) -> Iterator[str]:
    from ..searches.search_results import describe_said

    rows = [
        (str(past.number), describe_said(past), "" if past.score is None else f"{past.score:.6g}")
        for past in search.past
    ]
    yield from _aligned([("round", "picked", "score"), *rows]) if rows else ["No round was judged."]


def _aligned(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()


def _best(search: Search) -> Iterator[str]:
    from ..searches.search_results import spec_of_best
    from ..searches.steering import BEST

    yield f"The best: {', '.join(search.labels(BEST))}"
    if spec := spec_of_best(search):
        yield "Its spec:"
        yield spec


def _note(texts: Iterator[str]) -> None:
    for text in texts:
        print(printable(f"note: {text}"), file=sys.stderr)
