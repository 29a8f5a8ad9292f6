"""The formats of LoRA files: which tensors a layer has, and the matrix that they make.

The formulas are those of github.com/KohakuBlueleaf/LyCORIS (docs/Algo-Details.md) and of the WebUI's own extension,
extensions-builtin/Lora/network_*.py of github.com/AUTOMATIC1111/stable-diffusion-webui.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from . import of_weight
from .matrices import Dense, Hadamard, Kronecker, Matrix, Product, tucker
from .of_weight import DORA, Numbers, Shape, Shapes

if TYPE_CHECKING:
    from torch import Tensor


class Format(NamedTuple):
    """A format.

    Attributes:
        name: What people call it.
        sets: The sets of roles of which one has to be whole, such as a matrix, or two factors of it.
        may_have: Roles that may be there, too.
        rank_of: The roles whose first dimension is the rank that alpha is divided by; the first that is there.
        size: Gives rows and columns of the matrix from the shapes, 0 for what they do not tell; None if they do not fit
            together.
        matrix: Makes the matrix that is added; None in formats that need the weight.
        of_bias: Whether it is the layer's bias that it changes.
        fits: Tells from the shapes whether they fit to a weight; None where the size alone tells it.
        changed: Gives the changed weight, in formats that need it.
    """

    name: str
    sets: Sequence[Sequence[frozenset[str]]]
    may_have: frozenset[str]
    rank_of: Sequence[str]
    size: Callable[[Shapes], tuple[int, int] | None]
    matrix: Callable[[Numbers], Matrix] | None = None
    of_bias: bool = False
    fits: Callable[[Shapes, Shape], bool] | None = None
    changed: Callable[[Numbers, Tensor], Tensor] | None = None

    @property
    def roles(self) -> frozenset[str]:
        """All roles of tensors that it may have."""
        return self.may_have.union(*(role for choice in self.sets for role in choice))

    def is_whole(self, roles: frozenset[str]) -> bool:
        """Tell whether nothing is missing."""
        return all(any(each <= roles for each in choice) for choice in self.sets)


def _all(*roles: str) -> Sequence[Sequence[frozenset[str]]]:
    return [[frozenset(roles)]]


def _columns(shape: Shape) -> int:
    return math.prod(shape[1:])


def _size_of_product(left: Shape, right: Shape, core: Shape | None = None) -> tuple[int, int] | None:
    """Give the size of a product, of a left factor (rows, rank), and a right one (rank, inputs, ...)."""
    if len(left) < 2 or len(right) < 2:
        return None
    if core is not None:
        fits = len(core) > 2 and core[:2] == (_columns(left), right[0])
        return (left[0], _columns(right) * math.prod(core[2:])) if fits else None
    return (left[0], _columns(right)) if _columns(left) == right[0] else None


def _lora_size(shapes: Shapes) -> tuple[int, int] | None:
    return _size_of_product(shapes["up"], shapes["down"], shapes.get("mid"))


def _lora(numbers: Numbers) -> Matrix:
    return _product(numbers["up"], numbers["down"], numbers.get("mid"))


def _product(left: Tensor, right: Tensor, core: Tensor | None = None) -> Product:
    right = right.double().flatten(1)
    return Product(left.double().flatten(1), right if core is None else tucker(core.double(), right))


def _turned(shape: Shape, core: Shape | None) -> Shape:
    """Give the shape of a left factor, which stands transposed beside a core."""
    return shape if core is None else (_columns(shape), shape[0])


def _loha_size(shapes: Shapes) -> tuple[int, int] | None:
    one, two = (
        _size_of_product(_turned(shapes[f"w{i}_a"], shapes.get(f"t{i}")), shapes[f"w{i}_b"], shapes.get(f"t{i}"))
        for i in (1, 2)
    )
    return one if one == two else None


def _loha(numbers: Numbers) -> Matrix:
    return Hadamard(*(_turned_product(numbers, f"w{i}", f"t{i}") for i in (1, 2)))


def _turned_product(numbers: Numbers, factor: str, core: str) -> Product:
    left, middle = numbers[f"{factor}_a"], numbers.get(core)
    return _product(left if middle is None else left.t(), numbers[f"{factor}_b"], middle)


def _lokr_size(shapes: Shapes) -> tuple[int, int] | None:
    outer, inner = (_lokr_factor_size(shapes, f"k{i}", f"kt{i}") for i in (1, 2))
    return None if outer is None or inner is None else (outer[0] * inner[0], outer[1] * inner[1])


def _lokr_factor_size(shapes: Shapes, factor: str, core: str) -> tuple[int, int] | None:
    if factor in shapes:
        shape = shapes[factor]
        return (shape[0], _columns(shape)) if len(shape) > 1 else None
    middle = shapes.get(core)
    return _size_of_product(_turned(shapes[f"{factor}_a"], middle), shapes[f"{factor}_b"], middle)


def _lokr(numbers: Numbers) -> Matrix:
    return Kronecker(*(_lokr_factor(numbers, f"k{i}", f"kt{i}") for i in (1, 2)))


def _lokr_factor(numbers: Numbers, factor: str, core: str) -> Tensor:
    if factor in numbers:
        return numbers[factor].double().flatten(1)
    product = _turned_product(numbers, factor, core)
    return product.left @ product.right


def _full(name: str, role: str, *, of_bias: bool = False) -> Format:
    def size(shapes: Shapes) -> tuple[int, int] | None:
        shape = shapes[role]
        return (shape[0], _columns(shape)) if shape else None

    def matrix(numbers: Numbers) -> Matrix:
        found = numbers[role]
        return Dense(found.reshape(found.shape[0], -1))

    return Format(name, _all(role), frozenset(), (), size, matrix, of_bias)


_SCALES = frozenset({"alpha", "scale"})
_MORE = _SCALES | set(DORA)
_TURNED = frozenset({"alpha", "rescale"})

FORMATS = (
    Format("LoRA", _all("up", "down"), _MORE | {"mid"}, ("down",), _lora_size, _lora),
    Format("LoHa", _all("w1_a", "w1_b", "w2_a", "w2_b"), _MORE | {"t1", "t2"}, ("w1_b",), _loha_size, _loha),
    Format(
        "LoKr",
        [[frozenset({name}), frozenset({f"{name}_a", f"{name}_b"})] for name in ("k1", "k2")],
        _MORE | {"kt2"},
        ("k2_b", "k1_b"),
        _lokr_size,
        _lokr,
    ),
    _full("difference", "diff"),
    _full("norm", "w_norm"),
    _full("difference of bias", "diff_b", of_bias=True),
    _full("bias of norm", "b_norm", of_bias=True),
    Format(
        "OFT",
        [[frozenset({"oft"}), frozenset({"oft_diag"})]],
        _TURNED,
        (),
        of_weight.oft_size,
        fits=of_weight.oft_fits,
        changed=of_weight.turn,
    ),
    Format(
        "BOFT",
        _all("boft"),
        _TURNED,
        (),
        of_weight.boft_size,
        fits=of_weight.oft_fits,
        changed=of_weight.turn_butterfly,
    ),
    Format(
        "IA3",
        _all("ia3", "on_input"),
        frozenset(),
        (),
        of_weight.ia3_size,
        fits=of_weight.ia3_fits,
        changed=of_weight.scale_channels,
    ),
    Format(
        "GLoRA",
        _all("a1", "a2", "b1", "b2"),
        frozenset({"alpha"}),
        (),
        of_weight.glora_size,
        fits=of_weight.glora_fits,
        changed=of_weight.generalise,
    ),
)
"""All formats that are computed."""

ROLES = {
    ".lora_down.weight": "down",
    ".lora_up.weight": "up",
    ".lora_mid.weight": "mid",
    ".lora_A.weight": "down",
    ".lora_B.weight": "up",
    ".lora_A.default.weight": "down",
    ".lora_B.default.weight": "up",
    ".lora.down.weight": "down",
    ".lora.up.weight": "up",
    ".lora_linear_layer.down.weight": "down",
    ".lora_linear_layer.up.weight": "up",
    "_lora.down.weight": "down",
    "_lora.up.weight": "up",
    ".hada_w1_a": "w1_a",
    ".hada_w1_b": "w1_b",
    ".hada_w2_a": "w2_a",
    ".hada_w2_b": "w2_b",
    ".hada_t1": "t1",
    ".hada_t2": "t2",
    ".lokr_w1": "k1",
    ".lokr_w1_a": "k1_a",
    ".lokr_w1_b": "k1_b",
    ".lokr_w2": "k2",
    ".lokr_w2_a": "k2_a",
    ".lokr_w2_b": "k2_b",
    ".lokr_t2": "kt2",
    ".diff": "diff",
    ".diff_b": "diff_b",
    ".w_norm": "w_norm",
    ".b_norm": "b_norm",
    ".dora_scale": "dora",
    ".lora_magnitude_vector": "magnitude",
    ".lora_magnitude_vector.weight": "magnitude",
    ".lora_magnitude_vector.default": "magnitude",
    ".lora_magnitude_vector.default.weight": "magnitude",
    ".oft_blocks": "oft",
    ".oft_diag": "oft_diag",
    ".rescale": "rescale",
    ".on_input": "on_input",
    ".a1.weight": "a1",
    ".a2.weight": "a2",
    ".b1.weight": "b1",
    ".b2.weight": "b2",
    ".alpha": "alpha",
    ".scale": "scale",
}
"""The role of a tensor, by how its key ends."""
_ENDS = sorted(ROLES, key=len, reverse=True)
_OF_IA3 = ".weight"
_BOFT_DIMENSIONS = 4

REFUSED = {
    ".oft_R": "OFT",
    ".oft_R.weight": "OFT",
    ".oft_R.default.weight": "OFT",
    ".boft_R": "BOFT",
    ".boft_s": "BOFT",
    ".ia3_l": "IA3",
    ".ia3_l.weight": "IA3",
}
"""Formats of PEFT that are not computed, by how a key of theirs ends."""


def role_of(key: str, shapes: Shapes) -> tuple[str, str] | None:
    """Give the name of the layer that a tensor belongs to, and the tensor's role; None if it is none of a LoRA's.

    Args:
        key: The tensor.
        shapes: The shapes of all tensors of the file.
    """
    end = next((end for end in _ENDS if key.endswith(end)), None)
    if end is None:
        layer = key.removesuffix(_OF_IA3)
        return (layer, "ia3") if layer != key and f"{layer}.on_input" in shapes else None
    role = ROLES[end]
    return key[: -len(end)], "boft" if role == "oft" and len(shapes[key]) == _BOFT_DIMENSIONS else role


def refused_format(key: str) -> str | None:
    """Name the format of a tensor that cannot be computed; None if it is of none of these."""
    return next((name for end, name in REFUSED.items() if key.endswith(end)), None)
