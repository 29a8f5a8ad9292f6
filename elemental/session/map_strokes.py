"""What is done with cells that were chosen on the element map: painted, painted in steps, erased, or kept alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from ..architectures.keys import KeyName
from ..errors import RecipeError
from ..recipe.ratio_targets import split_target
from ..recipe.spec_errors import plain_line_ends
from ..recipe.spec_reader import parse_ratio, split_pieces
from .erase_rules import erase
from .paint_rules import Stroke, paint, read_stroke

_DIGITS = 3
_MOST_STEPS = 100


def apply_stroke(spec: str, text: str, names: Callable[[], Sequence[KeyName]]) -> str:
    """Give the spec after a stroke on the map.

    Args:
        spec: The text of the editor.
        text: JSON of what was chosen, as :func:`~.paint_rules.read_stroke` reads it. It may also have ``action``:
            "paint" (the default), "erase", or "only", which removes all other rules for what the map shows, the mode's
            ratios or that of a further model; and ``end``, a text: the ratio of the last column, which those between
            are led to in equal steps; of the first if ``leftward`` is true.
        names: Gives the tensors of the checkpoint that the map shows; what is erased has to be known by them.

    Raises:
        ElementalError: What was chosen cannot be read, or the spec is wrong where its rules have to be known.
    """
    stroke, said = read_stroke(text), json.loads(text)
    action = said.get("action", "paint")
    if action == "erase":
        return erase(spec, stroke.cells, names(), beta_only=bool(stroke.alphas), target=stroke.target)
    if action not in ("paint", "only"):
        raise RecipeError("The chosen cells cannot be read.")
    spec = _of_others(spec, stroke.target) if action == "only" else spec
    for step in _steps(stroke, _read_end(said, stroke.ratio), leftward=bool(said.get("leftward"))):
        spec = paint(spec, step)
    return spec


def _of_others(spec: str, target: str) -> str:
    """Keep the rules of a spec that set other ratios than those of a target; the rest of it may be wrong."""
    pieces = (piece for piece, _ in split_pieces(plain_line_ends(spec)))
    return "\n".join(piece for piece in pieces if split_target(piece.partition(":")[0])[0] != target)


def _read_end(said: dict[str, Any], ratio: float) -> float:
    text = str(said.get("end") or "").strip()
    end = parse_ratio(text) if text else ratio
    if end is None:
        raise RecipeError("The ratio to paint to must be a number.")
    return end


def _steps(stroke: Stroke, end: float, *, leftward: bool) -> Iterator[Stroke]:
    """Part a stroke into one for each column, if it leads from one ratio to another."""
    count = len(stroke.columns)
    if end == stroke.ratio or not 1 < count <= _MOST_STEPS:
        yield stroke
        return
    first, last = (end, stroke.ratio) if leftward else (stroke.ratio, end)
    places = {column: place for place, column in enumerate(stroke.columns)}
    for place, column in enumerate(stroke.columns):
        chosen = [n for n, (block, _) in enumerate(stroke.cells) if places.get(block, 0) == place]  # TE, VAE: the first
        cells = tuple(stroke.cells[n] for n in chosen)
        alphas = tuple(stroke.alphas[n] for n in chosen if stroke.alphas)
        ratio = round(first + (last - first) * place / (count - 1), _DIGITS)
        if cells:
            yield replace(stroke, columns=(column,), cells=cells, alphas=alphas, ratio=ratio)
