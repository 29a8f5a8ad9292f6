"""The buttons Effect map and Simplify of the merge panel."""

from __future__ import annotations

from typing import Any

from ..session import effect_jobs, simplify_jobs
from ..session.form import FIELDS
from ..session.jobs import Job
from ..session.session import Session
from .answer import Updates
from .form_values import parse_form
from .gradio_compat import make, on
from .image_form import ImageForm
from .results_panel import Results

_HINT = """
<p class="elemental-hint"><b>Effect map</b> estimates how much each element changes this image. <b>Simplify</b> looks
for the fewest elements whose image is nearly that of this merge: it may differ by the tolerance, in % of what the merge
changes; ticked, for what can be left out so that nearly A's image is left. <b>Element check</b>, above, draws an image
for each element or block.</p>"""


class EffectButtons:
    """The components, and what they do.

    Args:
        session: Of the host.
        images: Says what image is wanted.
    """

    def __init__(self, session: Session, images: ImageForm) -> None:
        self._session = session
        self._images = images
        with make("Row", elem_id="elemental_effect_buttons"):
            self.effects = make("Button", value="Effect map", elem_id="elemental_run_effects", scale=2, min_width=110)
            self.passes = make(
                "Number", label="Passes", value=effect_jobs.PASSES, step=1, elem_id="elemental_passes", scale=5,
                min_width=110,
            )  # fmt: skip
        with make("Row", elem_id="elemental_simplify_buttons"):
            self.simplify = make("Button", value="Simplify", elem_id="elemental_run_simplify", scale=2, min_width=110)
            self.tolerance = make(
                "Number", label="Tolerance (%)", value=simplify_jobs.TOLERANCE, step=1, elem_id="elemental_tolerance",
                scale=2, min_width=110,
            )  # fmt: skip
            self.leave_out = make(
                "Checkbox", label="Find what to leave out", value=False, elem_id="elemental_leave_out",
                scale=3, min_width=190,
            )  # fmt: skip

        make("HTML", value=_HINT, elem_id="elemental_effect_hint")

    def wire(self, results: Results, form_components: list[Any]) -> None:
        """Make the buttons work.

        Args:
            results: Where jobs are shown.
            form_components: Of the merge panel.
        """
        inputs = [*form_components, *self._images.components]
        outputs = results.start_outputs

        def estimate(passes: float | None, *values: Any) -> Updates:
            form = parse_form(values[: len(FIELDS)])

            def begin() -> Job:
                order = self._images.read(values[len(FIELDS) :])
                return effect_jobs.estimate(self._session, form, order.request, passes, order.settings)

            return results.start(begin, form)

        def simplify(tolerance: float | None, leave_out: bool, *values: Any) -> Updates:
            form = parse_form(values[: len(FIELDS)])

            def begin() -> Job:
                order = self._images.read(values[len(FIELDS) :])
                return simplify_jobs.simplify_form(
                    self._session, form, order.request, tolerance, order.settings, leave_out=leave_out
                )

            return results.start(begin, form)

        on(self.effects, "click", estimate, [self.passes, *inputs], outputs)
        on(self.simplify, "click", simplify, [self.tolerance, self.leave_out, *inputs], outputs)
        for field in (self.passes, self.tolerance):  # a number that was refused
            on(field, "change", lambda: results.notice.give(""), [], results.notice.outputs)
