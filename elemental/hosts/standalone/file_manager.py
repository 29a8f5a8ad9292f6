"""The file manager of this machine, if it has one and somebody can see it."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from ...errors import HostError

_SCREENS = ("DISPLAY", "WAYLAND_DISPLAY")


def file_manager(variables: Mapping[str, str] = os.environ) -> Callable[[Path], None] | None:
    """Give what opens a folder in the file manager; None on a machine without a screen, or without such a program.

    Args:
        variables: The environment.
    """
    command = _command(variables)
    if command is None:
        return None

    def open_it(folder: Path) -> None:
        if not folder.is_dir():
            raise HostError(f"There is no folder {folder}.")
        try:
            subprocess.Popen([command, str(folder)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        except OSError as exc:
            raise HostError(f"The folder cannot be opened: {exc.strerror or exc}.") from exc

    return open_it


def _command(variables: Mapping[str, str]) -> str | None:
    if sys.platform == "win32":
        return "explorer"
    if platform.system() == "Darwin":
        return "open"
    return shutil.which("xdg-open") if any(map(variables.get, _SCREENS)) else None
