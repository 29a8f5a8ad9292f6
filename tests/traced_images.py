"""What tests of effects on the WebUI and on its descendants ask of an image that is computed again."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from elemental.effects.directions import Directions
from elemental.effects.passes import PassMaker
from elemental.merge.files.checkpoint import Checkpoint
from elemental.merge.plan import Role


def pass_maker(
    paths: Mapping[str, Path], networks: Any, tensors: Mapping[str, Any], should_stop: Callable[[], bool]
) -> PassMaker:
    """Prepare passes in the direction from model A to model B."""
    files = {role: Checkpoint(paths[name]) for role, name in ((Role.A, "a"), (Role.B, "b"))}
    directions = Directions(dict.fromkeys(tensors, (-1.0, 1.0, 0.0)), files)
    return PassMaker(networks, tensors, directions, should_stop=should_stop)


def fails_after(count: int, error: Exception) -> Callable[[], bool]:
    """Give what says so often that nobody has pressed Stop, and then fails."""
    calls = itertools.count()

    def fail() -> bool:
        if next(calls) > count:
            raise error
        return False

    return fail


def assert_decodes(image: Any, shape: tuple[int, ...]) -> None:
    """Compare the image that is decoded again with the one that was made."""
    decoded = image.decode()
    assert decoded.shape == shape
    drawn = torch.from_numpy(np.array(image.image.image)).permute(2, 0, 1)
    assert (decoded[0] - drawn).abs().max() < 1.01  # images are rounded
