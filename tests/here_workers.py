"""Workers of a cluster in the tests' own process, which end when a test says so."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from elemental import HostError, __version__
from elemental.cluster.crew import Event, Lost
from elemental.cluster.node_models import Sender, describe_models
from elemental.cluster.sender import ModelSender
from elemental.cluster.worker import Outcome, Task, Worker, WorkerFacts, WorkerSetup
from elemental.hosts.base import Host
from elemental.merge.files.checkpoint import Signature
from elemental.merge.files.model_locator import AS_RECORDED

from .fake_host import FakeHost
from .plotting import load


def make_fake_host(device: str) -> FakeHost:  # noqa: ARG001
    return FakeHost(load)


def setup(
    models: Mapping[str, Signature],
    sender: Sender | None = None,
    *,
    make_host: Callable[[str], Host] = make_fake_host,
    version: str = __version__,
) -> WorkerSetup:
    """Give what a worker begins with; models that it lacks are not sent, unless there is a sender."""
    sent_by, home = sender or ModelSender({}), str(Path.home())
    return WorkerSetup(make_host, "cpu", None, describe_models(models), sent_by, AS_RECORDED, home, version)


class HereWorkers:
    """Workers of which one does its task each time that they are waited for.

    Args:
        facts: What each says of itself.
        begins: What each begins with.
        within: What they begin and work within.
        draw: Chooses whose task it is; None for the one that was given first.

    Attributes:
        begun: The number of the worker and the name of each task that was begun.
        losses: What becomes of the worker that begins a task, by the task's name, the next time first.
        said: What each really said when it began.
        gone: Those that could not begin.
        broken: Those that fail in whatever they are given.
    """

    def __init__(
        self,
        facts: Sequence[WorkerFacts],
        begins: WorkerSetup,
        within: Callable[[], AbstractContextManager[None]] = nullcontext,
        draw: random.Random | None = None,
    ) -> None:
        self.count = len(facts)
        self.facts = dict(enumerate(facts))
        self.begun: list[tuple[int, str]] = []
        self.losses: dict[str, list[Lost]] = {}
        self.gone: set[int] = set()
        self.broken: set[int] = set()
        self._workers = [Worker() for _ in facts]
        self._given: list[tuple[int, Task]] = []
        self._draw = draw
        self._begins = begins
        self._within = within
        with within(), ThreadPoolExecutor(len(facts)) as pool:
            self.said = list(pool.map(lambda worker: worker.start(begins), self._workers))

    def make(self, worker: int, task: Task) -> None:
        self.begun.append((worker, task.name))
        self._given.append((worker, task))

    def wait(self) -> Sequence[tuple[int, Event]]:
        if not self._given:
            return ()
        with self._within():
            return self._do(*self._given.pop(self._draw.randrange(len(self._given)) if self._draw else 0))

    def _do(self, worker: int, task: Task) -> Sequence[tuple[int, Event]]:
        losses = self.losses.get(task.name)
        if worker in self.broken:
            return [(worker, Outcome(error=HostError("the device is full")))]
        if not losses:
            return [(worker, self._workers[worker].make(task))]
        lost = losses.pop(0)
        self._workers[worker].close()
        self._workers[worker] = Worker()  # it has nothing of the one before
        self._workers[worker].start(self._begins)
        return [(worker, lost)] if lost.for_good else [(worker, lost), (worker, self.facts[worker])]

    def close(self) -> None:
        for worker in self._workers:
            worker.close()
