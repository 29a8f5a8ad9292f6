"""Cosine B: as cosine A, with the lengths of the columns; as supermerger's "cosineB" does.

Source: scripts/mergers/mergers.py of github.com/hako-mikan/sd-webui-supermerger.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from .base import Mode, ModelSurvey, Needs, Ratios, Read
from .column_cosines import BOUNDS, as_numbers, find_bounds, find_cosines, mix_columns, share_of_a


def _of_tensor(read: Read, shape: Sequence[int]) -> array[float]:
    return as_numbers(find_cosines(read, shape, unit=False).mean())


def _survey(read: Read, ratios: Ratios, shape: Sequence[int]) -> Sequence[float]:
    cosines = find_cosines(read, shape, unit=False).mean()
    return as_numbers(share_of_a(cosines, ratios.numbers).sub_(ratios.alpha).clamp_(0, 1))


COSINE_B = Mode(
    name="cosine-b",
    formula="(1 - k) B + k A, k = ((s + m) / 2 - lo) / (hi - lo) - a within 0 to 1, s = cos(A, B) of each column, "
    "m = cos(A, B) of the tensor; the VAE is A's",
    purpose="like cosine-a, but large columns count for more in m; even 0 is not A, and 1 is B but for a few columns",
    compute=mix_columns,
    coefficients=lambda _, __: None,
    needs=Needs.SLICES,
    survey=_survey,
    model_survey=ModelSurvey(_of_tensor, find_bounds),
    numbers=BOUNDS,
    keeps_vae=True,
)
