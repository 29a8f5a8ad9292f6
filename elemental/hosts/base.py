"""The port: what this program asks of a host, the program or library that makes the images."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from ..errors import HostError
from ..images.image_request import GeneratedImage, ImageRequest

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor, nn

NO_FIELDS: Mapping[str, str] = MappingProxyType({})
"""No additional texts in an image file."""


@dataclass(frozen=True)
class CheckpointRef:
    """A checkpoint in the list of a host.

    Attributes:
        title: Its title in that list.
        path: Its file.
    """

    title: str
    path: Path


@dataclass(frozen=True)
class LoraRef:
    """A LoRA in the list of a host.

    Attributes:
        name: Its name in that list, which no other one has: without ending, and without folder if that is enough.
        path: Its file.
        place: The file within the host's folder of LoRAs, with ``/`` between folders.
    """

    name: str
    path: Path
    place: str


@dataclass(frozen=True)
class StepProgress:
    """The progress of the image that is being made.

    Attributes:
        step: Finished steps of the sampler.
        steps: All steps; 0 if no image is being made.
        image: A preview of the image, if the host has one.
    """

    step: int = 0
    steps: int = 0
    image: Image.Image | None = None


class HostSettings(Protocol):
    """What the host's own page says of an image besides the request: a value that later changes do not reach."""

    @property
    def notes(self) -> Sequence[str]:
        """What to tell the user about them."""

    def to_dict(self) -> dict[str, Any]:
        """Give plain data that :meth:`Host.read_settings` reads back.

        Raises:
            HostError: Something in them cannot be kept.
        """


class LiveModel(Protocol):
    """The model that a host makes images with, as the tensors of a checkpoint."""

    @property
    def checkpoint(self) -> CheckpointRef | None:
        """The checkpoint it was loaded from; None once a merge was kept in it."""

    @property
    def left_out(self) -> str:
        """What of the checkpoint the host does not use, so that it is not merged, as a sentence for the user; or empty.

        The user has chosen another VAE, say, and nothing keeps the checkpoint's own.
        """

    def tensors(self) -> Mapping[str, Sequence[Tensor]]:
        """Give the tensors in use by their keys in the checkpoint.

        A tensor may consist of several parts: their numbers in row-major order, one part after the other, are those
        of the tensor in the checkpoint. Parts may be strided views, on any device, in any float format; they are
        written to. Keys of the checkpoint that the host does not use are left out.

        Raises:
            HostError: The host has loaded something else, or has moved the tensors to no device.
        """

    def changed(self, keys: Collection[str]) -> None:
        """Tell the host that these tensors were written to: it drops what it computed from them.

        Raises:
            HostError: The host cannot use the new numbers.
        """

    def claim(self) -> AbstractContextManager[None]:
        """Hold the model for one merge.

        Raises:
            HostError: Another merge is using it.
        """

    def keep(self, label: str) -> None:
        """Tell the host that the merge stays in the model under this label."""

    def describe(self, model: Mapping[str, str], fields: Mapping[str, str]) -> None:
        """Tell the host what is in the model, for images that the user makes outside of this program.

        Args:
            model: Names the model in the infotext; empty if it is the checkpoint.
            fields: Additional texts for the image files.
        """

    def replaced(self) -> bool:
        """Tell whether the host has loaded something over these tensors, or uses another model."""


class TracedImage(Protocol):
    """An image that was made, and the way to it: its computations can be done again, with gradients.

    Steps and decodings are computed with the numbers that are in the live model at the time of the call. The graphs of
    torch reach the parameters of the model's networks.
    """

    @property
    def image(self) -> GeneratedImage:
        """The image."""

    @property
    def steps(self) -> int:
        """How often the U-Net was called."""

    @property
    def whole(self) -> bool:
        """Whether :meth:`draw` can be used."""

    @property
    def kept_bytes(self) -> int:
        """How many bytes the graphs need that are kept for the ways back."""

    def predict(self, step: int) -> Tensor:
        """Compute what the U-Net predicts at a step of the image: both branches of CFG, and the guided prediction.

        Args:
            step: From 0 to ``steps`` - 1.

        Returns:
            The guided prediction, u + cfg (c - u), of the shape of the latents.

        Raises:
            HostError: It cannot be computed.
        """

    def draw(self) -> Tensor:
        """Give the whole image, from its noise to its pixels, with a graph.

        What the U-Net predicted is known from the image, so it is computed on the way back only, one step at a time:
        the graph needs the memory of one step, and no second way forward. Until then the live model has to hold the
        numbers that the image was made with. Steps whose graphs are kept are not computed again.

        Returns:
            Channel values from 0 to 255, not rounded, of shape (1, 3, height, width).

        Raises:
            HostError: It cannot be computed.
        """

    def decode(self) -> Tensor:
        """Decode the image's latents, as :meth:`draw` gives them."""


class Differentiator(Protocol):
    """What differentiates the images of a live model by its tensors."""

    def networks(self) -> Sequence[nn.Module]:
        """Give the networks whose parameters are the live model's tensors."""

    def trace(self, request: ImageRequest, *, model: Mapping[str, str], room: int = 0) -> TracedImage:
        """Make the image of a request as :meth:`Host.make_images` does, and note the way to it.

        Args:
            request: A request for one image.
            model: Names the model in the infotext.
            room: Bytes of memory that graphs of its steps may need; a host may keep as many as fit. The parameters of
                the networks have to require gradients then.

        Raises:
            HostError: The image cannot be made.
            Stopped: The user pressed Stop.
        """


