"""An open model file: its identity, and its bytes, read so that a file that changes meanwhile is an error.

Nothing is mapped: reading behind the end of a mapped file that another program has cut short ends the process.
"""

from __future__ import annotations

import io
import os
import threading
import weakref
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from ...errors import CheckpointError

_FLAGS = os.O_RDONLY | getattr(os, "O_BINARY", 0)
_MOST = 1 << 30
"""Bytes that are read at a time; some systems refuse more than 2 GB."""


class Signature(NamedTuple):
    """Size in bytes and modification time in nanoseconds, to detect changes of a file."""

    size: int
    mtime: int


class Identity(NamedTuple):
    """What tells a file from the one that was at its path before: its signature, and which file of its disk it is."""

    size: int
    mtime: int
    device: int
    inode: int

    @property
    def signature(self) -> Signature:
        """Size and modification time alone, which a copy of the file keeps."""
        return Signature(self.size, self.mtime)


def read_identity(path: Path) -> Identity:
    """Read the identity of the file at a path.

    Raises:
        CheckpointError: The file does not exist, or cannot be read.
    """
    try:
        stat = path.stat()
    except (OSError, ValueError) as exc:  # a name with a null character is a ValueError
        raise CheckpointError(f"Cannot open {path}: {getattr(exc, 'strerror', None) or exc}.") from exc
    if not path.is_file():
        raise CheckpointError(f"Cannot open {path}: it is not a file.")
    return Identity(stat.st_size, stat.st_mtime_ns, stat.st_dev, stat.st_ino)


def read_signature(path: Path) -> Signature:
    """Read a file's size and modification time.

    Raises:
        CheckpointError: The file does not exist, or cannot be read.
    """
    return read_identity(path).signature


def describe_change(path: Path, identity: Identity) -> str | None:
    """Say in words that the file at a path is not the one that it was.

    Args:
        path: The file.
        identity: What it was.

    Returns:
        None if it is the same, unchanged.
    """
    try:
        same = read_identity(path) == identity
    except CheckpointError:
        return f"{path} is not there any more"
    return None if same else f"{path} has changed on disk"


class ModelFile:
    """A file that stays open, and is what is read even if it is renamed, deleted or replaced by another meanwhile.

    Args:
        path: The file.

    Attributes:
        path: The file.
        identity: Its identity when it was opened.

    Raises:
        CheckpointError: The file is missing or cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.identity = read_identity(path)
        try:
            self._handle = os.open(path, _FLAGS)
        except OSError as exc:
            raise self._unreadable(exc) from exc
        self._closing = weakref.finalize(self, os.close, self._handle)
        self._closing.atexit = False  # a merge that is in a model then is still taken out
        self._closed = False
        self._signature = self._read_signature()
        self._seek_lock = threading.Lock()
        if hasattr(os, "posix_fadvise"):  # so that the system reads further ahead
            with suppress(OSError):
                os.posix_fadvise(self._handle, 0, 0, os.POSIX_FADV_SEQUENTIAL)

    def close(self) -> None:
        """Close the file."""
        self._closed = True
        self._closing()

    def has_changed(self) -> bool:
        """Tell whether another program has written to this file since it was opened.

        A file that was renamed, deleted or replaced is still the same.
        """
        return not self._closed and self._read_signature() != self._signature

    def read(self, start: int, buffer: memoryview) -> None:
        """Fill a buffer with the bytes from a place on; several threads can read at the same time.

        Args:
            start: The first byte, counted from the start of the file.
            buffer: Bytes that can be written to.

        Raises:
            CheckpointError: The file is closed, cannot be read, or has changed since it was opened.
        """
        if self._closed:
            raise CheckpointError(f"{self.path} is closed.")
        try:
            complete = self._fill(start, buffer)
        except OSError as exc:
            raise self._unreadable(exc) from exc
        if not complete or self.has_changed():
            raise CheckpointError(f"{self.path} changed while it was read.")

    def read_bytes(self, start: int, size: int) -> bytes:
        """Read some bytes.

        Raises:
            CheckpointError: As in :meth:`read`.
        """
        buffer = bytearray(size)
        self.read(start, memoryview(buffer))
        return bytes(buffer)

    def stream(self) -> io.BufferedReader:
        """Give the file as a stream, which never makes room for more bytes than there are."""
        return _Stream(self)

    def _fill(self, start: int, buffer: memoryview) -> bool:
        """Fill a buffer, and tell whether the file had enough bytes."""
        done = 0
        while done < len(buffer):
            count = self._read_some(start + done, buffer[done : done + _MOST])
            if not count:
                return False
            done += count
        return True

    def _read_some(self, start: int, buffer: memoryview) -> int:
        if hasattr(os, "preadv"):
            return os.preadv(self._handle, [buffer], start)
        with self._seek_lock:  # Windows
            os.lseek(self._handle, start, os.SEEK_SET)
            data = os.read(self._handle, buffer.nbytes)
        buffer[: len(data)] = data
        return len(data)

    def _read_signature(self) -> Signature:
        try:
            stat = os.fstat(self._handle)
        except OSError as exc:
            raise self._unreadable(exc) from exc
        return Signature(stat.st_size, stat.st_mtime_ns)

    def _unreadable(self, exc: OSError) -> CheckpointError:
        return CheckpointError(f"Cannot read {self.path}: {exc.strerror or exc}.")


class _Stream(io.BufferedReader):
    """The bytes of a model file one after the other."""

    def __init__(self, file: ModelFile) -> None:
        super().__init__(_RawStream(file))
        self._size = file.identity.size

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > io.DEFAULT_BUFFER_SIZE:  # a damaged index can ask for any length
            size = min(size, max(0, self._size - self.tell()))
        return super().read(size)


class _RawStream(io.RawIOBase):
    """The same without a buffer."""

    def __init__(self, file: ModelFile) -> None:
        self._file = file
        self._size = file.identity.size
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence])
        return self._place

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        count = min(len(buffer), max(0, self._size - self._place))
        self._file.read(self._place, memoryview(buffer)[:count])
        self._place += count
        return count
