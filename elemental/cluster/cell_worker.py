"""How a worker makes the images of cells."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple

from ..hosts.base import CheckpointRef, Host
from ..images.image_request import GeneratedImage
from ..merge.files.model_locator import ModelLocator
from ..merge.progress import Stopwatch
from ..recipe.chains import base_file
from ..recipe.recipe import MergeRecipe, ModelSource
from ..runs.cells import Cell
from ..workflows import images_of_merge, live_merge

if TYPE_CHECKING:
    from ..merge.live_merge import LiveMerge


class CellImage(NamedTuple):
    """The image of a cell.

    Attributes:
        generated: The image.
        recipe: The recipe that it shows, with the numbers that were measured.
    """

    generated: GeneratedImage
    recipe: MergeRecipe


class CellImages:
    """Makes the images of cells; the live model of one stays for the next, which writes only what differs.

    Args:
        host: Makes them.
        locator: Finds the models.
    """

    def __init__(self, host: Host, locator: ModelLocator) -> None:
        self._host = host
        self._locator = locator
        self._source: ModelSource | None = None
        self._merge: LiveMerge | None = None
        self._stack = ExitStack()

    def make(self, cell: Cell, watch: Stopwatch) -> CellImage:
        """Make the image of a cell.

        Args:
            cell: The cell.
            watch: Counts the seconds of each stage.
        """
        merge = self._merge_for(base_file(cell.recipe.model_a), watch)
        with watch("merging"):
            recipe = merge.apply(cell.recipe).plan.recipe
        (generated,) = images_of_merge(self._host, cell.request, merge, recipe, watch=watch)
        return CellImage(generated, recipe)

    def close(self) -> None:
        """Take the merge out of the live model."""
        self._source = self._merge = None
        self._stack.close()

    def _merge_for(self, source: ModelSource, watch: Stopwatch) -> LiveMerge:
        if self._merge is None or source != self._source:
            self.close()
            with watch("loading"):
                path = self._locator.locate(source)
                live = self._host.open_model(CheckpointRef(path.stem, path))
            self._merge = self._stack.enter_context(live_merge(live, self._locator))
            self._source = source
        return self._merge
