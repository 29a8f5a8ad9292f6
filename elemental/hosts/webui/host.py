"""The port on AUTOMATIC1111's WebUI: its own live model, its own way of making images, its own queue.

Written for version 1.10.1; docs/evidence/hosts.md says how each of its traps is gone around, and on what this was run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modules import sd_models, sd_samplers, sd_schedulers, shared

from ...errors import HostError
from ...images.request import GeneratedImage, ImageRequest
from ...merge.files.checkpoint import Checkpoint
from ..base import NO_FIELDS, CheckpointRef, StepProgress
from .checkpoints import find_checkpoint, is_file_of, load, override_alias, ref_of, rescan, selected_checkpoint
from .images import ImageMaker
from .live_model import WebUIModel
from .loading import LoadCalls, LoadGate, Turn, put_gates

_AUTOMATIC = "Automatic"


@dataclass
class _Job:
    """A job of ours that has its turn.

    Attributes:
        values: Of the txt2img tab, as they were when the job was asked for.
        images: How many it will make.
        made: How many it has made.
    """

    values: Sequence[Any] | None
    images: int
    made: int = 0


class WebUIHost:
    """The port on the WebUI; there is one for each process, whatever becomes of the pages.

    Attributes:
        txt2img_values: What the fields of the txt2img tab said last, in the order of its Generate button; None before.
        turn: The host's queue.
        calls: What is called before the host loads a checkpoint.
    """

    def __init__(self) -> None:
        self.txt2img_values: Sequence[Any] | None = None
        self.turn = Turn()
        self.calls = LoadCalls()
        self._models: list[WebUIModel] = []  # the one that was opened last comes first
        self._job: _Job | None = None
        self._pasted: str | None = None

    def checkpoints(self) -> Sequence[CheckpointRef]:
        """List the checkpoints in the host's list whose files are there."""
        found = [ref_of(info) for info in list(sd_models.checkpoints_list.values())]
        return [ref for ref in found if ref.path.is_file()]

    def refresh(self) -> None:
        """Have the host look for checkpoints anew."""
        rescan()

    def models_folder(self) -> Path:
        """Give the folder that the host looks for checkpoints in."""
        return Path(shared.cmd_opts.ckpt_dir or sd_models.model_path).absolute()

    def output_folder(self) -> Path:
        """Give a folder beside the one that the txt2img tab keeps its images in."""
        folder = shared.opts.outdir_samples or shared.opts.outdir_txt2img_samples
        return Path(folder).absolute().parent / "elemental"

    def samplers(self) -> Sequence[str]:
        """List the host's samplers, each alone and with each schedule: "DPM++ 2M", "DPM++ 2M Karras"."""
        names = sd_samplers.visible_sampler_names()
        labels = [schedule.label for schedule in sd_schedulers.schedulers if schedule.label != _AUTOMATIC]
        return [*names, *(f"{name} {label}" for name in names for label in labels)]

    def loaded(self) -> CheckpointRef | None:
        """Give the checkpoint that the live model was loaded from; None if a merge was kept in it, or its rest is."""
        module = sd_models.model_data.sd_model
        info = getattr(module, "sd_checkpoint_info", None)
        kept = any(live.module is module and live.holds_merge for live in self._models)
        return None if info is None or kept else ref_of(info)

    def before_loading(self, call: Callable[[], None]) -> None:
        """Have something called whenever the user is about to load a checkpoint by the host's own means."""
        self.calls.add(call)

    def guard_loading(self) -> None:
        """Stand before the settings that the host loads checkpoints for; more than once does no more."""

        def gate(option: str, then: Callable[[], None] | None) -> LoadGate:
            return LoadGate(then, turn=self.turn, calls=self._let_go, hold=self._needed, option=option)

        put_gates(gate)

    def open_model(self, checkpoint: CheckpointRef) -> WebUIModel:
        """Load a checkpoint, unless it is the one in use and nothing was done to it, and give the live model.

        Raises:
            CheckpointError: The file is missing, damaged, or is none of tensors alone.
            HostError: The host does not know it or cannot load it, or a merge is going on in the live model.
        """
        with Checkpoint(checkpoint.path) as file:  # the host must not see what it would break at
            keys = frozenset(file.tensors)
        with self.turn():
            info = find_checkpoint(checkpoint.path)
            current = sd_models.model_data.sd_model
            here = current is not None and is_file_of(current.sd_checkpoint_info, ref_of(info).path)
            live = self._opened(current) if here else None
            if live is None:
                live = self._load(info, keys)
            # The host's cache of files may share its numbers with the live model, which are about to change.
            sd_models.checkpoints_loaded.pop(info, None)
        return live

    @contextmanager
    def job(self, name: str, images: int) -> Iterator[None]:
        """Have the host to oneself for a job, once those before it are done; a job within it is a part of it."""
        job = _Job(self.txt2img_values, max(1, images))
        if self.turn.mine:
            yield
            return
        with self.turn():
            shared.state.begin(job=name)
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
        """Make the images of a request as the txt2img tab is set up, from the live model as it is now.

        Raises:
            HostError: It cannot be done; what other extensions' scripts raise becomes one.
            Stopped: The user pressed Interrupt, or Stop before all images were begun.
        """
        with self.job("Elemental", request.batch):
            info = getattr(sd_models.model_data.sd_model, "sd_checkpoint_info", None)
            if info is None:
                raise HostError("No model is loaded.")
            values = self.txt2img_values if self._job is None else self._job.values
            maker = ImageMaker(values, find_checkpoint(ref_of(info).path), self.samplers())
            images = maker.make(request, model=model, fields=fields)
            self._count(len(images))
        return images

    def report(self, done: int, total: int, text: str) -> None:
        """Show in the host's progress how far a job is; its bar follows the images."""
        if self._job is not None:
            shared.state.textinfo = f"{text}: {done / total:.0%}" if total else text

    def step_progress(self) -> StepProgress:
        """Show the image in the making, as often as the host's settings allow."""
        if self._job is None:
            return StepProgress()
        shared.state.set_current_image()
        return StepProgress(shared.state.sampling_step, shared.state.sampling_steps, shared.state.current_image)

    def stop(self) -> None:
        """Interrupt the job, if it is ours."""
        if self._job is not None:
            shared.state.interrupt()

    def should_stop(self) -> bool:
        """Tell whether the user pressed Interrupt, Stop or the API's interrupt during a job of ours."""
        return self._job is not None and bool(shared.state.interrupted or shared.state.stopping_generation)

    @property
    def _live(self) -> WebUIModel | None:
        return self._models[0] if self._models else None

    def merged(self) -> WebUIModel | None:
        """Give the live model if there is a merge in it that the user makes images of."""
        live = self._live
        return live if live is not None and live.description is not None and not live.replaced() else None

    def choose_again(self, title: str) -> None:
        """Take note that the user has picked a checkpoint in the host's list, which may be the one shown there already.

        That is no change, and so the host does nothing; yet somebody who picks model A wants it without the merge.

        Raises:
            HostError: The host cannot load the checkpoint again.
        """
        live, picked = self._live, sd_models.checkpoint_aliases.get(title)
        merged = live is not None and (live.description is not None or live.kept is not None)
        if live is not None and merged and picked is not None and is_file_of(picked, live.opened.path):
            with self.turn():
                self._let_go()

    def offer_pasted(self, recipe: str) -> None:
        """Take a recipe, as JSON, from a pasted infotext."""
        self._pasted = recipe

    def take_pasted(self) -> str | None:
        """Give the recipe, as JSON, of the infotext that was pasted last, once."""
        found, self._pasted = self._pasted, None
        return found

    def _opened(self, module: Any) -> WebUIModel | None:
        """Give what was opened as the checkpoint in a module, if that is still in it."""
        return next((live for live in self._models if live.module is module and _is_checkpoint(live)), None)

    def _load(self, info: Any, keys: frozenset[str]) -> WebUIModel:
        """Have the host load a checkpoint, unless it has, and remember it with the others that the host keeps."""
        before, current = self._live, sd_models.model_data.sd_model
        differs_from_checkpoint = any(live.module is current and live.differs_from_checkpoint for live in self._models)
        with nullcontext() if before is None or before.overwritten else before.claim():
            load(info, force=differs_from_checkpoint)
        module = sd_models.model_data.sd_model
        live = self._opened(module) or WebUIModel(module, ref_of(info), keys)
        there = {id(module), *map(id, sd_models.model_data.loaded_sd_models)}
        others = [other for other in self._models if id(other.module) in there and _is_checkpoint(other)]
        self._models = [live, *(other for other in others if other is not live)]
        return live

    def _let_go(self) -> None:
        """End merges: the host is about to load a checkpoint by its own means."""
        self.calls()
        live = self._live
        if live is not None and live.kept is not None and not live.replaced():
            # The host would take the kept merge for the checkpoint that it once was.
            chosen = selected_checkpoint()
            again = chosen is not None and is_file_of(chosen, live.opened.path)
            if again or shared.opts.sd_checkpoints_limit > 1:
                load(find_checkpoint(live.opened.path), force=True)

    def _needed(self) -> str | None:
        """Name the checkpoint that a running job of ours needs."""
        info = getattr(sd_models.model_data.sd_model, "sd_checkpoint_info", None)
        return None if self._job is None or info is None else override_alias(find_checkpoint(ref_of(info).path))

    def _count(self, made: int) -> None:
        job = self._job
        if job is not None:
            job.made += made
            shared.state.job_no = shared.state.job_count * job.made // job.images


def _is_checkpoint(live: WebUIModel) -> bool:
    return live.kept is None and not live.overwritten
