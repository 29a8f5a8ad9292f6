"""What a run was to make, from its record, so that it can go on."""

from __future__ import annotations

from pathlib import Path

from ..errors import ImageError
from ..hosts.base import Host
from ..images.files import reading_untrusted
from ..recipe.recipe import recipe_from_dict
from .axis_context import make_axis_context
from .check_run import CheckRun
from .element_check import check_from_dict
from .plot_run import PlotRun
from .record import RunRecord
from .runner import Run
from .xy_plot import plot_from_dict


def open_run(host: Host, record: RunRecord, *, models_folder: Path | None = None) -> Run:
    """Read what a run was to make.

    Args:
        host: What will make its images.
        record: Of the run.
        models_folder: Where to look for models that are not where a recipe says, by their SHA-256.

    Raises:
        ElementalError: It cannot be read.
    """
    definition = record.data["definition"]
    with reading_untrusted(str(record.files.record), "Start the run anew."):
        if record.data["kind"] == CheckRun.kind:
            return CheckRun(check_from_dict(definition))
        if record.data["kind"] != PlotRun.kind:
            raise ImageError(f"{record.files.record} is of an unknown kind of run.")
        context = make_axis_context(host, recipe_from_dict(definition["recipe"]), models_folder=models_folder)
        return PlotRun(plot_from_dict(definition, context), compare=bool(definition.get("compare")))
