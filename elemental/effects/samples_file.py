"""Samples in a file, beside what they were made from, so that they are found again and more can be added."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from ..errors import CheckpointError
from .samples import Pass, Samples

_FIELD = "elemental_effects"
_NUMBERS = "samples"
_VERSION = 1


def file_of(folder: Path, origin: Mapping[str, Any]) -> Path:
    """Give the file for samples that are made from something.

    Args:
        folder: Its folder.
        origin: What they are made from, as plain data; the name of the file depends on nothing else.
    """
    text = json.dumps(origin, sort_keys=True, ensure_ascii=True)
    return folder / f"effects-{hashlib.sha256(text.encode()).hexdigest()[:12]}.safetensors"


def encode_samples(samples: Samples, origin: Mapping[str, Any]) -> bytes:
    """Write samples and what they were made from as the bytes of a safetensors file."""
    told = {
        "version": _VERSION,
        "origin": origin,
        "keys": samples.keys,
        "passes": samples.passes,
        "slopes": list(samples.slopes.items()),
        "shape": samples.shape,
    }
    return save({_NUMBERS: samples.numbers.contiguous()}, {_FIELD: json.dumps(told)})


def read_samples(path: Path) -> tuple[Samples, dict[str, Any]]:
    """Read samples, and what they were made from.

    Raises:
        CheckpointError: The file cannot be read, or is something else.
    """
    try:
        with safe_open(path, framework="pt") as file:
            told = json.loads((file.metadata() or {})[_FIELD])
            numbers = file.get_tensor(_NUMBERS).to(torch.float32)
        passes = tuple(Pass(int(request), int(number), str(source)) for request, number, source in told["passes"])
        slopes = {int(request): float(slope) for request, slope in told["slopes"]}
        keys = tuple(map(str, told["keys"]))
        if numbers.shape != (len(passes), len(keys)) or told["version"] != _VERSION:
            raise ValueError("its parts do not fit together")
        shape = None if told["shape"] is None else float(told["shape"])
        return Samples(keys, passes, numbers, slopes, shape), dict(told["origin"])
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError) as exc:
        raise CheckpointError(f"{path} holds no samples of effects that can be read: {exc}.") from exc
