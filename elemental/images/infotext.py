"""Infotext: how an image was made, in the format of the WebUI."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from .image_request import ImageRequest

_SCHEDULES = {"Karras", "Exponential", "SGM Uniform"}
"""Labels in the WebUI's modules/sd_schedulers.py; it writes them separately from the sampler."""


def format_infotext(request: ImageRequest, *, seed: int, model: Mapping[str, str]) -> str:
    """Write the infotext of one image.

    The format is that of AUTOMATIC1111's WebUI 1.10 (``create_infotext`` and ``parse_generation_parameters`` there):
    the prompt, a line "Negative prompt: ...", and a last line of "Name: value" pairs. A value with a comma, a colon, a
    quote or a line end is quoted as JSON.

    Args:
        request: The settings of the image.
        seed: The seed of this image.
        model: Pairs that name the model; they come last.
    """
    sampler, _, schedule = request.sampler.rpartition(" ")
    pairs: dict[str, object] = {"Steps": request.steps}
    if schedule in _SCHEDULES:
        pairs |= {"Sampler": sampler, "Schedule type": schedule}
    else:
        pairs["Sampler"] = request.sampler
    pairs |= {"CFG scale": request.cfg, "Seed": seed, "Size": f"{request.width}x{request.height}", **model}
    negative = f"Negative prompt: {request.negative}\n" if request.negative else ""
    return f"{request.prompt}\n{negative}{', '.join(f'{name}: {_quoted(value)}' for name, value in pairs.items())}"


def find_value(infotext: str, name: str) -> str | None:
    """Find the value of a name in the last line of an infotext from any program; None if it is missing."""
    last = infotext.strip().rpartition("\n")[2]
    match = re.search(rf"""(?:^|,\s*){re.escape(name)}:\s*("(?:\\.|[^"\\])*"|[^,]*)""", last)
    if match is None:
        return None
    text = match[1].strip()
    try:
        return str(json.loads(text)) if text.startswith('"') else text
    except ValueError:
        return None


def _quoted(value: object) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if any(mark in text for mark in ',:\n"') else text
