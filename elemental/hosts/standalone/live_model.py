"""The live model of the standalone host: the tensors of a checkpoint in the networks of diffusers."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from torch import Tensor

from ...architectures.blocks import SDXL
from ...architectures.detection import input_channels
from ...errors import HostError
from ...merge.files.checkpoint import Checkpoint
from ...merge.tensor_views import Parts, copy_piece, count_numbers, pieces_of
from ...recipe.text_files import read_text
from ..base import CheckpointRef, Claim
from .key_map import Network
from .networks import Networks, allocate, build_networks, live_tensors

_V_PREDICTION = re.compile(r"""parameterization:\s*["']?v\b""")
"""How the configuration file of a model that predicts v says so."""


class StandaloneModel:
    """A checkpoint in the networks of diffusers.

    Args:
        path: The checkpoint.
        device: Where to load it.
        dtype: The number format of its tensors; with fp16, the VAE of SDXL is fp32, because it overflows in fp16.

    Attributes:
        checkpoint: The file that the tensors come from; None once a merge was kept.
        claim: Holds the model for one merge at a time.
        kept: The label of the merge that was kept in the model.
        signature: Size and modification time of the file when it was read.
        architecture: The architecture of the model.
        v_prediction: Whether it predicts v rather than the noise.
        zero_snr: Whether its noise schedule ends at a signal-to-noise ratio of zero.
        channels: The input channels of its U-Net: 4, or 9 for inpainting.
        networks: The networks of diffusers and transformers, on the device.

    Raises:
        CheckpointError: The file cannot be read, or its architecture is unknown.
        HostError: It lacks a tensor that images need.
    """

    def __init__(self, path: Path, *, device: torch.device, dtype: torch.dtype) -> None:
        self.checkpoint: CheckpointRef | None = CheckpointRef(path.stem, path)
        self.claim: Callable[[], AbstractContextManager[None]] = Claim()
        self.kept: str | None = None
        with Checkpoint(path) as file:
            shapes = {key: info.shape for key, info in file.tensors.items()}
            self.signature = file.signature
            self.architecture = file.architecture
            self.v_prediction = _predicts_v(file)
            self.zero_snr = "ztsnr" in file.tensors
            self.channels = input_channels(shapes)
            self.networks = build_networks(shapes, self.architecture)
            allocate(self.networks, self._formats(dtype), device)
            self._tensors = live_tensors(self.networks, list(shapes))
            _check_complete(self.networks, self._tensors)
            _fill(self._tensors, file)

    def _formats(self, dtype: torch.dtype) -> Mapping[Network, torch.dtype]:
        formats = dict.fromkeys(self.networks, dtype)
        if self.architecture is SDXL and dtype is torch.float16:
            formats[Network.VAE] = torch.float32
        return formats

    def tensors(self) -> Mapping[str, Sequence[Tensor]]:
        """Give the networks' parameters by checkpoint key."""
        return self._tensors

    def changed(self, keys: Collection[str]) -> None:
        """Do nothing: prompts are encoded for each request."""

    def keep(self, label: str) -> None:
        """Remember the label of the merge; the model is no longer that of its file."""
        self.kept = label
        self.checkpoint = None

    def describe(self, model: Mapping[str, str], fields: Mapping[str, str]) -> None:
        """Do nothing: no images are made of it but those of this program."""

    def replaced(self) -> bool:
        """Tell that the tensors were never replaced: each checkpoint is loaded into new networks."""
        return False


def _predicts_v(file: Checkpoint) -> bool:
    """Tell whether a model predicts v: a marker in the file says so, or a configuration file beside it.

    Raises:
        HostError: The configuration file cannot be read.
    """
    if "v_pred" in file.tensors:
        return True
    config = file.path.with_suffix(".yaml")
    if not config.is_file():
        return False
    try:
        text = read_text(config)
    except UnicodeError:
        text = config.read_text(encoding="latin-1")  # what is looked for is ASCII
    except OSError as exc:
        raise HostError(f"Cannot read {config}: {exc.strerror or exc}.") from exc
    return _V_PREDICTION.search(text) is not None


def _check_complete(networks: Networks, tensors: Mapping[str, Parts]) -> None:
    """Make sure that the checkpoint fills every parameter.

    Raises:
        HostError: It does not.
    """
    filled = {part.untyped_storage().data_ptr() for parts in tensors.values() for part in parts}
    for network_name, network in networks.items():
        for name, parameter in network.named_parameters():
            if parameter.data.untyped_storage().data_ptr() not in filled:
                raise HostError(f"The checkpoint lacks a tensor that images need: {name} of the {network_name.value}.")


def _fill(tensors: Mapping[str, Parts], file: Checkpoint) -> None:
    """Copy the tensors of a file into the networks.

    Raises:
        CheckpointError: The file cannot be read.
        HostError: A tensor has another size than its place in the networks.
    """
    for key, parts in tensors.items():
        size, needed = file.tensors[key].numel, count_numbers(parts)
        if size != needed:
            raise HostError(f"{file.path}: {key} has {size} numbers; {needed} are needed.")
        for part, start, piece in pieces_of(parts, 0, file.tensor(key).reshape(-1)):
            copy_piece(part, start, piece)
