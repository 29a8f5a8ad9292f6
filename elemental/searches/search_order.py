"""What a search is made of: a merge, what varies in it, the images to compare, and how it steers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ..errors import ImageError
from ..images.image_request import ImageRequest, request_from_dict
from ..recipe.recipe import MergeRecipe, recipe_from_dict
from ..runs.axes.context import AxisContext
from .space import Space
from .steering import Settings
from .vary_texts import read_space


@dataclass(frozen=True)
class SearchOrder:
    """A search, before it begins.

    Attributes:
        recipe: The merge from which it begins.
        vary: What varies, as texts that :func:`.vary_texts.parse_vary` reads.
        requests: The images of each candidate: single ones, all of one size.
        settings: How it steers.

    Raises:
        ImageError: There are no images, they are no single ones, or their sizes differ.
    """

    recipe: MergeRecipe
    vary: tuple[str, ...]
    requests: tuple[ImageRequest, ...]
    settings: Settings = field(default_factory=Settings)

    def __post_init__(self) -> None:
        if not self.requests:
            raise ImageError("A search needs an image to compare: a prompt and a seed.")
        if any(request.batch != 1 for request in self.requests):
            raise ImageError("The images of a search are single ones: set the batch to 1, and give several seeds.")
        if len({(request.width, request.height) for request in self.requests}) > 1:
            raise ImageError("The images of a search need one size.")

    def space(self, context: AxisContext) -> Space:
        """Read what varies.

        Args:
            context: What the texts are read against.

        Raises:
            ElementalError: A text cannot be read, or too much varies, or nothing does.
        """
        return read_space(self.vary, self.recipe, context)

    def to_dict(self) -> dict[str, Any]:
        """Give the order as plain data that :func:`order_from_dict` reads back."""
        return {
            "recipe": self.recipe.to_dict(),
            "vary": list(self.vary),
            "requests": [request.to_dict() for request in self.requests],
            "settings": asdict(self.settings),
        }


def order_from_dict(data: Mapping[str, Any]) -> SearchOrder:
    """Read an order from what :meth:`SearchOrder.to_dict` gave.

    Raises:
        ElementalError: A part of it cannot be read.
        LookupError, TypeError, ValueError: It is damaged.
    """
    requests = tuple(request_from_dict(request) for request in data["requests"])
    return SearchOrder(
        recipe_from_dict(data["recipe"]), tuple(map(str, data["vary"])), requests, Settings(**data["settings"])
    )
