"""A stand-in for reForge: the WebUI's functions and page, with networks behind patchers, a new module for each load.

As reForge does, it takes a model apart before it loads another one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from .forge_standin_computing import encoded_by, make_engine_compute, sample_images
from .forge_standin_models import Engine, Memory, NeoPatcher, build_objects
from .webui_standin import StandIn
from .webui_standin_computing import CHANNELS, _tokens_of
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
        self.conditioner: Any = nn.Module()
        self.conditioner.embedders = nn.ModuleList(objects.clip.cond_stage_model.children())
        for embedder in objects.clip.cond_stage_model.children():
            embedder.is_trainable = False
        width = CHANNELS * len(self.conditioner.embedders)
        self.conditioner.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.register_buffer("alphas_cumprod", torch.linspace(1, 0, 10))
        self.cond_stage_model_empty_prompt = torch.zeros(1)

    @property
    def forge_objects_original(self) -> Any:
        """The patchers."""
        return self.objects.forge_objects_original

    def take_apart(self) -> None:
        """Do what ``complete_model_teardown`` does: patchers and checkpoint info stay, the networks are emptied."""
        for module in list(self.modules()):
            module._modules.update(dict.fromkeys(module._modules))
            module._parameters.clear()

    @property
    def forge_objects(self) -> Any:
        """The patchers of the image."""
        return self.objects.forge_objects

    @forge_objects.setter
    def forge_objects(self, objects: Any) -> None:
        self.objects.forge_objects = objects

    def get_learned_conditioning(self, texts: Sequence[str]) -> Any:
        """Encode prompts; text encoders compute gradients only if they are trained."""
        self.objects.memory.load_model_gpu(self.forge_objects.clip.patcher)
        encoders: Any = self.conditioner.embedders
        trained = all(embedder.is_trainable for embedder in encoders)
        with torch.set_grad_enabled(torch.is_grad_enabled() and trained):
            encoded = encoded_by(encoders, texts)
            tokens = _tokens_of(encoded)
            layers = [tokens]
            tokens += 0.1 * self.conditioner.norm(tokens)  # which changes what was kept of the layer before
        return {**encoded, "crossattn": layers[0]} if isinstance(encoded, dict) else layers[0]


class ReForgeStandIn(StandIn):
    """reForge.

    Attributes:
        text_encoder: The file that the text encoders are loaded from, as a setting chooses it; None for the checkpoint.
    """

    text_encoder: str | None = None
    decodes_in_inference_mode = False

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        reload = self._queued(lambda: self.reload(forced_reload=True))
        option = SimpleNamespace(onchange=reload, label="Text Encoder", infotext=None, default="Automatic")
        self.opts.data_labels["sd_text_encoder"] = option

    def modules(self) -> Mapping[str, Any]:
        """Give the modules by name; there is no backend of Forge's."""
        self.memory, self.batches = Memory(), True
        self.patch_objects: Callable[[Any], None] = lambda _objects: None
        patched = {"model_management": self.memory}
        names = {f"ldm_patched.modules.{name}": part for name, part in patched.items()}
        return {**super().modules(), "ldm_patched.modules": SimpleNamespace(**patched), **names}

    def notes(self) -> dict[str, Any]:
        """Give nothing that is kept: the WebUI's encoder makes its notes elsewhere."""
        return {}

    def forget_notes(self) -> None:
        """Do nothing."""

    def set_clip_skip(self) -> None:
        """Do nothing: the encoder reads the setting."""

    def _sample(self, p: Any, seeds: Sequence[int]) -> Iterator[Image.Image]:
        return sample_images(self, self.model.objects, p, seeds) if self.computes else super()._sample(p, seeds)

    def _sd_models(self) -> Any:
        models = super()._sd_models()
        models.forge_loader = SimpleNamespace(load_model_for_a1111=lambda *_, **__: None)
        models.get_empty_cond = lambda model: torch.tensor([float(int(model.objects.digest("clip")[:6], 16))])
        return models

    def digest(self, *parts: str) -> str:
        """Give the digest of the tensors in use."""
        return str(self.model.objects.digest(*parts))

    def reload(self, sd_model: Any = None, info: Any = None, forced_reload: bool = False) -> Any:  # noqa: ARG002
        """Use a module that is kept, or take apart what must go, and build a new one."""
        info, data = info or self.select(), self.sd_models.model_data
        same = next((model for model in data.loaded_sd_models if model.sd_model_checkpoint == info.filename), None)
        if same is not None and not forced_reload:
            self._use(same)
            return same
        kept = [model for model in data.loaded_sd_models if model is not same][: self.opts.sd_checkpoints_limit - 1]
        for model in data.loaded_sd_models:
            if all(model is not other for other in kept):
                model.take_apart()
        data.loaded_sd_models = kept  # the one in use stays in ``sd_model`` until the new one is complete
        self._load(info, None)
        return data.sd_model

    def _load(self, info: Any, model: Any) -> None:  # noqa: ARG002
        self.loads.append(info.filename)
        others = [] if self.text_encoder is None else [_text_of(load_file(self.text_encoder))]
        made: Any = ReForgeModel(Engine(build_objects(load_file(info.filename), NeoPatcher, others)))
        if self.computes:
            make_engine_compute(made.objects, self)
        made.sd_model_checkpoint, made.sd_checkpoint_info, made.sd_model_hash = info.filename, info, info.hash
        self.sd_vae.base_vae = self.sd_vae.checkpoint_info = self.sd_vae.loaded_vae_file = None
        self._use(made)
        self.fire("model_loaded", made)

    @torch.inference_mode()
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
