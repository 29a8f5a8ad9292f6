"""The smaller parts of the stand-in for the WebUI: settings, progress, queue, requests and scripts."""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

from PIL import Image

FIELDS: dict[str, Any] = {
    "prompt": "", "negative": "", "styles": [], "count": 1, "size": 1, "cfg": 4.0, "height": 64, "width": 64,
    "hires": False, "scale": 1.0, "second": "Use same checkpoint", "overrides": [],
}  # fmt: skip
"""The fields of the txt2img tab and what they say at first, without the task and without the scripts'."""
SCRIPT_FIELDS: dict[str, tuple[str, Any]] = {
    "script": ("", 0),
    "steps": ("sampler.py", 2),
    "sampler": ("sampler.py", "Euler a"),
    "scheduler": ("sampler.py", "Automatic"),
    "seed": ("seed.py", -1),
    "refiner": ("refiner.py", None),
    "glow": ("glow.py", 0.0),
    "unit": ("control.py", None),
    "grain": ("grain.py", 0.0),
}
"""The arguments of scripts: which script is chosen, then the file of each script and what its field says at first.

glow.py and control.py, which takes an image, run with every image; grain.py is in the list of scripts.
"""
DEFAULTS = list(FIELDS.values())
SCRIPTS = [value for _, value in SCRIPT_FIELDS.values()]


def tab_values(**changes: Any) -> list[Any]:
    """Give what the Generate button gets of the txt2img tab, without the task."""
    return list({**dict(zip([*FIELDS, *SCRIPT_FIELDS], [*DEFAULTS, *SCRIPTS], strict=True)), **changes}.values())


def tab_component(name: str) -> Any:
    """Make a field of the txt2img tab."""
    script, value = SCRIPT_FIELDS.get(name, ("", FIELDS.get(name)))
    made = SimpleNamespace(elem_id=f"txt2img_{name}", label=name, value=value)
    if script:
        made.custom_script_source = script
    if name == "script":
        made.type, made.choices, made.value = "index", ["None", "Grain"], "None"
    return made


class FifoLock:
    """A lock that those who wait for it get in the order in which they came."""

    def __init__(self) -> None:
        self._changing = threading.Lock()
        self.waiting: deque[threading.Lock] = deque()
        self._is_held = False

    def acquire(self, blocking: bool = True) -> bool:
        with self._changing:
            if not self._is_held:
                self._is_held = True
                return True
            if not blocking:
                return False
            turn = threading.Lock()
            turn.acquire()
            self.waiting.append(turn)
        return turn.acquire()

    def release(self) -> None:
        with self._changing:
            if self.waiting:
                self.waiting.popleft().release()
            else:
                self._is_held = False


class QueueLock:
    """The WebUI's queue lock blocks a thread that takes it twice; this one tells."""

    def __init__(self) -> None:
        self.owner: int | None = None
        self.entries = 0
        self._lock = FifoLock()

    @property
    def waiting(self) -> int:
        """How many threads wait for it."""
        return len(self._lock.waiting)

    def __enter__(self) -> None:
        assert self.owner != threading.get_ident(), "the queue lock was taken twice in one thread"
        self._lock.acquire()
        self.owner, self.entries = threading.get_ident(), self.entries + 1

    def __exit__(self, *_: object) -> None:
        self.owner = None
        self._lock.release()


class Options:
    """The settings; ``saved`` counts writes to their file."""

    def __init__(self) -> None:
        keys = ("sd_model_checkpoint", "sd_vae", "fp8_storage", "cache_fp16_weight", "clip_skip")
        self.data: dict[str, Any] = {"sd_vae": "None"}
        self.data_labels = {key: SimpleNamespace(onchange=None, label=key, infotext=None, default=None) for key in keys}
        self.data_labels["clip_skip"].infotext = "Clip skip"
        self.sd_checkpoints_limit, self.sd_checkpoint_cache = 1, 0
        self.outdir_samples, self.outdir_txt2img_samples = "", "outputs/txt2img-images"
        self.outdir_grids, self.outdir_txt2img_grids = "", "outputs/txt2img-grids"
        self.pad_cond_uncond = False

    @property
    def CLIP_stop_at_last_layers(self) -> Any:  # noqa: N802
        return self.data.get("CLIP_stop_at_last_layers", 1)

    def get_default(self, _key: str) -> Any:
        return None

    def choose(self, key: str, value: Any) -> None:
        """Do what the settings page and the API do when the user changes a setting."""
        if self.data.get(key) != value:
            self.data[key] = value
            if self.data_labels[key].onchange is not None:
                self.data_labels[key].onchange()


