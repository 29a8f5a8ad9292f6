from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import elemental
from elemental.errors import CheckpointError, RecipeError
from elemental.merge.files import hashes
from elemental.merge.files.hashes import cache_folder, compute_sha256, file_sha256, remembered_sha256
from elemental.workflows import load_presets

from .conftest import LAYOUTS, random_state, save


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    folder = tmp_path / "models"
    folder.mkdir()
    a = save(folder / "a.safetensors", random_state(LAYOUTS["sd1"], 1))
    b = save(folder / "b.safetensors", random_state(LAYOUTS["sd1"], 2, torch.float32))
    return a, b


def merge(pair: tuple[Path, Path], out: Path, *, with_hashes: bool = True) -> Path:
    a, b = map(elemental.model_source, pair)
    recipe = elemental.MergeRecipe(
        a,
        b,
        alpha=0.3,
        block_alpha=elemental.parse_block_weights("0.1 " * 25),
        rules=elemental.parse_rules("OUT05:attn2:0.5\nNOT BASE:norm:0.2"),
    )
    return elemental.merge_to_file(recipe, out, with_hashes=with_hashes).path


def header(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata())


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_merge_repeats_to_the_same_bytes(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    first = merge(pair, tmp_path / "first.safetensors")
    again = elemental.merge_to_file(elemental.read_recipe(first), tmp_path / "folder.safetensors").path
    assert again.read_bytes() == first.read_bytes()


def test_known_and_unknown_hashes_give_the_same_bytes(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    unknown = merge(pair, tmp_path / "unknown.safetensors")
    assert all(map(remembered_sha256, pair))
    assert merge(pair, tmp_path / "known.safetensors").read_bytes() == unknown.read_bytes()


def test_moved_models_are_found_by_their_hash(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    first = merge(pair, tmp_path / "first.safetensors")
    deep = tmp_path / "elsewhere" / "deep"
    deep.mkdir(parents=True)
    pair[1].rename(deep / "other name.safetensors")
    shutil.copy(pair[0], deep / "decoy.safetensors")
    recipe = elemental.read_recipe(first)
    with pytest.raises(CheckpointError, match="is not there any more") as caught:
        elemental.plan_merge(recipe)
    assert "Name the folder of your checkpoints" in str(caught.value)
    with pytest.raises(CheckpointError, match="No file in"):
        elemental.plan_merge(recipe, locator=elemental.ModelLocator(tmp_path / "models"))
    with pytest.raises(CheckpointError, match="does not exist"):
        elemental.plan_merge(recipe, locator=elemental.ModelLocator(tmp_path / "nowhere"))
    again = elemental.merge_to_file(
        recipe, tmp_path / "again.safetensors", locator=elemental.ModelLocator(tmp_path / "elsewhere")
    ).path
    assert again.read_bytes() == first.read_bytes()


def test_a_model_where_nobody_may_look_is_told_of(
    tmp_path: Path, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = elemental.read_recipe(merge(pair, tmp_path / "first.safetensors"))

    def refuse(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_file", refuse)
    with pytest.raises(CheckpointError, match=r"Cannot open .*a\.safetensors: Permission denied"):
        elemental.plan_merge(recipe)
    with pytest.raises(RecipeError, match="Cannot read the presets"):
        load_presets()


def test_a_changed_model_is_refused(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    first = merge(pair, tmp_path / "first.safetensors")
    save(pair[1], random_state(LAYOUTS["sd1"], 3, torch.float32))
    with pytest.raises(CheckpointError, match="has changed since the recipe was made"):
        elemental.merge_to_file(elemental.read_recipe(first), tmp_path / "again.safetensors")
    assert not (tmp_path / "again.safetensors").exists()


def test_the_header_says_what_was_merged(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    fields = header(merge(pair, tmp_path / "first.safetensors"))
    recipe = json.loads(fields["elemental_recipe"])
    assert recipe["models"]["a"]["sha256"] == sha256(pair[0])
    assert recipe["models"]["b"]["size"] == pair[1].stat().st_size
    assert recipe["rules"] == "OUT05:attn2:0.5\nNOT BASE:norm:0.2"
    assert "first" not in json.dumps(fields)
    webui = json.loads(fields["sd_merge_recipe"])
    assert (webui["primary_model_hash"], webui["tertiary_model_hash"]) == (sha256(pair[0]), None)
    assert (webui["multiplier"], webui["interp_method"]) == (0.3, "weight-sum")
    described = json.loads(fields["sd_merge_models"])
    assert described[sha256(pair[1])] == {
        "name": "b.safetensors",
        "legacy_hash": hashlib.sha256(pair[1].read_bytes()[0x100000:0x110000]).hexdigest()[:8],
        "sd_merge_recipe": None,
    }


def test_merges_of_merges_carry_their_history(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    first = merge(pair, tmp_path / "first.safetensors")
    second = merge((first, pair[0]), tmp_path / "second.safetensors")
    described = json.loads(header(second)["sd_merge_models"])
    assert set(described) == {sha256(first), sha256(pair[0]), sha256(pair[1])}
    assert described[sha256(first)]["sd_merge_recipe"] == json.loads(header(first)["sd_merge_recipe"])


def test_hashes_can_be_left_out(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    first = merge(pair, tmp_path / "first.safetensors", with_hashes=False)
    assert json.loads(header(first)["elemental_recipe"])["models"]["a"]["sha256"] is None
    assert not any(map(remembered_sha256, pair))
    recipe = elemental.read_recipe(first)
    again = elemental.merge_to_file(recipe, tmp_path / "again.safetensors", with_hashes=False).path
    assert again.read_bytes() == first.read_bytes()


def test_without_hashes_the_size_must_do(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    first = merge(pair, tmp_path / "first.safetensors", with_hashes=False)
    again = elemental.merge_to_file(elemental.read_recipe(first), tmp_path / "again.safetensors").path
    assert again.read_bytes() == first.read_bytes()
    save(pair[1], random_state(LAYOUTS["sd1"], 2))
    with pytest.raises(CheckpointError, match="has changed since the recipe was made"):
        elemental.plan_merge(elemental.read_recipe(first))


def test_two_merges_that_differ_have_different_recipes(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    first = merge(pair, tmp_path / "first.safetensors")
    second = merge(pair[::-1], tmp_path / "second.safetensors")
    assert header(first)["elemental_recipe"] != header(second)["elemental_recipe"]


def test_a_recipe_can_be_a_json_file(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    first = merge(pair, tmp_path / "first.safetensors")
    text = tmp_path / "recipe.json"
    text.write_text(header(first)["elemental_recipe"], encoding="utf-8")
    assert elemental.read_recipe(text) == elemental.read_recipe(first)
    text.write_text("[1]", encoding="utf-8")
    with pytest.raises(RecipeError, match="has no recipe"):
        elemental.read_recipe(text)
    text.write_text("{", encoding="utf-8")
    with pytest.raises(RecipeError, match="not JSON"):
        elemental.read_recipe(text)
    with pytest.raises(CheckpointError, match="Cannot read"):
        elemental.read_recipe(tmp_path / "none.json")


def test_the_users_home_is_not_written_into_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert elemental.model_source(tmp_path / "models" / "a.safetensors").path == "~/models/a.safetensors"
    assert elemental.model_source("~/a.safetensors").path == "~/a.safetensors"
    assert elemental.model_source("~a.safetensors").name == "~a.safetensors"


def test_links_on_the_way_are_not_cut_short(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "deep" / "er")
    shutil.copy(pair[0], tmp_path / "deep" / "x.safetensors")
    found = elemental.model_source(link / ".." / "x.safetensors")
    assert Path(found.path).samefile(tmp_path / "deep" / "x.safetensors")


def test_hashes_are_remembered_until_the_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"one")
    assert remembered_sha256(path) is None
    assert file_sha256(path) == sha256(path) == remembered_sha256(path)
    path.write_bytes(b"three")
    assert remembered_sha256(path) is None
    monkeypatch.setattr(hashes, "compute_sha256", lambda _: "new")
    assert file_sha256(path) == "new"


def test_a_damaged_or_unwritable_cache_does_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"one")
    compute_sha256(path)
    for entry in (cache_folder() / "hashes").iterdir():
        entry.write_text("{}")
    assert remembered_sha256(path) is None
    (tmp_path / "blocked").write_text("")
    monkeypatch.setenv(hashes.CACHE_VARIABLE, str(tmp_path / "blocked" / "cache"))
    assert compute_sha256(path) == sha256(path)
