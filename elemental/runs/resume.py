"""What a run was to make, from its record, so that it can go on."""

from __future__ import annotations

from ..errors import ImageError
from ..hosts.base import Host
from ..images.files import reading_untrusted
from ..merge.files.model_locator import AS_RECORDED, ModelLocator
from ..recipe.recipe import recipe_from_dict
from .axis_context import make_axis_context
from .check_run import CheckRun
from .element_check import check_from_dict
from .plot_run import PlotRun
from .record import RunRecord
from .runner import Run
from .xy_plot import plot_from_dict


def open_run(host: Host, record: RunRecord, *, locator: ModelLocator = AS_RECORDED) -> Run:
    """Read what a run was to make.

    Args:
        host: What will make its images.
        record: Of the run.
        locator: Finds the models.

    Raises:
        ElementalError: It cannot be read.
    """
    definition = record.data["definition"]
    with reading_untrusted(str(record.files.record), "Start the run anew."):
        if record.data["kind"] == CheckRun.kind:
            return CheckRun(check_from_dict(definition))
        if record.data["kind"] != PlotRun.kind:
            raise ImageError(f"{record.files.record} is of an unknown kind of run.")
        context = make_axis_context(host, recipe_from_dict(definition["recipe"]), locator=locator)
        return PlotRun(plot_from_dict(definition, context), compare=bool(definition.get("compare")))
