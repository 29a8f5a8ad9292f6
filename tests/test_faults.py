"""What can go wrong outside the program: bad files, full disks, signals, kills; an older result survives it all."""

from __future__ import annotations

import errno
import itertools
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from _thread import start_new_thread
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from elemental import merge_to_file
from elemental.cli import main as cli
from elemental.errors import CheckpointError, MergeError, Stopped
from elemental.merge.files import writer
from elemental.merge.files.hashes import compute_sha256, remembered_sha256
from elemental.merge.plan import Role
from elemental.merge.progress import Controls

from .conftest import LAYOUTS, random_state, save
from .refusing import OLD, TEMPORARY, Merge, inputs, recipe, refusal, snapshot

ROOT = Path(__file__).parents[1]
KEY = "model.diffusion_model.out.2.weight"
OTHER_KEY = "model.diffusion_model.out.2.bias"

posix_only = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals, modes or links")


@pytest.mark.parametrize("name", [
    "out.safetensors", "out.ckpt", "a.safetensors", "link to a.safetensors", "link to itself.safetensors",
    "folder.safetensors", "missing/x.safetensors", "a.safetensors/x.safetensors", f"{'long' * 99}.safetensors",
])  # fmt: skip
def test_bad_target(name: str, folder: Path, merge: Merge) -> None:
    target = folder / name
    if name.startswith("folder"):
        target.mkdir()
    elif name.startswith("link"):
        if sys.platform == "win32":
            pytest.skip("on Windows not every user can make links")
        target.symlink_to(target if "itself" in name else folder / "a.safetensors")
    options = [] if name == "out.safetensors" else ["--overwrite"]  # it exists
    refusal(merge, folder, *inputs(folder), "-o", target, *options)


@pytest.mark.slow
@posix_only
@pytest.mark.parametrize(("forbidden", "mode"), [("bad.sft", 0), ("bad.ckpt", 0), ("results", 0o555), ("results", 0)])
def test_no_permission(forbidden: str, mode: int, folder: Path) -> None:
    (folder / "results").mkdir()
    for name in ("results/out.safetensors", "bad.sft", "bad.ckpt"):
        (folder / name).write_bytes(b"a model")
    command = [sys.executable, "-m", "elemental", "merge", "--overwrite"]
    if os.geteuid() == 0:  # file modes do not count for root without this
        command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *command]
        if shutil.which("setpriv") is None or subprocess.run([*command[:2], "true"], check=False).returncode != 0:
            pytest.skip("root may read and write everything, and setpriv cannot change that here")

    def merge(*arguments: object) -> tuple[int, str]:
        (folder / forbidden).chmod(mode)
        whole_command = [*command, *map(str, arguments)]
        done = subprocess.run(whole_command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
        (folder / forbidden).chmod(0o700)
        return done.returncode, done.stderr

    a, b = inputs(folder)
    model = a if forbidden == "results" else folder / forbidden
    assert "Permission denied" in refusal(merge, folder, model, b, "-o", folder / "results" / "out.safetensors")


@pytest.fixture
def small_disk(folder: Path) -> Iterator[Path]:
    """Give an older result on a disk smaller than a new one."""
    place = folder / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs the right to mount a small disk")
    (place / "out.safetensors").write_bytes(OLD)
    yield place / "out.safetensors"
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("known", [True, False])
def test_full_disk(known: bool, folder: Path, small_disk: Path, merge: Merge, monkeypatch: pytest.MonkeyPatch) -> None:
    if not known:  # as if another program fills the disk after its free space was looked up
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**12))
    message = refusal(merge, folder, *inputs(folder), "-o", small_disk, "--overwrite")
    assert re.search(f"{small_disk.parent} has .* GB free" if known else f"{small_disk}: No space left", message)


