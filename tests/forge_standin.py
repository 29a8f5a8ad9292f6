"""Stand-ins for those of Forge's and Forge Neo's modules that the port uses; they fail as the real ones do."""

from __future__ import annotations

import gc
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from PIL import Image
from safetensors.torch import load_file

from .forge_standin_computing import make_engine_compute, sample_images
from .forge_standin_models import Engine, ForgePatcher, Memory, NeoPatcher, build_objects
from .webui_standin import StandIn
from .webui_standin_models import LORA
from .webui_standin_parts import FIELDS, FifoLock, Processing, tab_component

SAME = "Use same choices"


class ForgeBase(Processing):
    """A request, whose caches of prompts have three places."""

    cached_c: ClassVar[list[Any]] = [None, None, None]
    cached_uc: ClassVar[list[Any]] = [None, None, None]
    keeps_prompts: ClassVar[bool] = True

    def __init__(self, **fields: Any) -> None:
        super().__init__(**{"hr_additional_modules": [SAME], "refiner_checkpoint": None, **fields})
        self.bind_prompts()

    def bind_prompts(self) -> None:
        """Use the lists that are the class's now."""
        self.__dict__.update(cached_c=ForgeBase.cached_c, cached_uc=ForgeBase.cached_uc)

    def clear_prompt_cache(self) -> None:
        """Put other lists in the place of the class's."""
        ForgeBase.cached_c, ForgeBase.cached_uc = [None, None, None], [None, None, None]
        self.bind_prompts()

    def close(self) -> None:
        super().close()
        if not self.keeps_prompts:
            ForgeBase.cached_c, ForgeBase.cached_uc = [None, None], [None, None]


class ForgeTxt2Img(ForgeBase):
    """The same, with the second pass of hires fix."""

    cached_hr_c: ClassVar[list[Any]] = [None, None, None]
    cached_hr_uc: ClassVar[list[Any]] = [None, None, None]


class FakeInitialModel:
    """What stands in the place of a model before the first image; it names no checkpoint."""


class EventWrapper:
    """What Forge puts around each event of gradio."""

    def __init__(self, replaced_event: Any) -> None:
        self.replaced_event = replaced_event

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self.replaced_event(*args, **options)


