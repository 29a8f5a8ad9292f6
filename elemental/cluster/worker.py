"""What a worker of a cluster does: tasks, one after another, on one device. It knows nothing of Ray."""

from __future__ import annotations

import logging
import platform
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from ..errors import ElementalError, HostError
from ..hosts.base import Host
from ..merge.files.model_locator import AS_RECORDED, ModelLocator
from ..merge.progress import Stopwatch
from ..runs.cells import Cell
from ..runs.image_maker import describe_failure
from .cell_worker import CellImage, CellImages
from .effects_worker import EffectMade, EffectTask, EffectUnits
from .node_models import PlacedModels, RunModel, Sender, locator_on_node, place_models

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WorkerSetup:
    """What a worker needs to begin; it is sent to the worker's node.

    Attributes:
        make_host: Makes the host on a device.
        device: The worker's device, as torch names it.
        threads: How many threads torch may use; None for its own choice.
        models: What each model file looks like on this machine, by its path.
        sender: Sends those that the node lacks.
        locator: Finds the models.
        home: The user's home folder on this machine.
        version: The version of this program here.
    """

    make_host: Callable[[str], Host]
    device: str
    threads: int | None
    models: Mapping[str, RunModel]
    sender: Sender
    locator: ModelLocator
    home: str
    version: str


@dataclass(frozen=True)
class WorkerFacts:
    """What a worker says of itself when it has begun.

    Attributes:
        device: The name of its device: images of devices of other names can differ in their last bits.
        lacks: What it cannot work without, a line each, with the name of its node.
        sent: Which models were sent to its node, a line each.
    """

    device: str
    lacks: tuple[str, ...] = ()
    sent: tuple[str, ...] = ()


Task: TypeAlias = Cell | EffectTask
"""What a worker does at a time."""


@dataclass(frozen=True)
class Outcome:
    """What became of a task.

    Attributes:
        made: What was made of it; None if it failed.
        error: Why it failed.
        seconds: The time spent in each stage.
    """

    made: CellImage | EffectMade | None = None
    error: ElementalError | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)


class Worker:
    """Does tasks with a host of its own; the live model stays for the next task of the same kind."""

    def __init__(self) -> None:
        self._host: Host | None = None
        self._locator: ModelLocator = AS_RECORDED
        self._cells: CellImages | None = None
        self._effects: EffectUnits | None = None

    def start(self, setup: WorkerSetup) -> WorkerFacts:
        """Have the models, which are sent if the node lacks them, and make the host, unless something is lacking.

        Raises:
            HostError: The device cannot be used, or a package is missing.
        """
        import torch

        lacks = _find_lacks(setup)
        placed = PlacedModels() if lacks else place_models(setup.models, setup.sender)
        lacks += placed.lacks
        if setup.threads is not None:
            torch.set_num_threads(setup.threads)
        if not lacks:
            self._locator = locator_on_node(setup.locator, placed.places, setup.home)
            self._host = setup.make_host(setup.device)
        return WorkerFacts(_name_device(setup), lacks, placed.sent)

    def make(self, task: Task) -> Outcome:
        """Do a task; an error is part of the outcome."""
        watch = Stopwatch()
        try:
            made = self._make(task, watch)
        except Exception as exc:  # any error of one task must not cost the others
            _log.warning("%s failed:\n%s", task.name, traceback.format_exc())
            return Outcome(error=as_error(exc), seconds=watch.seconds)
        return Outcome(made, seconds=watch.seconds)

    def close(self) -> None:
        """Take what is merged out of the live model."""
        cells, effects = self._cells, self._effects
        self._cells = self._effects = None
        if cells is not None:
            cells.close()
        if effects is not None:
            effects.close()

    def _make(self, task: Task, watch: Stopwatch) -> CellImage | EffectMade:
        if self._host is None:
            raise HostError("The worker was not started.")
        if isinstance(task, Cell):
            if self._cells is None:
                self.close()  # two kinds cannot share the live model
                self._cells = CellImages(self._host, self._locator)
            return self._cells.make(task, watch)
        if self._effects is None:
            self.close()
            self._effects = EffectUnits(self._host, self._locator)
        return self._effects.make(task, watch)


def as_error(error: Exception) -> ElementalError:
    """Give an error that can be sent, and says the same."""
    return error if isinstance(error, ElementalError) else HostError(describe_failure(error))


def _find_lacks(setup: WorkerSetup) -> tuple[str, ...]:
    """List what a node lacks that it cannot be sent: the same version of this program."""
    from .. import __version__

    if __version__ == setup.version:
        return ()
    return (f"{platform.node()} has version {__version__} of this program, and not {setup.version}.",)


def _name_device(setup: WorkerSetup) -> str:
    import torch

    if setup.device != "cpu":
        return torch.cuda.get_device_name()
    threads = f", {setup.threads} threads" if setup.threads is not None else ""
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}{threads}"
