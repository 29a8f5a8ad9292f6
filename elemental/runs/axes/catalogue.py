"""Every axis of XY plots.

How to add an axis: put it into ``AXES``. It may be an instance of a class that exists, such as a ``NumberAxis`` of
another field. Otherwise write a class that derives from :class:`.axis.Axis` and

- names itself, and says which parts of a setting it sets, and for help what its values look like;
- reads a value from its text;
- applies a value to a setting, as a pure function.

The command line, its help, the tab and run records take axes from ``AXES``. Each number of a merge mode has an axis.
"""

from __future__ import annotations

from collections.abc import Mapping

from ...recipe.numbers import all_numbers
from .base import Axis
from .fields import (
    AlphaAxis,
    AlphaBetaAxis,
    BlockWeightsAxis,
    IntegerAxis,
    ModeAxis,
    ModelAxis,
    ModeNumberAxis,
    NumberAxis,
    PromptAxis,
    SamplerAxis,
    SeedAxis,
)
from .loras import LoraAxis
from .rules import ElementalAxis, PinpointAxis

AXES: Mapping[str, Axis] = {
    axis.name: axis
    for axis in (
        ElementalAxis("elemental", add=False),
        ElementalAxis("add-elemental", add=True),
        PinpointAxis("pinpoint-element", whole_blocks=False),
        PinpointAxis("pinpoint-blocks", whole_blocks=True),
        AlphaAxis("alpha", "alpha"),
        NumberAxis("beta", "beta"),
        AlphaBetaAxis(),
        BlockWeightsAxis("mbw-alpha", "block_alpha"),
        BlockWeightsAxis("mbw-beta", "block_beta"),
        ModelAxis("model-a", "model_a"),
        ModelAxis("model-b", "model_b"),
        ModelAxis("model-c", "model_c"),
        ModeAxis(),
        LoraAxis(),
        SeedAxis("seed", "seed"),
        PromptAxis("prompt", "prompt"),
        PromptAxis("negative", "negative"),
        IntegerAxis("steps", "steps"),
        NumberAxis("cfg", "cfg"),
        SamplerAxis("sampler", "sampler"),
        *map(ModeNumberAxis, all_numbers().values()),
    )
}
"""The axes by name, in the order in which they are listed."""
