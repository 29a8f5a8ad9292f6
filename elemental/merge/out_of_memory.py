"""How to tell that memory ran out."""

from __future__ import annotations

import torch

_WORDS = ("DefaultCPUAllocator", "MPS backend out of memory")
"""What torch says of the CPU's memory (c10/core/impl/alloc_cpu.cpp) and of Apple's (ATen/mps/MPSAllocator.mm)."""


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether memory ran out; torch has an error of its own for it on CUDA only, and words elsewhere."""
    known = isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError))
    return known or (isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS))
