"""Tells quantised models by structure: integers for weights, and factors that lie beside weights.

Numbers of such a file are weights only after a calculation with what is stored beside them, so they cannot be merged as
they are. The formats are described in comfy/ops.py and comfy/quant_ops.py of github.com/Comfy-Org/ComfyUI, in
bitsandbytes/functional.py of github.com/bitsandbytes-foundation/bitsandbytes, and in the source of AutoGPTQ,
optimum-quanto and nunchaku; names that are not known here are told by the weight that they belong to.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from ..architectures.keys import BESIDE, EMA_PREFIX, PREFIXES, Component, shown_key
from .files.tensor_info import TensorInfo
from .plan import Infos

_UNET = PREFIXES[Component.UNET]
_PARTS = (EMA_PREFIX, *(prefix for prefixes in PREFIXES.values() for prefix in prefixes))
_LEFTOVERS = "first_stage_model.loss."
"""What training a VAE leaves in its file: networks that are no part of the model, with tensors of all kinds."""

_ORDINARY = (
    "weight", "bias", "in_proj_weight", "in_proj_bias", "position_ids",
    "running_mean", "running_var", "num_batches_tracked",
)  # fmt: skip
"""Last pieces of the names of what a layer has, that are no factors."""

COUNTS = ("position_ids", "num_batches_tracked", "num_updates", "decay")
"""Ends of names whose tensors may be integers."""

_INTEGERS = frozenset(("I8", "U8", "I16", "U16", "I32", "U32"))
"""Formats that quantised weights have; tensors of 64 bits or of booleans are something else."""

_COMFY = "scaled fp8, as ComfyUI writes it"
_FORMATS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("nvfp4", ("weight_scale_2",)),
    ("bitsandbytes nf4", ("bitsandbytes__nf4",)),
    ("bitsandbytes fp4", ("bitsandbytes__fp4",)),
    ("bitsandbytes 4-bit", ("absmax", "nested_absmax", "quant_map", "nested_quant_map", "quant_state")),
    ("bitsandbytes int8", ("SCB", "weight_format")),
    ("SVDQuant, as Nunchaku writes it", ("wscales", "wzeros", "wcscales", "wtscale", "smooth_factor")),
    ("GPTQ or AWQ", ("qweight", "qzeros", "g_idx")),
    ("HQQ", ("W_q",)),
    ("packed, as compressed-tensors writes it", ("weight_packed",)),
    ("packed, as optimum-quanto writes it", ("_data", "_scale")),
)
"""Formats by the names that only they have, as users call them."""

_FACTORS = (
    "scaled_fp8", "scale_weight", "scale_input", "weight_scale", "weight_scale_inv", "input_scale", "comfy_quant",
    *(name for _, names in _FORMATS for name in names),
)  # fmt: skip
"""Last pieces of names that no model has whose numbers are weights."""

_MOST_PIECES = 6
"""The pieces that a factor's name may have before that of its weight."""

_SEVERAL = 3
_LONGEST_PLAIN = 40
"""Longer names are those of weights with other letters for their dots; names of noise schedules are shorter."""

_LARGEST = 1 << 16
"""The most numbers that a factor is taken to have, where nothing is known of its weight."""

_HEADERS = ("_quantization_metadata", "quantization_config")
"""Header fields of quantised files."""


class Quantised(NamedTuple):
    """A quantised model.

    Attributes:
        format: The format, as users call it, in a sentence after "are".
        sign: The tensor or the header field that shows it.
    """

    format: str
    sign: str


def find_quantised(infos: Infos, header: Mapping[str, str] | None = None) -> Quantised | None:
    """Tell whether the numbers of a file are weights only together with what is stored beside them.

    Args:
        infos: The tensors of the file.
        header: The text fields of its header.

    Returns:
        What shows it; None for a model whose numbers are its weights, fp8 included.
    """
    field = next((name for name in _HEADERS if _names_layers((header or {}).get(name, ""))), None)
    sign = next(_signs(infos), None) or field
    if sign is None:
        return None
    return Quantised(_name_format(infos, (header or {}).get(field or "", "")), sign)


def _names_layers(text: str) -> bool:
    """Tell whether a header field says that something is quantised; some writers leave it empty."""
    try:
        data = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return True
    return bool(data.get("layers", data) if isinstance(data, dict) else data)


def _signs(infos: Infos) -> Iterator[str]:
    """Give the tensors that show a quantised file: known names first, then integers, then factors of any name."""
    rest = _others(infos)
    yield from (key for key in rest if _last_piece(key) in _FACTORS or _bitsandbytes_piece(key))
    yield from (key for key, info in infos.items() if info.dtype in _INTEGERS and _must_be_float(key))
    factors = _factors(infos, rest)
    if len(factors) != 1 or any(infos[weight].dtype.startswith("F8") for weight in factors.values()):
        yield from factors


def find_lone_factor(infos: Infos) -> tuple[str, str] | None:
    """Give what can be a factor of one weight, and that weight; one alone makes no quantised file.

    Args:
        infos: The tensors of a file that is not quantised.
    """
    return next(iter(_factors(infos, _others(infos)).items()), None)


