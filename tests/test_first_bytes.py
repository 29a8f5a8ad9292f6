"""Files are read by what they are, whatever they are called; what is no checkpoint is named, with what to do."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import pickle
import shutil
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save as to_bytes

from elemental.cli.main import DONE, FAILED, main
from elemental.merge.files.checkpoint import Checkpoint, VaeFile
from elemental.recipe.presets import read_presets
from elemental.recipe.text_files import EncodingError, read_text
from elemental.runs.sample_file import read_samples
from elemental.workflows import user_presets_path

from .conftest import save
from .merging import assert_merged, merge, only, same_bits, save_all, whole

STATE = whole(2)
PLAIN = to_bytes(STATE)


def pickled(**options: Any) -> bytes:
    file = io.BytesIO()
    torch.save({"state_dict": STATE}, file, **options)
    return file.getvalue()


CONTENTS: dict[str, Callable[[], bytes]] = {
    "safetensors": lambda: PLAIN,
    "zip": pickled,
    "old": lambda: pickled(_use_new_zipfile_serialization=False),
    "oldest": lambda: pickled(_use_new_zipfile_serialization=False, pickle_protocol=1),
}


@pytest.mark.parametrize("suffix", [".safetensors", ".sft", ".ckpt", ".pt", ".BIN"])
@pytest.mark.parametrize("content", CONTENTS)
def test_a_name_says_nothing(content: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(CONTENTS[content]())
    with Checkpoint(path) as file:
        assert file.tensors.keys() == STATE.keys()
        assert all(same_bits(file.tensor(key), tensor) for key, tensor in STATE.items())
    with VaeFile(path) as vae:
        assert vae.tensors.keys() == only(STATE, "first_stage_model.").keys()


def test_merges_by_content(tmp_path: Path) -> None:
    (tmp_path / "a.ckpt").write_bytes(to_bytes(whole(1)))
    (tmp_path / "b.safetensors").write_bytes(pickled())
    result = merge([tmp_path / "a.ckpt", tmp_path / "b.safetensors"], tmp_path / "out.safetensors")
    assert_merged(result, [whole(1), STATE])


def archive(make: str) -> bytes:
    file = io.BytesIO()
    if make == "tar":
        with tarfile.open(fileobj=file, mode="w") as tar:
            tar.addfile(tarfile.TarInfo("model.safetensors"))
    else:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
            packed.writestr("readme.txt" if make == "zip of texts" else "folder/model.safetensors", b"x" * 100)
    return file.getvalue()


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 2132625894\n"
RECIPE = {"model_a": {}, "model_b": {}, "mode": "weight_sum"}
STRANGERS: dict[str, tuple[Callable[[], bytes], tuple[str, ...]]] = {
    "web page": (lambda: b"\n<!DOCTYPE html>\n<html><head><title>Sign in</title>", ("a web page", "login")),
    "web page with a mark": (lambda: b"\xef\xbb\xbf<html lang=en>", ("a web page",)),
    "web page in UTF-16": (lambda: "<html>".encode("utf-16"), ("a web page",)),
    "error in XML": (lambda: b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", ("a web page",)),
    "error in JSON": (lambda: b'{"error": "Unauthorized"}', ("a text in JSON", "download it again")),
    "error in words": (lambda: b"Invalid username or password.", ("a text", "download it again")),
    "index": (lambda: json.dumps({"metadata": {}, "weight_map": {"w": "1.safetensors"}}).encode(), ("several files",)),
    "configuration": (lambda: b'{"_class_name": "UNet2DConditionModel"}', ("a configuration file",)),
    "recipe": (lambda: json.dumps(RECIPE).encode(), ("a recipe", "--recipe")),
    "pointer": (lambda: POINTER, ("Git LFS pointer", "git lfs pull")),
    "GGUF": (lambda: b"GGUF\x03\0\0\0" + bytes(99), ("GGUF", ".safetensors")),
    "7z": (lambda: b"7z\xbc\xaf\x27\x1c\0\4" + bytes(99), ("7z archive", "unpack")),
    "RAR": (lambda: b"Rar!\x1a\x07\x01\0" + bytes(99), ("RAR archive", "unpack")),
    "gzip": (lambda: gzip.compress(PLAIN[:999]), ("gzip archive", "unpack")),
    "xz": (lambda: lzma.compress(b"x"), ("xz archive", "unpack")),
    "bzip2": (lambda: bz2.compress(b"x"), ("bzip2 archive", "unpack")),
    "tar": (lambda: archive("tar"), ("tar archive", "unpack")),
    "zip of a model": (lambda: archive("zip"), ("zip archive", "unpack", "folder/model.safetensors")),
    "zip of texts": (lambda: archive("zip of texts"), ("zip archive of other things",)),
    "ONNX": (lambda: b"\x08\x07\x12\x07pytorch\x1a\x052.1.0" + bytes(99), ("ONNX",)),
    "HDF5": (lambda: b"\x89HDF\r\n\x1a\n" + bytes(99), ("HDF5",)),
    "image": (lambda: b"\x89PNG\r\n\x1a\n" + bytes(99), ("an image",)),
    "shortcut": (lambda: b"L\0\0\0\x01\x14\x02\0" + bytes(99), ("shortcut",)),
    "empty": (lambda: b"", ("is empty", "download it again")),
    "zeros": (lambda: bytes(9999), ("nothing but zeros", "download it again")),
    "half of the header": (lambda: PLAIN[:5000], ("is incomplete", "5,000 bytes of", "download it again")),
    "half of the tensors": (
        lambda: PLAIN[: len(PLAIN) // 2],
        ("is incomplete", f"{len(PLAIN) / 2e6:.1f} MB of {len(PLAIN) / 1e6:.1f} MB", "download it again"),
    ),
    "half of a zip": (lambda: pickled()[:-5000], ("the end of its zip archive is missing", "download it again")),
    "half of an old one": (lambda: pickled(_use_new_zipfile_serialization=False)[:-5000], ("incomplete",)),
    "numbers": (lambda: struct.pack("<9f", *range(1, 10)), ("damaged, or no checkpoint",)),
    "one byte": (lambda: b"\x80", ("x.",)),
}


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
@pytest.mark.parametrize("name", STRANGERS)
def test_what_is_no_checkpoint_is_named(
    name: str, suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, words = STRANGERS[name]
    path = tmp_path / f"x{suffix}"
    path.write_bytes(make())
    assert main(["inspect", str(path)]) == FAILED
    error = capsys.readouterr().err
    assert all(word in error for word in (path.name, *words)), error
    assert len(error.splitlines()) <= 2


NAMES = {
    "x.safetensors.crdownload": (PLAIN[:-9], "an unfinished download"),
    "x.ckpt.part": (PLAIN, "an unfinished download"),
    "x.gguf": (b"GGUF\x03\0\0\0", "a GGUF file"),
    "x.safetensors.bak": (PLAIN, "let its name end in .safetensors"),
    "x": (PLAIN, "let its name end in .safetensors"),
    "x.zip": (archive("tar"), "a tar archive"),
    "x.mp4": (struct.pack("<9f", *range(1, 10)), "names end in one of .safetensors"),
}


@pytest.mark.parametrize("name", NAMES)
def test_other_names(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, words = NAMES[name]
    (tmp_path / name).write_bytes(data)
    assert main(["inspect", str(tmp_path / name)]) == FAILED
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["diffusers", "plain"])
def test_folders(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "model.safetensors"
    (folder / ("unet" if kind == "diffusers" else "x")).mkdir(parents=True)
    (a,) = save_all(tmp_path, [STATE])
    assert main(["plan", str(a), str(folder)]) == FAILED
    assert ("in diffusers layout" if kind == "diffusers" else "is a folder") in capsys.readouterr().err


ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le with mark", "utf-16-be with mark", "utf-32"]
MARKS = {"utf-16-le with mark": "\ufeff", "utf-16-be with mark": "\ufeff"}


def written(path: Path, text: str, encoding: str) -> Path:
    marked = MARKS.get(encoding, "") + text.replace("\n", "\r\n")
    path.write_bytes(marked.encode(encoding.removesuffix(" with mark")))
    return path


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_texts_of_editors(encoding: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = map(str, save_all(tmp_path, [whole(1), STATE]))
    spec = written(tmp_path / "spec.txt", "# für alle\nOUT05:attn2:0.5\n", encoding)
    values = written(tmp_path / "values.txt", "0\n0.5\n", encoding)
    presets = written(tmp_path / "presets.txt", "MINE: " + ",".join(["0.5"] * 26) + "\n", encoding)
    samples = written(tmp_path / "sample.txt", "=== 1  Gemälde\n--- x alpha\n0\n--- y alpha\n1\n", encoding)
    assert read_text(values) == "0\n0.5\n"
    assert "MINE" in read_presets(presets)
    assert read_samples(samples)[1].title == "Gemälde"
    user_presets_path().parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(presets, user_presets_path())
    out = str(tmp_path / "out.safetensors")
    assert main(["merge", a, b, "--elemental-file", str(spec), "--blocks", "MINE", "-o", out]) == DONE
    capsys.readouterr()
    with Checkpoint(out) as merged:
        recipe = merged.metadata["elemental_recipe"]
    again = written(tmp_path / "recipe.json", recipe, encoding)
    assert main(["plan", "--recipe", str(again)]) == DONE


NO_TEXT = {
    "Windows-1252": "# für alle\nOUT05:attn2:0.5\n".encode("cp1252"),
    "Shift-JIS": "# 全部\nOUT05:attn2:0.5\n".encode("shift_jis"),
    "UTF-16 without a mark": "OUT05:attn2:0.5\n".encode("utf-16-le"),
    "half a UTF-16": b"\xff\xfeO\0U",
    "a checkpoint": PLAIN[:9999],
    "a pickle": pickle.dumps({"a": 1}),
}


@pytest.mark.parametrize("name", NO_TEXT)
@pytest.mark.parametrize("use", ["--elemental-file", "--recipe", "presets"])
def test_texts_of_unknown_encodings(use: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = map(str, save_all(tmp_path, [whole(1), STATE]))
    path = user_presets_path() if use == "presets" else tmp_path / "x.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(NO_TEXT[name])
    words = ["--recipe", str(path)] if use == "--recipe" else [a, b]
    words += ["--elemental-file", str(path)] if use == "--elemental-file" else []
    words += ["--blocks", "MINE"] if use == "presets" else []
    assert main(["plan", *words]) != DONE
    error = capsys.readouterr().err
    assert path.name in error
    assert "UTF-8" in error
    assert "codec" not in error


def test_a_text_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("elemental.recipe.text_files._LARGEST", 10)
    (tmp_path / "x.txt").write_text("x" * 11)
    with pytest.raises(EncodingError, match="too large"):
        read_text(tmp_path / "x.txt")


def test_a_recipe_in_a_file_of_another_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [*map(str, save_all(tmp_path, [whole(1), STATE])), str(tmp_path / "out.safetensors")]
    assert main(["merge", *paths[:2], "-o", paths[2]]) == DONE
    shutil.copy(paths[2], tmp_path / "out.ckpt")
    assert main(["plan", "--recipe", str(tmp_path / "out.ckpt")]) == DONE
    save(tmp_path / "c.ckpt", STATE)
    capsys.readouterr()
    assert main(["plan", "--recipe", str(tmp_path / "c.ckpt")]) != DONE
    assert "has no recipe of this program" in capsys.readouterr().err


@pytest.mark.parametrize("length", [0x0180, 0x0280, 0x0580], ids=hex)
def test_a_header_whose_length_begins_as_a_pickle_does(tmp_path: Path, length: int) -> None:
    tensors = {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(1, 4, 1, 1)}
    shortest = int.from_bytes(to_bytes(tensors, {"text": ""})[:8], "little")
    path = tmp_path / "a.safetensors"
    path.write_bytes(to_bytes(tensors, {"text": "x" * (length - shortest)}))
    assert int.from_bytes(path.read_bytes()[:8], "little") == length
    with Checkpoint(path) as checkpoint:
        assert list(checkpoint.tensors) == list(tensors)
