"""Ask everything of a host at once while merges, plots and checks run: each request is answered in time.

The hosts are the stand-ins for the WebUI, reForge, Forge and Forge Neo, whose queue blocks for ever whoever waits for
it where it must not. Threads make requests of all kinds in random order while another one starts jobs. In the end, and
after Restore, the model is the user's bit for bit, nothing holds the queue, and each image was what its infotext says.
"""

from __future__ import annotations

import argparse
import logging
import queue
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import thread as pools
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from elemental import ElementalError, MergeRecipe
from elemental.images.image_request import ImageRequest
from elemental.session import merge_jobs
from elemental.session import plot_and_check_jobs as run_jobs
from elemental.session.form import MergeForm
from elemental.session.history import History
from elemental.session.job_board import JobBoard
from elemental.session.jobs import Job, JobState
from elemental.session.merge_preview import Previewer
from elemental.session.merged_model import LiveState, MergedModel
from elemental.session.run_plans import CheckForm, PlotForm
from elemental.session.session import Session

from ..webui_standin_fixtures import make_rig
from .busy_images import KnownImages
from .busy_report import Report, show, stacks
from .busy_requests import SMALL, Requests, add_vae, looks, use_vae
from .places import PLACES, few_tensors, garbage_of_now_kept, lora_layers

HOSTS = tuple(name for name in PLACES if name != "webui-computing")
ASKERS = 4
"""Threads that make requests."""
FORMS = (
    MergeForm("a.safetensors", "b.safetensors", alpha=0.5),
    MergeForm("a.safetensors", "c.safetensors", alpha=0.0, spec="OUT05:attn2:0.5"),
    MergeForm("b.safetensors", "c.safetensors", alpha=0.25, spec="BASE:mlp.fc1:1"),
)
REQUEST = ImageRequest("a cat", seed=7, steps=1, cfg=4.0, width=16, height=16)


