"""How much of each part of model A has a partner in another model: U-Net, each text encoder, VAE."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from ..architectures.keys import BESIDE, EMA_PREFIX, UNET_PREFIX, VAE_PREFIX, shown_key
from .plan import Infos, Role
from .quantised import COUNTS

U_NET = "the U-Net"
VAE = "the VAE"
_PARTS = {
    UNET_PREFIX: U_NET,
    VAE_PREFIX: VAE,
    "conditioner.embedders.0.": "CLIP-L",
    "conditioner.embedders.1.": "CLIP-G",
    "cond_stage_model.": "the text encoder",
    "conditioner.": "the text encoder",
    "text_encoders.": "the text encoder",
}
"""Parts by the prefix of their keys; the first one that fits counts."""

_TEXTS = frozenset(_PARTS.values()) - {U_NET, VAE}

_UNUSED = re.compile(
    r"position_ids$|logit_scale$|attn_mask$|^first_stage_model\.loss\."
    r"|^(cond_stage_model|conditioner\.embedders\.0)\..*text_projection(\.weight)?$"
)
"""Tensors that no image depends on, and that many files lack."""

_TRANSFORMER = re.compile(r"(.+)\.transformer_blocks\.(\d+)\.")
_MOST_LAYERS = 0.05
"""The share of the U-Net's layers that may lack a partner."""

_FEW = 3
_NAMED = 2

_Parts = Mapping[str, Sequence[str]]
"""The tensors of each part."""


class Partners(NamedTuple):
    """One part of model A, compared with that of another model.

    Attributes:
        part: The part, as texts call it: "the U-Net", "CLIP-L".
        role: The other model.
        own: A's tensors of the part.
        alone: Those of A that have no partner in the other model.
        left_out: Those of the other model that have no partner in A.
    """

    part: str
    role: Role
    own: tuple[str, ...]
    alone: tuple[str, ...]
    left_out: tuple[str, ...]

    @property
    def alone_text(self) -> str:
        """What happens to A's tensors without a partner, in a sentence."""
        if len(self.alone) == len(self.own):
            name = self.part if self.part.startswith("the ") else f"the text encoder {self.part}"
            names = f"of {self.role.name} has other names for its tensors than A's; none of it is merged."
            return f"{name[0].upper()}{name[1:]} {names}"
        one = len(self.alone) == 1
        named = ": " + ", ".join(map(shown_key, self.alone)) if len(self.alone) <= _NAMED else "."
        return (
            f"{len(self.alone):,} of {len(self.own):,} tensors of {self.part} {'has' if one else 'have'} no partner in "
            f"{self.role.spoken}; {'it stays' if one else 'they stay'} A's{named}"
        )

    @property
    def left_out_text(self) -> str:
        """What happens to the other model's tensors without a partner, in a sentence; empty if there are none."""
        theirs = len(self.own) - len(self.alone) + len(self.left_out)
        if not self.left_out or len(self.alone) == len(self.own):
            return ""
        one = len(self.left_out) == 1
        named = ": " + ", ".join(map(shown_key, self.left_out)) if len(self.left_out) <= _NAMED else "."
        return (
            f"{len(self.left_out):,} of {theirs:,} tensors of {self.part} of {self.role.spoken} "
            f"{'has' if one else 'have'} no partner in A; {'it is' if one else 'they are'} left out{named}"
        )


def compare_parts(infos_a: Infos, infos: Infos, role: Role) -> list[Partners]:
    """Compare the parts that two models have; none if all of their tensors have partners.

    Args:
        infos_a: The tensors of model A.
        infos: Those of the other model.
        role: The other model.
    """
    if infos_a.keys() == infos.keys():
        return []
    own, theirs = _by_part(infos_a), _by_part(infos)
    return [
        Partners(
            part,
            role,
            tuple(keys),
            tuple(key for key in keys if key not in infos),
            tuple(key for key in theirs[part] if key not in infos_a),
        )
        for part, keys in own.items()
        if part in theirs
    ]


def describe_no_floats(keys: Iterable[str], role: Role) -> Iterator[str]:
    """Say which tensors of a model are no floats though weights are, part by part; counters need not be.

    Args:
        keys: The tensors.
        role: The model.
    """
    parts: dict[str, list[str]] = defaultdict(list)
    for key in keys:
        if not key.endswith(COUNTS):
            parts[part_name(key) or "other parts"].append(key)
    for part, own in parts.items():
        first = shown_key(own[0])
        some = f"{first} is" if len(own) == 1 else f"{len(own):,} tensors of {part}, such as {first}, are"
        yield f"{some} not of floats in {role.spoken}, and not merged."


def part_name(key: str) -> str | None:
    """Give the part that a key belongs to, as texts call it."""
    return next((name for prefix, name in _PARTS.items() if key.startswith(prefix)), None)


