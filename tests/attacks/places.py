"""The hosts that are attacked, each with small checkpoints, and how to look at them past the traps."""

from __future__ import annotations

import gc
import hashlib
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from elemental import HostError, MergeRecipe, ModelSource, live_merge, make_images, model_source
from elemental.hosts.base import CheckpointRef, Host, LiveModel
from elemental.images.image_request import ImageRequest

from ..conftest import LAYOUTS, random_state, save, save_drawable
from ..fake_host import FakeHost
from ..forge_standin import FakeInitialModel, ForgeStandIn, NeoStandIn
from ..reforge_standin import ReForgeStandIn
from ..webui_standin import StandIn
from ..webui_standin_fixtures import make_rig
from .traps import Trap, trapped

_FEW = (
    "model.diffusion_model.input_blocks.0.0.",
    "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k",
    "model.diffusion_model.input_blocks.11.0.in_layers.0",
    "model.diffusion_model.output_blocks.5.1.transformer_blocks.0.attn2.to_",
    "first_stage_model.decoder.conv_in.",
    "cond_stage_model.transformer.text_model.embeddings.token_embedding.",
    "cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc1.",
)


def lora_layers(host: str) -> tuple[str, ...]:
    """Give the layers that LoRAs change on a stand-in; on the WebUI's one without a bias would keep the LoRA's."""
    unet, text = "input_blocks.4.1.transformer_blocks.0.attn1.", "text_model.encoder.layers.0.self_attn.q_proj"
    layer = "to_out.0" if host == "webui" else "to_q"
    return f"model.diffusion_model.{unet}{layer}", f"cond_stage_model.transformer.{text}"


def few_tensors(folder: Path, more: tuple[str, ...] = ()) -> dict[str, Path]:
    """Write checkpoints a, b and c of so few tensors that each call of a merge can be made to fail in turn.

    Args:
        folder: Where to write them.
        more: What the keys of further tensors begin with.
    """
    paths = {}
    for seed, name in enumerate("abc", 1):
        state = random_state(LAYOUTS["sd1"], seed)
        few = {key: value for key, value in state.items() if key.startswith((*_FEW, *more))}
        paths[name] = save(folder / f"{name}.safetensors", few)
    return paths


@dataclass(frozen=True)
class Seen:
    """What a host looks like between jobs.

    Attributes:
        digest: The SHA-256 of the bytes of all live tensors.
        image: That of an image of the model as it is, in which stale caches would show.
        beside: What the host keeps beside the model.
        loaded: The checkpoint that the host says is loaded.
        idle: Whether nothing is held: no claim, no job.
        threads: How many run.
    """

    digest: str
    image: str
    beside: object
    loaded: Path | None
    idle: bool
    threads: int


class Place(ABC):
    """A host, its checkpoints, and what it gives when nobody disturbs it.

    Args:
        host: The host.
        paths: Checkpoints a, b and c.
        request: Of an image that takes little time.
    """

    def __init__(self, host: Host, paths: Mapping[str, Path], request: ImageRequest) -> None:
        self.host = host
        self.paths = paths
        self.request = request
        self._digests: dict[MergeRecipe | Path, str] = {}
        self._pixels: dict[tuple[MergeRecipe | ModelSource, ImageRequest], bytes] = {}
        for name, path in paths.items():
            self.open(name)
            self._digests[path] = self.digest()
        damaged = paths["a"].with_name("damaged.safetensors")
        damaged.write_bytes(paths["a"].read_bytes()[:1000])
        self.paths = {**paths, "damaged": damaged}
        self.draw(model_source(paths["a"]))
        self._usual = threading.active_count()  # some libraries start a thread at the first image, and keep it

    @abstractmethod
    def digest(self) -> str:
        """Give the SHA-256 of all live tensors."""

    @abstractmethod
    def idle(self) -> bool:
        """Tell whether no job is left running, and whether the model is unclaimed."""

    @abstractmethod
    def reset(self) -> None:
        """Have the next checkpoint loaded from its file, whatever state the host is in."""

    def beside(self) -> object:
        """Give what the host keeps beside the model."""
        return None

    @contextmanager
    def trapped_inside(self, trap: Trap) -> Iterator[None]:  # noqa: ARG002 - most have nothing inside to fail
        """Put a trap before and behind what the program that the host is in does when it is called."""
        yield

    def forget(self) -> None:  # noqa: B027 - most have nothing to forget
        """Let go of what a scene has left with the host for good."""

    def see(self) -> Seen:
        (image,) = self.host.make_images(self.request, model={})
        loaded = self.host.loaded()
        path = None if loaded is None else loaded.path
        pixels = hashlib.sha256(image.image.tobytes()).hexdigest()
        return Seen(self.digest(), pixels, self.beside(), path, self.idle(), self._threads())

    def _threads(self) -> int:
        """Count the threads, once those that are about to end have ended."""
        end = time.monotonic() + 1
        while threading.active_count() > self._usual and time.monotonic() < end:
            time.sleep(0.001)
        return threading.active_count()

    def open(self, name: str) -> LiveModel:
        return self.host.open_model(CheckpointRef(self.paths[name].stem, self.paths[name]))

    def plain(self, path: Path) -> str:
        """Give the digest of a checkpoint as it is, which was opened when nothing had gone wrong yet."""
        return self._digests[path]

    def source(self, name: str) -> ModelSource:
        return model_source(self.paths[name])

    def learn(self, recipe: MergeRecipe) -> None:
        """Find out what a merge looks like when nothing goes wrong."""
        with live_merge(self.open("a")) as merge:
            merge.apply(recipe)
            self._digests[recipe] = self.digest()
        self.pixels(recipe)

    def expected(self, recipe: MergeRecipe) -> str:
        return self._digests[recipe]

    def pixels(self, model: MergeRecipe | ModelSource, request: ImageRequest | None = None) -> bytes:
        """Give an image's pixels as they were the first time."""
        key = model, request or self.request
        if key not in self._pixels:
            self._pixels[key] = self.draw(*key)
        return self._pixels[key]

    def draw(self, model: MergeRecipe | ModelSource, request: ImageRequest | None = None) -> bytes:
        """Make an image."""
        (image,) = make_images(self.host, request or self.request, model)
        return image.image.tobytes()


