"""What the fields of a page say, by name, as plain data: what a page keeps, takes back and gets from the history."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from ..images.image_request import ImageRequest
from ..runs.axes.base import SIDES
from ..runs.axes.catalogue import AXES
from ..runs.axes.value_texts import take_baseline
from .form import FIELDS
from .run_plans import CheckForm, PlotForm
from .search_jobs import SearchForm

PLOT_FIELDS = tuple(field.name for field in fields(PlotForm))
CHECK_FIELDS = tuple(field.name for field in fields(CheckForm))
SEARCH_FIELDS = tuple(field.name for field in fields(SearchForm))
IMAGE_FIELDS = tuple(field.name for field in fields(ImageRequest))
"""The fields of each panel; those of the merge panel are :data:`~.form.FIELDS`. No two have the same name."""

ALL_FIELDS = (*FIELDS, *PLOT_FIELDS, *CHECK_FIELDS, *SEARCH_FIELDS, *IMAGE_FIELDS)

PANELS = {"plot": PLOT_FIELDS, "check": CHECK_FIELDS}
"""Panels that entries of the history and files belong to, besides the merge panel."""

_LONGEST = 2_000_000


def whole_plot(values: Mapping[str, Any]) -> dict[str, Any]:
    """Complete the fields of a plot that were written before there was a third axis, or as a text alone.

    Args:
        values: Of fields; those of a page have all of the plot panel's, or none, and stay as they are.
    """
    if "x_type" not in values or "without_rules" in values:
        return dict(values)
    whole = {**asdict(PlotForm()), **values}
    for side in SIDES:
        if (axis := AXES.get(str(whole[f"{side}_type"]))) is not None and axis.baseline is not None:
            whole[side], whole["without_rules"] = take_baseline(axis, str(whole[side] or ""))
    return whole


def whole_merge(values: Mapping[str, Any]) -> dict[str, Any]:
    """Complete the fields of a merge that were written before there were LoRAs and more: it has none.

    Args:
        values: Of fields; those that are not of a whole merge stay as they are.
    """
    added = {"loras": "", "more": "", "adjust": ""} if "model_a" in values and "spec" in values else {}
    return {**added, **values}


def values_as_json(values: Mapping[str, Any]) -> str:
    """Write the values of fields as JSON; the same values always give the same text."""
    return json.dumps({name: _plain(value) for name, value in values.items()}, ensure_ascii=False)


def values_from_json(text: str) -> dict[str, Any]:
    """Read what :func:`values_as_json` wrote; a text that is none gives no values."""
    try:
        data = json.loads(text[:_LONGEST])
    except (ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def _plain(value: Any) -> Any:
    """Write a value as browsers do: whole numbers without a point, and line ends as one character."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value.replace("\r\n", "\n") if isinstance(value, str) else value
