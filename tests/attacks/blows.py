"""What befalls the folder of a merge while it is written to: it is full, breaks, goes dark, or shuts its doors."""

from __future__ import annotations

import ctypes
import errno
import os
import random
import resource
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

from .disks import Disk, can_mount, disk
from .merges import Judge, Merge, Place, make_place, wait_for_moment
from .processes import Command

_LARGE = 256 << 20


def fill_disk(judge: Judge, merges: list[Merge], folder: Path, rng: random.Random, rounds: int) -> None:
    """Write to a disk on which nothing fits, or all but the last bytes do, or anything between."""
    if not can_mount("tmpfs", folder):
        judge.tally.counts["full disks: skipped, no small disk can be mounted"] += 1
        return
    for number in range(rounds):
        merge, (how, meddle) = rng.choice(merges), rng.choice(list(_SHORTAGES.items()))
        what = f"full disk {number}, {how}, {merge.name}"
        with disk("tmpfs", folder / "full", _LARGE) as small:
            place = make_place(rng.choice(("overwrite", "fresh")), small.folder, None, rng)
            share = rng.choice((0.0, 1.0, rng.random(), rng.random()))
            before = meddle(small, merge.size, share)
            command = Command(merge.command(place.output, *place.options), folder / "log", before=before)
            code = command.wait()
            judge.judge(place, [merge], [code], what)
            judge.refused(command, what)
            judge.tally.check(not place.leftovers, f"{what}: leftovers")
            judge.tally.counts["full disks"] += 1
            judge.tally.counts[f"full disks, {how}"] += 1
            (small.folder / "filler").unlink(missing_ok=True)
            small.remount("nr_inodes=1000")
            judge.try_again(place, merge, what)


def _is_full_from_the_start(small: Disk, size: int, share: float) -> Callable[[], object]:
    small.fill(leave=_too_little(size, share))
    return lambda: None


def _fills_after_the_check(small: Disk, size: int, share: float) -> Callable[[], object]:
    def before() -> None:
        real = shutil.disk_usage

        def look(path: Path) -> object:
            found = real(path)
            small.fill(leave=_too_little(size, share))
            return found

        shutil.disk_usage = look  # type: ignore[assignment]

    return before


def _fills_while_written(small: Disk, size: int, share: float) -> Callable[[], object]:
    """Fill up a disk that cannot keep room, at a random moment; ``share`` decides that and how full."""

    def before() -> None:
        reserve, write, written, filled = os.posix_fallocate, os.pwrite, 0, False

        def cannot_reserve(*_: object) -> None:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

        def write_and_count(file: int, data: memoryview, position: int) -> int:
            nonlocal written, filled
            if not filled and written >= share * size / 2:
                filled = True
                os.posix_fallocate = reserve
                small.fill(leave=_too_little(size - written, share))
            written += (count := write(file, data, position))
            return count

        os.posix_fallocate = cannot_reserve
        os.pwrite = write_and_count  # type: ignore[assignment]

    return before


def _has_no_inodes(small: Disk, _size: int, _share: float) -> Callable[[], object]:
    small.remount(f"nr_inodes={sum(1 for _ in small.folder.iterdir()) + 1}")
    return lambda: None


def _limits_files(_small: Disk, size: int, share: float) -> Callable[[], object]:
    most = max(1 << 16, int(share * (size - 1)))
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))


def _too_little(size: int, share: float) -> int:
    """Give a share of what is needed, at least two pages less than all."""
    return max(0, int(min(share * size, size - 8192)))


_SHORTAGES: dict[str, Callable[[Disk, int, float], Callable[[], object]]] = {
    "known before": _is_full_from_the_start,
    "filled after the check": _fills_after_the_check,
    "filled while written": _fills_while_written,
    "no inodes": _has_no_inodes,
    "limit of file size": _limits_files,
}


def take_permission(judge: Judge, merges: list[Merge], folder: Path, rng: random.Random, rounds: int) -> None:
    """Take away the permission to write to a folder, or to enter it."""
    for number in range(rounds):
        merge, mode = rng.choice(merges), rng.choice((0o555, 0o000, 0o600))
        place = make_place(rng.choice(("overwrite", "fresh")), folder / "place", None, rng)
        what = f"permission {number}, mode {mode:o}, {merge.name}"
        command = Command(merge.command(place.output, *place.options), folder / "log", before=_obey_modes)
        phase = _wait_for_moment(command, place, merge, rng)
        place.file.parent.chmod(mode)
        command.wait()
        place.file.parent.chmod(0o755)
        _judge_blow(judge, place, merge, command, f"lost permissions, {phase}", what)


