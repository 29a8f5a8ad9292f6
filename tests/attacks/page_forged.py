"""Requests that no page made: of other sites, of other names for this machine, malformed, out of order, too large."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Mapping
from typing import Any

from ..serving import Apart
from .page_client import Answer, Client, Event, Watch
from .page_strangers import attack_as_stranger

LONGEST = 20.0
"""Seconds that any answer may take; the largest texts are planned in some."""

GOES_ON = re.compile(r'elemental-message running|data-waiting=\\?"[1-9]')
"""What a page shows while a job runs or waits."""

_TAG = "<img src=x onerror='window.pwned=1'>"
ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 63, -8, 0.5, 1e308, -1e308, 5e-324, float("nan"), float("inf"), 2**31, 2**63, 10**400,
    "", " ", "x", "0", "1e5", "nan", "junk " * 1000, "\ud800", "\0", "\r\n", _TAG, "../../etc/passwd", "::", "|||",
    [], {}, [1, [2, [3, [None]]]], {"a": {"b": 1}}, {"__type__": "update", "value": 1}, ["a.safetensors"], [["x"]],
    {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}},
    {"name": "/dev/zero", "is_file": True, "data": ""}, "ALL",
)  # fmt: skip
"""What a field may be said to hold; no number here asks for a large image, or for many."""

_BODIES = (
    b"", b"null", b"[]", b"{}", b"5", b'"x"', b"{", b'{"fn_index":', b"\xff\xfe\x00", b"[" * 200_000,
    b'{"a":' * 200_000, b'{"data": [], "fn_index": 0, "data": 5}', b"fn_index=1&data=2", b"--x\r\n\r\n", b"\0" * 1000,
    b'{"data": [1e999]}', b'{"fn_index": 1, "data": [' + b"9" * 6000 + b"]}", b'{"data": "' + b"x" * 10_000_000 + b'"}',
    b"\xef\xbb\xbf{}",
)  # fmt: skip
_INDICES: tuple[Any, ...] = (-1, -41, 41, 999, 10**30, "x", "1", None, 1.5, True, [], {})
_EXTRAS: tuple[Mapping[str, Any], ...] = (
    {"session_hash": None}, {"session_hash": 5}, {"session_hash": "x" * 100_000}, {"session_hash": "../x"},
    {"batched": True},
    {"request": {}}, {"request": {"x": 1}}, {"request": [1]}, {"event_data": {"x": 1}}, {"event_data": "x"},
    {"event_id": "x"}, {"trigger_id": -1}, {"trigger_id": 10**9}, {"simple_format": True}, {"oauth_token": "x"},
)  # fmt: skip
_ROUTES = (
    "/run/predict",
    "/api/predict",
    "/run/predict/",
    "/run/save",
    "/queue/join",
    "/call/look",
    "/call/v2/look",
    "/reset",
)
_OTHERS = (
    "/cancel",
    "/component_server",
    "/stream/x",
    "/stream/x/close",
    "/upload",
    "/login",
    "/vibe-edit",
    "/queue/join",
)
_SMALL = {"width": 64, "height": 64, "steps": 1, "batch": 1, "x_type": "alpha", "x_values": "0,1", "elements": "OUT05"}
_ORDERS = (
    "stop",
    "resume",
    "restore",
    "list_runs",
    "entry",
    "poll",
    "boot",
    "gif",
    "swap",
    "refresh",
    "refresh_history",
)


def attack_forged(server: Apart, client: Client, watch: Watch, *, rounds: int, seed: int) -> None:
    """Send what no page sends.

    Args:
        server: That serves.
        client: Talks to it.
        watch: Is told what happens.
        rounds: How many requests of each kind are made at the most.
        seed: Decides what they say.
    """
    draw = random.Random(seed)
    attack_as_stranger(client, watch, draw, rounds=rounds)
    _orders(client, watch)
    kinds = ("application/json", "text/plain", "application/x-www-form-urlencoded")
    small = [body for body in _BODIES if len(body) < 1000]
    tries = [(route, body, kind) for route in (*_ROUTES, *_OTHERS) for body in small for kind in kinds]
    tries = [*draw.sample(tries, min(2 * rounds, len(tries))), *(("/run/predict", body, kinds[0]) for body in _BODIES)]
    for route, body, kind in tries:
        answer = client.ask("POST", client.prefix + route, body, {"Content-Type": kind})
        _note(answer, watch, route, body[:60])
    forge = (_wrong_values, _wrong_shape, _wrong_frame)
    for number in range(rounds):
        route, message = draw.choice(forge)(client, draw)
        _note(client.post(message, route=route), watch, route, f"{message!r:.400}")
        if number % 20 == 19:
            settle(server, client, watch)
    _huge(client, watch, draw, rounds // 10)
    settle(server, client, watch)
    _is_well(client, watch)


def _note(answer: Answer, watch: Watch, route: str, said: object) -> None:
    watch.count("forged requests")
    watch.done[f"answered {answer.status}"] += 1
    watch.answered(answer, f"{route} with {said!r}")
    watch.check(answer.seconds < LONGEST, f"{route} with {said!r} took {answer.seconds:.1f} s")


def _base(client: Client, event: Event) -> list[Any]:
    return client.inputs(event, **_SMALL)


def _wrong_values(client: Client, draw: random.Random) -> tuple[str, object]:
    """Some of the fields of an event hold what they cannot."""
    event = draw.choice(client.events)
    data = _base(client, event)
    for place in draw.sample(range(len(data)), min(len(data), draw.choice((1, 1, 1, 2, 3, 30)))):
        data[place] = draw.choice(ODD)
    return _route(client, draw), _message(event, data, draw)


def _wrong_shape(client: Client, draw: random.Random) -> tuple[str, object]:
    """An event brings too few fields, or too many, or what is no list of fields."""
    event = draw.choice(client.events)
    data = _base(client, event)
    shapes: tuple[Any, ...] = (
        data[:-1],
        data[1:],
        [],
        [*data, None],
        data * 2,
        [data],
        data * 500,
        None,
        "x",
        {"0": 1},
        5,
        [None] * len(data),
    )
    return _route(client, draw), _message(event, draw.choice(shapes), draw)


def _wrong_frame(client: Client, draw: random.Random) -> tuple[str, object]:
    """What stands around the fields is wrong: the event's number, or something else."""
    event = draw.choice(client.events)
    message = _message(event, _base(client, event), draw)
    if draw.random() < 0.5:
        message["fn_index"] = draw.choice(_INDICES)
    else:
        message.update(draw.choice(_EXTRAS))
    if draw.random() < 0.2:
        del message[draw.choice(sorted(message))]
    return _route(client, draw), message


