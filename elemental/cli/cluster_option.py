"""The option that spreads a run over many devices, ``--on``, what it asks for, and what is done without it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from ..errors import HostError
from .command import UsageError, read_integer
from .output import count_of, print_lines, print_note
from .standalone_host import DEFAULT_DEVICE, make_host

if TYPE_CHECKING:
    from ..hosts.base import Host
    from ..merge.files.checkpoint import Signature
    from ..merge.files.model_locator import ModelLocator
    from ..merge.progress import Controls
    from ..runs.effect_maker import EffectMaker
    from ..runs.image_maker import ImageMaker
    from .run_options import RunCommandOptions

_Begun = TypeVar("_Begun")

_RAY = "ray"
_LOCAL = "local"
"""As in :mod:`..cluster.ray_workers`, which is imported where it is used, since it needs torch."""
ALL_GPUS = f"{_RAY}:{_LOCAL}"
"""What ``--on`` says for all GPUs of this computer."""
_PACKAGE = "sd-webui-elemental[cluster]"


def add_cluster_options(
    group: argparse._ArgumentGroup,
    what: str = "the images",
    alone: str = "uses all GPUs of this computer",
) -> None:
    """Declare where the images of a run are made.

    Args:
        group: Gets the options.
        what: Which images these are.
        alone: What ``--device cuda`` does without them.
    """
    group.add_argument(
        "--on",
        type=_read_place,
        metavar="ray[:ADDRESS]",
        help=f"make {what} on the devices of a Ray cluster: the one at ADDRESS, or one that runs on this computer, "
        f"or else this computer's own devices; needs the extra cluster, with which --device cuda alone {alone}",
    )
    group.add_argument(
        "--workers",
        type=read_integer,
        metavar="N",
        help="with --on: how many workers (default: one for each GPU, or without GPUs one for each computer)",
    )


def _read_place(text: str) -> str:
    kind, colon, address = text.partition(":")
    if kind != _RAY or (colon and not address):
        raise argparse.ArgumentTypeError(f'"{text}" is not ray or ray:ADDRESS')
    return text


def refuse_cluster_options(on: str | None, workers: int | None, device: str | None) -> None:
    """Refuse options of a cluster that do not go together.

    Raises:
        UsageError: There are workers and no cluster, none of them, or a device that only one computer has.
    """
    if on is None and workers is not None:
        raise UsageError("--workers goes with --on")
    if workers is not None and workers < 1:
        raise UsageError(f"--workers {workers}: at least one is needed")
    if on is not None and device not in (None, "cpu", "cuda"):
        raise UsageError(f"--device {device}: with --on it is cpu or cuda, and Ray chooses which of them")


def find_place(on: str | None, device: str | None) -> str | None:
    """Give where images are made: what ``--on`` says, or all GPUs of this computer where that is meant.

    Args:
        on: The text of ``--on``; None if it was left out.
        device: The device; "cuda" means all GPUs if there are several, and Ray to use them; "cuda:0" means one.

    Returns:
        A text as of ``--on``; None for this process and its device.
    """
    if on is not None or _count_gpus(device) < 2:
        return on
    from ..cluster.ray_workers import has_ray

    return ALL_GPUS if has_ray() else None


def note_unused_gpus(device: str | None) -> None:
    """Say on stderr that only one of several GPUs is used, which are meant by the device."""
    if (count := _count_gpus(device)) > 1:
        text = f'{count} GPUs; one is used. To use all, install the extra cluster: pip install "{_PACKAGE}"'
        print(f"note: {text}", file=sys.stderr)


def _count_gpus(device: str | None) -> int:
    """Count the GPUs that a device means; those of no other kind than CUDA's, and none that are told by a number."""
    if device != "cuda":
        return 0
    import torch

    return torch.cuda.device_count()


def own_device(on: str | None, device: str | None) -> str | None:
    """Give the device of this process's host; where workers make the images, it needs no GPU."""
    return device if find_place(on, device) is None else DEFAULT_DEVICE


@contextmanager
def begun(workers: AbstractContextManager[_Begun], *, asked_for: bool) -> Iterator[_Begun]:
    """Begin workers for a ``with`` block; who has not asked for Ray is told how to do without.

    Args:
        workers: What begins them.
        asked_for: Whether the user has asked for a cluster.

    Raises:
        HostError: They cannot begin.
    """
    with ExitStack() as stack:
        try:
            found = stack.enter_context(workers)
        except HostError as exc:
            if asked_for:
                raise
            raise HostError(f"{exc}\nWith --device cuda:0, one GPU does the work, without Ray.") from exc
        yield found


