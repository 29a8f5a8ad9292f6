"""How long images took on this machine, remembered for estimates."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

from ..errors import ImageError
from ..hosts.base import Host
from ..images.files import write_whole
from ..images.image_request import ImageRequest
from ..merge.files.hashes import cache_folder

_MOST_KINDS = 200


class ImageTimes:
    """The times of images of one host and one architecture, by their size, sampler and steps; the last ones count.

    Args:
        host: What makes the images.
        architecture: The name of the models' architecture.
        place: Where else than by the host they are made; empty for the host.
        path: The file; by default one in the user's cache.
    """

    def __init__(self, host: Host, architecture: str, path: Path | None = None, *, place: str = "") -> None:
        self._maker = ", ".join(filter(None, [type(host).__name__, place, architecture]))
        self._path = path or cache_folder() / "image-times.json"

    def note(self, times: Iterable[tuple[ImageRequest, float]]) -> None:
        """Remember the median of the seconds of alike images; if the file cannot be written, none is remembered."""
        found: dict[str, dict[str, list[float]]] = {}
        for request, seconds in times:
            found.setdefault(self._kind(request), {}).setdefault(str(request.steps), []).append(seconds)
        known = self._read()
        for kind, by_steps in found.items():
            medians = {steps: round(median(seconds), 4) for steps, seconds in by_steps.items()}
            known[kind] = {**known.pop(kind, {}), **medians}
        last = dict(list(known.items())[-_MOST_KINDS:])
        with suppress(OSError, ImageError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._path, json.dumps(last, indent=1).encode(), replace=True)

    def expect(self, requests: Iterable[ImageRequest]) -> float | None:
        """Give the seconds that images will take together; None if no image like one of them was made yet.

        Images of another number of steps are alike: each step takes the same time.
        """
        known, total = self._read(), 0.0
        for request in requests:
            by_steps = known.get(self._kind(request))
            if not by_steps:
                return None
            steps = min(by_steps, key=lambda steps: (abs(int(steps) - request.steps), steps))
            total += by_steps[steps] * request.steps / int(steps)
        return total

    def _kind(self, request: ImageRequest) -> str:
        return f"{self._maker}, {request.width}x{request.height}, {request.sampler}"

    def _read(self) -> dict[str, dict[str, float]]:
        try:
            data = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        return {kind: times for kind, times in data.items() if _is_sound(times)} if isinstance(data, dict) else {}


def _is_sound(times: Any) -> bool:
    """Tell whether an entry of the file is one of this program's."""
    return isinstance(times, Mapping) and all(
        steps.isdecimal() and int(steps) > 0 and isinstance(seconds, (int, float)) and 0 <= seconds < float("inf")
        for steps, seconds in times.items()
    )
