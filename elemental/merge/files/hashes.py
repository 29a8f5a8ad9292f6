"""SHA-256 of files, cached in the user's cache folder by path, size and modification time; and where models are.

Recipes in files and images only name their models. On the machine that made them, the cache tells where these are.
What is only needed for hashes is imported there: planning needs none, and hashlib alone takes 4 ms, for OpenSSL.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from ...errors import CheckpointError
from .model_file import Signature, read_identity, read_signature

CACHE_VARIABLE = "ELEMENTAL_CACHE"
"""Environment variable that sets another cache folder."""

SHORT = 10
"""Digits of a SHA-256 that are enough to find a model, as the WebUI and model sites write it in texts of images."""

KNOWN, SENT = "hashes", "sent"
"""Folders of the cache: hashes that go into recipes, and those of files sent to other computers, which do not:
a hash that becomes known in the middle of a run would make its images differ by when they were made."""

_CHUNK = 8 << 20


class Place(NamedTuple):
    """Where a file was.

    Attributes:
        path: The file.
        size: Its size in bytes when it was there.
        sha256: Its SHA-256 in lower-case hex, if it was computed.
    """

    path: Path
    size: int
    sha256: str | None


def cache_folder() -> Path:
    """Give the folder of cached hashes and places; it may not exist yet."""
    if folder := os.environ.get(CACHE_VARIABLE):
        return Path(folder)
    import platformdirs

    return platformdirs.user_cache_path("elemental", appauthor=False)


def remembered_sha256(path: Path, signature: Signature | None = None, *, kind: str = KNOWN) -> str | None:
    """Give a file's cached SHA-256 in lower-case hex.

    Args:
        path: The file.
        signature: What it was when it was read, if it may have changed since; by default what it is now.
        kind: Which folder of the cache it is in.

    Returns:
        None if there is none, or only that of a file with another signature.
    """
    try:
        entry = json.loads(_entry_path(path, kind).read_text(encoding="utf-8"))
        cached, wanted = Signature(entry["size"], entry["mtime"]), signature or read_signature(path)
        return str(entry["sha256"]) if cached == wanted and entry["path"] == full_path(path) else None
    except (OSError, ValueError, KeyError, TypeError, CheckpointError):
        return None  # not cached, or the entry is damaged


def compute_sha256(path: Path, *, check_stop: Callable[[], None] = lambda: None, kind: str = KNOWN) -> str:
    """Compute a file's SHA-256 and cache it.

    Args:
        path: The file.
        check_stop: Called after every 8 MiB; raises an exception to stop.
        kind: Which folder of the cache it goes into.

    Returns:
        The hash, in lower-case hex.

    Raises:
        CheckpointError: The file cannot be read, or changed while it was read.
    """
    import hashlib

    before = read_identity(path)
    digest = hashlib.sha256()
    try:
        with path.open("rb", buffering=0) as file:
            buffer = bytearray(_CHUNK)
            view = memoryview(buffer)
            while count := file.readinto(buffer):
                digest.update(view[:count])
                check_stop()
    except OSError as exc:
        raise _unreadable(path, exc) from exc
    if read_identity(path) != before:
        raise CheckpointError(f"{path} changed while it was read.")
    _remember(path, before.signature, digest.hexdigest(), kind)
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """Give a file's SHA-256 in lower-case hex, cached or computed.

    Raises:
        CheckpointError: The file cannot be read, or changed while it was read.
    """
    return remembered_sha256(path) or compute_sha256(path)


def legacy_hash(path: Path) -> str:
    """Compute the WebUI's old short hash: the first 8 hex digits of the SHA-256 of 64 KiB from offset 1 MiB.

    Source: modules/sd_models.py, ``model_hash``, of github.com/AUTOMATIC1111/stable-diffusion-webui.

    Raises:
        CheckpointError: The file cannot be read.
    """
    import hashlib

    try:
        with path.open("rb") as file:
            file.seek(0x100000)
            return hashlib.sha256(file.read(0x10000)).hexdigest()[:8]
    except OSError as exc:
        raise _unreadable(path, exc) from exc


def remember_place(path: Path) -> None:
    """Remember where a model is, for recipes that only name it."""
    place = Path.cwd() / path
    try:
        size = read_signature(place).size
    except CheckpointError:
        return
    entry = {"path": str(place), "size": size}
    target = cache_folder() / "places" / _entry_name(str(place))
    if read_entry(target) != entry:
        write_entry(target, entry)


def remembered_places() -> Iterator[Place]:
    """Give all places of models that are remembered; files may have changed since, or be gone."""
    for kind in ("places", KNOWN):  # first the paths that users know, then those with links followed
        entries: list[Path] = []
        with suppress(OSError):
            entries.extend(sorted((cache_folder() / kind).glob("*.json")))
        for entry in map(read_entry, entries):
            with suppress(KeyError, TypeError, ValueError):
                yield Place(Path(str(entry["path"])), int(entry["size"]), entry.get("sha256"))


def _unreadable(path: Path, exc: OSError) -> CheckpointError:
    return CheckpointError(f"Cannot read {path}: {exc.strerror or exc}.")


def full_path(path: Path) -> str:
    """Give the path by which the cache knows a file, with links followed."""
    return os.path.normcase(path.resolve())


def _entry_path(path: Path, kind: str) -> Path:
    return cache_folder() / kind / _entry_name(full_path(path))


def _entry_name(path: str) -> str:
    import hashlib

    return f"{hashlib.sha256(path.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}.json"


def _remember(path: Path, signature: Signature, sha256: str, kind: str) -> None:
    entry = {"path": full_path(path), "size": signature.size, "mtime": signature.mtime, "sha256": sha256}
    write_entry(_entry_path(path, kind), entry)


def read_entry(path: Path) -> dict[str, Any]:
    """Read an entry of the cache; an empty one if it is missing or damaged."""
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return entry if isinstance(entry, dict) else {}


def write_entry(target: Path, entry: Mapping[str, Any]) -> None:
    """Write an entry of the cache; without it, the hash is computed again next time."""
    import tempfile

    with suppress(OSError):
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=target.parent)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(entry, file)
        os.replace(temporary, target)  # noqa: PTH105 - temporary is a str
