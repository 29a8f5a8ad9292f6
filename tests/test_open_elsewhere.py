"""Results in diffusers' own loader of single files, which must find there what this program's networks hold."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from elemental.architectures.blocks import SD1, SD2, SDXL, Architecture
from elemental.demo.layout import SD1_LAYOUT, SD2_LAYOUT, SDXL_LAYOUT, Layout, tensor_shapes
from elemental.merge.files.hashes import CACHE_VARIABLE

from .conftest import DRAWABLE, random_state
from .merging import EMA, SPEC, State, assert_merged, ema_of, merge, only, save_all

pytest.importorskip("diffusers")

import diffusers
import huggingface_hub.constants
from diffusers.loaders import single_file_utils

from elemental.hosts.base import CheckpointRef
from elemental.hosts.standalone.clip_tokenizer import tokenize
from elemental.hosts.standalone.host import StandaloneHost
from elemental.hosts.standalone.key_map import Network, live_name
from elemental.hosts.standalone.live_model import StandaloneModel
from elemental.hosts.standalone.networks import build_networks
from elemental.hosts.standalone.samplers import make_sampler
from elemental.images.image_request import ImageRequest

pytestmark = pytest.mark.slow

REQUEST = ImageRequest(
    "a red circle on blue", negative="blurred", seed=5, steps=2, sampler="Euler", width=64, height=64
)

_XL = DRAWABLE["sdxl"]
SMALL = {
    **DRAWABLE,
    # diffusers tells SDXL's two text encoders by their widths
    "sdxl": replace(_XL, texts=(_XL.texts[0], replace(_XL.texts[1], width=64)), context=96, labels=6 * 256 + 64),
}


@pytest.fixture(scope="module", autouse=True)
def _on_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep from the network, and from the user's cache of hashes, what is made once for the module."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("diffusers went to the network")

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE_VARIABLE, str(tmp_path_factory.mktemp("cache")))
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        patch.setattr(socket.socket, "connect", refuse)
        yield


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Run these small networks in one thread: of several, most of the time goes by waiting for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Words:
    """A tokenizer as diffusers calls it, made of this program's."""

    model_max_length = 77
    added_tokens_encoder: dict[str, int] = {}  # noqa: RUF012 - as transformers has it

    def __init__(self, **pad: int) -> None:
        self._pad = pad

    def __call__(self, texts: str | list[str], **_: object) -> SimpleNamespace:
        rows = [tokenize(text, **self._pad)[0] for text in ([texts] if isinstance(texts, str) else texts)]
        return SimpleNamespace(input_ids=torch.tensor(rows))

    def tokenize(self, text: str) -> list[str]:
        return text.split()


@dataclass
class Opened:
    """A merged file, what went into it, and what opened it."""

    path: Path
    states: list[State]
    ours: StandaloneModel
    theirs: Any

    def network(self, name: Network) -> dict[str, Tensor]:
        """Give the parameters that diffusers loaded, without the level that some versions of transformers add."""
        module: torch.nn.Module = getattr(self.theirs, name.value)
        return {key.removeprefix("text_model."): value for key, value in module.named_parameters()}


def write_configs(model: StandaloneModel, folder: Path, pipeline: str) -> None:
    """Write the sizes of networks where diffusers looks for them, which otherwise asks a hub."""
    index: dict[str, Any] = {"_class_name": pipeline, "scheduler": ["diffusers", "EulerDiscreteScheduler"]}
    make_sampler("Euler", v_prediction=False, zero_snr=False).save_config(folder / "scheduler")
    for name, network in model.networks.items():
        config: Any = network
        (config.save_config if hasattr(config, "save_config") else config.config.save_pretrained)(folder / name.value)
        index[name.value] = [type(network).__module__.partition(".")[0], type(network).__name__]
    (folder / "model_index.json").write_text(json.dumps(index))


def larger(state: State) -> State:
    """Make more of networks whose numbers are random, so that it shows in images what they are."""
    return {key: tensor * 3 if tensor.is_floating_point() else tensor for key, tensor in state.items()}


@pytest.fixture(scope="module", params=SMALL)
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Opened:
    folder = tmp_path_factory.mktemp(request.param)
    states = [larger(random_state(SMALL[request.param], seed)) for seed in (1, 2)]
    out = folder / "out.safetensors"
    merge(save_all(folder, states), out, spec=SPEC)
    ours = StandaloneModel(out, device=torch.device("cpu"), dtype=torch.float32)
    xl = request.param == "sdxl"
    pipeline = "StableDiffusionXLPipeline" if xl else "StableDiffusionPipeline"
    write_configs(ours, folder, pipeline)
    parts: dict[str, Any] = {"tokenizer": Words(**({"pad": 0} if request.param == "sd2" else {}))}
    parts |= {"tokenizer_2": Words(pad=0), "add_watermarker": False} if xl else {"safety_checker": None}
    theirs = getattr(diffusers, pipeline).from_single_file(str(out), config=str(folder), local_files_only=True, **parts)
    theirs.set_progress_bar_config(disable=True)
    return Opened(out, states, ours, theirs)


