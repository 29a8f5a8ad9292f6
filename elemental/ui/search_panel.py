"""The search panel: what varies, and the images of each round, of which the best are picked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

from ..errors import ElementalError
from ..session import search_jobs as actions
from ..session.form import FIELDS, MergeForm
from ..session.jobs import Job
from ..session.merge_preview import stamp_of
from ..session.search_jobs import SearchForm
from ..session.search_view import NOTHING, draw_search
from ..session.search_wish import say_used
from ..session.session import Session
from ..session.simplify_jobs import simplify_form
from .answer import Updates
from .device_list import DeviceList
from .form_values import parse_form
from .gradio_compat import make, on, update
from .image_form import ImageForm
from .page_memory import PageMemory
from .results_panel import Results, draw_message

_HINT = """
<p class="elemental-hint">Finds ratios by comparing images: each round shows candidates, you pick the best, and the next
round is like those. Models, ratios and all else are those of the <b>Merge</b> panel.</p>"""
_FIELDS = """
<p class="elemental-hint"><b>Prompts</b> and <b>Seeds</b>: each candidate has an image of each prompt with each seed.
<b>Candidates</b>: of a round, 4 to 64. <b>Step</b>: how far the first candidates lie from the merge, as a share of each
range (0 to 1); later rounds choose it themselves.</p>"""
_GOAL = """
<div class="elemental-goal"><label>Goal image (only for looking) <input type="file" accept="image/*"></label>
<img alt="The goal" hidden><button type="button" hidden>Remove</button>
<span class="elemental-hint" role="status">Seen beside each image when it is large. The search is not told of it.</span>
</div>"""
_ONE_LINE = "One line is one number: what stands on one line shares it. A ratio without range goes from 0 to 1."
_VARY = """OUT03
OUT04 OUT05:attn2:0-0.6
blank: eight groups of elements of the effect map"""


class SearchPanel:
    """The components of the panel, and what they do.

    Args:
        session: Of the host.
        images: Says what image is wanted.
        devices: Says where images are made.
        bridges: The hidden components of the tab, by name.
    """

    def __init__(self, session: Session, images: ImageForm, devices: DeviceList, bridges: Mapping[str, Any]) -> None:
        self._session = session
        self._images = images
        self._devices = devices
        self._bridges = bridges
        self.fields: dict[str, Any] = {}
        make("HTML", value=_HINT, elem_id="elemental_search_hint")
        with make(
            "Accordion", label="Begin a search: what varies, and what is compared", open=True,
            elem_id="elemental_search_box",
        ):  # fmt: skip
            self._make_fields()
            # the style shows one of these: with a search, the other
            with make("Row", elem_id="elemental_search_buttons"):
                self.run = make("Button", value="Start search", variant="primary", elem_id="elemental_run_search")
                self.run_another = make("Button", value="Start another search", elem_id="elemental_run_another")
        with make("Row", visible=False, elem_id="elemental_search_earlier") as self.earlier:
            self.unfinished = make(
                "Dropdown", label="An earlier search", choices=[], value=None, elem_id="elemental_searches", scale=3,
                min_width=200,
            )  # fmt: skip
            self.go_on = make("Button", value="Go on with it", elem_id="elemental_go_on", scale=1, min_width=120)
        make("HTML", value=_GOAL, elem_id="elemental_search_goal")
        self.board = make("HTML", value=NOTHING, elem_id="elemental_search_board")

    def _make_fields(self) -> None:
        first = SearchForm()
        self.fields["vary"] = make(
            "Textbox", label="What varies (one a line)", lines=3, max_lines=16, placeholder=_VARY, info=_ONE_LINE,
            elem_id="elemental_vary",
        )  # fmt: skip
        with make("Row", elem_id="elemental_search_options"):
            self.fields["prompts"] = make(
                "Textbox", label="Prompts (one a line)", lines=1, max_lines=8, placeholder="blank: that of the image",
                elem_id="elemental_search_prompts", scale=4, min_width=200,
            )  # fmt: skip
            self.fields["seeds"] = make(
                "Textbox", label="Seeds", lines=1, placeholder="blank: that of the image",
                elem_id="elemental_search_seeds", scale=2, min_width=110,
            )  # fmt: skip
            for name, step in (("candidates", 1), ("step", 0.05)):
                self.fields[name] = make(
                    "Number", label=name.capitalize(), value=getattr(first, name), step=step,
                    elem_id=f"elemental_search_{name}", scale=1, min_width=90,
                )  # fmt: skip
        make("HTML", value=_FIELDS, elem_id="elemental_search_fields")

    @property
    def outputs(self) -> list[Any]:
        """What shows the search."""
        return [self.board, self._bridges["search_images"], self._bridges["search_seen"]]

    def look(self, seen: str = "") -> Updates:
        """Show the search as far as a page has not seen it yet.

        Args:
            seen: What the page was given when it asked last.
        """
        shown = actions.shown_search(self._session)
        html = NOTHING if shown is None else draw_search(shown)
        files = [] if shown is None else shown.files
        now = _Seen(stamp_of(html), stamp_of(repr(files)))
        if str(now) == seen:
            return {}
        updates: Updates = {self.board: html, self._bridges["search_seen"]: str(now)}
        if now.files != _Seen.read(seen).files:
            updates[self._bridges["search_images"]] = update(value=files)
        return updates

    def wire(self, results: Results, form_components: Sequence[Any], memory: PageMemory) -> None:
        """Make the panel work.

        Args:
            results: Where jobs are shown.
            form_components: Of the merge panel.
            memory: Fills the form.
        """
        session, names, images, devices = self._session, list(self.fields), self._images, self._devices
        outputs = [*results.start_outputs, *self.outputs]

        def shown(begin: Callable[[], Job], form: MergeForm | None = None) -> Updates:
            return {**results.start(begin, form), **self.look()}

        def start(*values: Any) -> Updates:
            values, elsewhere = devices.split(values)
            form = parse_form(values[len(names) : len(names) + len(FIELDS)])

            def begin() -> Job:
                order = images.read(values[len(names) + len(FIELDS) :])
                asked = parse_search(dict(zip(names, values, strict=False)))
                return actions.start(session, form, asked, order.request, order.settings, elsewhere=elsewhere)

            return shown(begin, form)

        def go_on(choice: str | None, *values: Any) -> Updates:
            _, elsewhere = devices.split(values)
            said = _ask(results, lambda: actions.go_on(session, choice or "", elsewhere=elsewhere))
            return {**said, **self.look(), **self._list_searches(choice)}

        inputs = [*self.fields.values(), *form_components, *images.components, *devices.components]
        for button in (self.run, self.run_another):
            on(button, "click", start, inputs, outputs)
        on(self.go_on, "click", go_on, [self.unfinished, *devices.components], [*outputs, *self._list_outputs])
        self._wire_board(results)
        self._wire_uses(results, form_components, memory)

    def _wire_board(self, results: Results) -> None:
        asked, answered = self._bridges["search_act"], self._bridges["search_answer"]

        def act(request: str, *values: Any) -> Updates:
            wish, _, number = request.rpartition("\n")
            _, elsewhere = self._devices.split(values)
            said = _ask(results, lambda: actions.act(self._session, wish, elsewhere=elsewhere))
            return {**said, **self.look(), answered: _answer(number)}

        inputs = [asked, *self._devices.components]
        on(asked, "change", act, inputs, [*results.start_outputs, *self.outputs, answered])

    def _wire_uses(self, results: Results, form_components: Sequence[Any], memory: PageMemory) -> None:
        session, images = self._session, self._images
        asked, answered = self._bridges["search_use"], self._bridges["search_answer"]

        def use(request: str, *values: Any) -> Updates:
            wish, _, number = request.rpartition("\n")
            present = parse_form(values[: len(FIELDS)])
            try:
                found = actions.found_form(session, wish, present)
            except ElementalError as exc:
                return {**results.notice.give(draw_message("failed", str(exc))), answered: _answer(number)}
            session.keep_form(present)
            said = results.notice.give(draw_message("done", say_used(wish)))
            if wish.startswith("simplify"):
                said = results.start(lambda: simplify(found, values[len(FIELDS) :]))
            return {**memory.fill(found.to_dict()), **said, answered: _answer(number)}

        def simplify(form: MergeForm, values: Sequence[Any]) -> Job:
            order = images.read(values)
            return simplify_form(session, form, order.request, settings=order.settings)

        outputs = list(dict.fromkeys([*memory.outputs, *results.start_outputs, answered]))
        on(asked, "change", use, [asked, *form_components, *images.components], outputs)

    def wire_list(self, panel: Any, ended: Any) -> None:
        """Keep the list of searches up to date.

        Args:
            panel: The tab of this panel, which fills the list when it is opened.
            ended: A hidden button that the page presses when a job has ended.
        """
        on(panel, "select", self._list_searches, [self.unfinished], self._list_outputs)
        on(panel, "select", self.look, [], self.outputs)
        on(ended, "click", self._list_searches, [self.unfinished], self._list_outputs)

    @property
    def _list_outputs(self) -> list[Any]:
        return [self.unfinished, self.earlier]

    def _list_searches(self, choice: str | None) -> Updates:
        """List the searches that could be gone on with; without one there is no row for them."""
        names = actions.searches(self._session)
        listed = update(choices=names, value=choice if choice in names else next(iter(names), None))
        return {self.unfinished: listed, self.earlier: update(visible=bool(names))}


def parse_search(data: Mapping[str, Any]) -> SearchForm:
    """Read the panel's fields."""
    texts = {name: data[name] or "" for name in ("vary", "prompts", "seeds")}
    return SearchForm(**texts, candidates=data["candidates"], step=data["step"])


def _ask(results: Results, begin: Callable[[], Job | None]) -> Updates:
    """Do what need not have a job, and show the job, or why it is refused."""
    try:
        job = begin()
    except ElementalError as exc:
        return results.notice.give(draw_message("failed", str(exc)))
    return results.notice.give("") if job is None else results.start(lambda: job)


class _Seen(NamedTuple):
    """Stamps of what a page shows of a search: the whole, and its files."""

    whole: str = ""
    files: str = ""

    @classmethod
    def read(cls, text: str) -> _Seen:
        whole, _, files = (text or "").partition(" ")
        return cls(whole, files)

    def __str__(self) -> str:
        return f"{self.whole} {self.files}"


def _answer(number: str) -> str:
    return f'<i data-number="{escape(number)}"></i>'
