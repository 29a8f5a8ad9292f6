"""The attack on live merges, in memory and on stand-ins: an error at each call, and Ctrl-C at any moment."""

from __future__ import annotations

import logging
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .attacks.interrupts import attack_with_interrupts
from .attacks.live import Report, attack
from .attacks.places import PLACES, place_on
from .attacks.scenes import SCENES, Effects, Images, Scene, Simplifying
from .attacks.traps import KINDS

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("scene", [*SCENES[:4], Effects, Simplifying], ids=lambda scene: scene.__name__)
def test_the_model_is_back_whatever_call_fails(scene: type[Scene], tmp_path: Path) -> None:
    report = Report()
    with place_on("fake", tmp_path) as place:
        attack(place, scene, tmp_path, report, kinds=list(KINDS), draw=random.Random(3), every_tensor=5)
    assert not report.failures
    assert sum(report.struck.values()) > 40


@pytest.mark.parametrize("host", [host for host in PLACES if host != "webui-computing"])
def test_the_model_is_back_whatever_fails_in_a_host(host: str, tmp_path: Path) -> None:
    report = Report()
    with place_on(host, tmp_path) as place:
        attack(place, Images, tmp_path, report, kinds=list(KINDS), draw=random.Random(3), every_tensor=5)
    assert not report.failures
    assert sum(report.struck.values()) > 30


@pytest.mark.skipif(sys.platform == "win32", reason="needs a timer that sends a signal")
def test_the_model_is_back_after_ctrl_c_at_any_moment(tmp_path: Path) -> None:
    with place_on("fake", tmp_path) as place:
        counts, failures = attack_with_interrupts(place, 20, random.Random(3))
    assert not failures
    assert sum(counts.values()) == 20
