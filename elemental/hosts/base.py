"""The port to whatever makes images: the WebUI, diffusers, or a fake for tests."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

from ..errors import HostError
from ..images.request import GeneratedImage, ImageRequest

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

NO_FIELDS: Mapping[str, str] = MappingProxyType({})
"""No further texts for an image's file."""


@dataclass(frozen=True)
class CheckpointRef:
    """A checkpoint that a host knows.

    Attributes:
        title: As the host shows it.
        path: Its file.
    """

    title: str
    path: Path


@dataclass(frozen=True)
class StepProgress:
    """What can be seen of an image in the making.

    Attributes:
        step: Steps of the sampler that are done.
        steps: All steps; 0 if nothing is being made.
        image: What it looks like now, if the host shows that.
    """

    step: int = 0
    steps: int = 0
    image: Image.Image | None = None


class LiveModel(Protocol):
    """The model that a host makes images with, as the tensors of a checkpoint."""

    @property
    def checkpoint(self) -> CheckpointRef | None:
        """The file it was loaded from, if there is one; None once a merge was kept in it."""

    def tensors(self) -> Mapping[str, Sequence[Tensor]]:
        """Give the tensors in use now, by the key that each has in a checkpoint.

        A tensor may lie in several parts: their numbers in row-major order, one part after the other, are the
        checkpoint tensor's. Parts may be strided views, on any device, in any float format; they are written to.
        Keys of a checkpoint that the host has no use for are left out.

        Raises:
            HostError: Something else was loaded in their place, or they are on no device.
        """

    def changed(self, keys: Collection[str]) -> None:
        """Take note that these tensors were written to: whatever was computed from them is void.

        Raises:
            HostError: The host cannot use the new numbers.
        """

    def claim(self) -> AbstractContextManager[None]:
        """Have the model to oneself.

        Raises:
            HostError: Somebody else is merging into it.
        """

    def keep(self, label: str) -> None:
        """Take note that the merge in the model is there to stay, under this name."""

    def describe(self, model: Mapping[str, str], fields: Mapping[str, str]) -> None:
        """Take note of what is in the model, for the images that the user makes of it outside of this program.

        Args:
            model: What names it, for the infotext; empty if it is the checkpoint.
            fields: Further texts for the images' files.
        """

    def replaced(self) -> bool:
        """Tell whether the host has since loaded something else over these tensors, or in their place."""


class Host(Protocol):
    """Whatever makes images."""

    def checkpoints(self) -> Sequence[CheckpointRef]:
        """List the checkpoints that it knew of when it last looked for them."""

    def refresh(self) -> None:
        """Look for checkpoints anew."""

    def models_folder(self) -> Path:
        """Give the folder in which merges are saved, and models looked for that have moved."""

    def samplers(self) -> Sequence[str]:
        """List the samplers that requests may name."""

    def loaded(self) -> CheckpointRef | None:
        """Give the checkpoint that the live model was loaded from last, whatever was merged into it since.

        None if there is no model, or one in which a merge, or the rest of one that could not be taken out, is to stay.
        """

    def before_loading(self, call: Callable[[], None]) -> None:
        """Have something called whenever the user is about to load a checkpoint by the host's own means."""

    def job(self, name: str, images: int) -> AbstractContextManager[None]:
        """Have the host to oneself for a job, once those before it are done; no job begins another one.

        Args:
            name: What to call it.
            images: How many will be made.
        """

    def open_model(self, checkpoint: CheckpointRef) -> LiveModel:
        """Load a checkpoint, unless it is the one in use, and give the live model.

        Raises:
            CheckpointError: The file cannot be read, or is no model that is known.
            HostError: It cannot be loaded, or a merge is going on in the live model.
        """

    def make_images(
        self, request: ImageRequest, *, model: Mapping[str, str], fields: Mapping[str, str] = NO_FIELDS
    ) -> Sequence[GeneratedImage]:
        """Make the images of a request from the live model as it is now.

        Args:
            request: What to make.
            model: What names the model, for the infotext.
            fields: Further texts that the images are to carry.

        Returns:
            As many as the request's batch, in the order of their seeds.

        Raises:
            HostError: It cannot be done.
            Stopped: The user pressed Stop.
        """

    def report(self, done: int, total: int, text: str) -> None:
        """Show how far a job is.

        Args:
            done: How much is done, and
            total: of how much, in whatever both are counted.
            text: What is done now.
        """

    def step_progress(self) -> StepProgress:
        """Show the image in the making."""

    def stop(self) -> None:
        """Have the job end soon, as if the user had pressed the host's own Stop; the next job starts afresh."""

    def should_stop(self) -> bool:
        """Tell whether the user pressed Stop."""

    def output_folder(self) -> Path:
        """Give the folder in which images are kept."""


class Claim:
    """What a live model needs to be claimed by one at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Hold the claim.

        Raises:
            HostError: Somebody else holds it.
        """
        if not self._lock.acquire(blocking=False):
            raise HostError("Another merge is using the live model; wait for it, or stop it.")
        try:
            yield
        finally:
            self._lock.release()
