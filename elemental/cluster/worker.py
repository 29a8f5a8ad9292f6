"""What a worker of a cluster does: it makes the images of cells on one device. It knows nothing of Ray."""

from __future__ import annotations

import logging
import platform
import traceback
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..errors import HostError
from ..hosts.base import CheckpointRef, Host
from ..images.image_request import GeneratedImage
from ..merge.files.model_locator import AS_RECORDED, ModelLocator
from ..merge.progress import Stopwatch
from ..recipe.chains import base_file
from ..recipe.recipe import MergeRecipe, ModelSource
from ..runs.cells import Cell
from ..runs.image_maker import describe_failure
from ..workflows import images_of_merge, live_merge
from .node_models import PlacedModels, RunModel, Sender, locator_on_node, place_models

if TYPE_CHECKING:
    from ..merge.live_merge import LiveMerge

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


@dataclass(frozen=True)
class Outcome:
    """What became of a cell.

    Attributes:
        generated: Its image; None if it failed.
        recipe: The recipe that the image shows, with the numbers that were measured.
        error: Why it failed.
        seconds: The time spent in each stage.
    """

    generated: GeneratedImage | None = None
    recipe: MergeRecipe | None = None
    error: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)


class CellWorker:
    """Makes the images of cells; the live model of one stays for the next, which writes only what differs."""

    def __init__(self) -> None:
        self._host: Host | None = None
        self._locator: ModelLocator = AS_RECORDED
        self._source: ModelSource | None = None
        self._merge: LiveMerge | None = None
        self._stack = ExitStack()

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

    def make(self, cell: Cell) -> Outcome:
        """Make the image of a cell; an error is part of the outcome."""
        watch = Stopwatch()
        try:
            if self._host is None:
                raise HostError("The worker was not started.")
            merge = self._merge_for(self._host, base_file(cell.recipe.model_a), watch)
            with watch("merging"):
                recipe = merge.apply(cell.recipe).plan.recipe
            (generated,) = images_of_merge(self._host, cell.request, merge, recipe, watch=watch)
        except Exception as exc:  # any error of one cell must not cost the others
            _log.warning("%s failed:\n%s", cell.name, traceback.format_exc())
            return Outcome(error=describe_failure(exc), seconds=watch.seconds)
        return Outcome(generated, recipe, seconds=watch.seconds)

    def close(self) -> None:
        """Take the merge out of the live model."""
        self._source = self._merge = None
        self._stack.close()

    def _merge_for(self, host: Host, source: ModelSource, watch: Stopwatch) -> LiveMerge:
        if self._merge is None or source != self._source:
            self.close()
            with watch("loading"):
                path = self._locator.locate(source)
                live = host.open_model(CheckpointRef(path.stem, path))
            self._merge = self._stack.enter_context(live_merge(live, self._locator))
            self._source = source
        return self._merge


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
