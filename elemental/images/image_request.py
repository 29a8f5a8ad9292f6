"""The settings of an image, and a generated image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ..errors import HostError, ImageError

if TYPE_CHECKING:
    from PIL import Image

_STEP = 8
_LARGEST = 8192
_MOST_STEPS = 999  # models are trained with 1000
_MOST_IMAGES = 1000  # of a batch, which is computed together


@dataclass(frozen=True)
class ImageRequest:
    """All settings of an image except the model.

    Attributes:
        prompt: The prompt.
        negative: The negative prompt.
        seed: The seed of the first image, from 0; the images of a batch have consecutive seeds below 2^32.
        steps: Sampling steps, from 1 to 999.
        sampler: The host's name of the sampler, such as "Euler a".
        cfg: CFG scale, from 1 to 100; at 1 the negative prompt has no effect.
        width: Width in pixels, a multiple of 8 up to 8192.
        height: Height in pixels, a multiple of 8 up to 8192.
        batch: The number of images, from 1 to 1000.

    Raises:
        ImageError: A number is out of its range.
    """

    prompt: str
    negative: str = ""
    seed: int = 0
    steps: int = 20
    sampler: str = "Euler a"
    cfg: float = 7.0
    width: int = 512
    height: int = 512
    batch: int = 1

    def __post_init__(self) -> None:
        for name in ("width", "height"):
            size = getattr(self, name)
            if not _STEP <= size <= _LARGEST or size % _STEP:
                raise ImageError(f"The {name} is {size}; it must be a multiple of {_STEP} up to {_LARGEST}.")
        if self.steps > _MOST_STEPS:
            raise ImageError(f"The steps are {self.steps}; they must be {_MOST_STEPS} at most.")
        if self.batch > _MOST_IMAGES:
            raise ImageError(f"The batch is {self.batch}; it must be {_MOST_IMAGES} at most.")
        for name, least in (("steps", 1), ("batch", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise ImageError(f"The {name} is {getattr(self, name)}; it must be {least} or more.")
        if self.seed + self.batch > 2**32:
            raise ImageError(f"The seed is {self.seed}; it must be below 2^32.")
        if not 1 <= self.cfg <= 100:  # NaN is refused too
            raise ImageError(f"The CFG scale is {self.cfg}; it must be from 1 to 100.")

    def to_dict(self) -> dict[str, Any]:
        """Give the request as a dict that :func:`request_from_dict` reads back."""
        return asdict(self)


def request_from_dict(data: Mapping[str, Any]) -> ImageRequest:
    """Read a request from a dict that :meth:`ImageRequest.to_dict` made.

    Raises:
        ImageError: The dict is not a request, or a number is out of its range.
    """
    try:
        return ImageRequest(**data)
    except TypeError as exc:
        raise ImageError(f"The image's settings cannot be read: {exc}.") from exc


def choose_sampler(name: str, samplers: Sequence[str]) -> str:
    """Give the host's spelling of a sampler; case is ignored.

    Raises:
        HostError: The host has no such sampler.
    """
    sampler = next((sampler for sampler in samplers if sampler.lower() == name.strip().lower()), None)
    if sampler is None:
        raise HostError(f'There is no sampler "{name}"; there are {", ".join(samplers)}.')
    return sampler


def with_known_sampler(request: ImageRequest, samplers: Sequence[str]) -> ImageRequest:
    """Give the request with the host's spelling of its sampler.

    Raises:
        HostError: The host has no such sampler.
    """
    return replace(request, sampler=choose_sampler(request.sampler, samplers))


@dataclass(frozen=True)
class GeneratedImage:
    """A generated image.

    Attributes:
        image: The image, RGB.
        seed: The seed of the image.
        infotext: How it was made, in the format of the WebUI.
        fields: More text fields for the file, by name.
    """

    image: Image.Image
    seed: int
    infotext: str
    fields: Mapping[str, str] = field(default_factory=dict)