def _message(event: Event, data: object, draw: random.Random) -> dict[str, Any]:
    return {
        "fn_index": event.index,
        "data": data,
        "session_hash": draw.choice(("attack", "other", f"s{draw.random()}")),
    }


def _route(client: Client, draw: random.Random) -> str:
    return draw.choice(_ROUTES if client.modern else _ROUTES[:4]) if draw.random() < 0.3 else "/run/predict"


def _orders(client: Client, watch: Watch) -> None:
    """What is asked for before anything was done, and is not there."""
    for owner in (*_ORDERS, *reversed(_ORDERS)):
        _note(client.send(owner, entry="12345\n1", gif="x.gif\n1", seen="1.0 2 3"), watch, owner, "out of order")
    for ratio in (None, "", 0):
        _note(client.send("estimate_check", elements="OUT05", check_ratio=ratio), watch, "estimate_check", ratio)
    for entry in ("", "0", "-1", "x", "9" * 5000, "٣", "1\n2", "²"):
        _note(client.send("entry", entry=entry), watch, "entry", entry[:50])


def _huge(client: Client, watch: Watch, draw: random.Random, rounds: int) -> None:
    """Texts of millions of letters, the largest that are taken, and those that mean the most work."""
    texts = (
        "OUT03:attn2:0.5\n",
        "OUT03:zz{}:1\n",
        "ALL:ALL,",
        "0.1,",
        "x",
        "::1\n",
        "# \n",
        "(" * 50,
        "\n\n",
        "|",
        "{} ",
        "é",
    )
    owners = (
        "sync",
        "run_merge",
        "estimate_plot",
        "estimate_check",
        "run_save",
        "run_both",
        "preset",
        "run_check",
        "resume",
    )
    for text in draw.sample(texts, min(rounds, len(texts))):
        for size in (190_000, 1_000_000, 10_000_000):
            count = size // len(text)
            whole = "".join(text.format(number) for number in range(count)) if "{" in text else text * count
            fields = draw.sample(("spec", "x_values", "elements", "blocks", "prompt", "model_a", "name"), 2)
            for owner in draw.sample(owners, 2):
                values: dict[str, Any] = {
                    **_SMALL,
                    **dict.fromkeys((*fields, "spec"), whole[:size]),
                    "x_type": "pinpoint-blocks",
                }
                _note(client.send(owner, **values), watch, owner, f"{size:,} letters of {text!r} in {fields}")
                _note(client.send("stop"), watch, "stop", "")


def settle(server: Apart, client: Client, watch: Watch, *, seconds: float = 60.0) -> None:
    """Drop the jobs that wait, stop the one that runs, and see that it ends."""
    end = time.monotonic() + seconds
    while GOES_ON.search(client.send("poll", seen="").text):
        client.send("queue_act", queue_act="drop-all\n1")
        client.send("stop")
        if not watch.check(time.monotonic() < end, f"a job does not end: {server.facts()['job']}"):
            return
        time.sleep(0.05)


def _is_well(client: Client, watch: Watch) -> None:
    """A page that is opened now is whole, and can do what it could."""
    filled = client.send("boot", session="fresh")
    watch.check(filled.status == 200, f"a new page is not filled: {filled.text[:200]}")
    seen = client.send("sync", session="fresh")
    watch.check("tensors differ" in seen.text, f"a new page plans nothing: {seen.text[:200]}")
