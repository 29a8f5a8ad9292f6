"""Parts that a file holds twice: under names that are translated, and under unknown ones, which could be meant, too."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from ..architectures.keys import UNET_PREFIX, VAE_PREFIX, shown_key
from .part_fit import listed, part_name
from .plan import Role

_USUAL = tuple(map(re.escape, (UNET_PREFIX, VAE_PREFIX, "cond_stage_model.", "conditioner.")))
_PART = re.compile(rf"(?P<usual>{'|'.join(_USUAL)})|output_blocks\.")
"""Where the usual name begins in a longer one. No model but a U-Net has output blocks; a ControlNet has none."""


def describe_copies(file_keys: Mapping[str, str], role: Role) -> str:
    """Say in a sentence which parts of a model could also be those under unknown names; empty if there are none.

    A part with its usual names is the model, whatever is beside it, such as its average.

    Args:
        file_keys: The key in the file for each key of this program's spelling.
        role: The model.
    """
    translated = {key for key, name in file_keys.items() if key != name}
    copies = dict(_copies(file_keys, translated)) if translated else {}
    if not copies:
        return ""
    parts = listed({part_name(key) or "" for key in copies.values()})
    first = shown_key(next(iter(copies)))
    spoken = role.spoken[0].upper() + role.spoken[1:]
    return f"{spoken} holds tensors of {parts} twice; those under unknown names, such as {first}, are not merged."


def _copies(file_keys: Mapping[str, str], translated: set[str]) -> Iterator[tuple[str, str]]:
    """Give the tensors whose names end as the usual name of one that is translated, and that name."""
    for key in file_keys:
        found = None if key in translated else _PART.search(key)
        if found is not None:
            usual = key[found.start() :] if found["usual"] else UNET_PREFIX + key[found.start() :]
            if usual in translated:
                yield key, usual
