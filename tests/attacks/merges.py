"""Merges whose result is known, the places that they write to, and what has to hold there whatever happened."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import stat
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from elemental.cli.main import FAILED
from elemental.demo.layout import SD1_LAYOUT, shrink, tensor_shapes
from elemental.merge.files.writer import SUFFIX

from ..refusing import UNEXPECTED
from .processes import Command, Tally

OUTPUT = "out.safetensors"
PLACES = ("overwrite", "fresh", "link", "hard link", "link to another disk")
_SIZES = ((16, ()), (8, ()), (32, ()), (24, ("--dtype", "fp32")), (40, ("--dtype", "bf16")), (40, ()))
"""Width of the models, 2 to 43 MB, and what else a merge of them is given."""


class Times:
    """What a merge takes, as far as is known; other programs on the machine change it.

    Attributes:
        life: Seconds of the process.
        window: Seconds from the appearance of the temporary file to its renaming.
    """

    def __init__(self) -> None:
        self.life = self.window = 0.0

    def wait(self, command: Command, place: Place, *, all_life: bool = False) -> int:
        """Wait for the end of a merge, and note what it took; gives the exit code."""
        command.sleep_until(lambda: place.leftovers)
        begun = command.age
        command.sleep_until(lambda: not place.leftovers)
        window = command.age - begun
        code = command.wait()
        self.window = (self.window + window) / 2 if self.window else window
        self.life = command.age if all_life else self.life
        return code


class ModelFile:
    """A model as it was when it was made."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._status = path.stat()
        self._sha256 = sha256(path)

    @property
    def is_touched(self) -> bool:
        """Tell whether anything wrote to it since."""
        now, then = self._path.stat(), self._status
        return (now.st_ino, now.st_size, now.st_mtime_ns) != (then.st_ino, then.st_size, then.st_mtime_ns)

    @property
    def is_changed(self) -> bool:
        """Tell whether it has other bytes than then."""
        return sha256(self._path) != self._sha256


@dataclass(frozen=True)
class Merge:
    """A merge of two models.

    Attributes:
        name: Of it, for messages.
        models: Their files, each as it was when it was made.
        options: Everything else but the output.
        size: Of its result, in bytes.
        sha256: Of its result.
        times: What it takes.
    """

    name: str
    models: dict[Path, ModelFile]
    options: tuple[str, ...]
    size: int = 0
    sha256: str | None = ""
    times: Times = field(default_factory=Times)

    def command(self, output: Path, *more: str) -> list[object]:
        return ["merge", *self.models, *self.options, "-o", output, *more]


@dataclass(frozen=True)
class Place:
    """Where a merge writes.

    Attributes:
        output: The name that it is given.
        file: What this stands for.
        old: SHA-256 of the file that was there before; None if there was none.
        other: Another name of that file.
        status: Of that file.
    """

    output: Path
    file: Path
    old: str | None
    other: Path | None = None
    status: os.stat_result | None = None

    @property
    def replaced(self) -> bool:
        """Tell whether there is another file than before."""
        now = self.file.stat() if self.file.exists() else None
        return now is not None and (self.status is None or now.st_ino != self.status.st_ino)

    @property
    def leftovers(self) -> list[Path]:
        names = os.listdir(self.file.parent)  # noqa: PTH208 - asked a thousand times a second
        return [self.file.with_name(name) for name in names if name.endswith(SUFFIX)]

    @property
    def options(self) -> list[str]:
        return [] if self.old is None else ["--overwrite"]


def wait_for_moment(command: Command, place: Place, merge: Merge, rng: random.Random, *, aimed: float) -> None:
    """Wait for a random moment of a merge.

    Args:
        command: The merge.
        place: Where it writes.
        merge: What it writes.
        rng: Draws the moment.
        aimed: How often that is one between the appearance of the temporary file and its renaming, rather than any.
    """
    if rng.random() < aimed:
        command.sleep_until(lambda: place.leftovers)
        time.sleep(rng.uniform(0, 1.05 * merge.times.window))
    else:
        time.sleep(max(0.0, rng.uniform(0, 1.1 * merge.times.life) - command.age))


def make_merges(folder: Path, count: int, rng: random.Random, *, cold: bool) -> list[Merge]:
    """Make models and merge them once, which tells the results and what a merge takes."""
    merges = []
    (folder / "trial").mkdir()
    for number, (width, options) in enumerate(_SIZES[:count]):
        models = {}
        for name in "ab":
            path = folder / f"{name}{number}.safetensors"
            _write_model(path, width, rng)
            models[path] = ModelFile(path)
        alpha = f"{rng.random():.3f}"
        merge = Merge(f"{width} wide, {' '.join(options) or 'fp16'}", models, ("--alpha", alpha, *options))
        merges.append(_measure(merge, folder / "trial" / OUTPUT, cold=cold))
    return merges


def _write_model(path: Path, width: int, rng: random.Random) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    numbers = np.random.default_rng(rng.randrange(1 << 32))
    shapes = tensor_shapes(shrink(SD1_LAYOUT, width=width, text_width=8))
    save_file(
        {
            key: np.arange(shape[1]).reshape(shape)
            if key.endswith("position_ids")
            else numbers.normal(scale=0.05, size=shape).astype(np.float16)
            for key, shape in shapes.items()
        },
        path,
    )


