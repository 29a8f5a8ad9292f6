"""Headers of safetensors files: what the format allows is read, what it does not is refused in words."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError, safe_open

from elemental import CheckpointError
from elemental.architectures.detection import detect_architecture
from elemental.architectures.keys import name_key
from elemental.merge.files.checkpoint import Checkpoint
from elemental.merge.files.first_bytes import Content, recognise
from elemental.merge.files.model_file import ModelFile
from elemental.merge.files.tensor_data import Buffer

from .conftest import save
from .merging import whole


def entry(start: int = 0, end: int = 8, shape: Any = (4,), dtype: Any = "F16") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def packed(header: object, size: int = 8) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(size)


ONE = json.dumps(entry()).encode()
BAD: dict[str, bytes] = {
    "shorter than a length": b"\x01\x02",
    "no dictionary": packed([entry()]),
    "a gap at the start": packed({"w": entry(2, 10)}, 10),
    "a gap between": packed({"v": entry(0, 4, [2]), "w": entry(6, 10, [2])}, 10),
    "backwards": packed({"w": entry(8, 0)}),
    "bytes behind the last": packed({"w": entry()}, 9),
    "another size than its shape": packed({"w": entry(shape=[5])}),
    "a negative size": packed({"w": entry(shape=[-4])}),
    "a size in words": packed({"w": entry(shape=["4"])}),
    "a fraction": packed({"w": entry(shape=[4.0])}),
    "true for one": packed({"w": entry(0, 2, [True])}, 2),
    "true where another has one": packed({"v": entry(0, 2, [1]), "w": entry(2, 4, [True])}, 4),
    "a number that is just too large": packed({"w": entry(shape=[2**63])}),
    "a number of 5,000 digits": packed(
        b'{"w": {"dtype": "F16", "shape": [' + b"9" * 5000 + b'], "data_offsets": [0, 8]}}'
    ),
    "not a number": packed(b'{"w": {"dtype": "F16", "shape": [NaN], "data_offsets": [0, 8]}}'),
    "no offsets": packed({"w": {"dtype": "F16", "shape": [4]}}),
    "three offsets": packed({"w": {**entry(), "data_offsets": [0, 4, 8]}}),
    "no format": packed({"w": entry(dtype=None)}),
    "a format that is none": packed({"w": entry(dtype="half")}),
    "no entry": packed({"w": 1}),
    "text fields that are no texts": packed({"__metadata__": {"a": 1}, "w": entry()}),
    "text fields in a list": packed({"__metadata__": ["a"], "w": entry()}),
    "deep": packed(b'{"w": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "no UTF-8": packed(b'{"\xff": ' + ONE + b"}"),
    "words behind the header": packed(b'{"w": ' + ONE + b"} and more"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_the_format_does_not_allow(name: str, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(BAD[name])
    with pytest.raises(CheckpointError, match=r"x\.safetensors"):
        Checkpoint(path)
    with pytest.raises(SafetensorError):  # the library agrees
        safe_open(path, framework="pt")


@pytest.mark.parametrize("key", ["_" * 400_000, "a." * 200_000])
def test_a_name_that_is_too_long(key: str, tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(packed({key: entry()}))
    with pytest.raises(CheckpointError, match="a name of 400,000 characters"):
        Checkpoint(tmp_path / "x.safetensors")


@pytest.mark.parametrize("place", ["input_blocks", "output_blocks"])
def test_a_block_of_many_digits(place: str) -> None:
    key = f"model.diffusion_model.{place}.{'9' * 5000}.x"
    shapes = {key: tuple(tensor.shape) for key, tensor in whole(1).items()}
    architecture = detect_architecture({**shapes, key: (1,)}, name="it")
    assert architecture.name == "SD 1.x"
    assert name_key(key, architecture).block == "BASE"


def test_a_file_that_is_replaced_while_it_is_opened(tmp_path: Path) -> None:
    path, other = tmp_path / "x.safetensors", tmp_path / "y"
    path.write_bytes(packed({"w": entry()}))
    file = ModelFile(path)
    other.write_bytes(b"<html>")
    other.replace(path)
    assert recognise(file) is Content.SAFETENSORS


def test_a_name_twice(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(packed(b'{"w": ' + ONE + b', "w": ' + ONE + b"}"))
    with pytest.raises(CheckpointError, match="a name twice"):
        Checkpoint(tmp_path / "x.safetensors")


GOOD: dict[str, bytes] = {
    "no tensors": packed({}, 0),
    "text fields alone": packed({"__metadata__": {"a": "b"}}, 0),
    "empty tensors": packed({"v": entry(0, 0, [0, 3]), "w": entry(), "x": entry(8, 8, [0])}),
    "a single number": packed({"w": entry(0, 2, [])}, 2),
    "in another order": packed({"v": entry(4, 8, [2]), "w": entry(0, 4, [2])}),
    "blanks behind the header": packed(json.dumps({"w": entry()}).encode() + b"   "),
    "fields of later versions": packed({"w": {**entry(), "compressed": False}}),
    "many digits in a text": packed({"__metadata__": {"a": "1" * 5000}, "w": entry()}),
    "layouts that differ in one thing each": packed(
        {"u": entry(0, 4, [2]), "v": entry(4, 8, [2], "BF16"), "w": entry(8, 12, [2, 1]), "x": entry(12, 14, [])}, 14
    ),
    "names of any kind": packed({"": entry(0, 4, [2]), "Größe 重": entry(4, 8, [2])}),
}


@pytest.mark.parametrize("name", GOOD)
def test_what_the_format_allows(name: str, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(GOOD[name])
    with Checkpoint(path) as ours, safe_open(path, framework="pt") as theirs:
        assert set(ours.tensors) == set(theirs.keys())
        assert ours.metadata == (theirs.metadata() or {})
        for key in theirs.keys():  # noqa: SIM118
            assert torch.equal(ours.tensor(key), theirs.get_tensor(key))


def test_reading_where_the_system_has_no_preadv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("os.preadv", raising=False)
    numbers = torch.arange(300_000, dtype=torch.int32)
    with Checkpoint(save(tmp_path / "x.safetensors", {"w": numbers})) as file:
        pieces = [piece.clone() for _, piece in file.data("w").pieces(Buffer())]
        assert torch.equal(torch.cat(pieces), numbers)
        assert len(pieces) == 2


def test_a_closed_file_is_not_read(tmp_path: Path) -> None:
    path = save(tmp_path / "x.safetensors", {"w": torch.ones(3)})
    with Checkpoint(path) as file:
        held = file.tensor("w")
    with pytest.raises(CheckpointError, match="is closed"):
        file.tensor("w")
    path.write_bytes(bytes(path.stat().st_size))
    assert torch.equal(held, torch.ones(3))  # what was read is in memory of its own


def test_a_stream_makes_no_room_for_more_than_there_is(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(bytes(100_000))
    stream = ModelFile(tmp_path / "x").stream()
    assert len(stream.read(10**15)) == 100_000
    assert stream.read(10**15) == b""