def digest_of(tensors: Mapping[str, Sequence[Tensor]]) -> str:
    found = hashlib.sha256()
    for key in sorted(tensors):
        for part in tensors[key]:
            found.update(part.contiguous().reshape(-1).view(torch.uint8).cpu().numpy().data)
    return found.hexdigest()


def _is_free(claim: Any) -> bool:
    try:
        with claim():
            return True
    except HostError:
        return False


def _load(path: Path) -> Mapping[str, Sequence[Tensor]]:
    """Load into plain tensors, one of them in parts, another one a strided view."""
    found: dict[str, Sequence[Tensor]] = {}
    for key, tensor in load_file(path).items():
        if key.endswith("attn2.to_k.weight"):
            found[key] = tuple(part.clone() for part in tensor.chunk(2))
        elif key.endswith("attn2.to_v.weight"):
            found[key] = (tensor.T.contiguous().T,)
        elif tensor.is_floating_point():
            found[key] = (tensor,)
    return found


def differentiability(networks: Sequence[nn.Module]) -> object:
    """Give what backward passes change of networks, and have to put back: gradients, hooks, modes."""
    modules = [module for network in networks for module in network.modules()]
    hooks = [len(module._forward_pre_hooks) + len(module._forward_hooks) for module in modules]
    parameters = [parameter for network in networks for parameter in network.parameters()]
    marks = [(each.requires_grad, each.grad is None, each._post_accumulate_grad_hooks) for each in parameters]
    return [bool(hooks) for _, _, hooks in marks], [mark[:2] for mark in marks], hooks, [m.training for m in modules]


class FakePlace(Place):
    """The host in memory."""

    def __init__(self, paths: Mapping[str, Path], folder: Path) -> None:
        self.fake = FakeHost(_load, output=folder)
        self.fake.differentiates = True
        super().__init__(self.fake, paths, ImageRequest("a cat", seed=7, steps=1, width=16, height=16))

    def digest(self) -> str:
        assert self.fake._live is not None
        return digest_of(self.fake._live.tensors())

    def beside(self) -> object:
        assert self.fake._live is not None
        return differentiability([self.fake._live.weights()])

    def idle(self) -> bool:
        return self.fake._live is None or _is_free(self.fake._live.claim)

    def reset(self) -> None:
        self.fake._live = None

    def forget(self) -> None:
        self.fake.load_calls.clear()
        self.fake.reports.clear()
        self.fake.jobs.clear()


class StandalonePlace(Place):
    """The host on diffusers."""

    def __init__(self, paths: Mapping[str, Path], folder: Path) -> None:
        from elemental.hosts.standalone.host import StandaloneHost

        self.standalone = StandaloneHost(output=folder)
        super().__init__(self.standalone, paths, ImageRequest("a cat", seed=7, steps=1, width=64, height=64))

    def digest(self) -> str:
        assert self.standalone._live is not None
        return digest_of(self.standalone._live.tensors())

    def beside(self) -> object:
        assert self.standalone._live is not None
        return differentiability(list(self.standalone._live.networks.values()))

    def idle(self) -> bool:
        live = self.standalone._live
        return not self.standalone._job_lock.locked() and (live is None or _is_free(live.claim))

    def reset(self) -> None:
        self.standalone._live = None


