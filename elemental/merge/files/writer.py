"""Write a safetensors file piece by piece: at any moment the target is the old file or the whole new one.

The pieces go into a temporary file beside the target, which takes the target's place by renaming once all of it
is on the disk. While a process writes, it holds a lock on its temporary file; one without a lock was left by a
process that was killed, and the next writer in that folder removes it.
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
except ImportError:  # Windows, where an open file cannot be removed, which serves as the lock
    fcntl = None  # type: ignore[assignment]

SUFFIX = ".elemental-tmp"
_DISK_FAILED = {errno.EIO, errno.EROFS, errno.ENOSPC, getattr(errno, "EDQUOT", errno.EIO)}
"""What flushing a folder says if it failed; all else means that the system does not do that, or not for us."""

_ALIGNMENT = 8


class SafetensorsWriter:
    """A safetensors file in the making; a context manager that leaves nothing behind unless :meth:`commit` is called.

    Tensors are laid out by name, wider number formats first, so that each is aligned.

    Args:
        target: The file to make; a link is followed.
        tensors: Number format and shape of every tensor.
        room: Metadata no longer than which will be committed; the header gets room for it.
        overwrite: Whether an existing target may be replaced.

    Attributes:
        saved: Whether the file has taken the target's place.

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
        """Write a piece of a tensor; threads may do so at the same time.

        Args:
            key: The tensor.
            start: Where in the tensor the piece begins, in bytes.
            data: The bytes, contiguous.

        Raises:
            MergeError: The disk is full, or failed.
        """
        try:
            self._write_at(self._data_start + self._offsets[key] + start, data)
        except OSError as exc:
            raise self._failed(exc) from exc

    def commit(self, metadata: Mapping[str, str]) -> None:
        """Write the header, flush everything to the disk, and put the file in the target's place.

        Raises:
            MergeError: The disk is full or failed, the latter maybe after the file was put there, as the message says
                then; or the target has appeared meanwhile.
            ValueError: The fields are longer than the room that was left for them.
        """
        header = _encode(metadata, self._entries)
        if len(header) > self._header_size:
            raise ValueError("the metadata is longer than the room left for it")
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
            except KeyboardInterrupt:  # the system may have done it by then
                self.saved = not self._temporary.exists()
                raise
        except OSError as exc:
            raise self._failed(exc) from exc
        try:
            _sync_folder(self._target.parent)
        except OSError as exc:
            raise MergeError(
                f"{self._target} was saved, but its disk failed ({exc.strerror or exc}) before that was sure to last; "
                "after a restart, the file that was there before may be back. Look after the disk, and merge again."
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
            # noted first, so that an interrupt while the system makes it leaves nothing behind, either
            self._temporary = self._target.with_name(f".{secrets.token_hex(8)}{SUFFIX}")
            try:
                self._file = os.open(self._temporary, flags, 0o666)
            except OSError as exc:
                raise self._failed(exc) from exc
            if fcntl is None:
                return
            with suppress(OSError):  # a file system without locks: there, a leftover cannot be told from a living file
                fcntl.flock(self._file, fcntl.LOCK_EX)
            if os.fstat(self._file).st_nlink:
                return
            os.close(self._file)  # another run took it for a leftover before it was locked
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
        """Give the file the mode of the one that it replaces, which may be for its owner's eyes only."""
        if hasattr(os, "fchmod") and self._target.exists():
            with suppress(OSError):
                os.fchmod(self._file, stat.S_IMODE(self._target.stat().st_mode))

    def _discard(self) -> None:
        if self._temporary == self._target:
            return
        try:
            # First of all, and while it is locked, so that neither another interrupt nor another run comes in between.
            # In a folder that cannot be written to any more it stays, until a next run there finds it without a lock.
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
        return MergeError(f"Cannot write {self._target}: {exc.strerror or exc}. The file there is as it was.")


class _Flusher:
    """Sends what is written to the disk while more is computed; by itself the system would wait for the end."""

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
        """End flushing; raise what went wrong, since the system tells of a failed write only once."""
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
    """Make sure that a file may be written.

    Raises:
        MergeError: It exists and may not be replaced, is a folder, or lies in a folder that does not exist or may
            not be entered.
    """
    try:
        if target.is_dir():
            raise MergeError(f"{target} is a folder; name a file in it.")
        if not overwrite and target.exists():
            raise MergeError(f"{target} exists already; choose another name, or overwrite it (--overwrite).")
        if not target.parent.is_dir():
            raise MergeError(f"The folder {target.parent} does not exist.")
    except OSError as exc:
        raise MergeError(f"Cannot write {target}: {exc.strerror or exc}.") from exc


def resolve_target(target: Path) -> Path:
    """Find the file that a path stands for, links followed; it need not exist.

    Raises:
        MergeError: The path leads nowhere: links in a circle, a name too long, a folder that may not be entered.
    """
    try:
        real = target.resolve()
        real.exists()
    except (OSError, RuntimeError, ValueError) as exc:
        raise MergeError(f"Cannot write {target}: {getattr(exc, 'strerror', None) or exc}.") from exc
    return real


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files that killed writers left in a folder; those in use stay."""
    leftovers: list[Path] = []
    with suppress(OSError):  # a folder that cannot be read is told of by what writes to it
        leftovers.extend(folder.glob(f".*{SUFFIX}"))
    for path in leftovers:
        with suppress(OSError):
            if fcntl is None:
                path.unlink()
                continue
            file = os.open(path, os.O_RDWR)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while its writer lives
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
    header = text.encode("utf-8")
    return header.ljust(-(-len(header) // _ALIGNMENT) * _ALIGNMENT)


def _sync_folder(folder: Path) -> None:
    """Make the renaming itself last; not every system can.

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