def _obey_modes() -> None:
    """Give up root's right to pass over file modes."""
    system, header = ctypes.CDLL(None), struct.pack("Ii", 0x20080522, 0)
    rights = ctypes.create_string_buffer(24)
    if os.geteuid() != 0:
        return
    if system.capget(header, rights):
        raise RuntimeError("root's rights cannot be asked for: no file mode would stop the merge")
    words = list(struct.unpack("6I", rights.raw))
    for index in range(3):  # effective, permitted, inheritable: without CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
        words[index] &= ~0b110
    if system.capset(header, struct.pack("6I", *words)):
        raise RuntimeError("root's rights cannot be given up: no file mode would stop the merge")


def go_read_only(judge: Judge, merges: list[Merge], folder: Path, rng: random.Random, rounds: int) -> None:
    """Have a disk go read-only, by order or because it finds an error in itself."""
    for kind in ("tmpfs", "ext4"):
        if not can_mount(kind, folder):
            judge.tally.counts[f"read-only {kind}: skipped, it cannot be mounted"] += 1
            continue
        with disk(kind, folder / "disk", _LARGE) as small:
            for number in range(-(-rounds // 2)):
                merge, place, command, phase = _merge_for_a_while(merges, small, folder, rng)
                if kind == "ext4":
                    small.find_error()
                elif not small.remount("ro"):
                    phase = "refused by the system, since a file is written"
                command.wait()
                if kind == "ext4":
                    small.repair()
                else:
                    small.remount("rw")
                what = f"read-only {number}, {kind}, {merge.name}"
                _judge_blow(judge, place, merge, command, f"read-only {kind}, {phase}", what)


def cut_power(judge: Judge, merges: list[Merge], folder: Path, rng: random.Random, rounds: int) -> None:
    """Cut the power of a disk: what a merge that ended has written is there, and else what was there before."""
    if not can_mount("ext4", folder):
        judge.tally.counts["power cuts: skipped, ext4 cannot be mounted"] += 1
        return
    with disk("ext4", folder / "disk", _LARGE) as small:
        for number in range(rounds):
            merge, place, command, phase = _merge_for_a_while(merges, small, folder, rng)
            if rng.random() < 0.3:
                command.wait()
                phase = "after the end"
            small.cut_power()
            command.wait()
            small.repair()
            what = f"power cut {number}, {merge.name}"
            _judge_blow(judge, place, merge, command, f"power cuts, {phase}", what)


def _merge_for_a_while(
    merges: list[Merge], small: Disk, folder: Path, rng: random.Random
) -> tuple[Merge, Place, Command, str]:
    """Start one of the merges into a disk, and give it at a random moment, with what it is doing then."""
    merge = rng.choice(merges)
    place = make_place(rng.choice(("overwrite", "fresh")), small.folder / "place", None, rng)
    small.sync()
    command = Command(merge.command(place.output, *place.options), folder / "log")
    return merge, place, command, _wait_for_moment(command, place, merge, rng)


def _wait_for_moment(command: Command, place: Place, merge: Merge, rng: random.Random) -> str:
    """Wait for a random moment of a command's life, in most cases one at which it writes; tells what it is doing."""
    wait_for_moment(command, place, merge, rng, aimed=0.7)
    if command.code is not None:
        return "after the end"
    if place.replaced:
        return "after the renaming"
    return "while writing" if place.leftovers else "before writing"


def _judge_blow(judge: Judge, place: Place, merge: Merge, command: Command, kind: str, what: str) -> None:
    """Check what is left after a blow that may have come too late, or may have hit."""
    code = command.wait()
    saved = "was saved, but its disk failed" in command.errors  # the blow fell between the renaming and the end
    new = judge.judge(place, [merge], [code], what, may_be_new=saved)
    if code:
        judge.refused(command, what)
    judge.tally.counts[f"{kind}, target {'new' if new else 'old'}"] += 1
    judge.tally.counts[kind.partition(",")[0]] += 1
    judge.try_again(place, merge, what)


BLOWS: dict[str, Callable[[Judge, list[Merge], Path, random.Random, int], None]] = {
    "full": fill_disk,
    "permission": take_permission,
    "read-only": go_read_only,
    "power": cut_power,
}
