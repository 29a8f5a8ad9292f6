"""Sends the models of a run to nodes that lack them, piece by piece: the files that the run names, and no others."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ..errors import CheckpointError
from ..merge.files.checkpoint import Signature
from ..merge.files.hashes import SENT, compute_sha256, remembered_sha256
from ..merge.files.model_file import ModelFile

PIECE = 16 << 20
"""Bytes that are sent at a time, at most."""


class Offer(NamedTuple):
    """A file that may be sent.

    Attributes:
        path: Where it is, whatever the current folder.
        signature: What it looked like when the run was planned.
        sha256: Its SHA-256 in lower-case hex; None if it is not known yet.
    """

    path: Path
    signature: Signature
    sha256: str | None


def offer_models(models: Mapping[str, Signature]) -> dict[str, Offer]:
    """Offer the models of a run, which are on this computer; nothing but remembered hashes is read.

    Args:
        models: What each file looked like when the run was planned, by its path.

    Returns:
        The offers, by the same paths.
    """
    there = {name: Path.cwd() / name for name in models}
    return {name: Offer(path, models[name], remembered_sha256(path, models[name])) for name, path in there.items()}


class ModelSender:
    """Gives pieces of the files that are offered; it opens each when it is first asked for.

    Args:
        offers: The files, by the paths under which the run knows them.
    """

    def __init__(self, offers: Mapping[str, Offer]) -> None:
        self._offers = offers
        self._open: dict[str, ModelFile] = {}
        self._sha256 = {name: offer.sha256 for name, offer in offers.items() if offer.sha256 is not None}

    def sha256(self, name: str) -> str:
        """Give the SHA-256 of a file in lower-case hex, known or computed; it does not get into the run's recipes.

        Raises:
            CheckpointError: The run has no such file, or it cannot be read or has changed.
        """
        path, signature = self._file(name).path, self._offers[name].signature
        if name not in self._sha256:
            known = remembered_sha256(path, signature, kind=SENT)
            self._sha256[name] = known or compute_sha256(path, kind=SENT)
        return self._sha256[name]

    def fetch(self, name: str, start: int, stop: int) -> bytes:
        """Give the bytes of a file from one place to another.

        Args:
            name: The path under which the run knows the file.
            start: The first byte.
            stop: The first byte that is not wanted.

        Raises:
            CheckpointError: The run has no such file, or it cannot be read, has changed, or has no such bytes.
        """
        file = self._file(name)
        if not 0 <= start < stop <= file.identity.size or stop - start > PIECE:
            raise CheckpointError(f"{file.path} has no piece from {start} to {stop}.")
        return file.read_bytes(start, stop - start)

    def _file(self, name: str) -> ModelFile:
        offer = self._offers.get(name)
        if offer is None:
            raise CheckpointError(f"{name} is none of the run's models.")
        if name not in self._open:
            file = ModelFile(offer.path)
            if file.identity.signature != offer.signature:
                file.close()
                raise CheckpointError(f"{offer.path} has changed since the run began; start a new run.")
            self._open[name] = file
        return self._open[name]
