"""Block names of each architecture, in order, with ranges and aliases."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

BASE = "BASE"
"""The block of everything outside the U-Net: text encoders, VAE and the rest."""

TEXT_ENCODER = "TE"
VAE = "VAE"
"""The two parts of BASE that rules can name."""

ALIASES = {"MID": "M00"}
"""Other spellings of block names."""


@dataclass(frozen=True)
class Architecture:
    """A family of checkpoints that share one table of blocks.

    Attributes:
        name: The name that users see, such as "SD 1.x".
        depth: The number of input blocks, and of output blocks.
    """

    name: str
    depth: int

    @cached_property
    def unet_blocks(self) -> tuple[str, ...]:
        """The block names of the U-Net, from input to output."""
        indices = range(self.depth)
        return (*(f"IN{i:02}" for i in indices), "M00", *(f"OUT{i:02}" for i in indices))

    @cached_property
    def blocks(self) -> tuple[str, ...]:
        """All block names, BASE first; ranges and block weights have this order."""
        return (BASE, *self.unet_blocks)

    @property
    def block_summary(self) -> str:
        """The block names in short, "BASE, IN00-IN11, M00, OUT00-OUT11"."""
        last = self.depth - 1
        return f"{BASE}, IN00-IN{last:02}, M00, OUT00-OUT{last:02}"


SD1 = Architecture("SD 1.x", 12)
SD2 = Architecture("SD 2.x", 12)
SDXL = Architecture("SDXL", 9)
ARCHITECTURES = (SD1, SD2, SDXL)
"""Sources: the number of input blocks from v1-inference.yaml, v2-inference.yaml and sd_xl_base.yaml of the published
models, the block names from github.com/bbc-mc/sdweb-merge-block-weighted-gui."""

LONGEST = SD1
"""The architecture that has the blocks of all others: ranges are expanded without knowing the checkpoint."""

_ORDER = {block: index for index, block in enumerate(LONGEST.blocks)}
_NAMES = frozenset(LONGEST.blocks)


def normalise_block(word: str) -> str | None:
    """Give the standard spelling of a block name or range; None if it is neither.

    Case is ignored, ``MID`` becomes ``M00``, and a range keeps the order of its ends.
    """
    name = word.upper()
    name = ALIASES.get(name, name)
    if name in _NAMES or name in (TEXT_ENCODER, VAE):
        return name
    ends = [ALIASES.get(end, end) for end in name.split("-")]
    if len(ends) == 2 and all(end in _NAMES for end in ends):
        return "-".join(ends)
    return None


def expand_block(name: str) -> tuple[str, ...]:
    """List the blocks of a normalised name or range, ends included."""
    first, dash, last = name.partition("-")
    if not dash:
        return (name,)
    low, high = sorted((_ORDER[first], _ORDER[last]))
    return LONGEST.blocks[low : high + 1]
