"""What differs between gradio 3.41.2, 4 and 6: making components, wiring events, serving the standalone page."""

from __future__ import annotations

import functools
import inspect
import logging
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from ..errors import ElementalError
from .event_values import Reader, reader_of
from .request_guard import PageGuard, file_below

_log = logging.getLogger(__name__)

Component = Any
"""A gradio component; what type it has depends on the version."""

_JS_NAMES = ("js", "_js")
_WORKERS = 16
_MAJOR = int(gr.__version__.partition(".")[0])


def make(kind: str, **arguments: Any) -> Component:
    """Make a component, without the arguments that this version of gradio does not know.

    Args:
        kind: The name of its class.
        **arguments: Of the newest version.
    """
    cls = getattr(gr, kind)
    parameters = _parameters(cls.__init__)
    if kind == "HTML":  # the newest would restyle what stands in it
        arguments = {"apply_default_css": False, "padding": False, **arguments}
    # up to 4 some classes take these two without naming them
    kept = {
        name: value for name, value in arguments.items() if name in parameters or name in ("elem_id", "elem_classes")
    }
    made = cls(**kept)
    made.do_not_save_to_config = True  # the WebUI would keep what the fields say at first for ever
    made.elemental_reader = reader_of(kind, arguments)
    return made


def make_file(**arguments: Any) -> Component:
    """Make a place for a file; what it gives is read by :func:`file_path`."""
    made = make("File", type="filepath" if _MAJOR > 3 else "file", height=130, **arguments)
    if _MAJOR == 3:
        made.preprocess = _uploaded_only(made.preprocess)
    return made


def _uploaded_only(preprocess: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Refuse files that were not uploaded: up to gradio 3 a request could name any other one, or a device."""

    def check(value: Any) -> Any:
        file = value[0] if isinstance(value, list) and value else value
        name = file.get("name") if isinstance(file, dict) and file.get("is_file") else None
        if value is not None and (not isinstance(name, str) or file_below(name, [cache_folder()]) is None):
            raise gr.Error("This is no file that was uploaded.")
        return preprocess(value)

    return check


def cache_folder() -> Path:
    """Give the folder in which gradio keeps what was uploaded, and copies of what it shows."""
    return Path(os.environ.get("GRADIO_TEMP_DIR") or Path(tempfile.gettempdir()) / "gradio")


def file_path(value: Any) -> Path:
    """Give the path of what a place for a file gives: from gradio 4 on that itself, before it what has a name."""
    return Path(value if isinstance(value, str) else value.name)


def on(
    component: Component,
    event: str,
    handler: Callable[..., Any] | None,
    inputs: Sequence[Component] = (),
    outputs: Sequence[Component] = (),
    *,
    js: str | None = None,
    latest: bool = False,
) -> None:
    """Wire an event, if the component has it.

    None goes through gradio's queue: up to gradio 3 a page that is left while an event of the queue is under way keeps
    the server from ever being closed.

    Args:
        component: Where it happens.
        event: Its name, such as "click".
        handler: What is called; None if JavaScript alone is run.
        inputs: Whose values it gets.
        outputs: Which components its result changes.
        js: JavaScript that is run before it.
        latest: Whether the last of several events counts, where gradio can tell (from 4 on).
    """
    listen = getattr(component, event, None)
    if listen is None:
        return
    parameters = _parameters(listen)
    options: dict[str, Any] = {
        "inputs": list(inputs),
        "outputs": list(outputs),
        "queue": False,
        "show_progress": "hidden",
        "api_name": False if "api_visibility" not in parameters else None,
        "api_visibility": "private",
    }
    if js is not None:
        options[next(name for name in _JS_NAMES if name in parameters)] = js
    if latest:
        options["trigger_mode"] = "always_last"
    readers = [getattr(field, "elemental_reader", None) for field in inputs]
    listen(
        None if handler is None else _explained(handler, readers),
        **{name: value for name, value in options.items() if name in parameters},
    )


def _explained(handler: Callable[..., Any], readers: Sequence[Reader | None]) -> Callable[..., Any]:
    """Show what went wrong in a handler on the page; gradio would say no more than that something did.

    Args:
        handler: Gets what the readers make of the values of its inputs.
        readers: One for each, or None for those of which nothing is known.
    """
    quiet = {"print_exception": False} if "print_exception" in _parameters(gr.Error.__init__) else {}

    @functools.wraps(handler)
    def handle(*values: Any) -> Any:
        try:
            read = [value if reader is None else reader(value) for value, reader in zip(values, readers, strict=False)]
            return handler(*read, *values[len(read) :])
        except ElementalError as exc:
            raise gr.Error(str(exc), **quiet) from None
        except Exception as exc:
            _log.exception("an event of the tab failed")
            raise gr.Error(f"Unexpected error (a bug): {type(exc).__name__}: {exc}", **quiet) from exc

    return handle


def update(**changes: Any) -> Any:
    """Change some properties of a component, as an event's result."""
    return gr.update(**changes)


def serve(
    page: gr.Blocks, *, host: str, port: int | None, files: Sequence[Path], in_browser: bool = False, wait: bool = True
) -> tuple[Any, str]:
    """Serve the standalone page, to browsers of this machine only.

    Args:
        page: Built already.
        host: The address that it is bound to.
        port: Its port; None for the first free one from 7860 on.
        files: Folders whose images it may show.
        in_browser: Whether to open it.
        wait: Whether to stay until the user presses Ctrl-C.

    Returns:
        The web application, and its address.

    Raises:
        OSError: The port is taken, or none is free.
    """
    queue = _parameters(page.queue)
    workers = {name: _WORKERS for name in ("concurrency_count", "default_concurrency_limit") if name in queue}
    page.queue(**workers)
    guard = Middleware(PageGuard, images=tuple(files), cache=cache_folder())
    options = {
        "server_name": host,
        "server_port": port,
        "allowed_paths": [str(folder) for folder in files],
        "inbrowser": in_browser,
        "prevent_thread_lock": not wait,
        "share": False,
        "show_api": False,
        "footer_links": [],
        "run_history": False,  # it makes each event slower than the last
        "quiet": True,
        "ssr_mode": False,
        "app_kwargs": {"middleware": [guard]},
    }
    parameters = _parameters(page.launch)
    app, url, _ = page.launch(**{name: value for name, value in options.items() if name in parameters})
    return app, str(url)


def blocks(title: str) -> gr.Blocks:
    """Make an empty page that reports to nobody."""
    return gr.Blocks(title=title, analytics_enabled=False)


def _parameters(function: Callable[..., Any]) -> set[str]:
    return set(inspect.signature(function).parameters)