def find_unknown_beside_fp8(infos: Infos) -> list[str]:
    """List tensors of unknown names that can be factors of a U-Net in fp8, if there are several.

    Args:
        infos: The tensors of a file that is not quantised.
    """
    if not any(info.dtype.startswith("F8") and key.startswith(_UNET) for key, info in infos.items()):
        return []
    unknown = [
        key
        for key in _others(infos)
        if not key.startswith((*_PARTS, *BESIDE))
        and (re.search(r"\W", key) or len(key) > _LONGEST_PLAIN)
        and 0 < infos[key].numel <= _LARGEST
    ]
    return unknown if len(unknown) >= _SEVERAL else []


def _others(infos: Infos) -> list[str]:
    """List what is no weight or bias of a part, as nearly all tensors are."""
    return [
        key
        for key in infos
        if not (key.endswith((".weight", ".bias")) and key.startswith(_PARTS)) and not key.startswith(_LEFTOVERS)
    ]


def _factors(infos: Infos, keys: Sequence[str]) -> dict[str, str]:
    """Give those tensors that are named after a weight and have the shape of a factor of it, with that weight."""
    named_anew = any(not key.startswith(_PARTS) for key in keys)  # others are named after their weights as they are
    weights = {key.replace(".", "_"): key for key in infos if key.startswith(_PARTS)} if named_anew else {}
    found = ((key, _weight_of(key, infos, weights)) for key in keys)
    return {key: weight for key, weight in found if weight is not None}


def _last_piece(key: str) -> str:
    return key.rpartition(".")[2]


def _bitsandbytes_piece(key: str) -> str:
    piece = _last_piece(key)
    return piece if piece.startswith("bitsandbytes__") else ""


def _must_be_float(key: str) -> bool:
    """Tell whether a tensor is a weight or a bias by its name; those of all parts are floats."""
    return key.startswith(_PARTS) and not key.endswith(COUNTS) and not key.startswith(_LEFTOVERS)


def _weight_of(key: str, infos: Infos, weights: Mapping[str, str]) -> str | None:
    """Give the weight that a tensor is named after, if it has the shape of a factor of it.

    Args:
        key: The tensor.
        infos: The tensors of the file.
        weights: Those of its parts, by their names with ``_`` for each dot.
    """
    names: list[str] = []
    if not key.startswith(_PARTS):  # factors by the names of their weights, in a place of their own
        names.extend(weights[tail] for tail in _tails(key) if tail in weights)
    if _last_piece(key) not in _ORDINARY:
        names.extend(_possible_owners(key))
    owners = (name for name in names if name in infos and name != key)
    return next((name for name in owners if _has_factor_shape(infos[key], infos[name])), None)


def _tails(key: str) -> Iterator[str]:
    """Give the ends of a name after its first few pieces, with ``_`` for each dot."""
    tail = re.sub(r"\W", "_", key)
    for _ in range(_MOST_PIECES):
        _, _, tail = tail.partition("_")
        yield tail


def _possible_owners(key: str) -> Iterator[str]:
    """Give the names of weights that a tensor can belong to: ``to_q.weight`` of ``to_q.scale``, ``to_q_scale``, ..."""
    head, _, tail = key.rpartition(".")
    places = [place for place, letter in enumerate(tail) if letter == "_"]
    for stem in (f"{head}.{tail[:place]}" for place in places):
        yield from (stem, f"{stem}.weight", f"{stem}_weight")
    while head:
        yield from (head, f"{head}.weight", f"{head}_weight")
        head = head.rpartition(".")[0]


def _has_factor_shape(info: TensorInfo, weight: TensorInfo) -> bool:
    """Tell whether a tensor can be a factor of a weight: a number, one for each row or block, or coded text."""
    if info.numel >= weight.numel and info.dtype not in ("U8", "I8"):
        return False
    shape = [size for size in info.shape if size != 1]
    if len(shape) <= 1:
        return True
    rows, columns = math.prod(weight.shape[:1]), math.prod(weight.shape[1:])
    return len(shape) == 2 and shape[0] <= rows and shape[1] <= columns


def _name_format(infos: Infos, header: str) -> str:
    pieces = {_bitsandbytes_piece(key) or _last_piece(key) for key in infos}
    known = next((name for name, ends in _FORMATS if pieces.intersection(ends)), None)
    if known is not None:
        return known
    weights = {info.dtype for key, info in infos.items() if key.startswith(_PARTS) and key.endswith("weight")}
    if weights & {"I8", "U8"}:
        return "int8" if "I8" in weights else "packed 4-bit or 8-bit integers"
    if weights.intersection(_INTEGERS):
        return "packed integers"
    if pieces & {"scaled_fp8", "scale_weight", "scale_input", "comfy_quant"} or "float8" in header:
        return _COMFY
    if any(dtype.startswith("F8") for dtype in weights):
        return "scaled fp8"
    return _first_format(header) or "stored with factors beside them"


def _first_format(header: str) -> str:
    """Give the format that ComfyUI's header field names for its first layer."""
    try:
        layers: Iterable[Mapping[str, str]] = json.loads(header)["layers"].values()
        return shown_key(str(next(iter(layers))["format"]))
    except (ValueError, LookupError, TypeError, AttributeError, StopIteration, RecursionError):
        return ""
