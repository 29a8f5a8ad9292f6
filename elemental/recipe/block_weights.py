"""Block weights (MBW): one ratio for each block, given as numbers or as a preset."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..architectures.blocks import ARCHITECTURES, BASE, Architecture
from ..errors import RecipeError
from .rules import format_ratio
from .spec_errors import suggest
from .spec_parser import parse_ratio
from .text_files import read_text

BUILT_IN_PRESETS = Path(__file__).with_name("presets.txt")
"""The presets that come with the program; the file names their sources."""

_COUNTS = {len(a.unet_blocks): a for a in reversed(ARCHITECTURES)}


@dataclass(frozen=True)
class BlockWeights:
    """A ratio for each block of a U-Net, and optionally one for BASE.

    Attributes:
        unet: 25 ratios (SD 1.x, SD 2.x) or 19 (SDXL), in the order IN00..., M00, OUT00...
        base: The ratio of everything outside the U-Net; None for the recipe's alpha or beta.

    Raises:
        RecipeError: A ratio is not finite, or no architecture has that many blocks.
    """

    unet: tuple[float, ...]
    base: float | None = None

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, (*self.unet, self.base or 0.0))):
            raise RecipeError("Block weights must be finite numbers.")
        if len(self.unet) not in _COUNTS:
            raise RecipeError(_wrong_count(len(self.unet) + (self.base is not None)))

    def by_block(self, architecture: Architecture, *, base: float) -> dict[str, float]:
        """Give the ratio of each block, by name.

        Args:
            architecture: The architecture of the models.
            base: The ratio of BASE if these weights have none.

        Raises:
            RecipeError: The weights are for an architecture with another number of blocks.
        """
        if len(self.unet) != len(architecture.unet_blocks):
            raise RecipeError(
                f"The block weights are {len(self.unet)} numbers besides BASE, for {_architectures(len(self.unet))}, "
                f"but these checkpoints are {architecture.name}, which has {len(architecture.unet_blocks)} blocks."
            )
        unet = dict(zip(architecture.unet_blocks, self.unet, strict=True))
        return {BASE: base if self.base is None else self.base, **unet}


Presets = Mapping[str, tuple[BlockWeights, ...]]
"""Block weights by upper-case name; a name can have one set for each number of blocks."""


def parse_block_weights(text: str) -> BlockWeights:
    """Read block weights: 26 or 20 numbers, BASE first, or 25 or 19 without it.

    Numbers are separated by commas or white space.

    Raises:
        RecipeError: An entry is missing or not a finite number, or no architecture has that many blocks.
    """
    pieces = [piece.split() for piece in text.split(",")] if text.strip() else []
    if not all(pieces):
        raise RecipeError("A block weight is missing: there is nothing between two commas.")
    ratios = [_ratio(number) for piece in pieces for number in piece]
    if len(ratios) in _COUNTS:
        return BlockWeights(tuple(ratios))
    if len(ratios) - 1 in _COUNTS:
        return BlockWeights(tuple(ratios[1:]), ratios[0])
    raise RecipeError(_wrong_count(len(ratios)))


def format_block_weights(weights: BlockWeights) -> str:
    """Write block weights as text that :func:`parse_block_weights` reads back."""
    base = () if weights.base is None else (weights.base,)
    return ",".join(map(format_ratio, (*base, *weights.unet)))


def choose_block_weights(text: str, presets: Presets, architecture: Architecture) -> BlockWeights:
    """Read block weights given as numbers or as the name of a preset; case is ignored.

    Args:
        text: The numbers or the name.
        presets: The presets.
        architecture: The architecture of the models; a preset must have a line for it.

    Raises:
        RecipeError: The text is neither, or the preset has no line for this architecture.
    """
    name = text.strip()
    preset = presets.get(name.upper())
    if preset is None and (re.match(r"[-+.\d,]", name) or not name):
        return parse_block_weights(name)
    if preset is None:
        raise RecipeError(
            f'There is no block weight preset "{name}"{suggest(name.upper(), presets)}\n'
            f"Presets: {', '.join(presets)}. You can also enter numbers: {_valid_counts()}."
        )
    weights = next((w for w in preset if len(w.unet) == len(architecture.unet_blocks)), None)
    if weights is None:
        raise RecipeError(
            f'The preset "{name}" has no line for {architecture.name}, '
            f"which has {len(architecture.blocks)} numbers, or {len(architecture.unet_blocks)} without BASE."
        )
    return weights


def read_presets(*paths: Path) -> Presets:
    """Read preset files with lines ``NAME: numbers``; a name in a later file replaces that of an earlier one.

    Raises:
        RecipeError: A file or a line cannot be read, or a file gives a name twice for one number of blocks; the message
            names the line.
    """
    presets: dict[str, tuple[BlockWeights, ...]] = {}
    for path in paths:
        presets.update(_read_preset_file(path))
    return presets


def _read_preset_file(path: Path) -> dict[str, tuple[BlockWeights, ...]]:
    try:
        lines = read_text(path).splitlines()
    except (OSError, UnicodeError) as exc:
        raise RecipeError(f"Cannot read the presets in {path}: {exc}.") from exc
    presets: dict[str, tuple[BlockWeights, ...]] = {}
    for number, line in enumerate(lines, 1):
        entry = line.partition("#")[0].strip()
        if entry:
            try:
                _add_preset(entry, presets)
            except RecipeError as exc:
                raise RecipeError(f"{path}, line {number}: {exc}") from exc
    return presets


def _add_preset(entry: str, presets: dict[str, tuple[BlockWeights, ...]]) -> None:
    name, colon, numbers = entry.partition(":")
    if not colon:
        raise RecipeError("A preset is written NAME: numbers.")
    key, weights = name.strip().upper(), parse_block_weights(numbers)
    if any(len(other.unet) == len(weights.unet) for other in presets.get(key, ())):
        raise RecipeError(f"{key} is given twice for {_architectures(len(weights.unet))}.")
    presets[key] = (*presets.get(key, ()), weights)


def _ratio(piece: str) -> float:
    ratio = parse_ratio(piece)
    if ratio is None or not math.isfinite(ratio):
        raise RecipeError(f'The block weight "{piece}" is not a finite number.')
    return ratio


def _architectures(blocks: int) -> str:
    """Name the architectures with this number of U-Net blocks."""
    return " and ".join(a.name for a in ARCHITECTURES if len(a.unet_blocks) == blocks)


def _valid_counts() -> str:
    counts = sorted(_COUNTS, reverse=True)
    return ", ".join(f"{n + 1} for {_architectures(n)} (BASE first; {n} without BASE)" for n in counts)


def _wrong_count(count: int) -> str:
    return f"There are {count} block weights, but there must be {_valid_counts()}."
