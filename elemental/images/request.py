"""What image is asked for, and the image that was made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ..errors import HostError, ImageError

if TYPE_CHECKING:
    from PIL import Image

_STEP = 8
_LARGEST = 8192
_MOST_STEPS = 999  # of the thousand that models are trained with
_MOST_IMAGES = 1000  # they are computed together


@dataclass(frozen=True)
class ImageRequest:
    """Everything beside the model that decides an image.

    Attributes:
        prompt: What it shall show.
        negative: What it shall not.
        seed: Of the first image, from 0; each next of a batch has the next, all below 2^32.
        steps: Of the sampler, from 1 to 999.
        sampler: As the host calls it, such as "Euler a".
        cfg: How strongly the prompt guides, from 1, where the negative prompt has no effect, to 100.
        width: In pixels, a multiple of 8 up to 8192.
        height: In pixels, a multiple of 8 up to 8192.
        batch: How many images, from 1 to 1000.

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
            raise ImageError(f"The steps are {self.steps}; they must be {_MOST_STEPS} at the most.")
        if self.batch > _MOST_IMAGES:
            raise ImageError(f"The batch is {self.batch}; it must be {_MOST_IMAGES} at the most.")
        for name, least in (("steps", 1), ("batch", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise ImageError(f"The {name} is {getattr(self, name)}; it must be {least} or more.")
        if self.seed + self.batch > 2**32:
            raise ImageError(f"The seed is {self.seed}; it must be below 2^32.")
        if not 1 <= self.cfg <= 100:  # NaN is not between either
            raise ImageError(f"The CFG scale is {self.cfg}; it must be from 1 to 100.")

    def to_dict(self) -> dict[str, Any]:
        """Give the request as plain data that :func:`request_from_dict` reads back."""
        return asdict(self)


def request_from_dict(data: Mapping[str, Any]) -> ImageRequest:
    """Read a request from what :meth:`ImageRequest.to_dict` gave.

    Raises:
        ImageError: It is none.
    """
    try:
        return ImageRequest(**data)
    except TypeError as exc:
        raise ImageError(f"The image's settings cannot be read: {exc}.") from exc


def choose_sampler(name: str, samplers: Sequence[str]) -> str:
    """Give a sampler's name as the host spells it; case does not matter.

    Raises:
        HostError: The host has none of that name.
    """
    found = next((known for known in samplers if known.lower() == name.strip().lower()), None)
    if found is None:
        raise HostError(f'There is no sampler "{name}"; there are {", ".join(samplers)}.')
    return found


def with_known_sampler(request: ImageRequest, samplers: Sequence[str]) -> ImageRequest:
    """Give a request whose sampler is spelt as the host does.

    Raises:
        HostError: The host has none of that name.
    """
    return replace(request, sampler=choose_sampler(request.sampler, samplers))


@dataclass(frozen=True)
class GeneratedImage:
    """One image.

    Attributes:
        image: RGB.
        seed: Its own.
        infotext: How it was made, in the form that the WebUI writes and reads.
        fields: Further texts that go into the file, by name.
    """

    image: Image.Image
    seed: int
    infotext: str
    fields: Mapping[str, str] = field(default_factory=dict)
