"""Where a node has the models of a run: at their own paths, or in its cache, into which each is sent once.

The cache is the folder ``models`` in this program's cache folder. A file in it is named by its SHA-256, and also by
that of the configuration beside the model if there is one: the same model draws otherwise with another.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Protocol

from ..errors import CheckpointError, HostError
from ..merge.files.beside import read_config
from ..merge.files.checkpoint import Signature, read_signature
from ..merge.files.hashes import CACHE_VARIABLE, cache_folder
from ..merge.files.model_locator import ModelLocator
from ..merge.plan_summary import format_size
from ..recipe.recipe import ModelSource
from .sender import PIECE

_AHEAD = 2
"""Pieces that are under way while one is written."""
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Sender(Protocol):
    """Gives the models of a run to nodes; see :class:`.sender.ModelSender`.

    Both methods raise a CheckpointError or a HostError if they cannot.
    """

    def sha256(self, name: str) -> str:
        """Give the SHA-256 of a file in lower-case hex."""

    def fetch(self, name: str, start: int, stop: int) -> bytes:
        """Give the bytes of a file from one place to another."""


class RunModel(NamedTuple):
    """A model file of a run, as it is on the computer where the run was begun.

    Attributes:
        signature: Its size and time.
        config: The configuration beside it, by which hosts draw; None if there is none.
    """

    signature: Signature
    config: bytes | None = None


@dataclass(frozen=True)
class PlacedModels:
    """What a node has of the models of a run.

    Attributes:
        places: Where each file is there, by the path under which the run knows it.
        sent: What was sent there now, a line each.
        lacks: Why a file is not there, a line with the name of the node; empty if all are.
    """

    places: Mapping[str, Path] = field(default_factory=dict)
    sent: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()


@dataclass(frozen=True)
class NodeLocator(ModelLocator):
    """Finds the models of a run where a node has them, and others as on any computer.

    Attributes:
        places: Where the files of the run are, by the path under which the run knows them.
        home: The user's home folder on the computer where the run was begun.
    """

    places: Mapping[str, Path] = field(default_factory=dict, hash=False)
    home: str = ""

    def locate(self, source: ModelSource) -> Path:
        """Find a model.

        Raises:
            CheckpointError: As on any computer, if it is none of the run's.
        """
        place = None if source.recipe is not None else self.places.get(self._named_there(source.path))
        return place or super().locate(source)

    def _named_there(self, path: str) -> str:
        """Give a path as the run knows it: ``~`` is the home folder of the user who began it."""
        return str(Path(self.home, path[2:]) if re.match(r"~[/\\]", path) else Path(path))


def locator_on_node(locator: ModelLocator, places: Mapping[str, Path], home: str) -> NodeLocator:
    """Make what finds models on a node; the arguments are as in :class:`NodeLocator`."""
    return NodeLocator(locator.folder, locator.beside, locator.shown, places, home)


def describe_models(models: Mapping[str, Signature]) -> dict[str, RunModel]:
    """Say what nodes need to know of the models of a run, which are on this computer.

    Args:
        models: What each file looked like when the run was planned, by its path.
    """
    return {name: RunModel(signature, _config_beside(Path(name))) for name, signature in models.items()}


def place_models(models: Mapping[str, RunModel], sender: Sender) -> PlacedModels:
    """Find the models of a run on this node, and have those sent that are not there; after a failure no others.

    Args:
        models: The files, by the paths under which the run knows them.
        sender: Sends them.
    """
    node = platform.node()
    places: dict[str, Path] = {}
    sent: list[str] = []
    for name, model in models.items():
        try:
            places[name], is_new = (Path(name), False) if _is_same(Path(name), model) else _keep(name, model, sender)
        except (CheckpointError, HostError) as exc:
            lack = f"{node}: {name} is not there as it is where the run was begun, and cannot be sent. {exc}"
            return PlacedModels(places, tuple(sent), (lack,))
        if is_new:
            sent.append(f"Sent {Path(name).name} ({format_size(model.signature.size)}) to {node}.")
    return PlacedModels(places, tuple(sent))


def _is_same(path: Path, model: RunModel) -> bool:
    try:
        return read_signature(path) == model.signature and _config_beside(path) == model.config
    except CheckpointError:
        return False


def _config_beside(path: Path) -> bytes | None:
    with suppress(CheckpointError):  # a host that needs it says what is wrong with it
        return read_config(path)
    return None


def _keep(name: str, model: RunModel, sender: Sender) -> tuple[Path, bool]:
    """Give the file of a model in the cache, and tell whether it was sent now; who else wants it there waits meanwhile.

    Raises:
        CheckpointError: It cannot be read where it is sent from.
        HostError: It cannot be sent or kept.
    """
    from filelock import FileLock

    sha256 = sender.sha256(name)
    if not _SHA256.fullmatch(sha256):  # it is to be the name of a file
        raise HostError("What sends it gives no SHA-256.")
    folder = cache_folder() / "models"
    suffix = "" if model.config is None else f"-{hashlib.sha256(model.config).hexdigest()[:16]}"
    target = folder / f"{sha256}{suffix}.safetensors"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(str(target.with_suffix(".lock"))):  # the system opens it again if its holder is killed
            _write_config(target.with_suffix(".yaml"), model.config)  # first: the model is never there without it
            if _has_size(target, model.signature.size):
                return target, False
            _receive(name, model.signature.size, target, sha256, sender)
            return target, True
    except (OSError, NotImplementedError) as exc:
        raise HostError(f"{folder} cannot be used: {getattr(exc, 'strerror', None) or exc}.") from exc


def _has_size(path: Path, size: int) -> bool:
    """Tell whether a file is there, and whole as far as its size says."""
    return path.is_file() and path.stat().st_size == size


def _receive(name: str, size: int, target: Path, sha256: str, sender: Sender) -> None:
    """Write a file piece by piece beside its place, and let it appear there if it is what was sent.

    Raises:
        CheckpointError: It cannot be read where it is sent from.
        HostError: There is no room for it, or what arrives is another file.
        OSError: It cannot be written.
    """
    part, digest = target.with_suffix(".part"), hashlib.sha256()
    part.unlink(missing_ok=True)  # of a process that was killed; it would count as space that is used
    free = shutil.disk_usage(target.parent).free
    if free < size:
        needs = f"{target.parent} has {format_size(free)} free, and it needs {format_size(size)}"
        raise HostError(f"{needs}: make room, or name another folder in {CACHE_VARIABLE}.")
    try:
        with part.open("xb") as file:
            for piece in _pieces(size, lambda start, stop: sender.fetch(name, start, stop)):
                digest.update(piece)
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        if digest.hexdigest() != sha256:
            raise HostError("What arrived has another SHA-256: try again.")
        part.replace(target)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _pieces(size: int, fetch: Callable[[int, int], bytes]) -> Iterator[bytes]:
    """Fetch the pieces of a file in their order, the next ones while one is used."""
    pool = ThreadPoolExecutor(_AHEAD)
    try:
        coming = (pool.submit(fetch, start, min(start + PIECE, size)) for start in range(0, size, PIECE))
        waiting = deque(islice(coming, _AHEAD))
        while waiting:
            piece = waiting.popleft().result()
            waiting.extend(islice(coming, 1))
            yield piece
    finally:
        pool.shutdown(cancel_futures=True)


def _write_config(target: Path, config: bytes | None) -> None:
    """Have a configuration beside a model in the cache, complete or not at all; or none.

    Raises:
        OSError: It cannot be written.
    """
    if config is None or (target.is_file() and target.read_bytes() == config):
        return
    part = target.with_suffix(".yaml-part")
    part.write_bytes(config)
    part.replace(target)
