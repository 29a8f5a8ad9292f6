"""A cluster for tests of what asks for one: its images are made here, by a host in memory, as if by two workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import pytest

from elemental.errors import HostError, Stopped
from elemental.merge.files.checkpoint import Signature
from elemental.merge.files.model_locator import ModelLocator
from elemental.merge.progress import Controls
from elemental.runs.cells import Cell
from elemental.runs.image_maker import ImageMaker, Inbox, OneHost

from .fake_host import FakeHost, Load


class TwoWorkers(ImageMaker):
    """Makes images by a host, and says that there are two."""

    def __init__(self, host: FakeHost, locator: ModelLocator) -> None:
        self._maker = OneHost(host, locator)

    @property
    def at_once(self) -> int:
        """Two."""
        return 2

    def make(self, cells: Sequence[Cell], inbox: Inbox) -> None:
        """Make the images of cells, one after another.

        Raises:
            Stopped: The user asked for it.
        """
        begin = inbox.begin

        def begin_or_stop(cell: Cell) -> None:
            if inbox.controls.should_stop():
                raise Stopped
            begin(cell)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(inbox, "begin", begin_or_stop)
            self._maker.make(cells, inbox)


class FakeCluster:
    """A cluster of two workers.

    Args:
        load: Gives the tensors of a checkpoint, as for the host.

    Attributes:
        host: Makes the images.
        asked: The device that each run asked for.
        models: The models of the last run.
        at_work: How many runs have workers now.
        fails: Why it cannot begin; empty if it can.
        on_begin: Called while workers begin.
    """

    name = "Ray: elsewhere"

    def __init__(self, load: Load) -> None:
        self.host = FakeHost(load)
        self.asked: list[str | None] = []
        self.models: Mapping[str, Signature] = {}
        self.at_work = 0
        self.fails = ""
        self.on_begin: Callable[[], None] = lambda: None

    @contextmanager
    def begin(
        self, models: Mapping[str, Signature], locator: ModelLocator, *, device: str | None, controls: Controls
    ) -> Iterator[tuple[ImageMaker, str]]:
        """Begin the workers.

        Raises:
            HostError: They cannot begin.
            Stopped: The user asked for it.
        """
        self.asked.append(device)
        self.models = models
        controls.stage("starting 2 workers")
        self.on_begin()
        if controls.should_stop():
            raise Stopped("Stopped while workers were starting.")
        if self.fails:
            raise HostError(self.fails)
        self.at_work += 1
        try:
            yield TwoWorkers(self.host, locator), device or "cuda"
        finally:
            self.at_work -= 1