def test_diffusers_holds_the_file_and_the_formula(opened: Opened) -> None:
    file = load_file(opened.path)
    assert_merged(file, opened.states, spec=SPEC, depth=opened.ours.architecture.depth)
    left = {name: opened.network(name) for name in opened.ours.networks}
    for key in opened.ours.tensors():
        place = live_name(key)
        assert place is not None
        parts = [left[place.network].pop(name) for name in place.parameters]
        value = torch.cat(parts) if len(parts) > 1 else parts[0]
        assert torch.equal((value.T if place.transposed else value).reshape(-1), file[key].float().reshape(-1)), key
    assert not any(left.values())


def test_diffusers_draws_what_this_program_draws(opened: Opened) -> None:
    host = StandaloneHost()
    host.open_model(CheckpointRef("out", opened.path))
    (ours,) = host.make_images(REQUEST, model={})
    (theirs,) = opened.theirs(
        REQUEST.prompt,
        negative_prompt=REQUEST.negative,
        height=REQUEST.height,
        width=REQUEST.width,
        num_inference_steps=REQUEST.steps,
        guidance_scale=REQUEST.cfg,
        generator=[torch.Generator().manual_seed(REQUEST.seed)],
    ).images
    levels = [np.asarray(image, dtype=int) for image in (theirs, ours.image)]
    differences = np.abs(levels[0] - levels[1])
    # on some processors the kernels round by how numbers lie in memory, which shows in a level of a pixel or two
    assert differences.max() <= 1
    assert np.count_nonzero(differences) <= differences.size / 1000
    assert len(set(theirs.tobytes())) > 20


def test_diffusers_takes_ema_weights_only_when_asked(tmp_path: Path) -> None:
    states = [random_state(SMALL["sd1"], seed) for seed in (1, 2)]
    config = build_networks({key: tuple(tensor.shape) for key, tensor in states[0].items()}, SD1)[Network.UNET]
    config.save_config(tmp_path)  # type: ignore[operator]
    states = [only(state, "model.") for state in states]
    keys = list(states[0])
    states[0] |= ema_of(states[0], 3)
    out = tmp_path / "out.safetensors"
    result = merge(save_all(tmp_path, states), out, spec=SPEC)
    assert_merged(result, states, spec=SPEC)
    for asked in (False, True):
        network = diffusers.UNet2DConditionModel.from_single_file(str(out), config=str(tmp_path), extract_ema=asked)
        loaded = dict(network.named_parameters())
        for key in keys:
            place = live_name(key)
            assert place is not None
            wanted = result[EMA + key.removeprefix("model.").replace(".", "") if asked else key]
            assert torch.equal(loaded[place.parameters[0]], wanted.float()), key


COMMON = {"in_channels": 4, "out_channels": 4, "model_channels": 320, "num_res_blocks": 2}
SD2_AND_LATER = {"num_head_channels": 64, "use_linear_in_transformer": True}
LEVELS_OF_4 = {"channel_mult": [1, 2, 4, 4], "attention_resolutions": [4, 2, 1], "transformer_depth": 1}
PUBLISHED: dict[str, tuple[Layout, Architecture, dict[str, Any], float]] = {
    "v1-inference.yaml": (SD1_LAYOUT, SD1, LEVELS_OF_4 | {"num_heads": 8, "context_dim": 768}, 0.18215),
    "v2-inference.yaml": (SD2_LAYOUT, SD2, LEVELS_OF_4 | SD2_AND_LATER | {"context_dim": 1024}, 0.18215),
    "sd_xl_base.yaml": (
        SDXL_LAYOUT,
        SDXL,
        {
            **SD2_AND_LATER, "channel_mult": [1, 2, 4], "attention_resolutions": [4, 2], "context_dim": 2048,
            "transformer_depth": [1, 2, 10], "adm_in_channels": 2816, "num_classes": "sequential",
        },
        0.13025,
    ),
}  # fmt: skip
"""What the published configuration files say of the networks."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_are_those_that_diffusers_reads_from_published_configurations(name: str) -> None:
    layout, architecture, unet, scale = PUBLISHED[name]
    vae = {"in_channels": 3, "out_ch": 3, "ch": 128, "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "z_channels": 4}
    params = {
        "unet_config": {"params": COMMON | unet},
        "first_stage_config": {"params": {"ddconfig": vae}},
        "scale_factor": scale,
    }
    original = {"model": {"params": params}}
    shapes = tensor_shapes(layout)
    tensors = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    networks = build_networks(shapes, architecture)
    for network, wanted in (
        (Network.UNET, single_file_utils.create_unet_diffusers_config_from_ldm(original, tensors)),
        (Network.VAE, single_file_utils.create_vae_diffusers_config_from_ldm(original, tensors)),
    ):
        config: Any = networks[network].config
        for field, value in wanted.items():
            if field != "sample_size":  # of images; no part of the network
                ours = config[field]
                alike = [value] * len(ours) if isinstance(ours, list) and isinstance(value, int) else value
                assert ours == alike or list(ours) == alike, field
