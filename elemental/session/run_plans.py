"""XY plots and element checks as the panels' fields ask for them: the run and its estimate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from ..images.image_request import ImageRequest
from ..runs.axes.base import Setting
from ..runs.axes.context import make_axis_context
from ..runs.axes.values import parse_axis
from ..runs.element_check import parse_check
from ..runs.element_check_run import CheckRun
from ..runs.estimate import MOST_CELLS, Estimate, estimate_check, estimate_plot, refuse_many
from ..runs.xy_plot_run import PlotRun, make_plot
from ..workflows import identify_models
from .form import MergeForm
from .job_texts import count_images
from .session import Session


@dataclass(frozen=True)
class PlotForm:
    """The fields of the plot panel.

    Attributes:
        x_type: The axis of the columns.
        x: Its values.
        y_type: The axis of the rows; empty for a plot of one row.
        y: Its values.
        z_type: The axis of the grids; empty for a plot without such an axis.
        z: Its values.
        compare: Whether to write below each image how much it differs from the first column.
        without_rules: Whether an axis of specs begins with an image without any.
    """

    x_type: str = "elemental"
    x: str = ""
    y_type: str = ""
    y: str = ""
    z_type: str = ""
    z: str = ""
    compare: bool = False
    without_rules: bool = False

    @property
    def axes(self) -> dict[str, tuple[str, str]]:
        """Type and values of each axis, by its side."""
        said = {"x": (self.x_type, self.x), "y": (self.y_type, self.y), "z": (self.z_type, self.z)}
        return {side: axis for side, axis in said.items() if axis[0] or side == "x"}


@dataclass(frozen=True)
class CheckForm:
    """The fields of the check panel.

    Attributes:
        elements: The elements to check.
        ratio: The ratio that each of them gets.
    """

    elements: str = ""
    ratio: float = 1.0


def batch_notes(request: ImageRequest, made: str = "One image a cell is made") -> tuple[str, ...]:
    """Say that a batch is not made, if the request is for one.

    Args:
        request: The request.
        made: What is made instead.
    """
    if request.batch == 1:
        return ()
    return (f"{made}, with the first seed: the batch of {request.batch:,} images is not used here.",)


def plan_plot(session: Session, form: MergeForm, plot: PlotForm, request: ImageRequest) -> tuple[PlotRun, Estimate]:
    """Plan an XY plot; nothing is merged, and no image is made.

    Raises:
        ElementalError: The plot is not valid, or all its images would be the same.
    """
    recipe = identify_models(session.recipe(form), locator=session.locator)
    context = replace(
        make_axis_context(session.host, recipe, locator=session.locator),
        find_model=session.find_model,
    )
    read = partial(parse_axis, context=context, watch_count=_refuse_many, baseline=plot.without_rules)
    axes = {side: read(side, *axis) for side, axis in plot.axes.items()}
    xy_plot = make_plot(Setting(recipe, replace(request, batch=1)), axes, context=context, most=MOST_CELLS)
    remarks = [*batch_notes(request), *(remark for axis in xy_plot.axes for remark in axis.remarks)]
    return PlotRun(xy_plot, compare=plot.compare), _with(remarks, estimate_plot(xy_plot, locator=session.locator))


def plan_check(session: Session, form: MergeForm, check: CheckForm, request: ImageRequest) -> tuple[CheckRun, Estimate]:
    """Plan an element check; nothing is merged, and no image is made.

    Raises:
        ElementalError: The check is not valid, or all its images would be the same.
    """
    recipe = identify_models(session.recipe(form), locator=session.locator)
    context = make_axis_context(session.host, recipe, locator=session.locator)
    setting = Setting(recipe, replace(request, batch=1))
    element_check = parse_check(setting, check.elements, float(check.ratio), context, watch_count=_refuse_many)
    remarks = [*batch_notes(request), *element_check.remarks]
    return CheckRun(element_check), _with(remarks, estimate_check(element_check, locator=session.locator))


def describe_estimate(estimate: Estimate, time: str = "") -> str:
    """Say how many images and merges a run makes, and how long it takes, with its warnings."""
    counts = f"{count_images(estimate.cells)}, {estimate.merges:,} merge{'s' * (estimate.merges != 1)}."
    return "\n".join([f"{counts} {time}".rstrip(), *estimate.warnings])


def _with(remarks: Sequence[str], estimate: Estimate) -> Estimate:
    """Show what was left out of a run's values beside the warnings."""
    return replace(estimate, warnings=(*remarks, *estimate.warnings))


def _refuse_many(count: int) -> None:
    refuse_many(count, MOST_CELLS)
