"""The port on diffusers: real checkpoints, on the CPU or a GPU, without a WebUI and without a network."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from PIL import Image
from torch import Tensor

from ...architectures.blocks import SD2, SDXL
from ...architectures.detection import input_channels
from ...errors import HostError, Stopped
from ...images.infotext import format_infotext
from ...images.request import GeneratedImage, ImageRequest, with_known_sampler
from ...merge.files.checkpoint import Checkpoint, checkpoint_files, read_signature
from ...merge.out_of_memory import is_out_of_memory
from ...merge.tensor_views import copy_piece, count_numbers, pieces_of
from ..base import NO_FIELDS, CheckpointRef, Claim, StepProgress
from .clip_tokenizer import tokenize
from .key_map import Network
from .networks import Networks, allocate, build_networks, live_tensors
from .samplers import SAMPLERS, make_sampler

_Report = Callable[[int, int, str], None]


class StandaloneModel:
    """A checkpoint in diffusers' networks: the live model of the standalone host.

    Args:
        path: The checkpoint.
        device: Where it lives.
        dtype: The number format of its tensors; the VAE of SDXL, which overflows in fp16, is fp32 then.

    Attributes:
        checkpoint: The file that the tensors are those of; None once a merge was kept.
        claim: Has the model to oneself.
        kept: The label of the merge that was kept in it.
        signature: What the file looked like when it was read.
        architecture: What kind of model it is.
        v_prediction: Whether it predicts v rather than the noise.
        zero_snr: Whether it was trained down to a signal of zero.
        channels: What its U-Net reads: 4, or 9 for inpainting.
        networks: Those of diffusers and transformers, on the device.

    Raises:
        CheckpointError: It cannot be read, or is of no kind that is known.
        HostError: It lacks what making images needs.
    """

    def __init__(self, path: Path, *, device: torch.device, dtype: torch.dtype) -> None:
        self.checkpoint: CheckpointRef | None = CheckpointRef(path.stem, path)
        self.claim: Callable[[], AbstractContextManager[None]] = Claim()
        self.kept: str | None = None
        with Checkpoint(path) as file:
            self.signature = file.signature
            shapes = {key: info.shape for key, info in file.tensors.items()}
            self.architecture = file.architecture
            self.v_prediction = _predicts_v(file)
            self.zero_snr = "ztsnr" in file.tensors
            self.channels = input_channels(shapes)
            self.networks = build_networks(shapes, self.architecture)
            overflows = self.architecture is SDXL and dtype is torch.float16
            formats = dict.fromkeys(self.networks, dtype)
            allocate(self.networks, formats | ({Network.VAE: torch.float32} if overflows else {}), device)
            self._tensors = live_tensors(self.networks, list(shapes))
            _check_complete(self.networks, self._tensors)
            for key, parts in self._tensors.items():
                size = count_numbers(parts)
                if size != file.tensors[key].numel:
                    raise HostError(f"{path}: {key} has {file.tensors[key].numel} numbers; {size} are needed.")
                for part, at, piece in pieces_of(parts, 0, file.tensor(key).reshape(-1)):
                    copy_piece(part, at, piece)

    def tensors(self) -> Mapping[str, Sequence[Tensor]]:
        """Give the networks' parameters by checkpoint key."""
        return self._tensors

    def changed(self, keys: Collection[str]) -> None:
        """Do nothing: prompts are encoded anew for each request."""

    def keep(self, label: str) -> None:
        """Remember the name of what is in the model, which is no longer its file's."""
        self.kept = label
        self.checkpoint = None

    def describe(self, model: Mapping[str, str], fields: Mapping[str, str]) -> None:
        """Do nothing: nobody else makes images of it."""

    def replaced(self) -> bool:
        """Tell that nothing is ever loaded over it: each checkpoint gets networks of its own."""
        return False


