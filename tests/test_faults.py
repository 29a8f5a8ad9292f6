"""What can go wrong outside the program: bad files, full disks, signals, kills; an older result survives it all."""

from __future__ import annotations

import errno
import io
import itertools
import os
import pickle
import re
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from elemental import cli
from elemental.errors import CheckpointError, MergeError, Stopped
from elemental.merge import writer
from elemental.merge.controls import Controls
from elemental.merge.hashes import compute_sha256, remembered_sha256
from elemental.merge.plan import Role
from elemental.merge.sources import model_source
from elemental.spec.recipe import MergeRecipe
from elemental.workflows import merge_to_file

from .conftest import LAYOUTS, random_state, save

Merge = Callable[..., tuple[int, str]]
ROOT = Path(__file__).parents[1]
OLD = b"an older result"
TEMPORARY = f".*{writer.SUFFIX}"
KEY = "model.diffusion_model.out.2.weight"
OTHER_KEY = "model.diffusion_model.out.2.bias"

posix_only = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals, modes or links")


@pytest.fixture
def folder(tmp_path: Path, models: dict[str, Path]) -> Path:
    """Give a folder with models a and b, and with an older result."""
    for name in "ab":
        shutil.copy(models[name], tmp_path)
    (tmp_path / "out.safetensors").write_bytes(OLD)
    return tmp_path


