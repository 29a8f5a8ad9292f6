"""Opens a host's model for merges whose images are differentiated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from ..errors import HostError
from ..hosts.base import CheckpointRef, Host
from ..images.image_request import ImageRequest, with_known_sampler
from ..merge.files.model_locator import AS_RECORDED, ModelLocator
from ..merge.files.open_models import OpenModels
from ..recipe.chains import base_file
from ..recipe.recipe import MergeRecipe
from ..workflows import live_merge

if TYPE_CHECKING:
    from ..hosts.base import Differentiator, LiveModel
    from ..merge.live_merge import LiveMerge


class DifferentiatedMerge(NamedTuple):
    """A live model whose images are differentiated, and what merges recipes into it.

    Attributes:
        live: The model.
        differentiator: Differentiates its images.
        models: The files of the recipes.
        merge: Makes the model equal to a recipe.
    """

    live: LiveModel
    differentiator: Differentiator
    models: OpenModels
    merge: LiveMerge


@contextmanager
def differentiated_merge(
    host: Host, recipe: MergeRecipe, *, purpose: str, locator: ModelLocator = AS_RECORDED
) -> Iterator[DifferentiatedMerge]:
    """Open the model A of a recipe; when the ``with`` block ends the live model is restored.

    Args:
        host: Makes the images, and differentiates them.
        recipe: The merge.
        purpose: What they are differentiated for: ends the sentence of the error for hosts that cannot do so.
        locator: Finds the models.

    Raises:
        CheckpointError: Model A is missing or damaged, or is none that can be merged.
        HostError: The host cannot differentiate its images, or the model cannot be loaded or restored.
    """
    path = locator.locate(base_file(recipe.model_a))
    live = host.open_model(CheckpointRef(path.stem, path))
    differentiator = host.differentiator()
    if differentiator is None:
        raise HostError(f"This host cannot differentiate images, which {purpose}.")
    with OpenModels(locator) as models, live_merge(live, models) as merge:
        yield DifferentiatedMerge(live, differentiator, models, merge)


def single_images(requests: Sequence[ImageRequest], host: Host) -> tuple[ImageRequest, ...]:
    """Give requests for one image each, with a sampler that the host has."""
    return tuple(with_known_sampler(replace(request, batch=1), host.samplers()) for request in requests)
