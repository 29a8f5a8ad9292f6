"""What the live model of reForge is made of: a module of the WebUI whose networks are behind patchers."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from modules import sd_vae, shared
from torch import Tensor

from ...architectures.keys import TEXT_PREFIXES, VAE_PREFIX
from ...merge.files.checkpoint import Checkpoint
from ..other_files import describe, find_other_files
from ..patchers import LiveNetworks, unpatch
from ..webui.layout import WebUILayout, checkpoint_tensor

_TEXT_OPTION = "sd_text_encoder"
_OWN_TEXT_ENCODER = "None"
"""The setting that leaves the checkpoint's own text encoders in the model. "Automatic", also if none was ever chosen,
takes those of any file with the checkpoint's name, such as a.ckpt for a.safetensors."""


class ReForgeLayout(WebUILayout):
    """A module of reForge. Its networks are looked up behind the patchers, whose names of text encoders are others.

    Args:
        module: reForge's model.
        file: The open file of its checkpoint.

    Attributes:
        left_out: What of the checkpoint is not in use, and not merged, as a sentence for the user.
    """

    def __init__(self, module: Any, file: Checkpoint) -> None:
        keys = [key for key, info in file.tensors.items() if info.is_float]
        super().__init__(module, keys)
        encoders, vae = self._other_text_encoders(keys, file), self._other_vae(keys, file)
        others = encoders | vae
        said = (describe(encoders, place="Text encoder in the settings"), describe(vae, place="SD VAE in the settings"))
        self.left_out = " ".join(filter(None, said))
        self._keys = [key for key in keys if not key.startswith(tuple(others))]

    def tensors(self) -> Mapping[str, Sequence[Tensor]]:
        """Give the tensors in use by their keys in the file; LoRAs are taken out of them first."""
        return dict(self._find(self._keys))

    def _other_text_encoders(self, keys: Sequence[str], file: Checkpoint) -> frozenset[str]:
        """Find text encoders of other files; a copy from the checkpoint's own file counts as its own."""
        if shared.opts.data.get(_TEXT_OPTION) == _OWN_TEXT_ENCODER:
            return frozenset()
        text = [key for key in keys if key.startswith(TEXT_PREFIXES)]
        return find_other_files(text, dict(self._find(text)), file)

    def _other_vae(self, keys: Sequence[str], file: Checkpoint) -> frozenset[str]:
        """Find a VAE of another file, which stays in the model after it was taken out of the settings, too."""
        if sd_vae.get_base_vae(self.module) is not None:  # the checkpoint's own is kept there
            return frozenset()
        objects: Any = self.module.forge_objects_original
        networks = LiveNetworks(objects)
        found = {key: networks.parts(key) for key in keys if key.startswith(VAE_PREFIX)}
        live = {key: parts for key, parts in found.items() if parts is not None}
        with torch.no_grad():
            return find_other_files(list(found), live, file)

    def _find(self, keys: Collection[str]) -> Iterator[tuple[str, tuple[Tensor, ...]]]:
        objects: Any = self.module.forge_objects_original
        with torch.no_grad():
            unpatch(objects.unet)
            if objects.clip is not None:
                unpatch(objects.clip.patcher)
            networks = LiveNetworks(objects)
            for key in keys:
                parts = networks.parts(key)
                if parts is not None and key.startswith(VAE_PREFIX):
                    own = checkpoint_tensor(self.module, key, parts[0])
                    parts = None if own is None else (own,)
                if parts is not None and all(part.is_floating_point() for part in parts):
                    yield key, tuple(part.detach() for part in parts)