@pytest.fixture
def merge(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Merge:
    """Give the command ``elemental merge``, run in this process for speed; it gives exit code and stderr."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # pytest keeps its own handlers
    return lambda *arguments: (cli.main(["merge", *map(str, arguments)]), capsys.readouterr().err)


def refusal(merge: Merge, folder: Path, *arguments: object) -> str:
    """Check that a merge is refused properly and changes nothing in a folder; give the message."""
    before = snapshot(folder)
    code, error = merge(*arguments)
    assert code == cli.FAILED, error
    assert error.startswith("error: ")
    assert len(error.splitlines()) <= 3
    assert not re.search("Traceback|defect", error), error
    assert snapshot(folder) == before
    return error


def snapshot(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def inputs(folder: Path) -> tuple[Path, Path]:
    return folder / "a.safetensors", folder / "b.safetensors"


def recipe(folder: Path) -> MergeRecipe:
    a, b = map(model_source, inputs(folder))
    return MergeRecipe(a, b)


def tensor(start: int, end: int, dtype: str = "F16") -> str:
    shape = (end - start) // (8 if dtype == "C64" else 2)
    return f'"w{start}": {{"dtype": "{dtype}", "shape": [{shape}], "data_offsets": [{start}, {end}]}}'


def with_header(*tensors: str) -> bytes:
    text = f"{{{','.join(tensors)}}}".encode()
    return struct.pack("<Q", len(text)) + text + bytes(8)


def pickled(content: object, *, as_zip: bool = True) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=as_zip)
    return file.getvalue()


STATE = random_state(LAYOUTS["sd1"], 1)
WHOLE = with_header(tensor(0, 8))
ZIPPED, UNZIPPED = (pickled({"w": torch.ones(8)}, as_zip=as_zip) for as_zip in (True, False))
BAD_MODELS: dict[str, tuple[str, bytes | None]] = {
    "missing": (".safetensors", None),
    "folder": (".safetensors", None),
    "wrong suffix": (".txt", WHOLE),
    "empty": (".safetensors", b""),
    "header cut off": (".safetensors", WHOLE[:20]),
    "tensors cut off": (".safetensors", WHOLE[:-1]),
    "offsets past the end": (".safetensors", with_header(tensor(0, 800))),
    "overlapping": (".safetensors", with_header(tensor(0, 6), tensor(2, 8))),
    "10 GB header": (".safetensors", struct.pack("<Q", 10**10) + WHOLE[8:]),
    "largest header": (".safetensors", struct.pack("<Q", 2**64 - 1) + WHOLE[8:]),
    "not JSON": (".safetensors", with_header("once upon a time")),
    "unknown format": (".safetensors", with_header(tensor(0, 8, "F17"))),
    "unused format": (".safetensors", with_header(tensor(0, 8, "C64"))),
    "zip cut off": (".ckpt", ZIPPED[:-30]),
    "old format cut off": (".ckpt", UNZIPPED[:-8]),
    # The last name in a file of the old format is that of the numbers; tensors ask for another.
    "numbers misplaced": (".ckpt", re.sub(rb"(?s)\d{6,}(?!.*\d{6})", lambda name: b"0" * len(name[0]), UNZIPPED)),
    "junk": (".pt", b"once upon a time"),
    "junk like a pickle": (".pt", b"\x80\x02X\x09"),
    "numbered": (".pt", pickled({1: STATE[KEY]})),
    "sparse": (".pt", pickled({**STATE, KEY: STATE[KEY].float().to_sparse()})),
    "without numbers": (".pt", pickled({**STATE, KEY: STATE[KEY].to("meta")})),
}


@pytest.mark.parametrize("name", BAD_MODELS)
def test_bad_model(name: str, folder: Path, merge: Merge) -> None:
    suffix, data = BAD_MODELS[name]
    bad = folder / f"bad{suffix}"
    if data is not None:
        bad.write_bytes(data)
    elif name == "folder":
        bad.mkdir()
    a, output = folder / "a.safetensors", folder / "out.safetensors"
    assert bad.name in refusal(merge, folder, a, bad, "-o", output, "--overwrite")


class Attack(str):
    def __reduce__(self) -> tuple[object, ...]:
        return open, (str(self), "w")


@pytest.mark.parametrize("form", ["zip", "old", "bare pickle"])
def test_model_that_wants_to_run_code(form: str, folder: Path, merge: Merge) -> None:
    content = {"state_dict": {KEY: 1}, "extra": Attack(folder / "marker")}
    bad, b = folder / "bad.ckpt", folder / "b.safetensors"
    bad.write_bytes(pickle.dumps(content, 2) if form == "bare pickle" else pickled(content, as_zip=form == "zip"))
    # That the folder stays as it was means that there is no marker, either.
    assert "wants to run code" in refusal(merge, folder, bad, b, "-o", folder / "new.safetensors")


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


@posix_only
@pytest.mark.parametrize(("forbidden", "mode"), [("bad.sft", 0), ("bad.ckpt", 0), ("results", 0o555), ("results", 0)])
def test_no_permission(forbidden: str, mode: int, folder: Path) -> None:
    (folder / "results").mkdir()
    for name in ("results/out.safetensors", "bad.sft", "bad.ckpt"):
        (folder / name).write_bytes(WHOLE)
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
from elemental import cli
from elemental.merge.writer import SafetensorsWriter
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
            end = time.monotonic() + 30
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
    _, error = slow_merge.communicate(timeout=10)
    assert (slow_merge.returncode, error) == (cli.STOPPED, "Stopped; nothing was changed.\n")
    assert not list(folder.glob(TEMPORARY))
    assert (folder / "out.safetensors").read_bytes() == OLD


@posix_only
def test_impatience(folder: Path, slow_merge: subprocess.Popen[str]) -> None:
    for _ in range(3):
        slow_merge.send_signal(signal.SIGINT)
        time.sleep(0.02)
    slow_merge.communicate(timeout=10)
    assert not list(folder.glob(TEMPORARY))
    assert (folder / "out.safetensors").read_bytes() == OLD


def test_kill(folder: Path, slow_merge: subprocess.Popen[str], merge: Merge) -> None:
    slow_merge.kill()
    slow_merge.communicate(timeout=30)
    assert len(list(folder.glob(TEMPORARY))) == 1
    assert merge(*inputs(folder), "-o", folder / "new.safetensors") == (cli.DONE, "")
    assert not list(folder.glob(TEMPORARY))
    assert (folder / "out.safetensors").read_bytes() == OLD


def test_two_merges_into_one_folder(folder: Path, slow_merge: subprocess.Popen[str], merge: Merge) -> None:
    in_use = list(folder.glob(TEMPORARY))
    assert merge(*inputs(folder), "-o", folder / "new.safetensors") == (cli.DONE, "")
    assert list(folder.glob(TEMPORARY)) == in_use != []
    (folder / "hurry").touch()
    _, error = slow_merge.communicate(timeout=30)
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


def test_interrupt_while_threads_start(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, count = ThreadPoolExecutor.submit, itertools.count()

    def submit_and_interrupt(pool: ThreadPoolExecutor, work: Callable[[], None]) -> None:
        real(pool, work)
        raise KeyboardInterrupt

    monkeypatch.setattr("elemental.merge.execute._THREAD_BYTES", 1)  # small models, too, are worth threads
    monkeypatch.setattr(ThreadPoolExecutor, "submit", submit_and_interrupt)
    controls = Controls(should_stop=lambda: next(count) < 0 or threading.Event().wait(0.001))
    with pytest.raises(KeyboardInterrupt):
        merge_to_file(recipe(folder), folder / "new.safetensors", with_hashes=False, controls=controls)
    assert next(count) < 100  # of more than a thousand tensors


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
