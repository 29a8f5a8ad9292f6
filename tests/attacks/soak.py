"""Merge, draw, plot, save and restore hundreds of times in one process, as the tab does, and see that memory is flat.

What counts is anonymous memory (RssAnon), since pages of mapped checkpoints count in RSS and are the system's to take,
and what of it is in use, as glibc counts it: the rest are gaps between living pieces, which come and go by chance.
Every tenth round the merge is taken out, and what must not grow at all is counted: files, threads, maps and tensors.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from elemental import MergeMode
from elemental.demo.checkpoint_pair import copy_pair
from elemental.hosts.base import CheckpointRef
from elemental.images.image_request import ImageRequest
from elemental.session import merge_jobs as actions
from elemental.session import plot_and_check_jobs as run_actions
from elemental.session.form import MergeForm
from elemental.session.history import History
from elemental.session.job_board import JobBoard
from elemental.session.jobs import Job, JobState
from elemental.session.merge_preview import Previewer
from elemental.session.merged_model import MergedModel
from elemental.session.run_plans import PlotForm
from elemental.session.session import Session

EVERY = 10
WARM = 10
"""Rounds until everything has been done once: what is loaded or made ready the first time is no growth."""
MOST_MB = 32
"""Half of the demo pair's live model in fp32 (53 MB) is the most that may be gained: a single model that is kept would
show, while what glibc's arenas and torch's buffers gain and lose from round to round (some 10 MB) does not."""

MOST_USED_MB = 4
"""What is in use shows a single part of a model: the text encoder, the smallest of the demo pair, has 6.6."""

SPECS = (
    "",
    "OUT03:attn2:1",
    "IN04-OUT05:attn2:0.7,BASE:mlp:1",
    "OUT00-OUT11::0.25",
    "NOT IN00-IN11:attn1:0.9",
    ":ff.net:0.4,M00::1",
)


@dataclass(frozen=True)
class Sample:
    """What a process holds after a round, with no merge in the model.

    Attributes:
        round: Which one.
        anon: Anonymous memory in KB: what the process has taken and not given back.
        used: Of malloc's memory, what is in use, in KB; 0 where the C library does not tell.
        rss: All memory in KB, mapped files' pages included.
        files: Open file descriptors.
        threads: Of Python and of the system.
        maps: Checkpoints that are mapped.
        tensors: Living tensors.
        objects: Living Python objects that the collector knows of.
        cuda: Bytes of the GPU's memory that tensors take.
    """

    round: int
    anon: int
    used: int
    rss: int
    files: int
    threads: int
    maps: int
    tensors: int
    objects: int
    cuda: int


COUNTED = ("files", "threads", "maps", "tensors")


def take_sample(number: int) -> Sample:
    gc.collect()
    _give_back_free_memory()
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    known = gc.get_objects()
    return Sample(
        number,
        anon=_kilobytes(status["RssAnon"]),
        used=_malloc_kilobytes(),
        rss=_kilobytes(status["VmRSS"]),
        files=len(list(Path("/proc/self/fd").iterdir())),
        threads=int(status["Threads"]),
        maps=sum(line.endswith(".safetensors") for line in Path("/proc/self/maps").read_text().splitlines()),
        tensors=sum(issubclass(type(found), torch.Tensor) for found in known),
        objects=len(known),
        cuda=torch.cuda.memory_allocated() if torch.cuda.is_available() else 0,
    )


def _give_back_free_memory() -> None:
    """Have glibc give the system what it keeps free, some 30 to 110 MB, for that says nothing of what is held."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


