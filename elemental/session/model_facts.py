"""What is said of a chosen model: its kind, size and number format from its header, and the image beside its file.

No other model is looked at, and a file is read again only when it has changed: lists can have hundreds of them.
"""

from __future__ import annotations

import functools
import io
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ..architectures.detection import input_channels
from ..errors import ElementalError
from ..images.files import read_image
from ..merge.files.checkpoint import Checkpoint, Signature, read_signature
from ..merge.plan_summary import format_size
from ..merge.shape_fit import INPUT_KINDS, LATENT_CHANNELS

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_SIZE = (160, 160)
_MOST = 64
"""Models, and images, that are remembered."""


@dataclass(frozen=True)
class ModelFacts:
    """What a file is.

    Attributes:
        kind: Its architecture, as "SD 1.x" or "SDXL inpainting"; empty if it is none that can be merged.
        size: Of the file, as "2.13 GB".
        dtype: The number format of most of its numbers; empty as the kind is.
    """

    kind: str
    size: str
    dtype: str


def read_facts(path: Path) -> ModelFacts:
    """Read what a model is.

    Raises:
        CheckpointError: There is no such file.
    """
    return _facts_of(path, read_signature(path))


@functools.lru_cache(maxsize=_MOST)
def _facts_of(path: Path, signature: Signature) -> ModelFacts:
    size = format_size(signature.size)
    try:
        with Checkpoint(path) as checkpoint:
            shapes = {key: info.shape for key, info in checkpoint.tensors.items()}
            channels = input_channels(shapes)
            usual = "" if channels == LATENT_CHANNELS else f" {INPUT_KINDS.get(channels, f'{channels} channels')}"
            numbers: Counter[str] = Counter()
            for info in checkpoint.tensors.values():
                numbers[str(info.dtype)] += info.numel
            return ModelFacts(f"{checkpoint.architecture.name}{usual}", size, _format(numbers))
    except (ElementalError, LookupError):  # the report says what is wrong with it
        return ModelFacts("", size, "")


def _format(numbers: Counter[str]) -> str:
    """Name the most common format as people do: fp16, bf16, fp8."""
    ((dtype, _),) = numbers.most_common(1)
    return re.sub("^F", "fp", dtype).partition("_")[0].lower()


def read_preview(path: Path) -> bytes:
    """Give the image beside a model as a small JPEG; nothing if there is none.

    As on the networks page of the WebUI, it is called as the model, or with ``.preview`` before its suffix.
    """
    for image in _previews(path):
        with suppress(ElementalError):
            return _small(image, read_signature(image))
    return b""


def _previews(path: Path) -> Iterator[Path]:
    names = (f"{path.stem}{middle}{suffix}" for suffix in _SUFFIXES for middle in ("", ".preview"))
    return (image for name in names if (image := path.with_name(name)).is_file())


@functools.lru_cache(maxsize=_MOST)
def _small(image: Path, _signature: Signature) -> bytes:
    small = read_image(image)
    small.thumbnail(_SIZE, Image.Resampling.LANCZOS, reducing_gap=2.0)
    data = io.BytesIO()
    small.save(data, "JPEG", quality=75)
    return data.getvalue()
