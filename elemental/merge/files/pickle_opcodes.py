"""Read a pickle as data: nothing that is named in it is imported, and nothing is called.

A pickle is a program for a stack machine. This one supports the instructions that ``torch.save`` writes, in any
protocol; instead of importing or calling something, it records the request. Names that no training checkpoint needs are
refused, so that a file that runs code in other programs is not merged unnoticed.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

MOST_INSTRUCTIONS = 2_000_000
"""Of one pickle, of which old files have five; bounds what a small file can ask for. A tensor with its name takes some
twenty, so that a training state of SDXL, with 2,515 tensors and what its optimizer remembers of each, stays far
below."""

_LARGEST_KEY = 2**63
_TRAINING_STATE = ("torch", "numpy", "collections", "pytorch_lightning", "lightning", "omegaconf", "typing")
_BUILTINS = (
    "set",
    "frozenset",
    "list",
    "dict",
    "tuple",
    "int",
    "float",
    "complex",
    "str",
    "bytes",
    "bytearray",
    "slice",
)
_OTHERS = (
    "_codecs.encode",
    "argparse.Namespace",
    "datetime.datetime",
    "pathlib.Path",
    "pathlib.PosixPath",
    "pathlib.WindowsPath",
)
_HARMLESS = {*_OTHERS, *(f"{module}.{name}" for module in ("builtins", "__builtin__") for name in _BUILTINS)}


class Damaged(ValueError):
    """The bytes are not a pickle as ``torch.save`` writes it."""


class Forbidden(Exception):
    """The pickle imports what no checkpoint needs; the argument is its name."""


class Stream(Protocol):
    """A source of bytes; it never gives more than it has."""

    def read(self, size: int, /) -> bytes:
        """Read up to so many bytes."""

    def readline(self) -> bytes:
        """Read up to the end of a line."""


@dataclass(frozen=True)
class Name:
    """Something that the pickle would import."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(frozen=True)
class Call:
    """Something that the pickle would make by calling a name."""

    function: Name
    arguments: tuple[object, ...]


@dataclass(frozen=True)
class Reference:
    """A reference to data outside the pickle, such as the numbers of a tensor."""

    content: object


class Opaque:
    """A value that is not needed."""


def read_pickle(stream: Stream) -> object:
    """Read one pickle, and leave the stream behind it.

    Dictionaries keep the entries whose keys are texts or whole numbers; names, calls and references are as above, and
    what else a pickle can hold is :class:`Opaque`. Memory is some hundred bytes an instruction.

    Raises:
        Damaged: It is none, or too long.
        Forbidden: It names what no checkpoint needs.
    """
    machine = _Machine()
    try:
        for count, (instruction, argument, _) in enumerate(pickletools.genops(stream)):  # type: ignore[arg-type]
            if count > MOST_INSTRUCTIONS:
                raise Damaged("its index is too long")
            machine.step(instruction.name, argument)
        return machine.stack.pop()
    except (ValueError, LookupError, TypeError, OverflowError, RecursionError) as exc:
        raise exc if isinstance(exc, Damaged) else Damaged(str(exc)) from exc


def forbidden(name: Name) -> bool:
    """Tell whether no training checkpoint needs a name."""
    return name.module.partition(".")[0] not in _TRAINING_STATE and str(name) not in _HARMLESS