class State:
    """Progress, and the buttons."""

    def __init__(self) -> None:
        self.skipped = self.interrupted = self.stopping_generation = False
        self.job, self.job_no, self.job_count = "", 0, 0
        self.sampling_step = self.sampling_steps = 0
        self.textinfo: str | None = None
        self.current_image: Image.Image | None = None

    def begin(self, job: str) -> None:
        self.__init__()  # type: ignore[misc]
        self.job, self.job_count = job, -1

    def end(self) -> None:
        self.job, self.job_count = "", 0

    def interrupt(self) -> None:
        self.interrupted = True

    def set_current_image(self) -> None:
        if self.sampling_steps:
            self.current_image = Image.new("RGB", (8, 8))


class CheckpointInfo:
    """What the WebUI knows of a checkpoint."""

    def __init__(self, path: Path, *, hashed: bool) -> None:
        self.filename, self.name = str(path), path.name
        self.hash = hashlib.sha256(path.name.encode()).hexdigest()[:8]
        self.title = f"{self.name} [{self.hash[::-1]}]" if hashed else self.name
        self.short_title = self.name_for_extra = path.stem
        self.ids = [self.hash, self.title, self.name, path.stem, f"{self.name} [{self.hash}]"]

    def __repr__(self) -> str:
        return str({"filename": self.filename, "hash": self.hash})


class Script:
    """The base of scripts."""

    create_group = True


class Runner:
    """Runs scripts around each request."""

    def __init__(self, scripts: Sequence[Any]) -> None:
        self.scripts = scripts
        self.chosen: Callable[[Any], Any] | None = None
        self.inputs = [tab_component(name) for name in SCRIPT_FIELDS]
        last = len(SCRIPT_FIELDS)
        self.selectable_scripts = [SimpleNamespace(filename="grain.py", args_from=last - 1, args_to=last)]

    @property
    def titles(self) -> list[str]:
        return list(self.inputs[0].choices[1:])

    def each(self, method: str, p: Any, **more: Any) -> None:
        for script in self.scripts:
            if hasattr(script, method):
                getattr(script, method)(p, **more)

    def run(self, p: Any, *args: Any) -> Any:
        return self.chosen(p) if args[0] and self.chosen is not None else None


class Processing:
    """A request for images."""

    cached_c: ClassVar[list[Any]] = [None, None]
    cached_uc: ClassVar[list[Any]] = [None, None]

    def __init__(self, **fields: Any) -> None:
        self.prompt = self.negative_prompt = ""
        self.n_iter = self.batch_size = 1
        self.cfg_scale, self.width, self.height = 4.0, 64, 64
        self.styles: list[str] = []
        self.enable_hr, self.hr_scale, self.hr_checkpoint_name = False, 1.0, None
        self.override_settings: dict[str, Any] = {}
        self.extra_generation_params: dict[str, Any] = {}
        self.comments: list[str] = []
        self.sd_model_name = self.sd_model_hash = None
        self.closed = False
        self._args: Sequence[Any] = ()
        self.scripts: Any = None
        self.__dict__.update(fields)

    @property
    def script_args(self) -> Sequence[Any]:
        return self._args

    @script_args.setter
    def script_args(self, args: Sequence[Any]) -> None:
        self._args = args
        _, self.steps, self.sampler_name, self.scheduler, self.seed, self.refiner_checkpoint, *_ = args

    def comment(self, text: str) -> None:
        self.comments.append(text)

    def close(self) -> None:
        self.closed = True


class Txt2Img(Processing):
    """The same, with the second pass of hires fix."""

    cached_hr_c: ClassVar[list[Any]] = [None, None]
    cached_hr_uc: ClassVar[list[Any]] = [None, None]
