"""How many workers there are, and how much of a machine each has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import HostError


@dataclass(frozen=True)
class Node:
    """A machine of a cluster.

    Attributes:
        cpus: Its CPUs, as Ray counts them.
        gpus: Its GPUs.
    """

    cpus: int
    gpus: int


@dataclass(frozen=True)
class Places:
    """The workers of a run, all alike.

    Attributes:
        count: How many there are.
        device: What each computes on: "cuda" or "cpu".
        cpus: How many CPUs each has; 0 for workers on GPUs, which count by GPUs alone.
    """

    count: int
    device: str
    cpus: int


def choose_places(nodes: Sequence[Node], device: str | None, workers: int | None) -> Places:
    """Choose the workers: one for each GPU; without GPUs one for each machine, or as many as the user asks for.

    Workers on CPUs have equal numbers of CPUs, the largest with which so many find room.

    Args:
        nodes: The machines.
        device: "cuda" or "cpu"; None for GPUs where there are any.
        workers: How many the user wants; None for the rule.

    Raises:
        HostError: There are not so many GPUs or CPUs.
    """
    gpus = sum(node.gpus for node in nodes)
    if device == "cuda" or (device is None and gpus):
        if not 1 <= (workers or gpus) <= gpus:
            raise HostError(f"The cluster has {gpus} GPUs: fewer than workers are asked for.")
        return Places(workers or gpus, "cuda", 0)
    machines = [node.cpus for node in nodes if node.cpus]
    count = workers or len(machines)
    if not 1 <= count <= sum(machines):
        raise HostError(f"The cluster has {sum(machines)} CPUs: fewer than workers are asked for.")
    cpus = next(size for size in range(max(machines), 0, -1) if sum(have // size for have in machines) >= count)
    return Places(count, "cpu", cpus)
