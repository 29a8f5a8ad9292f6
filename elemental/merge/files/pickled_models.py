"""Choose which dictionary of a pickle is the model: by what it holds and where it lies, never by guessing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ...architectures.key_spelling import spell_checkpoint
from ...architectures.keys import FIRST_CONV, TEXT_PREFIXES, UNET_PREFIX, VAE_PREFIX
from ...errors import CheckpointError
from .pickle_opcodes import Call, Name

_DEEPEST = 8
"""How many dictionaries, or parameters and classes around a tensor, are looked into."""
_U_NET = 4
_IN_MODELS = {"input_blocks.0.0.weight": _U_NET, "decoder.conv_in.weight": 2, "token_embedding.weight": 1}
"""Ends of names that only a U-Net, a VAE and a text encoder have, and how much each says of which dictionary is the
model; a bit each."""
_MOST_MODELS = 100
_REBUILDING = re.compile(r"_?rebuild_\w+")
_WRAPPERS = ("_rebuild_parameter", "_rebuild_parameter_with_state")
_IN_A_CLASS = "_rebuild_from_type_v2"


class _Dictionary(NamedTuple):
    """A dictionary of tensors in a pickle.

    Attributes:
        path: The names that lead to it.
        tensors: What it holds.
        parts: How much of a model that is, by the bits of :data:`_IN_MODELS`.
    """

    path: tuple[str, ...]
    tensors: Mapping[str, Call]
    parts: int

    @property
    def rank(self) -> tuple[int, ...]:
        """What orders dictionaries: the model comes first."""
        has_unet = bool(self.parts & _U_NET)
        return not has_unet, not self.is_top, -self.parts, len(self.path), not self.is_state_dict, -len(self.tensors)

    @property
    def is_top(self) -> bool:
        """Whether it is the one that hosts read, whatever lies beside it."""
        return self.path == ("state_dict",)

    @property
    def is_state_dict(self) -> bool:
        """Whether it has the name by which hosts find the model."""
        return self.path[-1:] == ("state_dict",) and "state_dict" not in self.path[:-1]

    def comes_before(self, other: _Dictionary) -> bool:
        """Tell whether hosts read this one and not the other, so that nobody has to say which is meant."""
        return self.is_state_dict or other.within(self)

    def beside(self, best: _Dictionary) -> bool:
        """Tell whether it can be a part of the model that another one is: beside it, or right in it."""
        inside = self.path[:-1] == best.path and self.path[-1:] != ("state_dict",)
        return inside or (self.path[:-1] == best.path[:-1] and not best.is_top)

    def within(self, other: _Dictionary) -> bool:
        """Tell whether it lies in another dictionary."""
        return self is not other and self.path[: len(other.path)] == other.path

    def same_as(self, other: _Dictionary) -> bool:
        """Tell whether another one holds the very same tensors by the same names."""
        same_names = self.tensors.keys() == other.tensors.keys()
        return same_names and all(call is other.tensors[key] for key, call in self.tensors.items())

    def __str__(self) -> str:
        return f'"{"/".join(self.path)}"' if self.path else "the dictionary at the top"


class ChosenModel(NamedTuple):
    """The tensors of a model, in words what else is in the file, and what of that should be warned of."""

    tensors: Mapping[str, Call]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


def _parts(keys: Iterable[str]) -> int:
    found = {end for key in keys for end in _IN_MODELS if key.endswith(end)}
    return sum(_IN_MODELS[end] for end in found)


def _dictionaries(content: object) -> list[_Dictionary]:
    """List the dictionaries that hold tensors, the outer ones first; each of them once."""
    found = []
    seen: set[int] = set()
    level: list[tuple[tuple[str, ...], object]] = [((), content)]
    for _ in range(_DEEPEST):
        inner: list[tuple[tuple[str, ...], object]] = []
        for path, value in level:
            if not isinstance(value, dict) or id(value) in seen:
                continue
            seen.add(id(value))
            calls = {key: _unwrapped(item) for key, item in value.items() if isinstance(key, str)}
            tensors = {key: call for key, call in calls.items() if call is not None}
            if tensors:
                found.append(_Dictionary(path, tensors, _parts(tensors)))
            inner += [((*path, str(key)), item) for key, item in value.items() if isinstance(item, dict)]
        level = inner
    return found


def choose_model(content: object, path: Path) -> ChosenModel:
    """Choose the dictionary that is the model: by what it holds, then the outermost.

    A ``state_dict`` at the top is the model for all hosts, and one within it never is; source:
    ``get_state_dict_from_checkpoint`` in modules/sd_models.py of the WebUI. If none is called so and two have the same
    names, they are alternatives, such as averaged weights, of which only the user can say which are meant. Parts of one
    model in dictionaries beside each other are joined.

    Args:
        content: What the pickle holds.
        path: Its file.

    Raises:
        CheckpointError: It holds no tensors by name, more models than anyone saves, or two that might be meant.
    """
    found = _dictionaries(content)
    if not found:
        raise CheckpointError(f"{path} holds no tensors by name.")
    models = [dictionary for dictionary in found if dictionary.parts]
    if len(models) > _MOST_MODELS:
        raise CheckpointError(f"{path} holds {len(models):,} models.\nSave the one that you want to a file alone.")
    best = min(_outer(models) or found, key=lambda dictionary: dictionary.rank)
    others = [other for other in models or found if not other.same_as(best)]
    names = spell_checkpoint(list(best.tensors)).file_keys
    for other in others:
        if not best.comes_before(other) and spell_checkpoint(list(other.tensors)).file_keys.keys() == names.keys():
            raise CheckpointError(
                f"{path} holds two models, {best} and {other}.\nSave the one that you want to a file without the other."
            )
    return _join(best, names, [other for other in others if other.parts], path)


def _outer(models: Sequence[_Dictionary]) -> list[_Dictionary]:
    """Leave out what lies in a model, as an older copy or a part of it does; but for the top's ``state_dict``."""
    wholes = [other for other in models if other.parts & _U_NET] or models
    return [one for one in models if one.is_top or not any(one.within(other) for other in wholes)]


