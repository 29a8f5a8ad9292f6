"""The WebUI host: the live model, the images and the queue of AUTOMATIC1111's WebUI and its descendants.

What differs among them is in :mod:`.parts`. docs/evidence/hosts.md says how each is handled, and what was tested on it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modules import sd_models, sd_samplers, sd_schedulers, shared

from ...errors import HostError
from ...images.image_request import GeneratedImage, ImageRequest
from ...merge.files.checkpoint import Checkpoint
from ..base import NO_FIELDS, CheckpointRef, Differentiator, HostSettings, LoraRef, StepProgress
from ..lora_files import list_loras
from .checkpoints import (
    find_checkpoint,
    is_file_of,
    lora_folders,
    models_folder,
    override_alias,
    ref_of,
    rescan,
    selected_checkpoint,
)
from .images import AUTOMATIC, ImageMaker
from .live_model import WebUIModel
from .loader import info_of
from .loading import HostQueue, LoadCalls
from .parts import Parts
from .trace_recorder import TraceRecorder
from .txt2img_settings import TabInput, Txt2imgSettings, read_settings

_log = logging.getLogger(__name__)

_NO_MODEL = "No model is loaded."


@dataclass
class _HostJob:
    """The job that holds the WebUI.

    Attributes:
        settings: The txt2img tab as its user had set it up; None for its defaults.
        images: How many images it makes.
        made: How many images it has made.
    """

    settings: HostSettings | None
    images: int
    made: int = 0


class WebUIHost:
    """The port on the WebUI; there is one for the whole process, also if the pages are built again.

    Args:
        parts: What differs among the WebUI and its descendants.

    Attributes:
        loader: How the WebUI loads checkpoints.
        page: Its page.
        queue: The WebUI's queue.
        load_calls: Called before the WebUI loads a checkpoint.
        tab_inputs: Gives the inputs of the txt2img tab that is served now.
    """

    def __init__(self, parts: Parts) -> None:
        self.loader, self.page = parts.loader, parts.page
        self.queue = HostQueue()
        self.load_calls = LoadCalls()
        self.tab_inputs: Callable[[], Sequence[TabInput]] = tuple
        self._parts = parts
        self._models: list[WebUIModel] = []  # the last opened first
        self._job: _HostJob | None = None
        self._pasted: str | None = None
        self._loras: Sequence[LoraRef] | None = None

    def checkpoints(self) -> Sequence[CheckpointRef]:
        """List the checkpoints of the WebUI's list whose files exist."""
        listed = [ref_of(info) for info in list(sd_models.checkpoints_list.values())]
        return [ref for ref in listed if ref.path.is_file()]

    def loras(self) -> Sequence[LoraRef]:
        """List the LoRAs that were in the folders of the WebUI's Lora extension at the last refresh."""
        loras = self._loras
        if loras is None:
            loras = self._loras = list_loras(lora_folders())
        return loras

    def refresh(self) -> None:
        """Have the WebUI list its checkpoints again; LoRAs are looked for when they are listed next."""
        self._loras = None
        rescan()

    def models_folder(self) -> Path:
        """Give the WebUI's folder of checkpoints."""
        return models_folder()

    def lora_folder(self) -> Path | None:
        """Give the folder of the WebUI's Lora extension; None where it is switched off."""
        return next(iter(lora_folders()), None)

    def output_folder(self) -> Path:
        """Give the folder for images: beside that of the txt2img tab."""
        folder = shared.opts.outdir_samples or shared.opts.outdir_txt2img_samples
        return Path(folder).absolute().parent / "elemental"

    def image_pages(self) -> Sequence[str]:
        """List the WebUI's pages that an image can be sent to."""
        return self.page.image_pages()

    def wire_image_page(self, name: str, *, button: Any, infotext: Any, image: Any) -> None:
        """Have a button send an image to a page of the WebUI."""
        self.page.wire_image_page(name, button=button, infotext=infotext, image=image)

    def folder_opener(self) -> Callable[[Path], None] | None:
        """Give what opens a folder, if the WebUI's own pages do."""
        return self.page.folder_opener()

    def samplers(self) -> Sequence[str]:
        """List the WebUI's samplers, without and with each schedule: "DPM++ 2M", "DPM++ 2M Karras"."""
        names = sd_samplers.visible_sampler_names()
        labels = [schedule.label for schedule in sd_schedulers.schedulers if schedule.label != AUTOMATIC]
        return [*names, *(f"{name} {label}" for name in names for label in labels)]

    def loaded(self) -> CheckpointRef | None:
        """Give the checkpoint that the live model was loaded from; None if a merge was kept in it."""
        info = self._loaded_info()
        kept = any(live.holds_merge and not live.replaced() for live in self._models)
        return None if info is None or kept else ref_of(info)

    def selected(self) -> CheckpointRef | None:
        """Give the checkpoint that is selected in the WebUI's settings; it is loaded some time after the start."""
        info = selected_checkpoint()
        return None if info is None else ref_of(info)

    def read_settings(self, data: Mapping[str, Any]) -> Txt2imgSettings:
        """Read what the txt2img tab said when a run began.

        Raises:
            HostError: A script, a style or a setting that the run was begun with is gone or is not what it was.
        """
        return read_settings(data, self.tab_inputs())

    def before_loading(self, call: Callable[[], None]) -> None:
        """Register a function to call each time before the user loads a checkpoint by the WebUI's own means."""
        self.load_calls.add(call)

    def guard_loading(self) -> None:
        """Have merges ended before the WebUI loads a checkpoint by its own means."""
        self.loader.guard(self)

    def open_model(self, checkpoint: CheckpointRef) -> WebUIModel:
        """Load a checkpoint, unless the live model holds exactly that already, and give the live model.

        Raises:
            CheckpointError: The file is missing or damaged, or holds something other than tensors.
            HostError: The WebUI does not list it or cannot load it, or a merge is using the live model.
        """
        # a damaged file is refused before the WebUI tries to load it
        with Checkpoint(checkpoint.path) as file, self.queue():
            info = find_checkpoint(checkpoint.path)
            live = self._opened() if self.loader.is_loaded(info) else None
            if live is None:
                live = self._load(info, file)
            self.loader.opened(info)
        return live

    @contextmanager
    def job(self, name: str, images: int, settings: HostSettings | None = None) -> Iterator[None]:
        """Hold the WebUI for a job, after waiting for the jobs before it; a job within a job is part of it."""
        job = _HostJob(settings, max(1, images))
        if self.queue.mine:
            yield
            return
        with self.queue(), self.loader.job():
            shared.state.begin(job=name)
            shared.state.sampling_steps = 0  # of the image before
            shared.state.job_count = job.images
            self._job = job
            try:
                yield
            finally:
                self._job = None
                shared.state.skipped = shared.state.interrupted = shared.state.stopping_generation = False
                shared.state.end()

    def make_images(
        self, request: ImageRequest, *, model: Mapping[str, str], fields: Mapping[str, str] = NO_FIELDS
    ) -> Sequence[GeneratedImage]:
        """Make the images of a request from the live model, with everything else as in the job's settings.

        Raises:
            HostError: The images cannot be made, or a script of another extension failed.
            Stopped: The user pressed Interrupt, or Stop before all images were begun.
        """
        return self._make(request, model, fields)

    def _make(
        self,
        request: ImageRequest,
        model: Mapping[str, str],
        fields: Mapping[str, str] = NO_FIELDS,
        recorder: TraceRecorder | None = None,
    ) -> Sequence[GeneratedImage]:
        with self.job("Elemental", request.batch):
            info = self._loaded_info()
            if info is None:
                raise HostError(_NO_MODEL)
            settings = None if self._job is None else self._job.settings
            values = settings.values if isinstance(settings, Txt2imgSettings) else None
            maker = ImageMaker(values, find_checkpoint(ref_of(info).path), self.samplers(), self.loader)
            images = maker.make(request, model=model, fields=fields, recorder=recorder)
            self._count(len(images))
        return images

    def differentiator(self) -> Differentiator | None:
        """Give what differentiates images by the tensors of the WebUI's model; None if nothing can.

        Raises:
            HostError: No model is loaded.
        """
        if self._parts.make_differentiator is None:
            return None
        if self._loaded_info() is None:
            raise HostError(_NO_MODEL)
        return self._parts.make_differentiator(self.loader.model(), self._make_traced)

    def _make_traced(self, request: ImageRequest, model: Mapping[str, str], recorder: TraceRecorder) -> GeneratedImage:
        return self._make(request, model, recorder=recorder)[0]

    def report(self, done: int, total: int, text: str) -> None:
        """Show the progress of a job as the WebUI's text; the WebUI's bar shows the images."""
        if self._job is not None:
            shared.state.textinfo = f"{text}: {done / total:.0%}" if total else text

    def step_progress(self) -> StepProgress:
        """Give the progress of the image that is being made, with a preview as often as the WebUI's settings say."""
        if self._job is None:
            return StepProgress()
        shared.state.set_current_image()
        return StepProgress(shared.state.sampling_step, shared.state.sampling_steps, shared.state.current_image)

    def stop(self) -> None:
        """Interrupt the job, if it is ours."""
        if self._job is not None:
            shared.state.interrupt()

    def should_stop(self) -> bool:
        """Tell whether the user pressed Interrupt or Stop, or used the API's interrupt, during our job."""
        return self._job is not None and bool(shared.state.interrupted or shared.state.stopping_generation)

    @property
    def _live(self) -> WebUIModel | None:
        return self._models[0] if self._models else None

    def merged(self) -> WebUIModel | None:
        """Give the live model if there is a merge in it for the user's own images."""
        live = self._live
        return live if live is not None and live.description is not None and not live.replaced() else None

    def on_checkpoint_picked(self, title: str | None) -> None:
        """End the merge if the user picks its model A in the WebUI's list.

        If model A is shown there already, its setting does not change and the WebUI does nothing.

        Args:
            title: What was picked; None if the list was left without a choice.

        Raises:
            HostError: The WebUI cannot load the checkpoint again.
        """
        live, picked = self._live, sd_models.checkpoint_aliases.get(title)
        merged = live is not None and (live.description is not None or live.kept is not None)
        if live is not None and merged and picked is not None and is_file_of(picked, live.opened.path):
            with self.queue():
                self.end_merges()

    def has_merge(self) -> bool:
        """Tell whether there is a merge in the model for the user's own images."""
        return self.merged() is not None

    def offer_pasted(self, recipe: str) -> None:
        """Take the recipe, as JSON, of an infotext that was pasted."""
        self._pasted = recipe

    def pasted_recipes(self) -> Callable[[], str | None]:
        """Give what takes the recipe of an infotext that was pasted into the txt2img tab."""
        return self.take_pasted

    def take_pasted(self) -> str | None:
        """Give the recipe, as JSON, of the last pasted infotext, once."""
        recipe, self._pasted = self._pasted, None
        return recipe

    def _loaded_info(self) -> Any:
        """Give the info of the checkpoint that the live model was loaded from; None if no model is loaded."""
        return info_of(self.loader.model())

    def _opened(self) -> WebUIModel | None:
        """Give the live model in the WebUI's model, if that still holds its checkpoint."""
        return next((live for live in self._models if _is_checkpoint(live) and self._is_current(live)), None)

    def _is_current(self, live: WebUIModel) -> bool:
        return live.module is not None and live.module is self.loader.model()

    def _load(self, info: Any, file: Checkpoint) -> WebUIModel:
        """Have the WebUI load a checkpoint if it has not, and remember its live model.

        No variable holds the WebUI's model meanwhile: where each load makes a new one, there would be two in memory.
        """
        before = self._live
        differs_from_checkpoint = any(self._is_current(live) and live.differs_from_checkpoint for live in self._models)
        with nullcontext() if before is None or before.overwritten else before.claim():
            self.loader.load(info, force=differs_from_checkpoint)
        live = self._opened() or self._make_live(info, file)
        in_memory = set(map(id, self.loader.in_memory()))
        others = [other for other in self._models if id(other.module) in in_memory and _is_checkpoint(other)]
        self._models = [live, *(other for other in others if other is not live)]
        return live

    def _make_live(self, info: Any, file: Checkpoint) -> WebUIModel:
        layout = self._parts.make_layout(self.loader.model(), file)
        if layout.left_out:
            _log.warning("%s", layout.left_out)
        return WebUIModel(layout, self.loader, ref_of(info))

    def end_merges(self) -> None:
        """End merges, because the WebUI is about to load a checkpoint itself."""
        self.load_calls()
        live = self._live
        if live is not None and live.kept is not None and not live.replaced():
            # The WebUI would use the kept merge as the checkpoint that was loaded before it.
            chosen = selected_checkpoint()
            chosen_again = chosen is not None and is_file_of(chosen, live.opened.path)
            if self.loader.end_kept(live.module, find_checkpoint(live.opened.path), chosen=chosen_again):
                live.description = None
        self.loader.release()

    def needed_checkpoint(self) -> str | None:
        """Give the WebUI's name of the checkpoint that our job, or an image of a merge, needs until it has ended."""
        info = self._loaded_info()
        is_needed = self._job is not None or self.has_merge()
        return override_alias(find_checkpoint(ref_of(info).path)) if is_needed and info is not None else None

    def _count(self, made: int) -> None:
        job = self._job
        if job is not None:
            job.made += made
            shared.state.job_no = shared.state.job_count * job.made // job.images


def _is_checkpoint(live: WebUIModel) -> bool:
    return live.kept is None and not live.overwritten