def listed(parts: Iterable[str]) -> str:
    """Name parts in a sentence: "CLIP-L", "CLIP-G and CLIP-L", "CLIP-G, CLIP-L and the VAE"."""
    *names, last = sorted(parts)
    return f"{', '.join(names)} and {last}" if names else last


def warn_of_unknown_names(infos_a: Infos, infos: Infos, role: Role) -> Iterator[str]:
    """Say in sentences which parts have probably other names in one model than in the other.

    Args:
        infos_a: The tensors of model A.
        infos: Those of the other model.
        role: The other model.
    """
    if infos_a.keys() == infos.keys():
        return
    own, theirs = _by_part(infos_a), _by_part(infos)
    parts = set(own), set(theirs)
    texts_a, texts = _texts_alone(own, theirs), _texts_alone(theirs, own)
    if min(_count(texts_a), _count(texts)) >= _FEW:
        yield (
            f"A text encoder has other names in {role.name} than in A: {_only_in('model A', texts_a)} and "
            f"{_only_in(role.spoken, texts)}; none of them is merged."
        )
    for lacking, unknown, owner in (
        (parts[0] - parts[1], _unknown(infos), role.spoken),
        (parts[1] - parts[0], _unknown(infos_a), "model A"),
    ):
        if lacking and len(unknown) >= _FEW:
            some = f"{len(unknown):,} tensors have unknown names, such as {shown_key(unknown[0])}"
            named, verb = listed(lacking), "is" if len(lacking) == 1 else "are"
            yield f"{named[0].upper()}{named[1:]} {verb} missing in {owner}, of which {some}; they are not merged."


def _texts_alone(own: _Parts, theirs: _Parts) -> _Parts:
    """Give the text encoders of which the other model has no tensor."""
    return {part: keys for part, keys in own.items() if part in _TEXTS and part not in theirs}


def _count(parts: _Parts) -> int:
    return sum(map(len, parts.values()))


def _only_in(model: str, texts: _Parts) -> str:
    first = shown_key(next(iter(texts.values()))[0])
    return f"{_count(texts):,} tensors of {listed(texts)}, such as {first}, are only in {model}"


def _unknown(infos: Infos) -> list[str]:
    """List the tensors that belong to no known part and are no marks or noise schedules."""
    known = (EMA_PREFIX, *_PARTS, *BESIDE)
    return [key for key in infos if "." in key and not key.startswith(known) and infos[key].numel > 1]


def why_unet_is_unfit(infos_a: Infos, infos: Infos, role: Role) -> str:
    """Say why the U-Nets of two models do not belong together; empty if they do.

    Equal names are equal layers only if all of the U-Net is alike: a distilled model has fewer of them, numbered anew.

    Args:
        infos_a: The tensors of model A.
        infos: Those of the other model.
        role: The other model.
    """
    if infos_a.keys() == infos.keys():
        return ""
    own, theirs = ([key for key in each if key.startswith(UNET_PREFIX)] for each in (infos_a, infos))
    alone = _without_partner(own, infos)
    extra = _without_partner(theirs, infos_a)
    depths = _depths(own), _depths(theirs)
    if depths[0] == depths[1] and alone <= _MOST_LAYERS and extra <= _MOST_LAYERS:
        return ""
    shares = [_share(own, infos, "A", role.name), _share(theirs, infos_a, role.name, "A")]
    return "; ".join(filter(None, shares)) + _describe_depths(*depths, role)


def _share(keys: Sequence[str], others: Infos, one: str, other: str) -> str:
    alone = sum(key not in others for key in keys)
    return f"{alone:,} of {len(keys):,} U-Net tensors of {one} have no partner in {other}" if alone else ""


def _by_part(keys: Iterable[str]) -> _Parts:
    parts: dict[str, list[str]] = defaultdict(list)
    for key in keys:
        part = part_name(key)
        if part is not None and not _UNUSED.search(key):
            parts[part].append(key)
    return dict(parts)


def _without_partner(keys: Sequence[str], others: Infos) -> float:
    """Give the share of layers of which the other model has nothing."""
    layers: dict[str, bool] = {}
    for key in keys:
        layer = key.rpartition(".")[0]
        layers[layer] = layers.get(layer, False) or key in others
    return 1 - sum(layers.values()) / max(1, len(layers))


def _depths(keys: Iterable[str]) -> dict[str, int]:
    """Count the blocks of each transformer."""
    blocks: dict[str, set[str]] = defaultdict(set)
    for key in keys:
        if found := _TRANSFORMER.match(key, len(UNET_PREFIX)):
            blocks[found[1]].add(found[2])
    return {place: len(numbers) for place, numbers in blocks.items()}


def _describe_depths(own: Mapping[str, int], theirs: Mapping[str, int], role: Role) -> str:
    place = next((place for place in {**own, **theirs} if own.get(place, 0) != theirs.get(place, 0)), None)
    if place is None:
        return ""
    return (
        f" ({shown_key(place)} has {own.get(place, 0)} transformer blocks in A, {theirs.get(place, 0)} in {role.name})"
    )
