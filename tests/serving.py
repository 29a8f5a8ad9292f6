"""The tab, served: in this process, or in another one, ``python -m tests.serving``, that tells what it holds."""

from __future__ import annotations

import hashlib
import json
import os
import queue
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import pytest

from elemental.demo.checkpoint_pair import copy_pair
from elemental.images.image_request import ImageRequest
from elemental.merge.files.checkpoint import Checkpoint
from elemental.merge.files.hashes import CACHE_VARIABLE
from elemental.session.history import History
from elemental.session.run_devices import RunDevices
from elemental.workflows import CONFIG_VARIABLE

_ROOT = Path(__file__).parents[1]
_SECONDS_TO_START = 120


@dataclass
class Site:
    """The tab, served.

    Attributes:
        url: Its address.
        models: The folder of checkpoints.
        output: The folder for images.
        host: What makes them; None where another process has it.
    """

    url: str
    models: Path
    output: Path
    host: Any

    @property
    def loras(self) -> Path:
        """The folder of LoRAs; it is not there until a test makes it."""
        return self.models.parent / "loras"

    def reset(self) -> None:
        """Make it what it was when it was served first, but for what is loaded: each test finds the same."""
        from elemental.session.form import MergeForm
        from elemental.session.session import session_of

        session = session_of(self.host)
        session.board.drop_all()
        session.stop()
        while session.board.busy:
            time.sleep(0.01)
        session.model.restore()
        session.board.clear()
        session.previewer.find_effects = None
        session.previewer.kept_effects.clear()
        session.panels.clear()
        session.search = session.effects = None
        session.history = History(session.history._path.with_name(f"history-{time.time_ns()}.jsonl"))
        for folder in (self.output, self.loras):
            shutil.rmtree(folder, ignore_errors=True)
        for path in self.models.iterdir():
            if path.stem not in ("a", "b"):
                path.unlink()
        self.host.refresh()
        session.form, session.live_form = MergeForm("a.safetensors", "b.safetensors"), MergeForm()


def make_host(models: Path, output: Path, *, noise: bool = False) -> Any:
    """Make the host on diffusers, or where that is not installed, or noise will do, one whose images are noise."""
    if noise or find_spec("diffusers") is None:
        from tests.fake_host import FakeHost

        def load(path: Path) -> dict[str, Any]:
            with Checkpoint(path) as file:
                tensors = {key: file.tensor(key).clone() for key in file.tensors}
            return {key: (tensor,) for key, tensor in tensors.items() if tensor.is_floating_point()}

        return FakeHost(load, output=output, models=models)
    from elemental.hosts.standalone.host import StandaloneHost

    return StandaloneHost(models=models, output=output)


@contextmanager
def served(
    folder: Path,
    *,
    noise: bool = False,
    port: int | None = None,
    pages: Sequence[str] = (),
    devices: RunDevices | None = None,
) -> Iterator[Site]:
    """Serve the tab in this process: the demo's pair in ``models``, images, maybe of noise, in ``out``.

    Args:
        folder: Where these folders are made.
        noise: Whether the host draws noise.
        port: The port; None for a free one.
        pages: The pages that a host of noise can send images to.
        devices: Where the images of runs can be made; None for the host alone.
    """
    from elemental.ui.gradio_compat import serve
    from elemental.ui.image_form import StandaloneImageForm
    from elemental.ui.tab import make_tab

    models, output = folder / "models", folder / "out"
    copy_pair(models)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CONFIG_VARIABLE, str(folder / "config"))
        host = make_host(models, output, noise=noise)
        if pages:
            host.pages = list(pages)
        request = ImageRequest("a red circle on blue", seed=3, steps=2, cfg=4.0, width=64, height=64)
        page = make_tab(host, StandaloneImageForm(host, request), standalone=True, devices=devices)
        _, url = serve(page, host="127.0.0.1", port=port, files=[output], wait=False)
        try:
            yield Site(url, models, output, host)
        finally:
            page.close()


class Apart:
    """The tab in another process, which logs into a file; killed at the end if it does not stop.

    Args:
        folder: As for :func:`served`; the log goes there, too, and gradio's copies.
        noise: As for :func:`served`.

    Attributes:
        site: The tab.
        log: What the process wrote.
        pid: Its number.
    """

    def __init__(self, folder: Path, *, noise: bool = False) -> None:
        self.log = folder / "server.log"
        (folder / "work").mkdir(parents=True, exist_ok=True)
        places = {name: str(folder / name) for name in ("config", "hashes", "gradio")}
        variables = {CONFIG_VARIABLE: "config", CACHE_VARIABLE: "hashes", "GRADIO_TEMP_DIR": "gradio"}
        self._log: IO[bytes] = self.log.open("wb")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.serving", str(folder), *(["noise"] if noise else [])],
            cwd=folder / "work",
            env=os.environ | {name: places[place] for name, place in variables.items()} | {"PYTHONPATH": str(_ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
        )
        self.pid = self._process.pid
        self._answers: queue.Queue[bytes] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        said = json.loads(self._answers.get(timeout=_SECONDS_TO_START) or "{}")
        assert said, self.log.read_text(errors="replace")
        self.site = Site(said["url"], folder / "models", folder / "out", None)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put(b"")

    def __enter__(self) -> Apart:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def runs(self) -> bool:
        """Tell whether the process lives."""
        return self._process.poll() is None

    def facts(self) -> dict[str, Any]:
        """Ask what it holds: threads, descriptors, memory in MB, and the live model."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"facts\n")
        self._process.stdin.flush()
        facts: dict[str, Any] = json.loads(self._answers.get(timeout=60))
        return facts


def _facts(host: Any) -> dict[str, Any]:
    from elemental.session.session import session_of

    job = session_of(host).board.job
    loaded = host.loaded()
    kept = Path("/proc/self/status").read_text() if sys.platform == "linux" else "VmRSS: 0 kB"
    return {
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "files": len(list(Path("/proc/self/fd").iterdir())) if sys.platform == "linux" else 0,
        "memory": int(kept.partition("VmRSS:")[2].split()[0]) // 1024,
        "job": "" if job is None else f"{job.view.name}: {job.view.state.value}",
        "live": session_of(host).model.live().kind.value,
        "loaded": "" if loaded is None else str(loaded.path),
        "digest": "" if loaded is None else digest_of(host.open_model(loaded)),
    }


def digest_of(live: Any) -> str:
    """Give the SHA-256 of a live model's numbers."""
    digest = hashlib.sha256()
    for key, parts in sorted(live.tensors().items()):
        digest.update(key.encode())
        for part in parts:
            digest.update(part.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the program prints belongs into the log
    with served(Path(sys.argv[1]), noise="noise" in sys.argv) as site:
        print(json.dumps({"url": site.url}), file=answers, flush=True)
        for _ in sys.stdin:
            print(json.dumps(_facts(site.host)), file=answers, flush=True)


if __name__ == "__main__":
    _main()