class WebUIPlace(Place):
    """The host on the stand-in for the WebUI, or for reForge.

    Args:
        rig: The stand-in and the port on it.
    """

    def __init__(self, rig: Any) -> None:
        self.rig = rig
        rig.webui.opts.pad_cond_uncond = True  # keeps the encoded empty prompt in use
        super().__init__(rig.host, rig.paths, ImageRequest("a cat", seed=7, steps=1, width=16, height=16))

    def digest(self) -> str:
        found: str = self.rig.webui.digest()
        return found

    def beside(self) -> object:
        return self.rig.webui.model.cond_stage_model_empty_prompt.tolist(), dict(self.rig.webui.opts.data)

    def idle(self) -> bool:
        webui = self.rig.webui
        live = self.rig.host._live
        clear = not (webui.state.job or webui.state.interrupted or webui.state.skipped)
        return webui.lock.owner is None and clear and (live is None or _is_free(live._claim))

    def reset(self) -> None:
        data = self.rig.webui.sd_models.model_data
        data.sd_model, data.loaded_sd_models = None, []
        self.rig.host._models = []

    @contextmanager
    def trapped_inside(self, trap: Trap) -> Iterator[None]:
        webui = self.rig.webui
        calls = [(webui, name) for name in ("_load", "_build", "_weights", "_sample")]
        calls += [(webui.sd_models, "get_empty_cond")]
        memory = getattr(webui, "memory", None)
        calls += [(memory, name) for name in ("load_models_gpu", "unload_model_clones")]
        with pytest.MonkeyPatch.context() as patch:
            for owner, name in calls:
                if hasattr(owner, name):
                    patch.setattr(owner, name, trapped(getattr(owner, name), trap, f"inside: {name}"))
            yield

    def forget(self) -> None:
        self.rig.host.load_calls._calls.clear()


class ComputingPlace(WebUIPlace):
    """The same with a model that computes, whose images can be differentiated."""

    def beside(self) -> object:
        model = self.rig.webui.model
        return super().beside(), differentiability([model])


class ForgePlace(WebUIPlace):
    """The host on the stand-in for Forge, or for Forge Neo."""

    def beside(self) -> object:
        webui, loader = self.rig.webui, self.rig.host.loader
        parameters = str(webui.sd_models.model_data.forge_loading_parameters)
        if len(webui._alive) > 1:  # maybe in cycles that are not collected yet
            gc.collect()
        return dict(webui.opts.data), parameters, loader._held, loader._is_waiting, len(webui._alive)

    def reset(self) -> None:
        data = self.rig.webui.sd_models.model_data
        data.sd_model, data.forge_hash = FakeInitialModel(), ""
        self.rig.host._models = []


PLACES: Mapping[str, tuple[type[WebUIPlace], type[StandIn]]] = {
    "webui": (WebUIPlace, StandIn),
    "webui-computing": (ComputingPlace, StandIn),
    "reforge": (WebUIPlace, ReForgeStandIn),
    "forge": (ForgePlace, ForgeStandIn),
    "neo": (ForgePlace, NeoStandIn),
}
"""The hosts on stand-ins, by name."""
HOSTS = ("fake", *PLACES, "standalone")


@contextmanager
def place_on(name: str, folder: Path, *, paths: Mapping[str, Path] | None = None) -> Iterator[Place]:
    """Make a host ready.

    Args:
        name: One of ``HOSTS``.
        folder: For checkpoints and images.
        paths: Checkpoints a, b and c, if there are some already.
    """
    (folder / "files").mkdir()
    if name == "standalone":
        yield StandalonePlace(paths or save_drawable(folder / "files"), folder)
        return
    few = paths or few_tensors(folder / "files")
    if name == "fake":
        yield FakePlace(few, folder)
        return
    make_place, kind = PLACES[name]
    computes = make_place is ComputingPlace

    def prepare(webui: StandIn) -> None:
        webui.computes = computes

    with (
        pytest.MonkeyPatch.context() as patch,
        make_rig(folder, patch, few, kind=kind, prepare=prepare) as rig,
        garbage_of_now_kept(),
    ):
        yield make_place(rig)


@contextmanager
def garbage_of_now_kept() -> Iterator[None]:
    """Have the collector look at new objects only: the stand-in for Forge collects at each load, as Forge does."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
