"""Pickled checkpoints: every form that torch has written, and files that were made to do harm."""

from __future__ import annotations

import io
import pickle
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from collections import OrderedDict
from pathlib import Path
from types import ModuleType

import pytest
import torch

from elemental.errors import CheckpointError
from elemental.merge.files import pickle_opcodes as opcodes
from elemental.merge.files.checkpoint import Checkpoint

from .conftest import LAYOUTS, pickles_float8, random_state

ROOT = Path(__file__).parents[1]
START = b"\x80\x02"


def tensors() -> dict[str, torch.Tensor]:
    together = torch.arange(24, dtype=torch.float16)
    return {
        "plain": torch.randn(3, 4),
        "parameter": torch.nn.Parameter(torch.randn(2, 3)),
        "transposed": torch.randn(4, 5).t(),
        "piece": together[5:9],
        "other piece": together.reshape(4, 6)[:, 2:4],
        **({"float8": torch.randn(7).to(torch.float8_e4m3fn)} if pickles_float8() else {}),
        "scalar": torch.tensor(3.5, dtype=torch.bfloat16),
        "empty": torch.zeros(0),
        "integers": torch.arange(77).expand(1, -1),
        "flags": torch.tensor([True, False]),
    }


@pytest.mark.parametrize("as_zip", [True, False])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_each_form_that_torch_writes(protocol: int, as_zip: bool, tmp_path: Path) -> None:
    path, state = tmp_path / "x.ckpt", tensors()
    ordered = OrderedDict(state)
    ordered._metadata = {"": {"version": 1}}  # type: ignore[attr-defined]  # as a module's state dict has it
    training = {"optimizer": {0: {"step": 3, "moment": torch.ones(2)}}, "epoch": 7, "rate": 0.5, (1, 2): {"a", "b"}}
    torch.save(
        {"state_dict": ordered, **training}, path, pickle_protocol=protocol, _use_new_zipfile_serialization=as_zip
    )
    with Checkpoint(path) as found:
        assert list(found.tensors) == list(state)
        for key, tensor in state.items():
            read = found.tensor(key)
            assert (read.dtype, read.shape, found.tensors[key].shape) == (tensor.dtype, tensor.shape, tensor.shape)
            assert torch.equal(
                read.contiguous().view(-1).view(torch.uint8), tensor.contiguous().view(-1).view(torch.uint8)
            )


