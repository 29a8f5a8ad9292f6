"""Small disks that fill, that go read-only, and whose power is cut; they take the right to mount."""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SHUT_DOWN = 0x8004587D
_WITHOUT_JOURNAL = 2
"""From Linux's fs/ext4/ext4.h: the file system stops where it is; what waits, even its journal, is never written."""


class Disk:
    """A mounted file system.

    Args:
        kind: "tmpfs", or "ext4" in a file beside the folder.
        folder: Where to mount it; made.
        size: In bytes.
    """

    def __init__(self, kind: str, folder: Path, size: int) -> None:
        self.folder = folder
        self._kind = kind
        self._image = folder.with_suffix(".image")
        folder.mkdir()
        if kind == "ext4":
            with self._image.open("wb") as file:
                file.truncate(size)
            _do("mkfs.ext4", "-q", "-F", "-m", "0", self._image)
            self._mount("-o", "loop,errors=remount-ro", self._image)
        else:
            self._mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs")

    def close(self) -> None:
        """Unmount it, and remove what it was kept in."""
        subprocess.run(["umount", "-l", str(self.folder)], capture_output=True, check=False)
        self.folder.rmdir()
        self._image.unlink(missing_ok=True)

    def remount(self, options: str) -> bool:
        """Change options of the mount; tells whether the system lets it."""
        return _does("mount", "-o", f"remount,{options}", self.folder)

    def find_error(self) -> None:
        """Have ext4 find an error in itself, whereupon it goes read-only, even while files are open."""
        found = subprocess.run(["findmnt", "-no", "SOURCE", self.folder], capture_output=True, text=True, check=True)
        trigger = Path("/sys/fs/ext4") / Path(found.stdout.strip()).name / "trigger_fs_error"
        trigger.write_text("on trial", encoding="ascii")

    def sync(self) -> None:
        """Have everything written to ext4 that waits, and nothing of other disks."""
        _do("sync", "-f", self.folder)

    def cut_power(self) -> None:
        """Stop ext4 as a power cut does: what is not on the disk is lost."""
        handle = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.ioctl(handle, _SHUT_DOWN, struct.pack("I", _WITHOUT_JOURNAL))
        finally:
            os.close(handle)

    def repair(self) -> None:
        """Mount ext4 anew, as after a restart."""
        _do("umount", self.folder)
        subprocess.run(["fsck.ext4", "-p", str(self._image)], capture_output=True, check=False)
        self._mount("-o", "loop,errors=remount-ro", self._image)

    @property
    def free(self) -> int:
        """Bytes that are free."""
        found = os.statvfs(self.folder)
        return found.f_bavail * found.f_frsize

    def fill(self, leave: int) -> None:
        """Let a file grow until so many bytes are free, rounded down to what the system counts in."""
        page = os.statvfs(self.folder).f_frsize
        with (self.folder / "filler").open("ab") as file:
            if (size := self.free - leave // page * page) > 0:
                os.posix_fallocate(file.fileno(), file.tell(), size)

    def _mount(self, *options: object) -> None:
        _do("mount", *options, self.folder)


@contextmanager
def disk(kind: str, folder: Path, size: int) -> Iterator[Disk]:
    """Mount a disk for a while."""
    mounted = Disk(kind, folder, size)
    try:
        yield mounted
    finally:
        mounted.close()


def can_mount(kind: str, folder: Path) -> bool:
    """Tell whether a kind of disk can be mounted here."""
    programs = ["mount", "umount", *(["mkfs.ext4", "fsck.ext4", "findmnt"] if kind == "ext4" else [])]
    if any(shutil.which(program) is None for program in programs):
        return False
    try:
        with disk(kind, folder / "trial disk", 8 << 20) as mounted:
            if kind == "ext4":
                mounted.cut_power()
    except (OSError, subprocess.CalledProcessError):
        shutil.rmtree(folder / "trial disk", ignore_errors=True)
        return False
    return True


def _do(*command: object) -> None:
    subprocess.run([*map(str, command)], capture_output=True, check=True)


def _does(*command: object) -> bool:
    return subprocess.run([*map(str, command)], capture_output=True, check=False).returncode == 0
