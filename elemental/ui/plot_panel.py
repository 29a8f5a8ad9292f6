"""The plot panel: two axes with their values, an estimate, and the run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from typing import Any

from ..errors import ElementalError
from ..runs.axes.catalogue import AXES
from ..runs.sample_file import Sample
from ..session import plot_and_check_jobs as run_actions
from ..session.form import FIELDS, MergeForm
from ..session.jobs import JobState
from ..session.run_plans import PlotForm, describe_estimate, plan_plot
from ..session.session import Session
from .answer import Answer, Updates
from .form_values import parse_form
from .gradio_compat import make, on, update
from .image_form import ImageForm
from .results_panel import Results

_NONE = "none"
_HINT = """
<p class="elemental-hint">Every cell is the merge of the <b>Merge</b> panel with these values put over it. Blank lines
separate whole specs, commas or lines the rest; <code>|</code> begins another grid.</p>"""


class PlotPanel:
    """The components of the panel, and what they do.

    Args:
        session: Of the host.
        images: Says what image is wanted.
        samples: To learn from.
    """

    def __init__(self, session: Session, images: ImageForm, samples: Sequence[Sample]) -> None:
        self._session = session
        self._images = images
        self._samples = {f"{sample.number}  {sample.title}": sample for sample in samples if sample.axes}
        make("HTML", value=_HINT, elem_id="elemental_plot_hint")
        self.fields: dict[str, Any] = {}
        for side, place, first in (("x", "columns", "elemental"), ("y", "rows", _NONE)):
            with make("Row"):
                self.fields[f"{side}_type"] = make(
                    "Dropdown", label=f"{side.upper()}: {place}", choices=[_NONE, *AXES] if side == "y" else list(AXES),
                    value=first, elem_id=f"elemental_{side}_type", scale=1, min_width=150,
                )  # fmt: skip
                self.fields[side] = make(
                    "Textbox", label="Values", lines=4, max_lines=16, elem_id=f"elemental_{side}_values", scale=3,
                    min_width=240,
                )  # fmt: skip
        with make("Row"):
            self.sample = make(
                "Dropdown", label="Sample to load", choices=list(self._samples), value=None,
                elem_id="elemental_plot_sample", scale=3,
            )  # fmt: skip
            self.fields["compare"] = make(
                "Checkbox", label="Show difference to first column (%)", value=False,
                elem_id="elemental_compare", scale=2,
            )  # fmt: skip
        with make("Row"):
            self.run = make("Button", value="Run plot", variant="primary", elem_id="elemental_run_plot")
            self.estimate = make("Button", value="Estimate", elem_id="elemental_estimate_plot")
        self.answer = Answer("elemental_plot_answer")
        with make("Row"):
            self.unfinished = make(
                "Dropdown", label="Unfinished runs (plots and checks)", choices=[], value=None,
                elem_id="elemental_unfinished", scale=3,
            )  # fmt: skip
            self.resume = make("Button", value="Resume", elem_id="elemental_resume", scale=1, min_width=90)

    def wire(self, results: Results, form_components: Sequence[Any]) -> None:
        """Make the panel work.

        Args:
            results: Where jobs are shown.
            form_components: Of the merge panel.
        """
        session, names = self._session, list(self.fields)
        inputs = [*self.fields.values(), *form_components, *self._images.components]

        def read(values: Sequence[Any]) -> tuple[Any, ...]:
            plot, rest = dict(zip(names, values[: len(names)], strict=True)), values[len(names) :]
            session.panels.update(plot)
            order = self._images.read(rest[len(FIELDS) :])
            return session, form_of(values), parse_plot(plot), order.request, order.settings

        def form_of(values: Sequence[Any]) -> MergeForm:
            return parse_form(values[len(names) : len(names) + len(FIELDS)])

        def plot_of(values: Sequence[Any]) -> PlotForm:
            return parse_plot(dict(zip(names, values, strict=False)))

        def run(*values: Any) -> Updates:
            return results.start(lambda: run_actions.run_plot(*read(values)), form_of(values))

        def estimate(*values: Any) -> Updates:
            html = draw_answer(lambda: describe_estimate(plan_plot(*read(values)[:4])[1]))
            return self.answer.give(html, form=form_of(values), fields=plot_of(values))

        def renew(*values: Any) -> Updates:
            return self.answer.renew(values[-1], fields=plot_of(values))

        def resume(choice: str | None, *values: Any) -> Updates:
            return results.start(
                lambda: run_actions.resume(session, choice or "", lambda: self._images.read(values).settings)
            )

        on(self.run, "click", run, inputs, results.start_outputs)
        on(self.estimate, "click", estimate, inputs, self.answer.outputs)
        on(self.resume, "click", resume, [self.unfinished, *self._images.components], results.start_outputs)
        on(self.sample, "change", self._load_sample, [self.sample], [*self.fields.values(), *self.answer.outputs])
        for field in self.fields.values():
            on(field, "change", renew, [*self.fields.values(), self.answer.about], self.answer.outputs)

    def wire_list(self, panel: Any, ended: Any) -> None:
        """Keep the list of unfinished runs up to date.

        Args:
            panel: The tab of this panel, which fills the list when it is opened.
            ended: A hidden button that the page presses when a run has ended.
        """

        def list_runs(choice: str | None) -> Any:
            runs = [words for words, _ in run_actions.unfinished_runs(self._session)]
            chosen = (choice or "").partition(":")[0]
            still = (words for words in runs if words.partition(":")[0] == chosen)
            return update(choices=runs, value=next(still, runs[0] if runs else None))

        def list_after_run(choice: str | None) -> Any:
            job = self._session.board.job
            is_unfinished = job is not None and job.view.state in (JobState.STOPPED, JobState.FAILED)
            return list_runs(None if is_unfinished else choice)  # the latest is what can be resumed now

        on(panel, "select", list_runs, [self.unfinished], [self.unfinished])
        on(ended, "click", list_after_run, [self.unfinished], [self.unfinished])

    def _load_sample(self, title: str | None) -> Updates:
        sample = self._samples.get(title or "")
        if sample is None:
            return {}
        axes = {f"{side}_type": kind for side, (kind, _) in sample.axes.items()}
        axes |= {side: values for side, (_, values) in sample.axes.items()}
        data = {"y_type": "", "y": "", "compare": "--compare" in sample.options, **axes}
        return {**self.fill(data), **self.answer.give(explain_sample(sample))}

    def fill(self, data: dict[str, Any]) -> Updates:
        """Fill those fields that there is something for."""
        values = {name: (value or _NONE) if name == "y_type" else value for name, value in data.items()}
        return {self.fields[name]: update(value=values[name]) for name in self.fields if name in values}


def parse_plot(data: dict[str, Any]) -> PlotForm:
    """Read the panel's fields."""
    y_type = data["y_type"] if data["y_type"] != _NONE else ""
    return PlotForm(data["x_type"] or "", data["x"] or "", y_type or "", data["y"] or "", bool(data["compare"]))


def explain_sample(sample: Sample) -> str:
    """Draw what a sample shows, and what the merge panel has to say for it."""
    options = sample.options.replace("--compare", "").strip()
    merge = f"\n\nSet in the Merge panel: {options}" if options else ""
    return draw_answer(lambda: f"{sample.about}{merge}")


def draw_answer(ask: Callable[[], str]) -> str:
    """Draw what a question gives, or why it cannot be answered."""
    try:
        return f'<div class="elemental-message done" role="status"><pre>{escape(ask())}</pre></div>'
    except ElementalError as exc:
        return f'<div class="elemental-message failed" role="alert"><pre>{escape(str(exc))}</pre></div>'
