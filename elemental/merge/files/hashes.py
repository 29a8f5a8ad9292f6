"""SHA-256 of files, remembered in the user's cache folder by path, size and modification time."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import platformdirs

from ...errors import CheckpointError
from .checkpoint import Signature, read_signature

CACHE_VARIABLE = "ELEMENTAL_CACHE"
"""Environment variable that names another folder for what is remembered."""

_CHUNK = 8 << 20


def cache_folder() -> Path:
    """Give the folder in which hashes are remembered; it may not exist yet."""
    return Path(os.environ.get(CACHE_VARIABLE) or platformdirs.user_cache_path("elemental", appauthor=False))


def remembered_sha256(path: Path) -> str | None:
    """Give a file's SHA-256 in lower-case hex if it is remembered and the file has not changed since."""
    try:
        entry = json.loads(_entry_path(path).read_text(encoding="utf-8"))
        known = Signature(entry["size"], entry["mtime"])
        return str(entry["sha256"]) if known == read_signature(path) and entry["path"] == _place(path) else None
    except (OSError, ValueError, KeyError, TypeError, CheckpointError):
        return None  # unknown, or the entry is damaged: the hash is computed anew


def compute_sha256(path: Path, *, check_stop: Callable[[], None] = lambda: None) -> str:
    """Compute a file's SHA-256 and remember it.

    Args:
        path: The file.
        check_stop: Called after every 8 MiB; what it raises ends it.

    Returns:
        The hash, in lower-case hex.

    Raises:
        CheckpointError: The file cannot be read, or changed meanwhile.
    """
    before = read_signature(path)
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
    if read_signature(path) != before:
        raise CheckpointError(f"{path} changed while it was read.")
    _remember(path, before, digest.hexdigest())
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """Give a file's SHA-256 in lower-case hex, remembered or computed.

    Raises:
        CheckpointError: The file cannot be read, or changed meanwhile.
    """
    return remembered_sha256(path) or compute_sha256(path)


def legacy_hash(path: Path) -> str:
    """Compute the WebUI's old short hash: 8 hex digits of the SHA-256 of 64 KiB from 1 MiB on.

    Source: modules/sd_models.py, ``model_hash``, of github.com/AUTOMATIC1111/stable-diffusion-webui.

    Raises:
        CheckpointError: The file cannot be read.
    """
    try:
        with path.open("rb") as file:
            file.seek(0x100000)
            return hashlib.sha256(file.read(0x10000)).hexdigest()[:8]
    except OSError as exc:
        raise _unreadable(path, exc) from exc


def _unreadable(path: Path, exc: OSError) -> CheckpointError:
    return CheckpointError(f"Cannot read {path}: {exc.strerror or exc}.")


def _place(path: Path) -> str:
    return os.path.normcase(path.resolve())


def _entry_path(path: Path) -> Path:
    name = hashlib.sha256(_place(path).encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return cache_folder() / "hashes" / f"{name}.json"


def _remember(path: Path, signature: Signature, sha256: str) -> None:
    entry = {"path": _place(path), "size": signature.size, "mtime": signature.mtime, "sha256": sha256}
    target = _entry_path(path)
    # A cache that cannot be written costs time later, and is no reason to fail now.
    with suppress(OSError):
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=target.parent)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(entry, file)
        os.replace(temporary, target)  # noqa: PTH105 - Path.replace, named for what it is in every language