def _join(best: _Dictionary, names: Mapping[str, str], others: Sequence[_Dictionary], path: Path) -> ChosenModel:
    """Join a U-Net with the VAE and the text encoders that lie beside or in it, and tell of what is not read.

    Args:
        best: The dictionary with the U-Net.
        names: Its keys by those of this program's spelling.
        others: The dictionaries that hold more of a model.
        path: The file.
    """
    context = [key for key in names if key.startswith((FIRST_CONV, UNET_PREFIX + "label_emb."))]
    tensors = {key: best.tensors[name] for key, name in names.items()}
    joined, left, parts = [best], [], best.parts
    for other in others:
        part = _part_of(other, context) if best.parts & _U_NET and other.beside(best) else {}
        if part and tensors.keys().isdisjoint(part):
            tensors.update(part)
            joined.append(other)
            parts |= other.parts
        else:
            left.append(other)
    unsure = [one for one in left if one.parts & ~parts or not best.comes_before(one)]
    notes = [f"{', '.join(map(str, joined))} in the file are joined"] if len(joined) > 1 else []
    return ChosenModel(
        tensors if len(joined) > 1 else best.tensors,
        (*notes, *(f"{one} in the file is not read" for one in left)),
        tuple(f"{path.name} holds more of a model than {best}: {one} is not read." for one in unsure),
    )


def _part_of(other: _Dictionary, context: Sequence[str]) -> dict[str, Call]:
    """Spell the keys of a VAE or text encoder by the name of its dictionary; none if that says not what they are.

    Args:
        other: Its dictionary.
        context: Keys that show the architecture of its model.
    """
    marks = [key for key in other.tensors if key.endswith(tuple(_IN_MODELS))]
    for before in (*(f"{name}." for name in other.path[-1:]), "vae.", ""):
        keys = {before + key: key for key in other.tensors}
        spelled = {name: key for key, name in spell_checkpoint([*context, *keys]).file_keys.items()}
        if all(spelled[before + mark].startswith((VAE_PREFIX, *TEXT_PREFIXES)) for mark in marks):
            return {spelled[name]: other.tensors[key] for name, key in keys.items()}
    return {}


def _unwrapped(value: object) -> Call | None:
    """Take a tensor out of its parameter or class; None of what is no tensor."""
    for _ in range(_DEEPEST):
        if not isinstance(value, Call) or not _REBUILDING.fullmatch(value.function.name):
            return None
        if value.function.name in _WRAPPERS:
            value = value.arguments[0] if value.arguments else None
        elif value.function.name == _IN_A_CLASS and len(value.arguments) >= 3:
            function, _, arguments = value.arguments[:3]
            if not isinstance(function, Name) or not isinstance(arguments, tuple):
                return None
            value = Call(function, arguments)
        else:
            return value
    return None
