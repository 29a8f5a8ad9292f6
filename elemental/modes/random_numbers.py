"""Random numbers that depend on a seed, a tensor and a model alone: not on what was drawn before, nor on threads.

Philox is a generator with a counter: what it gives at a place is a function of its key and this place. So any piece of
a tensor is drawn by itself. Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011; numpy promises
that the numbers of its bit generators stay the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

RANGE = 1 << 32
"""Numbers are drawn from 0 up to this."""

_AT_ONCE = 8
"""The numbers of 32 bits that Philox gives for each value of its counter."""


def draw(start: int, count: int, *, seed: int, key: str, role: str) -> NDArray[np.uint32]:
    """Draw whole numbers from 0 to 2**32 - 1, all as likely, for some numbers of a tensor.

    Args:
        start: The index of the first number in the flattened tensor.
        count: How many there are.
        seed: The seed.
        key: The tensor's key in a checkpoint.
        role: The model whose numbers they are for: tensors of two models get other ones.
    """
    import hashlib

    import numpy as np

    digest = hashlib.sha256(f"{seed}\n{role}\n{key}".encode()).digest()
    words = np.frombuffer(digest[:16], dtype="<u8").astype("u8")
    skipped = start % _AT_ONCE
    generator = np.random.Philox(key=words, counter=start // _AT_ONCE)
    raw = generator.random_raw(-(-(skipped + count) // 2)).astype("<u8", copy=False)
    return raw.view("<u4")[skipped : skipped + count]
