"""What differs between versions of gradio: nothing is left out unsaid, and no page is served without its guard."""

# ruff: noqa: ARG001, ARG002 - the names are those of gradio

from __future__ import annotations

import threading
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace
from typing import Any

import pytest

from elemental import HostError

pytest.importorskip("gradio")

from elemental.ui import gradio_compat as compat
from elemental.ui.request_guard import PageGuard

pytestmark = pytest.mark.slow


class Answers(BaseHTTPRequestHandler):
    """A server that answers anybody, or nobody."""

    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


class Page:
    """A page of some version of gradio, which is served without a guard."""

    def __init__(self, url: str = "http://127.0.0.1:9/") -> None:
        self.url = url
        self.launched: dict[str, Any] | None = None
        self.closed = False
        self.queued: dict[str, Any] = {}

    def queue(self, default_concurrency_limit: int = 1) -> None:
        self.queued = {"default_concurrency_limit": default_concurrency_limit}

    def launch(
        self, server_name: str, server_port: int | None, allowed_paths: list[str], inbrowser: bool, share: bool,
        prevent_thread_lock: bool, quiet: bool, app_kwargs: dict[str, Any],
    ) -> tuple[None, str, None]:  # fmt: skip
        """Take the guard, and forget it."""
        self.launched = {"prevent_thread_lock": prevent_thread_lock, **app_kwargs}
        return None, self.url, None

    def close(self) -> None:
        self.closed = True


class OldPage(Page):
    """A page that knows no ``app_kwargs``."""

    def launch(  # type: ignore[override]
        self, server_name: str, server_port: int | None, allowed_paths: list[str], inbrowser: bool, share: bool,
        prevent_thread_lock: bool, quiet: bool,
    ) -> tuple[None, str, None]:  # fmt: skip
        self.launched = {}
        return None, self.url, None


class OpenPage(Page):
    """A page that takes anything."""

    def launch(self, **options: Any) -> tuple[None, str, None]:  # type: ignore[override]
        self.launched = options
        return None, self.url, None


@contextmanager
def server(status: int) -> Iterator[str]:
    kind = type("Fixed", (Answers,), {"status": status})
    listening = HTTPServer(("127.0.0.1", 0), kind)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{listening.server_port}/"
    listening.shutdown()
    listening.server_close()


def serve(page: Page) -> Any:
    return compat.serve(page, host="127.0.0.1", port=None, files=[], wait=False)


@pytest.mark.parametrize("kind", [OldPage, OpenPage])
def test_a_launch_that_knows_no_app_kwargs_is_not_called(kind: type[Page]) -> None:
    page = kind()
    with pytest.raises(HostError, match=r"not served, since it would not be safe: gradio .* has no .*app_kwargs"):
        serve(page)
    assert page.launched is None


@pytest.mark.parametrize("status", [200, 403, 500])
def test_a_server_without_the_guard_is_stopped(status: int) -> None:
    with server(status) as url:
        page = Page(url)
        with pytest.raises(HostError, match="The page was stopped"):
            serve(page)
    assert page.closed
    assert page.launched is not None


def test_a_server_that_does_not_answer_is_stopped() -> None:
    page = Page()
    with pytest.raises(HostError, match="The page was stopped"):
        serve(page)
    assert page.closed


def test_a_real_page_has_its_guard_and_loses_it_only_with_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    with compat.blocks("x") as page:
        compat.make("HTML", value="x")
    _, url = compat.serve(page, host="127.0.0.1", port=None, files=[], in_browser=True, wait=False)
    try:
        assert opened == [url]
        assert compat._status(url, "stranger.invalid") == 403
        assert compat._status(url) == 200
    finally:
        page.close()

    async def unguarded(self: Any, scope: Any, receive: Any, send: Any) -> None:
        await self._app(scope, receive, send)

    monkeypatch.setattr(PageGuard, "__call__", unguarded)
    with pytest.raises(HostError, match="The page was stopped"):
        compat.serve(page, host="127.0.0.1", port=None, files=[], in_browser=True, wait=False)
    assert len(opened) == 1


def both(concurrency_count: int | None = None, default_concurrency_limit: int | None = None) -> None:
    """Be the queue of gradio 4.40, which raises if the older name is used."""
    assert concurrency_count is None
    assert default_concurrency_limit is not None


def older(concurrency_count: int | None = None) -> None:
    assert concurrency_count is not None


def newer(default_concurrency_limit: int | None = None) -> None:
    assert default_concurrency_limit is not None


def neither(max_size: int | None = None) -> None:
    assert max_size is None


@pytest.mark.parametrize("queue", [both, older, newer, neither])
def test_workers_are_named_as_the_version_names_them(queue: Callable[..., None]) -> None:
    compat._set_workers(SimpleNamespace(queue=queue))


class Wrapped:
    """An event as Forge wraps it, which names no parameters."""

    def __init__(self, event: Any) -> None:
        self.replaced_event = event

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.replaced_event(*args, **kwargs)


@pytest.mark.parametrize("times", [0, 1, 2, 5])
def test_wrapped_events_keep_their_inputs(times: int) -> None:
    wired: list[dict[str, Any]] = []

    def event(
        fn: Any, inputs: Any, outputs: Any, js: Any = None, queue: Any = None, show_progress: Any = None,
        api_name: Any = None, trigger_mode: Any = None,
    ) -> None:  # fmt: skip
        wired.append({"inputs": inputs, "outputs": outputs, "js": js, "trigger_mode": trigger_mode})

    click: Any = event
    for _ in range(times):
        click = Wrapped(click)
    field = object()
    compat.on(SimpleNamespace(click=click), "click", print, [field], [field, field], js="() => 1", latest=True)
    expected = {"inputs": [field], "outputs": [field, field], "js": "() => 1", "trigger_mode": "always_last"}
    assert wired == [expected]


def no_inputs(fn: Any, outputs: Any, queue: Any, show_progress: Any, api_name: Any) -> None: ...
def no_queue(fn: Any, inputs: Any, outputs: Any, show_progress: Any, api_name: Any) -> None: ...
def no_js(fn: Any, inputs: Any, outputs: Any, queue: Any, show_progress: Any, api_name: Any) -> None: ...
def anything(*args: Any, **kwargs: Any) -> None: ...


@pytest.mark.parametrize("event", [no_inputs, no_queue, no_js, anything])
def test_an_event_that_cannot_be_wired_is_an_error(event: Any) -> None:
    with pytest.raises(TypeError, match="for click"):
        compat.on(SimpleNamespace(click=event), "click", print, js="() => 1")


def test_an_event_that_there_is_not_is_an_error() -> None:
    with compat.blocks("x"):
        button = compat.make("Button", value="x", elem_id="elemental_x")
        with pytest.raises(AttributeError, match="clik"):
            compat.on(button, "clik", print)


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        ("Textbox", {"labl": "x"}),
        ("Button", {"label": "x"}),
        ("Row", {"eqal_height": True}),
        ("Dropdown", {"alow_custom_value": True}),
        ("Gallery", {"colums": 3}),
        ("HTML", {"apply_default_ccs": False}),
        ("File", {"file_type": [".png"]}),
    ],
)
def test_a_misspelt_argument_is_an_error(kind: str, arguments: dict[str, Any]) -> None:
    with compat.blocks("x"), pytest.raises(TypeError, match=f"has no {next(iter(arguments))} for {kind}"):
        compat.make(kind, **arguments)
