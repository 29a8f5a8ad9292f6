"""Whom the standalone page answers: its own pages in browsers of this machine, and which files it gives.

Other sites' pages in the same browser can send requests here, too, and what is asked for here can save files and run
for hours. Plain ASGI, since that is what all versions of gradio have in common.
"""

from __future__ import annotations

import ipaddress
import logging
import stat
from collections.abc import Awaitable, Callable, Iterable, MutableMapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..session.form import absolute_path

_log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

IMAGES = (".png", ".gif", ".jpg", ".jpeg", ".webp")
MOST_SENT = 4_000_000
MOST_UPLOADED = 256_000_000
"""Bytes of a request: of an event, and of a file."""

_FILES = tuple(f"{prefix}/file{mark}" for prefix in ("", "/gradio_api") for mark in "=/")
_HOME = "localhost"


class TooMuch(Exception):
    """A request that is larger than any of the page's."""


class PageGuard:
    """Refuses what no page of its own asks for, and answers what fails.

    Args:
        app: What it guards.
        images: Folders whose images may be shown.
        cache: The folder in which gradio keeps what was uploaded, and copies of what it shows.
    """

    REFUSED = 403
    """The status with which strangers are refused."""

    def __init__(self, app: App, *, images: Sequence[Path], cache: Path) -> None:
        self._app = app
        self._images = images
        self._cache = cache

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = _headers(scope)
        most = MOST_UPLOADED if scope["path"].endswith("/upload") else MOST_SENT
        if reason := _stranger(scope, headers):
            await _refuse(scope, send, self.REFUSED, reason)
        elif not self._may_be_read(scope["path"]):
            await _refuse(scope, send, self.REFUSED, "This is no image of this page.")
        elif _number(headers.get("content-length", "")) > most:
            await _refuse(scope, send, 413, "This is more than the page ever sends.")
        else:
            await self._answer(scope, _limited(receive, most), send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def note(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, note)
        except Exception as exc:
            if begun and scope["type"] == "http":
                raise
            # no page sends such a thing, and one line is enough for what others do
            _log.warning("%.200r could not be answered: %s: %.200r", scope["path"], type(exc).__name__, str(exc))
            _log.debug("where", exc_info=True)
            with suppress(RuntimeError):  # it may be closed by now
                await _refuse(scope, send, 413 if isinstance(exc, TooMuch) else 500, "This cannot be answered.")

    def _may_be_read(self, path: str) -> bool:
        """Tell whether a request is for no file, or for one that the page may have."""
        asked = next((path[len(prefix) :] for prefix in _FILES if path.startswith(prefix)), None)
        if asked is None:
            return True
        found = file_below(asked, self._images)
        return (found is not None and found.suffix.lower() in IMAGES) or file_below(asked, [self._cache]) is not None


def file_below(text: str, folders: Iterable[Path]) -> Path | None:
    """Give the file that a text names, links followed, if it is a regular one below one of some folders.

    None else, and for what has a name that begins with a point, or lies in a folder with such a name.
    """
    try:
        tops = [top for folder in folders for top in (absolute_path(folder), folder.resolve())]
        # first by its name only: to look at it may mean to ask another machine, or to wait for a device
        if not any(_is_below(absolute_path(text), top) for top in tops):
            return None
        found = Path(text).resolve(strict=True)
        right = stat.S_ISREG(found.stat().st_mode) and any(_is_below(found, top) for top in tops)
    except (OSError, ValueError, RuntimeError):  # there is no such name, or links go round in a circle
        return None
    return found if right else None


def _is_below(path: Path, top: Path) -> bool:
    return path.is_relative_to(top) and not any(part.startswith(".") for part in path.relative_to(top).parts)


def _headers(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}


def _stranger(scope: Scope, headers: dict[str, str]) -> str:
    """Say why a request is none of a page of this server in a browser of this machine; nothing if it is one."""
    host = headers.get("host", "")
    if not _is_here(host):  # another name that leads here: a site may have its own name do so
        return f"This page is at 127.0.0.1 or {_HOME}, for this machine only, and not at {host[:100]!r}."
    origin = headers.get("origin")
    if origin is not None and _host_of(origin) != host.lower():
        return f"This is asked for by a page of {origin[:100]!r}; only pages of this server may."
    if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none") and not _opens(scope, headers):
        return "This is asked for by a page of another server; only pages of this one may."
    return ""


def _is_here(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == _HOME or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _host_of(origin: str) -> str | None:
    """Give the host of an origin, with its port."""
    try:
        parts = urlsplit(origin)
    except ValueError:
        return None
    return parts.netloc.lower() if parts.scheme in ("http", "https") else None


def _opens(scope: Scope, headers: dict[str, str]) -> bool:
    """Tell whether a window goes to the page, as a link on any other page may have it."""
    mode, wanted = headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")
    return bool(scope.get("method") == "GET" and scope["path"] == "/" and (mode, wanted) == ("navigate", "document"))


def _number(text: str) -> int:
    return int(text) if text.isdecimal() and len(text) < 20 else 0


def _limited(receive: Receive, most: int) -> Receive:
    """Count what comes in, for a request need not say how much it is."""
    seen = 0

    async def count() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body") or b"")
        if seen > most:
            raise TooMuch(f"more than {most:,} bytes")
        return message

    return count


async def _refuse(scope: Scope, send: Send, status: int, reason: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    body = reason.encode()
    kind, length = (b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": status, "headers": [kind, length]})
    await send({"type": "http.response.body", "body": body})
