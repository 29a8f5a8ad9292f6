"""What a file is, from its first bytes: a checkpoint of either kind, or something else, in words that help."""

from __future__ import annotations

import codecs
import json
import re
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from ...errors import CheckpointError
from .model_file import ModelFile

_LOOK = 4096
LARGEST_HEADER = 100_000_000
"""The largest header that safetensors reads, in bytes."""
_UNFINISHED = (".crdownload", ".part", ".partial", ".download", ".aria2", ".incomplete", ".opdownload", ".tmp", ".!ut")
_AGAIN = "download it again"
_UNKNOWN = "is damaged, or no checkpoint"
_OLD_PICKLE = b"L119547037146038801333356L\n"
"""How torch's files began before zip archives, in the oldest protocols of pickles, which are text."""


class Content(Enum):
    """The kinds of checkpoint files."""

    SAFETENSORS = ".safetensors"
    PICKLE = ".ckpt"


class _Stranger(NamedTuple):
    """A kind of file that is no checkpoint: how it begins, what it is, what to do."""

    start: bytes
    kind: str
    advice: str


_UNPACK = "unpack it, and use the model in it"
_STRANGERS = (
    _Stranger(b"GGUF", "a GGUF file, whose numbers are packed", "use the .safetensors file of the model"),
    _Stranger(
        b"version https://git-lfs", "a Git LFS pointer, not the model", "run git lfs pull, or download the file itself"
    ),
    _Stranger(b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    _Stranger(b"Rar!\x1a\x07", "a RAR archive", _UNPACK),
    _Stranger(b"\x1f\x8b", "a gzip archive", _UNPACK),
    _Stranger(b"\xfd7zXZ\x00", "an xz archive", _UNPACK),
    _Stranger(b"\x28\xb5\x2f\xfd", "a zstd archive", _UNPACK),
    _Stranger(b"BZh", "a bzip2 archive", _UNPACK),
    _Stranger(b"PK\x05\x06", "an empty zip archive", _AGAIN),
    _Stranger(b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes it", "use a .safetensors file of the model"),
    _Stranger(b"\x93NUMPY", "an array of NumPy", "use a .safetensors file of the model"),
    _Stranger(b"\x89PNG\r\n", "an image (PNG)", "a model is needed here"),
    _Stranger(b"\xff\xd8\xff", "an image (JPEG)", "a model is needed here"),
    _Stranger(b"RIFF", "an image or sound (RIFF)", "a model is needed here"),
    _Stranger(b"GIF8", "an image (GIF)", "a model is needed here"),
    _Stranger(b"%PDF", "a PDF file", "a model is needed here"),
    _Stranger(b"L\x00\x00\x00\x01\x14\x02\x00", "a shortcut of Windows", "name the file that it leads to"),
    _Stranger(b"MZ", "a program for Windows", "do not run it; a model is needed here"),
)
_TAR = (257, b"ustar")
_ONNX = re.compile(rb"\x08[\x01-\x14](?:\x12|.{0,40}(?:onnx|pytorch))", re.DOTALL)
_PAGE = re.compile(r"\s*<(?:!doctype|html|head|body|\?xml|!--)", re.IGNORECASE)


def recognise(file: ModelFile) -> Content:
    """Tell from its first bytes which kind of checkpoint a file is; its name says nothing.

    Raises:
        CheckpointError: The file cannot be read, or is something else; the message says what, and what to do.
    """
    found = _look(file)
    if isinstance(found, Content):
        return found
    raise CheckpointError(f"{file.path} {found}.")


def _look(file: ModelFile) -> Content | str:
    """Tell the kind of checkpoint that a file is, or say what else it is."""
    start = file.read_bytes(0, min(_LOOK, file.identity.size))
    # first, since a header of 640 bytes begins as a pickle of protocol 2 does
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= LARGEST_HEADER:
        return Content.SAFETENSORS
    if start.startswith((b"PK\x03\x04", _OLD_PICKLE)) or (start[:1] == b"\x80" and start[1:2] <= b"\x05"):
        return Content.PICKLE
    if not any(start):
        return f"{'begins with nothing but zeros' if start else 'is empty'}: the download failed; {_AGAIN}"
    return _describe_stranger(start)


def _describe_stranger(start: bytes) -> str:
    found = next((stranger for stranger in _STRANGERS if start.startswith(stranger.start)), None)
    if found is not None:
        return f"is {found.kind}: {found.advice}"
    if start[_TAR[0] :].startswith(_TAR[1]):
        return f"is a tar archive: {_UNPACK}"
    if _ONNX.match(start):
        return "is an ONNX file: use the .safetensors file of the model"
    text = _as_text(start)
    return _UNKNOWN if text is None else f"is {_describe_text(text)}"


def _as_text(start: bytes) -> str | None:
    is_utf_16 = start[:2] in (b"\xff\xfe", b"\xfe\xff")
    decode = codecs.utf_16_decode if is_utf_16 else codecs.utf_8_decode  # these need no import while a file is read
    text = decode(start, "replace")[0].removeprefix("\ufeff").rstrip("\ufffd")  # the last character can be cut in two
    odd = sum(not character.isprintable() and not character.isspace() for character in text)
    return None if "\ufffd" in text or odd else text


def _describe_text(text: str) -> str:
    if _PAGE.match(text):
        return "a web page, not the model: download the file itself from there; some sites ask for a login first"
    if text.lstrip().startswith(("{", "[")):
        return _describe_json(text)
    # what it says is not quoted: who uses the page over a network could read other files so
    return f"a text, not the model: {_AGAIN}"


def _describe_json(text: str) -> str:
    if '"weight_map"' in text:
        return "the index of a model in several files: use one file with all of its tensors"
    if '"_class_name"' in text or '"_diffusers_version"' in text:
        return "a configuration file, not the model: use the .safetensors file of the model"
    is_recipe = '"model_a"' in text or ('"mode"' in text and '"alpha"' in text)
    kind = "a recipe, not a model: give it as --recipe" if is_recipe else None
    return kind or f"a text in JSON, not the model: {_AGAIN}"


def refuse_name(file: ModelFile, suffixes: tuple[str, ...]) -> CheckpointError:
    """Make the error for a file whose name is not that of a checkpoint.

    Args:
        file: The file.
        suffixes: The ends of names of checkpoints.
    """
    path = file.path
    if path.suffix.lower() in _UNFINISHED:
        return CheckpointError(f"{path} is an unfinished download: let it finish, or {_AGAIN}.")
    found = _look(file)
    if isinstance(found, Content):
        return CheckpointError(f"{path} holds a checkpoint, but is not called one: let its name end in {found.value}.")
    if found == _UNKNOWN:
        found = f"is not a checkpoint: names end in one of {', '.join(suffixes)}"
    return CheckpointError(f"{path} {found}.")


def describe_folder(path: Path) -> str:
    """Say what a folder is that was given as a model."""
    if (path / "model_index.json").is_file() or (path / "unet").is_dir():
        return f"{path} is a folder in diffusers layout: use the model as one .safetensors file."
    return f"{path} is a folder, not a file: name the model in it."


def explain_safetensors(file: ModelFile, reason: str) -> str:
    """Say why a safetensors file cannot be read: most often because a part of it is missing.

    Args:
        file: The file.
        reason: What its reader found.
    """
    size, needed = file.identity.size, _needed_size(file)
    if needed > size:
        return f"{file.path} is incomplete: it has {_gigabytes(size)} of {_gigabytes(needed)}; {_AGAIN}."
    return f"{file.path} is damaged ({reason}): {_AGAIN}."


def _needed_size(file: ModelFile) -> int:
    """Give the size that a file's header asks for; that of the header, if not even that is there; else 0."""
    size = file.identity.size
    start = 8 + int.from_bytes(file.read_bytes(0, min(8, size)), "little")
    if start > size:
        return start
    try:
        header = json.loads(file.read_bytes(8, start - 8))
        ends = [entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"]
        return start + max((end for end in ends if isinstance(end, int)), default=0)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return 0


def _gigabytes(size: int) -> str:
    if size >= 1e8:
        return f"{size / 1e9:.2f} GB"
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size:,} bytes"
