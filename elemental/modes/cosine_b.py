"""Cosine B: as cosine A, with the lengths of the columns; as supermerger's "cosineB" does.

Source: scripts/mergers/mergers.py of github.com/hako-mikan/sd-webui-supermerger.
"""

from __future__ import annotations

from .column_cosines import cosine_mode

COSINE_B = cosine_mode(
    "cosine-b",
    formula="(1 - k) B + k A, k = ((s + m) / 2 - lo) / (hi - lo) - a within 0 to 1, s = cos(A, B) of each column, "
    "m = cos(A, B) of the tensor; the VAE is A's",
    purpose="like cosine-a, but large columns count for more in m; even 0 is not A, and 1 is B but for a few columns",
    unit=False,
    either_sign=False,
)
