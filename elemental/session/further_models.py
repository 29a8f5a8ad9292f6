"""The further models of the form, B2, B3 and so on: one a line, by the titles of the host's list."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..errors import ElementalError, RecipeError
from ..modes.catalogue import MergeMode
from ..recipe.lookalikes import plain_text
from ..recipe.more_models import MORE_ROLES, complete_ratio, refuse_too_many
from ..recipe.more_texts import MoreText, format_more, parse_more
from ..recipe.recipe import ModelSource, MoreModel

Find = Callable[[str], ModelSource]

_HOW = "Write one model a line: NAME:RATIO."
_LONGEST = 500  # letters of a line: a page can send any text, and reading numbers takes the square of their length
_SHARE = 0.25
"""What stands in the field of the ratio where a mode has no usual one: a mix of A, B and B2 keeps some of each."""


def read_more(text: str, mode: MergeMode, find: Find) -> tuple[MoreModel, ...]:
    """Read the further models of a form.

    Args:
        text: A line for each, NAME:RATIO; without a ratio it is the mode's usual one.
        mode: The mode; one that takes no further models passes over them.
        find: Finds a model by its title in the host's list, or by its path.

    Raises:
        ElementalError: There is no model of a name, what follows it is no ratio, a ratio is missing, a line is too
            long, or there are too many.
    """
    lines = list(filter(None, map(str.strip, text.splitlines()))) if mode.takes_more else []
    refuse_too_many(len(lines))
    return tuple(_read(line, mode, place, find) for place, line in enumerate(lines))


def write_more(models: Sequence[MoreModel], title: Callable[[ModelSource], str]) -> str:
    """Write further models as :func:`read_more` reads them.

    Args:
        models: The models.
        title: Gives what the form calls one.
    """
    return "\n".join(format_more(title(model.file), model.ratio) for model in models)


def add_more(text: str, title: str, ratio: str) -> str:
    """Write a model of the list below the others.

    Args:
        text: The others.
        title: The model.
        ratio: Its ratio as it was typed; blank for the mode's usual one.
    """
    return "\n".join(filter(None, [text.rstrip(), ":".join(filter(None, [title, ratio.strip()]))]))


def usual_ratio(mode: MergeMode) -> str:
    """Give the ratio to begin with for a model that is added."""
    usual = mode.record.more.default if mode.record.more else None
    return str(_SHARE) if usual is None else f"{usual:g}"


def describe_more_models(models: Sequence[MoreModel]) -> str:
    """Say in a sentence which further models there are; empty if there are none."""
    named = zip(MORE_ROLES, models, strict=False)
    said = ", ".join(f"{role.upper()} {format_more(model.file.name, model.ratio)}" for role, model in named)
    return f"With {said}." if said else ""


def _read(line: str, mode: MergeMode, place: int, find: Find) -> MoreModel:
    role = MORE_ROLES[place].upper()
    if len(line) > _LONGEST:
        raise RecipeError(f'{role}: "{line[:40]}..." is no model: the line has {len(line):,} letters. {_HOW}')
    given, source = _find(line, role, find)
    return MoreModel(source, complete_ratio(given.ratio, mode, place, how="write NAME:RATIO"))


def _find(line: str, role: str, find: Find) -> tuple[MoreText, ModelSource]:
    errors = []
    for spelling in (line, plain_text(line)):  # a minus of another kind, say
        try:
            given = parse_more(spelling)
            return given, find(given.file)
        except RecipeError as exc:
            errors.append(exc)
    name, _, rest = line.rpartition(":")
    if name and _is_model(name, find):
        raise RecipeError(f'{role}: "{rest}" is no ratio of the model {name}. {_HOW}')
    raise RecipeError(f"{role}: {errors[0]}") from errors[0]


def _is_model(name: str, find: Find) -> bool:
    try:
        find(name)
    except ElementalError:
        return False
    return True
