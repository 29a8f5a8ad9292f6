"""Recognizes weights that are packed: their bytes are no numbers that a merge could write."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...errors import HostError

_QUANTISED = "QuantizedTensor"


def refuse_packed(unet: Any, tensors: Mapping[str, tuple[Tensor, ...]]) -> None:
    """Refuse a model whose weights are packed.

    Args:
        unet: The model of the U-Net, which names its storage.
        tensors: The parameters by the keys of tensors that are numbers in the file.

    Raises:
        HostError: Some are packed; the message names how.
    """
    packing = find_packing(unet, tensors)
    if packing:
        raise HostError(
            f"The weights of the live model are packed ({packing}), and nothing can be merged into packed "
            'weights. Set "Diffusion in Low Bits" to Automatic or to a float8 format, and choose a checkpoint that is '
            "not quantised."
        )


def find_packing(unet: Any, tensors: Mapping[str, tuple[Tensor, ...]]) -> str:
    """Say what is packed, and how; empty if nothing is. The arguments are those of :func:`refuse_packed`."""
    kind = _kind_of_storage(getattr(unet, "storage_dtype", None))
    if kind:
        return f"the U-Net: {kind}"
    packed = ((key, _kind_of(part)) for key, parts in tensors.items() for part in parts)
    return next((f"{key}: {kind}" for key, kind in packed if kind), "")


def _kind_of_storage(storage: object) -> str:
    if storage is None or (isinstance(storage, torch.dtype) and storage.is_floating_point):
        return ""
    return str(storage).removeprefix("torch.")


def _kind_of(tensor: Any) -> str:
    """Name the packing of a tensor; empty if it holds plain numbers."""
    if getattr(tensor, "gguf_cls", None) is not None:
        return "gguf"
    if getattr(tensor, "quant_type", None) is not None or hasattr(tensor, "bnb_quantized"):
        return str(getattr(tensor, "quant_type", "bitsandbytes"))
    classes = [*type(tensor).__mro__, *type(getattr(tensor, "data", None)).__mro__]
    if any(cls.__name__ == _QUANTISED for cls in classes):
        return _QUANTISED
    return "" if tensor.is_floating_point() else str(tensor.dtype).removeprefix("torch.")
