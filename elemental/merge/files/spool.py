"""Tensors that wait on the disk: where each lies in its file is known only once the shapes of all are."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING

from ...errors import MergeError
from .tensor_info import TensorInfo
from .writer import SafetensorsWriter

if TYPE_CHECKING:
    from torch import Tensor


class Spool:
    """Takes fp16 tensors one by one, and writes a safetensors file of them; a context manager.

    They wait in a file without a name in the folder of the target, since folders for temporary files can be in memory.

    Args:
        target: The file to write, in a folder that exists.
        overwrite: Whether to replace an existing file.
    """

    def __init__(self, target: Path, *, overwrite: bool) -> None:
        self._target = target
        self._overwrite = overwrite
        self._infos: dict[str, TensorInfo] = {}
        self._file: IO[bytes]

    def __enter__(self) -> Spool:
        try:
            self._file = tempfile.TemporaryFile(dir=self._target.parent)
        except OSError as exc:
            raise self._failed(exc) from exc
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):  # what was not written to a full disk is tried again
            self._file.close()

    def add(self, key: str, tensor: Tensor) -> None:
        """Take a tensor.

        Args:
            key: Its key, which no other one has.
            tensor: Its numbers, fp16, on any device.

        Raises:
            MergeError: The disk is full or failed.
        """
        import torch

        self._infos[key] = TensorInfo("F16", tuple(tensor.shape))
        try:
            self._file.write(tensor.cpu().reshape(-1).view(torch.uint8).numpy().data)
        except OSError as exc:
            raise self._failed(exc) from exc

    def save(self, header: Mapping[str, str]) -> None:
        """Write the file, complete or not at all.

        Args:
            header: Its text fields.

        Raises:
            MergeError: The disk is full or failed, or the file exists and may not be replaced.
        """
        with SafetensorsWriter(self._target, self._infos, room=header, overwrite=self._overwrite) as writer:
            try:
                self._file.seek(0)
                for key, info in self._infos.items():
                    writer.write(key, 0, memoryview(self._file.read(info.nbytes)))
            except OSError as exc:
                raise self._failed(exc) from exc
            writer.commit(header)

    def _failed(self, exc: OSError) -> MergeError:
        return MergeError(f"Cannot write {self._target}: {exc.strerror or exc}. An existing file is unchanged.")
