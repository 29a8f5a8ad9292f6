"""The option for further models, B2, B3 and so on, and the models that it asks for."""

from __future__ import annotations

import argparse
from typing import NamedTuple

from ..merge.files.model_locator import ModelLocator
from ..merge.files.recipe_models import ReadModel, read_model
from ..modes.catalogue import MergeMode
from ..recipe.more_models import complete_ratio, modes_with_more
from ..recipe.more_texts import parse_more
from ..recipe.recipe import MoreModel

_NONE = "none"


class ReadMore(NamedTuple):
    """What the option says.

    Attributes:
        parts: The field of the recipe that it sets; empty if it was not given.
        read: The models.
    """

    parts: dict[str, tuple[MoreModel, ...]]
    read: tuple[ReadModel, ...] = ()


def add_more_option(group: argparse._ArgumentGroup) -> None:
    """Declare it."""
    group.add_argument(
        "--more",
        action="append",
        metavar="M",
        help=f"FILE:RATIO: a further model, a file or a recipe, in modes that take some ({modes_with_more()}); can be "
        f'given several times, for B2, B3 and so on; "{_NONE}" ignores those in the recipe',
    )


def read_more(texts: tuple[str, ...] | None, mode: MergeMode, *, locator: ModelLocator, unfold: bool) -> ReadMore:
    """Read the further models of the command line.

    Args:
        texts: What was given; None if nothing was.
        mode: The mode, which says what the ratio of one is that is given without.
        locator: Finds the models of recipes.
        unfold: Whether merged files stand for the recipes in their headers.

    Raises:
        ElementalError: A text or a recipe cannot be read, or a ratio is missing in a mode that has no usual one.
    """
    if texts is None:
        return ReadMore({})
    given = [] if texts == (_NONE,) else list(map(parse_more, texts))
    read = tuple(read_model(each.file, locator=locator, unfold=unfold) for each in given)
    ratios = [
        complete_ratio(each.ratio, mode, place, how="write --more FILE:RATIO") for place, each in enumerate(given)
    ]
    models = tuple(MoreModel(model.source, ratio) for model, ratio in zip(read, ratios, strict=True))
    return ReadMore({"more": models}, read)
