"""The option that spreads a run over many devices, ``--on``, and what it asks for."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .command import UsageError, read_integer
from .output import print_note
from .standalone_host import DEFAULT_DEVICE, make_host

if TYPE_CHECKING:
    from ..merge.files.checkpoint import Signature
    from ..merge.files.model_locator import ModelLocator
    from ..runs.effect_maker import EffectMaker
    from ..runs.image_maker import ImageMaker

_RAY = "ray"


def add_cluster_options(group: argparse._ArgumentGroup) -> None:
    """Declare where the images of a run are made."""
    group.add_argument(
        "--on",
        type=_read_place,
        metavar="ray[:ADDRESS]",
        help="make the images on the devices of a Ray cluster: the one at ADDRESS, or one that runs on this computer, "
        "or else this computer's own devices; needs the extra cluster",
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


def own_device(on: str | None, device: str | None) -> str | None:
    """Give the device of this process's host; with a cluster it makes no images, and needs no GPU."""
    return DEFAULT_DEVICE if on is not None else device


@contextmanager
def cluster_maker(
    on: str,
    *,
    workers: int | None,
    device: str | None,
    models: Mapping[str, Signature],
    locator: ModelLocator,
) -> Iterator[tuple[ImageMaker, str]]:
    """Begin workers on a cluster; they end with the ``with`` block.

    Args:
        on: The text of ``--on``.
        workers: How many the user wants.
        device: "cuda" or "cpu"; None for GPUs if the cluster has any.
        models: What each model file looks like here, by its path.
        locator: Finds the models.

    Yields:
        What makes the images, and the device that was chosen.

    Raises:
        HostError: Ray is not installed, the cluster cannot be reached or has too little, or a worker's computer lacks
            something; the message names it.
    """
    from ..cluster.ray_workers import open_cluster

    with open_cluster(
        on.partition(":")[2] or None,
        make_host=make_host,
        models=models,
        locator=locator,
        device=device,
        workers=workers,
        tell=print_note,
    ) as opened:
        yield opened


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
        on.partition(":")[2] or None,
        make_host=make_host,
        models=models,
        locator=locator,
        device=device,
        workers=workers,
        tell=print_note,
    )
    with opened as (crew, chosen), OpenModels(locator) as open_models:
        yield ClusterEffects(crew), ClusterMaker(crew, open_models), chosen
