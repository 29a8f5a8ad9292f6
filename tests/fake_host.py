"""A host in memory for tests, whose images are made from the bytes of the live tensors, so that any change shows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from elemental.errors import HostError, Stopped
from elemental.hosts.base import NO_FIELDS, CheckpointRef, Claim, HostSettings, LoraRef, StepProgress, refuse_settings
from elemental.hosts.lora_files import list_loras
from elemental.images.image_request import GeneratedImage, ImageRequest
from elemental.images.infotext import format_infotext

Load = Callable[[Path], Mapping[str, Sequence[Tensor]]]
"""Gives the parts of each tensor of a file by its key."""


class FakeModel:
    """A live model of plain tensors.

    Attributes:
        moved: The keys of each call to :meth:`changed`.
        refuses: Keys that the model refuses to have changed.
        kept: The label that the merge in it was kept under.
        described: The last description of what is in it.
        is_replaced: Whether to say that another model was loaded in its place.
        left_out: What to say that is not merged.
    """

    left_out = ""

    def __init__(self, checkpoint: CheckpointRef | None, tensors: Mapping[str, Sequence[Tensor]]) -> None:
        self.checkpoint = checkpoint
        self.claim = Claim()
        self.moved: list[frozenset[str]] = []
        self.refuses: frozenset[str] = frozenset()
        self.kept: str | None = None
        self.described: Mapping[str, str] = {}
        self.is_replaced = False
        self._tensors = tensors
        self._weights: nn.ParameterList | None = None

    def weights(self) -> nn.ParameterList:
        """Give the float tensors as parameters, which share their memory."""
        if self._weights is None:
            parts = [part for parts in self._tensors.values() for part in parts if part.is_floating_point()]
            self._weights = nn.ParameterList(nn.Parameter(part, requires_grad=False) for part in parts)
        return self._weights

    def tensors(self) -> Mapping[str, Sequence[Tensor]]:
        """Give the tensors."""
        return self._tensors

    def changed(self, keys: Collection[str]) -> None:
        """Note the keys.

        Raises:
            HostError: One of them is refused.
        """
        self.moved.append(frozenset(keys))
        if refused := self.refuses.intersection(keys):
            raise HostError(f"The host refuses {min(refused)}.")

    def keep(self, label: str) -> None:
        """Note the label; what is in the model is no longer its file's."""
        self.kept = label
        self.checkpoint = None

    def describe(self, model: Mapping[str, str], fields: Mapping[str, str]) -> None:
        """Note the description."""
        self.described = {**model, **fields}

    def replaced(self) -> bool:
        """Give what the test has set."""
        return self.is_replaced

    def digest(self) -> bytes:
        """Give the SHA-256 of all bytes of all tensors."""
        digest = hashlib.sha256()
        for key in sorted(self._tensors):
            for part in self._tensors[key]:
                digest.update(part.reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.digest()


class FakeTrace:
    """An image, and a prediction made of the first numbers of each tensor.

    Attributes:
        image: The image.
        steps: How many steps it is said to have.
        whole: Whether the whole image can be computed.
        kept_bytes: Bytes of graphs that are kept.
    """

    steps, whole, kept_bytes = 3, False, 0

    def __init__(self, image: GeneratedImage, weights: nn.ParameterList) -> None:
        self.image = image
        self._weights = weights

    def predict(self, step: int) -> Tensor:
        """Give a prediction that is in proportion to the tensors."""
        return torch.cat([weight.flatten()[:8].float() * (step + 1) for weight in self._weights])

    def decode(self) -> Tensor:
        """Give the same, as the values of channels."""
        return self.predict(0)

    def draw(self) -> Tensor:
        """There is no way back to the noise.

        Raises:
            HostError: Always.
        """
        raise HostError("The host cannot differentiate whole images.")


class FakeDifferentiator:
    """Differentiates what :class:`FakeTrace` computes."""

    def __init__(self, host: FakeHost, live: FakeModel) -> None:
        self._host = host
        self._weights = live.weights()

    def networks(self) -> Sequence[nn.Module]:
        """Give the tensors as the parameters of a network."""
        return [self._weights]

    def trace(self, request: ImageRequest, *, model: Mapping[str, str], room: int = 0) -> FakeTrace:  # noqa: ARG002
        """Make the image."""
        return FakeTrace(self._host.make_images(request, model=model)[0], self._weights)


class FakeHost:
    """The port over tensors in memory.

    Args:
        load: Gives the tensors of a checkpoint.
        output: The folder for images.
        models: The folder whose checkpoints it lists, and in which merges are saved; none by default.

    Attributes:
        reports: What was reported.
        stopped: Whether the user pressed Stop.
        jobs: The names of the jobs that were begun.
        load_calls: What is called before the user loads a checkpoint.
        differentiates: Whether images can be differentiated.
        pages: The pages that images can be sent to.
        sent: The page, infotext and size of each image that was sent.
        opened_folders: The folders that were opened.
    """

    def __init__(self, load: Load, *, output: Path = Path("outputs"), models: Path | None = None) -> None:
        self.reports: list[tuple[int, int, str]] = []
        self.stopped = False
        self.jobs: list[str] = []
        self.load_calls: list[Callable[[], None]] = []
        self.differentiates = False
        self.pages: list[str] = []
        self.sent: list[tuple[str, str, tuple[int, int] | None]] = []
        self.opened_folders: list[Path] = []
        self._load = load
        self._output = output
        self._models = models
        self._live: FakeModel | None = None

    def checkpoints(self) -> Sequence[CheckpointRef]:
        """List those of its folder; without a folder, the one that is loaded."""
        if self._models is not None:
            return [CheckpointRef(path.name, path) for path in sorted(self._models.glob("*.safetensors"))]
        return [] if self._live is None or self._live.checkpoint is None else [self._live.checkpoint]

    def loras(self) -> Sequence[LoraRef]:
        """List those in its folder."""
        folder = self.lora_folder()
        return [] if folder is None else list_loras([folder])

    def lora_folder(self) -> Path | None:
        """Give the folder ``loras`` beside that of checkpoints."""
        return None if self._models is None else self._models.parent / "loras"

    def refresh(self) -> None:
        """Do nothing: the folders are listed each time."""

    def models_folder(self) -> Path:
        """Give the folder of checkpoints; without one, that for images."""
        return self._models or self._output

    def loaded(self) -> CheckpointRef | None:
        """Give the checkpoint that is loaded."""
        return None if self._live is None else self._live.checkpoint

    def before_loading(self, call: Callable[[], None]) -> None:
        """Note what is to be called."""
        self.load_calls.append(call)

    def selected(self) -> CheckpointRef | None:
        """Give the checkpoint that is loaded."""
        return self.loaded()

    def pasted_recipes(self) -> None:
        """There is no place to paste an infotext."""

    def differentiator(self) -> FakeDifferentiator | None:
        """Give what differentiates the images; None if the host was made without it."""
        return FakeDifferentiator(self, self._live) if self.differentiates and self._live is not None else None

    def read_settings(self, data: Mapping[str, Any]) -> NoReturn:
        """Refuse the settings of another host."""
        refuse_settings(data)

    @contextmanager
    def job(self, name: str, images: int, settings: HostSettings | None = None) -> Iterator[None]:  # noqa: ARG002
        """Note the name."""
        self.jobs.append(name)
        self.stopped = False
        yield

    def samplers(self) -> Sequence[str]:
        """List names, each of which gives other noise."""
        return ["Euler a", "Euler"]

    def open_model(self, checkpoint: CheckpointRef) -> FakeModel:
        """Load a checkpoint, unless it is the one in use.

        Raises:
            HostError: A merge is using the live model.
        """
        live, loaded = self._live, self.loaded()
        if live is None or loaded is None or loaded.path != checkpoint.path:
            with nullcontext() if live is None else live.claim():
                self._live = live = FakeModel(checkpoint, self._load(checkpoint.path))
        return live

    def make_images(
        self, request: ImageRequest, *, model: Mapping[str, str], fields: Mapping[str, str] = NO_FIELDS
    ) -> Sequence[GeneratedImage]:
        """Make images of noise that depends on the bytes of the model and on the request.

        Raises:
            HostError: No model is loaded.
            Stopped: The user pressed Stop.
        """
        return list(self._images(request, model, fields))

    def _images(
        self, request: ImageRequest, model: Mapping[str, str], fields: Mapping[str, str]
    ) -> Iterator[GeneratedImage]:
        if self._live is None:
            raise HostError("No model is loaded.")
        for index in range(request.batch):
            if self.stopped:
                raise Stopped
            seed = request.seed + index
            digest = hashlib.sha256(self._live.digest() + repr((request, seed)).encode()).digest()
            noise = np.random.default_rng(list(digest)).integers(
                0, 256, (request.height, request.width, 3), dtype=np.uint8
            )
            self.report(index + 1, request.batch, "generating")
            infotext = format_infotext(request, seed=seed, model=model)
            yield GeneratedImage(Image.fromarray(noise), seed, infotext, fields)

    def report(self, done: int, total: int, text: str) -> None:
        """Note the progress."""
        self.reports.append((done, total, text))

    def step_progress(self) -> StepProgress:
        """Show nothing."""
        return StepProgress()

    def stop(self) -> None:
        """Press Stop."""
        self.stopped = True

    def should_stop(self) -> bool:
        """Tell whether the user pressed Stop."""
        return self.stopped

    def output_folder(self) -> Path:
        """Give the folder for images."""
        return self._output

    def image_pages(self) -> Sequence[str]:
        """List what the test has set."""
        return self.pages

    def wire_image_page(self, name: str, *, button: Any, infotext: Any, image: Any) -> None:
        """Note what is sent: the page, the infotext, and the image's size."""
        button.click(
            lambda text, sent: self.sent.append((name, text, None if sent is None else sent.size)),
            inputs=[infotext, image],
            outputs=[],
            queue=False,
        )

    def folder_opener(self) -> Callable[[Path], None]:
        """Note the folder."""
        return self.opened_folders.append
