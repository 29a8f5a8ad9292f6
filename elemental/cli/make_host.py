"""Makes the standalone host, which makes images without a WebUI."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import HostError

if TYPE_CHECKING:
    from ..hosts.standalone.host import StandaloneHost

DEFAULT_DEVICE = "cpu"
_PACKAGES = ("PIL", "diffusers", "transformers")


def require_packages() -> None:
    """Make sure that the packages are installed that only images need.

    Raises:
        HostError: One is not.
    """
    missing = [package for package in _PACKAGES if find_spec(package) is None]
    if missing:
        raise HostError(
            f'Images need more packages ({", ".join(missing)}): pip install "sd-webui-elemental[standalone]"'
        )


def make_host(
    device: str | None,
    *,
    report: Callable[[int, int, str], None] = lambda _done, _total, _text: None,
    models: Path | None = None,
    output: Path = Path("outputs"),
) -> StandaloneHost:
    """Make the standalone host.

    Args:
        device: Where it computes, as torch names it; None for the CPU.
        report: Shows the steps of an image: steps done, all steps, and what is made.
        models: The folder whose checkpoints it lists.
        output: The folder for images that no other folder is named for.

    Raises:
        HostError: A package is missing, or the device cannot be used.
    """
    require_packages()
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it warns of packages that nothing here needs
    from ..hosts.standalone.host import StandaloneHost

    return StandaloneHost(device=device or DEFAULT_DEVICE, report=report, models=models, output=output)
