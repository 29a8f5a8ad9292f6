"""Cosine A: what is alike stays A's, what differs turns into B, by column; as supermerger's "cosineA" does.

Source: scripts/mergers/mergers.py of github.com/hako-mikan/sd-webui-supermerger.
"""

from __future__ import annotations

from .column_cosines import cosine_mode

COSINE_A = cosine_mode(
    "cosine-a",
    formula="(1 - k) B + k A, k = ((s + m) / 2 - lo) / (hi - lo) - abs(a) within 0 to 1, s = cos(A, B) of each column, "
    "m = cos(A', B'), A' and B' with columns as long as 1; the VAE is A's",
    purpose="keeps A where it is like B, with B's details where it is not; even 0 is not A, and 1 is nearly B",
    unit=True,
    either_sign=True,
)
