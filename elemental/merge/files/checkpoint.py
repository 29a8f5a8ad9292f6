"""Open one checkpoint: its header at once, its tensors only when they are asked for."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

from safetensors import SafetensorError, safe_open

from ...architectures.blocks import Architecture
from ...architectures.detection import detect_architecture
from ...architectures.keys import VAE_PREFIX
from ...errors import CheckpointError
from .pickles import StoredTensor, read_pickled
from .tensor_info import BITS, TensorInfo

if TYPE_CHECKING:
    import torch

SAFETENSORS = (".safetensors", ".sft")
PICKLES = (".ckpt", ".pt", ".pth", ".bin")
SUFFIXES = SAFETENSORS + PICKLES


def checkpoint_files(folder: Path) -> Iterator[Path]:
    """List the files below a folder, at any depth, that are checkpoints by their names, in order of their paths."""
    return (path for path in sorted(folder.rglob("*")) if path.suffix.lower() in SUFFIXES and path.is_file())


class Signature(NamedTuple):
    """What tells whether a file has changed: size in bytes, modification time in nanoseconds."""

    size: int
    mtime: int


class Checkpoint:
    """A checkpoint file, open for reading; a context manager.

    Opening reads the header alone, of a pickled file its index; neither needs memory for the tensors, or torch. Nothing
    that stands in a pickle is run.

    Args:
        path: The file; the end of its name says how it is read: .safetensors, .sft, .ckpt, .pt, .pth or .bin.

    Attributes:
        path: The file.
        tensors: Number format and shape of every tensor, in the order in which they lie in the file.
        metadata: The text fields of a safetensors header; empty for pickled files.
        signature: Size and modification time when it was opened.

    Raises:
        CheckpointError: The file is missing, unreadable, damaged, named otherwise, or holds more than tensors, or a
            tensor in a form or number format that is not known.
    """

    path: Path
    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]
    signature: Signature
    _mapped: Any = None
    _stored: Mapping[str, StoredTensor] | None = None

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.signature = read_signature(self.path)
        if self.path.suffix.lower() in SAFETENSORS:
            self.tensors, self.metadata = _read_header(self.path)
        elif self.path.suffix.lower() in PICKLES:
            self._stored = read_pickled(self.path)
            self.tensors, self.metadata = {key: stored.info for key, stored in self._stored.items()}, {}
        else:
            raise CheckpointError(f"{self.path} is no checkpoint: its name ends in none of {', '.join(SUFFIXES)}.")

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file; tensors that were read before stay valid."""
        self._mapped = None

    @property
    def name(self) -> str:
        """The file's name."""
        return self.path.name

    @cached_property
    def architecture(self) -> Architecture:
        """What kind of model it is.

        Raises:
            CheckpointError: None that can be merged.
        """
        shapes = {key: info.shape for key, info in self.tensors.items()}
        return detect_architecture(shapes, name=str(self.path))

    def tensor(self, key: str) -> torch.Tensor:
        """Give one tensor, on the CPU, in the file's number format and shape; do not write to it.

        It lies in the mapped file; one that begins at no multiple of its numbers' size is copied.

        Raises:
            KeyError: The file has no such tensor.
            CheckpointError: The file has changed since it was opened.
        """
        # safetensors' own reader loses some bytes at each tensor, which hundreds of merges in one process would feel
        if self._stored is None:
            self._stored = self._find_tensors()
        return self._numbers(self._stored[key])

    def _find_tensors(self) -> dict[str, StoredTensor]:
        """Find the tensors of a safetensors file, whose header was found right when it was opened."""
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

    def _numbers(self, stored: StoredTensor) -> torch.Tensor:
        """Give the numbers of a tensor, where they lie in the mapped file."""
        import torch

        from .dtypes import TORCH_DTYPES

        if self._mapped is None:
            if read_signature(self.path) != self.signature:
                raise CheckpointError(f"{self.path} changed since it was opened.")
            try:
                self._mapped = torch.from_file(str(self.path), size=self.signature.size, dtype=torch.uint8)
            except RuntimeError as exc:
                raise CheckpointError(f"{self.path} changed since it was opened.") from exc
        found: torch.Tensor = self._mapped[stored.start : stored.start + stored.extent]
        dtype = TORCH_DTYPES[stored.info.dtype]
        if stored.start % dtype.itemsize:
            found = found.clone()  # numbers that begin anywhere cannot be looked at where they are
        return found.view(dtype).as_strided(stored.info.shape, stored.stride)


