"""Images made as the WebUI's txt2img tab makes them, with all that the user has set there."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from modules import processing, scripts, sd_models, sd_schedulers, shared, txt2img

from ...errors import HostError, Stopped
from ...images.request import GeneratedImage, ImageRequest, with_known_sampler
from .checkpoints import is_file_of, override_checkpoint, ref_of, secure_settings, selected_checkpoint
from .errors import as_host_errors
from .loading import CHECKPOINT_OPTION

LABEL = "Elemental"
"""The infotext's name for a merge in words; an image that has it is not of the checkpoint alone."""

_AUTOMATIC = "Automatic"
_MARK = "elemental"
NO_MODEL = (None, "", "None", "none", "Use same checkpoint")
"""What the host's fields say when they name no checkpoint."""


@dataclass
class Mark:
    """What is noted on a request to the host.

    Attributes:
        ours: Whether it is one of ours.
        merged: Whether the model is not the checkpoint alone.
        skipped: Whether the user skipped one of its images.
    """

    ours: bool
    merged: bool
    skipped: bool = False


def mark(processing_: Any, value: Mark) -> None:
    """Note something on a request to the host."""
    setattr(processing_, _MARK, value)


def mark_of(processing_: Any) -> Mark | None:
    """Give what was noted."""
    found = getattr(processing_, _MARK, None)
    return found if isinstance(found, Mark) else None


def infotext_names(model: Mapping[str, str], fields: Mapping[str, str]) -> dict[str, str]:
    """Give the pairs that an infotext has of a merge: its name, and its fields under readable names."""
    return {**model, **{name.replace("_", " ").capitalize(): text for name, text in fields.items()}}


@dataclass(frozen=True)
class _Nobody:
    """Stands for the browser that a request comes from."""

    username: str | None = None


def set_up(values: Sequence[Any] | None) -> Any:
    """Make a request to the host.

    Args:
        values: Of the txt2img tab, without the first, which names the task; None for that tab's defaults.
    """
    if values is not None:
        return txt2img.txt2img_create_processing("", _Nobody(), *values)
    opts = shared.opts
    found = processing.StableDiffusionProcessingTxt2Img(
        sd_model=shared.sd_model,
        outpath_samples=opts.outdir_samples or opts.outdir_txt2img_samples,
        outpath_grids=opts.outdir_grids or opts.outdir_txt2img_grids,
    )
    found.scripts = scripts.scripts_txt2img
    found.script_args = (0, *(control.value for control in scripts.scripts_txt2img.inputs[1:]))  # 0: no script chosen
    return found


def parse_request(values: Sequence[Any]) -> ImageRequest:
    """Read what the txt2img tab asks for; a seed is drawn if it asks for any.

    Raises:
        ImageError: A number is out of its range.
        HostError: The host cannot read its own tab.
    """
    with as_host_errors(), closing(set_up(values)) as found:
        batch = found.n_iter * found.batch_size
        schedule = "" if found.scheduler in (None, "", _AUTOMATIC) else f" {found.scheduler}"
        return ImageRequest(
            prompt=found.prompt,
            negative=found.negative_prompt,
            seed=_seed(found.seed, batch),
            steps=int(found.steps),
            sampler=f"{found.sampler_name}{schedule}",
            cfg=float(found.cfg_scale),
            width=int(found.width),
            height=int(found.height),
            batch=int(batch),
        )


def _seed(wanted: Any, batch: int) -> int:
    try:
        seed = int(wanted)
    except (TypeError, ValueError):
        seed = -1
    return seed if seed >= 0 else random.randrange(2**32 - batch)