def test_training_state_of_a_package_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first published checkpoints have a class of pytorch_lightning as a key among their callbacks."""
    name = "pytorch_lightning.callbacks.model_checkpoint"
    for module in ("pytorch_lightning", "pytorch_lightning.callbacks", name):
        monkeypatch.setitem(sys.modules, module, ModuleType(module))
    callback = type("ModelCheckpoint", (), {"__module__": name})
    vars(sys.modules[name])["ModelCheckpoint"] = callback
    state = random_state(LAYOUTS["sd1"], 1)
    callbacks = {callback: {"best_model_score": torch.tensor(0.5), "monitor": callback()}}
    torch.save({"state_dict": state, "callbacks": callbacks}, tmp_path / "x.ckpt")
    with Checkpoint(tmp_path / "x.ckpt") as found:
        assert list(found.tensors) == list(state)


def test_a_state_dict_in_a_state_dict(tmp_path: Path) -> None:
    torch.save({"state_dict": {"state_dict": {"w": torch.ones(2)}, "step": 1}}, tmp_path / "x.ckpt")
    with Checkpoint(tmp_path / "x.ckpt") as found:
        assert list(found.tensors) == ["w"]


def test_opening_loads_no_torch(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(3)}, tmp_path / "x.ckpt")
    code = "import sys; from elemental import Checkpoint; Checkpoint(sys.argv[1]); print(*sys.modules)"
    command = [sys.executable, "-c", code, str(tmp_path / "x.ckpt")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "torch" not in done.stdout.split()


def zipped(index: bytes, compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("x/data.pkl", index)
        archive.writestr("x/data/0", bytes(64))
    return file.getvalue()


def old(index: bytes) -> bytes:
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    facts = [0x1950A86A20F9469CFC6C, 1001, system]
    return b"".join(pickle.dumps(fact, 2) for fact in facts) + index + pickle.dumps([], 2)


def number(value: int) -> bytes:
    return pickle.LONG1 + b"\x08" + struct.pack("<q", value)


def text(value: str) -> bytes:
    return pickle.BINUNICODE + struct.pack("<I", len(value)) + value.encode()


def tensor(*, count: int = 16, offset: int = 0, shape: int = 16, stride: int = 1) -> bytes:
    """Give the index of a file with one tensor in it."""
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + number(count) + b"tQ"
    arguments = storage + number(offset) + number(shape) + b"\x85" + number(stride) + b"\x85" + b"\x89" + b"}"
    return START + b"}" + text("w") + b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"tRs."


HUGE = 10**10
DEEP = 300_000  # deep enough to end the process of a reader that goes down into it
HARM: dict[str, bytes] = {
    "a buffer of 10 GB": zipped(START + b"cbuiltins\nbytearray\n" + number(HUGE) + b"\x85R."),
    "a buffer of 10 GB, old form": old(START + b"cbuiltins\nbytearray\n" + number(HUGE) + b"\x85R."),
    "a text of 4 GB": zipped(START + b"X\xff\xff\xff\xffx."),
    "a text of 4 GB, old form": old(START + b"X\xff\xff\xff\xffx."),
    "numbers of 40 GB, old form": old(tensor(count=HUGE)),
    "more numbers than there are": zipped(tensor(count=HUGE, shape=HUGE)),
    "numbers behind the end": zipped(tensor(offset=8, shape=9)),
    "numbers before the start": zipped(tensor(offset=-1, shape=2)),
    "a stride past the end": zipped(tensor(shape=2, stride=2**62)),
    "one number for many": zipped(tensor(shape=HUGE, stride=0)),
    "tuples in tuples": zipped(START + b"})" + b"\x85" * DEEP + b"K\x01s."),
    "a name of tuples": zipped(b"\x80\x04)" + b"2\x86" * 40 + b"2\x93."),
    "a tuple that takes for ever to compare": zipped(START + b"})" + b"2\x86" * 60 + b"K\x01s."),
    "an archive that is small when packed": zipped(START + b"}" + text("0" * 50_000_000) + b"0.", zipfile.ZIP_DEFLATED),
    "kept at a large place": zipped(START + b"}r\xff\xff\xff\xff."),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", HARM)
def test_a_small_file_asks_for_much(name: str, tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    path.write_bytes(HARM[name])
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match=r"x\.ckpt"):
            Checkpoint(path)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < max(2_000_000, 100 * len(HARM[name]))


@pytest.mark.parametrize(
    "name", ["posix\nsystem", "builtins\neval", "__builtin__\nexec", "os\npopen", "runpy\n_run_code"]
)
def test_names_that_no_checkpoint_needs(name: str, tmp_path: Path) -> None:
    (tmp_path / "x.ckpt").write_bytes(zipped(START + b"c" + name.encode() + b"\n."))
    with pytest.raises(CheckpointError, match=f"wants to run code .{name.replace(chr(10), '.')}"):
        Checkpoint(tmp_path / "x.ckpt")


def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    torch.save({"x" * 2000: torch.ones(1)}, tmp_path / "x.ckpt")
    with pytest.raises(CheckpointError, match="a name of 2,000 characters"):
        Checkpoint(tmp_path / "x.ckpt")


def test_an_index_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opcodes, "MOST_INSTRUCTIONS", 1000)
    (tmp_path / "x.ckpt").write_bytes(zipped(START + b"}" * 2000 + b"."))
    with pytest.raises(CheckpointError, match="too long"):
        Checkpoint(tmp_path / "x.ckpt")
