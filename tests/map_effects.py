"""Made-up effects for the element map: each cell of the demo's pair, ranked."""

from __future__ import annotations

from elemental.architectures.detection import detect_architecture
from elemental.architectures.element_groups import Group, find_groups
from elemental.architectures.keys import name_key
from elemental.demo.layout import DEMO_LAYOUT, tensor_shapes
from elemental.session.map_effects import CellEffect, MapEffects

LARGEST = ("OUT05", "1.transformer_blocks.*.attn2.to_k"), ("OUT07", "1.transformer_blocks.*.attn2.to_k"), ("BASE", "TE")
"""The first three cells."""


def demo_groups() -> list[Group]:
    shapes = tensor_shapes(DEMO_LAYOUT)
    architecture = detect_architecture(shapes, name="demo")
    return find_groups([name_key(key, architecture) for key in shapes])


def demo_effects() -> MapEffects:
    """Effects from 20 down, each nine tenths of the one before, in the order of the map, but for the first three.

    The last is 0; three tensors of the VAE have figures of their own.
    """
    found = [(block, group.name) for group in demo_groups() for block in group.places]
    ordered = [*LARGEST, *(place for place in found if place not in LARGEST)]
    effects = [20 * 0.9**index for index in range(len(ordered) - 1)] + [0.0]
    total = sum(effects)
    cells = {
        (name, block): CellEffect(effect, rank, effect / total)
        for rank, ((block, name), effect) in enumerate(zip(ordered, effects, strict=True), 1)
    }
    tensors = {"first_stage_model.decoder.conv_in.bias": 0.5, "first_stage_model.decoder.conv_in.weight": 2.0}
    return MapEffects(cells, 'made from "nothing" & none', {**tensors, "first_stage_model.decoder.conv_out.bias": 0.1})
