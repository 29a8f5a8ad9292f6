"""Copy the demo pair, two small trained checkpoints with the layout of SD 1.x, to a folder."""

from __future__ import annotations

import shutil
from pathlib import Path

from safetensors import SafetensorError, safe_open

from ..errors import MergeError

MARK = {"made_by": "elemental demo"}
"""A header field that marks files of the pair."""

_FILES = ("a.safetensors", "a.yaml", "b.safetensors", "b.yaml")


def copy_pair(folder: Path) -> tuple[Path, Path]:
    """Copy the pair, with the configuration file that other tools want beside each.

    Args:
        folder: Where; empty, or one that holds the pair already.

    Returns:
        The paths of A, which draws plain shapes, and of B, which draws printed ones.

    Raises:
        MergeError: The folder holds something else, or cannot be written.
    """
    package_folder = Path(__file__).parent
    try:
        if folder.exists() and any(folder.iterdir()) and not _is_demo(folder):
            raise MergeError(f"{folder} has files that are not the demo's: name another folder.")
        folder.mkdir(parents=True, exist_ok=True)
        for name in _FILES:
            shutil.copyfile(package_folder / name, folder / name)
    except OSError as exc:
        raise MergeError(f"Cannot write the demo to {folder}: {exc.strerror or exc}.") from exc
    return folder / _FILES[0], folder / _FILES[2]


def _is_demo(folder: Path) -> bool:
    try:
        with safe_open(folder / _FILES[0], framework="numpy") as file:
            return MARK.items() <= (file.metadata() or {}).items()
    except (OSError, SafetensorError):
        return False
