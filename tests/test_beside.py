"""What lies beside model A or in its header is in the result, or is said to be missing; and no folder is published."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

import elemental
from elemental.cli import main as cli
from elemental.errors import CheckpointError, MergeError, RecipeError
from elemental.hosts.base import CheckpointRef
from elemental.images.files import read_texts, write_png
from elemental.images.image_request import ImageRequest
from elemental.merge.files.beside import predicts_v
from elemental.merge.files.hashes import cache_folder, remember_place
from elemental.merge.files.metadata import recipe_from_json
from elemental.merge.files.recipe_models import doubts_of, name_where_found
from elemental.merge.files.writer import SafetensorsWriter
from elemental.session.session import session_of
from elemental.workflows import make_images, read_any_recipe

from .conftest import LAYOUTS, random_state, save
from .fake_host import FakeHost
from .plotting import load

V = b'model:\n  params:\n    parameterization: "v"\n'
OTHER = b"model:\n  params: {}\n"
HASH = "0x" + "ab" * 32


@pytest.fixture
def here(tmp_path: Path, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a folder whose name must not be told, with models a and b, as the current one."""
    folder = tmp_path / "PRIVATE_folder"
    folder.mkdir()
    for name in "ab":
        shutil.copy(models[name], folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Give the command ``elemental``, run in this process; it gives the exit code and all that was printed."""

    def run(*arguments: object) -> tuple[int, str]:
        code = cli.main([str(argument) for argument in arguments])
        return code, "".join(capsys.readouterr())

    return run


Run = Callable[..., tuple[int, str]]


def header(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata())


def pair(**parts: Any) -> elemental.MergeRecipe:
    a, b = map(elemental.model_source, ("a.safetensors", "b.safetensors"))
    return elemental.MergeRecipe(a, b, **parts)


def with_fields(path: Path, fields: dict[str, str]) -> Path:
    """Save a model with header fields, which may hold what safetensors refuses to write."""
    save(path, random_state(LAYOUTS["sd1"], 1))
    return edit_header(path, lambda header: header.replace(
        b"{", b'{"__metadata__":' + json.dumps({"format": "pt", **fields}).encode() + b",", 1
    ))  # fmt: skip


def edit_header(path: Path, edit: Callable[[bytes], bytes]) -> Path:
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = edit(data[8 : 8 + size])
    path.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + size :])
    return path


CONFIGS = {
    # what is beside A, beside the result before, --overwrite, exit code, beside the result afterwards, words
    "copied": (V, None, False, 0, V, "a.yaml was copied to out.yaml"),
    "same already": (V, V, False, 0, V, ""),
    "another one": (V, OTHER, False, 1, OTHER, "out.yaml exists, and is not a.yaml"),
    "another one, replaced": (V, OTHER, True, 0, V, "a.yaml was copied to out.yaml"),
    "of an older file": (None, V, False, 1, V, "out.yaml exists, and A has none"),
    "of an older file, kept": (None, V, True, 0, V, "warning: out.yaml stays beside the result"),
    "not UTF-8": (b"# caf\xe9\n" + V, None, False, 0, b"# caf\xe9\n" + V, "copied"),
    "empty": (b"", None, False, 0, b"", ""),
    "no configuration": (b"x" * 2_000_000, None, False, 1, None, "too large for the configuration"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_the_configuration_of_a_is_beside_the_result(here: Path, run: Run, case: str) -> None:
    of_a, before, overwrite, code, after, words = CONFIGS[case]
    for name, data in (("a.yaml", of_a), ("out.yaml", before)):
        if data is not None:
            (here / name).write_bytes(data)
    options = ["--overwrite"] if overwrite else []
    found, text = run("merge", "a.safetensors", "b.safetensors", "-o", "out.safetensors", *options)
    assert (found, (here / "out.safetensors").exists()) == (code, code == 0), text
    assert words in text
    assert ((here / "out.yaml").read_bytes() if (here / "out.yaml").exists() else None) == after
    assert not list(here.glob(".*"))


@pytest.mark.parametrize("suffix", [".yml", ".yaml.bak", ".config.yaml"])
def test_what_no_host_reads_is_not_copied(here: Path, run: Run, suffix: str) -> None:
    (here / f"a{suffix}").write_bytes(V)
    assert run("merge", "a.safetensors", "b.safetensors", "-o", "out.safetensors")[0] == 0
    assert {path.name for path in here.iterdir()} == {
        "a.safetensors", "b.safetensors", "out.safetensors", f"a{suffix}"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("config", "v"),
    [
        (V, True),
        (V.decode().encode("utf-16"), True),
        (b"model: {params: {parameterization: v}}", True),
        (b"# parameterization: v\n", False),
        (b'parameterization: "eps"', False),
        (b"parameterization: velocity", False),
        (b"", False),
    ],
)
def test_a_configuration_says_whether_it_predicts_v(config: bytes, v: bool) -> None:
    assert predicts_v(config) is v


def test_a_name_with_dots_keeps_its_configuration(here: Path, run: Run) -> None:
    (here / "a.safetensors").rename(here / "v1.5.safetensors")
    (here / "v1.5.yaml").write_bytes(V)
    assert run("merge", "v1.5.safetensors", "b.safetensors", "-o", "v1.5.merge.safetensors")[0] == 0
    assert (here / "v1.5.merge.yaml").read_bytes() == V


def test_b_has_no_say_in_how_the_result_draws(here: Path, run: Run) -> None:
    (here / "b.yaml").write_bytes(V)
    assert run("merge", "a.safetensors", "b.safetensors", "-o", "out.safetensors")[0] == 0
    assert not (here / "out.yaml").exists()


@pytest.mark.parametrize("before", [None, OTHER])
def test_a_failed_save_leaves_the_configuration_as_it_was(
    here: Path, monkeypatch: pytest.MonkeyPatch, before: bytes | None
) -> None:
    (here / "a.yaml").write_bytes(V)
    if before is not None:
        (here / "out.yaml").write_bytes(before)
        (here / "out.safetensors").write_bytes(b"old")
    seen = []

    def fail(*_: object) -> None:
        seen.append((here / "out.yaml").read_bytes())
        raise MergeError("the disk failed")

    monkeypatch.setattr(SafetensorsWriter, "commit", fail)
    recipe = pair()
    with pytest.raises(MergeError, match="the disk failed"):
        elemental.merge_to_file(recipe, "out.safetensors", overwrite=True)
    assert seen == [V]  # it is there first, so that the model is never there without it
    assert ((here / "out.yaml").read_bytes() if (here / "out.yaml").exists() else None) == before
    assert not list(here.glob(".*"))


@pytest.mark.parametrize("leads_to", ["v1.yaml", "v1.yml"])
@pytest.mark.parametrize("fails", [False, True])
def test_a_linked_configuration_is_replaced_and_not_followed(
    here: Path, monkeypatch: pytest.MonkeyPatch, leads_to: str, fails: bool
) -> None:
    (here / "a.yaml").write_bytes(V)
    (here / leads_to).write_bytes(OTHER)
    (here / "out.yaml").symlink_to(leads_to)
    if fails:
        monkeypatch.setattr(SafetensorsWriter, "commit", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            elemental.merge_to_file(pair(), "out.safetensors", overwrite=True)
    else:
        elemental.merge_to_file(pair(), "out.safetensors", overwrite=True)
    assert (here / leads_to).read_bytes() == OTHER
    assert (here / "out.yaml").is_symlink() is fails
    assert (here / "out.yaml").read_bytes() == (OTHER if fails else V)


@pytest.mark.parametrize("options", [(), ("--overwrite",)])
def test_another_model_of_the_name_keeps_the_way_it_draws(here: Path, run: Run, options: tuple[str, ...]) -> None:
    (here / "a.yaml").write_bytes(V)
    (here / "out.ckpt").write_bytes(b"another model")
    code, text = run("merge", "a.safetensors", "b.safetensors", "-o", "out.safetensors", *options)
    assert code == 1
    assert "hosts would draw out.ckpt by it, too" in text
    assert not (here / "out.yaml").exists()
    assert not (here / "out.safetensors").exists()
    (here / "out.yaml").write_bytes(V)
    assert run("merge", "a.safetensors", "b.safetensors", "-o", "out.safetensors", *options)[0] == 0


def test_a_file_beside_the_configuration_is_not_written_through(here: Path, run: Run) -> None:
    (here / "a.yaml").write_bytes(V)
    (here / "kept").write_bytes(b"kept")
    (here / ".out.yaml.part").symlink_to("kept")
    assert run("merge", "a.safetensors", "b.safetensors", "-o", "out.safetensors")[0] == 0
    assert (here / "kept").read_bytes() == b"kept"
    assert (here / ".out.yaml.part").is_symlink()


VAES = {
    "of A": ("a.vae.pt", "", "add --vae"),
    "of A, chosen": ("a.vae.safetensors", "a.vae.safetensors", ""),
    "of the result": ("out.vae.ckpt", "", "will draw out.safetensors with out.vae.ckpt"),
    "of a longer name": ("out-2.vae.pt", "", "out-2.vae.pt"),
    "of B": ("b.vae.pt", "", ""),
    "by itself": ("vae.pt", "", ""),
}


@pytest.mark.parametrize("case", VAES)
def test_a_vae_that_the_webui_loads_is_told_of(here: Path, run: Run, case: str) -> None:
    name, vae, words = VAES[case]
    shutil.copy(here / "b.safetensors", here / name)
    options = ["--vae", vae] if vae else []
    code, text = run("merge", "a.safetensors", "b.safetensors", "-o", "out.safetensors", *options)
    assert code == 0
    assert words in text if words else "The WebUI" not in text
    assert code == 0
    if words:
        command = ("merge", "a.safetensors", "b.safetensors", "-o", "other.safetensors", "--strict")
        assert run(*command)[0] == (2 if name.startswith("a.") else 0)


FIELDS: dict[str, tuple[dict[str, str], dict[str, str], str]] = {
    # fields of A, those of the result, what is said
    "title, author, licence": (
        {"modelspec.title": "T", "modelspec.author": "Zoë", "modelspec.license": "許諾 \"A\"\n§ 1\t🙂"},
        {"modelspec.title": "T", "modelspec.author": "Zoë", "modelspec.license": "許諾 \"A\"\n§ 1\t🙂",
         "modelspec.merged_from": "a, b"},
        "",
    ),
    "stale hashes": (
        {"modelspec.hash_sha256": HASH, "modelspec.hash_blake3": HASH, "sshs_model_hash": "1", "sshs_legacy_hash": "2",
         "modelspec.title": "T"},
        {"modelspec.title": "T", "modelspec.merged_from": "a, b"},
        "modelspec.hash_blake3, modelspec.hash_sha256, sshs_legacy_hash, sshs_model_hash (true of A's file alone)",
    ),
    "training": (
        {"ss_sd_model_hash": "12", "ss_tag_frequency": "{}", "ot_branch": "x"},
        {"ss_sd_model_hash": "12", "ss_tag_frequency": "{}", "ot_branch": "x"},
        "",
    ),
    "thumbnail": (
        {"modelspec.thumbnail": "data:image/jpeg;base64," + "A" * 900_000},
        {"modelspec.thumbnail": "data:image/jpeg;base64," + "A" * 900_000, "modelspec.merged_from": "a, b"},
        "",
    ),
    "a large thumbnail": (
        {"modelspec.thumbnail": "A" * 1_400_000, "modelspec.title": "T"},
        {"modelspec.title": "T", "modelspec.merged_from": "a, b"},
        "modelspec.thumbnail (1.4 MB, too large for a header)",
    ),
    "too much of all": (
        {f"ss_{number}": "x" * 700_000 for number in range(4)},
        {f"ss_{number}": "x" * 700_000 for number in range(2)},
        "ss_2 (0.7 MB, too large for a header); ss_3",
    ),
    "a merge before": (
        {"modelspec.merged_from": "x, y", "modelspec.title": "T", "sd_merge_recipe": '{"type": "webui"}',
         "sd_merge_models": '{"ff": {"name": "x"}}'},
        {"modelspec.merged_from": "a, b", "modelspec.title": "T"},
        "",
    ),
    "a graph": ({"prompt": "{}", "workflow": "{}", "x": ""}, {"x": ""}, "prompt, workflow (true of A's file alone)"),
    "a date": ({"modelspec.date": "2024-01-01"}, {}, "modelspec.date (true of A's file alone)"),
    "half a character": (
        {"x": "\ud800", "\udc00": "y", "modelspec.title": "T"},
        {"modelspec.title": "T", "modelspec.merged_from": "a, b"},
        "'x', '\\udc00' (no valid Unicode)",
    ),
    "nothing": ({}, {}, ""),
}  # fmt: skip


@pytest.mark.parametrize("case", FIELDS)
def test_the_fields_of_a_are_kept_or_named(here: Path, run: Run, case: str) -> None:
    fields, wanted, left_out = FIELDS[case]
    a = with_fields(here / "a.safetensors", fields)
    code, text = run("merge", "a.safetensors", "b.safetensors", "-o", "out.safetensors")
    assert code == 0
    result = header(here / "out.safetensors")
    written = {"format", "elemental_recipe", "sd_merge_recipe", "sd_merge_models"}
    assert {name: value for name, value in result.items() if name not in written} == wanted
    assert result["format"] == "pt"
    assert text.count("Left out of A's header fields") == bool(left_out)
    assert left_out in text
    if case == "a merge before":
        assert {"ff", hashlib.sha256(a.read_bytes()).hexdigest()} < json.loads(result["sd_merge_models"]).keys()
    again = elemental.merge_to_file(elemental.read_recipe("out.safetensors"), "again.safetensors").path
    assert again.read_bytes() == (here / "out.safetensors").read_bytes()


def test_a_tensor_whose_name_is_no_unicode_is_told_of(here: Path, run: Run) -> None:
    state = {**random_state(LAYOUTS["sd1"], 1), "extra.@": torch.zeros(1)}
    save(here / "a.safetensors", state)
    edit_header(here / "a.safetensors", lambda header: header.replace(b"extra.@", b"extra.\\ud800"))
    code, text = run("merge", "a.safetensors", "b.safetensors", "-o", "out.safetensors")
    assert code == 1
    assert "A tensor's name in A is no valid Unicode" in text
    assert "extra." in text


def test_the_fields_of_b_are_not_those_of_the_result(here: Path, run: Run) -> None:
    save(here / "b.safetensors", random_state(LAYOUTS["sd1"], 2), {"format": "pt", "modelspec.title": "of B"})
    assert run("merge", "a.safetensors", "b.safetensors", "-o", "out.safetensors")[0] == 0
    assert not any(name.startswith("modelspec.") for name in header(here / "out.safetensors"))


def all_texts(path: Path) -> str:
    texts = header(path) if path.suffix == ".safetensors" else dict(read_texts(path))
    return "\n".join(texts.values())


@pytest.mark.slow
def test_nothing_that_is_published_names_a_folder(here: Path, tmp_path: Path) -> None:
    host = FakeHost(load, output=tmp_path / "out")
    rules = elemental.parse_rules("OUT05:attn2:0.5\nNOT BASE:norm:0.2")
    vae = elemental.model_source("b.safetensors")
    recipe = pair(alpha=0.3, rules=rules, vae=elemental.VaeChoice.FILE, vae_file=vae)
    (image,) = make_images(host, ImageRequest("x", width=64, height=64), recipe)
    write_png(here / "image.png", image)
    elemental.merge_to_file(recipe, "out.safetensors")
    elemental.merge_to_file(recipe, "bare.safetensors", with_hashes=False)
    for path in ("image.png", "out.safetensors", "bare.safetensors"):
        texts = all_texts(here / path)
        assert "a.safetensors" in texts
        assert "PRIVATE" not in texts
        assert tmp_path.name not in texts
    field = read_texts(here / "image.png")["elemental_recipe"]
    assert "\n" not in field
    assert "\\n" not in field
    shared = recipe_from_json(field, name="x")
    assert shared.rules == rules
    elemental.merge_to_file(recipe, "again.safetensors")  # now the hashes are known
    (image,) = make_images(host, ImageRequest("x", width=64, height=64), recipe)
    short = recipe_from_json(image.fields["elemental_recipe"], name="x").model_a.sha256
    assert short == hashlib.sha256((here / "a.safetensors").read_bytes()).hexdigest()[:10]
    (here / "a.safetensors").rename(here / "renamed.safetensors")
    write_png(here / "hashed.png", image)
    found = elemental.ModelLocator(here).locate(elemental.read_recipe("hashed.png").model_a)
    assert found == here / "renamed.safetensors"
    assert "\\n" not in image.infotext


@pytest.mark.slow
def test_a_grid_names_no_folder_and_is_made_again(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from elemental.cli import run_options

    host = FakeHost(load, output=tmp_path / "out")
    monkeypatch.setattr(run_options, "make_host", lambda *_: host)
    monkeypatch.setattr(run_options, "require_packages", lambda: None)
    shutil.copy(here / "b.safetensors", here / "c.safetensors")
    size = ["--prompt", "x", "--width", "64", "--height", "64", "-o"]
    axis = ["--x-type", "model-b", "--x", f"{here / 'b.safetensors'}, c.safetensors"]
    assert cli.main(["plot", "a.safetensors", "b.safetensors", *axis, *size, str(tmp_path / "plot")]) == 0
    grid = tmp_path / "plot" / "grid.png"
    for path in [grid, *(tmp_path / "plot" / "cells").glob("*.png")]:
        assert "PRIVATE" not in all_texts(path)
    os.chdir(tmp_path)  # away from the models
    assert cli.main(["plot", "--recipe", str(grid), "-o", str(tmp_path / "again")]) == 0
    assert (tmp_path / "again" / "grid.png").read_bytes() == grid.read_bytes()


def merged(folder: Path, *, hashed: bool = True) -> Path:
    recipe = pair(alpha=0.3)
    return elemental.merge_to_file(recipe, folder / "out.safetensors", with_hashes=hashed).path


@pytest.mark.parametrize("hashed", [True, False])
@pytest.mark.parametrize("place", ["as it was", "beside the file", "in --models", "in --models, renamed"])
def test_models_are_found_without_their_folders(
    here: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, hashed: bool
) -> None:
    out = merged(here, hashed=hashed)
    monkeypatch.chdir(tmp_path)
    options: list[object] = []
    if place != "as it was":
        shutil.rmtree(cache_folder(), ignore_errors=True)  # another machine
        target = tmp_path / "elsewhere" / "deep"
        target.mkdir(parents=True)
        for name in "ab":
            new = f"{name}{'2' if 'renamed' in place else ''}.safetensors"
            (here / f"{name}.safetensors").rename(target / new)
        if place == "beside the file":
            out = out.rename(target / "out.safetensors")
        else:
            options = ["--models", tmp_path / "elsewhere"]
    code, text = run("merge", "--recipe", out, "-o", tmp_path / "again.safetensors", *options)
    if not hashed and place == "in --models, renamed":
        assert code == 1
        assert "has its name and size" in text
    else:
        assert code == 0, text
        assert (tmp_path / "again.safetensors").read_bytes() == out.read_bytes()


def test_two_files_of_one_name_are_not_guessed_between(here: Path, tmp_path: Path, models: dict[str, Path]) -> None:
    out = merged(here, hashed=False)
    (tmp_path / "other").mkdir()
    shutil.copy(models["c"], tmp_path / "other" / "b.safetensors")
    with pytest.raises(CheckpointError, match=r"Several files could be b\.safetensors"):
        elemental.plan_merge(elemental.read_recipe(out), locator=elemental.ModelLocator(tmp_path / "other"))


def test_a_stranger_in_the_current_folder_is_not_taken_by_its_name(
    here: Path, run: Run, tmp_path: Path, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = merged(here, hashed=False)
    strangers = tmp_path / "current"
    strangers.mkdir()
    shutil.copy(models["c"], strangers / "b.safetensors")
    monkeypatch.chdir(strangers)
    command = ("merge", "--recipe", out, "-o", "again.safetensors")
    code, text = run(*command)
    assert code == 0, text
    assert (strangers / "again.safetensors").read_bytes() == out.read_bytes()
    assert f"warning: Model B was found by its name and size alone: {here / 'b.safetensors'}. Its content was" in text
    assert run(*command, "--overwrite", "--strict")[0] == 2
    (here / "b.safetensors").rename(here / "renamed.safetensors")
    code, text = run(*command, "--overwrite")
    assert code == 1
    assert f"{here / 'b.safetensors'} is not there any more" in text


def test_a_recipe_by_hand_names_what_is_beside_it(
    here: Path, run: Run, tmp_path: Path, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = {"a": "sub/a.safetensors", "b": "b.safetensors"}
    data = {**pair().to_dict(), "models": {role: {"path": path} for role, path in paths.items()}}
    (here / "sub").mkdir()
    (here / "a.safetensors").rename(here / "sub" / "a.safetensors")
    (here / "recipe.json").write_text(json.dumps(data), encoding="utf-8")
    strangers = tmp_path / "current"
    strangers.mkdir()
    shutil.copy(models["c"], strangers / "b.safetensors")
    monkeypatch.chdir(strangers)
    code, text = run("plan", "--recipe", here / "recipe.json")
    assert code == 0, text
    assert f"Model B was found by its name alone: {here / 'b.safetensors'}" in text
    assert "Model A was found" not in text
    (here / "b.safetensors").unlink()
    code, text = run("plan", "--recipe", here / "recipe.json")
    assert code == 1
    assert f"Cannot open {here / 'b.safetensors'}" in text


def test_a_typed_path_is_meant_as_it_stands(here: Path, tmp_path: Path) -> None:
    merged(here)
    a, b = (elemental.model_source(tmp_path / f"{name}.safetensors") for name in "ab")
    typed = elemental.MergeRecipe(a, b)
    with pytest.raises(CheckpointError, match=r"Cannot open .*a\.safetensors"):
        elemental.plan_merge(typed, locator=elemental.ModelLocator(here, here))


def test_the_form_gets_the_paths_of_models_that_are_found(here: Path) -> None:
    found = name_where_found(elemental.read_recipe(merged(here)), elemental.ModelLocator())
    assert Path(found.model_a.path).expanduser() == here / "a.safetensors"
    (here / "b.safetensors").unlink()
    lost = name_where_found(elemental.read_recipe("out.safetensors"), elemental.ModelLocator())
    assert lost.model_b.path == "b.safetensors"


@pytest.mark.parametrize("hashed", [True, False])
@pytest.mark.parametrize("copies", [1, 2])
def test_the_page_tells_of_no_place_outside_the_hosts_folder(
    here: Path, tmp_path: Path, models: dict[str, Path], hashed: bool, copies: int
) -> None:
    pytest.importorskip("gradio")
    from elemental.session.listed_models import find_listed, missing_models

    merged(here, hashed=hashed)  # the places of its models are remembered
    if copies == 2:
        (tmp_path / "second").mkdir()
        shutil.copy(models["b"], tmp_path / "second")
        remember_place(tmp_path / "second" / "b.safetensors")
    folder = tmp_path / "of_the_host"
    folder.mkdir()
    shutil.copy(here / "a.safetensors", folder)
    session = session_of(FakeHost(load, output=tmp_path, models=folder))
    recipe = elemental.read_recipe("out.safetensors")
    found = find_listed(session, recipe)
    assert Path(found.model_a.path).expanduser() == folder / "a.safetensors"
    text = "\n".join([found.model_b.path, *doubts_of(recipe, found), *missing_models(session, found)])
    assert "Model B: " in text
    assert str(here) not in text
    assert "second" not in text
    assert ("Model A was found by its name and size alone" in text) is not hashed


def test_a_recipe_with_folders_loads_and_its_images_have_none(here: Path, tmp_path: Path) -> None:
    data = pair().to_dict()
    for source in data["models"].values():
        source["size"] = Path(source["path"]).stat().st_size
    (here / "old.json").write_text(json.dumps(data), encoding="utf-8")
    recipe = elemental.read_recipe("old.json")
    assert recipe.model_a.path == str(here / "a.safetensors")
    host = FakeHost(load, output=tmp_path)
    host.open_model(CheckpointRef("a", here / "a.safetensors"))
    (image,) = make_images(host, ImageRequest("x", width=64, height=64), recipe)
    assert "PRIVATE" not in image.infotext + "".join(image.fields.values())


def foreign(path: Path, here: Path, recipe: dict[str, object], names: tuple[str, ...] = ("a", "b")) -> Path:
    hashes = [hashlib.sha256((here / f"{name}.safetensors").read_bytes()).hexdigest() for name in names]
    fields = ("primary_model_hash", "secondary_model_hash", "tertiary_model_hash")
    if recipe["type"] == "sd-webui-supermerger":
        fields = ("model_a", "model_b", "model_c")
    described = {sha256: {"name": f"sub/{name}.safetensors"} for sha256, name in zip(hashes, names, strict=True)}
    data = {**dict(zip(fields, hashes, strict=False)), **recipe}
    texts = {"sd_merge_recipe": json.dumps(data), "sd_merge_models": json.dumps(described)}
    return save(path, random_state(LAYOUTS["sd1"], 9), {"format": "pt", **texts})


SUPER = {"type": "sd-webui-supermerger", "base_alpha": 0.25, "base_beta": 0.5, "mode": "Weight sum:A*(1-alpha)+B*alpha",
         "mbw": False, "weights_alpha": None, "elemental_merge": "", "calcmode": "normal"}  # fmt: skip
WEBUI = {"type": "webui", "interp_method": "Weighted sum", "multiplier": 0.3, "save_as_half": False,
         "bake_in_vae": "None", "discard_weights": ""}  # fmt: skip
WEIGHTS = [number / 25 for number in range(25)]
FOREIGN: dict[str, tuple[dict[str, object], list[str], str]] = {
    # the recipe, the same in options of this program, what could not be read
    "webui": (WEBUI, ["--alpha", "0.3"], ""),
    "webui in half": ({**WEBUI, "save_as_half": True}, ["--alpha", "0.3", "--dtype", "fp16"], ""),
    "webui with a vae": ({**WEBUI, "bake_in_vae": "b.safetensors"}, ["--alpha", "0.3", "--vae", "b.safetensors"], ""),
    "webui without hashes": (
        {**WEBUI, "primary_model_hash": None, "secondary_model_hash": None}, ["--alpha", "0.3"], ""
    ),
    "webui, some left out": ({**WEBUI, "discard_weights": "ema"}, ["--alpha", "0.3"], "discard_weights 'ema'"),
    "neo": ({"type": "Neo", "interp_method": "Weighted sum", "multiplier": 0.3}, ["--alpha", "0.3"], ""),
    "supermerger": (SUPER, ["--alpha", "0.25"], ""),
    "supermerger, blocks": (
        {**SUPER, "mbw": True, "weights_alpha": WEIGHTS},
        ["--alpha", "0.25", "--blocks", ",".join(map(str, [0.25, *WEIGHTS]))],
        "",
    ),
    "supermerger, elements": (
        {**SUPER, "elemental_merge": ["OUT05:attn2:0.5", " NOT M00:proj:1", "no rule", "IN99:attn:1"]},
        ["--alpha", "0.25", "--elemental", "OUT05:attn2:0.5,NOT M00:proj:1"],
        'the rule "IN99:attn:1"',
    ),
    "supermerger, cosine": ({**SUPER, "calcmode": "cosineA"}, ["--mode", "cosine-a", "--alpha", "0.25"], ""),
    "supermerger, tensor": (
        {**SUPER, "mbw": True, "weights_alpha": WEIGHTS, "weights_beta": WEIGHTS[::-1], "calcmode": "tensor"},
        ["--mode", "tensor-sum", "--alpha", "0.25", "--beta", "0.5",
         "--blocks", ",".join(map(str, [0.25, *WEIGHTS])), "--blocks-beta", ",".join(map(str, [0.5, *WEIGHTS[::-1]]))],
        "",
    ),
    "supermerger, excluded": ({**SUPER, "Exclude": ["IN00", "attn"]}, ["--alpha", "0.25"], "exclude IN00 attn"),
}  # fmt: skip


@pytest.mark.parametrize("case", FOREIGN)
def test_recipes_of_other_programs_are_read(here: Path, run: Run, case: str) -> None:
    recipe, options, unread = FOREIGN[case]
    foreign(here / "foreign.safetensors", here, recipe)
    command = ["merge", "--recipe", "foreign.safetensors", "--models", here, "-o", "read.safetensors"]
    code, text = run(*command)
    assert code == 0, text
    assert text.count("warning: Not read from the recipe") == bool(unread)
    assert unread in text
    assert run("merge", "a.safetensors", "b.safetensors", *options, "-o", "own.safetensors")[0] == 0
    assert (here / "read.safetensors").read_bytes() == (here / "own.safetensors").read_bytes()


@pytest.mark.parametrize("folder", ["/etc/", "\\\\host\\share\\", "C:\\models\\"])
def test_a_foreign_recipe_leads_to_no_folder(here: Path, folder: str) -> None:
    fields = header(foreign(here / "f.safetensors", here, {**WEBUI, "bake_in_vae": f"{folder}x.pt"}))
    fields["sd_merge_models"] = fields["sd_merge_models"].replace("sub/", json.dumps(folder)[1:-1])
    (here / "f.json").write_text(json.dumps(fields), encoding="utf-8")
    sources = elemental.read_recipe("f.json").sources
    assert {role: source.path for role, source in sources.items()} == {
        "a": "a.safetensors", "b": "b.safetensors", "vae": "x.pt"
    }  # fmt: skip


@pytest.mark.parametrize("field", ["elemental_recipe", "sd_merge_recipe"])
@pytest.mark.parametrize("value", [5, None, [], {}, True, "5", "null"])
def test_a_field_that_is_no_text_is_no_recipe(here: Path, run: Run, field: str, value: object) -> None:
    for data in ({field: value}, {"__metadata__": {field: value}}):
        (here / "r.json").write_text(json.dumps(data), encoding="utf-8")
        code, text = run("plan", "--recipe", "r.json")
        assert code == 2
        assert "has no recipe" in text


def test_a_foreign_recipe_can_be_a_json_file(here: Path) -> None:
    fields = header(foreign(here / "f.safetensors", here, WEBUI))
    wanted = elemental.read_recipe("f.safetensors")
    for data in (fields, {"__metadata__": fields}):
        (here / "f.json").write_text(json.dumps(data), encoding="utf-8")
        assert elemental.read_recipe("f.json") == wanted
    (here / "f.json").write_text(fields["sd_merge_recipe"], encoding="utf-8")
    assert elemental.read_recipe("f.json").model_b.sha256 == wanted.model_b.sha256


def test_three_models_of_another_program(here: Path, models: dict[str, Path]) -> None:
    shutil.copy(models["c"], here)
    recipe = {**SUPER, "mode": "sum Twice:(A*(1-alpha)+B*alpha)*(1-beta)+C*beta"}
    found = elemental.read_recipe(foreign(here / "f.safetensors", here, recipe, ("a", "b", "c")))
    assert (found.mode, found.alpha, found.beta) == (elemental.MergeMode.SUM_TWICE, 0.25, 0.5)
    assert found.model_c is not None
    assert found.model_c.name == "c.safetensors"


def test_block_weights_of_sdxl_have_one_more(here: Path) -> None:
    recipe = {**SUPER, "mbw": True, "weights_alpha": [*WEIGHTS[:19], 0]}
    found = elemental.read_recipe(foreign(here / "f.safetensors", here, recipe))
    assert found.block_alpha is not None
    assert found.block_alpha.unet == tuple(WEIGHTS[:19])
    assert found.vae is elemental.VaeChoice.A


@pytest.mark.parametrize(
    "damage",
    [{"multiplier": "x"}, {"interp_method": "No interpolation"}, {"interp_method": []}, {"multiplier": None}],
)
def test_what_cannot_be_expressed_is_refused(here: Path, damage: dict[str, object]) -> None:
    path = foreign(here / "f.safetensors", here, {**WEBUI, **damage})
    with pytest.raises(RecipeError):
        read_any_recipe(path)


def test_who_reads_in_python_is_warned(here: Path) -> None:
    path = foreign(here / "f.safetensors", here, {**SUPER, "Exclude": ["IN00"]})
    with pytest.warns(UserWarning, match="exclude IN00"):
        elemental.read_recipe(path)


ADD = "Add difference:A+(B-C)*alpha"


@pytest.mark.parametrize(
    ("calculation", "mode", "wanted"),
    [
        ("cosineA", "Weight sum", "cosine-a"),
        ("cosineB", "Weight sum", "cosine-b"),
        ("tensor", "Weight sum", "tensor-sum"),
        ("smoothAdd", ADD, "smooth-add"),
        ("smoothAdd MT", ADD, "smooth-add"),
        ("trainDifference", ADD, "train-difference"),
        ("trainDifference", "Add", "train-difference"),
        ("", ADD, "add-difference"),
        ("normal", ADD, "add-difference"),
    ],
)
def test_ways_to_compute_are_modes(
    here: Path, models: dict[str, Path], calculation: str, mode: str, wanted: str
) -> None:
    shutil.copy(models["c"], here)
    recipe = {**SUPER, "mode": mode, "calcmode": calculation}
    found = elemental.read_recipe(foreign(here / "f.safetensors", here, recipe, ("a", "b", "c")))
    assert (found.mode.value, found.alpha) == (wanted, 0.25)
    assert found.beta == (0.5 if found.mode.uses_beta else None)
    assert (found.model_c is not None) == found.mode.uses_c


def test_extract_has_one_beta_and_a_number_that_is_not_written(here: Path, models: dict[str, Path]) -> None:
    shutil.copy(models["c"], here)
    recipe = {
        **SUPER,
        "mode": "Add",
        "calcmode": "extract",
        "mbw": True,
        "weights_alpha": WEIGHTS,
        "weights_beta": WEIGHTS,
    }
    path = foreign(here / "f.safetensors", here, recipe, ("a", "b", "c"))
    with pytest.warns(UserWarning, match="the gamma of extract, which supermerger does not write down"):
        found = elemental.read_recipe(path)
    assert (found.mode, found.beta, found.block_beta) == (elemental.MergeMode.EXTRACT, 0.5, None)
    assert found.block_alpha is not None


@pytest.mark.parametrize(
    ("calculation", "mode", "message"),
    [
        ("tensor2", "Weight sum", "does not have: it cuts the second axis"),
        (
            "self",
            "Weight sum",
            "does not have: it leaves out some tensors, which rules can do: merge A alone by --mode self",
        ),
        ("plus random", "Weight sum", "does not have: it adds random numbers"),
        ("newest", "Weight sum", 'mode "Weight sum" by "newest", which this program does not have.'),
        ("cosineA", ADD, "its cosine-a goes with weight-sum alone"),
        ("tensor", "Triple sum", "its tensor-sum goes with weight-sum alone"),
        ("smoothAdd", "Weight sum", "its smooth-add goes with add-difference alone"),
    ],
)
def test_ways_to_compute_that_mean_something_else_are_refused(
    here: Path, calculation: str, mode: str, message: str
) -> None:
    path = foreign(here / "f.safetensors", here, {**SUPER, "mode": mode, "calcmode": calculation})
    with pytest.raises(RecipeError, match=message):
        elemental.read_recipe(path)


def test_models_that_a_recipe_does_not_name_can_be_given(here: Path, run: Run) -> None:
    foreign(here / "f.safetensors", here, {**WEBUI, "secondary_model_hash": None}, ("a",))
    code, text = run("merge", "--recipe", "f.safetensors", "-o", "x.safetensors", "--models", here)
    assert code == 1
    assert "does not say which file model B was: name the models" in text
    assert run("merge", "--recipe", "f.safetensors", "a.safetensors", "b.safetensors", "-o", "x.safetensors")[0] == 0
