"""A stand-in for those of the WebUI's modules that the WebUI host uses, with the behaviour of version 1.10.1.

It loads checkpoints into real torch modules, skips loads as the WebUI skips them, caches what it caches, and makes
images from the bytes of the live tensors, so that anything stale or lost shows.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from .webui_standin_computing import LoraNetwork, make_computing, sample_images
from .webui_standin_models import LORA, build_model, digest, hijack, set_lora, undo_hijack
from .webui_standin_parts import (
    DEFAULTS,
    FIELDS,
    SCRIPTS,
    CheckpointInfo,
    Options,
    Processing,
    QueueLock,
    Runner,
    Script,
    State,
    Txt2Img,
    tab_component,
)

VAE = "first_stage_model."
TEXT = ("cond_stage_model.", "conditioner.")


class StandIn:
    """The WebUI.

    Args:
        folder: Of its checkpoints.

    Attributes:
        request: The class of requests.
        folders: The folders that it looks for checkpoints in.
        on_step: Called at each step of an image, with what is done as its argument.
        loads: The file of each load.
        computes: Whether images are sampled with networks that compute, which takes longer; set before it loads.
        guided: The guided predictions of sampled images.
        skips_uncond: Whether steps leave the negative prompt out, as some settings have it.
        pads_by_last: Whether prompts are padded by their last token, rather than by the empty prompt.
        changes_unet: By what an extension multiplies the U-Net's output.
        decodes: Decodes latents in place of the model's VAE.
    """

    request: type[Processing] = Txt2Img

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.folders = [folder]
        Processing.cached_c, Processing.cached_uc = [None, None], [None, None]
        self.hashed = False
        self.opts, self.state, self.lock = Options(), State(), QueueLock()
        self.loads: list[str] = []
        self.on_step: Callable[[int], None] = lambda _step: None
        self.computes = self.skips_uncond = self.pads_by_last = False
        self.guided: list[torch.Tensor] = []
        self.changes_unet = 1.0
        self.decodes: Callable[[torch.Tensor], torch.Tensor] | None = None
        self.networks: Any = SimpleNamespace(loaded_networks=[])
        self.lora = LoraNetwork(self.networks)
        self.extra_images = 0
        self.callbacks: dict[str, list[Callable[..., Any]]] = {}
        self.scripts: Any = SimpleNamespace(Script=Script, AlwaysVisible=object(), scripts_txt2img=Runner([]))
        self.cmd_opts = SimpleNamespace(ckpt_dir=None)
        self.styles: dict[str, Any] = {}
        self.devices: Any = SimpleNamespace(
            fp8=False,
            torch_gc=lambda: None,
            autocast=nullcontext,
            without_autocast=nullcontext,
            NansException=type("NansException", (Exception,), {}),
        )
        self.sd_vae: Any = SimpleNamespace(loaded_vae_file=None, base_vae=None, checkpoint_info=None)
        self.sd_vae.get_base_vae = self._base_vae
        self.sd_models: Any = self._sd_models()
        self.list_models()
        self.opts.data_labels["sd_model_checkpoint"].onchange = self._queued(self.reload)
        self.opts.data_labels["fp8_storage"].onchange = self._queued(self.reload)
        self.opts.data_labels["cache_fp16_weight"].onchange = self._queued(lambda: self.reload(forced_reload=True))

    @property
    def model(self) -> Any:
        """The live model."""
        return self.sd_models.model_data.sd_model

    def digest(self, *parts: str) -> str:
        """Give the digest of the live model, or of parts of it."""
        return digest(self.model, *parts)

    def modules(self) -> Mapping[str, Any]:
        """Give the modules by name, for ``sys.modules``."""
        total = SimpleNamespace(clear=lambda: None)
        shared = SimpleNamespace(
            opts=self.opts, state=self.state, cmd_opts=self.cmd_opts, total_tqdm=total, sd_model=None
        )
        shared.prompt_styles = SimpleNamespace(styles=self.styles)
        samplers = SimpleNamespace(visible_sampler_names=lambda: ["Euler a", "DPM++ 2M"])
        labels = ("Automatic", "Karras", "SGM Uniform")
        parts = {
            "shared": shared,
            "sd_models": self.sd_models,
            "sd_vae": self.sd_vae,
            "scripts": self.scripts,
            "script_callbacks": SimpleNamespace(
                **{
                    f"on_{name}": self._register(name)
                    for name in ("after_component", "cfg_denoiser", "ui_tabs", "infotext_pasted", "model_loaded")
                }
            ),
            "call_queue": SimpleNamespace(queue_lock=self.lock),
            "devices": self.devices,
            "extra_networks": SimpleNamespace(
                extra_network_registry={"lora": self.lora},
                lookup_extra_networks=lambda data: {self.lora: data["lora"]} if data.get("lora") else {},
            ),
            "sd_unet": SimpleNamespace(current_unet=None),
            "sd_samplers": samplers,
            "sd_schedulers": SimpleNamespace(schedulers=[SimpleNamespace(label=label) for label in labels]),
            "processing": SimpleNamespace(
                StableDiffusionProcessing=self.request.__mro__[1],
                StableDiffusionProcessingTxt2Img=self.request,
                process_images=self.process_images,
            ),
            "txt2img": SimpleNamespace(txt2img_create_processing=self.create_processing),
        }
        root = ModuleType("modules")
        root.__dict__.update(parts)
        own = {"networks": self.networks}  # of the Lora extension
        return {"modules": root, **own, **{f"modules.{name}": part for name, part in parts.items()}}

    def apply_loras(self) -> None:
        """Do what the Lora extension does when layers are used."""
        set_lora(self.model, active=bool(self.networks.loaded_networks))

    def make_page(self) -> None:
        """Make the txt2img tab, and tell extensions of its Generate button."""
        runner = self.scripts.scripts_txt2img
        fields = [SimpleNamespace(elem_id="task"), *map(tab_component, FIELDS), *runner.inputs]
        click = {"targets": [(-1, "click")], "js": "submit", "inputs": list(range(len(fields)))}
        page = SimpleNamespace(parent=None, blocks=dict(enumerate(fields)), dependencies=[click])
        self.fire("after_component", SimpleNamespace(elem_id="txt2img_generate", _id=-1, parent=page))

    def fire(self, event: str, *args: Any) -> list[Any]:
        """Call what is registered for an event."""
        return [call(*args) for call in self.callbacks.get(event, [])]

    def _register(self, event: str) -> Callable[[Callable[..., Any]], None]:
        return lambda call: self.callbacks.setdefault(event, []).append(call)

    def _queued(self, call: Callable[[], Any]) -> Callable[[], None]:
        def queued() -> None:
            with self.lock:
                call()

        return queued

    def _sd_models(self) -> Any:
        models: Any = SimpleNamespace(checkpoints_list={}, checkpoint_aliases={}, checkpoints_loaded=OrderedDict())
        models.model_path, models.skip = str(self.folder), 0
        models.model_data = SimpleNamespace(sd_model=None, loaded_sd_models=[], lock=threading.Lock())
        models.list_models, models.reload_model_weights = self.list_models, self.reload
        models.get_closet_checkpoint_match = self.closest
        models.get_empty_cond = lambda model: torch.tensor([float(int(digest(model, *TEXT)[:6], 16))])
        models.SkipWritingToConfig = self._skipping
        models.apply_token_merging = lambda model, ratio: setattr(model, "applied_token_merged_ratio", ratio)
        return models

    @contextmanager
    def _skipping(self) -> Iterator[None]:
        self.sd_models.skip += 1
        try:
            yield
        finally:
            self.sd_models.skip -= 1

    def list_models(self) -> None:
        """Look for checkpoints; the list is never empty meanwhile, as the WebUI's own is for a moment."""
        paths = sorted(path for folder in self.folders for path in folder.glob("*.safetensors"))
        infos = [CheckpointInfo(path, hashed=self.hashed) for path in paths]
        _replace(self.sd_models.checkpoints_list, {info.title: info for info in infos})
        _replace(self.sd_models.checkpoint_aliases, {name: info for info in infos for name in info.ids})

    def closest(self, name: str) -> Any:
        """Find a checkpoint by a part of its title."""
        exact = self.sd_models.checkpoint_aliases.get(name)
        return exact or next((i for i in self.sd_models.checkpoints_list.values() if name and name in i.title), None)

    def select(self) -> Any:
        """Find the checkpoint that the settings choose, or any."""
        chosen = self.sd_models.checkpoint_aliases.get(self.opts.data.get("sd_model_checkpoint"))
        return chosen or next(iter(self.sd_models.checkpoints_list.values()))

    def reload(self, sd_model: Any = None, info: Any = None, forced_reload: bool = False) -> Any:  # noqa: ARG002
        """Load a checkpoint, unless the file's name is that of the one in use."""
        info = info or self.select()
        data = self.sd_models.model_data
        if data.sd_model is not None and data.sd_model.sd_model_checkpoint == info.filename and not forced_reload:
            return data.sd_model
        same = data.sd_model if data.sd_model and data.sd_model.sd_model_checkpoint == info.filename else None
        other = next((m for m in data.loaded_sd_models if m.sd_model_checkpoint == info.filename), None)
        if other is not None and same is None:
            self._use(other)
            if not self.sd_models.skip:
                self.opts.data["sd_model_checkpoint"] = info.title
            return other
        fresh = data.sd_model is None or (same is None and len(data.loaded_sd_models) < self.opts.sd_checkpoints_limit)
        self._load(info, None if fresh else same or data.loaded_sd_models[-1])
        return data.sd_model

    def _load(self, info: Any, model: Any) -> None:
        if model is not None:
            undo_hijack(model)
        cached = self.sd_models.checkpoints_loaded.get(info)
        state = load_file(info.filename) if cached is None else cached
        self.loads.append(info.filename)
        if model is None:
            model = build_model(state)
        else:
            model.load_state_dict(state, strict=False)
            for layer in model.modules():
                layer.__dict__.pop("network_weights_backup", None)
                layer.__dict__.pop("network_bias_backup", None)
                layer.__dict__.pop("network_current_names", None)
        if self.opts.sd_checkpoint_cache:
            self.sd_models.checkpoints_loaded[info] = dict(model.state_dict())  # the live tensors themselves
        if not self.sd_models.skip:
            self.opts.data["sd_model_checkpoint"] = info.title
        model.sd_model_checkpoint, model.sd_checkpoint_info, model.sd_model_hash = info.filename, info, info.hash
        self.sd_vae.base_vae = self.sd_vae.checkpoint_info = self.sd_vae.loaded_vae_file = None
        hijack(model)
        self._use(model)
        if self.computes:
            make_computing(model, self)
        self.fire("model_loaded", model)

    def _use(self, model: Any) -> None:
        data = self.sd_models.model_data
        data.sd_model = model
        data.loaded_sd_models = [model, *(other for other in data.loaded_sd_models if other is not model)]

    def choose_vae(self, state: Mapping[str, torch.Tensor] | None) -> None:
        """Put another VAE into the model, or take it out again."""
        vae, model = self.sd_vae, self.model
        if state is not None:
            if vae.checkpoint_info is not model.sd_checkpoint_info:
                base = model.first_stage_model.state_dict()
                vae.base_vae, vae.checkpoint_info = {k: v.clone() for k, v in base.items()}, model.sd_checkpoint_info
            model.first_stage_model.load_state_dict(dict(state))
        elif vae.base_vae is not None:
            model.first_stage_model.load_state_dict(vae.base_vae)
            vae.base_vae = vae.checkpoint_info = None
        vae.loaded_vae_file = None if state is None else "chosen.vae"
        self.fire("model_loaded", model)

    def _base_vae(self, model: Any) -> Any:
        return self.sd_vae.base_vae if self.sd_vae.checkpoint_info is model.sd_checkpoint_info else None

    def create_processing(self, _task: str, _request: Any, *values: Any) -> Processing:
        """Make a request of the txt2img tab's values."""
        names = "prompt negative_prompt styles n_iter batch_size cfg_scale height width enable_hr hr_scale"
        names += " hr_checkpoint_name"
        count = len(DEFAULTS)
        assert len(values) == count + len(SCRIPTS), "the tab has other fields"
        p = self.request(**dict(zip(names.split(), values, strict=False)))
        p.override_settings = dict(text.split(": ", 1) for text in values[count - 1])
        p.scripts, p.script_args = self.scripts.scripts_txt2img, values[count:]
        return p

    def generate(self, prompt: str = "a cat", **fields: Any) -> Any:
        """Make an image as the user's own Generate and the API do, which take the lock."""
        with self.lock:
            p = self.request(prompt=prompt)
            p.scripts, p.script_args = self.scripts.scripts_txt2img, [*SCRIPTS[:4], 7, *SCRIPTS[5:]]
            p.__dict__.update(fields)
            self.state.begin("user")
            try:
                made = self.process_images(p)
            finally:
                self.state.end()
        marks = [hashlib.sha256(image.tobytes()).hexdigest() for image in made.images]
        named = list(zip(marks, made.infotexts, strict=False))  # further images may have none
        return SimpleNamespace(p=p, data=marks[0], infotext=made.infotexts[0], all=named)

    def process_images(self, p: Any) -> Any:
        """Make the images of a request."""
        p.scripts.each("before_process", p)
        stored = {key: self.opts.data[key] for key in p.override_settings if key in self.opts.data}
        try:
            if p.override_settings.get("sd_model_checkpoint") not in self.sd_models.checkpoint_aliases:
                p.override_settings.pop("sd_model_checkpoint", None)
                self.reload()
            for key, value in p.override_settings.items():
                self.opts.data[key] = value
                if key == "sd_model_checkpoint":
                    self.reload()
            return self._make(p)
        finally:
            self.opts.data.update(stored)

    def _make(self, p: Any) -> Any:
        p.sd_model_name, p.sd_model_hash = self.model.sd_checkpoint_info.name_for_extra, self.model.sd_model_hash
        seeds = [p.seed + index for index in range(p.n_iter * p.batch_size)]
        p.scripts.each("process", p)
        images: list[Image.Image] = []
        for round_ in range(p.n_iter):
            self.state.skipped = False
            if self.state.interrupted or self.state.stopping_generation:
                break
            self.reload()
            batch = seeds[round_ * p.batch_size : (round_ + 1) * p.batch_size]
            images += self._sample(p, batch)
            self.state.job_no += 1
            p.scripts.each("postprocess_batch", p, images=images, batch_number=round_)
        texts = [self._infotext(p, seed) for seed in seeds[: len(images)]] or [""]
        images += [Image.new("RGBA", (8, 8))] * self.extra_images
        return SimpleNamespace(images=images, infotexts=texts, info=texts[0], all_seeds=seeds, index_of_first_image=0)

    def _sample(self, p: Any, seeds: Sequence[int]) -> Iterator[Image.Image]:
        if self.computes:
            yield from sample_images(self, p, seeds)
            return
        weights = self._weights(p)
        self.state.sampling_steps = p.steps
        for step in range(p.steps):
            self.state.sampling_step = step
            self.on_step(step)
            if self.state.interrupted or self.state.skipped:
                break
        if p.enable_hr:
            self._open_second(p)
        drawn = f"{weights()}{p.steps} {p.sampler_name} {step}"
        drawn += self._seen_in_images(p)
        for seed in seeds:
            noise = np.random.default_rng(list(hashlib.sha256(f"{drawn} {seed} {p.scheduler}".encode()).digest()))
            pixels = noise.integers(0, 256, (p.height, p.width, 3), dtype=np.uint8)
            yield Image.fromarray(pixels)

    def _open_second(self, p: Any) -> None:
        """Load the checkpoint of the second pass, which stays until the next image asks for another one."""
        if p.hr_checkpoint_name not in (None, "Use same checkpoint"):
            with self._skipping():
                self.reload(info=self.closest(p.hr_checkpoint_name))

    def _weights(self, p: Any) -> Callable[[], str]:
        """Encode the prompt and bring LoRAs in; give what tells the weights that an image is made with."""
        with torch.no_grad():
            set_lora(self.model, active=LORA in p.prompt)
        params = (p.prompt, p.negative_prompt, self.model.sd_checkpoint_info)
        if p.cached_c[0] != params:
            p.cached_c[:] = [params, digest(self.model, *TEXT)]
        return lambda: digest(self.model, "model.", VAE, "alphas") + str(p.cached_c[1])

    def _seen_in_images(self, p: Any) -> str:
        """Give what images show of hires fix, styles, scripts and settings; nothing if all is as at first."""
        glow, _, grain = p.script_args[-3:]
        title = p.scripts.titles[p.script_args[0] - 1] if p.script_args[0] else ""
        shown = {
            "hires": p.hr_scale if p.enable_hr and p.hr_scale != 1 else None,
            "styles": [(self.styles[name].prompt, self.styles[name].negative_prompt) for name in p.styles],
            "glow": glow,
            "grain": grain and title and (title, grain),
            "clip skip": self.opts.data.get("clip_skip"),
        }
        return "".join(f" {name} {value}" for name, value in shown.items() if value)

    def _infotext(self, p: Any, seed: int) -> str:
        named = {"Model hash": p.sd_model_hash, "Model": p.sd_model_name, **p.extra_generation_params}
        pairs = {"Steps": p.steps, "Sampler": p.sampler_name, "Schedule type": p.scheduler, "CFG scale": p.cfg_scale}
        pairs |= {"Seed": seed, "Size": f"{p.width}x{p.height}"}
        pairs |= {name: value for name, value in named.items() if value is not None}
        negative = f"Negative prompt: {p.negative_prompt}\n" if p.negative_prompt else ""
        texts = (f"{name}: {_quoted(value)}" for name, value in pairs.items())
        return f"{p.prompt}\n{negative}{', '.join(texts)}"


def _replace(old: dict[str, Any], new: Mapping[str, Any]) -> None:
    old.update(new)
    for name in [name for name in old if name not in new]:
        del old[name]


def _quoted(value: Any) -> str:
    text = str(value)
    return json.dumps(text) if any(mark in text for mark in ",:\n") else text
