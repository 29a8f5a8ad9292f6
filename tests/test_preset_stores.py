"""Presets that a page saves, renames and deletes are plain text that the command line reads, too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from elemental.errors import RecipeError
from elemental.hosts.base import CheckpointRef
from elemental.recipe.presets import read_presets
from elemental.session.form import MergeForm, finder
from elemental.session.preset_stores import SpecPresets, WeightPresets
from elemental.workflows import user_presets_path

FORM = MergeForm()
NUMBERS = ",".join(["0.5", *["0.25"] * 25])


@pytest.fixture
def weights() -> WeightPresets:
    return WeightPresets(lambda _: 25)


@pytest.fixture
def specs() -> SpecPresets:
    return SpecPresets()


def test_weights_are_saved_renamed_and_deleted(weights: WeightPresets) -> None:
    built_in = weights.names()
    assert weights.save("mine", NUMBERS) == "MINE"
    assert weights.text("MINE", FORM) == NUMBERS
    weights.save("Mine", NUMBERS.replace("0.5", "1"))
    assert user_presets_path().read_text().count("MINE") == 1
    assert weights.rename("MINE", "yours") == "YOURS"
    assert [name for name in weights.names() if name not in built_in] == ["YOURS"]
    weights.delete("YOURS")
    assert weights.names() == built_in


def test_the_other_lines_of_the_users_file_stay(weights: WeightPresets) -> None:
    path = user_presets_path()
    short = ",".join(["0.1"] * 20)
    path.write_text(f"preset_name\tpreset_weights\n# a comment\nOLD\t{NUMBERS}\nOLD: {short}\nBAD: 1,2\n")
    weights.save("NEW", NUMBERS)
    weights.rename("OLD", "OTHER")
    lines = path.read_text().splitlines()
    assert lines[:3] == ["preset_name\tpreset_weights", "# a comment", f"OTHER\t{NUMBERS}"]
    assert lines[3:] == [f"OTHER: {short}", "BAD: 1,2", f"NEW: {NUMBERS}"]
    assert len(read_presets(path)["OTHER"]) == 2
    weights.save("other", NUMBERS)  # the line for SDXL stays
    assert len(read_presets(path)["OTHER"]) == 2
    weights.save("BAD", NUMBERS)
    assert "BAD: 1,2" not in path.read_text()


def test_presets_of_the_program_stay(weights: WeightPresets) -> None:
    for change in (lambda: weights.delete("GRAD_V"), lambda: weights.rename("GRAD_V", "X")):
        with pytest.raises(RecipeError, match="comes with the program"):
            change()
    before = weights.text("GRAD_V", FORM)
    weights.save("GRAD_V", NUMBERS)
    assert weights.text("GRAD_V", FORM) == NUMBERS
    weights.delete("GRAD_V")
    assert weights.text("GRAD_V", FORM) == before


@pytest.mark.parametrize("name", ["", " ", "a:b", "a=b", "a#b", "1,2", "0.5", "none", "x" * 99, "a\tb"])
def test_names_that_no_file_of_presets_can_have(weights: WeightPresets, name: str) -> None:
    if name == "a\tb":
        assert weights.save(name, NUMBERS) == "A B"
        return
    with pytest.raises(RecipeError):
        weights.save(name, NUMBERS)
    assert not user_presets_path().exists()


def test_what_are_no_numbers_is_not_saved(weights: WeightPresets) -> None:
    for text in ("", "GRAD_V", "1,2"):
        with pytest.raises(RecipeError):
            weights.save("X", text)


def test_specs_are_text_files(specs: SpecPresets) -> None:
    text = "# outlines\nOUT03:attn2:1\n\nIN01::0.2"
    assert specs.names() == []
    assert specs.save("outlines", text + "\n\n") == "outlines"
    path = user_presets_path().with_name("specs") / "outlines.txt"
    assert path.read_text() == text + "\n"
    assert specs.text("outlines", FORM) == text
    assert specs.rename("outlines", "Faces") == "Faces"
    path.write_bytes("OUT04::1\r\n".encode("utf-16"))  # as an editor on Windows may save it
    assert specs.text("outlines", FORM) == "OUT04::1"
    assert specs.names() == ["Faces", "outlines"]
    with pytest.raises(RecipeError, match="already"):
        specs.rename("Faces", "outlines")
    specs.delete("Faces")
    assert specs.names() == ["outlines"]
    with pytest.raises(RecipeError):
        specs.save("x", " \n")


@pytest.mark.parametrize("name", ["", "../x", "a/b", "C:\\x", ".x", "x.", "a\nb", "x" * 99, "\0"])
def test_names_that_lead_out_of_the_folder_are_refused(specs: SpecPresets, name: str) -> None:
    for use in (lambda: specs.save(name, "OUT03::1"), lambda: specs.text(name, FORM), lambda: specs.delete(name)):
        with pytest.raises(RecipeError):
            use()


def test_the_form_takes_presets_as_the_command_line_does(models: Mapping[str, Path], weights: WeightPresets) -> None:
    refs = [CheckpointRef(path.name, path) for path in models.values()]
    form = MergeForm("a.safetensors", "b.safetensors")
    plain = replace(form, blocks=weights.text("GRAD_V", FORM)).recipe(finder(refs))
    for text in ("GRAD_V", " grad_v ", f"NAME: {weights.text('GRAD_V', FORM)}"):
        assert replace(form, blocks=text).recipe(finder(refs)) == plain
    with pytest.raises(RecipeError, match='block weights: There is no block weight preset "GRAD_X"'):
        replace(form, blocks="GRAD_X").recipe(finder(refs))
