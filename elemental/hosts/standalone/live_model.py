"""The live model of the standalone host: the tensors of a checkpoint in the networks of diffusers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from torch import Tensor

from ...architectures.blocks import SDXL
from ...architectures.detection import input_channels
from ...errors import HostError
from ...merge.files.beside import predicts_v, read_config
from ...merge.files.checkpoint import Checkpoint
from ...merge.files.tensor_data import Buffer
from ...merge.tensor_views import Parts, copy_piece, count_numbers, pieces_of
from ..base import CheckpointRef, Claim
from .key_map import Network
from .networks import Networks, allocate, build_networks, live_tensors


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
        left_out: Nothing: all of a checkpoint is in use.
        identity: The identity of the file when it was read.
        config: The configuration beside the file; None if there was none.
        architecture: The architecture of the model.
        v_prediction: Whether it predicts v rather than the noise.
        zero_snr: Whether its noise schedule ends at a signal-to-noise ratio of zero.
        channels: The input channels of its U-Net: 4, or 9 for inpainting.
        networks: The networks of diffusers and transformers, on the device.

    Raises:
        CheckpointError: The file or the configuration beside it cannot be read, or its architecture is unknown.
        HostError: It lacks a tensor that images need.
    """

    left_out = ""

    def __init__(self, path: Path, *, device: torch.device, dtype: torch.dtype) -> None:
        self.checkpoint: CheckpointRef | None = CheckpointRef(path.stem, path)
        self.claim: Callable[[], AbstractContextManager[None]] = Claim()
        self.kept: str | None = None
        with Checkpoint(path) as file:
            shapes = {key: info.shape for key, info in file.tensors.items()}
            self.identity = file.identity
            self.architecture = file.architecture
            self.config = read_config(path)
            self.v_prediction = "v_pred" in file.tensors or (self.config is not None and predicts_v(self.config))
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
    buffer = Buffer()
    for key, parts in tensors.items():
        size, needed = file.tensors[key].numel, count_numbers(parts)
        if size != needed:
            raise HostError(f"{file.path}: {key} has {size} numbers; {needed} are needed.")
        for start, numbers in file.data(key).pieces(buffer):
            for part, at, piece in pieces_of(parts, start, numbers):
                copy_piece(part, at, piece)
