"""The workers as actors of Ray: placed, restarted and logged by Ray. The only file that imports it."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import CheckpointError, HostError, Stopped
from ..hosts.base import Host
from ..merge.files.checkpoint import Signature
from ..merge.files.model_locator import AS_RECORDED, ModelLocator
from ..merge.files.open_models import OpenModels
from ..merge.progress import Controls
from .crew import Crew, Event, Lost
from .maker import ClusterMaker
from .node_models import describe_models
from .places import Node, Places, choose_places
from .sender import ModelSender, offer_models
from .worker import Outcome, Task, Worker, WorkerFacts, WorkerSetup, as_error

_log = logging.getLogger(__name__)

_SECONDS_OF_A_WAIT = 0.2  # so soon a run hears that the user asked to stop
_SECONDS_TO_BEGIN = 60.0  # so long the first image waits for workers that have not begun
_RESTARTS = 3
LOCAL = "local"
"""Ray's name for a cluster that it begins on this computer, whatever cluster it would find."""


def has_ray() -> bool:
    """Tell whether Ray is installed."""
    return find_spec("ray") is not None


def require_ray() -> None:
    """Make sure that Ray is installed.

    Raises:
        HostError: It is not.
    """
    if not has_ray():
        raise HostError('Runs on a cluster need Ray: pip install "sd-webui-elemental[cluster]"')


@contextmanager
def open_crew(
    address: str | None,
    *,
    make_host: Callable[[str], Host],
    models: Mapping[str, Signature],
    locator: ModelLocator = AS_RECORDED,
    device: str | None = None,
    workers: int | None = None,
    tell: Callable[[str], None] = _log.info,
    controls: Controls | None = None,
) -> Iterator[tuple[Crew, str]]:
    """Begin workers on a cluster of Ray; they end with the ``with`` block.

    Args:
        address: The cluster, as Ray names it; :data:`LOCAL` for one that is begun here and now; None for the one that
            Ray finds, or else such a one.
        make_host: Makes a host on a device, at the workers; it must be importable there.
        models: What each model file looks like here, by its path.
        locator: Finds the models.
        device: "cuda" or "cpu"; None for GPUs if the cluster has any.
        workers: How many workers; None for one a GPU, or else one a machine.
        tell: Hears which models were sent to which node.
        controls: Hears what is being done until the workers have begun, and tells when the user stops it.

    Yields:
        The workers, and the device that was chosen.

    Raises:
        HostError: Ray is not installed, the cluster cannot be reached or has too little, or a worker's machine lacks
            something; the message names it.
        Stopped: The user asked for it before the workers had begun.
    """
    require_ray()
    controls = controls or Controls()
    with ExitStack() as stack:
        controls.stage("reaching Ray")
        stack.enter_context(_connected(address))
        nodes = _nodes()
        places = choose_places(nodes, device, workers)
        sending = ", and sending them models that they lack" if len(nodes) > 1 else ""
        controls.stage(f"starting {places.count} worker{'s' * (places.count != 1)} ({places.device}){sending}")
        setup = WorkerSetup(
            make_host,
            places.device,
            places.cpus or None,
            models=describe_models(models),
            sender=stack.enter_context(_sender(models)),
            locator=locator,
            home=str(Path.home()),
            version=__version__,
        )
        actors = RayWorkers(places, setup, tell)
        stack.callback(actors.close)
        actors.begin(controls.should_stop)
        yield Crew(actors), places.device


@contextmanager
def open_cluster(
    address: str | None,
    *,
    make_host: Callable[[str], Host],
    models: Mapping[str, Signature],
    locator: ModelLocator = AS_RECORDED,
    device: str | None = None,
    workers: int | None = None,
    tell: Callable[[str], None] = _log.info,
    controls: Controls | None = None,
) -> Iterator[tuple[ClusterMaker, str]]:
    """Begin workers as :func:`open_crew` does; gives what makes images with them, and the device that was chosen.

    Raises:
        HostError, Stopped: As there.
    """
    opened = open_crew(
        address,
        make_host=make_host,
        models=models,
        locator=locator,
        device=device,
        workers=workers,
        tell=tell,
        controls=controls,
    )
    with opened as (crew, chosen), OpenModels(locator) as open_models:
        yield ClusterMaker(crew, open_models), chosen


@contextmanager
def _connected(address: str | None) -> Iterator[None]:
    """Connect to a cluster, or stay connected; what is begun here ends here.

    Raises:
        HostError: It cannot be reached.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # this program reports to nobody
    import ray

    if ray.is_initialized():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    is_main = threading.current_thread() is threading.main_thread()
    level = logging.WARNING if is_main else logging.ERROR  # in another thread it warns that it sets no handler
    try:
        ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level=level)
    except Exception as exc:  # Ray raises errors of any type, also Exception itself
        where = "Ray" if address in (None, LOCAL) else f'the Ray cluster "{address}"'
        raise HostError(f"Cannot begin with {where}: {_shorten(exc)}") from exc
    finally:
        if handler is not None and is_main:
            signal.signal(signal.SIGTERM, handler)  # Ray has put its own in its place
    try:
        yield
    finally:
        ray.shutdown()


def _nodes() -> list[Node]:
    import ray

    resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [Node(int(have.get("CPU", 0)), int(have.get("GPU", 0))) for have in resources]


@contextmanager
def _sender(models: Mapping[str, Signature]) -> Iterator[_RaySender]:
    """Begin what sends models, on this machine; it has no work unless a node lacks some."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = ray.remote(ModelSender).options(
        num_cpus=0, max_restarts=_RESTARTS, max_task_retries=_RESTARTS, scheduling_strategy=here
    )
    sender = _RaySender(actor.remote(offer_models(models)))
    try:
        yield sender
    finally:
        ray.kill(sender.actor)


