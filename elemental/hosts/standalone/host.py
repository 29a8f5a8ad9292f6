"""The standalone host: images of checkpoints with diffusers, on the CPU or a GPU, without network access."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from ...errors import HostError, Stopped
from ...images.image_request import GeneratedImage, ImageRequest, with_known_sampler
from ...images.infotext import format_infotext
from ...merge.files.beside import read_config
from ...merge.files.checkpoint import Checkpoint, checkpoint_files
from ...merge.files.model_file import read_identity
from ...merge.out_of_memory import is_out_of_memory
from ..base import NO_FIELDS, CheckpointRef, HostSettings, LoraRef, StepProgress, refuse_settings
from ..lora_files import list_loras
from .file_manager import file_manager
from .live_model import StandaloneModel
from .samplers import SAMPLERS
from .sampling import decode_latents, sample_images, sample_latents
from .traced_image import StandaloneDifferentiator

_Report = Callable[[int, int, str], None]
_NO_MODEL = "No model is loaded."
_LORA_FOLDERS = ("loras", "Lora")
"""Names of the folder of LoRAs; the second is the WebUI's, beside its folder of checkpoints."""


class StandaloneHost:
    """The port on diffusers.

    Args:
        device: Where to compute, as torch names it.
        dtype: The number format of the live model; by default fp32 on the CPU, fp16 elsewhere.
        models: The folder whose checkpoints are listed, and in which merges are saved. LoRAs are listed from the
            folder ``loras`` or ``Lora`` in it or beside it.
        output: The folder for images.
        report: Called with finished steps, all steps, and what is being done.
        should_stop: Asked after each step, beside :meth:`stop`.

    Raises:
        HostError: The device cannot be used.
    """

    def __init__(
        self,
        *,
        device: str = "cpu",
        dtype: torch.dtype | None = None,
        models: Path | None = None,
        output: Path = Path("outputs"),
        report: _Report = lambda _done, _total, _text: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self._device = _usable_device(device)
        self._dtype = dtype or (torch.float32 if self._device.type == "cpu" else torch.float16)
        self._models = models
        self._output = output
        self._live: StandaloneModel | None = None
        self._checkpoints: list[CheckpointRef] | None = None
        self._loras: list[LoraRef] = []
        self._report = report
        self._asked_to_stop = should_stop
        self._stopped = threading.Event()
        self._job_lock = threading.Lock()
        self._step_progress = StepProgress()

    def checkpoints(self) -> Sequence[CheckpointRef]:
        """List the checkpoints that were in the models folder, at any depth, at the last refresh."""
        if self._checkpoints is None:
            self.refresh()
        return self._checkpoints or []

    def loras(self) -> Sequence[LoraRef]:
        """List the LoRAs that were in their folder, at any depth, at the last refresh."""
        if self._checkpoints is None:
            self.refresh()
        return self._loras

    def refresh(self) -> None:
        """Search the models folder, which may be large, and the folder of LoRAs; those in there are no checkpoints."""
        paths = [] if self._models is None else checkpoint_files(self._models)
        folder, loras = self._models or Path(), self.lora_folder()
        self._loras = [] if loras is None else list_loras([loras])
        others = (path for path in paths if loras is None or not path.is_relative_to(loras))
        self._checkpoints = [CheckpointRef(path.relative_to(folder).as_posix(), path) for path in others]

    def models_folder(self) -> Path:
        """Give the folder of the checkpoints; the working directory if none was given."""
        return self._models or Path()

    def lora_folder(self) -> Path | None:
        """Give the folder of LoRAs: the first there is in the models folder or beside it, or else ``loras`` in it."""
        if self._models is None:
            return None
        folders = [top / name for top in (self._models, self._models.absolute().parent) for name in _LORA_FOLDERS]
        return next((folder for folder in folders if folder.is_dir()), folders[0])

    def output_folder(self) -> Path:
        """Give the folder for images."""
        return self._output

    def image_pages(self) -> Sequence[str]:
        """There are no other pages."""
        return ()

    def wire_image_page(self, name: str, *, button: Any, infotext: Any, image: Any) -> None:
        """Do nothing: there is no such page."""

    def folder_opener(self) -> Callable[[Path], None] | None:
        """Give what opens a folder: the page is served to this machine only."""
        return file_manager()

    def samplers(self) -> Sequence[str]:
        """List the samplers."""
        return list(SAMPLERS)

    def loaded(self) -> CheckpointRef | None:
        """Give the checkpoint that the live model was loaded from; None if a merge was kept in it."""
        return None if self._live is None else self._live.checkpoint

    def before_loading(self, call: Callable[[], None]) -> None:
        """Do nothing: checkpoints are loaded by :meth:`open_model` only."""

    def selected(self) -> CheckpointRef | None:
        """Give the checkpoint that is loaded: there is no other choice."""
        return self.loaded()

    def pasted_recipes(self) -> None:
        """There is no place to paste an infotext."""

    def read_settings(self, data: Mapping[str, Any]) -> NoReturn:
        """Refuse the settings of another host: images here depend on nothing but their requests."""
        refuse_settings(data)

    @contextmanager
    def job(self, name: str, images: int, settings: HostSettings | None = None) -> Iterator[None]:  # noqa: ARG002
        """Hold the host for a job, after waiting for the jobs before it."""
        with self._job_lock:
            self._stopped.clear()
            try:
                yield
            finally:
                self._step_progress = StepProgress()

    def open_model(self, checkpoint: CheckpointRef) -> StandaloneModel:
        """Load a checkpoint, unless it is loaded already, and give the live model.

        Raises:
            CheckpointError: The file cannot be read, or its architecture is unknown.
            HostError: It lacks a tensor that images need, memory runs out, or a merge is using the live model.
        """
        live, path = self._live, checkpoint.path
        wanted = path, read_identity(path), read_config(path)
        if live is not None and live.checkpoint and (live.checkpoint.path, live.identity, live.config) == wanted:
            return live
        Checkpoint(path).close()  # a damaged file is refused before the last model is dropped
        with nullcontext() if live is None else live.claim():
            self._live = live = None  # frees its memory: there may be room for one model only
            with _out_of_memory(f"{checkpoint.path.name} does not fit into the memory of {self._device}."):
                opened = self._live = StandaloneModel(checkpoint.path, device=self._device, dtype=self._dtype)
        return opened

    def unload(self) -> None:
        """Let go of the live model, and give its memory back to other processes."""
        self._live = None
        if self._device.type == "cuda":
            gc.collect()
            torch.cuda.empty_cache()

    def make_images(
        self, request: ImageRequest, *, model: Mapping[str, str], fields: Mapping[str, str] = NO_FIELDS
    ) -> Sequence[GeneratedImage]:
        """Make the images of a request from the live model.

        The same request and the same model give the same images, byte for byte, on the same machine.

        Raises:
            HostError: No model is loaded, or an inpainting model; the sampler is unknown, the package tokenizers is
                missing, or memory runs out.
            Stopped: The user pressed Stop.
        """
        live, request = self._ready(request)
        with self._making():
            images = sample_images(live, request, self._device, lambda done: self._after_step(done, request))
        return [
            GeneratedImage(image, seed, format_infotext(request, seed=seed, model=model), fields)
            for seed, image in enumerate(images, request.seed)
        ]

    def differentiator(self) -> StandaloneDifferentiator:
        """Give what differentiates images by the tensors of the model that is loaded.

        Raises:
            HostError: No model is loaded.
        """
        if self._live is None:
            raise HostError(_NO_MODEL)
        return StandaloneDifferentiator(self._live, self._make_with_latents)

    def _make_with_latents(self, request: ImageRequest, model: Mapping[str, str]) -> tuple[GeneratedImage, Tensor]:
        live, request = self._ready(request)
        with self._making():
            latents = sample_latents(live, request, self._device, lambda done: self._after_step(done, request))
            image = decode_latents(live, latents)
        text = format_infotext(request, seed=request.seed, model=model)
        return GeneratedImage(image, request.seed, text, NO_FIELDS), latents.clone()

    def _ready(self, request: ImageRequest) -> tuple[StandaloneModel, ImageRequest]:
        """Give the live model, and a request with the sampler spelled as in the list."""
        if self._live is None:
            raise HostError(_NO_MODEL)
        return self._live, with_known_sampler(request, self.samplers())

    @contextmanager
    def _making(self) -> Iterator[None]:
        advice = f"make smaller images; {self._device} has no memory for these."
        with _out_of_memory(advice), torch.inference_mode():
            yield

    def _after_step(self, done: int, request: ImageRequest) -> None:
        self.report(done, request.steps, "generating")
        self._step_progress = StepProgress(done, request.steps)
        if self.should_stop():
            raise Stopped

    def report(self, done: int, total: int, text: str) -> None:
        """Show the progress of a job."""
        self._report(done, total, text)

    def step_progress(self) -> StepProgress:
        """Give the step of the image in progress."""
        return self._step_progress

    def stop(self) -> None:
        """End the job after the current step."""
        self._stopped.set()

    def should_stop(self) -> bool:
        """Tell whether the user pressed Stop."""
        return self._stopped.is_set() or self._asked_to_stop()


def _usable_device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as exc:
        raise HostError(f'The device "{name}" cannot be used by this installation of torch.') from exc
    return device


@contextmanager
def _out_of_memory(text: str) -> Iterator[None]:
    """Turn the errors of a full memory into a HostError with this text."""
    try:
        yield
    except (MemoryError, RuntimeError) as exc:
        if not is_out_of_memory(exc):
            raise
        raise HostError(f"Out of memory: {text}") from exc
