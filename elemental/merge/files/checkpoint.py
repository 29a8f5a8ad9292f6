"""Open a checkpoint: its header at once, its tensors on demand."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

from safetensors import SafetensorError, safe_open

from ...architectures.blocks import Architecture
from ...architectures.detection import detect_architecture
from ...architectures.key_spelling import Spelling, spell_checkpoint, spell_vae
from ...architectures.keys import VAE_PREFIX, is_vae_key
from ...errors import CheckpointError
from .first_bytes import Content, describe_folder, explain_safetensors, recognise, refuse_name
from .pickles import StoredTensor, read_pickled
from .tensor_info import BITS, TensorInfo

if TYPE_CHECKING:
    import torch

SAFETENSORS = (".safetensors", ".sft")
PICKLES = (".ckpt", ".pt", ".pth", ".bin")
SUFFIXES = SAFETENSORS + PICKLES


def checkpoint_files(folder: Path) -> Iterator[Path]:
    """List the checkpoints below a folder at any depth, by the ends of their names, sorted by path."""
    return (path for path in sorted(folder.rglob("*")) if path.suffix.lower() in SUFFIXES and path.is_file())


class Signature(NamedTuple):
    """Size in bytes and modification time in nanoseconds, to detect changes of a file."""

    size: int
    mtime: int


class Checkpoint:
    """A checkpoint file, open for reading; a context manager.

    Opening reads only the header, or the index of a pickled file; it needs neither torch nor memory for the tensors. No
    code in a pickle is run.

    Args:
        path: The file, called .safetensors, .sft, .ckpt, .pt, .pth or .bin; it is read by its content.

    Attributes:
        path: The file.
        tensors: Dtype and shape of each tensor, in the order of the file; by key in this program's spelling, whatever
            the file's (see :mod:`...architectures.key_spelling`).
        file_keys: The key in the file for each of these keys.
        renamings: In words, how the file spells its keys otherwise, and what of it is not read; empty for most files.
        metadata: The text fields of a safetensors header; empty for pickled files.
        signature: Size and modification time when it was opened.

    Raises:
        CheckpointError: The file is missing, unreadable, damaged or something else, has another suffix, would run
            code, or holds a tensor in a form or dtype that is not supported.
    """

    path: Path
    tensors: Mapping[str, TensorInfo]
    file_keys: Mapping[str, str]
    renamings: tuple[str, ...]
    metadata: Mapping[str, str]
    signature: Signature
    _mapped: Any = None
    _stored: Mapping[str, StoredTensor] | None = None

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with suppress(OSError, ValueError):
            if self.path.is_dir():
                raise CheckpointError(describe_folder(self.path))
        self.signature = read_signature(self.path)
        if self.path.suffix.lower() not in SUFFIXES:
            raise refuse_name(self.path, self.signature.size, SUFFIXES)
        in_file, left_out = self._read_index()
        spelling = self._spell(in_file)
        self.file_keys = spelling.file_keys
        self.tensors = {key: in_file[file_key] for key, file_key in self.file_keys.items()}
        self.renamings = (*spelling.renamings, *left_out)

    def _read_index(self) -> tuple[Mapping[str, TensorInfo], tuple[str, ...]]:
        """Read dtype and shape of each tensor by its key in the file; say what of it is not read."""
        if recognise(self.path, self.signature.size) is Content.SAFETENSORS:
            in_file, self.metadata = _read_header(self.path, self.signature.size)
            return in_file, ()
        self.metadata = {}
        self._stored, left_out = read_pickled(self.path)
        return {key: stored.info for key, stored in self._stored.items()}, left_out

    def _spell(self, tensors: Mapping[str, TensorInfo]) -> Spelling:
        return spell_checkpoint(list(tensors))

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; tensors that were read before stay valid."""
        self._mapped = None

    @property
    def name(self) -> str:
        """The file's name."""
        return self.path.name

    @cached_property
    def architecture(self) -> Architecture:
        """The architecture of the model.

        Raises:
            CheckpointError: The file is of another kind, or its architecture cannot be merged.
        """
        shapes = {key: info.shape for key, info in self.tensors.items()}
        return detect_architecture(shapes, name=str(self.path))

    def tensor(self, key: str) -> torch.Tensor:
        """Read a tensor by its key in :attr:`tensors`: on the CPU, in the file's dtype and shape; do not modify it.

        It is a view of the memory-mapped file, or a copy if its start is not aligned.

        Raises:
            KeyError: The file has no such tensor.
            CheckpointError: The file has changed since it was opened.
        """
        # the reader of safetensors leaks some bytes for each tensor, which add up in hundreds of merges
        if self._stored is None:
            self._stored = self._locate_tensors()
        return self._view(self._stored[self.file_keys[key]])

    def _locate_tensors(self) -> dict[str, StoredTensor]:
        """Locate the tensors of a safetensors file; its header was checked when it was opened."""
        try:
            with self.path.open("rb") as file:
                size = int.from_bytes(file.read(8), "little")
                header = json.loads(file.read(size)) if size < self.signature.size else {}
            header.pop("__metadata__", None)
            starts = {key: 8 + size + entry["data_offsets"][0] for key, entry in header.items()}
            infos = {key: TensorInfo(entry["dtype"], tuple(entry["shape"])) for key, entry in header.items()}
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as exc:
            raise CheckpointError(f"{self.path} changed since it was opened.") from exc
        return {key: StoredTensor(info, info.strides, starts[key], info.nbytes) for key, info in infos.items()}

    def _view(self, stored: StoredTensor) -> torch.Tensor:
        """Give a tensor as a view of the mapped file."""
        import torch

        from .dtypes import TORCH_DTYPES

        if self._mapped is None:
            if read_signature(self.path) != self.signature:
                raise CheckpointError(f"{self.path} changed since it was opened.")
            try:
                self._mapped = torch.from_file(str(self.path), size=self.signature.size, dtype=torch.uint8)
            except RuntimeError as exc:
                raise CheckpointError(f"{self.path} changed since it was opened.") from exc
        data: torch.Tensor = self._mapped[stored.start : stored.start + stored.extent]
        dtype = TORCH_DTYPES[stored.info.dtype]
        if stored.start % dtype.itemsize:
            data = data.clone()  # torch cannot view unaligned numbers
        return data.view(dtype).as_strided(stored.info.shape, stored.stride)