class _RaySender:
    """Asks the actor that sends models, for a worker.

    Args:
        actor: The actor.
    """

    def __init__(self, actor: Any) -> None:
        self.actor = actor

    def sha256(self, name: str) -> str:
        """Give the SHA-256 of a file in lower-case hex.

        Raises:
            CheckpointError: It cannot be read.
            HostError: The machine that has it cannot be asked.
        """
        sha256: str = _answer(self.actor.sha256.remote(name))
        return sha256

    def fetch(self, name: str, start: int, stop: int) -> bytes:
        """Give the bytes of a file from one place to another.

        Raises:
            CheckpointError: They cannot be read.
            HostError: The machine that has it cannot be asked.
        """
        piece: bytes = _answer(self.actor.fetch.remote(name, start, stop))
        return piece


def _answer(call: Any) -> Any:
    import ray

    try:
        return ray.get(call)
    except ray.exceptions.RayTaskError as exc:
        if isinstance(exc.cause, CheckpointError):
            raise exc.cause from exc
        raise HostError(f"What sends it failed: {as_error(exc.cause)}") from exc
    except ray.exceptions.RayError as exc:
        raise HostError(f"What sends it cannot be asked: {_shorten(exc)}") from exc


class RayWorkers:
    """Workers as actors.

    Args:
        places: How many there are, and what each needs.
        setup: What they begin with.
        tell: Hears which models were sent to which node.

    Attributes:
        count: How many there are.
        facts: What those that have begun said of themselves, by number.
        gone: Those that could not begin.
    """

    def __init__(self, places: Places, setup: WorkerSetup, tell: Callable[[str], None]) -> None:
        import ray

        self.count = places.count
        self.facts: dict[int, WorkerFacts] = {}
        self.gone: set[int] = set()
        gpus = 1 if places.device == "cuda" else 0
        # lost calls are not made again by Ray: others may take over, and a task that costs every worker would not end
        actor = ray.remote(Worker).options(
            num_cpus=places.cpus, num_gpus=gpus, max_restarts=_RESTARTS, max_task_retries=0
        )
        self._tell = tell
        self._setup = ray.put(setup)
        self._actors: list[Any] = [actor.remote() for _ in range(places.count)]
        self._calls: dict[Any, tuple[int, bool]] = {}  # the number of the worker, and whether it does a task
        for number in range(places.count):
            self._start(number)

    def _start(self, worker: int) -> None:
        call = self._actors[worker].start.options(max_task_retries=-1).remote(self._setup)
        self._calls[call] = worker, False

    def begin(self, should_stop: Callable[[], bool] = lambda: False) -> None:
        """Wait until all have begun, or a while and until one has; those that cannot begin are told of, and left out.

        Args:
            should_stop: Asked again and again.

        Raises:
            HostError: A machine lacks something, or no worker could begin.
            Stopped: The user asked for it.
        """
        lost: dict[int, str] = {}
        end = time.monotonic() + _SECONDS_TO_BEGIN
        while len(self.facts) + len(lost) < self.count and (not self.facts or time.monotonic() < end):
            if should_stop():
                raise Stopped("Stopped while workers were starting.")
            for worker, event in self.wait():
                if isinstance(event, WorkerFacts):
                    self.facts[worker] = event
                elif isinstance(event, Lost):
                    lost[worker] = event.reason
        lacks = [line for facts in self.facts.values() for line in facts.lacks]
        if lacks or not self.facts:
            raise HostError("\n".join(dict.fromkeys([*lacks, *lost.values()])))
        self.gone = set(lost)
        for reason in lost.values():
            self._tell(f"A worker is not used: {reason}")

    def make(self, worker: int, task: Task) -> None:
        """Have a worker that waits do a task."""
        self._calls[self._actors[worker].make.remote(task)] = worker, True

    def wait(self) -> Sequence[tuple[int, Event]]:
        """Wait a moment for news.

        Raises:
            HostError: The cluster cannot be reached any more.
        """
        import ray

        try:
            first, _ = ray.wait(list(self._calls), num_returns=1, timeout=_SECONDS_OF_A_WAIT)
            ready, _ = ray.wait(list(self._calls), num_returns=len(self._calls), timeout=0) if first else ([], [])
        except ray.exceptions.RayError as exc:
            raise HostError(f"The cluster cannot be reached any more: {_shorten(exc)}") from exc
        return [self._read(call) for call in ready]

    def _read(self, call: Any) -> tuple[int, Event]:
        import ray

        worker, is_task = self._calls.pop(call)
        try:
            event = ray.get(call)
        except ray.exceptions.RayActorError as exc:
            if is_task:
                self._start(worker)  # it waits for Ray to begin the worker again
            return worker, Lost(_shorten(exc), for_good=not is_task)
        except Exception as exc:  # what a worker raises can be anything
            cause = exc.cause if isinstance(exc, ray.exceptions.RayTaskError) else exc
            error = as_error(cause)
            return worker, Outcome(error=error) if is_task else Lost(str(error), for_good=True)
        if isinstance(event, WorkerFacts):
            for line in event.sent:
                self._tell(line)
        return worker, event

    def close(self) -> None:
        """End them at once; their models are copies."""
        import ray

        for actor in self._actors:
            ray.kill(actor)


def _shorten(error: BaseException) -> str:
    """Give the first and the last line of what Ray says: what happened, and why."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(dict.fromkeys([lines[0], lines[-1]])) if lines else type(error).__name__