class StandaloneHost:
    """The port on diffusers.

    Args:
        device: Where to compute, as torch names it.
        dtype: Number format of the live model; by default fp32 on the CPU, fp16 elsewhere.
        models: The folder whose checkpoints are listed, and in which merges are saved.
        output: Where images are kept.
        report: Called with steps done, steps in all, and what is done.
        should_stop: Asked after each step, beside :meth:`stop`.

    Raises:
        HostError: The device cannot be used.
    """

    def __init__(
        self,
        *,
        device: str = "cpu",
        dtype: torch.dtype | None = None,
        models: Path | None = None,
        output: Path = Path("outputs"),
        report: _Report = lambda _done, _total, _text: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        try:
            self._device = torch.device(device)
            torch.empty(1, device=self._device)
        except (RuntimeError, AssertionError, NotImplementedError) as exc:
            raise HostError(f'The device "{device}" cannot be used by this installation of torch.') from exc
        self._dtype = dtype or (torch.float32 if self._device.type == "cpu" else torch.float16)
        self._models = models
        self._output = output
        self._live: StandaloneModel | None = None
        self._listed: list[CheckpointRef] | None = None
        self._report = report
        self._asked_to_stop = should_stop
        self._stopped = threading.Event()
        self._one_job = threading.Lock()
        self._glimpse = StepProgress()

    def checkpoints(self) -> Sequence[CheckpointRef]:
        """List the checkpoints that were in the models folder, at any depth, when it last looked."""
        if self._listed is None:
            self.refresh()
        return self._listed or []

    def refresh(self) -> None:
        """Look through the models folder, which may be large."""
        found = [] if self._models is None else checkpoint_files(self._models)
        folder = self._models or Path()
        self._listed = [CheckpointRef(path.relative_to(folder).as_posix(), path) for path in found]

    def models_folder(self) -> Path:
        """Give the folder of the checkpoints; the working directory if none was given."""
        return self._models or Path()

    def samplers(self) -> Sequence[str]:
        """List the samplers by the WebUI's names."""
        return list(SAMPLERS)

    def loaded(self) -> CheckpointRef | None:
        """Give the checkpoint that the live model was loaded from."""
        return None if self._live is None else self._live.checkpoint

    def before_loading(self, call: Callable[[], None]) -> None:
        """Do nothing: checkpoints are loaded by :meth:`open_model` alone."""

    @contextmanager
    def job(self, name: str, images: int) -> Iterator[None]:  # noqa: ARG002
        """Have the host to oneself for a job, once those before it are done."""
        with self._one_job:
            self._stopped.clear()
            try:
                yield
            finally:
                self._glimpse = StepProgress()

    def open_model(self, checkpoint: CheckpointRef) -> StandaloneModel:
        """Load a checkpoint, unless it is the one in use.

        Raises:
            CheckpointError: The file cannot be read, or is of no kind that is known.
            HostError: It lacks what making images needs, memory runs out, or a merge is going on in the live model.
        """
        wanted = checkpoint.path, read_signature(checkpoint.path)
        live = self._live
        if live is not None and live.checkpoint is not None and (live.checkpoint.path, live.signature) == wanted:
            return live
        with nullcontext() if live is None else live.claim():
            self._live = live = None  # one model at a time fits into memory
            with _memory(f"The memory of {self._device} is too small for {checkpoint.path.name}."):
                opened = self._live = StandaloneModel(checkpoint.path, device=self._device, dtype=self._dtype)
        return opened

    def output_folder(self) -> Path:
        """Give the folder in which images are kept."""
        return self._output

    def report(self, done: int, total: int, text: str) -> None:
        """Show how far a job is."""
        self._report(done, total, text)

    def step_progress(self) -> StepProgress:
        """Tell the step of the image in the making."""
        return self._glimpse

    def stop(self) -> None:
        """Have the job end after the step that is being made."""
        self._stopped.set()

    def should_stop(self) -> bool:
        """Tell whether the user pressed Stop."""
        return self._stopped.is_set() or self._asked_to_stop()

    def make_images(
        self, request: ImageRequest, *, model: Mapping[str, str], fields: Mapping[str, str] = NO_FIELDS
    ) -> Sequence[GeneratedImage]:
        """Make the images of a request from the live model as it is now.

        The same request and the same model give the same images, byte for byte, on the same machine.

        Raises:
            HostError: No model is loaded, or an inpainting model; the sampler is unknown, the package with CLIP's
                vocabulary is missing, or memory runs out.
            Stopped: The caller asked for it.
        """
        if self._live is None:
            raise HostError("No model is loaded.")
        request = with_known_sampler(request, self.samplers())  # in the spelling that the WebUI knows
        too_small = f"The memory of {self._device} is too small for these images; ask for smaller ones."
        with _memory(too_small), torch.inference_mode():
            images = self._sample(self._live, request)
        return [
            GeneratedImage(image, seed, format_infotext(request, seed=seed, model=model), fields)
            for seed, image in enumerate(images, request.seed)
        ]

    def _sample(self, live: StandaloneModel, request: ImageRequest) -> list[Image.Image]:
        if live.channels != 4:
            raise HostError(
                "An inpainting model cannot draw without an image and a mask, which this host does not take."
            )
        scheduler = make_sampler(request.sampler, v_prediction=live.v_prediction, zero_snr=live.zero_snr)
        pipeline = _make_pipeline(live, scheduler)
        prompts = _encode(live, request, self._device)
        generators = [torch.Generator().manual_seed(request.seed + index) for index in range(request.batch)]

        def after_step(_: Any, step: int, _time: Any, values: dict[str, Any]) -> dict[str, Any]:
            self.report(step + 1, request.steps, "generating")
            self._glimpse = StepProgress(step + 1, request.steps)
            if self.should_stop():
                raise Stopped
            return values

        latents: Tensor = pipeline(
            **prompts,
            height=request.height,
            width=request.width,
            num_inference_steps=request.steps,
            guidance_scale=request.cfg,
            num_images_per_prompt=request.batch,
            generator=generators,
            output_type="latent",
            callback_on_step_end=after_step,
        ).images
        return [self._decode(live, latent[None]) for latent in latents]

    def _decode(self, live: StandaloneModel, latents: Tensor) -> Image.Image:
        vae: Any = live.networks[Network.VAE]
        pixels: Tensor = vae.decode(latents.to(vae.dtype) / vae.config.scaling_factor).sample[0]
        levels = (pixels.float() / 2 + 0.5).clamp(0, 1).mul(255).round().to(torch.uint8)
        return Image.fromarray(levels.permute(1, 2, 0).cpu().numpy())


@contextmanager
def _memory(message: str) -> Iterator[None]:
    """Say in words that memory ran out."""
    try:
        yield
    except (MemoryError, RuntimeError) as exc:
        if not is_out_of_memory(exc):
            raise
        raise HostError(message) from exc


def _predicts_v(file: Checkpoint) -> bool:
    """Tell whether a model predicts v: it is marked so, or a configuration file beside it says so."""
    if "v_pred" in file.tensors:
        return True
    beside = file.path.with_suffix(".yaml")
    if not beside.is_file():
        return False
    try:
        text = beside.read_text(encoding="utf-8", errors="replace")
    except OSError as exc:
        raise HostError(f"Cannot read {beside}: {exc.strerror or exc}.") from exc
    return re.search(r"""parameterization:\s*["']?v\b""", text) is not None


def _check_complete(networks: Networks, tensors: Mapping[str, Sequence[Tensor]]) -> None:
    filled = {part.untyped_storage().data_ptr() for parts in tensors.values() for part in parts}
    for name, network in networks.items():
        for key, parameter in network.named_parameters():
            if parameter.data.untyped_storage().data_ptr() not in filled:
                raise HostError(f"The checkpoint lacks a tensor that images need: {key} of the {name.value}.")


def _make_pipeline(live: StandaloneModel, scheduler: Any) -> Any:
    networks = {name.value: network for name, network in live.networks.items()}
    if live.architecture is SDXL:
        pipeline: Any = StableDiffusionXLPipeline(
            **networks, tokenizer=None, tokenizer_2=None, scheduler=scheduler, add_watermarker=False
        )
    else:
        pipeline = StableDiffusionPipeline(
            **networks,
            tokenizer=None,
            scheduler=scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _encode(live: StandaloneModel, request: ImageRequest, device: torch.device) -> dict[str, Tensor]:
    """Encode both prompts, for the pipeline; long ones in rows of 75 tokens, the shorter filled up with empty rows."""
    texts = {"prompt_embeds": request.prompt, "negative_prompt_embeds": request.negative}
    rows = max(len(tokenize(text)) for text in texts.values())
    found: dict[str, Tensor] = {}
    for name, text in texts.items():
        if live.architecture is SDXL:
            embeds, pooled = _encode_xl(live, text, rows, device)
            if not request.negative and name.startswith("negative"):  # as SDXL was trained
                embeds, pooled = torch.zeros_like(embeds), torch.zeros_like(pooled)
            found |= {name: embeds, name.replace("prompt", "pooled_prompt"): pooled}
        else:
            ids = _ids(text, rows, device, pad=0 if live.architecture is SD2 else None)
            encoder: Any = live.networks[Network.TEXT]
            found[name] = _as_one(encoder(input_ids=ids).last_hidden_state)
    return found


def _encode_xl(live: StandaloneModel, text: str, rows: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """SDXL reads the last layer but one of both text encoders, and the summary that the second makes."""
    first: Any = live.networks[Network.TEXT]
    second: Any = live.networks[Network.TEXT_2]
    small = first(input_ids=_ids(text, rows, device), output_hidden_states=True)
    large = second(input_ids=_ids(text, rows, device, pad=0), output_hidden_states=True)
    both = torch.cat([small.hidden_states[-2], large.hidden_states[-2]], dim=-1)
    return _as_one(both), large.text_embeds[:1]


def _ids(text: str, rows: int, device: torch.device, *, pad: int | None = None) -> Tensor:
    pads = {} if pad is None else {"pad": pad}
    found = tokenize(text, **pads)
    found += tokenize("", **pads) * (rows - len(found))
    return torch.tensor(found, device=device)


def _as_one(embeds: Tensor) -> Tensor:
    """Put the rows of one prompt, (rows, 77, width), behind each other: (1, rows * 77, width)."""
    return embeds.reshape(1, -1, embeds.shape[-1])
