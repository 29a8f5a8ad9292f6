"""Requests to the page served by itself without a page: what its own script sends, and whatever else one likes."""

from __future__ import annotations

import http.client
import json
import re
import socket
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

import elemental

from ..refusing import UNEXPECTED

_PACKAGE = str(Path(elemental.__file__).parent)
_UPGRADE = (
    "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: eHh4eHh4eHh4eHh4eHh4eA=="
)
_UNSAFE = re.compile(r"[^\x21-\x7e]")


class Answer(NamedTuple):
    """What came back: the status, 0 if nothing did, the bytes, and after how long."""

    status: int
    body: bytes
    seconds: float

    @property
    def text(self) -> str:
        return self.body.decode(errors="replace")

    @property
    def data(self) -> list[Any]:
        """What an event gave for each of its outputs; nothing if it gave an error."""
        return list(json.loads(self.body)["data"]) if self.status == 200 else []


@dataclass(frozen=True)
class Event:
    """One that a page can send: its number, the id of what it happens to, its name, and the ids of its inputs."""

    index: int
    owner: str
    name: str
    inputs: tuple[str, ...]


class Client:
    """Talks to a page.

    Attributes:
        events: What can be sent.
        values: What the fields say at first, by their ids.
        modern: Whether gradio is 4 or newer.
        prefix: Before the names of its routes.
    """

    def __init__(self, url: str, *, timeout: float = 20.0) -> None:
        self._at = urlsplit(url).netloc
        self._timeout = timeout
        config = json.loads(self.ask("GET", "/config").body)
        self.modern = int(config["version"].partition(".")[0]) > 3
        self.prefix = str(config.get("api_prefix") or "")
        self._ids = {part["id"]: part["props"].get("elem_id") or str(part["id"]) for part in config["components"]}
        self.values = {self._ids[part["id"]]: part["props"].get("value") for part in config["components"]}
        self.events = [self._event(index, found) for index, found in enumerate(config["dependencies"])]

    def _event(self, index: int, found: Mapping[str, Any]) -> Event:
        target = (found["targets"] or [""])[0]
        owner, name = target if isinstance(target, list) else (target, found.get("trigger"))
        return Event(index, self._ids.get(owner, ""), str(name), tuple(self._ids[number] for number in found["inputs"]))

    @property
    def at(self) -> str:
        """The host and port."""
        return self._at

    def ask(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Answer:
        """Send one request over a connection of its own; bytes that a path cannot have are escaped."""
        started = time.perf_counter()
        connection = http.client.HTTPConnection(self._at, timeout=self._timeout)
        try:
            sent = {"Host": self._at, **({"Content-Length": str(len(body))} if body else {}), **(headers or {})}
            connection.request(method, _UNSAFE.sub(lambda bad: quote(bad[0]), path), body or None, sent)
            answer = connection.getresponse()
            return Answer(answer.status, answer.read(), time.perf_counter() - started)
        except (OSError, http.client.HTTPException) as exc:
            return Answer(0, f"{type(exc).__name__}: {exc}".encode(), time.perf_counter() - started)
        finally:
            connection.close()

    def socket(self, path: str, *, host: str, origin: str, text: bytes = b"") -> bytes:
        """Open a WebSocket, say something if a text is given, and give what came back in a moment."""
        with socket.create_connection(("127.0.0.1", int(self._at.partition(":")[2])), timeout=0.2) as connection:
            connection.sendall(
                f"GET {path} HTTP/1.1\r\nHost: {host}\r\nOrigin: {origin}\r\n{_UPGRADE}\r\n\r\n".encode()
            )
            length = bytes([0x80 | len(text)]) if len(text) < 126 else b"\xfe" + len(text).to_bytes(2, "big")
            connection.sendall(b"\x81" + length + b"\0\0\0\0" + text if text else b"")
            said = b""
            with suppress(OSError):
                while piece := connection.recv(4096):
                    said += piece
        return said

    def event(self, owner: str) -> Event:
        """Find the last event of something by its id, without "elemental_"."""
        return next(event for event in reversed(self.events) if event.owner == f"elemental_{owner}")

    def inputs(self, event: Event, /, **values: Any) -> list[Any]:
        """Give what a page would send with an event, with other values for some fields."""
        known = {**self.values, **{f"elemental_{name}": value for name, value in values.items()}}
        return [known[name] for name in event.inputs]

    def send(self, owner: str, /, *, session: str = "attack", **values: Any) -> Answer:
        """Send an event as a page would, with other values for some fields."""
        sent = {"Content-Type": "application/json"}
        return self.ask("POST", self.prefix + "/run/predict", self.as_json(owner, session=session, **values), sent)

    def as_json(self, owner: str, /, *, session: str = "attack", **values: Any) -> bytes:
        """Write an event as a page would send it, with other values for some fields."""
        event = self.event(owner)
        data = self.inputs(event, **values)
        return json.dumps({"fn_index": event.index, "data": data, "session_hash": session}).encode()

    def post(self, message: object, *, route: str) -> Answer:
        """Send something as JSON."""
        return self.ask("POST", self.prefix + route, json.dumps(message).encode(), {"Content-Type": "application/json"})


@dataclass
class Watch:
    """Counts what was done and what was found.

    Attributes:
        done: How often each thing was done.
        failures: What went wrong.
        slowest: The longest that an answer took.
    """

    done: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    slowest: float = 0.0

    def count(self, what: str) -> None:
        self.done[what] += 1

    def check(self, right: bool, what: str) -> bool:
        """Note a failure."""
        if not right:
            self.failures.append(what)
        return right

    def answered(self, answer: Answer, what: str) -> bool:
        """Note an answer; one that is none, or tells of what should not have happened, is a failure."""
        self.slowest = max(self.slowest, answer.seconds)
        said = answer.text[:300]
        explained = answer.status != 500 or not said or said.startswith(('{"error"', "This cannot be answered."))
        right = answer.status != 0 and explained and not UNEXPECTED.search(answer.text)
        return self.check(right, f"{what}: {answer.status} {said}")


def read_log(path: Path, watch: Watch) -> None:
    """Judge what a server wrote: each trace is that of an error which was meant, or gradio's of its own refusal."""
    text = path.read_text(errors="replace")
    for words in (
        "Exception in ASGI application",
        "Exception in thread",
        "never retrieved",
        "an event of the tab failed",
    ):
        watch.check(words not in text, f"the log says {words!r}: {text.partition(words)[2][-1500:]}")
    for trace in _traces(text):
        meant = trace.splitlines()[-1].startswith("gradio.exceptions.Error")
        watch.count("traces of meant errors" if meant else "traces of gradio's refusals")
        watch.check(meant or _PACKAGE not in trace, f"a trace in the log: {trace[-1500:]}")
    watch.done["lines of requests that gradio could not answer"] += text.count("could not be answered")


def _traces(text: str) -> Iterator[str]:
    lines = text.splitlines()
    for start, line in enumerate(lines):
        if line.startswith("Traceback (most recent call last)"):
            end = next((at for at in range(start + 1, len(lines)) if not lines[at].startswith(" ")), len(lines) - 1)
            yield "\n".join(lines[start : end + 1])
