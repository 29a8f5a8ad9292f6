"""Block weights (MBW): one ratio for each block, from numbers or from named presets."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..architectures.blocks import ARCHITECTURES, BASE, Architecture
from ..errors import RecipeError
from .parser import parse_ratio
from .rules import format_ratio
from .spec_errors import suggest

BUILT_IN_PRESETS = Path(__file__).with_name("presets.txt")
"""The presets that come with the program; the file names their source."""

_LENGTHS = {len(a.unet_blocks): a for a in reversed(ARCHITECTURES)}


@dataclass(frozen=True)
class BlockWeights:
    """A ratio for each block of a U-Net, and perhaps one for BASE.

    Attributes:
        unet: 25 ratios (SD 1.x, 2.x) or 19 (SDXL), in the order IN00.., M00, OUT00...
        base: The ratio of everything outside the U-Net; None leaves it to the recipe's plain ratio.

    Raises:
        RecipeError: A ratio is not finite, or no architecture has so many blocks.
    """

    unet: tuple[float, ...]
    base: float | None = None

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, (*self.unet, self.base or 0.0))):
            raise RecipeError("Block weights must be finite numbers.")
        if len(self.unet) not in _LENGTHS:
            raise RecipeError(_wrong_length(len(self.unet) + (self.base is not None)))

    def by_block(self, architecture: Architecture, *, base: float) -> dict[str, float]:
        """Give the ratio of every block of an architecture by its name.

        Args:
            architecture: Of the checkpoints that are merged.
            base: The ratio of BASE where these weights leave it open.

        Raises:
            RecipeError: The weights are for an architecture with another number of blocks.
        """
        if len(self.unet) != len(architecture.unet_blocks):
            raise RecipeError(
                f"The block weights are {len(self.unet)} numbers beside BASE, for {_users(len(self.unet))}, "
                f"but these checkpoints are {architecture.name}, which has {len(architecture.unet_blocks)} blocks."
            )
        own = dict(zip(architecture.unet_blocks, self.unet, strict=True))
        return {BASE: base if self.base is None else self.base, **own}


Presets = Mapping[str, tuple[BlockWeights, ...]]
"""Block weights by upper-case name, one for each length that the name is given in."""


def parse_block_weights(text: str) -> BlockWeights:
    """Read block weights: 26 or 20 numbers, BASE first, or 25 or 19 without it.

    Numbers are separated by commas or white space.

    Raises:
        RecipeError: Something is no finite number, nothing stands between two commas, or their count is none of those.
    """
    pieces = [piece.split() for piece in text.split(",")] if text.strip() else []
    if not all(pieces):
        raise RecipeError("Nothing stands between two of the block weights' commas; write a number there.")
    ratios = [_ratio(number) for piece in pieces for number in piece]
    if len(ratios) in _LENGTHS:
        return BlockWeights(tuple(ratios))
    if len(ratios) - 1 in _LENGTHS:
        return BlockWeights(tuple(ratios[1:]), ratios[0])
    raise RecipeError(_wrong_length(len(ratios)))


def format_block_weights(weights: BlockWeights) -> str:
    """Write block weights as text that reads back as the same."""
    base = () if weights.base is None else (weights.base,)
    return ",".join(map(format_ratio, (*base, *weights.unet)))


def choose_block_weights(text: str, presets: Presets, architecture: Architecture) -> BlockWeights:
    """Read block weights given as numbers or as the name of a preset (in any case).

    Args:
        text: What the user wrote.
        presets: Those that may be named.
        architecture: For whose number of blocks a preset must have a line.

    Raises:
        RecipeError: It is neither, or the preset has no line for this architecture.
    """
    name = text.strip()
    found = presets.get(name.upper())
    if found is None and (re.match(r"[-+.\d,]", name) or not name):
        return parse_block_weights(name)
    if found is None:
        raise RecipeError(
            f'There is no block weight preset "{name}"{suggest(name.upper(), presets)}\n'
            f"Known are {', '.join(presets)}. Numbers may be given instead: {_wanted()}."
        )
    fitting = next((w for w in found if len(w.unet) == len(architecture.unet_blocks)), None)
    if fitting is None:
        raise RecipeError(
            f'The preset "{name}" has no line for {architecture.name}, '
            f"which needs {len(architecture.blocks)} numbers, or {len(architecture.unet_blocks)} without BASE."
        )
    return fitting


def read_presets(*paths: Path) -> Presets:
    """Read preset files, ``NAME: numbers`` a line; a later file's name replaces an earlier one's.

    Raises:
        RecipeError: A file or a line of it cannot be read, or a name is given twice for one length; the message says
            where.
    """
    presets: dict[str, tuple[BlockWeights, ...]] = {}
    for path in paths:
        presets.update(_read_preset_file(path))
    return presets


def _read_preset_file(path: Path) -> dict[str, tuple[BlockWeights, ...]]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        raise RecipeError(f"Cannot read the presets in {path}: {exc}") from exc
    presets: dict[str, tuple[BlockWeights, ...]] = {}
    for number, line in enumerate(lines, 1):
        entry = line.partition("#")[0].strip()
        if not entry:
            continue
        name, colon, numbers = entry.partition(":")
        try:
            if not colon:
                raise RecipeError("A preset is written NAME: numbers.")
            weights = parse_block_weights(numbers)
        except RecipeError as exc:
            raise RecipeError(f"{path}, line {number}: {exc}") from exc
        key = name.strip().upper()
        if any(len(other.unet) == len(weights.unet) for other in presets.get(key, ())):
            raise RecipeError(f"{path}, line {number}: {key} is given twice for {_users(len(weights.unet))}.")
        presets[key] = (*presets.get(key, ()), weights)
    return presets


def _ratio(piece: str) -> float:
    ratio = parse_ratio(piece)
    if ratio is None or not math.isfinite(ratio):
        raise RecipeError(f'The block weight "{piece}" is no finite number.')
    return ratio


def _users(length: int) -> str:
    return " and ".join(a.name for a in ARCHITECTURES if len(a.unet_blocks) == length)


def _wanted() -> str:
    return ", ".join(f"{n + 1} for {_users(n)} (BASE first; {n} leave BASE to alpha)" for n in sorted(_LENGTHS)[::-1])


def _wrong_length(count: int) -> str:
    return f"{count} block weights are given; wanted are {_wanted()}."
