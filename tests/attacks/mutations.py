"""Files that are nearly checkpoints: bytes, lengths and fields of real ones changed at random."""

from __future__ import annotations

import io
import json
import pickletools
import random
import struct
import warnings
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import torch
from safetensors.torch import save

from ..conftest import pickles_float8

NUMBERS = (0, 1, -1, 2, 7, 8, 77, 255, 256, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**63, 2**64)
VALUES: tuple[object, ...] = (None, True, "", "F16", [], {}, [[1]], 0.5, 1e300, *NUMBERS)
NAMES = (
    b"posix\nsystem\n", b"builtins\neval\n", b"builtins\nbytearray\n", b"torch._utils\n_rebuild_sparse_tensor\n",
    b"collections\nOrderedDict\n", b"numpy\nzeros\n", b"torch\nDoubleStorage\n", b"torch.storage\nUntypedStorage\n",
)  # fmt: skip
INSTRUCTIONS = b"".join(instruction.code.encode("latin-1") for instruction in pickletools.opcodes)
Mutation = Callable[[bytes, random.Random], bytes]


def whole_files() -> dict[str, bytes]:
    """Make small checkpoints of every kind, by name and suffix."""
    state = {
        "model.diffusion_model.out.2.weight": torch.arange(36, dtype=torch.float16).reshape(4, 3, 3),
        "model.diffusion_model.out.2.bias": torch.ones(4),
        "first_stage_model.decoder.conv_in.weight": torch.ones(2, 2, dtype=torch.bfloat16),
        "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(8).reshape(1, 8),
        "v_pred": torch.zeros(0),
        "fp8": torch.ones(5).to(torch.float8_e4m3fn),
    }
    files = {"plain.safetensors": save(state, {"format": "pt", "sd_merge_recipe": "{}"})}
    if not pickles_float8():
        del state["fp8"]
    for name, content in {"bare": state, "wrapped": {"state_dict": state, "epoch": 3, "lr": 0.1}}.items():
        for protocol in (2, 4):
            for as_zip in (True, False):
                file = io.BytesIO()
                torch.save(content, file, pickle_protocol=protocol, _use_new_zipfile_serialization=as_zip)
                files[f"{name}{protocol}{'zip' if as_zip else 'old'}.ckpt"] = file.getvalue()
    return files


def mutate(files: Mapping[str, bytes], dice: random.Random) -> tuple[str, bytes]:
    """Change one of the files in one to four ways; give its name and its bytes."""
    name = dice.choice(list(files))
    data = files[name]
    own = _HEADER if name.endswith(".safetensors") else _ARCHIVE if "zip" in name else _PICKLE
    for _ in range(dice.choice((1, 1, 1, 2, 4))):
        data = dice.choice((*own, *_BYTES))(data, dice)
    return name, data


def _flip(data: bytes, dice: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(dice.choice((1, 2, 16)) if data else 0):
        changed[dice.randrange(len(changed))] = dice.randrange(256)
    return bytes(changed)


def _cut(data: bytes, dice: random.Random) -> bytes:
    return data[: dice.randrange(len(data) + 1)]


def _remove(data: bytes, dice: random.Random) -> bytes:
    start = dice.randrange(len(data) + 1)
    return data[:start] + data[start + dice.choice((1, 2, 8, 100)) :]


def _repeat(data: bytes, dice: random.Random) -> bytes:
    start = dice.randrange(len(data) + 1)
    piece = data[start : start + dice.choice((1, 4, 8, 64, 500))]
    place = dice.randrange(len(data) + 1)
    return data[:place] + piece * dice.choice((1, 1, 2, 50)) + data[place:]


def _put_number(data: bytes, dice: random.Random) -> bytes:
    form, most = dice.choice((("<H", 2**16), ("<I", 2**32), ("<Q", 2**64), (">I", 2**32)))
    piece = struct.pack(form, dice.choice(NUMBERS) % most)
    place = dice.randrange(max(1, len(data) - len(piece)))
    return data[:place] + piece + data[place + len(piece) :]


def _change_header(data: bytes, dice: random.Random) -> bytes:
    """Change a field of a safetensors header, and its length with it."""
    try:
        (size,) = struct.unpack("<Q", data[:8])
        header: dict[str, Any] = json.loads(data[8 : 8 + size])
        key = dice.choice(list(header))
        entry = header[key]
        change = dice.randrange(6)
        if change == 0:
            entry[dice.choice(list(entry))] = dice.choice(VALUES)
        elif change == 1:
            numbers = entry[dice.choice(("shape", "data_offsets"))]
            numbers[dice.randrange(len(numbers))] = dice.choice(VALUES)
        elif change == 2:
            header[dice.choice(("", "__metadata__", "\u0000", "x" * 5000, *header))] = entry
        elif change == 3:
            del header[key]
        elif change == 4:
            entry["dtype"] = dice.choice(("F64", "F8_E5M2", "F4", "C64", "BOOL", "I4", "U64", "f16"))
        else:
            entry[dice.choice(list(entry))] = dice.choice(list(header.values()))
        text = json.dumps(header).encode()
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, struct.error, RecursionError):
        return _flip(data, dice)  # what was changed before left no header to change
    return struct.pack("<Q", len(text)) + text + data[8 + size :]


def _change_header_size(data: bytes, dice: random.Random) -> bytes:
    return struct.pack("<Q", (dice.choice(NUMBERS) + dice.choice((0, len(data), len(data) - 8))) % 2**64) + data[8:]


def _change_index(data: bytes, dice: random.Random) -> bytes:
    """Change the pickle within an archive, and pack it again with the right sums."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    except Exception:
        return _put_number(data, dice)  # what was changed before left no archive to read
    file = io.BytesIO()
    compression = dice.choice((zipfile.ZIP_STORED,) * 9 + (zipfile.ZIP_DEFLATED,))
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w", compression) as archive:
        warnings.simplefilter("ignore")  # two entries of one name are meant
        for name, content in entries.items():
            changed = _change_pickle(content, dice) if name.endswith("data.pkl") else content
            if dice.random() > 0.01:
                archive.writestr(name if dice.random() > 0.01 else dice.choice(("../x", "/x", name * 9)), changed)
    return file.getvalue()


def _change_pickle(data: bytes, dice: random.Random) -> bytes:
    place = dice.randrange(min(len(data), 2000) + 1)
    piece = dice.choice((
        bytes([dice.choice(INSTRUCTIONS)]),
        bytes([dice.choice(INSTRUCTIONS)]) * dice.choice((2, 100, 5000)),
        b"c" + dice.choice(NAMES) + dice.choice((b"", b")R", b"K\x05\x85R", b"\x8a\x05\xff\xff\xff\xff\x7f\x85R")),
        b"\x8a\x08" + struct.pack("<q", min(dice.choice(NUMBERS), 2**63 - 1)),
        b"J" + struct.pack("<i", min(dice.choice(NUMBERS), 2**31 - 1)),
        b"X" + struct.pack("<I", dice.choice(NUMBERS) % 2**32),
        b"r" + struct.pack("<I", dice.choice(NUMBERS) % 2**32),
    ))  # fmt: skip
    return data[:place] + piece + data[place + dice.choice((0, 0, 1, len(piece))) :]


_BYTES: tuple[Mutation, ...] = (_flip, _cut, _remove, _repeat, _put_number)
_HEADER: tuple[Mutation, ...] = (_change_header,) * 8 + (_change_header_size,)
_ARCHIVE: tuple[Mutation, ...] = (_change_index,) * 8
_PICKLE: tuple[Mutation, ...] = (_change_pickle,) * 8
