"""Infotext: how an image was made, in the format of the WebUI."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from typing import Any

from .image_request import ImageRequest

_SCHEDULES = {"Karras", "Exponential", "SGM Uniform"}
"""Labels in the WebUI's modules/sd_schedulers.py; it writes them separately from the sampler."""

_VALUE = r"""("(?:\\.|[^"\\])*"|[^,]*)"""
"""A value in the last line, quoted or plain."""


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
    match = re.search(rf"""(?:^|,\s*){re.escape(name)}:\s*{_VALUE}""", last)
    if match is None:
        return None
    text = match[1].strip()
    try:
        return str(json.loads(text)) if text.startswith('"') else text
    except ValueError:
        return None


def without_values(infotext: str, names: Collection[str]) -> str:
    """Leave some values out of the last line of an infotext from any program.

    Args:
        infotext: The text.
        names: The names of the values.
    """
    head, line_end, last = infotext.strip().rpartition("\n")
    pairs = re.findall(rf"\s*(\w[\w \-/]*):\s*{_VALUE}(?:,|$)", last)
    return f"{head}{line_end}{', '.join(f'{name}: {value}' for name, value in pairs if name not in names)}"


def parse_infotext(infotext: str) -> dict[str, Any]:
    """Read the settings of an image from its infotext, from any program: those that are there, by their names.

    Args:
        infotext: The text, as :func:`format_infotext` writes it.

    Returns:
        Some of the fields of :class:`.image_request.ImageRequest`; nothing if it is no infotext.
    """
    head, _, last = infotext.strip().rpartition("\n")
    if find_value(last, "Steps") is None:
        return {}
    prompt, _, negative = f"\n{head}".partition("\nNegative prompt:")
    sampler, schedule = find_value(last, "Sampler"), find_value(last, "Schedule type")
    size = re.fullmatch(r"(\d{1,5})x(\d{1,5})", find_value(last, "Size") or "")
    found = {
        "prompt": prompt.strip(),
        "negative": negative.strip(),
        "seed": _number(find_value(last, "Seed")),
        "steps": _number(find_value(last, "Steps")),
        "cfg": _number(find_value(last, "CFG scale")),
        "sampler": f"{sampler} {schedule}" if sampler and schedule in _SCHEDULES else sampler,
        "width": int(size[1]) if size else None,
        "height": int(size[2]) if size else None,
    }
    return {name: value for name, value in found.items() if value is not None}


def _number(text: str | None) -> float | None:
    if text is None or not re.fullmatch(r"\d{1,15}(\.\d{1,15})?", text):
        return None
    return float(text) if "." in text else int(text)


def _quoted(value: object) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if any(mark in text for mark in ',:\n"') else text
