from __future__ import annotations

from pathlib import Path

import pytest

from elemental.architectures.blocks import SD1, SDXL
from elemental.errors import RecipeError
from elemental.recipe.block_weights import BlockWeights, format_block_weights, parse_block_weights
from elemental.recipe.presets import BUILT_IN_PRESETS, choose_block_weights, read_presets


@pytest.mark.parametrize(("count", "blocks"), [(26, 25), (25, 25), (20, 19), (19, 19)])
def test_numbers_are_base_first_if_there_is_one_more(count: int, blocks: int) -> None:
    numbers = [index / 10 for index in range(count)]
    weights = parse_block_weights(", ".join(map(str, numbers)))
    assert weights.base == (0.0 if count > blocks else None)
    assert weights.unet == tuple(numbers[count - blocks :])
    assert parse_block_weights(format_block_weights(weights)) == weights


def test_weights_by_block() -> None:
    weights = BlockWeights(tuple(range(25)))
    by_block = weights.by_block(SD1, base=0.7)
    assert [by_block[block] for block in ("BASE", "IN00", "IN11", "M00", "OUT00", "OUT11")] == [0.7, 0, 11, 12, 13, 24]
    on_sdxl = weights.by_block(SDXL, base=0.7)
    assert [on_sdxl[block] for block in SDXL.blocks] == [0.7, *range(9), 12, *range(13, 22)]
    with pytest.raises(RecipeError, match=r"for SDXL, but these checkpoints are SD 1\.x"):
        BlockWeights((0.5,) * 19).by_block(SD1, base=0.7)


BAD = ["", "1", "1," * 24, " ".join("1" * 27), "0.5,x" + ",1" * 24, "nan" + ",1" * 25, "1,,1" + ",1" * 23]


@pytest.mark.parametrize("text", BAD)
def test_other_numbers_are_refused(text: str) -> None:
    with pytest.raises(RecipeError):
        parse_block_weights(text)


def test_presets_fit_the_architecture() -> None:
    presets = read_presets(BUILT_IN_PRESETS)
    assert choose_block_weights("grad_v", presets, SD1).unet[0] == 1
    assert len(choose_block_weights("GRAD_V", presets, SDXL).unet) == 19
    assert choose_block_weights("ALL_B", presets, SD1) == BlockWeights((1.0,) * 25, 1.0)
    with pytest.raises(RecipeError, match='did you mean "GRAD_V"'):
        choose_block_weights("GRADV", presets, SD1)
    assert len(choose_block_weights("WRAP08", presets, SDXL).unet) == 25  # has no line of its own for SDXL
    only_sdxl = {"MINE": (BlockWeights((0.5,) * 19),)}
    with pytest.raises(RecipeError, match=r"no line for SD 1\.x"):
        choose_block_weights("MINE", only_sdxl, SD1)


def test_users_presets_replace_and_add(tmp_path: Path) -> None:
    own = tmp_path / "presets.txt"
    lines = ["\ufeff# mine", "flat_25: " + "0.2," * 24 + "0.2", "", "my one : " + "1 " * 20 + " # SDXL"]
    own.write_text("\n".join(lines), encoding="utf-8")
    presets = read_presets(BUILT_IN_PRESETS, own)
    assert choose_block_weights("FLAT_25", presets, SD1).unet == (0.2,) * 25
    assert choose_block_weights("My One", presets, SDXL).base == 1
    assert "GRAD_A" in presets


def test_a_preset_may_be_called_like_a_number(tmp_path: Path) -> None:
    own = tmp_path / "presets.txt"
    own.write_text("50_50: " + "0.5 " * 25)
    assert choose_block_weights("50_50", read_presets(own), SD1).unet == (0.5,) * 25


def test_weights_made_by_hand_are_finite() -> None:
    with pytest.raises(RecipeError, match="finite"):
        BlockWeights((float("inf"),) * 25)


@pytest.mark.parametrize("line", ["no colon", "SHORT: 1,2,3", "BAD: " + "x," * 25, "TWICE: " + "1 " * 25])
def test_a_bad_preset_line_is_an_error_for_its_name_alone(tmp_path: Path, line: str) -> None:
    own = tmp_path / "presets.txt"
    twice = "TWICE: " + "0 " * 25 if line.startswith("TWICE") else "# mine"
    own.write_text(f"{twice}\n{line}\nGOOD: {'0.5 ' * 25}\n")
    presets = read_presets(own)
    assert choose_block_weights("good", presets, SD1).unet == (0.5,) * 25
    with pytest.raises(RecipeError, match=r"presets\.txt, line 2: "):
        choose_block_weights(line.partition(":")[0].split()[0], presets, SD1)
