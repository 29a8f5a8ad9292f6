"""The command that makes images: ``elemental generate``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import HostError, ImageError
from ..merge.files.model_locator import model_source
from ..merge.plan import MergePlan
from ..recipe.recipe import MergeRecipe, ModelSource
from ..workflows import make_images, plan_merge
from .recipe_options import locator_from_options, recipe_from_options

if TYPE_CHECKING:
    from ..hosts.standalone.host import StandaloneHost
    from ..images.request import ImageRequest

DEFAULT_DEVICE = "cpu"
_PACKAGES = ("PIL", "diffusers", "transformers")

Print = Callable[[Iterable[str]], None]


_SAMPLERS = "Euler, Euler a, DPM++ 2M Karras, DDIM, UniPC"
_REQUEST_FIELDS = ("prompt", "negative", "seed", "steps", "sampler", "cfg", "width", "height", "batch")


def add_request_options(command: argparse.ArgumentParser, *, batch: bool = True) -> None:
    """Declare what decides an image beside the model.

    Args:
        command: The command that takes it.
        batch: Whether it can make several images at once.
    """
    group = command.add_argument_group("images")
    group.add_argument("--prompt", metavar="TEXT", help="what they shall show")
    group.add_argument("--negative", metavar="TEXT", help="what they shall not show")
    more = " of the first image; each next has the next" if batch else ""
    group.add_argument("--seed", type=int, metavar="N", help=f"seed{more} (default: 0)")
    group.add_argument("--steps", type=int, metavar="N", help="sampling steps (default: 20)")
    group.add_argument("--sampler", metavar="NAME", help=f"{_SAMPLERS} (default: Euler a)")
    group.add_argument("--cfg", type=float, metavar="X", help="CFG scale (default: 7)")
    group.add_argument("--width", type=int, metavar="N", help="in pixels, a multiple of 8 (default: 512)")
    group.add_argument("--height", type=int, metavar="N", help="in pixels, a multiple of 8 (default: 512)")
    if batch:
        group.add_argument("--batch", type=int, metavar="N", help="how many images (default: 1)")
    group.add_argument("--device", metavar="D", help=f"where to compute, as torch names it (default: {DEFAULT_DEVICE})")


def request_from_options(args: argparse.Namespace, base: ImageRequest | None = None) -> ImageRequest:
    """Make the request that the options ask for.

    Args:
        args: What was given.
        base: Where what was not given comes from; the defaults if there is none.

    Raises:
        ImageError: A number is out of its range.
    """
    from ..images.request import ImageRequest

    given = {name: getattr(args, name, None) for name in _REQUEST_FIELDS}
    return replace(base or ImageRequest(""), **{name: value for name, value in given.items() if value is not None})


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


def run_generate(args: argparse.Namespace, *, tell: Callable[[MergePlan, Iterable[str]], None], say: Print) -> None:
    """Merge in memory, make images, and write nothing but them.

    Args:
        args: What was given.
        tell: Shows a plan's warnings, with further remarks.
        say: Prints lines.

    Raises:
        ElementalError: Something that was given cannot be used, or the images cannot be made or kept.
        Stopped: The user asked for it.
    """
    model: ModelSource | MergeRecipe
    if len(args.models_given) == 1 and args.recipe is None:
        _refuse_recipe_options(args)
        model = model_source(args.models_given[0])
    else:
        model, remarks = recipe_from_options(args)
        tell(plan_merge(model, locator=locator_from_options(args)), remarks)
    require_packages()
    from ..images.files import free_names, write_png

    request = request_from_options(args)
    folder = _make_folder(args.output)
    images = make_images(
        make_host(args.device or DEFAULT_DEVICE, report=_StepBar()), request, model, locator=locator_from_options(args)
    )
    for path, image in zip(free_names(folder, [image.seed for image in images]), images, strict=True):
        write_png(path, image)
        say([str(path)])


def _refuse_recipe_options(args: argparse.Namespace) -> None:
    """Refuse what only a merge could use."""
    names = ("mode", "alpha", "beta", "blocks", "blocks_beta", "elemental", "elemental_file", "vae", "dtype")
    given = [f"--{name.replace('_', '-')}" for name in names if getattr(args, name) is not None]
    if given:
        args.parser.error(f"{', '.join(given)}: one model alone is not merged; name two, or three")


def _make_folder(name: str) -> Path:
    folder = Path(name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise ImageError(f"Cannot make the folder {folder}: {exc.strerror or exc}.") from exc
    return folder


def make_host(
    device: str,
    *,
    report: Callable[[int, int, str], None] = lambda _done, _total, _text: None,
    models: Path | None = None,
    output: Path = Path("outputs"),
) -> StandaloneHost:
    """Make the host that draws without a WebUI.

    Args:
        device: Where it computes, as torch names it.
        report: Shows the steps of an image.
        models: The folder whose checkpoints it lists.
        output: Where images are kept that nobody names a folder for.

    Raises:
        HostError: A package is missing, or the device cannot be used.
    """
    require_packages()
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it warns of packages that nothing here needs
    from ..hosts.standalone.host import StandaloneHost

    return StandaloneHost(device=device, report=report, models=models, output=output)


class _StepBar:
    """Shows steps on a terminal, nothing in a pipe."""

    def __init__(self) -> None:
        self._bar: Any = None

    def __call__(self, done: int, total: int, text: str) -> None:
        if not sys.stderr.isatty():
            return
        from tqdm import tqdm

        if self._bar is None:
            self._bar = tqdm(total=total, desc=text, unit="step", leave=False)
        self._bar.update(done - self._bar.n)
        if done >= total:
            self._bar.close()
            self._bar = None
