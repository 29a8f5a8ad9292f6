"""Everything that users, other programs and the page ask of a host at any moment, each as a function to be called."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from elemental import ElementalError
from elemental.session import merge_jobs
from elemental.session.session import Session, first_form

from ..forge_standin import ForgeStandIn
from ..reforge_standin import ReForgeStandIn
from ..webui_standin_models import LORA
from .busy_images import KnownImages, Look, look_of

VAE = "first_stage_model."
OTHER_VAE = "other.vae"
SMALL: Mapping[str, Any] = {"width": 16, "height": 16, "steps": 1, "seed": 7, "n_iter": 2}
"""Of each request: an image takes little time, an interrupted one has no second look, and two may differ."""


class Requests:
    """Requests to a host, at random.

    Args:
        rig: The stand-in and the port on it.
        session: What its pages share.
        known: Tells whether an image is what its infotext says.
        draw: Draws names and numbers.
    """

    def __init__(self, rig: Any, session: Session, known: KnownImages, draw: random.Random) -> None:
        self._rig, self._webui, self._host = rig, rig.webui, rig.host
        self._session, self._known, self._draw = session, known, draw
        self._is_forge = isinstance(rig.webui, ForgeStandIn)
        self._picks: list[Callable[[str | None], None]] = []
        self.watch_list()

    def kinds(self) -> dict[str, Callable[[], object]]:
        """Give the requests by name."""
        kinds: dict[str, Callable[[], object]] = {
            "image": self.image,
            "image with a LoRA": partial(self.image, f"a cat {LORA}"),
            "image with another setting": self.image_with_setting,
            "image that overrides the checkpoint": self.image_of_checkpoint,
            "image with another checkpoint for hires": self.image_with_hires,
            "image with a refiner": self.image_with_refiner,
            "choice of a checkpoint": self.choose,
            "choice of a VAE": self.choose_vae,
            "pick in the list": self.pick,
            "pick of what is shown": self.pick_shown,
            "page opened": self.open_page,
            "refresh": self._host.refresh,
            "progress": self.ask_progress,
            "interrupt": self._webui.state.interrupt,
            "skip": lambda: setattr(self._webui.state, "skipped", True),
            "stop": self._session.stop,
            "restore": self.restore,
            "move of a waiting job": partial(self.change_queue, dropping=False),
            "drop of a waiting job": partial(self.change_queue, dropping=True),
            "Reload UI": self.reload_page,
        }
        if self._is_forge:
            kinds["image that overrides the VAE"] = self.image_with_vae
        return kinds

    def title(self) -> str:
        """Draw a checkpoint."""
        return f"{self._draw.choice('abc')}.safetensors"

    def image(self, prompt: str = "a cat", **fields: Any) -> None:
        """Make an image as the user's Generate does, and as the API does."""
        try:
            made = self._webui.generate(prompt, **SMALL, **fields)
        except IndexError:
            return  # interrupted before it was begun
        self._known.check(made, look_of(prompt, fields))

    def image_with_setting(self) -> None:
        other = {"forge_inference_memory": self._draw.randrange(9)} if self._is_forge else {}
        self.image(override_settings={"clip_skip": self._draw.choice([0, 2]), **other})

    def image_of_checkpoint(self) -> None:
        self.image(override_settings={"sd_model_checkpoint": self.title()})

    def image_with_vae(self) -> None:
        self.image(override_settings={"forge_additional_modules": self._draw.choice([[], [OTHER_VAE]])})

    def image_with_hires(self) -> None:
        self.image(enable_hr=True, hr_checkpoint_name=self.title())

    def image_with_refiner(self) -> None:
        self.image(refiner_checkpoint=self.title())

    def choose(self) -> None:
        """Change the setting, as the settings page and the API do."""
        self._webui.opts.choose("sd_model_checkpoint", self.title())

    def choose_vae(self) -> None:
        use_vae(self._rig, self._draw.random() < 0.5)

    def pick(self) -> None:
        self._pick(self.title())

    def pick_shown(self) -> None:
        self._pick(self._webui.opts.data["sd_model_checkpoint"])

    def _pick(self, title: str) -> None:
        """Pick a checkpoint at the top of the page, which tells extensions, too."""
        if self._is_forge:
            self._webui.pick(title)
            return
        self._webui.opts.choose("sd_model_checkpoint", title)
        for call in self._picks:
            call(title)

    def open_page(self) -> None:
        """Do what happens when somebody opens a page."""
        if self._is_forge:
            self._webui.open_page()
        first_form(self._host)
        self.ask_progress()

    def ask_progress(self) -> None:
        """Ask what the page asks each second."""
        self._session.model.live()
        self._host.step_progress()
        self._host.has_merge()
        job = self._session.board.job
        if job is not None:
            job.wait(job.view.version, 0.01)

    def restore(self) -> None:
        """Press Restore, which waits for its turn while a job runs."""
        try:
            job = merge_jobs.restore(self._session)
        except ElementalError:
            return
        while not job.view.ended:
            job.wait(job.view.version, 1.0)

    def change_queue(self, *, dropping: bool) -> None:
        """Move or drop a job that waits, if one does."""
        board = self._session.board
        for view in board.waiting()[-1:]:
            if dropping:
                board.drop(view.number)
            else:
                board.move(view.number, self._draw.choice((-1, 1)))

    def reload_page(self) -> None:
        """Do what "Reload UI" does: forget what is registered, run the extension's script, build the pages."""
        rig, webui = self._rig, self._webui
        webui.callbacks.clear()
        rig.hooks.register(lambda host, form: (host, form), str)
        webui.fire("ui_tabs")
        webui.make_page()
        self.watch_list()

    def watch_list(self) -> None:
        """Build the WebUI's list of checkpoints; Forge's is part of its page."""
        picks: list[Callable[[str | None], None]] = []
        listed = SimpleNamespace(elem_id="setting_sd_model_checkpoint", select=lambda fn, **_: picks.append(fn))
        if not self._is_forge:
            self._webui.fire("after_component", listed)
            self._picks = picks


def add_vae(rig: Any, folder: Path) -> None:
    """Put a VAE where Forge's users can choose it beside the checkpoint."""
    state = load_file(rig.paths["c"])
    path = folder / OTHER_VAE
    save_file({key: tensor for key, tensor in state.items() if key.startswith(VAE)}, path)
    if isinstance(rig.webui, ForgeStandIn):
        rig.webui.module_files[OTHER_VAE] = str(path)


def use_vae(rig: Any, other: bool) -> None:
    """Choose another VAE, or the checkpoint's own, in the settings."""
    if isinstance(rig.webui, ForgeStandIn):
        rig.webui.modules_change([OTHER_VAE] if other else [])
        return
    state = {k.removeprefix(VAE): tensor for k, tensor in load_file(rig.paths["c"]).items() if k.startswith(VAE)}
    inference = torch.inference_mode() if isinstance(rig.webui, ReForgeStandIn) else nullcontext()
    with rig.webui.lock, inference:
        rig.webui.choose_vae(state if other else None)


def looks(names: Sequence[str] = ("a cat", f"a cat {LORA}")) -> list[Look]:
    """Give the looks that images of one model can have."""
    return [Look(prompt, skip) for prompt in names for skip in (0, 2)]
