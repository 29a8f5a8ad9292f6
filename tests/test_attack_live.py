"""The attack on live merges, in memory and on stand-ins: an error at each call, and Ctrl-C at any moment."""

from __future__ import annotations

import logging
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .attacks.interrupts import attack_with_interrupts, press
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


@pytest.mark.skipif(sys.platform == "win32", reason="needs a timer that sends a signal")
def test_a_press_in_a_finalizer_and_one_while_that_is_reported_are_no_error_of_the_test() -> None:
    class Finalized:
        def __del__(self) -> None:
            end = time.perf_counter() + 0.002
            while time.perf_counter() < end:
                pass

    def work() -> None:
        for _ in range(3):
            Finalized()

    assert sum(press(work, (0.001, 0.0002)) for _ in range(30)) > 30


@pytest.mark.skipif(sys.platform == "win32", reason="needs a timer that sends a signal")
def test_what_else_a_finalizer_raises_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    class Faulty:
        def __del__(self) -> None:
            raise ValueError

    reported: list[type[BaseException]] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda error: reported.append(error.exc_type))
    press(lambda: [Faulty()].clear(), (60.0,))
    assert reported == [ValueError]
