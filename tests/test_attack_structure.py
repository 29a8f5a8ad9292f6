"""The attack on the structure of files, with few files; ELEMENTAL_STRUCTURE_FILES sets how many."""

from __future__ import annotations

import os

import pytest

from .attacks.structure import attack

ROUNDS = int(os.environ.get("ELEMENTAL_STRUCTURE_FILES", "60"))

pytestmark = pytest.mark.slow


def test_no_merge_is_wrong_in_silence() -> None:
    figures = attack(ROUNDS, seed=int(os.environ.get("ELEMENTAL_STRUCTURE_SEED", "1")))
    assert not figures.failures
    assert sum(figures.outcomes.values()) == ROUNDS
    assert min(figures.outcomes[outcome] for outcome in ("refused", "told of", "right")) >= ROUNDS // 20