@pytest.mark.parametrize(("call", "after"), [("pwrite", 0), ("pwrite", 300), ("fsync", 0), ("fdatasync", 0)])
def test_failing_disk(call: str, after: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(os, call):
        pytest.skip(f"this system has no {call}")
    real, count, failed = getattr(os, call), itertools.count(), threading.Event()

    def fail(*arguments: object) -> object:
        if next(count) < after:
            return real(*arguments)
        failed.set()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    # The flush in the background needs time to fail; nothing else waits.
    controls = Controls(should_stop=lambda: call == "fdatasync" and not failed.wait(20))
    monkeypatch.setattr(os, call, fail)
    before = snapshot(folder)
    with pytest.raises(MergeError, match=r"Cannot write .*out\.safetensors: No space left"):
        merge_to_file(recipe(folder), folder / "out.safetensors", overwrite=True, controls=controls)
    assert snapshot(folder) == before


SLOW_MERGE = """\
import signal, sys, time
from pathlib import Path
from elemental.cli import main as cli
from elemental.merge.files.writer import SafetensorsWriter
folder, write = Path(sys.argv[1]), SafetensorsWriter.write
def write_slowly(*arguments):
    write(*arguments)
    (folder / "writing").touch()
    time.sleep(0 if (folder / "hurry").exists() else 0.2)
SafetensorsWriter.write = write_slowly
signal.signal(signal.SIGINT, signal.default_int_handler)  # started in the background, it would be ignored
sys.exit(cli.main(sys.argv[2:]))
"""


@pytest.fixture
def slow_merge(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Give a process that has begun to write over the older result; it takes minutes unless told to hurry."""
    arguments = ["merge", *map(str, inputs(folder)), "-o", str(folder / "out.safetensors"), "--overwrite"]
    command = [sys.executable, "-c", SLOW_MERGE, str(folder), *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            end = time.monotonic() + 120
            while not (folder / "writing").exists():
                assert process.poll() is None, process.communicate()
                assert time.monotonic() < end
                time.sleep(0.01)
            yield process
        finally:
            process.kill()


@posix_only
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal(number: signal.Signals, folder: Path, slow_merge: subprocess.Popen[str]) -> None:
    slow_merge.send_signal(number)
    _, error = slow_merge.communicate(timeout=60)
    assert (slow_merge.returncode, error) == (cli.STOPPED, "Stopped; nothing was changed.\n")
    assert not list(folder.glob(TEMPORARY))
    assert (folder / "out.safetensors").read_bytes() == OLD


@posix_only
def test_impatience(folder: Path, slow_merge: subprocess.Popen[str]) -> None:
    for _ in range(3):
        slow_merge.send_signal(signal.SIGINT)
        time.sleep(0.02)
    slow_merge.communicate(timeout=60)
    assert not list(folder.glob(TEMPORARY))
    assert (folder / "out.safetensors").read_bytes() == OLD


def test_kill(folder: Path, slow_merge: subprocess.Popen[str], merge: Merge) -> None:
    slow_merge.kill()
    slow_merge.communicate(timeout=120)
    assert len(list(folder.glob(TEMPORARY))) == 1
    assert merge(*inputs(folder), "-o", folder / "new.safetensors") == (cli.DONE, "")
    assert not list(folder.glob(TEMPORARY))
    assert (folder / "out.safetensors").read_bytes() == OLD


def test_two_merges_into_one_folder(folder: Path, slow_merge: subprocess.Popen[str], merge: Merge) -> None:
    in_use = list(folder.glob(TEMPORARY))
    assert merge(*inputs(folder), "-o", folder / "new.safetensors") == (cli.DONE, "")
    assert list(folder.glob(TEMPORARY)) == in_use != []
    (folder / "hurry").touch()
    _, error = slow_merge.communicate(timeout=120)
    assert (slow_merge.returncode, error) == (cli.DONE, "")
    assert not list(folder.glob(TEMPORARY))
    assert (folder / "out.safetensors").read_bytes() == (folder / "new.safetensors").read_bytes()


@posix_only
def test_cleaning_before_the_lock_is_taken(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another merge may look for leftovers when this one's temporary file exists and has no lock yet."""
    real = os.open
    cleanings = [writer.remove_leftovers]  # one only, for the program may well try again

    def open_and_clean(path: Path, flags: int, mode: int = 0o777) -> int:
        file = real(path, flags, mode)
        if str(path).endswith(writer.SUFFIX) and flags & os.O_CREAT and cleanings:
            cleanings.pop()(folder)
        return file

    monkeypatch.setattr(os, "open", open_and_clean)
    merge_to_file(recipe(folder), folder / "new.safetensors")
    assert not cleanings


@pytest.mark.parametrize("after", [0, 300])
def test_stop(after: int, folder: Path) -> None:
    count = itertools.count()
    controls = Controls(should_stop=lambda: next(count) >= after)
    before = snapshot(folder)
    with pytest.raises(Stopped):
        merge_to_file(recipe(folder), folder / "out.safetensors", overwrite=True, controls=controls)
    assert snapshot(folder) == before


@pytest.mark.parametrize(("number", "fails"), [(errno.EROFS, True), (errno.EIO, True), (errno.EINVAL, False)])
def test_a_disk_that_fails_after_the_renaming(
    folder: Path, merge: Merge, monkeypatch: pytest.MonkeyPatch, number: int, fails: bool
) -> None:
    real = os.fsync

    def fsync(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(number, os.strerror(number))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    code, error = merge(*inputs(folder), "-o", folder / "new.safetensors")
    assert code == (cli.FAILED if fails else cli.DONE)
    assert ("its disk failed" in error and "merge again" in error) is fails
    assert load_file(folder / "new.safetensors")


def test_interrupt_while_threads_start(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count = itertools.count()

    def start_and_interrupt(work: Callable[[], None], arguments: tuple[()]) -> None:
        start_new_thread(work, arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr("elemental.merge.execute._THREAD_BYTES", 1)  # small models, too, are worth threads
    monkeypatch.setattr("elemental.merge.interrupts.start_new_thread", start_and_interrupt)
    controls = Controls(should_stop=lambda: next(count) < 0 or threading.Event().wait(0.001))
    with pytest.raises(KeyboardInterrupt):
        merge_to_file(recipe(folder), folder / "new.safetensors", with_hashes=False, controls=controls)
    assert next(count) < 100  # of more than a thousand tensors


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (torch.cuda.OutOfMemoryError("CUDA out of memory."), MergeError),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), MergeError),
        (RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"), MergeError),
        (MemoryError(), MergeError),
        (RuntimeError("shape mismatch"), RuntimeError),
    ],
)
def test_memory_that_is_too_small_is_told_of(
    folder: Path, monkeypatch: pytest.MonkeyPatch, raised: Exception, told: type[Exception]
) -> None:
    def fail(*_: object) -> None:
        raise raised

    before = snapshot(folder)
    monkeypatch.setattr("elemental.merge.execute.round_to", fail)
    with pytest.raises(told, match="Out of memory" if told is MergeError else "mismatch"):
        merge_to_file(recipe(folder), folder / "new.safetensors")
    assert snapshot(folder) == before


def test_not_finite_models(folder: Path, merge: Merge) -> None:
    for path, key, value in zip(inputs(folder), (KEY, OTHER_KEY), (float("nan"), float("-inf")), strict=True):
        state = load_file(path)
        state[key].view(-1)[-1] = value
        save(path, state)
    result = merge_to_file(recipe(folder), folder / "new.safetensors")
    assert result.not_finite == ((Role.A, KEY), (Role.B, OTHER_KEY))
    code, error = merge(*inputs(folder), "-o", folder / "newer.safetensors")
    assert code == cli.DONE
    assert [line.split(" holds ")[0] for line in error.splitlines()] == [f"warning: {KEY}", f"warning: {OTHER_KEY}"]


@pytest.mark.slow
@pytest.mark.parametrize(("values", "options"), [
    ([6e4, -6e4], ["--alpha", "-1"]),
    ([6e4, 6e4, -6e4], ["--mode", "add-difference", "--alpha", "1"]),
    ([1e5, 1e5], ["--dtype", "fp16"]),
    ([1e5, 1e5], ["--dtype", "fp16", "--elemental", ":out.2:0"]),  # copied, not merged
])  # fmt: skip
def test_result_too_large(values: list[float], options: list[str], folder: Path, merge: Merge) -> None:
    paths = []
    for number, value in enumerate(values):
        state = random_state(LAYOUTS["sd1"], number, torch.float32 if value > 65504 else torch.float16)
        state[KEY].view(-1)[7] = value
        paths.append(save(folder / f"large{number}.safetensors", state))
    assert KEY in refusal(merge, folder, *paths, "-o", folder / "out.safetensors", "--overwrite", *options)


CHANGES: dict[str, Callable[[Path], object]] = {
    "touched": lambda path: os.utime(path, ns=(1, 1)),
    "grown": lambda path: os.truncate(path, path.stat().st_size + 9),
    "removed": Path.unlink,
    "replaced": lambda path: Path(shutil.copy(path.with_name("b.safetensors"), path.with_name("t"))).replace(path),
}


@pytest.mark.slow
@posix_only
@pytest.mark.parametrize("hashed", [True, False])
@pytest.mark.parametrize("calls_before", [0, 300])
@pytest.mark.parametrize("change", CHANGES)
def test_model_changes_while_merged(change: str, calls_before: int, hashed: bool, folder: Path) -> None:
    model, target = folder / "a.safetensors", folder / "out.safetensors"
    changes, count = [CHANGES[change]], itertools.count()

    def meddle(*_: object) -> None:
        if next(count) >= calls_before and changes:
            changes.pop()(model)

    def go_on() -> bool:
        meddle()
        return False

    controls = Controls(should_stop=go_on)
    with pytest.raises(CheckpointError, match=re.escape(str(model))):
        merge_to_file(recipe(folder), target, overwrite=True, with_hashes=hashed, on_plan=meddle, controls=controls)
    assert not list(folder.glob(TEMPORARY))
    assert target.read_bytes() == OLD


def test_model_changes_while_hashed(folder: Path) -> None:
    model = folder / "a.safetensors"
    with pytest.raises(CheckpointError, match="changed"):
        compute_sha256(model, check_stop=lambda: os.utime(model, ns=(1, 1)))
    assert remembered_sha256(model) is None
