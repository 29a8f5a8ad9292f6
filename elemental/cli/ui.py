"""The command that serves the tab by itself: ``elemental ui``."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from ..errors import HostError
from .generate import DEFAULT_DEVICE, add_request_options, make_host, request_from_options

LOOPBACK = "127.0.0.1"
_COPIES = "GRADIO_TEMP_DIR"


UI_HELP = "The options of images are what the page's fields say at first.\n"
"""What the help of the command says besides."""


def add_ui_options(command: argparse.ArgumentParser) -> None:
    """Declare the options of ``elemental ui``."""
    group = command.add_argument_group("page")
    group.add_argument(
        "--models", metavar="DIR", help="the folder of the checkpoints, at any depth (default: the working directory)"
    )
    group.add_argument(
        "-o", "--output", metavar="DIR", default="outputs", help="the folder for images (default: %(default)s)"
    )
    group.add_argument("--port", type=int, metavar="N", help="its port (default: the first free one from 7860 on)")
    group.add_argument("--browser", action="store_true", help="open it in the browser")
    add_request_options(command)


def run_ui(args: argparse.Namespace, *, say: Callable[[Iterable[str]], None]) -> None:
    """Serve the tab until the user presses Ctrl-C; to this machine alone.

    Args:
        args: What was given.
        say: Prints lines.

    Raises:
        HostError: A package is missing, the folder of models is none, the sampler is unknown, or the port is taken.
        ImageError: A number is out of its range, or the samples cannot be read.
    """
    if find_spec("gradio") is None:
        raise HostError('The page needs one more package, gradio: pip install "sd-webui-elemental[ui]"')
    models = Path(args.models or ".").expanduser().resolve()
    if not models.is_dir():
        raise HostError(f"There is no folder {models}: name the one that your checkpoints are in, --models DIR.")
    output = Path(args.output).expanduser().resolve()
    host = make_host(args.device or DEFAULT_DEVICE, models=models, output=output)
    say(["Starting ..."])
    with _own_copies():
        from ..ui.compat import serve
        from ..ui.image_form import StandaloneImageForm
        from ..ui.tab import make_tab

        logging.getLogger("httpx").setLevel(logging.WARNING)  # gradio asks itself whether it is there, and tells of it
        page = make_tab(host, StandaloneImageForm(host, request_from_options(args)), standalone=True)
        try:
            _, url = serve(page, host=LOOPBACK, port=args.port, files=[output], in_browser=args.browser, wait=False)
        except OSError as exc:
            raise HostError(f"The page cannot be served: {exc}. Choose another port: --port N.") from exc
        say([f"The tab is at {url} - models: {models} - images: {output}", "Ctrl-C ends it."])
        page.block_thread()


@contextmanager
def _own_copies() -> Iterator[None]:
    """Have gradio keep uploads, and copies of all images that it shows, in a folder of this page's own while it is.

    By itself it would keep them for ever, where all users of the machine have theirs.
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
