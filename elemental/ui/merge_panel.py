"""The merge panel: models, mode, ratios, block weights and the spec, and beside them what they would do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from typing import Any

from ..errors import ElementalError
from ..recipe.block_weights import format_block_weights
from ..recipe.modes import MergeMode
from ..recipe.recipe import SaveDtype
from ..session import merge_jobs as actions
from ..session.form import FIELDS, KEEP, MergeForm, block_names, shown_path
from ..session.jobs import Job
from ..session.merge_preview import stamp_of
from ..session.paint_rules import paint, read_stroke
from ..session.session import Session
from ..workflows import load_presets
from .answer import Answer, Updates
from .effect_buttons import EffectButtons
from .form_values import VAE_LABELS, parse_form, vae_label
from .gradio_compat import make, on, update
from .image_form import ImageForm
from .results_panel import Results, draw_message

_SPEC_HINT = "OUT03 OUT04 OUT05:attn2 attn1.to_out:0.5\nIN00-IN05:ff:0.2"
_CHECKBOXES = {"force": "Merge although models do not fit", "drop_ema": "Leave out EMA weights"}

_OTHER_JOB = 'Another job has begun since. Load the entry "simplified" of the History instead.'

_TOOLS = """
<div class="elemental-tools">
<label>Paint ratio <input id="elemental_brush" type="number" step="0.05" value="1"></label>
<span>Click or drag over cells to write a rule; with the keyboard: arrow keys, Shift to extend, Enter. In the spec, Tab
completes names (Esc, then Tab leaves it), and Ctrl+Enter runs.</span>
</div>"""

_EFFECT_TOOLS = """
<div class="elemental-effect-tools" hidden>
<fieldset><legend>Paint by</legend>
<label><input type="radio" name="elemental_paint_by" value="ratio" checked><span>ratio</span></label>
<label><input type="radio" name="elemental_paint_by" value="effect"><span>effect</span></label></fieldset>
<label>The first <input id="elemental_first" type="number" min="0" step="1" value="0"></label>
<input type="range" min="0" max="200" step="1" value="0" aria-label="the first cells by effect">
<output aria-live="polite"></output>
<button type="button" data-chosen="rules" title="Add rules with the paint ratio">Make rules of these</button>
<button type="button" data-chosen="check" title="Fill in the Element check panel">Check these</button>
</div>"""
"""Beside the map and not in it, so that nothing of it is lost when the map is drawn anew."""


class MergePanel:
    """The components of the panel, and what they do.

    Args:
        session: Of the host.
        images: Says what image is wanted.
    """

    def __init__(self, session: Session, images: ImageForm) -> None:
        self._session = session
        self._images = images
        self.fields: dict[str, Any] = {}
        form = session.form
        self._draw_models(form)
        self._draw_ratios(form)
        self._draw_spec(form)
        self._draw_buttons()
        self._draw_save(form)
        make("HTML", value=_TOOLS, elem_id="elemental_tools")
        make("HTML", value=_EFFECT_TOOLS, elem_id="elemental_effect_tools")
        self.table = make("HTML", value="", elem_id="elemental_map")

    @property
    def form_components(self) -> list[Any]:
        """The components of the form, in the order of its fields."""
        return [self.fields[name] for name in FIELDS]

    def _draw_models(self, form: MergeForm) -> None:
        titles, visible = [listed.title for listed in self._session.checkpoints()], _visible_fields(form.merge_mode)
        with make("Row", elem_id="elemental_models"):
            for letter in "abc":
                name = f"model_{letter}"
                self.fields[name] = make(
                    "Dropdown", label=f"Model {letter.upper()}", choices=titles, value=getattr(form, name) or None,
                    allow_custom_value=True, elem_id=f"elemental_{name}", min_width=120, scale=4,
                    visible=visible.get(name, True),
                )  # fmt: skip
            self.swap = make("Button", value="A ⇄ B", elem_id="elemental_swap", scale=1, min_width=70, size="sm")
            self.refresh = make(
                "Button", value="Refresh", elem_id="elemental_refresh", scale=1, min_width=70, size="sm"
            )

    def _draw_ratios(self, form: MergeForm) -> None:
        visible = _visible_fields(form.merge_mode)
        with make("Row"):
            self.fields["mode"] = make(
                "Dropdown", label="Mode", choices=[mode.value for mode in MergeMode], value=form.mode,
                elem_id="elemental_mode", scale=3, min_width=140,
            )  # fmt: skip
            self.fields["vae"] = make(
                "Dropdown", label="VAE from", choices=list(VAE_LABELS.values()), value=vae_label(form.vae),
                elem_id="elemental_vae", scale=2, min_width=130,
            )  # fmt: skip
            for name in ("alpha", "beta"):
                self.fields[name] = make(
                    "Slider", label=name, minimum=-1, maximum=2, step=0.01, value=getattr(form, name),
                    elem_id=f"elemental_{name}", scale=4, min_width=160,
                    visible=visible.get(name, True),
                )  # fmt: skip
        with make("Row"):
            for name, label in _CHECKBOXES.items():
                self.fields[name] = make(
                    "Checkbox", label=label, value=bool(getattr(form, name)), elem_id=f"elemental_{name}"
                )
        self.formula = make("HTML", value=_draw_formula(form.merge_mode), elem_id="elemental_formula")
        blocks = " ".join(("BASE", *block_names(0)))
        with make("Accordion", label="Block weights (MBW)", open=False, elem_id="elemental_mbw"):
            self.preset = make(
                "Dropdown", label="Preset", choices=[], value=None, elem_id="elemental_preset", min_width=120
            )
            for name, label in (("blocks", "Weights, BASE first; empty for none"), ("blocks_beta", "Weights of beta")):
                self.fields[name] = make(
                    "Textbox", label=label, value=getattr(form, name), lines=1, elem_id=f"elemental_{name}",
                    visible=visible.get(name, True),
                    placeholder="26 numbers (SDXL: 20), or 25 (19) to leave BASE to alpha",
                )  # fmt: skip
            sliders = f'<div class="elemental-sliders" data-field="elemental_blocks" data-blocks="{blocks}"></div>'
            make("HTML", value=sliders, elem_id="elemental_sliders")

    def _draw_spec(self, form: MergeForm) -> None:
        self.fields["spec"] = make(
            "Textbox", label="Elemental spec: blocks:elements:ratio", value=form.spec, lines=4, max_lines=14,
            elem_id="elemental_spec", placeholder=_SPEC_HINT,
        )  # fmt: skip
        self.report = make("HTML", value="", elem_id="elemental_report")

    def _draw_buttons(self) -> None:
        with make("Row", elem_id="elemental_buttons"):
            # no id here ends in "_generate": the WebUI takes a button of such a name for the one that its keys press
            self.both = make("Button", value="Merge & Generate", variant="primary", elem_id="elemental_run_both")
            self.merge = make("Button", value="Merge", elem_id="elemental_run_merge")
            self.generate = make("Button", value="Generate", elem_id="elemental_run_images")
            self.print_change = make(
                "Checkbox",
                label="List every changed tensor",
                value=False,
                elem_id="elemental_print_change",
                min_width=150,
            )
        self.effect_buttons = EffectButtons(self._session, self._images)

    def _draw_save(self, form: MergeForm) -> None:
        with make("Accordion", label="Save ...", open=False, elem_id="elemental_save"):
            with make("Row"):
                self.name = make(
                    "Textbox", label="File name", lines=1, elem_id="elemental_name", scale=3, min_width=160,
                    info=f"in {shown_path(self._session.host.models_folder())}",
                )  # fmt: skip
                self.fields["dtype"] = make(
                    "Dropdown", label="Number format", choices=[KEEP, *(dtype.value for dtype in SaveDtype)],
                    value=form.dtype, elem_id="elemental_dtype", min_width=100, info="of the saved file",
                )  # fmt: skip
            with make("Row"):
                self.overwrite = make("Checkbox", label="Overwrite", value=False, elem_id="elemental_overwrite")
                self.save = make("Button", value="Save", elem_id="elemental_run_save")

    def wire(self, results: Results, sync: Any, answers: Sequence[Answer]) -> None:
        """Make the panel work.

        Args:
            results: Where jobs are shown.
            sync: A hidden button that asks for another look at the form.
            answers: Answers of other panels that depend on the form.
        """
        self._wire_preview(sync, [results.notice, *answers])
        self._wire_fields()
        self.effect_buttons.wire(results, self.form_components)
        session, count = self._session, len(FIELDS)
        form_inputs = [*self.form_components, *self._images.components]

        def merge(print_change: bool, *values: Any) -> Updates:
            form = parse_form(values[:count])
            return results.start(lambda: actions.merge(session, form, None, print_change=print_change), form)

        def both(print_change: bool, *values: Any) -> Updates:
            form = parse_form(values[:count])

            def begin() -> Job:
                order = self._images.read(values[count:])
                return actions.merge(session, form, order.request, print_change=print_change, settings=order.settings)

            return results.start(begin, form)

        def generate(*values: Any) -> Updates:
            form = parse_form(values[:count])

            def begin() -> Job:
                order = self._images.read(values[count:])
                return actions.generate(session, form, order.request, order.settings)

            return results.start(begin, form)

        def save(name: str, overwrite: bool, *values: Any) -> Updates:
            form = parse_form(values)
            return results.start(lambda: actions.save(session, form, name, overwrite=bool(overwrite)), form)

        outputs = results.start_outputs
        on(self.merge, "click", merge, [self.print_change, *form_inputs], outputs)
        on(self.both, "click", both, [self.print_change, *form_inputs], outputs)
        on(self.generate, "click", generate, form_inputs, outputs)
        on(self.save, "click", save, [self.name, self.overwrite, *self.form_components], outputs)
        if self._images.own:
            # a size or a number that was refused; those of a host's own page are left alone
            for field in self._images.components:
                on(field, "change", lambda: results.notice.give(""), [], results.notice.outputs)

    def wire_taking(self, results: Results, take: Any, seen: Any) -> None:
        """Let what a job has found be put into the form; what stood there can be had back from the history.

        Args:
            results: Where the jobs are shown.
            take: A hidden button, for which the page has one in the results.
            seen: A hidden text: what the page has seen of the job.
        """

        def put(seen: str, *values: Any) -> Updates:
            form = results.found_form(seen)
            if form is None:
                return results.notice.give(draw_message("failed", _OTHER_JOB))
            self._session.keep_form(parse_form(values))
            return {**self.fill(form), **results.notice.give("")}

        outputs = [*self.form_components, self.preset, *results.notice.outputs]
        on(take, "click", put, [seen, *self.form_components], outputs)

    def wire_painting(self, chosen: Any, painted: Any) -> None:
        """Answer which rules chosen cells of the map are.

        Args:
            chosen: A hidden text: the cells, as :func:`~..session.paint_rules.read_stroke` reads them, and in the last
                line the number of the request.
            painted: A hidden place for the answer.
        """

        def answer(request: str, spec: str) -> str:
            cells, _, number = request.rpartition("\n")
            text = json.dumps(paint(spec, read_stroke(cells)))
            return f'<i data-number="{escape(number)}" data-stamp="{stamp_of(spec)}">{escape(text)}</i>'

        on(chosen, "change", answer, [chosen, self.fields["spec"]], [painted])

    def _wire_preview(self, sync: Any, answers: Sequence[Answer]) -> None:
        session, count = self._session, len(FIELDS)
        inputs = [*self.form_components, *(answer.about for answer in answers)]
        outputs = [self.report, self.table, *(part for answer in answers for part in answer.outputs)]

        def look(*values: Any) -> Updates:
            form = parse_form(values[:count])
            _ = form.merge_mode  # every page that is opened begins with the form: one that none can show is no form
            session.form = form
            preview = session.previewer.look(form)
            updates: Updates = {self.report: preview.report}
            for answer, about in zip(answers, values[count:], strict=True):
                updates |= answer.renew(about, form=form)
            if preview.table is not None:
                updates[self.table] = preview.table
            return updates

        for name in FIELDS:
            on(self.fields[name], "change", look, inputs, outputs, latest=True)
        for name in ("alpha", "beta"):  # up to gradio 3 changes are dropped while one is looked at
            on(self.fields[name], "release", look, inputs, outputs, latest=True)
        on(sync, "click", look, inputs, outputs, latest=True)

    def _wire_fields(self) -> None:
        session, fields = self._session, self.fields

        def choose_mode(name: str | None) -> Updates:
            mode = MergeForm(mode=name or "").merge_mode
            return {
                self.formula: _draw_formula(mode),
                **{fields[field]: update(visible=visible) for field, visible in _visible_fields(mode).items()},
            }

        def refresh() -> Updates:
            session.host.refresh()
            return {**self.choices(), self.preset: update(choices=_preset_names())}

        def apply_preset(name: str | None, *values: Any) -> Updates:
            preview = session.previewer.look(parse_form(values))
            depth = len(preview.architecture.unet_blocks) if preview.architecture else 0
            return {fields["blocks"]: _preset_text(name, depth)} if name else {}

        changed = [self.formula, fields["model_c"], fields["beta"], fields["blocks_beta"]]
        on(fields["mode"], "change", choose_mode, [fields["mode"]], changed)
        models = [fields["model_a"], fields["model_b"]]
        on(self.swap, "click", lambda a, b: (b, a), models, models)
        on(self.refresh, "click", refresh, [], [*self.model_fields, self.preset])
        on(self.preset, "change", apply_preset, [self.preset, *self.form_components], [fields["blocks"]])

    @property
    def model_fields(self) -> list[Any]:
        """The components that list checkpoints."""
        return [self.fields[f"model_{letter}"] for letter in "abc"]

    def choices(self) -> Updates:
        """List the host's checkpoints anew."""
        titles = [listed.title for listed in self._session.checkpoints()]
        return {field: update(choices=titles) for field in self.model_fields}

    def fill(self, form: MergeForm) -> Updates:
        """Fill the form.

        Raises:
            RecipeError: It has a mode that there is not.
        """
        visible = _visible_fields(form.merge_mode)
        values = {**form.to_dict(), "vae": vae_label(form.vae)}
        return {
            self.fields[name]: update(value=value, **({"visible": visible[name]} if name in visible else {}))
            for name, value in values.items()
        } | {self.preset: update(choices=_preset_names())}


def _visible_fields(mode: MergeMode) -> dict[str, bool]:
    """Tell which of the fields that some modes have no use for are visible, by name."""
    return {"model_c": mode.uses_c, "beta": mode.uses_beta, "blocks_beta": mode.uses_beta}


def _draw_formula(mode: MergeMode) -> str:
    names = "a is alpha, b is beta" if mode.uses_beta else "a is alpha"
    return f'<p class="elemental-formula">{mode.formula} <small>{names}</small></p>'


def _preset_names() -> list[str]:
    try:
        return list(load_presets())
    except ElementalError:
        return []  # the command line tells what is wrong with the user's own file


def _preset_text(name: str, depth: int) -> str:
    """Give a preset's numbers for so many blocks, or for another architecture if it has none for these."""
    versions = load_presets().get(name.upper(), ())
    fitting = [weights for weights in versions if len(weights.unet) == depth] or list(versions)
    return format_block_weights(fitting[0]) if fitting else ""
