"""Finds out which networks of a live model come from other files than its checkpoint.

Forge and reForge load a VAE or a text encoder that is chosen beside the checkpoint in place of the checkpoint's own,
which is then nowhere in memory; of a whole checkpoint that is chosen there, Forge takes the U-Net, too. Nothing says
which file replaced which network, so the numbers are compared.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from torch import Tensor

from ..architectures.keys import UNET_PREFIX, VAE_PREFIX
from ..merge.files.checkpoint import Checkpoint
from ..merge.files.tensor_data import Buffer
from ..merge.tensor_views import count_numbers, equals, pieces_of
from .patchers import prefix_of_encoder

_SAMPLES = 4
_LARGEST = 1 << 20  # numbers
_WHOLE = (UNET_PREFIX, VAE_PREFIX)
_EMBEDDINGS = "embedding"
"""Forge changes the number format of embeddings when they are first used, so some of their numbers may differ."""


def find_other_files(keys: Sequence[str], live: Mapping[str, tuple[Tensor, ...]], file: Checkpoint) -> frozenset[str]:
    """Give the prefixes of the networks that are not the checkpoint's.

    Args:
        keys: The keys of the checkpoint.
        live: The parameters in use by these keys.
        file: The open checkpoint.

    Raises:
        CheckpointError: The file cannot be read.
    """
    networks: dict[str, list[str]] = {}
    for key in keys:
        prefix = next((whole for whole in _WHOLE if key.startswith(whole)), None) or prefix_of_encoder(key)
        if prefix is not None and _EMBEDDINGS not in key:
            networks.setdefault(prefix, []).append(key)
    return frozenset(prefix for prefix, members in networks.items() if not _is_from(members, live, file))


def describe(prefixes: Collection[str], *, place: str) -> str:
    """Say what is left out, in a sentence; empty if nothing is.

    Args:
        prefixes: The networks of other files.
        place: Where the user has chosen these.
    """
    parts = {VAE_PREFIX: "VAE"}
    names = " and ".join(sorted({f"the {parts.get(prefix, 'text encoder')}" for prefix in prefixes}))
    if not names:
        return ""
    return (
        f"Loaded from another file than the checkpoint: {names}. The merge leaves that as it is in the live model; a "
        f'saved merge has the checkpoint\'s, merged. To see it merged here, take the file out of "{place}".'
    )


def _is_from(keys: Sequence[str], live: Mapping[str, tuple[Tensor, ...]], file: Checkpoint) -> bool:
    """Tell whether a few tensors in use are those of the file."""
    compared = [key for key in keys if key in live and file.tensors[key].numel <= _LARGEST]
    step = max(1, len(compared) // _SAMPLES)
    return all(_is_same(key, live[key], file) for key in compared[::step][:_SAMPLES])


def _is_same(key: str, parts: tuple[Tensor, ...], file: Checkpoint) -> bool:
    if count_numbers(parts) != file.tensors[key].numel:
        return False
    buffer = Buffer()
    return all(
        equals(*piece) for start, numbers in file.data(key).pieces(buffer) for piece in pieces_of(parts, start, numbers)
    )