def is_there(path: Path) -> bool:
    """Tell whether a file exists.

    Raises:
        CheckpointError: The folder cannot be read.
    """
    try:
        return path.is_file()
    except OSError as exc:
        raise CheckpointError(f"Cannot open {path}: {exc.strerror or exc}.") from exc


def read_signature(path: Path) -> Signature:
    """Read a file's size and modification time.

    Raises:
        CheckpointError: The file does not exist, or cannot be read.
    """
    try:
        stat = path.stat()
    except (OSError, ValueError) as exc:  # a name with a null character is a ValueError
        raise CheckpointError(f"Cannot open {path}: {getattr(exc, 'strerror', None) or exc}.") from exc
    if not path.is_file():
        raise CheckpointError(f"Cannot open {path}: it is not a file.")
    return Signature(stat.st_size, stat.st_mtime_ns)


class VaeFile(Checkpoint):
    """The VAE of a file, with the keys of a whole checkpoint.

    The file can be a whole checkpoint, or only a VAE, whose keys have no prefix.

    Raises:
        CheckpointError: The file cannot be read, or has no VAE in the original layout.
    """

    def _spell(self, tensors: Mapping[str, TensorInfo]) -> Spelling:
        """Keep the VAE alone."""
        spelling = spell_vae(list(tensors))
        vae = {key: file_key for key, file_key in spelling.file_keys.items() if is_vae_key(key)}
        if not vae and any("decoder.up_blocks." in key for key in tensors):
            raise CheckpointError(f"{self.path} has a VAE in diffusers layout; use one in the original layout.")
        if VAE_PREFIX + "decoder.conv_in.weight" not in vae:
            raise CheckpointError(f"{self.path} has no VAE.")
        return Spelling(vae, spelling.renamings)


def _read_header(path: Path, size: int) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    try:
        path.open("rb").close()  # safetensors reports a file without read permission as missing
        # "numpy" needs no torch; no tensor is read here
        with safe_open(path, framework="numpy") as file:
            tensors = {}
            for key in file.offset_keys() if hasattr(file, "offset_keys") else file.keys():
                entry = file.get_slice(key)
                tensors[key] = TensorInfo(entry.get_dtype(), tuple(entry.get_shape()))
            metadata = dict(file.metadata() or {})
    except OSError as exc:
        raise CheckpointError(f"Cannot read {path}: {exc.strerror or exc}.") from exc
    except (SafetensorError, ValueError, OverflowError) as exc:
        raise CheckpointError(explain_safetensors(path, size, exc)) from exc
    _check_formats(tensors, path)
    return tensors, metadata


def _check_formats(tensors: Mapping[str, TensorInfo], path: Path) -> None:
    for key, info in tensors.items():
        if info.dtype not in BITS:
            raise CheckpointError(f"{path} holds {key} as {info.dtype}, which this program does not support.")