class _MallInfo2(ctypes.Structure):
    """The struct of that name, of glibc from 2.33 on; in bytes."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    )


def _malloc_kilobytes() -> int:
    try:
        ask = ctypes.CDLL("libc.so.6").mallinfo2
    except (OSError, AttributeError):
        return 0
    ask.restype = _MallInfo2
    told = ask()
    return int(told.uordblks + told.hblkhd) // 1024


def _kilobytes(text: str) -> int:
    return int(text.split()[0])


class Soak:
    """A user who never closes the program.

    Args:
        folder: For checkpoints, images and the history.
        device: Of the host.
        seed: Decides what the user does.
        modes: The modes that the user merges in.
    """

    def __init__(self, folder: Path, *, device: str, seed: int, modes: Sequence[MergeMode] = tuple(MergeMode)) -> None:
        from elemental.hosts.standalone.host import StandaloneHost

        self.models = folder / "models"
        copy_pair(self.models)
        (self.models / "damaged.safetensors").write_bytes((self.models / "a.safetensors").read_bytes()[:5000])
        self.host = StandaloneHost(device=device, models=self.models, output=folder / "images")
        history = History(folder / "history.jsonl")
        self.session = Session(
            self.host, MergedModel(self.host), JobBoard(), history, Previewer(self.host.checkpoints), MergeForm()
        )
        self.modes = modes
        self.done: dict[str, int] = {}
        self._draw = random.Random(seed)
        self._saved: list[str] = []

    def round(self, number: int) -> None:
        """Merge and draw, and now and then do something else."""
        form = self._form()
        self.session.previewer.look(replace(form, spec=f"{form.spec},OUT{number % 12:02}:attn1:0.{number % 10}"))
        request = ImageRequest("a red circle", seed=number, steps=1 + number % 2, width=64, height=64)
        self._do("merge and image", lambda: actions.merge(self.session, form, request, print_change=False))
        others: dict[str, Callable[[], Job]] = {
            "image": lambda: actions.generate(self.session, form, request),
            "restore": lambda: actions.restore(self.session),
            "save": lambda: self._save(form),
            "plot": lambda: self._plot(form, request),
            "refused merge": lambda: self._refused(form),
        }
        names = list(others)
        # everything once in the first rounds, and then whatever comes
        name = names[number % len(names)] if number <= WARM else self._draw.choice([*names, "", "", ""])
        if name:
            self._do(name, others[name], fails=name.startswith("refused"))

    def rest(self) -> None:
        """Take the merge out, and have A loaded: the same state each time."""
        self._do("restore", lambda: actions.restore(self.session))
        self.host.open_model(CheckpointRef("a", self.models / "a.safetensors"))

    def _form(self) -> MergeForm:
        draw = self._draw
        mode = draw.choice(self.modes)
        a, b = ("a", "b") if draw.random() < 0.8 else ("b", "a")
        saved = draw.choice(self._saved) if self._saved and draw.random() < 0.3 else f"{b}.safetensors"
        return MergeForm(
            model_a=f"{a}.safetensors",
            model_b=saved,
            model_c=f"{b}.safetensors",
            mode=mode.value,
            alpha=round(draw.uniform(0, 0.5), 2),
            beta=round(draw.uniform(0, 0.5), 2),
            blocks=",".join(["0.5"] * 26) if draw.random() < 0.2 else "",
            spec=draw.choice(SPECS),
            vae=draw.choice(["merged", "a", "b"]),
        )

    def _save(self, form: MergeForm) -> Job:
        names = [name for name in ("saved0", "saved1", "saved2") if f"{name}.safetensors" != form.model_b]
        name = self._draw.choice(names)
        self._saved = sorted({*self._saved, f"{name}.safetensors"})
        return actions.save(self.session, form, name, overwrite=True)

    def _plot(self, form: MergeForm, request: ImageRequest) -> Job:
        plot = PlotForm(x_type="alpha", x="0.1,0.4", y_type="seed", y="1,2")
        return run_actions.run_plot(self.session, replace(form, blocks="", spec=""), plot, replace(request, steps=1))

    def _refused(self, form: MergeForm) -> Job:
        return actions.merge(self.session, replace(form, model_a="damaged.safetensors"), None, print_change=False)

    def _do(self, name: str, start: Callable[[], Job], *, fails: bool = False) -> None:
        job, version = start(), 0
        while not (view := job.wait(version, 60)).ended:
            version = view.version
        if view.state is not (JobState.FAILED if fails else JobState.DONE):
            raise AssertionError(f"{name}: {view.state.value}: {view.text}")
        self.done[name] = self.done.get(name, 0) + 1


def soak(
    folder: Path, rounds: int, *, device: str = "cpu", seed: int = 0, modes: Sequence[MergeMode] = tuple(MergeMode)
) -> tuple[Soak, list[Sample]]:
    """Go through some rounds, and give what was held after every tenth."""
    user = Soak(folder, device=device, seed=seed, modes=modes)
    samples = []
    for number in range(1, rounds + 1):
        user.round(number)
        if number % EVERY == 0 or number == rounds:
            user.rest()
            samples.append(take_sample(number))
    return user, samples


def judge(samples: Sequence[Sample]) -> list[str]:
    """Tell what has grown since the first sample."""
    first, last = samples[0], samples[-1]
    grown = [
        f"{name} grew from {getattr(first, name)} to {max(getattr(sample, name) for sample in samples)}"
        for name in (*COUNTED, "cuda")
        if any(getattr(sample, name) > getattr(first, name) for sample in samples)
    ]
    for name, what, most in (("anon", "anonymous memory", MOST_MB), ("used", "memory in use", MOST_USED_MB)):
        megabytes = (getattr(last, name) - getattr(first, name)) / 1024
        if megabytes > most:
            grown.append(f"{what} grew by {megabytes:.1f} MB, more than {most}")
    return grown


def slope(samples: Sequence[Sample]) -> float:
    """Fit a line to anonymous memory by least squares, in KB a round."""
    rounds, sizes = [sample.round for sample in samples], [sample.anon for sample in samples]
    middle, mean = sum(rounds) / len(rounds), sum(sizes) / len(sizes)
    spread = sum((number - middle) ** 2 for number in rounds)
    both = zip(rounds, sizes, strict=True)
    return sum((number - middle) * (size - mean) for number, size in both) / spread if spread else 0.0


def show(samples: Sequence[Sample], rounds: int) -> None:
    shown = {WARM, 50, *range(100, rounds, 100), rounds}
    names: list[tuple[str, Callable[[Sample], Any]]] = [
        ("round", lambda s: s.round),
        ("RssAnon MB", lambda s: f"{s.anon / 1024:.1f}"),
        ("in use MB", lambda s: f"{s.used / 1024:.1f}"),
        ("RSS MB", lambda s: f"{s.rss / 1024:.1f}"),
        *((name, lambda s, name=name: getattr(s, name)) for name in (*COUNTED, "objects")),
        ("GPU MB", lambda s: f"{s.cuda / 2**20:.1f}"),
    ]
    print(" ".join(f"{name:>10}" for name, _ in names))
    for sample in samples:
        if sample.round in shown:
            print(" ".join(f"{value(sample):>10}" for _, value in names))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="of torch; more would only wait for each other")
    options = parser.parse_args()
    if options.device != "cpu" and not torch.cuda.is_available():
        print(f"skipped: there is no {options.device} here")
        return 0
    torch.set_num_threads(options.threads)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        user, samples = soak(Path(folder), options.rounds, device=options.device, seed=options.seed)
        history = (Path(folder) / "history.jsonl").stat().st_size
    show(samples, options.rounds)
    print(", ".join(f"{count} x {name}" for name, count in user.done.items()))
    print(f"{options.rounds} rounds in {time.perf_counter() - started:.0f} s on {options.device}")
    first, last = samples[0], samples[-1]
    taken, used = (last.anon - first.anon) / 1024, (last.used - first.used) / 1024
    print(f"from round {first.round} on: anonymous memory {taken:+.1f} MB ({slope(samples):+.1f} KB a round)")
    print(f"in use: {used:+.2f} MB")
    print(f"history file: {history / options.rounds:.0f} bytes a round")
    grown = judge(samples)
    for failure in grown:
        print(f"FAILURE {failure}")
    print(f"failures: {len(grown)}")
    return min(len(grown), 1)


if __name__ == "__main__":
    sys.exit(main())
