"""The three parts in which hosts with the WebUI's page differ: how they load, what the live model is made of, the page.

Everything else, :mod:`.host`, :mod:`.extension` and :mod:`.images`, is the same for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ...images.image_request import GeneratedImage, ImageRequest

if TYPE_CHECKING:
    from torch import Tensor

    from ...merge.files.checkpoint import Checkpoint
    from ..base import Differentiator
    from .loading import HostQueue
    from .trace_recorder import TraceRecorder

MakeTraced = Callable[[ImageRequest, Mapping[str, str], "TraceRecorder"], GeneratedImage]
"""Makes an image, under its model's names for the infotext, while a recorder notes how."""


class Layout(Protocol):
    """What one live model is made of. It keeps no tensor between calls, so that the host may move the model."""

    @property
    def module(self) -> Any:
        """The host's model; None once the host has freed it."""

    @property
    def overwritten(self) -> bool:
        """Whether something was loaded over the tensors since this was made."""

    @property
    def overwritten_by_others(self) -> bool:
        """Whether that was not the host itself, so that the host names a checkpoint which is not in the model."""

    @property
    def left_out(self) -> str:
        """What of the checkpoint is not in use, and not merged, as a sentence for the user; empty if there is none."""

    def tensors(self) -> Mapping[str, Sequence[Tensor]]:
        """Take LoRAs out of the tensors, and give those in use by their keys in the file.

        Raises:
            HostError: Something in the model cannot be written to.
        """

    def changed(self, keys: Collection[str]) -> None:
        """Drop what the host has computed from these tensors.

        Raises:
            HostError: The host cannot use the new numbers.
        """

    def restored(self) -> None:
        """Put back what was dropped: the tensors hold their original numbers again."""


class LoadingHost(Protocol):
    """What a loader asks of the host that it belongs to."""

    @property
    def queue(self) -> HostQueue:
        """The host's queue."""

    def end_merges(self) -> None:
        """End merges, because the host is about to load a checkpoint by its own means; called in the queue."""

    def needed_checkpoint(self) -> str | None:
        """Give the host's name of the checkpoint that must stay for what is in the queue; None if none must."""

    def has_merge(self) -> bool:
        """Tell whether there is a merge in the model for the user's own images."""


class Loader(Protocol):
    """Loads checkpoints, and keeps the model that a job or a merge needs.

    The host describes a checkpoint by an object of its class ``CheckpointInfo``, called ``info`` here, and a request
    for images by an object that is called ``p`` in its source.
    """

    def model(self) -> Any:
        """Give the host's model; None if none is loaded."""

    def in_memory(self) -> Sequence[Any]:
        """Give all models that the host may use again."""

    def is_loaded(self, info: Any) -> bool:
        """Tell whether the host's model is this checkpoint, loaded as its user wants it."""

    def load(self, info: Any, *, force: bool) -> None:
        """Have the host load a checkpoint; its settings do not change.

        Args:
            info: The checkpoint.
            force: Whether to load it even if the host considers it loaded.

        Raises:
            HostError: It cannot be loaded; the checkpoint before it is then loaded again if possible.
        """

    def opened(self, info: Any) -> None:
        """Note that a merge may be written into the model of this checkpoint."""

    def guard(self, host: LoadingHost) -> None:
        """Have merges ended before the host loads a checkpoint by its own means; a second call changes nothing."""

    def loaded(self, module: Any) -> None:
        """Note that the host reports a model as loaded."""

    def settle(self) -> None:
        """Carry out choices of the user that had to wait; called in the queue, before a job or a request begins."""

    def job(self) -> AbstractContextManager[None]:
        """Keep the user's choices out of a job; called in the queue."""

    def release(self) -> None:
        """Let the host load what its user has chosen: there is no merge in the model any more."""

    def keep(self, p: Any, info: Any) -> None:
        """Have the host make the images of a request with the model that is loaded, whatever the user has chosen."""

    def refusal(self, p: Any) -> str | None:
        """Say why a request, apart from a checkpoint that it names, would replace the model; None if it would not."""

    def end_kept(self, module: Any, info: Any, *, chosen: bool) -> bool:
        """Have the host not take a kept merge for the checkpoint that was loaded before it.

        Args:
            module: The model that it is in.
            info: The checkpoint.
            chosen: Whether the user has chosen this checkpoint again.

        Returns:
            Whether the merge is to be forgotten although it is still in the model.
        """

    def drop(self, module: Any) -> bool:
        """Have the host not use a model again that it has set aside, and tell whether it had."""


class Page(Protocol):
    """The host's page: its txt2img tab, its list of checkpoints."""

    def inputs(self, button: Any) -> list[Any]:
        """Find the inputs of a button's click event; empty if there is none."""

    def watch_list(self, component: Any, picked: Callable[[str | None], None]) -> None:
        """Listen to the list of checkpoints at the top of the page.

        Args:
            component: A component that was made just now.
            picked: Called with what the user picks, even if it was shown already; None is no choice.
        """

    def image_pages(self) -> Sequence[str]:
        """List the pages of the host that an image can be sent to."""

    def wire_image_page(self, name: str, *, button: Any, infotext: Any, image: Any) -> None:
        """Have a button send an image to such a page, as :meth:`~..base.Host.wire_image_page` says."""

    def folder_opener(self) -> Callable[[Path], None] | None:
        """Give what opens a folder, as :meth:`~..base.Host.folder_opener` says."""


@dataclass(frozen=True)
class Parts:
    """The parts of one host.

    Attributes:
        loader: How it loads.
        page: Its page.
        make_layout: Tells what a model is made of, from the model and the open file of its checkpoint.
        make_differentiator: Makes what differentiates images by the tensors of a model; None if nothing can.
    """

    loader: Loader
    page: Page
    make_layout: Callable[[Any, Checkpoint], Layout]
    make_differentiator: Callable[[Any, MakeTraced], Differentiator] | None = None
