"""A short run of the attack on saving, and each defect that the long one found, by itself."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from elemental import MergeError, MergeRecipe, Stopped, merge_to_file, model_source
from elemental.cli import main as cli
from elemental.merge.files import writer
from elemental.merge.files.checkpoint import Checkpoint

ROOT = Path(__file__).parents[1]
OLD = b"an older result"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs fork, and signals as Linux has them")


@pytest.mark.slow
def test_short_attack(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.attacks.saving", "--rounds", "5", "--warm"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert {"kills: 5", "pairs: 1", "lost permissions: 1"} <= set(done.stdout.splitlines())


@pytest.fixture
def recipe(models: Mapping[str, Path]) -> MergeRecipe:
    return MergeRecipe(model_source(models["a"]), model_source(models["b"]))


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Give an older result that its owner alone may read."""
    path = tmp_path / "out.safetensors"
    path.write_bytes(OLD)
    path.chmod(0o600)
    return path


def test_a_file_keeps_its_mode(recipe: MergeRecipe, target: Path) -> None:
    merge_to_file(recipe, target, overwrite=True)
    assert target.read_bytes() != OLD
    assert stat.S_IMODE(target.stat().st_mode) == 0o600


@pytest.mark.parametrize("call", ["unlink", "is_dir", "samefile", "scandir", "statvfs"])
def test_folder_that_closes_meanwhile(
    call: str, recipe: MergeRecipe, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever of the folder fails after the merge began, one error of the program's own says so."""
    denied = PermissionError(13, "Permission denied", str(target))

    def fail(*_: object, **__: object) -> object:
        raise denied

    def close(_plan: object) -> None:
        if call in ("unlink", "is_dir"):
            monkeypatch.setattr(Path, call, fail)
        elif call != "samefile":
            monkeypatch.setattr(os, call, fail)
        monkeypatch.setattr(os, "fsync", fail)

    if call == "samefile":
        monkeypatch.setattr(Path, call, fail)
    with pytest.raises(MergeError, match="Permission denied"):
        merge_to_file(recipe, target, overwrite=True, on_plan=close)
    assert target.read_bytes() == OLD


def test_interrupt_after_the_renaming(recipe: MergeRecipe, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_folder: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(writer, "_sync_folder", interrupt)
    with pytest.raises(Stopped, match=re.escape(f"{target} was saved before that")):
        merge_to_file(recipe, target, overwrite=True)
    assert target.read_bytes() != OLD


def test_interrupt_while_the_temporary_file_is_made(
    recipe: MergeRecipe, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def open_and_interrupt(path: Path, flags: int, mode: int = 0o777) -> int:
        file = real(path, flags, mode)
        if str(path).endswith(writer.SUFFIX):
            os.close(file)
            raise KeyboardInterrupt
        return file

    monkeypatch.setattr(os, "open", open_and_interrupt)
    with pytest.raises(KeyboardInterrupt):
        merge_to_file(recipe, target, overwrite=True)
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_interrupt_that_another_library_swallows(
    recipe: MergeRecipe, target: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Torch makes an error of its own of an interrupt that hits it at the wrong moment."""

    def swallow(_checkpoint: Checkpoint, _key: str) -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt:
            raise ValueError("could not determine the shape") from None

    monkeypatch.setattr(Checkpoint, "data", swallow)
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    try:
        models = [source.path for source in recipe.sources.values()]
        assert cli.main(["merge", *models, "-o", str(target), "--overwrite"]) == cli.STOPPED
    finally:
        for number, handler in zip((signal.SIGTERM, signal.SIGINT), before, strict=True):
            signal.signal(number, handler)
    assert capsys.readouterr().err == "Stopped; nothing was changed.\n"
    assert target.read_bytes() == OLD