class Busy:
    """A host on a stand-in that is kept busy.

    Args:
        rig: The stand-in and the port on it.
        folder: For images and the history.
        seed: Decides what is asked.
        limit: The seconds in which each request and each job must end.
    """

    def __init__(self, rig: Any, folder: Path, *, seed: int, limit: float) -> None:
        self.rig, self.report, self.limit, self._seed = rig, Report(), limit, seed
        rig.webui.on_step = lambda _: time.sleep(0.002)  # so that others ask for something during an image
        rig.webui.opts.outdir_txt2img_samples = str(folder / "images")
        host = rig.host
        previewer = Previewer(host.checkpoints, host.models_folder)
        history = History(folder / "history.jsonl")
        self.session = Session(host, MergedModel(host), JobBoard(), history, previewer, FORMS[0])
        self.known = KnownImages(self.report.failures)
        add_vae(rig, folder)
        self._plain = self._learn_checkpoints()
        for form in FORMS:
            self._learn_merge(self.session.recipe(form))
        use_vae(rig, False)
        self._asked: queue.Queue[tuple[str, Callable[[], object]]] = queue.Queue()
        self._running: dict[int, tuple[str, float]] = {}
        self._threads: list[threading.Thread] = []
        self._over = threading.Event()

    def _learn_checkpoints(self) -> dict[str, str]:
        """See what each checkpoint is and draws, and give the digests with their own VAE."""
        plain = {}
        for name in "abc":
            for other in (True, False):
                self.rig.webui.opts.choose("sd_model_checkpoint", f"{name}.safetensors")
                self._learn_images(other)
            self.rig.webui.generate(**SMALL)
            plain[name] = self.rig.webui.digest()
        return plain

    def _learn_images(self, other_vae: bool) -> None:
        self.rig.webui.generate(**SMALL)
        use_vae(self.rig, other_vae)
        for look in looks():
            settings = {"clip_skip": look.clip_skip}
            image = self.rig.webui.generate(look.prompt, **SMALL, override_settings=settings)
            self.known.learn(image, look)

    def _learn_merge(self, recipe: MergeRecipe) -> None:
        model = self.session.model
        for other in (True, False):
            use_vae(self.rig, other)
            with self.rig.host.job("merge", 1):
                model.merge(recipe)
            self._learn_images(other)
            assert model.live().kind is LiveState.ACTIVE
            with self.rig.host.job("restore", 1):
                model.restore()

    def attack(self, batches: Iterator[int]) -> Report:
        """Make batches of requests, each of so many of each kind, while jobs run, and look at what is left.

        Args:
            batches: Gives the number of requests of each kind until it is over.
        """
        draw = random.Random(self._seed)
        requests = Requests(self.rig, self.session, self.known, draw)
        self._threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(ASKERS)]
        self._threads.append(threading.Thread(target=self._work, args=(random.Random(self._seed),), daemon=True))
        for thread in self._threads:
            thread.start()
        try:
            if all(self._make_batch(requests, each, draw) for each in batches):
                self._over.set()
                if self.wait_for_threads():
                    self._look_at_the_end()
        finally:
            self._over.set()
        self.report.compared, self.report.merges = self.known.compared, self.known.merges
        return self.report

    def wait_for_threads(self) -> bool:
        """Wait until nobody asks for anything any more, and tell whether that came in time."""
        return self._wait(lambda: not any(thread.is_alive() for thread in self._threads))

    def _make_batch(self, requests: Requests, each: int, draw: random.Random) -> bool:
        """Make so many requests of each kind in random order, and tell whether all were answered."""
        batch = [pair for pair in requests.kinds().items() for _ in range(each)]
        draw.shuffle(batch)
        for pair in batch:
            self._asked.put(pair)
        return self._wait(lambda: self._asked.unfinished_tasks == 0)

    def _ask(self) -> None:
        while not (self._over.is_set() and self._asked.empty()):
            try:
                name, call = self._asked.get(timeout=0.05)
            except queue.Empty:
                continue
            self._do(name, call)
            self._asked.task_done()

    def _do(self, name: str, call: Callable[[], object]) -> None:
        started = time.monotonic()
        self._running[threading.get_ident()] = name, started
        try:
            call()
        except Exception as exc:
            self.report.failures.append(f"{name}: {type(exc).__name__}: {exc}")
        del self._running[threading.get_ident()]
        self.report.requests[name] += 1
        self.report.slowest[name] = max(self.report.slowest.get(name, 0.0), time.monotonic() - started)

    def _work(self, draw: random.Random) -> None:
        """Start one job after another."""
        while not self._over.is_set():
            self._running[threading.get_ident()] = "job", time.monotonic()
            form = draw.choice(FORMS)
            starts: Sequence[Callable[[], Job]] = (
                lambda: merge_jobs.merge(self.session, form, REQUEST, print_change=False),  # noqa: B023
                lambda: merge_jobs.merge(self.session, form, None, print_change=False),  # noqa: B023
                lambda: merge_jobs.generate(self.session, form, REQUEST),  # noqa: B023
                lambda: run_jobs.run_plot(self.session, form, PlotForm(x="OUT05:attn2:0.3\n\nIN04:attn2:1"), REQUEST),  # noqa: B023
                lambda: run_jobs.run_check(self.session, form, CheckForm("OUT05:attn2.to_k,IN04:attn2"), REQUEST),  # noqa: B023
            )
            try:
                (start,) = draw.choices(starts, (3, 3, 1, 1, 1))  # most requests end a merge
                self._finish(start())
            except ElementalError:
                time.sleep(0.01)  # too many are waiting
            del self._running[threading.get_ident()]

    def _finish(self, job: Job) -> None:
        while not job.view.ended:
            job.wait(job.view.version, 0.1)
        self.report.jobs[f"{job.view.name}, {job.view.state.value}"] += 1
        self.known.check_files([path for path, _ in job.view.images], looks()[0])
        if job.view.state is JobState.FAILED:
            self.report.told[job.view.text] += 1
        if "Unexpected error" in job.view.text:
            self.report.failures.append(f"{job.view.name}: {job.view.text}")

    def _wait(self, done: Callable[[], bool]) -> bool:
        """Wait until something is done, or until a request takes too long, and tell which."""
        while not done():
            time.sleep(0.02)
            now = time.monotonic()
            late = [name for name, started in list(self._running.values()) if now - started > self.limit]
            if late:
                self.report.failures.append(f"no answer in {self.limit:.0f} s: {', '.join(late)}\n{stacks()}")
                pools._threads_queues = {}  # a job that hangs must not keep this program from ending
                return False
        return True

    def _look_at_the_end(self) -> None:
        """See that nothing is held, and that after Restore the model is what the user has chosen, bit for bit."""
        rig, failures = self.rig, self.report.failures
        self._finish(merge_jobs.restore(self.session))
        use_vae(rig, False)
        rig.webui.state.begin("")
        rig.webui.state.end()
        image = rig.webui.generate(**SMALL)
        chosen = rig.webui.opts.data["sd_model_checkpoint"].partition(".")[0]
        if rig.webui.digest() != self._plain[chosen]:
            failures.append(f"in the end the model is not {chosen}")
        self.known.check(image, looks()[0])
        if self.session.model.live().kind is not LiveState.FILE:
            failures.append(f"in the end there is {self.session.model.live()}")
        if rig.webui.lock.owner is not None or rig.webui.state.job:
            failures.append("in the end the host is not free")


@contextmanager
def busy(name: str, folder: Path, *, seed: int, limit: float) -> Iterator[Busy]:
    """Make a host on a stand-in ready.

    Args:
        name: One of ``HOSTS``.
        folder: For everything that it writes.
        seed: Decides what is asked.
        limit: The seconds in which each request must be answered.
    """
    (folder / "files").mkdir()
    files, (_, kind) = few_tensors(folder / "files", lora_layers(name)), PLACES[name]
    with (
        pytest.MonkeyPatch.context() as patch,
        make_rig(folder, patch, files, kind=kind) as rig,
        garbage_of_now_kept(),
    ):
        yield Busy(rig, folder, seed=seed, limit=limit)


def until(seconds: float) -> Iterator[int]:
    """Give batches until a time is over."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield 5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", nargs="+", choices=HOSTS, default=HOSTS)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=60, help="seconds in which each request must be answered")
    options = parser.parse_args()
    logging.disable()
    failures = 0
    for name in options.hosts:
        started = time.monotonic()
        with (
            tempfile.TemporaryDirectory() as folder,
            busy(name, Path(folder), seed=options.seed, limit=options.limit) as host,
        ):
            report = host.attack(until(options.seconds))
            print(f"\n{name}: {time.monotonic() - started:.0f} s")
            show(report)
        failures += len(report.failures)
    return min(failures, 1)


if __name__ == "__main__":
    sys.exit(main())
