"""The plot panel: axes with their values, an estimate, and the run."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from ..hosts.base import HostSettings
from ..runs.axes.base import SIDES
from ..runs.sample_file import Sample
from ..session import plot_and_check_jobs as run_actions
from ..session.form import FIELDS, MergeForm
from ..session.jobs import JobState
from ..session.run_plans import PlotForm, describe_estimate, plan_plot
from ..session.run_times import describe_time
from ..session.session import Session
from .answer import Answer, Updates
from .device_list import DeviceList
from .form_values import parse_form
from .gradio_compat import make, on, update
from .image_form import ImageForm
from .merge_panel import MergePanel
from .page_memory import PageMemory
from .plot_axes import PlotAxes, chosen
from .results_panel import Results
from .sample_list import draw_answer, wire_sample

_HINT = """
<p class="elemental-hint">Every cell is the merge of the <b>Merge</b> panel with these values put over it.
<code>|</code> between values of X or Y begins another grid; each value of Z is one.</p>"""


class PlotPanel:
    """The components of the panel, and what they do.

    Args:
        session: Of the host.
        images: Says what image is wanted.
        devices: Says where images are made.
        samples: To learn from.
        picked: A hidden text that says what was picked for an axis.
    """

    def __init__(
        self, session: Session, images: ImageForm, devices: DeviceList, samples: Sequence[Sample], picked: Any
    ) -> None:
        self._session = session
        self._images = images
        self._devices = devices
        self._samples = {f"{sample.number}  {sample.title}": sample for sample in samples if sample.axes}
        make("HTML", value=_HINT, elem_id="elemental_plot_hint")
        self._axes = PlotAxes(session, picked)
        self.fields: dict[str, Any] = dict(self._axes.fields)
        with make("Row", elem_id="elemental_plot_options"):
            self.sample = make(
                "Dropdown", label="Sample to load", choices=list(self._samples), value=None,
                elem_id="elemental_plot_sample", scale=3, min_width=160,
            )  # fmt: skip
            self.fields["compare"] = make(
                "Checkbox", label="Show difference to first column (%)", value=False,
                elem_id="elemental_compare", scale=2, min_width=140,
            )  # fmt: skip
            self.fields["without_rules"] = self._axes.make_box()
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

    def wire(self, results: Results, form_components: Sequence[Any], memory: PageMemory) -> None:
        """Make the panel work.

        Args:
            results: Where jobs are shown.
            form_components: Of the merge panel.
            memory: Fills this panel and that one from a sample.
        """
        session, devices = self._session, self._devices
        inputs = [*self.fields.values(), *form_components, *self._images.components, *devices.components]

        def run(*values: Any) -> Updates:
            values, elsewhere = devices.split(values)
            begin = partial(run_actions.run_plot, elsewhere=elsewhere)
            return results.start(lambda: begin(*self._read(values)), self._form(values))

        def resume(choice: str | None, *values: Any) -> Updates:
            values, elsewhere = devices.split(values)

            def present() -> HostSettings | None:
                return self._images.read(values).settings

            return results.start(lambda: run_actions.resume(session, choice or "", present, elsewhere=elsewhere))

        on(self.run, "click", run, inputs, results.start_outputs)
        resumed = [self.unfinished, *self._images.components, *devices.components]
        on(self.resume, "click", resume, resumed, results.start_outputs)
        self._wire_estimate(inputs)
        self._axes.wire(self.answer)
        wire_sample(self.sample, self._samples, memory, self.answer)

    def _read(self, values: Sequence[Any]) -> tuple[Any, ...]:
        """Read what is asked for: what :func:`run_actions.run_plot` takes first, from the fields and the image's."""
        order = self._images.read(values[len(self.fields) + len(FIELDS) :])
        return self._session, self._form(values), self._plot(values), order.request, order.settings

    def _form(self, values: Sequence[Any]) -> MergeForm:
        return parse_form(values[len(self.fields) : len(self.fields) + len(FIELDS)])

    def _plot(self, values: Sequence[Any]) -> PlotForm:
        return parse_plot(dict(zip(self.fields, values, strict=False)))

    def _wire_estimate(self, inputs: Sequence[Any]) -> None:
        devices = self._devices

        def estimate(*values: Any) -> Updates:
            values, elsewhere = devices.split(values)
            html = draw_answer(lambda: describe(self._read(values), elsewhere))
            return self.answer.give(html, form=self._form(values), fields=(self._plot(values), elsewhere))

        def describe(order: Sequence[Any], elsewhere: bool) -> str:
            plot, planned = plan_plot(*order[:4])
            return describe_estimate(planned, describe_time(self._session, plot, elsewhere=elsewhere))

        def renew(about: Any, *values: Any) -> Updates:
            values, elsewhere = devices.split(values)
            return self.answer.renew(about, fields=(self._plot(values), elsewhere))

        on(self.estimate, "click", estimate, inputs, self.answer.outputs)
        own = [*self.fields.values(), *devices.components]
        for field in own:
            on(field, "change", renew, [self.answer.about, *own], self.answer.outputs)

    def wire_list(self, panel: Any, ended: Any, merge: MergePanel) -> None:
        """Keep the list of unfinished runs up to date, and that of models.

        Args:
            panel: The tab of this panel, which fills the list when it is opened.
            ended: A hidden button that the page presses when a job has ended.
            merge: Has the lists of models, of which there may be one more then.
        """

        def list_runs(choice: str | None) -> Any:
            runs = [words for words, _ in run_actions.unfinished_runs(self._session)]
            chosen = (choice or "").partition(":")[0]
            still = (words for words in runs if words.partition(":")[0] == chosen)
            return update(choices=runs, value=next(still, runs[0] if runs else None))

        def list_after_run(choice: str | None) -> Updates:
            job = self._session.board.job
            is_unfinished = job is not None and job.view.state in (JobState.STOPPED, JobState.FAILED)
            runs = list_runs(None if is_unfinished else choice)  # the latest is what can be resumed now
            return {self.unfinished: runs, **merge.choices()}

        on(panel, "select", list_runs, [self.unfinished], [self.unfinished])
        on(panel, "select", self._axes.list_again, self._axes.kinds, self._axes.hints)
        on(ended, "click", list_after_run, [self.unfinished], [self.unfinished, *merge.lists])


def parse_plot(data: dict[str, Any]) -> PlotForm:
    """Read the panel's fields."""
    axes = {f"{side}_type": chosen(data[f"{side}_type"]) for side in SIDES}
    texts = {side: data[side] or "" for side in SIDES}
    return PlotForm(**axes, **texts, compare=bool(data["compare"]), without_rules=bool(data["without_rules"]))
