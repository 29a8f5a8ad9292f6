"""Images as the WebUI's txt2img tab makes them, with everything that is set there.

A request of the WebUI, called ``p`` in its source, is an object of its class ``StableDiffusionProcessingTxt2Img``.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from modules import processing, scripts, sd_models, sd_schedulers, shared, txt2img

from ...errors import HostError, ImageError, Stopped
from ...images.image_request import GeneratedImage, ImageRequest, with_known_sampler
from .checkpoints import is_file_of, ref_of, secure_settings
from .errors import as_host_errors
from .loading import CHECKPOINT_OPTION
from .parts import Loader
from .trace_recorder import TraceRecorder

LABEL = "Elemental"
"""The infotext name of a merge; an image that has it was not made with the checkpoint alone."""

AUTOMATIC = "Automatic"
"""The WebUI's name for the default schedule of a sampler."""

_NUMBERS = {
    "width": ("Width", int),
    "height": ("Height", int),
    "steps": ("Sampling steps", int),
    "n_iter": ("Batch count", int),
    "batch_size": ("Batch size", int),
    "cfg_scale": ("CFG Scale", float),
}
_HIRES_NUMBERS = {
    "hr_scale": ("Upscale by", float),
    "hr_second_pass_steps": ("Hires steps", int),
    "hr_resize_x": ("Resize width to", int),
    "hr_resize_y": ("Resize height to", int),
    "denoising_strength": ("Denoising strength", float),
}
"""The numbers of a request: the label in the txt2img tab, and the kind of number."""

_MARK = "elemental"
NO_MODEL = (None, "", "None", "none", "Use same checkpoint")
"""The values of the WebUI's fields for a checkpoint that name none."""


@dataclass
class Mark:
    """Notes on a request of the WebUI.

    Attributes:
        ours: Whether this program made the request.
        merged: Whether a merge is in the model.
        skipped: Whether the user skipped one of its images.
        recorder: Notes how the image is made; None if nobody asked for that.
    """

    ours: bool
    merged: bool
    skipped: bool = False
    recorder: TraceRecorder | None = None


def mark(p: Any, value: Mark) -> None:
    """Put a mark on a request."""
    setattr(p, _MARK, value)


def mark_of(p: Any) -> Mark | None:
    """Give the mark of a request; None if it has none."""
    value = getattr(p, _MARK, None)
    return value if isinstance(value, Mark) else None


def infotext_names(model: Mapping[str, str], fields: Mapping[str, str]) -> dict[str, str]:
    """Give what the infotext says of a merge: its name, and its fields under readable names."""
    return {**model, **{name.replace("_", " ").capitalize(): text for name, text in fields.items()}}


@dataclass(frozen=True)
class _NoBrowser:
    """Replaces the browser's request, which the WebUI asks for a user name."""

    username: str | None = None


def make_request(values: Sequence[Any] | None) -> Any:
    """Make a request of the WebUI.

    Args:
        values: The values of the txt2img tab without the first, which names the task; None for the tab's defaults.
    """
    if values is not None:
        return txt2img.txt2img_create_processing("", _NoBrowser(), *values)
    opts = shared.opts
    p = processing.StableDiffusionProcessingTxt2Img(
        sd_model=shared.sd_model,
        outpath_samples=opts.outdir_samples or opts.outdir_txt2img_samples,
        outpath_grids=opts.outdir_grids or opts.outdir_txt2img_grids,
    )
    p.scripts = scripts.scripts_txt2img
    p.script_args = (0, *(control.value for control in scripts.scripts_txt2img.inputs[1:]))  # 0: no script selected
    return p


def parse_request(values: Sequence[Any]) -> ImageRequest:
    """Read the request of the txt2img tab; if its seed is random, a number is drawn.

    Raises:
        ImageError: A number is out of range.
        HostError: The WebUI cannot read its own tab.
    """
    with as_host_errors(), closing(make_request(values)) as p:
        _refuse_odd_numbers(p)
        batch = p.n_iter * p.batch_size
        schedule = "" if p.scheduler in (None, "", AUTOMATIC) else f" {p.scheduler}"
        return ImageRequest(
            prompt=p.prompt,
            negative=p.negative_prompt,
            seed=_parse_seed(p.seed, batch),
            steps=int(p.steps),
            sampler=f"{p.sampler_name}{schedule}",
            cfg=float(p.cfg_scale),
            width=int(p.width),
            height=int(p.height),
            batch=int(batch),
        )


def _refuse_odd_numbers(p: Any) -> None:
    """Refuse blank fields, and numbers that are no numbers, before anything computes with them.

    Raises:
        ImageError: A number is blank, not finite, or not whole where it must be.
    """
    numbers = {**_NUMBERS, **_HIRES_NUMBERS} if p.enable_hr else _NUMBERS
    for attribute, (label, kind) in numbers.items():
        value = getattr(p, attribute, 0)
        if not _is_number(value) or (kind is int and value != int(value)):
            shown = "blank" if value in (None, "") else value
            wanted = "whole number" if kind is int else "number"
            raise ImageError(f"{label} in the txt2img tab is {shown}; enter a {wanted}.")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _parse_seed(value: Any, batch: int) -> int:
    try:
        seed = int(value)
    except (TypeError, ValueError):
        seed = -1
    return seed if seed >= 0 else random.randrange(2**32 - batch)