class ForgeStandIn(StandIn):
    """Forge.

    Attributes:
        fails: The file whose load fails.
        engines: How many engines were alive at the end of each load.
        bound: The function that the page has kept for its events.
        module_files: The files that can be chosen beside a checkpoint, by name.
        batches: Whether the prompts of a step are computed in one call.
        patch_objects: What scripts do to the patchers of an image.
        classic_engine: The module that encodes prompts, with its notes for the infotext.
    """

    request = ForgeTxt2Img
    make_patcher: type[Any] = ForgePatcher
    mends_itself = decodes_in_inference_mode = False

    def __init__(self, folder: Path) -> None:
        self.memory = Memory()
        self.batches = True
        self.patch_objects: Callable[[Any], None] = lambda _objects: None
        self.classic_engine: Any = SimpleNamespace(last_extra_generation_params={})
        self.need_global_unload = self.online_lora = False
        self.module_files: dict[str, str] = {}
        self.fails = ""
        self.bound: Callable[[], Any] = lambda: None
        self.engines: list[int] = []
        self._alive: weakref.WeakSet[Engine] = weakref.WeakSet()
        self.picks: list[tuple[str, Callable[..., Any]]] = []
        self.main_entry: Any = SimpleNamespace(
            refresh_model_loading_parameters=self._refresh_parameters,
            checkpoint_change=self.checkpoint_change,
            modules_change=self.modules_change,
        )
        super().__init__(folder)
        self.lock = BlockingLock()  # type: ignore[assignment]
        for cache in ("cached_c", "cached_uc"):
            setattr(ForgeBase, cache, [None, None, None])
            setattr(ForgeTxt2Img, cache.replace("_", "_hr_"), [None, None, None])
        for label in self.opts.data_labels.values():
            label.onchange = lambda: None
        first = next((info.title for info in self.sd_models.checkpoints_list.values()), None)
        self.opts.data |= {
            "sd_model_checkpoint": first,
            "forge_additional_modules": [],
            "forge_inference_memory": 1,
        }
        self.opts.choose = lambda key, value: self.set_config({key: value})  # type: ignore[method-assign]

    def modules(self) -> Mapping[str, Any]:
        """Give the modules by name."""
        made = dict(super().modules())
        made["modules"].shared.cmd_opts = made["modules.shared"].cmd_opts = self._command_line()
        made |= {
            "modules_forge": SimpleNamespace(main_entry=self.main_entry),
            "modules_forge.main_entry": self.main_entry,
        }
        return made | {
            "backend": SimpleNamespace(memory_management=self.memory),
            "backend.memory_management": self.memory,
            "backend.text_processing.classic_engine": self.classic_engine,
        }

    def notes(self) -> dict[str, Any]:
        """Give the encoder's notes for the infotext."""
        found: dict[str, Any] = self.classic_engine.last_extra_generation_params
        return found

    def forget_notes(self) -> None:
        """Begin other notes."""
        self.classic_engine.last_extra_generation_params = {}

    def set_clip_skip(self) -> None:
        """Tell the encoder the setting."""
        self.model.set_clip_skip(int(self.opts.CLIP_stop_at_last_layers))

    def _command_line(self) -> Any:
        return SimpleNamespace(ckpt_dir=None)

    def _sd_models(self) -> Any:
        models = super()._sd_models()
        models.model_data = SimpleNamespace(sd_model=FakeInitialModel(), forge_loading_parameters={}, forge_hash="")
        models.forge_model_reload = self.reload
        for name in ("reload_model_weights", "get_empty_cond"):
            setattr(models, name, lambda *_, **__: None)
        return models

    @property
    def model(self) -> Any:
        """The engine."""
        return self.sd_models.model_data.sd_model

    def digest(self, *parts: str) -> str:
        """Give the digest of the engine's tensors as an image would use them, without LoRAs."""
        return str(self.model.digest(*parts))

    def reload(self, *_: Any, **__: Any) -> Any:
        """Load what the parameters name, if that is not what was loaded last."""
        data = self.sd_models.model_data
        wanted = str(data.forge_loading_parameters)
        if data.forge_hash == wanted:
            return data.sd_model, False
        if data.sd_model:
            data.sd_model = None
            if self.mends_itself:
                data.forge_hash = ""
            self.memory.unload_all_models()
            gc.collect()
        try:
            engine = self._build(data.forge_loading_parameters)
        except Exception:
            if self.mends_itself:
                data.sd_model, data.forge_hash = FakeInitialModel(), ""
            raise
        data.sd_model = engine
        self.fire("model_loaded", engine)
        data.forge_hash = wanted
        self._alive.add(engine)
        self.engines.append(len(self._alive))
        return engine, True

    def _build(self, parameters: Mapping[str, Any]) -> Engine:
        info = parameters["checkpoint_info"]
        self.loads.append(info.filename)
        if Path(info.filename).name == self.fails:
            raise RuntimeError("a size is wrong\nand more")
        others = [load_file(path) for path in parameters["additional_modules"]]
        engine = Engine(build_objects(load_file(info.filename), self.make_patcher, others))
        engine.sd_checkpoint_info, engine.sd_model_hash = info, info.hash
        if self.computes:
            make_engine_compute(engine, self)
        return engine

    def _sample(self, p: Any, seeds: Sequence[int]) -> Iterator[Image.Image]:
        return sample_images(self, self.model, p, seeds) if self.computes else super()._sample(p, seeds)

    def _refresh_parameters(self) -> None:
        chosen = self.select()
        storage = self.opts.data.get("forge_unet_storage_dtype", "Automatic")
        self.online_lora = "(fp16 LoRA)" in storage
        self.sd_models.model_data.forge_loading_parameters = {
            "checkpoint_info": chosen,
            "additional_modules": self.opts.data["forge_additional_modules"],
            "unet_storage_dtype": None,
        }
        self.need_global_unload = True

    def checkpoint_change(self, name: str, save: bool = True, refresh: bool = True) -> bool:  # noqa: ARG002
        """Choose a checkpoint."""
        if self.closest(name) is self.closest(self.opts.data["sd_model_checkpoint"]):
            return False
        self.opts.data["sd_model_checkpoint"] = name
        if refresh:
            self.main_entry.refresh_model_loading_parameters()
        return True

    def modules_change(self, names: Sequence[str], save: bool = True, refresh: bool = True) -> bool:  # noqa: ARG002
        """Choose files beside the checkpoint."""
        files = [self.module_files[name] for name in map(os.path.basename, names) if name in self.module_files]
        if sorted(files) == sorted(self.opts.data["forge_additional_modules"]):
            return False
        self.opts.data["forge_additional_modules"] = files
        if refresh:
            self.main_entry.refresh_model_loading_parameters()
        return True

    def set_config(self, settings: Mapping[str, Any]) -> None:
        """Set settings, as the API and each request do."""
        refresh = False
        for key, value in settings.items():
            if value == self.opts.data.get(key):
                continue
            if key == "sd_model_checkpoint":
                refresh |= self.checkpoint_change(value, refresh=False)
            elif key == "forge_additional_modules":
                refresh |= self.modules_change(value, refresh=False)
            else:
                refresh |= key == "forge_inference_memory"
                self.opts.data[key] = value
        if refresh:
            self.main_entry.refresh_model_loading_parameters()

    def process_images(self, p: Any) -> Any:
        """Make the images of a request."""
        p.scripts.each("before_process", p)
        stored = {key: self.opts.data[key] for key in p.override_settings if key in self.opts.data}
        try:
            if p.override_settings.get("sd_model_checkpoint") not in self.sd_models.checkpoint_aliases:
                p.override_settings.pop("sd_model_checkpoint", None)
            self.set_config(p.override_settings)
            _, just_loaded = self.reload()
            if self.need_global_unload and not just_loaded:
                self.memory.unload_all_models()
            if self.need_global_unload:
                p.clear_prompt_cache()
            self.need_global_unload = False
            return self._make(p)
        finally:
            self.set_config(stored)

    def _open_second(self, p: Any) -> None:
        """Load what the second pass asks for; the parameters are the settings' again at once."""
        chosen, files = self.opts.data["sd_model_checkpoint"], self.opts.data["forge_additional_modules"]
        changed = SAME not in p.hr_additional_modules and self.modules_change(p.hr_additional_modules, refresh=False)
        if p.hr_checkpoint_name not in (None, "Use same checkpoint"):
            changed |= self.checkpoint_change(p.hr_checkpoint_name, refresh=False)
        if not changed:
            return
        try:
            self.main_entry.refresh_model_loading_parameters()
            self.reload()
        finally:
            self.opts.data |= {"sd_model_checkpoint": chosen, "forge_additional_modules": files}
            self.main_entry.refresh_model_loading_parameters()

    @torch.inference_mode()
    def _weights(self, p: Any) -> Callable[[], str]:
        engine = self.model
        engine.load_loras([LORA] if LORA in p.prompt else [], online=self.online_lora)
        objects = engine.forge_objects_after_applying_lora
        params = (p.prompt, p.negative_prompt, *self._prompts_depend_on())
        if p.cached_c[0] != params:
            self.memory.load_models_gpu([objects.clip.patcher])
            p.cached_c[0], p.cached_c[1] = params, engine.digest("clip") + str(objects.clip.patcher.online())
        self.memory.load_models_gpu([objects.unet])
        return lambda: engine.digest("unet", "vae") + str(objects.unet.online()) + str(p.cached_c[1])

    def _prompts_depend_on(self) -> tuple[Any, ...]:
        return (self.model.sd_checkpoint_info,)

    def make_page(self) -> None:
        """Build the page: the list of checkpoints, and the txt2img tab; tell extensions of what is made."""
        self.picks = []
        listed = SimpleNamespace(parent=object())
        for event in ("input", "select", "blur"):
            setattr(listed, event, EventWrapper(EventWrapper(self._listener(event))))
        self.fire("after_component", listed)
        self.main_entry.ui_checkpoint = listed
        self.fire("after_component", SimpleNamespace(elem_id="forge_refresh_checkpoint"))
        fields = [SimpleNamespace(elem_id="task"), *map(tab_component, FIELDS), *self.scripts.scripts_txt2img.inputs]
        click = SimpleNamespace(js="submit", targets=[(-1, "click")], inputs=fields)
        other = SimpleNamespace(js=None, targets=[(-1, "click"), (None, "load")], inputs=[])
        page = SimpleNamespace(parent=None, default_config=SimpleNamespace(fns={0: other, 1: click}))
        self.fire("after_component", SimpleNamespace(elem_id="txt2img_generate", _id=-1, parent=page))
        self.bound = self.main_entry.refresh_model_loading_parameters
        self.bound()

    def _listener(self, event: str) -> Callable[..., None]:
        def listen(fn: Callable[..., Any], **_: Any) -> None:
            self.picks.append((event, fn))

        return listen

    def open_page(self) -> None:
        """Do what happens whenever somebody opens a page: a function that was kept is called."""
        self.bound()

    def pick(self, name: str) -> None:
        """Pick a checkpoint in the list: for what is shown already, gradio 4 only tells that the list was left."""
        is_shown = self.opts.data.get("sd_model_checkpoint") == name
        self.checkpoint_change(name)
        for event, call in self.picks:
            if event == "blur" or not is_shown:
                call(name)

    def leave_list(self) -> None:
        """Open the list of checkpoints and pick nothing, which the page's script tells by null."""
        for event, call in self.picks:
            if event == "blur":
                call(None)


