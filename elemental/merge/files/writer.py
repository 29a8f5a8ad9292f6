"""Write a safetensors file piece by piece; at any moment the target is the old file or the whole new one.

The pieces go into a temporary file beside the target, which is renamed to the target once all of it is on the disk. A
process holds a lock on its temporary file while it writes. A temporary file without a lock was left by a process that
was killed; the next writer in that folder removes it.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
import stat
import struct
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from ...errors import MergeError
from .tensor_info import BITS, TensorInfo

try:
    import fcntl
except ImportError:  # Windows, where an open file cannot be removed: no lock is needed
    fcntl = None  # type: ignore[assignment]

SUFFIX = ".elemental-tmp"
_DISK_FAILED = {errno.EIO, errno.EROFS, errno.ENOSPC, getattr(errno, "EDQUOT", errno.EIO)}
"""Errors that mean a folder could not be flushed; others mean that the system does not support it."""

_ALIGNMENT = 8


class SafetensorsWriter:
    """Writes a safetensors file; a context manager that leaves nothing behind unless :meth:`commit` is called.

    Tensors are sorted by dtype, widest first, and then by name, so that all are aligned.

    Args:
        target: The file to write; links are followed.
        tensors: Dtype and shape of each tensor, by key.
        room: Metadata as long as the longest that :meth:`commit` will be given; the header reserves space for it.
        overwrite: Whether an existing target may be replaced.

    Attributes:
        saved: Whether the target has been replaced.

    Raises:
        MergeError: The target exists, cannot be written, or does not fit on the disk.
    """

    def __init__(
        self, target: Path, tensors: Mapping[str, TensorInfo], *, room: Mapping[str, str], overwrite: bool
    ) -> None:
        self._target = resolve_target(target)
        self._overwrite = overwrite
        self._offsets, self._entries, size = _lay_out(tensors)
        header = _encode(room, self._entries)
        self._header_size = len(header)
        self._data_start = 8 + self._header_size
        self._size = self._data_start + size
        self._seek_lock = threading.Lock()
        self._temporary = self._target  # until there is one
        self._file = -1
        self._flusher: _Flusher | None = None
        self.saved = False

    def __enter__(self) -> SafetensorsWriter:
        check_target(self._target, overwrite=self._overwrite)
        remove_leftovers(self._target.parent)
        self._check_room()
        try:
            self._create()
            self._allocate()
            self._flusher = _Flusher(self._file)
            self._flusher.start()
        except BaseException:
            self._discard()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._discard()

    def write(self, key: str, start: int, data: memoryview) -> None:
        """Write a piece of a tensor; several threads can write at the same time.

        Args:
            key: The key of the tensor.
            start: The offset of the piece in the tensor, in bytes.
            data: The bytes, contiguous.

        Raises:
            MergeError: The disk is full or failed.
        """
        try:
            self._write_at(self._data_start + self._offsets[key] + start, data)
        except OSError as exc:
            raise self._failed(exc) from exc

    def commit(self, metadata: Mapping[str, str]) -> None:
        """Write the header, flush everything to the disk, and replace the target.

        Raises:
            MergeError: The disk is full or failed, or the target has appeared in the meantime. If the disk failed after
                the target was replaced, the message says so.
            ValueError: The metadata is longer than the space reserved for it.
        """
        header = _encode(metadata, self._entries)
        if len(header) > self._header_size:
            raise ValueError("the metadata is longer than the space reserved for it")
        try:
            self._write_at(0, memoryview(struct.pack("<Q", self._header_size) + header.ljust(self._header_size)))
            self._stop_flushing()
            self._keep_mode()
            os.fsync(self._file)
            check_target(self._target, overwrite=self._overwrite)
            if fcntl is None:
                os.close(self._file)
                self._file = -1
            try:
                self._temporary.replace(self._target)
                self.saved = True
            except KeyboardInterrupt:  # the file may have been renamed before the interrupt
                self.saved = not self._temporary.exists()
                raise
        except OSError as exc:
            raise self._failed(exc) from exc
        try:
            _sync_folder(self._target.parent)
        except OSError as exc:
            raise MergeError(
                f"{self._target} was saved, but its disk failed ({exc.strerror or exc}): after a restart, the "
                "old file may be back. Check the disk, and merge again."
            ) from exc

    def _check_room(self) -> None:
        try:
            free = shutil.disk_usage(self._target.parent).free
        except OSError as exc:
            raise self._failed(exc) from exc
        if free < self._size:
            raise MergeError(
                f"The result needs {self._size / 1e9:.2f} GB, and {self._target.parent} has {free / 1e9:.2f} GB free."
            )

    def _create(self) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOINHERIT", 0)
        while True:
            # set first, so that an interrupt during open() leaves nothing behind
            self._temporary = self._target.with_name(f".{secrets.token_hex(8)}{SUFFIX}")
            try:
                self._file = os.open(self._temporary, flags, 0o666)
            except OSError as exc:
                raise self._failed(exc) from exc
            if fcntl is None:
                return
            with suppress(OSError):  # a file system without locks, where leftovers cannot be recognised
                fcntl.flock(self._file, fcntl.LOCK_EX)
            if os.fstat(self._file).st_nlink:
                return
            os.close(self._file)  # another process removed it as a leftover before it was locked
            self._file = -1

    def _allocate(self) -> None:
        try:
            os.ftruncate(self._file, self._size)
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(self._file, 0, self._size)
        except OSError as exc:
            if exc.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
                raise self._failed(exc) from exc

    def _write_at(self, position: int, data: memoryview) -> None:
        while data.nbytes:
            if hasattr(os, "pwrite"):
                count = os.pwrite(self._file, data, position)
            else:
                with self._seek_lock:
                    os.lseek(self._file, position, os.SEEK_SET)
                    count = os.write(self._file, data)
            position, data = position + count, data[count:]

    def _keep_mode(self) -> None:
        """Keep the permissions of the file that is replaced."""
        if hasattr(os, "fchmod") and self._target.exists():
            with suppress(OSError):
                os.fchmod(self._file, stat.S_IMODE(self._target.stat().st_mode))

    def _discard(self) -> None:
        if self._temporary == self._target:
            return
        try:
            # Unlink first, while the file is locked, so that neither another interrupt nor another process intervenes.
            # If the folder cannot be written to any more, the file stays, and a later run removes it as a leftover.
            if fcntl is not None:
                with suppress(OSError):
                    self._temporary.unlink(missing_ok=True)
        finally:
            with suppress(OSError):
                self._stop_flushing()
            if self._file >= 0:
                with suppress(OSError):
                    os.close(self._file)
            self._file = -1
            with suppress(OSError):
                self._temporary.unlink(missing_ok=True)

    def _stop_flushing(self) -> None:
        if self._flusher is not None:
            self._flusher.stop()

    def _failed(self, exc: OSError) -> MergeError:
        return MergeError(f"Cannot write {self._target}: {exc.strerror or exc}. An existing file is unchanged.")


class _Flusher:
    """Flushes written data to the disk during the computation; otherwise the system would flush it all at the end."""

    _SECONDS = 0.05

    def __init__(self, file: int) -> None:
        self._file = file
        self._ended = threading.Event()
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._flush, name="flush", daemon=True)

    def start(self) -> None:
        if hasattr(os, "fdatasync"):
            self._thread.start()

    def stop(self) -> None:
        """End flushing; raise an error that occurred, as the system reports a failed write only once."""
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join()
        if self._error is not None:
            raise self._error

    def _flush(self) -> None:
        try:
            while not self._ended.wait(self._SECONDS):
                os.fdatasync(self._file)
        except OSError as exc:
            self._error = exc


def check_target(target: Path, *, overwrite: bool) -> None:
    """Check that a file can be written.

    Raises:
        MergeError: The file exists and may not be replaced, is a folder, or its folder does not exist or cannot be
            entered.
    """
    try:
        if target.is_dir():
            raise MergeError(f"{target} is a folder: name a file in it.")
        if not overwrite and target.exists():
            raise MergeError(f"{target} exists already: choose another name, or overwrite it.")
        if not target.parent.is_dir():
            raise MergeError(f"The folder {target.parent} does not exist.")
    except OSError as exc:
        raise MergeError(f"Cannot write {target}: {exc.strerror or exc}.") from exc


def resolve_target(target: Path) -> Path:
    """Follow the links of a path; the file need not exist.

    Raises:
        MergeError: The path cannot be resolved: a loop of links, a name that is too long, a folder without permission.
    """
    try:
        real = target.resolve()
        real.exists()
    except (OSError, RuntimeError, ValueError) as exc:
        raise MergeError(f"Cannot write {target}: {getattr(exc, 'strerror', None) or exc}.") from exc
    if real.is_symlink():  # Python 3.13 resolves a loop to one of its links, and raises nothing
        raise MergeError(f"Cannot write {target}: it is a loop of links.")
    return real


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files that killed processes left in a folder; files in use stay."""
    leftovers: list[Path] = []
    with suppress(OSError):  # an unreadable folder is reported when the file is created
        leftovers.extend(folder.glob(f".*{SUFFIX}"))
    for path in leftovers:
        with suppress(OSError):
            if fcntl is None:
                path.unlink()
                continue
            file = os.open(path, os.O_RDWR)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while its process runs
                path.unlink()
            finally:
                os.close(file)


