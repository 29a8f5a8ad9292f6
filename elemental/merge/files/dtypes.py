"""Dtypes: torch's for the names in safetensors headers, and rounding to them."""

from __future__ import annotations

import torch
from torch import Tensor

TORCH_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""torch's dtypes by their names in safetensors headers."""


def working_dtype(device: torch.device) -> torch.dtype:
    """Choose the dtype to compute in, so that only the rounding to the saved dtype affects the result.

    Where large terms cancel, rounding errors of float32 would be visible. float64 costs little compared to copying;
    Apple's devices do not have it.
    """
    return torch.float32 if device.type == "mps" else torch.float64


_LARGEST_E4M3 = 464.0
"""Larger numbers would round to more than 448, the largest number of F8_E4M3."""


def round_to(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Round floats to a dtype; numbers too large for it become NaN or infinite in every version of torch.

    F8_E4M3 has no infinity. Older versions of torch give NaN for numbers too large for it, newer ones 448.

    torch converts float64 to fp16 by way of float32: of numbers almost halfway between two fp16 numbers, some become
    the farther one, by less than 2**-13 of the distance of the two.

    Args:
        values: Floats of any shape and dtype, or numbers that have the dtype already.
        dtype: The dtype.

    Returns:
        Numbers of the same shape; ``values`` itself if it has the dtype already.
    """
    result = values.to(dtype)
    if dtype is torch.float8_e4m3fn and values.dtype is not dtype:
        wide = values.float() if values.element_size() == 1 else values
        result.view(torch.uint8)[wide.abs() > _LARGEST_E4M3] = 0x7F  # NaN
    return result
