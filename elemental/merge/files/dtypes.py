"""Number formats: the names in safetensors headers, and torch's own."""

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
"""torch's number formats by their names in safetensors headers."""


def working_dtype(device: torch.device) -> torch.dtype:
    """Choose the format to compute in, so that one rounding to the saved format is all that shows.

    Where two large terms cancel, the rounding of float32 would show in the result, and of bf16 and fp32 be all that
    is left of it. float64 costs little beside the copying; Apple's devices have none.
    """
    return torch.float32 if device.type == "mps" else torch.float64


_LARGEST_E4M3 = 464.0
"""What lies beyond would round to more than 448, the largest number that F8_E4M3 has."""


def round_to(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Round floats to a format; those too large for it become NaN or infinite in every version of torch.

    F8_E4M3 has no infinity, and torch has come to give 448 for numbers beyond it, infinite ones too, where it gave NaN.

    Args:
        values: Of any shape; floats of any format, or numbers that have the format already.
        dtype: The format.

    Returns:
        Numbers of the same shape; ``values`` itself if it has the format already.
    """
    result = values.to(dtype)
    if dtype is torch.float8_e4m3fn and values.dtype is not dtype:
        wide = values.float() if values.element_size() == 1 else values
        result.view(torch.uint8)[wide.abs() > _LARGEST_E4M3] = 0x7F  # NaN
    return result
