"""The Search panel: a search that all pages of a host share, what its buttons ask for, and the jobs of its rounds."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..errors import ElementalError, ImageError, RecipeError
from ..hosts.base import HostSettings
from ..images.image_request import ImageRequest
from ..recipe.recipe import MergeRecipe
from ..runs.axes.context import AxisContext, make_axis_context
from ..runs.axes.values import find_axis
from ..runs.differentiated_merge import single_images
from ..runs.estimate import MOST_CELLS, refuse_many
from ..runs.run_record import PageRecord
from ..searches.judges import faults_of
from ..searches.search_folder import PastRound as JudgedRound
from ..searches.search_folder import Search
from ..searches.search_order import SearchOrder
from ..searches.search_record import SaidRestart, holds_search, read_search
from ..searches.steering import BEST, Settings
from ..workflows import identify_models
from .form import KEEP, MergeForm
from .job_texts import describe_order
from .jobs import Job, JobState
from .run_plans import batch_notes
from .search_groups import groups_that_vary
from .search_round import round_work
from .search_view import PastRound, RoundState, ShownCandidate, ShownSearch, name_best
from .search_wish import Wish
from .session import Session

NAME = "Search"
_FOLDER = "searches"
_MOST_LISTED = 50
_OTHER_PAGE = "This round was judged on another page. Its new images are shown now."
_BEING_MADE = "The images of this round are still being made. Wait until they are there, or press Stop."


@dataclass(frozen=True)
class SearchForm:
    """The fields of the search panel.

    Attributes:
        vary: What varies, one text a line; blank for groups of elements of the effect map.
        prompts: The prompts, one a line; blank for that of the image.
        seeds: The seeds; blank for that of the image.
        candidates: How many a round has.
        step: The standard deviation of the first candidates, as a share of each number's range.
    """

    vary: str = ""
    prompts: str = ""
    seeds: str = ""
    candidates: float | None = 8
    step: float | None = 0.3


@dataclass
class OpenSearch:
    """The search that the pages of a host show.

    Attributes:
        search: The search.
        job: That of its last round whose images were made since it was opened; None for none.
        lock: Held while something is said of a round: pages may say different things at once.
        faults: Which candidates of the last round that was shown with all its images show nothing, and why, by what
            that depends on: the candidates, and those that failed.
    """

    search: Search
    job: Job | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)
    faults: Mapping[object, Mapping[int, str]] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """What tells it from others."""
        return self.search.folder.name

    @property
    def busy(self) -> bool:
        """Whether the images of its round are being made, or will be."""
        return self.job is not None and not self.job.view.ended


def start(
    session: Session,
    form: MergeForm,
    asked: SearchForm,
    request: ImageRequest,
    settings: HostSettings | None = None,
    *,
    elsewhere: bool = False,
) -> Job:
    """Start a search in a new folder, whose first round is made as a job.

    Args:
        session: The session of the page.
        form: The merge that the search begins from.
        asked: What varies, and what is compared.
        request: The image.
        settings: What else the host's own page says of the images.
        elsewhere: Whether the cluster makes them.

    Raises:
        ElementalError: The form or a field is not valid, or too many jobs are waiting.
    """
    recipe = identify_models(session.recipe(replace(form, dtype=KEEP)), locator=session.locator)
    context = _context(session, recipe)
    requests = _requests(session, asked, request, context)
    steering = Settings(_candidates(asked), _step(asked), request.seed % 2**32)
    refuse_many((1 + steering.population) * len(requests), MOST_CELLS)
    lines = tuple(line.strip() for line in asked.vary.splitlines() if line.strip())
    page = PageRecord(None if settings is None else settings.to_dict(), batch_notes(request, "One image each is made"))
    if lines:
        SearchOrder(recipe, lines, requests, steering).space(context)  # mistakes in it are refused at once

    def begin(job: Job) -> Search:
        found = lines or groups_that_vary(session, recipe, requests[0], job)
        folder = _new_folder(session.host.output_folder() / _FOLDER)
        search = Search.begin(folder, SearchOrder(recipe, found, requests, steering), context, page=page)
        session.search = OpenSearch(search, job)
        return search

    count = (1 + steering.population) * len(requests)
    words = describe_order(recipe, requests[0], "a new search")
    work = round_work(session, begin, count, settings, elsewhere=elsewhere)
    return session.board.start(NAME, work, words=words, inputs=(form, asked, request, elsewhere))


def act(session: Session, wish: str, *, elsewhere: bool = False) -> Job | None:
    """Do what a button of the panel asks for.

    Args:
        session: The session of the page.
        wish: What the page has sent: "next", "none", "undo", "anew" or "go-on"; the search, the round, and what is
            picked, apart by blanks.
        elsewhere: Whether the cluster makes the images.

    Returns:
        The job that makes images; None if none has to be made.

    Raises:
        ElementalError: There is no such search or round any more, nothing that can be learned from is picked, images
            are being made, or too many jobs are waiting.
    """
    asked = Wish.read(wish)
    opened = _find_open(session, asked)
    session.board.refuse_many()
    with opened.lock:
        if asked.round != opened.search.round.number:
            raise ImageError(_OTHER_PAGE)
        if opened.busy:
            raise ImageError(_BEING_MADE)
        _say(opened.search, asked)
        tried_again = asked.act == "go-on" and _lacks_images(opened.search)
        is_wanted = tried_again or not opened.search.is_complete
        return _make_round(session, opened, elsewhere=elsewhere) if is_wanted else None


def _lacks_images(search: Search) -> bool:
    """Tell whether images of this round are missing, such as those that could not be made."""
    return any(None in search.images(number) for number in (BEST, *(each.number for each in search.round.candidates)))


def _say(search: Search, asked: Wish) -> None:
    if asked.act == "next":
        search.pick(asked.order)
    elif asked.act == "none":
        search.pick((BEST,))
    elif asked.act == "undo":
        search.undo()
    elif asked.act == "anew":
        search.restart(search.round.number, BEST, last_step(search) / 2)


def last_step(search: Search) -> float:
    """Give the step that a search has begun with last."""
    restarts = [past.said.step for past in search.past if isinstance(past.said, SaidRestart)]
    return restarts[-1] if restarts else search.order.settings.step


def found_form(session: Session, wish: str, present: MergeForm) -> MergeForm:
    """Give the form of a candidate: of "use" that which is picked first, or else the best so far; of others the best.

    Args:
        session: The session of the page.
        wish: As in :func:`act`.
        present: What the form says now; the number format of files is kept.

    Raises:
        ElementalError: There is no such search, round or candidate any more, or no form can say this merge.
    """
    asked = Wish.read(wish)
    proposed = _find_open(session, asked).search.round
    number = asked.used
    if number != BEST and asked.round != proposed.number:
        raise ImageError(_OTHER_PAGE)
    found = next((each for each in (proposed.best, *proposed.candidates) if each.number == number), None)
    if found is None:
        raise ImageError(f"There is no candidate {number} in this round.")
    return replace(session.form_of(found.recipe), dtype=present.dtype)


def searches(session: Session) -> list[str]:
    """List the searches in the output folder but the one that is open, the latest first."""
    folder = session.host.output_folder() / _FOLDER
    known = "" if session.search is None else session.search.key
    records = [path for path in folder.glob("*/search.json") if path.is_file() and path.parent.name != known]
    records.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    listed = []
    for path in records[:_MOST_LISTED]:
        with suppress(ElementalError):  # written by another version
            listed.append(f"{path.parent.name}: round {1 + len(read_search(path.parent).said)}")
    return listed


def go_on(session: Session, choice: str, *, elsewhere: bool = False) -> Job | None:
    """Open a search of the output folder, and make what its round lacks.

    Args:
        session: The session of the page.
        choice: A text of :func:`searches`, whose round may be outdated.
        elsewhere: Whether the cluster makes the images.

    Returns:
        The job that makes images; None if none has to be made.

    Raises:
        ElementalError: It cannot be read, its models are gone, or too many jobs are waiting.
    """
    name = choice.partition(":")[0].strip()
    if not name:
        raise ImageError("Choose the search to go on with from the list.")
    folder = session.host.output_folder() / _FOLDER / name
    if folder.name != name or not holds_search(folder):
        raise ImageError(f'There is no search "{name}" any more; choose another one.')
    if session.search is not None and session.search.busy:
        raise ImageError(_BEING_MADE)
    session.board.refuse_many()
    opened = OpenSearch(Search.open(folder, _context(session, read_search(folder).order.recipe)))
    _settings_of(session, opened.search)
    session.search = opened
    with opened.lock:
        return None if opened.search.is_complete else _make_round(session, opened, elsewhere=elsewhere)


def shown_search(session: Session) -> ShownSearch | None:
    """Give what the pages show of the search that is open; None if there is none."""
    opened: OpenSearch | None = session.search
    if opened is None:
        return None
    search, state = opened.search, _state(opened)  # which reads the record of the round: once is enough
    proposed, faults = search.round, _faults(opened, state)
    shown = [
        ShownCandidate(each.number, search.images(each.number), each.values, faults.get(each.number, ""))
        for each in (proposed.best, *proposed.candidates)
    ]
    return ShownSearch(
        opened.key,
        proposed.number,
        state,
        tuple(shown),
        tuple(f"{request.prompt}, seed {request.seed}" for request in search.order.requests),
        tuple(number.name for number in search.space.numbers),
        tuple((number.low, number.high) for number in search.space.numbers),
        tuple(PastRound(_words(past), past.values) for past in search.past),
        "\n".join(search.order.vary),
    )


def _faults(opened: OpenSearch, state: RoundState) -> Mapping[int, str]:
    """Say which candidates show nothing; images are looked at once, when all of them are there."""
    search, failed = opened.search, opened.search.failed
    if state is not RoundState.READY:
        return failed
    key = (tuple(each.point for each in search.round.candidates), tuple(failed.items()))
    faults = opened.faults.get(key)
    if faults is None:
        faults = faults_of(search)
        opened.faults = {key: faults}
    return faults


def _words(past: JudgedRound) -> str:
    if isinstance(past.said, SaidRestart):
        return f"anew, step {past.said.step:g}"
    best = name_best(first=past.number == 1)
    return "none" if past.order == (BEST,) else ", ".join(best if not each else str(each) for each in past.order)


def _state(opened: OpenSearch) -> RoundState:
    if opened.job is not None and opened.busy:
        return RoundState.PLANNED if opened.job.view.state is JobState.WAITING else RoundState.MADE
    return RoundState.READY if opened.search.is_complete else RoundState.STOPPED


def _find_open(session: Session, asked: Wish) -> OpenSearch:
    opened: OpenSearch | None = session.search
    if opened is None or opened.key != asked.key:
        raise ImageError("Another search is open by now; it is shown here. Go on with this one from the list.")
    return opened


def _make_round(session: Session, opened: OpenSearch, *, elsewhere: bool) -> Job:
    """Have the images of the round made."""
    order, number = opened.search.order, opened.search.round.number
    settings = _settings_of(session, opened.search)
    count = order.settings.population * len(order.requests)
    work = round_work(session, lambda _job: opened.search, count, settings, elsewhere=elsewhere)
    words = describe_order(order.recipe, order.requests[0], f"round {number}")
    opened.job = session.board.start(NAME, work, words=words, inputs=(opened.key, number))
    return opened.job


def _settings_of(session: Session, search: Search) -> HostSettings | None:
    kept = search.page.settings
    return None if kept is None else session.host.read_settings(kept)


def _context(session: Session, recipe: MergeRecipe) -> AxisContext:
    context = make_axis_context(session.host, recipe, locator=session.locator)
    return replace(context, find_model=session.find_model)


def _requests(
    session: Session, asked: SearchForm, request: ImageRequest, context: AxisContext
) -> tuple[ImageRequest, ...]:
    """Give the images of each candidate: each prompt with each seed."""
    prompts = [line.strip() for line in asked.prompts.splitlines() if line.strip()] or [request.prompt]
    seeds = _seeds(asked.seeds, context) or [request.seed]
    refuse_many(len(prompts) * len(seeds), MOST_CELLS)
    wanted = [replace(request, prompt=prompt, seed=seed) for prompt in prompts for seed in seeds]
    return single_images(wanted, session.host)


def _seeds(text: str, context: AxisContext) -> Sequence[int]:
    axis = find_axis("seed")
    try:
        return [value.meaning for piece in axis.split(text) for value in axis.read(piece, context)]
    except RecipeError as exc:
        raise RecipeError(f"Seeds: {exc} Give {axis.form}.") from exc


def _candidates(asked: SearchForm) -> int:
    if asked.candidates is None or asked.candidates != int(asked.candidates):
        raise RecipeError("Candidates is blank or no whole number; a round can have 4 to 64.")
    return int(asked.candidates)


def _step(asked: SearchForm) -> float:
    if asked.step is None:
        raise RecipeError("Step is blank; enter a number above 0 and at most 1.")
    return float(asked.step)


def _new_folder(parent: Path) -> Path:
    """Give a path named after the time that does not exist yet."""
    name = time.strftime("%Y-%m-%d_%H-%M-%S")
    taken = (f"{name}_{count}" for count in range(2, MOST_CELLS))
    return next(folder for folder in map(parent.joinpath, (name, *taken)) if not folder.exists())
