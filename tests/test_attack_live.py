"""The attack on live merges, on the host in memory: an error at each call into it."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from .attacks.live import Report, attack
from .attacks.places import place_on
from .attacks.scenes import SCENES, Scene
from .attacks.traps import KINDS


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("scene", SCENES[:4], ids=lambda scene: scene.__name__)
def test_the_model_is_back_whatever_call_fails(scene: type[Scene], tmp_path: Path) -> None:
    report = Report()
    with place_on("fake", tmp_path) as place:
        attack(place, scene, tmp_path, report, kinds=list(KINDS), draw=random.Random(3), every_tensor=5)
    assert not report.failures
    assert sum(report.struck.values()) > 40
