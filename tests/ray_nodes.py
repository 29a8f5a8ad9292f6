"""A Ray of some nodes on this computer for tests: small, on loopback, in processes that are gone when it is closed.

The nodes are begun by a process of their own (``python -m tests.ray_nodes``), which reads what to do from its input:
so a Ray that hangs can be ended, and a test can be a driver as a user's command is.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
SECONDS_TO_BEGIN = 90.0
SECONDS_OF_A_TEST = 240.0
_SECONDS_TO_ADD = 120.0
_STORE = 80 << 20  # a little more than the least that Ray takes
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""What a driver needs before it imports Ray to find nodes at 127.0.0.1, which Ray would replace by another address."""
_SETTINGS = {
    **LOOPBACK,
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_memory_monitor_refresh_ms": "0",  # what else fills this machine must not end workers
    "RAY_worker_register_timeout_seconds": "240",
    "RAY_health_check_period_ms": "500",  # a node that was killed is known as dead after two seconds
    "RAY_health_check_failure_threshold": "4",
    "OMP_NUM_THREADS": "1",
}


class CannotBegin(Exception):
    """Ray does not begin on this machine; the message is Ray's."""


class RayNodes:
    """Nodes of one CPU each; ``with`` ends their processes.

    Args:
        count: How many; the first is the head, which drivers are on and which stays.
        environment: Variables that the nodes and their workers have besides.
        seconds: So long the first may take to begin.

    Attributes:
        address: Where a driver finds them.

    Raises:
        CannotBegin: They do not begin in time, or at all.
    """

    def __init__(
        self, count: int, environment: dict[str, str] | None = None, *, seconds: float = SECONDS_TO_BEGIN
    ) -> None:
        self.folder = tempfile.mkdtemp(prefix="eray", dir="/tmp")  # short: names of sockets hold it
        Path(self.folder, "ray").mkdir()  # where Ray notes the address
        self._lines: Queue[str] = Queue()
        self._log = Path(self.folder, "log")
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        own = {**_SETTINGS, "RAY_TMPDIR": self.folder, "PYTHONPATH": os.pathsep.join(paths), **(environment or {})}
        self.environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | own
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.ray_nodes", self.folder],
                cwd=ROOT,
                env=self.environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        threading.Thread(target=self._listen, daemon=True).start()
        self._nodes: dict[int, int] = {}
        try:
            self.address = self._hear(seconds)
            for _ in range(count - 1):
                self.add()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> RayNodes:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def count(self) -> int:
        """How many nodes there are, with the head."""
        return 1 + len(self._nodes)

    @property
    def numbers(self) -> list[int]:
        """The numbers of those that can be killed."""
        return list(self._nodes)

    def add(self, folder: Path | None = None) -> int:
        """Begin a node, in whose folder its workers are, and give its number."""
        number, process = map(int, self._ask(f"add {folder or ROOT}").split())
        self._nodes[number] = process
        return number

    def kill(self, number: int) -> None:
        """Kill a node where it is, as a power cut does, with all that runs on it."""
        process = self._nodes.pop(number)
        ended = [process, *_descendants(process)]
        _kill(ended)
        self._ask(f"forget {number}")

    def workers(self) -> list[int]:
        """List the processes that are workers."""
        return [process for process in processes_of(self.folder) if _name(process).startswith("ray::Worker")]

    def close(self) -> None:
        """End all of it."""
        self._process.kill()
        self._process.wait()
        end_processes_of(self.folder)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _ask(self, line: str) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())
        self._process.stdin.flush()
        return self._hear(_SECONDS_TO_ADD)

    def _hear(self, seconds: float) -> str:
        try:
            kind, _, rest = self._lines.get(timeout=seconds).partition(" ")
        except Empty:
            raise CannotBegin(f"Ray has not begun after {seconds:.0f} s. {self._last_line()}") from None
        if kind != "done":
            raise CannotBegin(rest or self._last_line())
        return rest

    def _last_line(self) -> str:
        lines = self._log.read_text(errors="replace").split("\n")
        return next((line for line in reversed(lines) if line.strip()), "")

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            kind, _, rest = line.decode(errors="replace").strip().partition(" ")
            if kind in ("done", "failed"):  # the rest is Ray's talk
                self._lines.put(f"{kind} {rest}")
        self._lines.put("failed")


@contextmanager
def limit(seconds: float = SECONDS_OF_A_TEST, nodes: RayNodes | None = None) -> Iterator[None]:
    """Let what takes longer fail: by an error, and if nothing hears that, by ending the nodes that it waits for."""

    def fail(*_: object) -> None:
        pytest.fail(f"not done after {seconds:.0f} s")  # no Exception: Ray takes those for its own, and tries again

    before = signal.signal(signal.SIGALRM, fail)
    signal.setitimer(signal.ITIMER_REAL, seconds, 10)
    watch = threading.Timer(seconds + 30, end_processes_of, [nodes.folder] if nodes else [""])
    watch.daemon = True
    watch.start()
    try:
        yield
    finally:
        watch.cancel()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def processes_of(folder: str) -> list[int]:
    """List the processes of a Ray whose folder it is, whoever their parents are now; only Linux tells."""
    mark, found = f"RAY_TMPDIR={folder}\0".encode(), []
    for process in _processes() if folder else []:
        try:
            environment = Path(f"/proc/{process}/environ").read_bytes()
        except OSError:  # it has ended, or is another user's
            continue
        if mark in environment and process != os.getpid():
            found.append(process)
    return found


def end_processes_of(folder: str) -> None:
    """End the processes of a Ray, also those that it leaves when its driver is killed."""
    until = time.monotonic() + 30
    while (found := processes_of(folder)) and time.monotonic() < until:
        _kill(found)
        time.sleep(0.05)


def _processes() -> list[int]:
    folder = Path("/proc")
    return [int(path.name) for path in folder.iterdir() if path.name.isdigit()] if folder.is_dir() else []


def _descendants(process: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for other in _processes():
        try:
            parent = int(Path(f"/proc/{other}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(other)
    found, waiting = [], [process]
    while waiting:
        own = children.get(waiting.pop(), [])
        found += own
        waiting += own
    return found


def _name(process: int) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def _kill(processes: list[int]) -> None:
    for process in processes:
        try:
            os.kill(process, signal.SIGKILL)
        except ProcessLookupError:
            continue


def _say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def _serve(folder: str) -> None:
    """Begin a head, and then what is asked for, one line each."""
    from ray.cluster_utils import Cluster

    common: dict[str, Any] = {
        "node_ip_address": "127.0.0.1",
        "object_store_memory": _STORE,
        "plasma_directory": folder,  # /dev/shm may be small
        "include_dashboard": False,
        "temp_dir": folder,
    }
    cluster = Cluster(initialize_head=True, head_node_args={**common, "num_cpus": 1})
    _say("done", cluster.address)
    nodes: dict[int, Any] = {}
    for line in sys.stdin:
        verb, _, rest = line.strip().partition(" ")
        if verb == "add":
            os.chdir(rest)
            number = max(nodes, default=-1) + 1
            nodes[number] = node = cluster.add_node(**common, num_cpus=1)
            process = node.all_processes["raylet"][0].process.pid
            _say("done", number, process)
        else:
            node = nodes[int(rest)]
            node.kill_all_processes(check_alive=False, allow_graceful=False, wait=True)
            cluster.worker_nodes.discard(node)
            _say("done")


if __name__ == "__main__":
    try:
        _serve(sys.argv[1])
    except Exception as exc:  # whatever Ray says is the reason
        _say("failed", " ".join(str(exc).split()) or type(exc).__name__)
        raise
