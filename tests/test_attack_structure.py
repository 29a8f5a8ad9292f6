"""The attack on the structure of files, with few files; ELEMENTAL_STRUCTURE_FILES sets how many."""

from __future__ import annotations

import os

import pytest

from .attacks.structure import attack, make_model, silent_faults

ROUNDS = int(os.environ.get("ELEMENTAL_STRUCTURE_FILES", "60"))

pytestmark = pytest.mark.slow


def test_no_merge_is_wrong_in_silence() -> None:
    figures = attack(ROUNDS, seed=int(os.environ.get("ELEMENTAL_STRUCTURE_SEED", "1")))
    assert not figures.failures
    assert sum(figures.outcomes.values()) == ROUNDS
    assert min(figures.outcomes[outcome] for outcome in ("refused", "told of", "right")) >= ROUNDS // 20


QUERY = "first_stage_model.decoder.mid.attn_1.q."


@pytest.mark.parametrize(
    ("warning", "is_silent"),
    [
        (f"{QUERY}bias is not of floats in model B, and not merged.", False),
        (f"_orig_mod.{QUERY}bias is not of floats in model B, and not merged.", False),
        ("1 of 12 tensors of the VAE has no partner in model B; it stays A's.", False),
        (f"{QUERY}weight is not of floats in model B, and not merged.", True),
        ("1 of 50 tensors of the text encoder has no partner in model B; it stays A's.", True),
        ("", True),
    ],
)
def test_a_tensor_is_named_by_its_key_or_by_its_part(warning: str, is_silent: bool) -> None:
    key, place = f"{QUERY}bias", f"_orig_mod.{QUERY}bias"
    a, b = (make_model("sd1", seed) for seed in (1, 2))
    a.places = {key: place}
    faults = silent_faults([a, b], {place: a.file[key]}, warning)
    assert [fault.split()[0] for fault in faults] == [place] * is_silent