class ImageMaker:
    """Makes images of the live model.

    Args:
        values: Of the txt2img tab; None for its defaults.
        info: What the host knows of the checkpoint in the live model.
        samplers: The names that requests may use.
    """

    def __init__(self, values: Sequence[Any] | None, info: Any, samplers: Sequence[str]) -> None:
        self._values = values
        self._info = info
        self._samplers = samplers

    def make(
        self, request: ImageRequest, *, model: Mapping[str, str], fields: Mapping[str, str]
    ) -> Sequence[GeneratedImage]:
        """Make the images of a request.

        Raises:
            HostError: It cannot be done.
            Stopped: The user pressed Interrupt, or Stop before all images were begun.
        """
        request = with_known_sampler(request, self._samplers)
        with as_host_errors(), closing(set_up(self._values)) as found:
            _ask_for(found, request)
            self._keep_model(found)
            secure_settings(found)
            found.extra_generation_params.update(infotext_names(model, fields))
            mark(found, Mark(ours=True, merged=LABEL in model))
            made = found.scripts.run(found, *found.script_args)
            if made is None:
                made = processing.process_images(found)
            _raise_if_stopped(found, len(made.images), request.batch)
            return _collect(found, made, request, fields)

    def _keep_model(self, found: Any) -> None:
        """Have the host leave the live model in place; it goes by its settings at each image.

        Raises:
            HostError: The txt2img tab asks for another one.
        """
        wanted = found.override_settings.get(CHECKPOINT_OPTION)
        if wanted is not None and not self._is_live(sd_models.checkpoint_aliases.get(wanted)):
            raise HostError(
                f"The txt2img tab's override settings ask for the checkpoint {wanted}; take that out there."
            )
        if self._names_another(found.refiner_checkpoint):
            raise HostError("A refiner would replace the model in mid-image; switch it off in the txt2img tab.")
        if found.enable_hr and self._names_another(found.hr_checkpoint_name):
            raise HostError(
                "Hires. fix with a checkpoint of its own would replace the model in mid-image; "
                'choose "Use same checkpoint" in the txt2img tab.'
            )
        if not self._is_live(selected_checkpoint()):
            override_checkpoint(found, self._info)

    def _names_another(self, name: str | None) -> bool:
        return name not in NO_MODEL and not self._is_live(sd_models.get_closet_checkpoint_match(name))

    def _is_live(self, info: Any) -> bool:
        return info is not None and is_file_of(info, ref_of(self._info).path)


def _ask_for(found: Any, request: ImageRequest) -> None:
    """Put a request's values in place of the tab's; nothing is saved by the host."""
    found.prompt, found.negative_prompt = request.prompt, request.negative
    found.seed, found.steps, found.cfg_scale = request.seed, request.steps, request.cfg
    found.sampler_name, found.scheduler = _split_sampler(request.sampler)
    found.width, found.height = request.width, request.height
    if found.n_iter * found.batch_size != request.batch:
        found.n_iter, found.batch_size = 1, request.batch
    found.do_not_save_samples = found.do_not_save_grid = True


def _split_sampler(name: str) -> tuple[str, str]:
    """Split "DPM++ 2M Karras" into the sampler and the schedule."""
    for schedule in sd_schedulers.schedulers:
        if name.endswith(f" {schedule.label}"):
            return name[: -len(schedule.label) - 1], schedule.label
    return name, _AUTOMATIC


def _raise_if_stopped(found: Any, made: int, wanted: int) -> None:
    """Refuse images that are only half made.

    Raises:
        Stopped: The user pressed Interrupt, or Stop before all images were begun.
        HostError: The user pressed Skip.
    """
    state, noted = shared.state, mark_of(found)
    if state.interrupted or (state.stopping_generation and made < wanted):
        raise Stopped
    if state.skipped or (noted is not None and noted.skipped):
        state.skipped = False
        raise HostError("The image was skipped.")


def _collect(found: Any, made: Any, request: ImageRequest, fields: Mapping[str, str]) -> Sequence[GeneratedImage]:
    first = made.index_of_first_image
    images = made.images[first:]
    chosen = found.script_args[0] if found.script_args else 0
    if len(images) < request.batch or (chosen and len(images) != request.batch):
        advice = "; choose no script in the txt2img tab" if chosen else ""
        raise HostError(f"The WebUI made {len(images)} images, where {request.batch} were asked for{advice}.")
    return [
        GeneratedImage(
            image.convert("RGB"),
            int(made.all_seeds[index]) if index < len(made.all_seeds) else request.seed + index,
            made.infotexts[first + index] if first + index < len(made.infotexts) else made.info,
            dict(fields),
        )
        for index, image in enumerate(images[: request.batch])
    ]
