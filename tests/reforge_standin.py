"""A stand-in for reForge: the WebUI's functions and page, with networks behind patchers, a new module for each load."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from .forge_standin_models import Engine, Memory, NeoPatcher, build_objects
from .webui_standin import StandIn
from .webui_standin_models import LORA, digest


class ReForgeModel(nn.Module):
    """The WebUI's module; what its text encoders are called there is not how files call them."""

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self.objects = engine
        objects: Any = engine.forge_objects
        self.model = nn.Module()
        self.model.diffusion_model = objects.unet.model.diffusion_model
        self.first_stage_model = objects.vae.first_stage_model
        self.conditioner = nn.Module()
        self.conditioner.embedders = nn.ModuleList(objects.clip.cond_stage_model.children())
        self.register_buffer("alphas_cumprod", torch.linspace(1, 0, 10))
        self.cond_stage_model_empty_prompt = torch.zeros(1)

    @property
    def forge_objects_original(self) -> Any:
        """The patchers."""
        return self.objects.forge_objects_original


class ReForgeStandIn(StandIn):
    """reForge.

    Attributes:
        text_encoder: The file that the text encoders are loaded from, as a setting chooses it; None for the checkpoint.
    """

    text_encoder: str | None = None

    def modules(self) -> Mapping[str, Any]:
        """Give the modules by name; there is no backend of Forge's."""
        self.memory = Memory()
        return super().modules()

    def _sd_models(self) -> Any:
        models = super()._sd_models()
        models.forge_loader = SimpleNamespace(load_model_for_a1111=lambda *_, **__: None)
        models.get_empty_cond = lambda model: torch.tensor([float(int(model.objects.digest("clip")[:6], 16))])
        return models

    def digest(self, *parts: str) -> str:
        """Give the digest of the tensors in use."""
        return str(self.model.objects.digest(*parts))

    def _load(self, info: Any, model: Any) -> None:  # noqa: ARG002
        """Build a new module in any case."""
        self.loads.append(info.filename)
        others = [] if self.text_encoder is None else [_text_of(load_file(self.text_encoder))]
        made: Any = ReForgeModel(Engine(build_objects(load_file(info.filename), NeoPatcher, others)))
        if not self.sd_models.skip:
            self.opts.data["sd_model_checkpoint"] = info.title
        made.sd_model_checkpoint, made.sd_checkpoint_info, made.sd_model_hash = info.filename, info, info.hash
        self.sd_vae.base_vae = self.sd_vae.checkpoint_info = self.sd_vae.loaded_vae_file = None
        self.sd_models.model_data.loaded_sd_models = []
        self._use(made)
        self.fire("model_loaded", made)

    def _weights(self, p: Any) -> Callable[[], str]:
        engine = self.model.objects
        engine.load_loras([LORA] if LORA in p.prompt else [], online=False)
        objects = engine.forge_objects_after_applying_lora
        params = (p.prompt, p.negative_prompt, self.model.sd_checkpoint_info)
        if p.cached_c[0] != params:
            self.memory.load_models_gpu([objects.clip.patcher])
            p.cached_c[:] = [params, engine.digest("clip")]
        self.memory.load_models_gpu([objects.unet])
        return lambda: engine.digest("unet", "vae") + digest(self.model, "alphas") + str(p.cached_c[1])


def _text_of(state: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tensor for key, tensor in state.items() if key.startswith(("cond_stage_model.", "conditioner."))}
