"""Block names of each architecture, in order; ranges and aliases of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

BASE = "BASE"
"""The block of everything outside the U-Net: text encoders, VAE and the rest."""

TEXT_ENCODER = "TE"
VAE = "VAE"
"""The two parts of BASE, which rules may name by themselves."""

ALIASES = {"MID": "M00"}
"""Other spellings of block names."""


@dataclass(frozen=True)
class Architecture:
    """A family of checkpoints that share one table of blocks.

    Attributes:
        name: As shown to the user, "SD 1.x".
        depth: The number of input blocks, which is also that of output blocks.
    """

    name: str
    depth: int

    @cached_property
    def unet_blocks(self) -> tuple[str, ...]:
        """The U-Net's block names in the order in which data flows through them."""
        indices = range(self.depth)
        return (*(f"IN{i:02}" for i in indices), "M00", *(f"OUT{i:02}" for i in indices))

    @cached_property
    def blocks(self) -> tuple[str, ...]:
        """All block names, BASE first: the order of ranges and of block weights."""
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
"""Their input blocks are those of v1-inference.yaml, v2-inference.yaml and sd_xl_base.yaml of the published models; the
blocks' names those of github.com/bbc-mc/sdweb-merge-block-weighted-gui."""

LONGEST = SD1
"""The architecture whose blocks hold every other's, so that ranges can be read before a checkpoint is."""

_ORDER = {block: index for index, block in enumerate(LONGEST.blocks)}
_NAMES = frozenset(LONGEST.blocks)
RULE_NAMES = (*LONGEST.blocks, TEXT_ENCODER, VAE)
"""Every name a rule may use for a block, of whatever architecture."""


def normalise_block(word: str) -> str | None:
    """Give the name of a block or of a range of blocks as it is shown, or None if it is neither.

    Case does not matter, ``MID`` is ``M00``, and a range keeps its two ends in the order given.
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
    """List the blocks that a normalised name or range stands for, ends included."""
    first, dash, last = name.partition("-")
    if not dash:
        return (name,)
    low, high = sorted((_ORDER[first], _ORDER[last]))
    return LONGEST.blocks[low : high + 1]
