"""Requests of other sites' pages, and under other names of this machine, as browsers would send them."""

from __future__ import annotations

import random

from .page_client import Client, Watch

_EVENTS = ("/run/predict", "/api/predict", "/run/save", "/queue/join", "/call/look", "/reset", "/upload")
_CROSS = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
_TEXTS = (
    b"", b"x", b"{}", b"[]", b'{"session_hash": 1, "fn_index": 0}', b'{"session_hash": "s", "fn_index": 999}',
    b'{"session_hash": "s", "fn_index": "x"}', b'{"fn_index": 0}', b"\xff\xff", b"[" * 60_000,
)  # fmt: skip


def attack_as_stranger(client: Client, watch: Watch, draw: random.Random, *, rounds: int) -> None:
    """Ask for everything as somebody else; it is refused, and what the page itself asks for is not.

    Args:
        client: Talks to the page.
        watch: Is told what happens.
        draw: Chooses requests.
        rounds: How many are made at the most, of one kind and another.
    """
    port, own = client.at.partition(":")[2], {"Origin": f"http://{client.at}"}
    body = client.as_json("sync")
    routes = [("GET", path) for path in ("/", "/config", "/theme.css", client.prefix + "/file=x.png")] + [("HEAD", "/")]
    routes += [("POST", client.prefix + route) for route in _EVENTS]
    tries = [(headers, *route) for headers in _refused(port) for route in routes]
    for headers, method, route in draw.sample(tries, min(4 * rounds, len(tries))):
        for kind in ("application/json", "text/plain", "") if method == "POST" else ("",):
            sent = {**headers, **({"Content-Type": kind} if kind else {})}
            answer = client.ask(method, route, body if method == "POST" else b"", sent)
            watch.count("requests of strangers")
            watch.check(answer.status == 403, f"{method} {route} with {sent}: {answer.status} {answer.text[:100]}")
    local = f"localhost:{port}"
    hosts = [{"Host": host} for host in (client.at, local, local.upper(), "localhost", f"[::1]:{port}")]
    for headers in (
        *hosts,
        {"Host": local, "Origin": f"http://{local}"},
        own,
        {**own, "Sec-Fetch-Site": "same-origin"},
    ):
        sent = {"Content-Type": "application/json", **headers}
        answer = client.ask("POST", client.prefix + "/run/predict", body, sent)
        watch.check("tensors differ" in answer.text, f"its own page is refused with {headers}: {answer.text[:100]}")
    for headers in (_CROSS, {"Sec-Fetch-Site": "none"}, {}):
        watch.check(client.ask("GET", "/", b"", headers).status == 200, f"the page cannot be opened with {headers}")
    _sockets(client, watch, port)


def _refused(port: str) -> list[dict[str, str]]:
    """List headers of requests that none of its pages sends."""
    names = ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "10.0.0.1", "0.0.0.0", "2130706433")
    hosts = [*(f"{name}:{port}" for name in names), "evil.example", "", "[::]", "[", "127.0.0.1@evil.example"]
    places = ("evil.example", f"evil.example:{port}", f"localhost:{port}", "127.0.0.1", "127.0.0.1:1")
    origins = [
        *(f"http://{place}" for place in (*places, f"127.0.0.1:{port}.evil.example")),
        "null",
        "",
        "file://",
        "[",
    ]
    origins += [f"chrome-extension://127.0.0.1:{port}", "x" * 5000]
    fetched = [{"Sec-Fetch-Site": site} for site in ("cross-site", "same-site")]
    fetched += [{**_CROSS, "Sec-Fetch-Dest": "iframe"}, {**_CROSS, "Sec-Fetch-Mode": "no-cors"}]
    return [{"Host": host} for host in hosts] + [{"Origin": origin} for origin in origins] + fetched


def _sockets(client: Client, watch: Watch, port: str) -> None:
    """A page of any site may open a socket to any other, and only the server can tell whose it is."""
    other = f"evil.example:{port}"
    for host, origin in ((client.at, "http://evil.example"), (other, f"http://{other}"), (client.at, "null")):
        watch.count("requests of strangers")
        said = client.socket("/queue/join", host=host, origin=origin)
        watch.check(said[9:12] == b"403", f"a socket of {origin}: {said[:100]!r}")
    for text in _TEXTS:
        watch.count("forged requests")
        said = client.socket("/queue/join", host=client.at, origin=f"http://{client.at}", text=text)
        wanted = (b"403", b"404") if client.modern else (b"101",)  # there are none from gradio 4 on
        watch.check(said[9:12] in wanted, f"a socket with {text[:50]!r}: {said[:100]!r}")
