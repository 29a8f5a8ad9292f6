"""The formats of LoRA files: which tensors a layer has, and the matrix that they make.

The formulas are those of github.com/KohakuBlueleaf/LyCORIS (docs/Algo-Details.md) and of the WebUI's own extension,
extensions-builtin/Lora/network_*.py of github.com/AUTOMATIC1111/stable-diffusion-webui.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from .matrices import Dense, Hadamard, Kronecker, Matrix, Product, tucker

if TYPE_CHECKING:
    from torch import Tensor

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
Numbers = Mapping[str, "Tensor"]
"""The tensors of a layer by their roles, such as "up"."""


class Format(NamedTuple):
    """A format.

    Attributes:
        name: What people call it.
        sets: The sets of roles of which one has to be whole, such as a matrix, or two factors of it.
        may_have: Roles that may be there, too.
        rank_of: The roles whose first dimension is the rank that alpha is divided by; the first that is there.
        size: Gives rows and columns of the matrix from the shapes; None if they do not fit together.
        matrix: Makes the matrix.
        of_bias: Whether it is the layer's bias that it changes.
    """

    name: str
    sets: Sequence[Sequence[frozenset[str]]]
    may_have: frozenset[str]
    rank_of: Sequence[str]
    size: Callable[[Shapes], tuple[int, int] | None]
    matrix: Callable[[Numbers], Matrix]
    of_bias: bool = False

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

FORMATS = (
    Format("LoRA", _all("up", "down"), _SCALES | {"mid"}, ("down",), _lora_size, _lora),
    Format("LoHa", _all("w1_a", "w1_b", "w2_a", "w2_b"), _SCALES | {"t1", "t2"}, ("w1_b",), _loha_size, _loha),
    Format(
        "LoKr",
        [[frozenset({name}), frozenset({f"{name}_a", f"{name}_b"})] for name in ("k1", "k2")],
        _SCALES | {"kt2"},
        ("k2_b", "k1_b"),
        _lokr_size,
        _lokr,
    ),
    _full("difference", "diff"),
    _full("norm", "w_norm"),
    _full("difference of bias", "diff_b", of_bias=True),
    _full("bias of norm", "b_norm", of_bias=True),
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
    ".alpha": "alpha",
    ".scale": "scale",
}
"""The role of a tensor, by how its key ends."""

REFUSED = {
    ".dora_scale": "DoRA",
    ".lora_magnitude_vector": "DoRA",
    ".lora_magnitude_vector.weight": "DoRA",
    ".oft_blocks": "OFT",
    ".oft_diag": "OFT",
    ".oft_R": "OFT",
    ".oft_R.weight": "OFT",
    ".boft_R": "BOFT",
    ".boft_s": "BOFT",
    ".a1.weight": "GLoRA",
    ".a2.weight": "GLoRA",
    ".b1.weight": "GLoRA",
    ".b2.weight": "GLoRA",
    ".on_input": "IA3",
    ".ia3_l": "IA3",
    ".ia3_l.weight": "IA3",
}
"""Formats that need the weight which they change, by how a key of theirs ends."""

_BOFT_DIMENSIONS = 4


def refused_format(key: str, shape: Shape) -> str | None:
    """Name the format of a tensor that cannot be computed; None if it is of none of these."""
    name = next((name for end, name in REFUSED.items() if key.endswith(end)), None)
    return "BOFT" if name == "OFT" and len(shape) == _BOFT_DIMENSIONS else name