class _Machine:
    """The stack, the marks in it, and the memo."""

    def __init__(self) -> None:
        self.stack: list[object] = []
        self._marks: list[int] = []
        self._memo: dict[int, object] = {}

    def step(self, name: str, argument: Any) -> None:
        if name in _IGNORED:
            return
        if name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name]())
        elif name in _STEPS:
            _STEPS[name](self, argument)
        elif argument is not None and name not in _REFUSED:
            self.stack.append(argument)  # a number or a text
        else:
            raise Damaged(f"it holds the instruction {name}")

    def mark(self, _: Any) -> None:
        self._marks.append(len(self.stack))

    def since_mark(self) -> list[object]:
        start = self._marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def pop_mark(self, _: Any) -> None:
        self.since_mark()

    def pop(self, _: Any) -> None:
        self.stack.pop()

    def duplicate(self, _: Any) -> None:
        self.stack.append(self.stack[-1])

    def keep(self, index: int | None) -> None:
        self._memo[len(self._memo) if index is None else index] = self.stack[-1]

    def recall(self, index: int) -> None:
        self.stack.append(self._memo[index])

    def name(self, argument: str) -> None:
        self._push_name(*argument.split(" ", 1))

    def stacked_name(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):  # a tuple in tuples has a text without end
            raise Damaged("it imports what is no name")
        self._push_name(module, name)

    def _push_name(self, module: str, name: str) -> None:
        imported = Name(module, name)
        if forbidden(imported):
            raise Forbidden(str(imported))
        self.stack.append(imported)

    def instance(self, argument: str) -> None:
        self.since_mark()
        self.name(argument)
        self.stack[-1] = Opaque()

    def marked_object(self, _: Any) -> None:
        self.since_mark()
        self.stack.append(Opaque())

    def new_object(self, _: Any) -> None:
        del self.stack[-2:]
        self.stack.append(Opaque())

    def new_object_with_names(self, _: Any) -> None:
        del self.stack[-3:]
        self.stack.append(Opaque())

    def call(self, _: Any) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, Name) or not isinstance(arguments, tuple):
            raise Damaged("it calls what is no function")
        ordered = str(function) == "collections.OrderedDict"
        self.stack.append({} if ordered else Call(function, arguments))

    def build(self, _: Any) -> None:
        self.stack.pop()  # attributes, which nothing here has a use for
        _ = self.stack[-1]

    def refer(self, _: Any) -> None:
        self.stack.append(Reference(self.stack.pop()))

    def tuple_of(self, count: int) -> None:
        start = len(self.stack) - count
        if start < 0:
            raise Damaged("its stack is empty")
        self.stack[start:] = [tuple(self.stack[start:])]

    def tuple_since_mark(self, _: Any) -> None:
        self.stack.append(tuple(self.since_mark()))

    def list_since_mark(self, _: Any) -> None:
        self.stack.append(self.since_mark())

    def dict_since_mark(self, _: Any) -> None:
        values = self.since_mark()
        self.stack.append({})
        self._set(values)

    def opaque_since_mark(self, _: Any) -> None:
        self.since_mark()
        self.stack.append(Opaque())

    def set_item(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set([key, value])

    def set_items(self, _: Any) -> None:
        self._set(self.since_mark())

    def _set(self, values: Sequence[object]) -> None:
        target = self.stack[-1]
        if isinstance(target, dict):
            # what other keys there are might take for ever to compare
            pairs = zip(values[::2], values[1::2], strict=True)
            target.update((key, value) for key, value in pairs if _is_key(key))

    def append(self, _: Any) -> None:
        self._extend([self.stack.pop()])

    def extend(self, _: Any) -> None:
        self._extend(self.since_mark())

    def _extend(self, values: Sequence[object]) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(values)


def _is_key(key: object) -> bool:
    """Tell whether a key is a text, or a number that can be written as one."""
    return isinstance(key, str) or (isinstance(key, int) and abs(key) < _LARGEST_KEY)


_IGNORED = ("PROTO", "FRAME", "STOP")
_REFUSED = ("PERSID", "EXT1", "EXT2", "EXT4", "NEXT_BUFFER", "READONLY_BUFFER")
_CONSTANTS: Mapping[str, Callable[[], object]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple,
    "EMPTY_SET": Opaque,
}
_STEPS: Mapping[str, Callable[[_Machine, Any], None]] = {
    "MARK": _Machine.mark,
    "POP": _Machine.pop,
    "POP_MARK": _Machine.pop_mark,
    "DUP": _Machine.duplicate,
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _Machine.keep),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.recall),
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": _Machine.stacked_name,
    "INST": _Machine.instance,
    "OBJ": _Machine.marked_object,
    "NEWOBJ": _Machine.new_object,
    "NEWOBJ_EX": _Machine.new_object_with_names,
    "REDUCE": _Machine.call,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.refer,
    "TUPLE": _Machine.tuple_since_mark,
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "LIST": _Machine.list_since_mark,
    "DICT": _Machine.dict_since_mark,
    "FROZENSET": _Machine.opaque_since_mark,
    "ADDITEMS": _Machine.pop_mark,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.extend,
}
