"""Models that cannot be read are refused in words, and nothing is changed."""

from __future__ import annotations

import io
import pickle
import re
import struct
from pathlib import Path

import pytest
import torch

from .conftest import LAYOUTS, random_state
from .refusing import Merge, refusal

KEY = "model.diffusion_model.out.2.weight"


def tensor(start: int, end: int, dtype: str = "F16") -> str:
    shape = (end - start) // (8 if dtype == "C64" else 2)
    return f'"w{start}": {{"dtype": "{dtype}", "shape": [{shape}], "data_offsets": [{start}, {end}]}}'


def with_header(*tensors: str) -> bytes:
    text = f"{{{','.join(tensors)}}}".encode()
    return struct.pack("<Q", len(text)) + text + bytes(8)


def pickled(content: object, *, as_zip: bool = True) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=as_zip)
    return file.getvalue()


STATE = random_state(LAYOUTS["sd1"], 1)
WHOLE = with_header(tensor(0, 8))
ZIPPED, UNZIPPED = (pickled({"w": torch.ones(8)}, as_zip=as_zip) for as_zip in (True, False))
BAD_MODELS: dict[str, tuple[str, bytes | None]] = {
    "missing": (".safetensors", None),
    "folder": (".safetensors", None),
    "wrong suffix": (".txt", WHOLE),
    "empty": (".safetensors", b""),
    "header cut off": (".safetensors", WHOLE[:20]),
    "tensors cut off": (".safetensors", WHOLE[:-1]),
    "offsets past the end": (".safetensors", with_header(tensor(0, 800))),
    "overlapping": (".safetensors", with_header(tensor(0, 6), tensor(2, 8))),
    "10 GB header": (".safetensors", struct.pack("<Q", 10**10) + WHOLE[8:]),
    "largest header": (".safetensors", struct.pack("<Q", 2**64 - 1) + WHOLE[8:]),
    "not JSON": (".safetensors", with_header("once upon a time")),
    "unknown format": (".safetensors", with_header(tensor(0, 8, "F17"))),
    "unused format": (".safetensors", with_header(tensor(0, 8, "C64"))),
    "zip cut off": (".ckpt", ZIPPED[:-30]),
    "old format cut off": (".ckpt", UNZIPPED[:-8]),
    # The last name in a file of the old format is that of the numbers; tensors ask for another.
    "numbers misplaced": (".ckpt", re.sub(rb"(?s)\d{6,}(?!.*\d{6})", lambda name: b"0" * len(name[0]), UNZIPPED)),
    "junk": (".pt", b"once upon a time"),
    "junk like a pickle": (".pt", b"\x80\x02X\x09"),
    "numbered": (".pt", pickled({1: STATE[KEY]})),
    "sparse": (".pt", pickled({**STATE, KEY: STATE[KEY].float().to_sparse()})),
    "without numbers": (".pt", pickled({**STATE, KEY: STATE[KEY].to("meta")})),
}


@pytest.mark.parametrize("name", BAD_MODELS)
def test_bad_model(name: str, folder: Path, merge: Merge) -> None:
    suffix, data = BAD_MODELS[name]
    bad = folder / f"bad{suffix}"
    if data is not None:
        bad.write_bytes(data)
    elif name == "folder":
        bad.mkdir()
    a, output = folder / "a.safetensors", folder / "out.safetensors"
    assert bad.name in refusal(merge, folder, a, bad, "-o", output, "--overwrite")


class Attack(str):
    def __reduce__(self) -> tuple[object, ...]:
        return open, (str(self), "w")


@pytest.mark.parametrize("form", ["zip", "old", "bare pickle"])
def test_model_that_wants_to_run_code(form: str, folder: Path, merge: Merge) -> None:
    content = {"state_dict": {KEY: 1}, "extra": Attack(folder / "marker")}
    bad, b = folder / "bad.ckpt", folder / "b.safetensors"
    bad.write_bytes(pickle.dumps(content, 2) if form == "bare pickle" else pickled(content, as_zip=form == "zip"))
    # That the folder stays as it was means that there is no marker, either.
    assert "wants to run code" in refusal(merge, folder, bad, b, "-o", folder / "new.safetensors")
