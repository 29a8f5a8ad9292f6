"""What judges candidates without a person: a function that scores their images, or how near they are to an image."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..errors import ImageError, RecipeError
from ..images.diff import compare_images, mean_difference
from ..images.files import read_image
from .broken import describe_broken
from .steering import BEST

if TYPE_CHECKING:
    from collections.abc import Iterator

    from PIL import Image

    from .search_folder import Search

Score = Callable[[Sequence["Image.Image"]], float]
"""Scores the images of a candidate, one for each request; larger is better."""

MEASURES = ("mean", "ssim")
"""How the distance from an image can be measured: mean difference of channel values, or structural similarity."""


class Judged(NamedTuple):
    """What a score says of a round.

    Attributes:
        order: The candidates by score, the best first; the best so far is before others with the same score.
        scores: By candidate.
        faults: Why others are not in the order, by candidate: they count as the last.
    """

    order: tuple[int, ...]
    scores: Mapping[int, float]
    faults: Mapping[int, str]


def read_score(text: str) -> Score:
    """Find a Python function by ``MODULE:FUNCTION``; modules of the current folder are found, too.

    Raises:
        RecipeError: The text is none such, or the module or the function cannot be imported; the message says why.
    """
    module_name, colon, name = text.partition(":")
    if not (colon and module_name and name):
        raise RecipeError(f'"{text}" is no score: write MODULE:FUNCTION, such as my_score:brightness for my_score.py.')
    try:
        with _current_folder():
            score = getattr(importlib.import_module(module_name), name, None)
    except Exception as exc:  # importing runs the user's code, which can raise anything
        raise RecipeError(f"{module_name} cannot be imported for the score: {type(exc).__name__}: {exc}.") from exc
    if not callable(score):
        raise RecipeError(f"{module_name} has no function {name}.")
    found: Score = score
    return found


def toward(path: Path, measure: str, size: tuple[int, int]) -> Score:
    """Score images by how near they are to another one; of several the mean.

    Args:
        path: The other image.
        measure: One of :data:`MEASURES`.
        size: Width and height of the images, in pixels.

    Raises:
        ImageError: The image cannot be read or has another size, or scikit-image, which "ssim" needs, is not installed.
    """
    goal = read_image(path)
    if goal.size != size:
        had, needed = ("{}x{}".format(*each) for each in (goal.size, size))
        advice = "resize it to that, or set the width and height of the images"
        raise ImageError(f"{path} has {had} pixels, the images of the search {needed}: {advice}.")
    if measure == "ssim" and compare_images(goal, goal).similarity is None:
        raise ImageError("Structural similarity needs scikit-image and images of 7 pixels or more.")

    def nearness(image: Image.Image) -> float:
        return compare_images(goal, image).similarity or 0.0 if measure == "ssim" else -mean_difference(goal, image)

    return lambda images: sum(map(nearness, images)) / len(images)


def faults_of(search: Search) -> dict[int, str]:
    """Say which candidates of a round show nothing, and why: no image, one colour, noise."""
    found = {number: _fault(search, number) for number in range(len(search.round.candidates) + 1)}
    return {number: fault for number, fault in found.items() if fault}


def judge(search: Search, score: Score, name: str) -> Judged:
    """Score the candidates of a round; one without an image, with a broken one, or with NaN for a score is last.

    Args:
        search: The search, whose round is complete.
        score: Scores a candidate.
        name: What errors call it.

    Raises:
        ImageError: The function fails or gives no number, or no candidate has an image.
    """
    faults = faults_of(search)
    scores: dict[int, float] = {}
    for number in range(len(search.round.candidates) + 1):
        if number in faults:
            continue
        scores[number] = _scored(search, number, score, name)
        if math.isnan(scores[number]):
            faults[number] = f"{name} gives NaN"
    order = sorted((number for number in scores if number not in faults), key=lambda number: -scores[number])
    if not order and None in search.images(BEST):
        reasons = "\n".join(f"candidate {number}: {fault}" for number, fault in faults.items())
        raise ImageError(f"No candidate of round {search.round.number} can be judged.\n{reasons}")
    return Judged(tuple(order) or (BEST,), scores, faults)


def _scored(search: Search, number: int, score: Score, name: str) -> float:
    where = f"The score {name} failed on candidate {number} of round {search.round.number}"
    images = [read_image(path) for path in search.images(number) if path is not None]
    try:
        with _current_folder():
            given = score(images)
    except Exception as exc:  # the user's code, which can raise anything
        raise ImageError(f"{where}: {type(exc).__name__}: {exc}.") from exc
    try:
        return float(given)
    except (TypeError, ValueError) as exc:
        raise ImageError(f"{where}: it gave {given!r}, which is no number.") from exc


def _fault(search: Search, number: int) -> str:
    images = search.images(number)
    if number in search.failed:
        return f"failed: {search.failed[number]}"
    for place, path in enumerate(images, 1):
        if path is None:
            return "has no image"
        try:
            broken = describe_broken(read_image(path))
        except ImageError as exc:
            return str(exc)
        if broken:
            return broken if len(images) == 1 else f"image {place}: {broken}"
    return ""


@contextmanager
def _current_folder() -> Iterator[None]:
    """Let modules be imported from the current folder, as ``python -m`` does."""
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        if folder in sys.path:
            sys.path.remove(folder)