def _lay_out(tensors: Mapping[str, TensorInfo]) -> tuple[dict[str, int], dict[str, object], int]:
    offsets: dict[str, int] = {}
    entries: dict[str, object] = {}
    end = 0
    for key, info in sorted(tensors.items(), key=lambda item: (-BITS[item[1].dtype], item[0])):
        start, end = end, end + info.nbytes
        offsets[key] = start
        entries[key] = {"dtype": info.dtype, "shape": info.shape, "data_offsets": (start, end)}
    return offsets, entries, end


def _encode(metadata: Mapping[str, str], entries: Mapping[str, object]) -> bytes:
    text = json.dumps({"__metadata__": metadata, **entries}, separators=(",", ":"), ensure_ascii=False)
    try:
        header = text.encode("utf-8")
    except UnicodeEncodeError as exc:  # half of a character, which JSON may have
        raise MergeError(f"A tensor's name in A is no valid Unicode: {text[exc.start - 20 : exc.end]!a}.") from exc
    return header.ljust(-(-len(header) // _ALIGNMENT) * _ALIGNMENT)


def _sync_folder(folder: Path) -> None:
    """Flush the renaming to the disk, where the system supports it.

    Raises:
        OSError: The disk failed.
    """
    handle = -1
    try:
        handle = os.open(folder, os.O_RDONLY)
        os.fsync(handle)
    except OSError as exc:
        if exc.errno in _DISK_FAILED:
            raise
    finally:
        if handle >= 0:
            os.close(handle)
