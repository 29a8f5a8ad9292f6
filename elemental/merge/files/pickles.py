"""Locate the tensors of a pickled checkpoint in its file, without loading them and without running code.

``torch.save`` writes two kinds of files: since torch 1.6 an uncompressed zip archive with an index, ``data.pkl``, and a
file of numbers for each storage; before, an index that is followed by the storages. Source: torch/serialization.py of
github.com/pytorch/pytorch.
"""

from __future__ import annotations

import io
import math
import re
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeGuard

from ...errors import CheckpointError
from .model_file import ModelFile
from .pickle_opcodes import Call, Damaged, Forbidden, Name, Reference, read_pickle
from .pickled_models import choose_model
from .tensor_info import BITS, LARGEST, LONGEST_KEY, MOST_DIMENSIONS, StoredTensor, TensorInfo

_ZIP_START = b"PK\x03\x04"
_OLD_START = 0x1950A86A20F9469CFC6C
_STORAGES = {
    "Double": "F64", "Float": "F32", "Half": "F16", "BFloat16": "BF16", "Long": "I64", "Int": "I32", "Short": "I16",
    "Char": "I8", "Byte": "U8", "Bool": "BOOL",
}  # fmt: skip
_FORMATS = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2",
    "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip
_TENSORS = {"_rebuild_tensor": 4, "_rebuild_tensor_v2": 6, "_rebuild_tensor_v3": 7}
_MODELS = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")


class Pickled(NamedTuple):
    """The model in a pickle.

    Attributes:
        tensors: Where its tensors lie, by key.
        notes: In words, which dictionaries of the file are joined or left out.
        warnings: In sentences, which of those left out may be meant.
    """

    tensors: dict[str, StoredTensor]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


def read_pickled(model: ModelFile) -> Pickled:
    """Locate the tensors of a file that ``torch.save`` wrote, by key.

    Of several dictionaries in it, the model's is used (see :mod:`.pickled_models`). Every tensor lies within the file.

    Raises:
        CheckpointError: The file cannot be read, is damaged or incomplete, holds no tensors by name, or two models that
            might be meant; holds a tensor in a form or number format that is not known; or would import what no
            checkpoint needs.
    """
    path, file = model.path, model.stream()
    try:
        zipped = file.read(4) == _ZIP_START
        content, storages = _read_zip(file) if zipped else _read_old(file)
        chosen = choose_model(content, path)
        return Pickled(_place(chosen.tensors, storages, path), chosen.notes, chosen.warnings)
    except Forbidden as exc:
        raise CheckpointError(
            f"{path} was not loaded: its pickle wants to run code ({exc}).\n"
            "Only files of tensors and plain values are read; a .safetensors copy of the model is safe."
        ) from exc
    except Damaged as exc:
        raise CheckpointError(f"{path} is damaged or incomplete, or no checkpoint: {exc}.") from exc


class _Piece(NamedTuple):
    """Some bytes of a file."""

    start: int
    size: int


_Storages = Mapping[str, _Piece]


def _read_zip(file: io.BufferedReader) -> tuple[object, _Storages]:
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except zipfile.BadZipFile as exc:
        raise Damaged("the end of its zip archive is missing; download it again") from exc
    except (NotImplementedError, ValueError, EOFError, struct.error) as exc:
        raise Damaged(str(exc)) from exc
    indices = [entry.filename for entry in entries if re.fullmatch(r"[^/]+/data\.pkl", entry.filename)]
    if len(indices) != 1:
        inside = [entry.filename for entry in entries if entry.filename.lower().endswith(_MODELS)]
        raise Damaged(f"a zip archive; unpack it ({inside[0]})" if inside else "a zip archive of other things")
    pieces = {entry.filename: _stored_piece(entry, file) for entry in entries}
    folder = indices[0].removesuffix("data.pkl")
    if _bytes_of(pieces.get(f"{folder}byteorder", _Piece(0, 0)), file) == b"big":
        raise Damaged("its numbers are in an order of bytes (big endian) that is not read")
    content = read_pickle(io.BytesIO(_bytes_of(pieces[indices[0]], file)))
    data = f"{folder}data/"
    return content, {name.removeprefix(data): piece for name, piece in pieces.items() if name.startswith(data)}


def _stored_piece(entry: zipfile.ZipInfo, file: io.BufferedReader) -> _Piece:
    """Find where the bytes of an archive's entry lie; they are preceded by a header of its own."""
    if entry.compress_type != zipfile.ZIP_STORED:
        raise Damaged("its archive is compressed, as torch writes none")
    header = _bytes_of(_Piece(entry.header_offset, 30), file)
    if not header.startswith(_ZIP_START):
        raise Damaged(f"{entry.filename} is not where its archive says")
    name, extra = struct.unpack("<HH", header[26:30])
    piece = _Piece(entry.header_offset + 30 + name + extra, entry.file_size)
    if piece.start + piece.size > _size_of(file):
        raise Damaged(f"{entry.filename} is cut off")
    return piece


def _bytes_of(piece: _Piece, file: io.BufferedReader) -> bytes:
    if not 0 <= piece.start <= piece.start + piece.size <= _size_of(file):
        raise Damaged("it is cut off")
    file.seek(piece.start)
    return file.read(piece.size)


def _size_of(file: io.BufferedReader) -> int:
    return file.seek(0, io.SEEK_END)


