"""The header fields of model A that its merges keep: title, author, licence, thumbnail, training, and whatever else.

``modelspec.*`` are the fields of the Stability AI model metadata standard (github.com/Stability-AI/ModelSpec): there
``hash_*`` are hashes of the tensors, ``date`` is when the file was made, and ``merged_from`` lists the models of a
merge, separated by commas. ``sshs_*`` are hashes of the tensors by the trainers of kohya-ss/sd-scripts. ``prompt`` and
``workflow`` are the graph that made a file of ComfyUI, which loads it again from there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

MERGED_FROM = "modelspec.merged_from"
"""The standard's list of the models of a merge."""

_STANDARD = "modelspec."
_OF_THE_FILE = ("modelspec.hash_", "sshs_")
_OF_THE_FILE_WHOLE = {
    "modelspec.date", "hash", "model_hash", "sha256", "md5", "crc32", "blake3", "autov1", "autov2", "autov3", "prompt",
    "workflow",
}  # fmt: skip
"""Beginnings and whole names of fields that are true of A's file alone."""

_LARGEST_FIELD = 1_000_000
_LARGEST_ALL = 2_000_000
"""Bytes in the header; readers load all of it, whatever they look for."""


class KeptFields(NamedTuple):
    """What a merge keeps of A's header fields.

    Attributes:
        fields: The fields, sorted by name.
        left_out: One line about the others; empty if there are none.
    """

    fields: Mapping[str, str]
    left_out: str = ""


def keep_fields(metadata: Mapping[str, str], *, written: frozenset[str]) -> KeptFields:
    """Choose the header fields of model A that are still true of a merge, within bounds.

    Args:
        metadata: All header fields of A.
        written: The names of fields that the merge writes; they are none of A's any more.
    """
    stale = sorted(name for name in metadata if _is_stale(name))
    names = [name for name in metadata if name not in {*written, MERGED_FROM, *stale}]
    damaged = sorted(name for name in names if not _is_unicode(name + metadata[name]))
    names = list(set(names).difference(damaged))
    kept: dict[str, str] = {}
    large: dict[str, int] = {}
    room = _LARGEST_ALL
    for name in sorted(names, key=lambda name: (not name.startswith(_STANDARD), _size(name, metadata[name]), name)):
        size = _size(name, metadata[name])
        if size > min(room, _LARGEST_FIELD):
            large[name] = size
        else:
            kept[name] = metadata[name]
            room -= size
    return KeptFields(dict(sorted(kept.items())), _say_left_out(stale, damaged, large))


def merged_from(kept: Mapping[str, str], models: Sequence[str]) -> dict[str, str]:
    """List the models of a merge as the standard does, if the other fields follow it.

    Args:
        kept: The fields of A that are kept.
        models: The names of the models.
    """
    if not any(name.startswith(_STANDARD) for name in kept):
        return {}
    return {MERGED_FROM: ", ".join(model.replace(",", " ") for model in models).encode(errors="replace").decode()}


def _is_stale(name: str) -> bool:
    return name.lower().startswith(_OF_THE_FILE) or name.lower() in _OF_THE_FILE_WHOLE


def _is_unicode(text: str) -> bool:
    """Tell whether a file can hold a text: half of a character, as JSON may have it, is none."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _size(name: str, text: str) -> int:
    return len(json.dumps({name: text}, ensure_ascii=False).encode())


def _say_left_out(stale: Sequence[str], damaged: Sequence[str], large: Mapping[str, int]) -> str:
    reasons = [f"{', '.join(stale)} (true of A's file alone)"] if stale else []
    reasons += [f"{', '.join(map(ascii, damaged))} (no valid Unicode)"] if damaged else []
    reasons += [f"{name} ({size / 1e6:.1f} MB, too large for a header)" for name, size in sorted(large.items())]
    return f"Left out of A's header fields: {'; '.join(reasons)}." if reasons else ""