class NeoStandIn(ForgeStandIn):
    """Forge Neo: other patchers, folders and prompts; it mends itself after a failed load."""

    make_patcher = NeoPatcher
    mends_itself = decodes_in_inference_mode = True

    def modules(self) -> Mapping[str, Any]:
        """Give the modules by name; the encoder's notes are elsewhere."""
        self.dynamic_args: Any = SimpleNamespace(last_extra_generation_params={})
        self.classic_engine = SimpleNamespace()
        return {**super().modules(), "backend.args": SimpleNamespace(dynamic_args=self.dynamic_args)}

    def notes(self) -> dict[str, Any]:
        """Give the encoder's notes for the infotext."""
        found: dict[str, Any] = self.dynamic_args.last_extra_generation_params
        return found

    def forget_notes(self) -> None:
        """Empty the notes."""
        self.notes().clear()

    def _sd_models(self) -> Any:
        models = super()._sd_models()
        for name in ("reload_model_weights", "get_empty_cond", "checkpoints_loaded", "SkipWritingToConfig"):
            delattr(models, name)
        return models

    def _command_line(self) -> Any:
        return SimpleNamespace(ckpt_dirs=[])

    def _prompts_depend_on(self) -> tuple[Any, ...]:
        return (str(self.sd_models.model_data.forge_loading_parameters),)


class BlockingLock:
    """The lock of the queue, which a thread that takes it twice waits for for ever."""

    def __init__(self) -> None:
        self.owner: int | None = None
        self.entries = 0
        self._lock = FifoLock()

    def acquire(self, blocking: bool = True) -> bool:
        if not self._lock.acquire(blocking):
            return False
        self.owner, self.entries = threading.get_ident(), self.entries + 1
        return True

    def release(self) -> None:
        self.owner = None
        self._lock.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()