def _measure(merge: Merge, output: Path, *, cold: bool) -> Merge:
    command = Command(merge.command(output), output.with_name("log"), cold=cold)
    if merge.times.wait(command, Place(output, output, None), all_life=True):
        raise RuntimeError(f"the merge that nothing disturbs fails: {command.errors}")
    found = replace(merge, size=output.stat().st_size, sha256=sha256(output))
    output.unlink()
    return found


def make_place(kind: str, folder: Path, elsewhere: Path | None, rng: random.Random) -> Place:
    """Make a folder to write to, of one of :data:`PLACES`, with an older file of random bytes."""
    for path in filter(None, (folder, elsewhere)):
        path.mkdir(exist_ok=True)
        for file in path.iterdir():
            file.unlink()
    output = file = folder / OUTPUT
    if kind.startswith("link"):
        file = (elsewhere or folder) / "linked.safetensors"
        output.symlink_to(file)
    if kind == "fresh":
        return Place(output, file, None)
    file.write_bytes(rng.randbytes(rng.randrange(3 << 20)))
    file.chmod(rng.choice((0o644, 0o600, 0o664, 0o444)))
    other = None
    if kind == "hard link":
        other = folder / "other.safetensors"
        other.hardlink_to(file)
    return Place(output, file, sha256(file), other, file.stat())


def sha256(path: Path) -> str | None:
    """Give a file's SHA-256; None if there is no file."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None


class Judge:
    """Tells after each blow what is wrong.

    Args:
        tally: Takes what is found.
        folder: For the logs.
    """

    def __init__(self, tally: Tally, folder: Path) -> None:
        self.tally = tally
        self._log = folder / "next"

    def judge(
        self, place: Place, merges: Sequence[Merge], codes: Sequence[int], what: str, *, may_be_new: bool = False
    ) -> bool:
        """Check the target and all around it; tells whether the target is new.

        Args:
            place: Where was written.
            merges: What was written, at the same time if there are several.
            codes: Their exit codes.
            what: Was done, for messages.
            may_be_new: Whether a merge that failed has said that it had saved the target before.
        """
        found = sha256(place.file)
        failed = FAILED if not may_be_new else None
        new = {merge.sha256 for merge, code in zip(merges, codes, strict=True) if code != failed}
        check = self.tally.check
        check(found in new | {place.old}, f"{what}: the target is neither the old file nor the new one, {codes}")
        check(0 not in codes or found in new, f"{what}: the target is old, though a merge ended well")
        check(any(code != failed for code in codes) or found == place.old, f"{what}: the target is new, and {codes}")
        check(place.other is None or sha256(place.other) == place.old, f"{what}: the file's other name lost its bytes")
        check(place.output == place.file or place.output.is_symlink(), f"{what}: the link is gone")
        dead = sum(code != 0 for code in codes)
        check(len(place.leftovers) <= dead, f"{what}: too many leftovers, {place.leftovers} after {codes}")
        if place.status is not None:
            mode = stat.filemode(place.file.stat().st_mode)
            check(mode == stat.filemode(place.status.st_mode), f"{what}: the file has another mode, {mode}")
        for merge in merges:
            for path, model in merge.models.items():
                check(not model.is_touched, f"{what}: {path.name} was touched")
        return found != place.old

    def stopped(self, place: Place, command: Command, what: str) -> None:
        """Check that a merge that was stopped says what is true, and leaves nothing."""
        text, count = command.errors, len(place.leftovers)
        done = f"{place.file} was saved before that" if place.replaced else "nothing was changed"
        self.tally.check(
            text == f"Stopped; {done}.\n" and not count, f"{what}: {place.replaced=}, {count} leftovers, {text!r}"
        )

    def refused(self, command: Command, what: str) -> None:
        """Check that a merge ended with one clear message."""
        text = command.errors
        good = command.code == 1 and text.startswith("error: ") and 1 <= len(text.splitlines()) <= 3
        good = good and text.count("error: ") == 1 and not UNEXPECTED.search(text)
        self.tally.check(good, f"{what}: exit code {command.code} with {text!r}")

    def try_again(self, place: Place, merge: Merge, what: str, *, name: str | None = None) -> None:
        """Check that the next merge into the folder succeeds, and that it clears up."""
        output, file = (place.output, place.file) if name is None else [place.file.with_name(name)] * 2
        command = Command(merge.command(output, "--overwrite"), self._log)
        code = merge.times.wait(command, place)
        self.tally.check(code == 0, f"{what}, then the next merge: exit code {code}, {command.errors}")
        self.tally.check(sha256(file) == merge.sha256, f"{what}, then the next merge: another file than it should be")
        known = {place.output, place.file, place.other, file}
        strange = [path.name for folder in {path.parent for path in known if path} for path in folder.iterdir()]
        strange = [name for name in strange if name not in {path.name for path in known if path}]
        strange = [name for name in strange if name not in {"filler", "lost+found"}]
        self.tally.check(not strange, f"{what}, then the next merge: {strange} stay")


def clear_cache(cache: Path) -> None:
    """Have the models' hashes computed anew, in a folder that holds nothing else."""
    shutil.rmtree(cache, ignore_errors=True)
