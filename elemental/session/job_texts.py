"""What the texts of jobs share: numbers, what a job is about in a few words, and one error."""

from __future__ import annotations

from ..errors import ElementalError
from ..images.image_request import ImageRequest
from ..merge.files.metadata import name_recipe
from ..recipe.recipe import MergeRecipe

MOST_LETTERS = 300
_MOST_OF_PROMPT = 60


def format_duration(seconds: float) -> str:
    """Write a duration: "80 ms", "2.4 s", "28 s"."""
    if seconds < 0.1:
        return f"{1000 * seconds:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"


def format_about(seconds: float) -> str:
    """Write a duration that is not known well: "40 s", "3 min", "2 h 10 min"."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def count_images(count: int) -> str:
    """Write a number of images: "1 image", "1,200 images"."""
    return f"{count:,} image{'s' * (count != 1)}"


def name_in_one_line(recipe: MergeRecipe) -> str:
    """Name a merge in one line of bounded length."""
    name = name_recipe(recipe).replace("\n", ", ")
    return name if len(name) <= MOST_LETTERS else f"{name[:MOST_LETTERS]} ..."


def describe_order(recipe: MergeRecipe | None, request: ImageRequest | None = None, *parts: str) -> str:
    """Say in a few words what a job is about.

    Args:
        recipe: The merge; None if it is of no certain one.
        request: The image that it makes; None for none.
        *parts: What else there is to say.
    """
    said = [*parts, "" if recipe is None else name_in_one_line(recipe)]
    if request is not None:
        prompt = " ".join(request.prompt.split())
        prompt = prompt if len(prompt) <= _MOST_OF_PROMPT else f"{prompt[:_MOST_OF_PROMPT]} ..."
        said.append(f'"{prompt}", seed {request.seed}')
    return "; ".join(filter(None, said))


def not_put_back(done: str, error: ElementalError) -> ElementalError:
    """Give the error of a job that has done its work, after which the live model could not be made what it was.

    Args:
        done: The result of the work, or what ended it.
        error: Why it could not.
    """
    return type(error)(f"{done}\nWhat was in the live model could not be put back: {error}")