@contextmanager
def image_maker(
    host: Host, options: RunCommandOptions, locator: ModelLocator, models: Mapping[str, Signature], device: str | None
) -> Iterator[tuple[Host | ImageMaker, str]]:
    """Give what makes the images, and the kind of device: the host, or workers.

    Workers are on the cluster that the options name; or without one, on the GPUs of this computer if there are several.

    Args:
        host: Makes them otherwise.
        options: Of the command.
        locator: Finds the models.
        models: What each model file looks like, by its path.
        device: The device that is asked for.

    Raises:
        HostError: The workers cannot begin.
    """
    place = find_place(options.run.on, device)
    if place is None:
        note_unused_gpus(device)
        yield host, device or DEFAULT_DEVICE
        return
    workers = cluster_maker(place, workers=options.run.workers, device=device, models=models, locator=locator)
    with begun(workers, asked_for=place == options.run.on) as (maker, chosen):
        if not options.quiet:
            print_lines([f"{count_of(maker.at_once, 'worker')} on {place} ({chosen})."])
        yield maker, chosen


def cluster_maker(
    on: str,
    *,
    workers: int | None,
    device: str | None,
    models: Mapping[str, Signature],
    locator: ModelLocator,
    controls: Controls | None = None,
) -> AbstractContextManager[tuple[ImageMaker, str]]:
    """Give what begins workers on a cluster for a ``with`` block.

    Args:
        on: The text of ``--on``.
        workers: How many the user wants.
        device: "cuda" or "cpu"; None for GPUs if the cluster has any.
        models: What each model file looks like here, by its path.
        locator: Finds the models.
        controls: Hears what is being done until they have begun, and tells when the user stops it.

    Returns:
        What gives what makes the images, and the device that was chosen.

    Raises:
        HostError: Ray is not installed, the cluster cannot be reached or has too little, or a worker's computer lacks
            something; the message names it.
        Stopped: The user asked for it before the workers had begun.
    """
    from ..cluster.ray_workers import open_cluster

    return open_cluster(
        _address(on),
        make_host=make_host,
        models=models,
        locator=locator,
        device=device,
        workers=workers,
        tell=print_note,
        controls=controls,
    )


@contextmanager
def cluster_effects(
    on: str,
    *,
    workers: int | None,
    device: str | None,
    models: Mapping[str, Signature],
    locator: ModelLocator,
) -> Iterator[tuple[EffectMaker, ImageMaker, str]]:
    """Begin workers as :func:`cluster_maker` does.

    Yields:
        What makes an estimate of effects, what makes the images that confirm it, and the device that was chosen.

    Raises:
        HostError: As there.
    """
    from ..cluster.effects_maker import ClusterEffects
    from ..cluster.maker import ClusterMaker
    from ..cluster.ray_workers import open_crew
    from ..merge.files.open_models import OpenModels

    opened = open_crew(
        _address(on),
        make_host=make_host,
        models=models,
        locator=locator,
        device=device,
        workers=workers,
        tell=print_note,
    )
    with opened as (crew, chosen), OpenModels(locator) as open_models:
        yield ClusterEffects(crew), ClusterMaker(crew, open_models), chosen


def _address(on: str) -> str | None:
    return on.partition(":")[2] or None


@dataclass(frozen=True)
class RayCluster:
    """A cluster for the runs of a page.

    Attributes:
        on: Where it is, as ``--on`` says it.
        workers: How many workers the user wants.
        device: "cuda" or "cpu"; None for GPUs if there are any.
    """

    on: str
    workers: int | None = None
    device: str | None = None

    @property
    def name(self) -> str:
        """What the page calls it."""
        address = _address(self.on)
        if address is None:
            return "Ray"
        return "Ray: this computer's devices" if address == _LOCAL else f"Ray: {address}"

    def begin(
        self, models: Mapping[str, Signature], locator: ModelLocator, *, device: str | None, controls: Controls
    ) -> AbstractContextManager[tuple[ImageMaker, str]]:
        """Begin workers, as :func:`cluster_maker` does.

        Args:
            models: What each model file looks like here, by its path.
            locator: Finds the models.
            device: What a run began on; None for a new run.
            controls: Hears what is being done until they have begun, and tells when the user stops it.
        """
        return cluster_maker(
            self.on,
            workers=self.workers,
            device=device or self.device,
            models=models,
            locator=locator,
            controls=controls,
        )
