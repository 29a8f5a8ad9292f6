"""``elemental --version``: the version, and with ``--verbose`` what a bug report needs."""

from __future__ import annotations

import argparse
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .. import __version__
from .command import Command, Interrupts, read_as
from .output import print_lines

_PACKAGES = ("torch", "safetensors", "numpy", "diffusers", "transformers", "tokenizers", "gradio", "Pillow")
_GIB = 1 << 30


@dataclass(frozen=True)
class VersionOptions:
    """What to tell.

    Attributes:
        verbose: Whether to tell what a bug report needs.
    """

    verbose: bool


def run_version(options: VersionOptions, _interrupts: Interrupts = ()) -> None:
    """Print the version; for a bug report also the packages and the devices, but no path."""
    print_lines([f"elemental {__version__}"])
    if options.verbose:
        print_lines([f"Python {platform.python_version()}, {platform.platform()}", *map(_package, _PACKAGES)])
        print_lines([*_devices(), *_memory(), "host: standalone"])


def _package(name: str) -> str:
    from importlib.metadata import PackageNotFoundError, version  # which takes its time

    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return f"{name} not installed"


def _devices() -> Iterator[str]:
    """List what torch can compute on; a torch that cannot be loaded is what a bug report is about."""
    try:
        import torch

        yield f"device cpu: {torch.get_num_threads()} threads"
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            yield f"device cuda:{index}: {properties.name}, {properties.total_memory / _GIB:.1f} GiB"
        if torch.backends.mps.is_available():
            yield "device mps"
    except Exception as exc:
        yield f"torch fails: {type(exc).__name__}"  # its message may hold paths


def _memory() -> Iterator[str]:
    """Tell the free memory, where the system has a file that says it."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        sizes = {name: int(size.split()[0]) * 1024 for name, size in (line.split(":", 1) for line in lines)}
        yield f"memory: {sizes['MemAvailable'] / _GIB:.1f} of {sizes['MemTotal'] / _GIB:.1f} GiB free"
    except (OSError, ValueError, KeyError):  # not Linux
        return


def _read(args: argparse.Namespace) -> VersionOptions:
    return read_as(VersionOptions, args)


VERSION = Command(
    arguments="",
    example="elemental --version --verbose",
    add_options=lambda _command: None,
    read=_read,
    run=run_version,
)
"""What runs for the option; it is no word of the command line."""