def _read_old(file: io.BufferedReader) -> tuple[object, _Storages]:
    if not _size_of(file):
        raise Damaged("it is empty")
    file.seek(0)
    if read_pickle(file) != _OLD_START:
        raise Damaged("not one that torch wrote")
    read_pickle(file)  # the version of the format, of which there is one
    system = read_pickle(file)
    if isinstance(system, dict) and system.get("little_endian") is False:
        raise Damaged("its numbers are in an order of bytes (big endian) that is not read")
    content, names = read_pickle(file), read_pickle(file)
    return content, _old_pieces(names, _number_sizes(content), file)


def _old_pieces(names: object, sizes: Mapping[str, int], file: io.BufferedReader) -> dict[str, _Piece]:
    """Find the storages behind an index; each begins with the count of its numbers."""
    pieces = {}
    start, end = file.tell(), _size_of(file)
    for name in names if isinstance(names, list) else ():
        file.seek(start)
        count = file.read(8)
        if not isinstance(name, str) or name not in sizes or len(count) < 8:
            raise Damaged("its numbers are not where its index says")
        piece = _Piece(start + 8, struct.unpack("<q", count)[0] * sizes[name])
        start = piece.start + piece.size
        if not piece.start <= start <= end:
            raise Damaged("it is cut off")
        pieces[name] = piece
    return pieces


def _number_sizes(content: object) -> dict[str, int]:
    """Give the bytes per number of each storage that is referred to."""
    sizes: dict[str, int] = {}
    seen: set[int] = set()
    waiting = [content]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Reference):
            storage = _storage(value)
            sizes[storage.name] = storage.number_size
        elif isinstance(value, (list, tuple, dict, Call)) and id(value) not in seen:
            seen.add(id(value))
            inner = value.values() if isinstance(value, dict) else value.arguments if isinstance(value, Call) else value
            waiting.extend(inner)
    return sizes


def _place(state: Mapping[str, Call], storages: _Storages, path: Path) -> dict[str, StoredTensor]:
    placed = {}
    for key, call in state.items():
        if len(key) > LONGEST_KEY:
            raise Damaged(f"it has a name of {len(key):,} characters")
        count = _TENSORS.get(call.function.name)
        if count is None:
            raise CheckpointError(f"{path} holds {key} in a form without plain numbers (sparse, or empty).")
        if len(call.arguments) < count:
            raise Damaged(f"{key} is incomplete")
        placed[key] = _place_tensor(key, call.arguments, storages, path)
    return placed


def _place_tensor(key: str, arguments: tuple[object, ...], storages: _Storages, path: Path) -> StoredTensor:
    """Find a tensor in its storage; its arguments are storage, offset, shape, stride, two others, number format."""
    reference, offset, shape, stride = arguments[0], arguments[1:2], arguments[2], arguments[3]
    if not isinstance(reference, Reference) or not _whole(offset) or not _whole(shape) or not _whole(stride):
        raise Damaged(f"{key} has no place")
    storage = _storage(reference)
    dtype = arguments[6] if len(arguments) > 6 else None
    named = _FORMATS.get(dtype.name, dtype.name) if isinstance(dtype, Name) else storage.format
    if named not in BITS:
        raise CheckpointError(f"{path} holds {key} as {named}, which this program does not support.")
    info = TensorInfo(named, shape)
    size = BITS[named] // 8
    piece = storages.get(storage.name)
    last = sum((count - 1) * step for count, step in zip(shape, stride, strict=False)) if info.numel else -1
    if piece is None or len(shape) != len(stride) or math.prod(count or 1 for count in shape) > LARGEST:
        raise Damaged(f"{key} has no place")
    if (offset[0] + last + 1) * size > piece.size:
        raise Damaged(f"{key} is cut off")
    if info.numel > last + 1:
        raise CheckpointError(f"{path} holds {key} in a form without plain numbers (one for many).")
    # of a dimension that has no neighbours anything may be said
    strides = zip(shape, stride, info.strides, strict=True)
    steps = tuple(step if info.numel and count > 1 else usual for count, step, usual in strides)
    return StoredTensor(info, steps, piece.start + offset[0] * size, (last + 1) * size)


def _whole(numbers: object) -> TypeGuard[tuple[int, ...]]:
    if not isinstance(numbers, tuple) or len(numbers) > MOST_DIMENSIONS:
        return False
    return all(isinstance(number, int) and 0 <= number <= LARGEST for number in numbers)


@dataclass(frozen=True)
class _Storage:
    """Some numbers of one format.

    Attributes:
        name: Under which they are kept.
        format: As a safetensors header names it; torch's own name if it has none, and empty for plain bytes.
    """

    name: str
    format: str

    @property
    def number_size(self) -> int:
        return BITS.get(self.format, 8) // 8


def _storage(reference: Reference) -> _Storage:
    """Read what a tensor says of its storage: "storage", type, name, device, count of numbers, and perhaps a view."""
    content = reference.content
    if not isinstance(content, tuple) or not 5 <= len(content) <= 6 or content[0] != "storage":
        raise Damaged("it refers to what is no storage")
    kind, name = content[1], content[2]
    if not isinstance(kind, Name) or not isinstance(name, str) or content[5:] not in ((), (None,)):
        raise Damaged("it refers to what is no storage")
    number = kind.name.removesuffix("Storage")
    return _Storage(name, "" if number == "Untyped" else _STORAGES.get(number, number))
