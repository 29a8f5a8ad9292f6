"""The merge panel: models, mode, ratios, block weights and the spec, and beside them what they would do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from typing import Any

from ..merge.files.model_locator import expand_home
from ..modes.catalogue import MergeMode, grouped_modes
from ..recipe.adjustments import NAMES as ADJUSTMENTS
from ..recipe.numbers import describe_number
from ..recipe.recipe import SaveDtype
from ..session import merge_jobs as actions
from ..session.form import FIELDS, KEEP, MergeForm, architecture_of, block_names, numbers_for, shown_path
from ..session.jobs import Job
from ..session.map_strokes import apply_stroke
from ..session.merge_preview import stamp_of
from ..session.preset_stores import SpecPresets, WeightPresets
from ..session.session import Session
from .answer import Answer, Updates
from .copy_buttons import draw_copy_buttons
from .effect_buttons import EffectButtons
from .form_values import VAE_LABELS, parse_form, vae_label, visible_fields
from .gradio_compat import make, on, update
from .image_form import ImageForm
from .lora_row import LoraRow
from .map_tools import EFFECT_TOOLS, MAP_TOOLS
from .model_cards import draw_cards
from .more_row import MoreRow
from .page_memory import PageMemory
from .preset_row import PresetRow, depth_of
from .results_panel import Results, draw_message

_SPEC_HINT = "OUT03 OUT04 OUT05:attn2 attn1.to_out:0.5\nIN00-IN05:ff:0.2\nOUT08::1"
_CHECKBOXES = {"force": "Merge although models do not fit", "drop_ema": "Leave out EMA weights"}

_WEIGHTS = {
    "blocks": ("Weights, BASE first; empty for none", "alpha"),
    "blocks_beta": ("Weights of beta", "beta"),
}

_OTHER_JOB = 'Another job has begun since. Load the entry "simplified" of the History instead.'


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
        self.sliders: dict[str, Any] = {}
        form = session.form
        # in the order of work, so that models, spec, buttons and map share one screen
        self._draw_models(form)
        self._draw_ratios(form)
        self._draw_spec(form)
        self._draw_buttons()
        self._draw_map()
        self.effect_buttons = EffectButtons(session, images)
        self._draw_weights(form)
        with make("Accordion", label="Further models", open=False, elem_id="elemental_more_box"):
            self.more = MoreRow(form)
        self.fields["more"] = self.more.field
        with make("Accordion", label="LoRAs", open=False, elem_id="elemental_lora_box"):
            self.loras = LoraRow(session, form.loras)
        self.fields["loras"] = self.loras.field
        self._draw_presets_and_options(form)
        self._draw_save(form)

    @property
    def form_components(self) -> list[Any]:
        """The components of the form, in the order of its fields."""
        return [self.fields[name] for name in FIELDS]

    def _draw_models(self, form: MergeForm) -> None:
        titles, visible = self._session.model_titles(), visible_fields(form.merge_mode)
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
        self.cards = make("HTML", value="", elem_id="elemental_cards")

    def _draw_ratios(self, form: MergeForm) -> None:
        visible = visible_fields(form.merge_mode)
        with make("Row", elem_id="elemental_ratios"):
            self.fields["mode"] = make(
                "Dropdown", label="Mode", choices=[mode.value for mode in grouped_modes()], value=form.mode,
                elem_id="elemental_mode", scale=3, min_width=140,
            )  # fmt: skip
            for name in ("alpha", "beta"):
                self.fields[name] = make(
                    "Slider", label=name, minimum=-1, maximum=2, step=0.01, value=getattr(form, name),
                    elem_id=f"elemental_{name}", scale=4, min_width=160,
                    visible=visible.get(name, True),
                )  # fmt: skip
            self.fields["numbers"] = make(
                "Textbox", label="Numbers", value=form.numbers or numbers_for(form.merge_mode, ""), lines=1,
                elem_id="elemental_mode_numbers", scale=3, min_width=140, visible=visible["numbers"],
                placeholder="p=0.9, seed=3",
            )  # fmt: skip
        self.formula = make("HTML", value=_draw_formula(form.merge_mode), elem_id="elemental_formula")

    def _draw_weights(self, form: MergeForm) -> None:
        visible = visible_fields(form.merge_mode)
        with make("Accordion", label="Block weights (MBW)", open=False, elem_id="elemental_mbw"):
            self.preset = PresetRow(WeightPresets(depth_of(self._count_blocks)), "preset")
            for name, (label, ratio) in _WEIGHTS.items():
                self.fields[name] = make(
                    "Textbox", label=label, value=getattr(form, name), lines=1, elem_id=f"elemental_{name}",
                    visible=visible.get(name, True),
                    placeholder=f"26 numbers (SDXL: 20), or 25 (19) to leave BASE to {ratio}; or a preset's name",
                )  # fmt: skip
                self.sliders[name] = make(
                    "HTML", value=_draw_sliders(name, ratio), elem_id=f"elemental_sliders_{name}",
                    visible=visible.get(name, True),
                )  # fmt: skip

    def _draw_spec(self, form: MergeForm) -> None:
        self.fields["spec"] = make(
            "Textbox", label="Elemental spec: blocks:elements:ratio", value=form.spec, lines=3, max_lines=14,
            elem_id="elemental_spec", placeholder=_SPEC_HINT,
        )  # fmt: skip
        self.report = make("HTML", value="", elem_id="elemental_report")

    def _draw_map(self) -> None:
        make("HTML", value=MAP_TOOLS, elem_id="elemental_tools")
        make("HTML", value=EFFECT_TOOLS, elem_id="elemental_effect_tools")
        self.table = make("HTML", value="", elem_id="elemental_map")

    def _draw_presets_and_options(self, form: MergeForm) -> None:
        with make("Accordion", label="Spec presets", open=False, elem_id="elemental_spec_preset_box"):
            self.spec_preset = PresetRow(SpecPresets(), "spec_preset")
        with make("Accordion", label="VAE and other options", open=False, elem_id="elemental_options"):
            with make("Row"):
                self.fields["vae"] = make(
                    "Dropdown", label="VAE", choices=list(VAE_LABELS.values()), value=vae_label(form.vae),
                    elem_id="elemental_vae", scale=2, min_width=160,
                )  # fmt: skip
                self.print_change = make(
                    "Checkbox", label="List every changed tensor", value=False, elem_id="elemental_print_change",
                    min_width=150,
                )  # fmt: skip
            with make("Row"):
                for name, label in _CHECKBOXES.items():
                    self.fields[name] = make(
                        "Checkbox", label=label, value=bool(getattr(form, name)), elem_id=f"elemental_{name}"
                    )
            self.fields["adjust"] = make(
                "Textbox", label="Adjust: detail, contrast, colours", value=form.adjust, lines=1,
                elem_id="elemental_adjust", placeholder=",".join(ADJUSTMENTS),
                info="Up to eight numbers, separated by commas, as supermerger has them; blank for none.",
            )  # fmt: skip

    def _draw_buttons(self) -> None:
        with make("Row", elem_id="elemental_buttons"):
            # no id here ends in "_generate": the WebUI takes a button of such a name for the one that its keys press
            self.both = make("Button", value="Merge & Generate", variant="primary", elem_id="elemental_run_both")
            self.merge = make("Button", value="Merge", elem_id="elemental_run_merge")
            self.generate = make("Button", value="Generate", elem_id="elemental_run_images")

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
            draw_copy_buttons()

    def _count_blocks(self, title: str) -> int:
        path = expand_home(self._session.find_model(title).path)
        return len(architecture_of(path).unet_blocks)

    @property
    def kept_fields(self) -> dict[str, Any]:
        """The components whose values a page keeps, by name."""
        effects = self.effect_buttons
        others = {"print_change": self.print_change, "save_name": self.name, "passes": effects.passes}
        return {**self.fields, **others, "tolerance": effects.tolerance, "leave_out": effects.leave_out}

    def wire(self, results: Results, sync: Any, painted_by: Any, answers: Sequence[Answer]) -> None:
        """Make the panel work.

        Args:
            results: Where jobs are shown.
            sync: A hidden button that asks for another look at the form.
            painted_by: A hidden text: the kind of effects that the map is to show, and the number of the request.
            answers: Answers of other panels that depend on the form.
        """
        self._wire_preview(sync, painted_by, [results.notice, *answers])
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

    def wire_taking(self, results: Results, memory: PageMemory, take: Any, seen: Any) -> None:
        """Let what a job has found be put into the form; what stood there can be had back from the history.

        Args:
            results: Where the jobs are shown.
            memory: Fills the form.
            take: A hidden button, for which the page has one in the results.
            seen: A hidden text: what the page has seen of the job.
        """

        def put(seen: str, *values: Any) -> Updates:
            form = results.found_form(seen)
            if form is None:
                return results.notice.give(draw_message("failed", _OTHER_JOB))
            self._session.keep_form(parse_form(values))
            return {**memory.fill(form.to_dict()), **results.notice.give("")}

        outputs = [*memory.outputs, *results.notice.outputs]
        on(take, "click", put, [seen, *self.form_components], outputs)

    def wire_painting(self, chosen: Any, painted: Any) -> None:
        """Answer which rules chosen cells of the map are.

        Args:
            chosen: A hidden text: the cells, as :func:`~..session.map_strokes.apply_stroke` reads them, and in the last
                line the number of the request.
            painted: A hidden place for the answer.
        """

        def answer(request: str, *values: Any) -> str:
            form = parse_form(values)
            cells, _, number = request.rpartition("\n")
            text = json.dumps(apply_stroke(form.spec, cells, lambda: self._session.previewer.names(form)))
            return f'<i data-number="{escape(number)}" data-stamp="{stamp_of(form.spec)}">{escape(text)}</i>'

        on(chosen, "change", answer, [chosen, *self.form_components], [painted])

    def _wire_preview(self, sync: Any, painted_by: Any, answers: Sequence[Answer]) -> None:
        session, count = self._session, len(FIELDS)
        inputs = [*self.form_components, *(answer.about for answer in answers)]
        outputs = [self.report, self.table, *(part for answer in answers for part in answer.outputs)]

        def look(*values: Any) -> Updates:
            form = parse_form(values[:count])
            if not form.mode:
                return {}  # up to gradio 3 a list says nothing while one types what to look for in it
            _ = form.merge_mode  # every page that is opened begins with the form: one that none can show is no form
            session.form = form
            preview = session.previewer.look(form)
            name = actions.suggest_save(session, form, preview.plan.recipe if preview.plan else None)
            updates: Updates = {self.report: f'{preview.report}<i hidden data-save-name="{escape(name)}"></i>'}
            for answer, about in zip(answers, values[count:], strict=True):
                updates |= answer.renew(about, form=form)
            if preview.table is not None:
                updates[self.table] = preview.table
            return updates

        def look_at_models(*values: Any) -> Updates:
            updates = look(*values)
            return updates and {**updates, self.cards: draw_cards(session, parse_form(values[:count]))}

        def paint_by(request: str, *values: Any) -> Updates:
            session.previewer.show_kind(request.partition("\n")[0])
            return look(*values)

        on(painted_by, "change", paint_by, [painted_by, *inputs], outputs)
        with_cards = [*outputs, self.cards]
        of_models = ("model_a", "model_b", "model_c", "mode")
        for name in FIELDS:
            react, changed = (look_at_models, with_cards) if name in of_models else (look, outputs)
            on(self.fields[name], "change", react, inputs, changed, latest=True)
        for name in ("alpha", "beta"):  # up to gradio 3 changes are dropped while one is looked at
            on(self.fields[name], "release", look, inputs, outputs, latest=True)
        on(sync, "click", look_at_models, inputs, with_cards, latest=True)

    def _wire_fields(self) -> None:
        session, fields = self._session, self.fields

        def choose_mode(name: str | None, numbers: str | None) -> Updates:
            if not name:
                return {}
            mode = MergeForm(mode=name).merge_mode
            shown = visible_fields(mode)
            values = {"numbers": {"value": numbers_for(mode, numbers or "")}} if shown["numbers"] else {}
            return {
                self.formula: _draw_formula(mode),
                self.sliders["blocks_beta"]: update(visible=mode.uses_beta),
                **self.more.suit(mode),
                **{fields[name]: update(visible=seen, **values.get(name, {})) for name, seen in shown.items()},
            }

        def refresh() -> Updates:
            session.host.refresh()
            return self.choices()

        of_some_modes = [fields[name] for name in visible_fields(MergeMode.WEIGHT_SUM)]
        changed = [self.formula, self.sliders["blocks_beta"], *self.more.of_mode, *of_some_modes]
        on(fields["mode"], "change", choose_mode, [fields["mode"], fields["numbers"]], changed)
        models = [fields["model_a"], fields["model_b"]]
        on(self.swap, "click", lambda a, b: (b, a), models, models)
        on(self.refresh, "click", refresh, [], self.lists)
        self.more.wire()
        self.loras.wire()
        self.preset.wire(fields["blocks"], self.form_components)
        self.spec_preset.wire(fields["spec"], self.form_components)

    @property
    def lists(self) -> list[Any]:
        """The components that list checkpoints, LoRAs and presets."""
        return [*self._model_lists, *self.loras.lists, self.preset.list, self.spec_preset.list]

    @property
    def _model_lists(self) -> list[Any]:
        return [*(self.fields[f"model_{letter}"] for letter in "abc"), self.more.list]

    def choices(self) -> Updates:
        """List the host's checkpoints and LoRAs, and the presets anew."""
        titles = self._session.model_titles()
        models = {field: update(choices=titles) for field in self._model_lists}
        return {**models, **self.loras.choices(), **self.preset.choices(), **self.spec_preset.choices()}


def _draw_sliders(name: str, ratio: str) -> str:
    blocks = " ".join(("BASE", *block_names(0)))
    return (
        f'<div class="elemental-sliders" data-field="elemental_{name}" data-ratio="elemental_{ratio}" '
        f'data-blocks="{blocks}"></div>'
    )


def _draw_formula(mode: MergeMode) -> str:
    names = "a is alpha, b is beta" if mode.uses_beta else "a is alpha"
    menu = escape(json.dumps({mode.value: [mode.group.value, mode.record.purpose] for mode in MergeMode}))
    texts = [f"{names}: {mode.record.purpose}", *map(describe_number, mode.record.numbers)]
    notes = "".join(f"<small>{escape(text)}</small> " for text in texts)
    more = " data-takes-more" if mode.takes_more else ""
    return f'<p class="elemental-formula" data-modes="{menu}"{more}>{escape(mode.formula)} {notes}</p>'
