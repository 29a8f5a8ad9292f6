"""Open a checkpoint: its header at once, its tensors on demand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from ...architectures.blocks import Architecture
from ...architectures.detection import detect_architecture
from ...architectures.key_spelling import Spelling, spell_checkpoint, spell_vae
from ...architectures.keys import VAE_PREFIX, is_vae_key
from ...errors import CheckpointError
from .first_bytes import Content, describe_folder, recognise, refuse_name
from .hashes import remembered_sha256
from .model_file import Identity, ModelFile, Signature, read_signature
from .safetensors_header import read_safetensors_header
from .tensor_info import StoredTensor, TensorInfo

if TYPE_CHECKING:
    import torch

    from .tensor_data import TensorData

__all__ = ["Checkpoint", "Signature", "VaeFile", "checkpoint_files", "is_there", "read_signature"]

SAFETENSORS = (".safetensors", ".sft")
PICKLES = (".ckpt", ".pt", ".pth", ".bin")
SUFFIXES = SAFETENSORS + PICKLES


def checkpoint_files(folder: Path) -> Iterator[Path]:
    """List the checkpoints below a folder at any depth, by the ends of their names, sorted by path."""
    return (path for path in sorted(folder.rglob("*")) if path.suffix.lower() in SUFFIXES and path.is_file())


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
        warnings: In sentences, what of the file is not read and may be meant; empty for most files.
        metadata: The text fields of a safetensors header; empty for pickled files.

    Raises:
        CheckpointError: The file is missing, unreadable, damaged or something else, has another suffix, would run
            code, or holds a tensor in a form or dtype that is not supported.
    """

    path: Path
    tensors: Mapping[str, TensorInfo]
    file_keys: Mapping[str, str]
    renamings: tuple[str, ...]
    warnings: tuple[str, ...]
    metadata: Mapping[str, str]
    _stored: Mapping[str, StoredTensor]
    _sha256: str | None = None

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with suppress(OSError, ValueError):
            if self.path.is_dir():
                raise CheckpointError(describe_folder(self.path))
        self._file = ModelFile(self.path)
        if self.path.suffix.lower() not in SUFFIXES:
            raise refuse_name(self._file, SUFFIXES)
        in_file, notes, self.warnings = self._read_index()
        spelling = self._spell(in_file)
        self.file_keys = spelling.file_keys
        self._stored = {key: in_file[file_key] for key, file_key in self.file_keys.items()}
        self.tensors = {key: stored.info for key, stored in self._stored.items()}
        self.renamings = (*spelling.renamings, *notes)

    def _read_index(self) -> tuple[dict[str, StoredTensor], tuple[str, ...], tuple[str, ...]]:
        """Find the tensors by their keys in the file; with notes and warnings about what of it is not read."""
        if recognise(self._file) is Content.SAFETENSORS:
            in_file, self.metadata = read_safetensors_header(self._file)
            return in_file, (), ()
        from .pickles import read_pickled  # few files are pickles, and importing what reads them takes a while

        self.metadata = {}
        return read_pickled(self._file)

    def _spell(self, keys: Iterable[str]) -> Spelling:
        return spell_checkpoint(list(keys))

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; tensors that were read before stay valid."""
        self._file.close()

    @property
    def identity(self) -> Identity:
        """What tells the file from others, as it was when it was opened."""
        return self._file.identity

    @property
    def signature(self) -> Signature:
        """The size and modification time of the file when it was opened."""
        return self.identity.signature

    def has_changed(self) -> bool:
        """Tell whether another program has written to the file since it was opened.

        A file that was renamed, deleted or replaced by another is still there to be read, as long as it is open.
        """
        return self._file.has_changed()

    def remembered_sha256(self) -> str | None:
        """Give the SHA-256 of the file as it was when it was opened; None if it is not cached.

        What was found once is kept, also if the file at its path is another one by now.
        """
        self._sha256 = self._sha256 or remembered_sha256(self.path, self.signature)
        return self._sha256

    @property
    def name(self) -> str:
        """The file's name."""
        return self.path.name

    @property
    def files(self) -> tuple[Checkpoint, ...]:
        """The files that it is read from: itself."""
        return (self,)

    @property
    def base(self) -> Checkpoint:
        """The file whose keys and shapes it has: itself."""
        return self

    def read_nbytes(self, key: str) -> int:
        """Give the size of a tensor in bytes, as :meth:`data` gives its numbers."""
        return self.tensors[key].nbytes

    @cached_property
    def architecture(self) -> Architecture:
        """The architecture of the model.

        Raises:
            CheckpointError: The file is of another kind, or its architecture cannot be merged.
        """
        shapes = {key: info.shape for key, info in self.tensors.items()}
        return detect_architecture(shapes, name=str(self.path))

    def tensor(self, key: str) -> torch.Tensor:
        """Read a tensor into memory of its own: on the CPU, in the file's dtype and shape.

        Args:
            key: Its key in :attr:`tensors`.

        Raises:
            KeyError: The file has no such tensor.
            CheckpointError: The file cannot be read, has changed since it was opened, or is closed.
        """
        return self.data(key).tensor()

    def is_in_sequence(self, key: str) -> bool:
        """Tell whether a tensor's numbers lie in the file one after the other, as :meth:`read_into` reads them."""
        stored = self._stored[key]
        return stored.stride == stored.info.strides

    def read_into(self, key: str, start: int, buffer: memoryview) -> None:
        """Fill a buffer with bytes of a tensor that lies in sequence.

        Args:
            key: Its key in :attr:`tensors`.
            start: The first byte, counted from the start of the tensor.
            buffer: Bytes that can be written to.

        Raises:
            CheckpointError: The file cannot be read, has changed since it was opened, or is closed.
        """
        self._file.read(self._stored[key].start + start, buffer)

    def data(self, key: str) -> TensorData:
        """Give a tensor in the file, to be read piece by piece.

        Raises:
            KeyError: The file has no such tensor.
        """
        from .tensor_data import TensorData

        return TensorData(self._file, self._stored[key])


def is_there(path: Path) -> bool:
    """Tell whether a file exists.

    Raises:
        CheckpointError: The folder cannot be read.
    """
    try:
        return path.is_file()
    except OSError as exc:
        raise CheckpointError(f"Cannot open {path}: {exc.strerror or exc}.") from exc


class VaeFile(Checkpoint):
    """The VAE of a file, with the keys of a whole checkpoint.

    The file can be a whole checkpoint, or only a VAE, whose keys have no prefix.

    Raises:
        CheckpointError: The file cannot be read, or has no VAE in the original layout.
    """

    def _spell(self, keys: Iterable[str]) -> Spelling:
        """Keep the VAE alone."""
        spelling = spell_vae(list(keys))
        vae = {key: file_key for key, file_key in spelling.file_keys.items() if is_vae_key(key)}
        if not vae and any("decoder.up_blocks." in key for key in keys):
            raise CheckpointError(f"{self.path} has a VAE in diffusers layout; use one in the original layout.")
        if VAE_PREFIX + "decoder.conv_in.weight" not in vae:
            raise CheckpointError(f"{self.path} has no VAE.")
        return Spelling(vae, spelling.renamings)
