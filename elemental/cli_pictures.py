"""The command that makes pictures: ``elemental generate``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .cli_recipe import recipe_from_options
from .errors import HostError, ImageError
from .merge.plan import MergePlan
from .merge.sources import model_source
from .spec.recipe import MergeRecipe, ModelSource
from .workflows import make_pictures, plan_merge

if TYPE_CHECKING:
    from .hosts.standalone import StandaloneHost

_EXTRA = 'Pictures need more packages: pip install "sd-webui-elemental[standalone]"'

Print = Callable[[Iterable[str]], None]


def add_request_options(command: argparse.ArgumentParser) -> None:
    """Declare what decides a picture beside the model."""
    group = command.add_argument_group("pictures")
    group.add_argument("--prompt", default="", metavar="TEXT", help="what they shall show")
    group.add_argument("--negative", default="", metavar="TEXT", help="what they shall not show")
    group.add_argument("--seed", type=int, default=0, help="of the first; each next has the next (default: 0)")
    group.add_argument("--steps", type=int, default=20, help="default: 20")
    names = "Euler, Euler a, DPM++ 2M Karras, DDIM, UniPC"
    group.add_argument("--sampler", default="Euler a", metavar="NAME", help=f"{names} (default: Euler a)")
    group.add_argument("--cfg", type=float, default=7.0, help="CFG scale (default: 7)")
    group.add_argument("--width", type=int, default=512, help="a multiple of 8 (default: 512)")
    group.add_argument("--height", type=int, default=512, help="a multiple of 8 (default: 512)")
    group.add_argument("--batch", type=int, default=1, metavar="N", help="how many (default: 1)")
    group.add_argument(
        "--device", default="cpu", metavar="D", help="where to compute, as torch names it (default: cpu)"
    )


def run_generate(args: argparse.Namespace, *, tell: Callable[[MergePlan, Iterable[str]], None], say: Print) -> None:
    """Merge in memory, make pictures, and write nothing but them.

    Args:
        args: What was given.
        tell: Shows a plan's warnings, with further remarks.
        say: Prints lines.
    """
    model: ModelSource | MergeRecipe
    if len(args.models_given) == 1 and args.recipe is None:
        _refuse_recipe_options(args)
        model = model_source(args.models_given[0])
    else:
        model, remarks = recipe_from_options(args)
        tell(plan_merge(model, models_folder=args.models), remarks)
    try:
        from .images.files import free_names, write_png
        from .images.request import ImageRequest
    except ImportError as exc:
        raise HostError(f"{_EXTRA} ({exc}).") from exc
    names = ("prompt", "negative", "seed", "steps", "sampler", "cfg", "width", "height", "batch")
    request = ImageRequest(**{name: getattr(args, name) for name in names})
    folder = _make_folder(args.output)
    pictures = make_pictures(_host(args.device), request, model, models_folder=args.models)
    for path, picture in zip(free_names(folder, [picture.seed for picture in pictures]), pictures, strict=True):
        write_png(path, picture)
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


def _host(device: str) -> StandaloneHost:
    try:
        from .hosts.standalone import StandaloneHost
    except ImportError as exc:
        raise HostError(f"{_EXTRA} ({exc}).") from exc
    return StandaloneHost(device=device, report=_StepBar())


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