def is_there(path: Path) -> bool:
    """Tell whether there is such a file.

    Raises:
        CheckpointError: It lies where nobody may look.
    """
    try:
        return path.is_file()
    except OSError as exc:
        raise CheckpointError(f"Cannot open {path}: {exc.strerror or exc}.") from exc


def read_signature(path: Path) -> Signature:
    """Read a file's size and modification time.

    Raises:
        CheckpointError: There is no such file, or it cannot be read.
    """
    try:
        stat = path.stat()
    except (OSError, ValueError) as exc:  # a name with a null character is a ValueError
        raise CheckpointError(f"Cannot open {path}: {getattr(exc, 'strerror', None) or exc}.") from exc
    if not path.is_file():
        raise CheckpointError(f"Cannot open {path}: it is not a file.")
    return Signature(stat.st_size, stat.st_mtime_ns)


class VaeFile(Checkpoint):
    """The VAE of a file, under the keys that it has in a whole checkpoint.

    The file may be a whole checkpoint, or a VAE alone, whose keys lack the prefix.

    Raises:
        CheckpointError: The file cannot be read, or holds no VAE in the original layout.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        self._own_keys = _vae_keys(self.tensors, self.path)
        self.tensors = {key: self.tensors[own] for key, own in self._own_keys.items()}

    def tensor(self, key: str) -> torch.Tensor:
        """Give one tensor by its key in a whole checkpoint, as :meth:`Checkpoint.tensor` does.

        Raises:
            KeyError: The file has no such tensor.
            CheckpointError: The file has changed since it was opened.
        """
        return super().tensor(self._own_keys[key])


def _vae_keys(tensors: Mapping[str, TensorInfo], path: Path) -> dict[str, str]:
    """Map the key that each VAE tensor has in a whole checkpoint to its key in a file."""
    whole = {key: key for key in tensors if key.startswith(VAE_PREFIX)}
    if whole:
        return whole
    if any(key.startswith("decoder.up_blocks.") for key in tensors):
        raise CheckpointError(f"{path} holds a VAE in diffusers layout; one in the original layout is needed.")
    parts = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
    alone = {VAE_PREFIX + key: key for key in tensors if key.startswith(parts)}
    if VAE_PREFIX + "decoder.conv_in.weight" not in alone:
        raise CheckpointError(f"{path} holds no VAE.")
    return alone


def _read_header(path: Path) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    try:
        path.open("rb").close()  # safetensors would call a file that may not be read a missing one
        # The numpy flavour, since reading a header needs no torch; no tensor is ever read through it.
        with safe_open(path, framework="numpy") as file:
            tensors = {}
            for key in file.offset_keys() if hasattr(file, "offset_keys") else file.keys():
                entry = file.get_slice(key)
                tensors[key] = TensorInfo(entry.get_dtype(), tuple(entry.get_shape()))
            metadata = dict(file.metadata() or {})
    except OSError as exc:
        raise CheckpointError(f"Cannot read {path}: {exc.strerror or exc}.") from exc
    except (SafetensorError, ValueError, OverflowError) as exc:
        raise CheckpointError(f"{path} is damaged, or no safetensors file: {exc}.") from exc
    _check_formats(tensors, path)
    return tensors, metadata


def _check_formats(tensors: Mapping[str, TensorInfo], path: Path) -> None:
    for key, info in tensors.items():
        if info.dtype not in BITS:
            raise CheckpointError(f"{path} holds {key} as {info.dtype}, a number format this program does not know.")
