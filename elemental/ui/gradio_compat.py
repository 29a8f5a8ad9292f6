"""What differs between gradio 3.41.2, 4 and 6: making components, wiring events, serving the standalone page."""

from __future__ import annotations

import functools
import http.client
import inspect
import logging
import os
import tempfile
import webbrowser
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import gradio as gr
from starlette.middleware import Middleware

from ..errors import ElementalError, HostError
from .event_values import Reader, reader_of
from .request_guard import PageGuard, file_below

_log = logging.getLogger(__name__)

Component = Any
"""A gradio component; what type it has depends on the version."""

_JS_NAMES = ("js", "_js")
_WORKERS = 16

_ALWAYS_TAKEN = frozenset({"elem_id", "elem_classes"})
"""Up to gradio 4 some classes take these without naming them."""

MAY_LACK: Mapping[str, frozenset[str]] = {
    "HTML": frozenset({"apply_default_css", "padding"}),
    "Image": frozenset({"format"}),
    "Gallery": frozenset({"interactive", "buttons", "show_share_button", "show_download_button"}),
}
"""Arguments of components that a version of gradio need not know. Any other that it does not know is an error: a
control that lacks one, or a misspelt one, would not do what it is there for."""

_EVENT_MAY_LACK = frozenset({"trigger_mode", "api_visibility"})
_LAUNCH_MAY_LACK = frozenset({"show_api", "footer_links", "run_history", "ssr_mode"})
"""The same for events, and for serving: none of these keeps anybody out."""

_STRANGER = "stranger.invalid"
"""No machine has this name, so the guard refuses whoever asks for it."""

_MAJOR = int(gr.__version__.partition(".")[0])


def make(kind: str, **arguments: Any) -> Component:
    """Make a component, without the arguments of :data:`MAY_LACK` that this version of gradio does not know.

    Args:
        kind: The name of its class.
        **arguments: Of the newest version.

    Raises:
        TypeError: This version of gradio does not know another one of them.
    """
    cls = getattr(gr, kind)
    if kind == "HTML":  # the newest would restyle what stands in it
        arguments = {"apply_default_css": False, "padding": False, **arguments}
    known = _parameters(cls.__init__) | _ALWAYS_TAKEN
    made = cls(**_known_arguments(kind, arguments, known, MAY_LACK.get(kind, frozenset())))
    made.do_not_save_to_config = True  # the WebUI would keep what the fields say at first for ever
    made.elemental_reader = reader_of(kind, arguments)
    made.elemental_kind = kind
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
    """Wire an event.

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

    Raises:
        AttributeError: The component has no such event.
        TypeError: This version of gradio does not know how the event is to be wired.
    """
    listen = getattr(component, event)
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
        options[next((name for name in _JS_NAMES if name in parameters), _JS_NAMES[0])] = js
    if latest:
        options["trigger_mode"] = "always_last"
    readers = [getattr(field, "elemental_reader", None) for field in inputs]
    listen(
        None if handler is None else _explained(handler, readers, outputs),
        **_known_arguments(event, options, parameters, _EVENT_MAY_LACK),
    )


def _explained(
    handler: Callable[..., Any], readers: Sequence[Reader | None], outputs: Sequence[Component] = ()
) -> Callable[..., Any]:
    """Show what went wrong in a handler on the page; gradio would say no more than that something did.

    Args:
        handler: Gets what the readers make of the values of its inputs.
        readers: One for each, or None for those of which nothing is known.
        outputs: Which components its result changes; the first is no State, which an empty change would replace.
    """
    quiet = {"print_exception": False} if "print_exception" in _parameters(gr.Error.__init__) else {}

    @functools.wraps(handler)
    def handle(*values: Any) -> Any:
        try:
            read = [value if reader is None else reader(value) for value, reader in zip(values, readers, strict=False)]
            result = handler(*read, *values[len(read) :])
            # gradio takes an empty dict for one value
            is_empty = isinstance(result, dict) and not result
            return {outputs[0]: gr.update()} if is_empty and outputs else result
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
    """Serve the standalone page, to browsers of this machine only; without its guard in place, it is not served.

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
        HostError: This version of gradio cannot have the guard, or does not use it.
    """
    _set_workers(page)
    guard = Middleware(PageGuard, images=tuple(files), cache=cache_folder())
    options = {
        "server_name": host,
        "server_port": port,
        "allowed_paths": [str(folder) for folder in files],
        "inbrowser": False,  # only when the guard is known to be there
        "prevent_thread_lock": True,
        "share": False,
        "show_api": False,
        "footer_links": [],
        "run_history": False,  # it makes each event slower than the last
        "quiet": True,
        "ssr_mode": False,
        "app_kwargs": {"middleware": [guard]},
    }
    try:
        known = _known_arguments("launch", options, _parameters(page.launch), _LAUNCH_MAY_LACK)
    except TypeError as exc:
        raise HostError(f"The page is not served, since it would not be safe: {exc}. {_OTHER_GRADIO}") from exc
    app, url, _ = page.launch(**known)
    _stop_without_guard(page, str(url))
    if in_browser:
        webbrowser.open(str(url))
    if wait:
        page.block_thread()
    return app, str(url)


_OTHER_GRADIO = "Install a version of gradio that is supported: 3.41.2, or 4 to 6."


def _set_workers(page: gr.Blocks) -> None:
    """Let several events of the queue be handled at a time; 4.40 knows the older name, but raises at it."""
    known = _parameters(page.queue)
    name = next((name for name in ("default_concurrency_limit", "concurrency_count") if name in known), None)
    page.queue(**({name: _WORKERS} if name is not None else {}))


def _stop_without_guard(page: gr.Blocks, url: str) -> None:
    """Ask the server what the guard refuses, and stop it if it answers.

    Raises:
        HostError: It was stopped.
    """
    try:
        refused = _status(url, _STRANGER) == PageGuard.REFUSED and _status(url) != PageGuard.REFUSED
    except (OSError, http.client.HTTPException):
        refused = False
    if not refused:
        page.close()
        raise HostError(f"The page was stopped: it would have answered other sites, too. {_OTHER_GRADIO}")


def _status(url: str, name: str | None = None) -> int:
    """Ask the server for its page under a name, its own by default, and give the status of the answer."""
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=30)
    try:
        connection.request("GET", "/", headers={} if name is None else {"Host": name})
        return connection.getresponse().status
    finally:
        connection.close()


def blocks(title: str) -> gr.Blocks:
    """Make an empty page that reports to nobody."""
    return gr.Blocks(title=title, analytics_enabled=False)


def _parameters(function: Callable[..., Any]) -> set[str]:
    """Give the names of a function's parameters; Forge wraps events, once or more, in what names none."""
    while hasattr(function, "replaced_event"):
        function = function.replaced_event
    return set(inspect.signature(function).parameters)


def _known_arguments(
    what: str, arguments: Mapping[str, Any], known: Collection[str], may_lack: Collection[str]
) -> dict[str, Any]:
    """Leave out the arguments that this version of gradio does not know and need not.

    Args:
        what: What they are for, for the error.
        arguments: The arguments.
        known: The names that it knows.
        may_lack: The names that it need not know.

    Raises:
        TypeError: It does not know another one.
    """
    unknown = [name for name in arguments if name not in known and name not in may_lack]
    if unknown:
        raise TypeError(f"gradio {gr.__version__} has no {', '.join(unknown)} for {what}")
    return {name: value for name, value in arguments.items() if name in known}
