"""Read the header of a safetensors file, and check that every tensor in it lies in the file.

Source of the format and of the checks: github.com/huggingface/safetensors. Its own reader maps the file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from operator import itemgetter
from typing import Any, NamedTuple, NoReturn

from ...errors import CheckpointError
from .first_bytes import LARGEST_HEADER, explain_safetensors
from .model_file import ModelFile
from .tensor_info import BITS, LARGEST, LONGEST_KEY, MOST_DIMENSIONS, StoredTensor, TensorInfo

_METADATA = "__metadata__"
_AS_ZEROS = bytes.maketrans(b"123456789", b"000000000")
_MANY_DIGITS = b"0" * len(str(LARGEST))


class _Layout(NamedTuple):
    """Number format and shape of a tensor, its strides in numbers, and its size in bytes."""

    info: TensorInfo
    strides: tuple[int, ...]
    nbytes: int


def read_safetensors_header(file: ModelFile) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """Read where the tensors of a safetensors file are, in the order of the file, and its text fields.

    Raises:
        CheckpointError: The file cannot be read, is damaged, or holds a tensor in a number format that is not
            supported.
    """
    size = file.identity.size
    if size < 8:
        raise _damaged(file, "it is too short for a header")
    length = int.from_bytes(file.read_bytes(0, 8), "little")
    if length > min(LARGEST_HEADER, size - 8):
        raise _damaged(file, "its header is cut off" if length <= LARGEST_HEADER else "its header is too large")
    try:
        header = _parse(file.read_bytes(8, length))
        return _place(header, file, start=8 + length), _text_fields(header.get(_METADATA))
    except (ValueError, RecursionError) as exc:
        raise _damaged(file, str(exc)) from exc


def _damaged(file: ModelFile, reason: str) -> CheckpointError:
    return CheckpointError(explain_safetensors(file, reason))


def _parse(data: bytes) -> dict[str, Any]:
    # with fewer digits in a row than the largest number has, as in all real files, the parser's own numbers will do
    whole = _small if _MANY_DIGITS in data.translate(_AS_ZEROS) else int
    header = json.loads(
        data.decode("utf-8"), object_pairs_hook=_unique, parse_int=whole, parse_float=_refuse, parse_constant=_refuse
    )
    if not isinstance(header, dict):
        raise ValueError("its header is no list of tensors")
    return header


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("its header has a name twice")
    return found


def _small(text: str) -> int:
    if len(text) > len(str(LARGEST)):
        raise ValueError("its header has a number that is too large")
    return int(text)


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"its header has {text[:20]} in place of a whole number")


def _text_fields(fields: object) -> dict[str, str]:
    if not isinstance(fields, dict):
        if fields is None:
            return {}
        raise ValueError("its text fields are none")
    if not all(isinstance(value, str) for value in fields.values()):
        raise ValueError("one of its text fields is no text")
    return fields


def _place(header: Mapping[str, Any], file: ModelFile, *, start: int) -> dict[str, StoredTensor]:
    """Find the tensors in the file, which they must fill one after the other."""
    entries = {key: _offsets(key, entry) for key, entry in header.items() if key != _METADATA}
    placed: dict[str, StoredTensor] = {}
    layouts: dict[tuple[str | int, ...], _Layout] = {}
    end = 0
    for key, (first, last) in sorted(entries.items(), key=itemgetter(1)):
        info, strides, size = _layout(key, header[key], layouts, file)
        if first != end or last - first != size:
            raise ValueError(f"{key} is not where its header says")
        placed[key] = StoredTensor(info, strides, start + first, size)
        end = last
    if start + end != file.identity.size:
        raise ValueError("its numbers are cut off" if start + end > file.identity.size else "it is longer than it says")
    return placed


def _offsets(key: str, entry: object) -> tuple[int, int]:
    if len(key) > LONGEST_KEY:
        raise ValueError(f"it has a name of {len(key):,} characters")
    offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
    if isinstance(offsets, list) and len(offsets) == 2:
        first, last = offsets
        if type(first) is int and type(last) is int and 0 <= first <= LARGEST and 0 <= last <= LARGEST:
            return first, last
    raise ValueError(f"{key} has no place")


def _layout(
    key: str, entry: Mapping[str, Any], known: dict[tuple[str | int, ...], _Layout], file: ModelFile
) -> _Layout:
    """Give the layout of a tensor; few of a file's thousands differ, so each is checked and computed once."""
    dtype, shape = entry.get("dtype"), entry.get("shape")
    if not isinstance(shape, list) or list(map(type, shape)).count(int) < len(shape):
        raise ValueError(f"{key} has no shape")
    described = (dtype, *shape)
    found = known.get(described) if isinstance(dtype, str) else None
    if found is None:
        info = _info(key, dtype, tuple(shape), file)
        found = known[described] = _Layout(info, info.strides, info.nbytes)
    return found


def _info(key: str, dtype: object, shape: tuple[int, ...], file: ModelFile) -> TensorInfo:
    if len(shape) > MOST_DIMENSIONS or not all(0 <= size <= LARGEST for size in shape):
        raise ValueError(f"{key} has no shape")
    if not isinstance(dtype, str):
        raise ValueError(f"{key} has no number format")
    if dtype not in BITS:
        raise CheckpointError(f"{file.path} holds {key} as {dtype[:40]}, which this program does not support.")
    return TensorInfo(dtype, shape)
