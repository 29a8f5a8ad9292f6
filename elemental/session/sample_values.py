"""What a sample of a plot or a check sets in the fields of the page: its own panel, and the merge that it is about."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from ..errors import RecipeError
from ..recipe.rules import format_ratio
from ..recipe.spec_reader import parse_ratio
from ..runs.sample_file import Sample
from .form import MergeForm
from .page_values import whole_plot
from .run_plans import CheckForm

_MERGE_FIELDS = ("mode", "alpha", "blocks", "blocks_beta", "spec")
"""The fields that each sample sets: those that it does not name are at their first values, as on the command line."""

_OPTIONS: Mapping[str, tuple[str, Callable[[str], Any]]] = {
    "--mode": ("mode", str),
    "--alpha": ("alpha", parse_ratio),
    "--beta": ("beta", parse_ratio),
    "--blocks": ("blocks", str),
    "--blocks-beta": ("blocks_beta", str),
    "--elemental": ("spec", lambda text: text.replace(",", "\n")),
    "--vae": ("vae", str),
}


def sample_values(sample: Sample) -> dict[str, Any]:
    """Give the values of fields by their names.

    Raises:
        RecipeError: The sample has an option that the page has no field for.
    """
    defaults = asdict(MergeForm())
    values = {name: defaults[name] for name in _MERGE_FIELDS}
    words = iter(shlex.split(sample.options))
    compare = False
    for word in words:
        if word == "--compare":
            compare = True
            continue
        if word not in _OPTIONS:
            raise RecipeError(f"Sample {sample.number} has the option {word}, which is for the command line.")
        name, read = _OPTIONS[word]
        values[name] = read(next(words, ""))
    if sample.elements is not None:
        return values | asdict(CheckForm(sample.elements, float(sample.ratio)))
    axes = {f"{side}_type": kind for side, (kind, _) in sample.axes.items()}
    axes |= {side: text for side, (_, text) in sample.axes.items()}
    return values | whole_plot({"compare": compare, **axes})


def describe_setting(values: Mapping[str, Any]) -> str:
    """Say in one line what a sample sets in the merge panel."""
    names = {"alpha": "alpha", "beta": "beta", "blocks": "block weights", "spec": "spec"}
    spec = str(values.get("spec") or "empty").replace("\n", ", ")
    numbers = {name: format_ratio(values[name]) for name in ("alpha", "beta") if name in values}
    said = {**numbers, "spec": spec, "blocks": values.get("blocks") or "none"}
    return ", ".join(f"{words} {said[name]}" for name, words in names.items() if name in values)
