"""The values of the merge panel's components as a form, and the choices that they show for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..modes.catalogue import MergeMode
from ..recipe.recipe import VaeChoice
from ..session.form import FIELDS, MergeForm, form_from_dict

VAE_LABELS = {VaeChoice.MERGED.value: "merge like BASE", VaeChoice.A.value: "from A", VaeChoice.B.value: "from B"}
"""The choices of the VAE, by what the form, the history and recipes call them."""


def parse_form(values: Sequence[Any]) -> MergeForm:
    """Read the form from its components' values, in the order of its fields; a ratio that is blank stays blank."""
    data = dict(zip(FIELDS, values, strict=True))
    stored = {label: value for value, label in VAE_LABELS.items()}
    form = form_from_dict({**data, "vae": stored.get(data["vae"])})
    return replace(form, **{name: data[name] for name in ("alpha", "beta") if data[name] is None})


def vae_label(vae: str) -> str:
    """Give the choice for what a form says of the VAE; a form that was stored can say anything."""
    return VAE_LABELS.get(vae, VAE_LABELS[VaeChoice.MERGED.value])


def visible_fields(mode: MergeMode) -> dict[str, bool]:
    """Tell which of the fields that some modes have no use for are visible, by name."""
    return {
        "model_b": mode.uses_b,
        "model_c": mode.uses_c,
        "beta": mode.uses_beta,
        "blocks_beta": mode.uses_beta,
        "numbers": bool(mode.record.numbers),
    }
