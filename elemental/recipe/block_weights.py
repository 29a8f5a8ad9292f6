"""Block weights (MBW): one ratio for each block, given as numbers or as the name of a preset."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..architectures.blocks import ARCHITECTURES, BASE, LONGEST, SDXL, Architecture
from ..errors import RecipeError
from .lookalikes import plain_text
from .rule_hints import explain_ratio
from .rules import format_ratio
from .spec_reader import parse_ratio

_COUNTS = {len(a.unet_blocks): a for a in reversed(ARCHITECTURES)}
_BRACKETS = {"[": "]", "(": ")", "{": "}", '"': '"', "'": "'", "`": "`"}
_UNUSED_BY_SDXL = tuple(block for block in LONGEST.unet_blocks if block not in SDXL.unet_blocks)


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

        Weights for SD 1.x are used for SDXL as other tools do: those of blocks that SDXL does not have, IN09 to IN11
        and OUT09 to OUT11, are left out. Source: github.com/hako-mikan/sd-webui-supermerger, issue 207.

        Args:
            architecture: The architecture of the models.
            base: The ratio of BASE if these weights have none.

        Raises:
            RecipeError: The weights are for an architecture with fewer blocks.
        """
        if not self.fits(architecture):
            raise RecipeError(
                f"The block weights are {len(self.unet)} numbers besides BASE, for {_architectures(len(self.unet))}, "
                f"but these checkpoints are {architecture.name}, which has {len(architecture.unet_blocks)} blocks."
            )
        names = architecture.unet_blocks if len(self.unet) == len(architecture.unet_blocks) else LONGEST.unet_blocks
        by_name = dict(zip(names, self.unet, strict=True))
        return {BASE: base if self.base is None else self.base, **{b: by_name[b] for b in architecture.unet_blocks}}

    def fits(self, architecture: Architecture) -> bool:
        """Tell whether these weights can be used for an architecture."""
        return len(self.unet) in (len(architecture.unet_blocks), len(LONGEST.unet_blocks))


def format_left_out(weights: BlockWeights, architecture: Architecture) -> str:
    """Say which of some weights are left out on an architecture, as a sentence; empty if all are used."""
    if len(weights.unet) <= len(architecture.unet_blocks):
        return ""
    given = len(weights.unet) + (weights.base is not None)
    used = len(architecture.unet_blocks) + (weights.base is not None)
    blocks = f"{_UNUSED_BY_SDXL[0]}-{_UNUSED_BY_SDXL[2]} and {_UNUSED_BY_SDXL[3]}-{_UNUSED_BY_SDXL[-1]}"
    return f"{given} numbers are given, and {architecture.name} has {used}: those of {blocks} are left out."


def parse_block_weights(text: str) -> BlockWeights:
    """Read block weights: 26 or 20 numbers, BASE first, or 25 or 19 without it.

    Numbers are separated by commas or white space. Brackets or quotes around them and a comma at the end, as other
    tools print them, are passed over.

    Raises:
        RecipeError: An entry is missing or not a finite number, or no architecture has that many blocks.
    """
    plain = _without_brackets(re.sub(r"""(?<=[\])}"'`])\s*,\s*$""", "", plain_text(text)))
    if ";" in plain:
        raise RecipeError('Block weights are separated by commas or spaces, not by ";".')
    pieces = [_without_brackets(piece).split() for piece in plain.split(",")] if plain else []
    if len(pieces) > 1 and not pieces[-1]:
        pieces.pop()
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


def looks_like_weights(text: str) -> bool:
    """Tell whether a text was meant as numbers, not as a name, though some may be wrong."""
    plain = _without_brackets(plain_text(text))
    words = re.split(r"[\s,;]+", plain)
    return not plain or bool(re.match(r"[-+.\d,]", plain)) or _mostly_numbers(words)


def valid_counts() -> str:
    """Say how many numbers there can be."""
    counts = sorted(_COUNTS, reverse=True)
    return ", ".join(f"{n + 1} for {_architectures(n)} (BASE first; {n} without BASE)" for n in counts)


def _mostly_numbers(words: Sequence[str]) -> bool:
    numbers = [word for word in words if re.fullmatch(r"""["'`]?(?:[-+]?[\d.]+%?|[RUX])["'`]?""", word)]
    return len(words) > 2 and len(numbers) * 2 > len(words)


def _without_brackets(text: str) -> str:
    text = text.strip()
    while len(text) > 1 and text[-1] == _BRACKETS.get(text[0]):
        inside = text[1:-1].strip()
        if text[0] == text[-1] and text[0] in inside:
            break  # quotes around each number
        text = inside
    return text


def _ratio(piece: str) -> float:
    ratio = parse_ratio(piece)
    if ratio is None or not math.isfinite(ratio):
        raise RecipeError(f'The block weight "{piece}" is not a finite number{explain_ratio(piece)}.')
    return ratio


def _architectures(blocks: int) -> str:
    """Name the architectures with this number of U-Net blocks."""
    return " and ".join(a.name for a in ARCHITECTURES if len(a.unet_blocks) == blocks)


def _wrong_count(count: int) -> str:
    return f"There are {count} block weights, but there must be {valid_counts()}."
