"""``elemental ui``: serves the standalone page."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from ..errors import HostError
from .cluster_option import RayCluster, add_cluster_options, find_place, note_unused_gpus, refuse_cluster_options
from .command import Command, Interrupts, read_as
from .image_options import ImageOptions, add_image_options
from .output import print_lines
from .recipe_options import add_models_folder_option
from .standalone_host import DEFAULT_DEVICE, make_host

if TYPE_CHECKING:
    from ..hosts.standalone.host import StandaloneHost
    from ..session.run_devices import RunDevices

LOOPBACK = "127.0.0.1"
_COPIES = "GRADIO_TEMP_DIR"
_NOTES = """\
The image options set the page's initial values.

With --on the page has a list, "Make plots, checks and searches on", to choose
between the cluster and --device, which makes all other images.
"""


@dataclass(frozen=True)
class UiOptions:
    """What to serve, and where.

    Attributes:
        images: What the fields of the page say at first.
        models_folder: The folder of checkpoints; None for the working directory.
        output: The folder for images.
        port: The port; None for the first free one from 7860.
        browser: Whether to open the page.
        on: The cluster that can make the images of plots, checks and searches, as "ray" or "ray:ADDRESS".
        workers: How many workers it has.
    """

    images: ImageOptions
    models_folder: Path | None
    output: Path
    port: int | None
    browser: bool
    on: str | None = None
    workers: int | None = None


def run_ui(options: UiOptions, _interrupts: Interrupts = ()) -> None:
    """Serve the page to this computer only, until the user presses Ctrl-C.

    Raises:
        UsageError: The options of the cluster do not go together.
        HostError: A package is missing, there is no such folder or sampler, or the port is taken.
        ImageError: A number is out of its range, or the samples cannot be read.
    """
    refuse_cluster_options(options.on, options.workers, options.images.device)
    if find_spec("gradio") is None:
        raise HostError('The page needs one more package, gradio: pip install "sd-webui-elemental[ui]"')
    models = _models_folder(options)
    output = options.output.expanduser().resolve()
    host = make_host(options.images.device, models=models, output=output)
    devices = _run_devices(options)
    print_lines(["Starting ..."])
    with _own_copies():
        page, url = _serve(host, options, output, devices)
        print_lines([f"The tab is at {url} - models: {models} - images: {output}", "Ctrl-C ends it."])
        page.block_thread()


def _models_folder(options: UiOptions) -> Path:
    folder = (options.models_folder or Path()).expanduser().resolve()
    if not folder.is_dir():
        raise HostError(f"There is no folder {folder}: name the one that your checkpoints are in, --models DIR.")
    return folder


def _run_devices(options: UiOptions) -> RunDevices:
    """Give where the images of runs can be made: on a cluster too, if there is one, or several GPUs.

    Raises:
        HostError: A cluster is asked for, and Ray is not installed.
    """
    from ..session.run_devices import RunDevices

    device = options.images.device
    place = find_place(options.on, device)
    if place is None:
        note_unused_gpus(device)
        return RunDevices(device or DEFAULT_DEVICE)
    from ..cluster.ray_workers import require_ray

    require_ray()
    cluster = RayCluster(place, options.workers, device)
    return RunDevices(device or DEFAULT_DEVICE, cluster, cluster_first=options.on is not None)


def _serve(host: StandaloneHost, options: UiOptions, output: Path, devices: RunDevices) -> tuple[Any, str]:
    """Make the page and serve it; gives it and its address."""
    from ..ui.gradio_compat import serve
    from ..ui.image_form import StandaloneImageForm
    from ..ui.tab import make_tab

    logging.getLogger("httpx").setLevel(logging.WARNING)  # gradio asks itself whether it is there, and logs that
    form = StandaloneImageForm(host, options.images.request())
    page = make_tab(host, form, standalone=True, devices=devices)
    try:
        _, url = serve(page, host=LOOPBACK, port=options.port, files=[output], in_browser=options.browser, wait=False)
    except OSError as exc:
        raise HostError(f"The page cannot be served: {exc}. Choose another port: --port N.") from exc
    return page, url


@contextmanager
def _own_copies() -> Iterator[None]:
    """Have gradio keep uploads, and copies of the images that it shows, in a folder that is deleted at the end.

    Its default is a folder that it never empties, and that all users of the machine share.
    """
    if os.environ.get(_COPIES):
        yield
        return
    with TemporaryDirectory(prefix="elemental-ui-", ignore_cleanup_errors=True) as folder:
        os.environ[_COPIES] = folder
        try:
            yield
        finally:
            del os.environ[_COPIES]


def _add_options(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("page")
    add_models_folder_option(group, use=" (default: the current folder)")
    output = "the folder for images (default: %(default)s)"
    group.add_argument("-o", "--output", type=Path, metavar="DIR", default="outputs", help=output)
    group.add_argument("--port", type=int, metavar="N", help="port (default: the first free port from 7860 up)")
    group.add_argument("--browser", action="store_true", help="open the page in your browser")
    add_cluster_options(group, "plots, checks and searches", "offers all GPUs of this computer")
    add_image_options(command)


def _read(args: argparse.Namespace) -> UiOptions:
    return read_as(UiOptions, args, images=read_as(ImageOptions, args))


UI = Command(
    arguments="[options]",
    example="elemental ui --models models --browser",
    add_options=_add_options,
    read=_read,
    run=run_ui,
    notes=_NOTES,
)
