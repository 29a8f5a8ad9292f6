"""Checkpoint keys and diffusers' names, over every key of each architecture in its real size."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from elemental.architectures.blocks import SD1, SD2, SDXL, Architecture
from elemental.demo.layout import DEMO_LAYOUT, SD1_LAYOUT, SD2_LAYOUT, SDXL_LAYOUT, Layout, tensor_shapes

pytest.importorskip("diffusers")

from elemental.hosts.standalone.key_map import live_name
from elemental.hosts.standalone.networks import build_networks, live_tensors

pytestmark = pytest.mark.slow

REAL = {
    "SD 1.x": (SD1_LAYOUT, SD1),
    "SD 2.x": (SD2_LAYOUT, SD2),
    "SDXL": (SDXL_LAYOUT, SDXL),
    "demo": (DEMO_LAYOUT, SD1),
}


@pytest.mark.parametrize(("layout", "architecture"), REAL.values(), ids=REAL)
def test_every_parameter_has_one_key_and_every_key_a_place(layout: Layout, architecture: Architecture) -> None:
    shapes = tensor_shapes(layout)
    networks = build_networks(shapes, architecture)  # on torch's meta device: names and shapes without numbers
    found = live_tensors(networks, list(shapes))
    for key, parts in found.items():
        assert sum(part.numel() for part in parts) == torch.Size(shapes[key]).numel(), key
        if len(parts) == 1 and len(shapes[key]) == 2:
            assert parts[0].shape == shapes[key], key
    parameters = Counter(
        (network, name) for network, module in networks.items() for name, _ in module.named_parameters()
    )
    named = Counter(
        (place.network, name) for key in found if (place := live_name(key)) is not None for name in place.parameters
    )
    stripped = Counter({(network, name.removeprefix("text_model.")): n for (network, name), n in parameters.items()})
    assert named == stripped


@pytest.mark.parametrize(
    ("layout", "architecture", "idle"),
    [
        (SD1_LAYOUT, SD1, {"embeddings.position_ids"}),
        (SD2_LAYOUT, SD2, {"logit_scale", "text_projection", "transformer.resblocks.23"}),
        (SDXL_LAYOUT, SDXL, {"embeddings.position_ids", "logit_scale"}),
    ],
    ids=["SD 1.x", "SD 2.x", "SDXL"],
)
def test_keys_without_a_place_are_those_that_images_do_not_need(
    layout: Layout, architecture: Architecture, idle: set[str]
) -> None:
    shapes = tensor_shapes(layout)
    found = live_tensors(build_networks(shapes, architecture), list(shapes))
    left = [key for key in shapes if key not in found]
    assert left
    assert all(any(name in key for name in idle) for key in left)
