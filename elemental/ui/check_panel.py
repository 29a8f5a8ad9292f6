"""The check panel: elements and a ratio, and the run that ranks what each of them does to an image."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from typing import Any

from ..errors import ImageError
from ..runs.sample_file import Sample
from ..session import plot_and_check_jobs as run_actions
from ..session.form import FIELDS, MergeForm
from ..session.run_plans import CheckForm, describe_estimate, plan_check
from ..session.run_times import describe_time
from ..session.session import Session
from .answer import Answer, Updates
from .device_list import DeviceList
from .form_values import parse_form
from .gradio_compat import make, on
from .image_form import ImageForm
from .page_memory import PageMemory
from .request_guard import file_below
from .results_panel import Results
from .sample_list import draw_answer, wire_sample

_HINT = """
<p class="elemental-hint">One image without, and one with each of these at the ratio, on top of the <b>Merge</b> panel;
a table ranks them at the end. Between commas: a block (<code>OUT05</code>), a part of it (<code>OUT05:attn2</code>),
or blocks together (<code>OUT06-OUT11</code>, <code>OUT09 OUT10</code>). <code>ALL</code> is each block,
<code>OUT05:ALL</code> each element of one.</p>"""


class CheckPanel:
    """The components of the panel, and what they do.

    Args:
        session: Of the host.
        images: Says what image is wanted.
        devices: Says where images are made.
        samples: To learn from.
    """

    def __init__(self, session: Session, images: ImageForm, devices: DeviceList, samples: Sequence[Sample]) -> None:
        self._session = session
        self._images = images
        self._devices = devices
        self._samples = {f"{sample.number}  {sample.title}": sample for sample in samples if sample.elements}
        make("HTML", value=_HINT, elem_id="elemental_check_hint")
        self.elements = make(
            "Textbox", label="Elements", lines=5, max_lines=16, elem_id="elemental_elements",
            placeholder="OUT03:attn1, OUT03:attn2, OUT04",
        )  # fmt: skip
        self.ratio = make(
            "Slider", label="Ratio", minimum=-1, maximum=2, step=0.01, value=1, elem_id="elemental_check_ratio"
        )
        self.sample = make(
            "Dropdown", label="Sample to load", choices=list(self._samples), value=None,
            elem_id="elemental_check_sample",
        )  # fmt: skip
        with make("Row"):
            self.run = make("Button", value="Run check", variant="primary", elem_id="elemental_run_check")
            self.estimate = make("Button", value="Estimate", elem_id="elemental_estimate_check")
        self.answer = Answer("elemental_check_answer")

    @property
    def fields(self) -> dict[str, Any]:
        """The fields by name."""
        return {"elements": self.elements, "ratio": self.ratio}

    def wire(self, results: Results, form_components: Sequence[Any], memory: PageMemory, gif: Any) -> None:
        """Make the panel work.

        Args:
            results: Where jobs are shown.
            form_components: Of the merge panel.
            memory: Fills this panel and that one from a sample.
            gif: A hidden text that names the GIF whose row was clicked.
        """
        session, devices = self._session, self._devices
        inputs = [self.elements, self.ratio, *form_components, *self._images.components, *devices.components]

        def read(values: Sequence[Any]) -> tuple[Any, ...]:
            order = self._images.read(values[2 + len(FIELDS) :])
            if values[1] is None:
                raise ImageError("Ratio is blank; enter a number.")
            return session, form_of(values), _parse_check(values), order.request, order.settings

        def form_of(values: Sequence[Any]) -> MergeForm:
            return parse_form(values[2 : 2 + len(FIELDS)])

        def run(*values: Any) -> Updates:
            values, elsewhere = devices.split(values)
            return results.start(lambda: run_actions.run_check(*read(values), elsewhere=elsewhere), form_of(values))

        def estimate(*values: Any) -> Updates:
            values, elsewhere = devices.split(values)
            html = draw_answer(lambda: describe(read(values), elsewhere))
            return self.answer.give(html, form=form_of(values), fields=(_parse_check(values), elsewhere))

        def describe(order: Sequence[Any], elsewhere: bool) -> str:
            check, planned = plan_check(*order[:4])
            return describe_estimate(planned, describe_time(session, check, elsewhere=elsewhere))

        def renew(about: Any, *values: Any) -> Updates:
            values, elsewhere = devices.split(values)
            return self.answer.renew(about, fields=(_parse_check(values), elsewhere))

        own = [self.elements, self.ratio, *devices.components]
        on(self.run, "click", run, inputs, results.start_outputs)
        on(self.estimate, "click", estimate, inputs, self.answer.outputs)
        wire_sample(self.sample, self._samples, memory, self.answer)
        for field in own:
            on(field, "change", renew, [self.answer.about, *own], self.answer.outputs)
        on(gif, "change", self._show_gif, [gif], [results.gif])

    def _show_gif(self, asked: str) -> str:
        """Give a GIF of a check within the page; none but those is ever read."""
        path = file_below(asked.partition("\n")[0], [self._session.host.output_folder()])
        if path is None or path.suffix != ".gif":
            return ""
        try:
            data = path.read_bytes()
        except OSError as exc:
            raise ImageError(f"Cannot read {path}: {exc.strerror or exc}.") from exc
        words = escape(path.stem.partition("-")[2])
        code = base64.b64encode(data).decode()
        return (
            f'<figure><img src="data:image/gif;base64,{code}" alt="{words}"><figcaption>{words}</figcaption></figure>'
        )


def _parse_check(values: Sequence[Any]) -> CheckForm:
    """Read the panel's fields; a ratio that is blank is refused before this."""
    return CheckForm(values[0] or "", float(values[1] or 0))