class ImageMaker:
    """Makes images of the live model.

    Args:
        values: The values of the txt2img tab; None for its defaults.
        info: The WebUI's info of the checkpoint in the live model.
        samplers: The samplers that requests may name.
        loader: Keeps the live model.
    """

    def __init__(self, values: Sequence[Any] | None, info: Any, samplers: Sequence[str], loader: Loader) -> None:
        self._values = values
        self._info = info
        self._samplers = samplers
        self._loader = loader

    def make(
        self,
        request: ImageRequest,
        *,
        model: Mapping[str, str],
        fields: Mapping[str, str],
        recorder: TraceRecorder | None = None,
    ) -> Sequence[GeneratedImage]:
        """Make the images of a request, while a recorder notes how.

        Raises:
            HostError: The images cannot be made.
            Stopped: The user pressed Interrupt, or Stop before all images were begun.
        """
        request = with_known_sampler(request, self._samplers)
        with as_host_errors(), closing(make_request(self._values)) as p:
            _apply(request, p)
            self._keep_model(p)
            secure_settings(p)
            p.extra_generation_params.update(infotext_names(model, fields))
            mark(p, Mark(ours=True, merged=LABEL in model, recorder=recorder))
            processed = p.scripts.run(p, *p.script_args)
            if processed is None:
                processed = processing.process_images(p)
            _raise_if_stopped(p, len(processed.images), request.batch)
            return _collect(p, processed, request, fields)

    def _keep_model(self, p: Any) -> None:
        """Make the WebUI keep the live model; otherwise it loads what its settings select before each image.

        Raises:
            HostError: The txt2img tab asks for another model.
        """
        override = p.override_settings.get(CHECKPOINT_OPTION)
        if override is not None and not self._is_live(sd_models.checkpoint_aliases.get(override)):
            raise HostError(
                f"The txt2img tab's override settings ask for the checkpoint {override}; remove that setting there."
            )
        if self._names_another(p.refiner_checkpoint):
            raise HostError("A refiner would replace the model during an image; switch it off in the txt2img tab.")
        if p.enable_hr and self._names_another(p.hr_checkpoint_name):
            raise HostError(
                "Hires. fix with another checkpoint would replace the model during an image; "
                'choose "Use same checkpoint" in the txt2img tab.'
            )
        refusal = self._loader.refusal(p)
        if refusal is not None:
            raise HostError(refusal)
        self._loader.keep(p, self._info)

    def _names_another(self, name: str | None) -> bool:
        return name not in NO_MODEL and not self._is_live(sd_models.get_closet_checkpoint_match(name))

    def _is_live(self, info: Any) -> bool:
        return info is not None and is_file_of(info, ref_of(self._info).path)


def _apply(request: ImageRequest, p: Any) -> None:
    """Replace the tab's values by those of a request; the WebUI saves nothing."""
    p.prompt, p.negative_prompt = request.prompt, request.negative
    p.seed, p.steps, p.cfg_scale = request.seed, request.steps, request.cfg
    p.sampler_name, p.scheduler = _split_sampler(request.sampler)
    p.width, p.height = request.width, request.height
    if p.n_iter * p.batch_size != request.batch:
        p.n_iter, p.batch_size = 1, request.batch
    p.do_not_save_samples = p.do_not_save_grid = True


def _split_sampler(name: str) -> tuple[str, str]:
    """Split "DPM++ 2M Karras" into the sampler and the schedule."""
    for schedule in sd_schedulers.schedulers:
        if name.endswith(f" {schedule.label}"):
            return name[: -len(schedule.label) - 1], schedule.label
    return name, AUTOMATIC


def _raise_if_stopped(p: Any, made: int, asked: int) -> None:
    """Refuse images that are not finished.

    Raises:
        Stopped: The user pressed Interrupt, or Stop before all images were begun.
        HostError: The user pressed Skip.
    """
    state, marked = shared.state, mark_of(p)
    if state.interrupted or (state.stopping_generation and made < asked):
        raise Stopped
    if state.skipped or (marked is not None and marked.skipped):
        state.skipped = False
        raise HostError("The image was skipped.")


def _collect(p: Any, processed: Any, request: ImageRequest, fields: Mapping[str, str]) -> Sequence[GeneratedImage]:
    first = processed.index_of_first_image
    images = processed.images[first:]
    script = p.script_args[0] if p.script_args else 0
    if len(images) < request.batch or (script and len(images) != request.batch):
        advice = "; choose no script in the txt2img tab" if script else ""
        raise HostError(f"The WebUI made {len(images)} images, where {request.batch} were asked for{advice}.")
    seeds, infotexts = processed.all_seeds, processed.infotexts
    return [
        GeneratedImage(
            image.convert("RGB"),
            int(seeds[index]) if index < len(seeds) else request.seed + index,
            infotexts[first + index] if first + index < len(infotexts) else processed.info,
            dict(fields),
        )
        for index, image in enumerate(images[: request.batch])
    ]
