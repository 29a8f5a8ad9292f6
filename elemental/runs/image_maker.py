"""What makes the images of cells: one host, one after another, or another maker that knows more devices."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from itertools import groupby
from typing import TYPE_CHECKING, Protocol

from ..errors import ElementalError, Stopped
from ..hosts.base import CheckpointRef, Host
from ..images.image_request import GeneratedImage
from ..merge.files.checkpoint import Signature
from ..merge.files.model_locator import AS_RECORDED, ModelLocator
from ..merge.progress import Controls, Stopwatch
from ..recipe.chains import base_file
from ..workflows import images_of_merge, live_merge
from .cells import Cell, order_cells
from .estimate import refuse_changed

if TYPE_CHECKING:
    from ..merge.live_merge import LiveMerge

_log = logging.getLogger(__name__)


class Inbox(Protocol):
    """Takes what becomes of cells: it saves images, notes errors, and knows whether the user asked to stop."""

    @property
    def models(self) -> Mapping[str, Signature]:
        """What each model file looked like when the run began, by its path."""

    @property
    def controls(self) -> Controls:
        """Progress and stop."""

    @property
    def watch(self) -> Stopwatch:
        """Counts the seconds of what belongs to no cell: "loading"."""

    def begin(self, cell: Cell) -> None:
        """Hear that a cell is made now."""

    def take(
        self, cell: Cell, generated: GeneratedImage, seconds: Mapping[str, float], device: str | None = None
    ) -> None:
        """Save the image of a cell.

        Args:
            cell: The cell.
            generated: Its image.
            seconds: The time spent in each stage of making it.
            device: What made it; None if there is but one device.
        """

    def fail(self, cell: Cell, error: Exception, seconds: Mapping[str, float] | None = None) -> None:
        """Note why a cell has no image.

        Raises:
            Stopped: The run is to stop, which may be the reason.
        """


class ImageMaker(ABC):
    """Makes the images of the cells of a run."""

    @property
    @abstractmethod
    def at_once(self) -> int:
        """How many images it makes at the same time."""

    @abstractmethod
    def make(self, cells: Sequence[Cell], inbox: Inbox) -> None:
        """Make the images of cells, in whatever order costs least; each goes to the inbox as soon as it is made.

        Args:
            cells: The cells.
            inbox: Takes images and errors, each cell once.

        Raises:
            ElementalError: No more images can be made.
            Stopped: The inbox's controls asked for it.
        """


class OneHost(ImageMaker):
    """Makes images one after another on a host; each live model is restored afterwards.

    Args:
        host: Makes them.
        locator: Finds the models.
    """

    def __init__(self, host: Host, locator: ModelLocator = AS_RECORDED) -> None:
        self._host = host
        self._locator = locator

    @property
    def at_once(self) -> int:
        """One."""
        return 1

    def make(self, cells: Sequence[Cell], inbox: Inbox) -> None:
        """Make the images of cells in the cheapest order.

        Raises:
            HostError: The host's model could not be restored.
            Stopped: The inbox's controls asked for it.
        """
        for source, group in groupby(order_cells(cells), key=lambda cell: base_file(cell.recipe.model_a)):
            with ExitStack() as stack:
                try:
                    with inbox.watch("loading"):
                        path = self._locator.locate(source)
                        live = self._host.open_model(CheckpointRef(path.stem, path))
                    merge = stack.enter_context(live_merge(live, self._locator))
                except Stopped:
                    raise
                except Exception as exc:  # an error of one model must not cost the images of others
                    for cell in group:
                        inbox.fail(cell, exc)
                    continue
                for cell in group:
                    self._make_cell(merge, cell, inbox)

    def _make_cell(self, merge: LiveMerge, cell: Cell, inbox: Inbox) -> None:
        watch = Stopwatch()
        inbox.begin(cell)
        try:
            refuse_changed(inbox.models)
            (generated,) = images_of_merge(
                self._host, cell.request, merge, cell.recipe, controls=inbox.controls, watch=watch
            )
        except Stopped:
            raise
        except Exception as exc:  # any error of one cell must not cost the others
            _log.debug("%s failed", cell.name, exc_info=True)
            inbox.fail(cell, exc, watch.seconds)
        else:
            inbox.take(cell, generated, watch.seconds)


def describe_failure(error: Exception) -> str:
    """Say why a cell failed, as its blank place in a grid does."""
    return str(error) if isinstance(error, ElementalError) else f"{type(error).__name__}: {error}"
