"""Read the plot or element check of a run from its record, so that the run can go on."""

from __future__ import annotations

from ..errors import ImageError
from ..hosts.base import Host
from ..images.files import reading_untrusted
from ..merge.files.model_locator import AS_RECORDED, ModelLocator
from ..recipe.recipe import recipe_from_dict
from .axes.context import make_axis_context
from .element_check import check_from_dict
from .element_check_run import CheckRun
from .run_record import RunRecord
from .runner import Run
from .xy_plot import plot_from_dict
from .xy_plot_run import PlotRun


def open_run(host: Host, record: RunRecord, *, locator: ModelLocator = AS_RECORDED) -> Run:
    """Read the plot or element check that a run makes, and make sure that the host can make the rest of its images.

    Args:
        host: The host that will make its images.
        record: The record of the run.
        locator: Finds the models.

    Raises:
        ElementalError: It cannot be read.
        HostError: The run was begun with settings that the host has no more, or in another kind of host.
    """
    if record.settings is not None:
        host.read_settings(record.settings)
    with reading_untrusted(str(record.files.record), "Start a new run."):
        run = _read_run(host, record, locator)
        missing = [cell.name for cells in run.rounds() for cell in cells if cell.name not in record.cells]
        if missing:
            raise LookupError(f"it has no cell {missing[0]}")
    return run


def _read_run(host: Host, record: RunRecord, locator: ModelLocator) -> Run:
    definition = record.definition
    if record.kind == CheckRun.kind:
        return CheckRun(check_from_dict(definition))
    if record.kind == PlotRun.kind:
        context = make_axis_context(host, recipe_from_dict(definition["recipe"]), locator=locator)
        return PlotRun(plot_from_dict(definition, context), compare=bool(definition.get("compare")))
    if record.kind == "search":
        search = record.files.folder.parent
        raise ImageError(f"{record.files.record} is a round of a search; go on with that: its folder is {search}.")
    raise ImageError(f"{record.files.record} is of an unknown kind of run.")