class Host(Protocol):
    """A program or library that makes images."""

    def checkpoints(self) -> Sequence[CheckpointRef]:
        """List the checkpoints that were there at the last :meth:`refresh`."""

    def loras(self) -> Sequence[LoraRef]:
        """List the LoRAs that were there at the last :meth:`refresh`; none if the host knows no folder of them."""

    def refresh(self) -> None:
        """Search for checkpoints and LoRAs again."""

    def models_folder(self) -> Path:
        """Give the folder in which merges are saved, and in which models that were moved are searched for."""

    def lora_folder(self) -> Path | None:
        """Give the folder that LoRAs belong into, even if it is not there yet; None if the host has no such."""

    def samplers(self) -> Sequence[str]:
        """List the samplers that requests may name."""

    def loaded(self) -> CheckpointRef | None:
        """Give the checkpoint that the live model was loaded from.

        It is still that checkpoint while a merge is in the model. None if no model is loaded, if a merge was kept in
        it, or if a merge could not be taken out completely.
        """

    def selected(self) -> CheckpointRef | None:
        """Give the checkpoint that the user has chosen on the host's own page, even if it is not loaded yet."""

    def before_loading(self, call: Callable[[], None]) -> None:
        """Register a function to call each time before the user loads a checkpoint by the host's own means."""

    def pasted_recipes(self) -> Callable[[], str | None] | None:
        """Give what takes the recipe, as JSON, of an infotext that was pasted, once; None if there is no such place."""

    def read_settings(self, data: Mapping[str, Any]) -> HostSettings:
        """Read the settings of a run from its record.

        Args:
            data: What :meth:`HostSettings.to_dict` gave, maybe long ago.

        Raises:
            HostError: They are another host's, or the host has not all of what they name any more.
        """

    def job(self, name: str, images: int, settings: HostSettings | None = None) -> AbstractContextManager[None]:
        """Hold the host for a job, after waiting for the jobs before it; a job may not start another one.

        Args:
            name: The name that the host shows.
            images: How many images it makes.
            settings: What its images are made with besides their requests; None for the host's defaults.
        """

    def open_model(self, checkpoint: CheckpointRef) -> LiveModel:
        """Load a checkpoint, unless it is loaded already, and give the live model.

        Raises:
            CheckpointError: The file cannot be read, or its architecture is unknown.
            HostError: It cannot be loaded, or a merge is using the live model.
        """

    def make_images(
        self, request: ImageRequest, *, model: Mapping[str, str], fields: Mapping[str, str] = NO_FIELDS
    ) -> Sequence[GeneratedImage]:
        """Make the images of a request from the live model.

        Args:
            request: The images to make.
            model: Names the model in the infotext.
            fields: Additional texts for the image files.

        Returns:
            As many images as the request's batch, in the order of their seeds.

        Raises:
            HostError: The images cannot be made.
            Stopped: The user pressed Stop.
        """

    def differentiator(self) -> Differentiator | None:
        """Give what differentiates images by the tensors of the model that is loaded; None if this host has no such."""

    def report(self, done: int, total: int, text: str) -> None:
        """Show the progress of a job.

        Args:
            done: How much is done, in any unit.
            total: The whole, in the same unit.
            text: What is being done.
        """

    def step_progress(self) -> StepProgress:
        """Give the progress of the image that is being made."""

    def stop(self) -> None:
        """End the job soon, as if the user had pressed the host's own Stop; the next job is not affected."""

    def should_stop(self) -> bool:
        """Tell whether the user pressed Stop."""

    def output_folder(self) -> Path:
        """Give the folder for images."""

    def image_pages(self) -> Sequence[str]:
        """List the host's own pages that an image can be sent to, such as "txt2img"; none if it has no such pages."""

    def wire_image_page(self, name: str, *, button: Any, infotext: Any, image: Any) -> None:
        """Have a button send an image to one of these pages, and open the page.

        Args:
            name: The page.
            button: A component of the tab, which is being built.
            infotext: The component that holds the image's infotext; it is not empty when the button is pressed.
            image: The component that holds the image.
        """

    def folder_opener(self) -> Callable[[Path], None] | None:
        """Give what opens a folder in the file manager; None if whoever sees the page would not see that.

        What it gives raises a :class:`HostError` if the folder cannot be opened.
        """


def refuse_settings(_data: Mapping[str, Any]) -> NoReturn:
    """Refuse the settings of a run, for hosts whose pages have none.

    Raises:
        HostError: Always.
    """
    raise HostError(
        "This run was begun in a WebUI, with everything that its txt2img tab said; other images would not match. "
        "Resume it there."
    )


@dataclass(frozen=True)
class ImageOrder:
    """Images as a page asks for them.

    Attributes:
        request: The images.
        settings: What else the host's own page says of them; None for a host that has no such page.
    """

    request: ImageRequest
    settings: HostSettings | None = None


class Claim:
    """Lets one merge at a time use a live model."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Hold the claim.

        Raises:
            HostError: Another merge holds it.
        """
        if not self._lock.acquire(blocking=False):
            raise HostError("Another merge is using the live model; wait for it, or stop it.")
        try:
            yield
        finally:
            self._lock.release()
