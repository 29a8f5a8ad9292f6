"""Recognise errors that mean: out of memory."""

from __future__ import annotations

import torch

_WORDS = ("DefaultCPUAllocator", "MPS backend out of memory")
"""torch's messages for the CPU (c10/core/impl/alloc_cpu.cpp) and Apple's devices (ATen/mps/MPSAllocator.mm)."""


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error means that memory ran out; torch has a class for it on CUDA only."""
    has_class = isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError))
    return has_class or (isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS))
