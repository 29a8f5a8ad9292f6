"""The memory that a backward pass needs, and that which is free."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

import torch
from torch import Tensor


def graph_bytes(compute: Callable[[], object], weights: Collection[int]) -> int:
    """Count the bytes that a computation keeps for its backward pass; nothing is kept.

    What several operations keep counts for each of them.

    Args:
        compute: The computation.
        weights: The addresses of weights, which do not count.
    """
    total = 0

    def count(tensor: Tensor) -> None:
        nonlocal total
        if tensor.data_ptr() not in weights:
            total += tensor.numel() * tensor.element_size()

    def refuse(_: None) -> Tensor:
        raise AssertionError("nothing was kept to go back by")

    with torch.autograd.graph.saved_tensors_hooks(count, refuse):
        compute()
    return total


def free_bytes(device: torch.device) -> int | None:
    """Give the free memory of a device; None if the system does not tell."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    return _free_main_memory() if device.type == "cpu" else None


def _free_main_memory() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None  # not Linux
    available = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")]
    return available[0] if available else None
