"""Which axes can be picked for a plot, and their values where these are known, such as models, presets and samplers."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import RecipeError
from ..modes.catalogue import MergeMode
from ..runs.axes.catalogue import AXES
from ..runs.axes.fields import BlockWeightsAxis, ModeAxis, ModelAxis, SamplerAxis
from ..runs.axes.loras import LoraAxis
from ..runs.axes.rules import ElementalAxis
from ..runs.axes.value_texts import append_value
from .form import MergeForm
from .loras import names_in
from .preset_stores import SpecPresets, WeightPresets
from .session import Session


def list_axes() -> list[str]:
    """List the axes that the form's merges can vary along."""
    return list(AXES)


def list_picks(session: Session, kind: str) -> Sequence[str]:
    """List what can be picked for an axis; nothing if its values are numbers or free texts.

    Args:
        session: Knows the models and samplers of the host.
        kind: The name of the axis; others have no values.
    """
    axis = AXES.get(kind)
    if isinstance(axis, ModelAxis):
        return [checkpoint.title for checkpoint in session.checkpoints()]
    if isinstance(axis, BlockWeightsAxis):
        return WeightPresets(lambda _: 0).names()
    if isinstance(axis, ElementalAxis):
        return SpecPresets().names()
    if isinstance(axis, SamplerAxis):
        return session.host.samplers()
    if isinstance(axis, LoraAxis):
        return [f"{name}:1" for name in names_in(session.form.loras)]
    return [mode.value for mode in MergeMode] if isinstance(axis, ModeAxis) else []


def add_pick(kind: str, text: str, pick: str) -> str:
    """Write what was picked behind the other values of an axis; of a spec preset, its rules.

    Args:
        kind: The name of the axis.
        text: The other values.
        pick: One of :func:`list_picks`.

    Raises:
        ElementalError: The preset cannot be read, or no text gives this value.
    """
    axis = AXES.get(kind)
    if axis is None:
        raise RecipeError("Choose an axis first.")
    value = _rules_of(pick) if isinstance(axis, ElementalAxis) else pick
    added = append_value(axis, text, value)
    if added is None:
        raise RecipeError(f'"{pick}" cannot be written as a value of {kind}.')
    return added


def _rules_of(preset: str) -> str:
    """Give the lines of a spec preset without the blank ones, which would begin another spec."""
    lines = SpecPresets().text(preset, MergeForm()).splitlines()
    return "\n".join(line.rstrip() for line in lines if line.strip())
