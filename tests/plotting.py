"""What tests of plots and checks share: a setting to start from, and a plot made, run, and gone on with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

from elemental import parse_rules
from elemental.hosts.base import Host
from elemental.images.image_request import ImageRequest
from elemental.runs.axes.base import Setting
from elemental.runs.axes.context import make_axis_context
from elemental.runs.axes.values import parse_axis
from elemental.runs.estimate import estimate_plot
from elemental.runs.resume import open_run
from elemental.runs.run_files import latest_run
from elemental.runs.run_record import read_record
from elemental.runs.runner import RunResult, RunWatcher, continue_run, start_run
from elemental.runs.xy_plot import XYPlot
from elemental.runs.xy_plot_run import PlotRun, make_plot
from elemental.session.jobs import Job, JobState, JobView
from elemental.session.session import Session

REQUEST = ImageRequest("a red circle", seed=3, steps=1, width=64, height=64)
RULES = parse_rules("IN01::0.2")


def load(path: Path) -> Mapping[str, Sequence[Tensor]]:
    return {key: (tensor,) for key, tensor in load_file(path).items() if tensor.is_floating_point()}


def plot(
    host: Host,
    base: Setting,
    x: tuple[str, str],
    y: tuple[str, str] | None = None,
    z: tuple[str, str] | None = None,
    *,
    most: int | None = None,
) -> XYPlot:
    context = make_axis_context(host, base.recipe)
    texts = {"x": x, "y": y, "z": z}
    axes = {side: parse_axis(side, *text, context) for side, text in texts.items() if text is not None}
    return make_plot(base, axes, context=context, most=most)


def run(host: Host, plotted: XYPlot, folder: Path, on_cell: Callable[..., None] | None = None) -> RunResult:
    watcher = RunWatcher() if on_cell is None else RunWatcher(on_cell=on_cell)
    return start_run(host, PlotRun(plotted), folder, estimate=estimate_plot(plotted), watcher=watcher)


def resume(host: Host, folder: Path) -> RunResult:
    record = read_record(latest_run(folder))
    return continue_run(host, open_run(host, record), record)


def ended(job: Job, state: JobState = JobState.DONE) -> JobView:
    """Wait until a job has ended in a state."""
    view = job.view
    while not view.ended:
        view = job.wait(view.version, 30)
    assert view.state is state, view.text
    return view


@contextmanager
def stopped_after_one(session: Session) -> Iterator[None]:
    """Have the user press Stop while an image is made: a run ends with it, unfinished."""
    make_images = session.host.make_images

    def make_one(*arguments: Any, **options: Any) -> Any:
        images = make_images(*arguments, **options)
        session.stop()
        return images

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session.host, "make_images", make_one)
        yield
