"""Whom the page served by itself answers, which files it gives, and what its fields may hold."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from elemental.errors import ElementalError, ImageError, RecipeError
from elemental.images.image_request import ImageRequest
from elemental.images.text_drawing import MOST_LETTERS as MOST_DRAWN
from elemental.images.text_drawing import fit_text
from elemental.merge.files.metadata import recipe_from_json
from elemental.runs.run_files import RunFiles
from elemental.runs.run_record import read_record
from elemental.ui.event_values import MOST_LETTERS, reader_of
from elemental.ui.request_guard import MOST_SENT, PageGuard, file_below

posix = pytest.mark.skipif(sys.platform == "win32", reason="links and pipes are POSIX's")


def answer(
    folder: Path,
    path: str,
    headers: Mapping[str, str] | None = None,
    *,
    kind: str = "http",
    body: bytes = b"",
    fails: bool = False,
) -> int:
    """Send a request to a guard, and give the status; 0 for a socket that was closed."""
    sent: list[Mapping[str, Any]] = []
    given = {"host": "127.0.0.1:7860", **(headers or {})}
    scope = {
        "type": kind, "method": "GET", "path": path,
        "headers": [(name.encode(), value.encode()) for name, value in given.items()],
    }  # fmt: skip

    async def app(_scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        if fails:
            raise KeyError("no such event")
        await send({"type": "http.response.start", "status": 200, "headers": []})

    pieces = [body[at : at + 1_000_000] for at in range(0, len(body), 1_000_000)] or [b""]

    async def receive() -> Mapping[str, Any]:
        piece = pieces.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

    async def send(message: Mapping[str, Any]) -> None:
        sent.append(message)

    guard = PageGuard(app, images=[folder / "out"], cache=folder / "cache")
    loop = asyncio.new_event_loop()  # asyncio.run would leave the thread without one, which gradio 4 starts a page with
    try:
        loop.run_until_complete(guard(scope, receive, send))  # type: ignore[arg-type]
    finally:
        loop.close()
    return int(sent[0].get("status", 0))


OWN = "127.0.0.1:7860"
OPENED = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": f"http://{OWN}"},
        {"host": "localhost:9000", "origin": "http://localhost:9000"},
        {"host": "LOCALHOST"},
        {"host": "[::1]:7860"},
        {"sec-fetch-site": "same-origin"},
        {"sec-fetch-site": "none"},
        OPENED,
    ],
)
def test_its_own_pages_are_answered(tmp_path: Path, headers: dict[str, str]) -> None:
    assert answer(tmp_path, "/", headers) == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"host": "127.0.0.1.evil.example:7860"},
        {"host": "0.0.0.0:7860"},
        {"host": ""},
        {"host": "["},
        {"origin": "http://evil.example"},
        {"origin": "http://127.0.0.1:3000"},
        {"origin": "http://localhost:7860"},
        {"origin": "null"},
        {"origin": f"file://{OWN}"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {**OPENED, "sec-fetch-dest": "iframe"},
    ],
)
def test_strangers_are_refused(tmp_path: Path, headers: dict[str, str]) -> None:
    assert answer(tmp_path, "/", headers) == 403
    assert answer(tmp_path, "/queue/join", headers, kind="websocket") == 0


def test_another_site_opens_the_page_alone(tmp_path: Path) -> None:
    assert answer(tmp_path, "/run/predict", OPENED) == 403


def test_too_much_is_refused_and_errors_are_answered(tmp_path: Path) -> None:
    assert answer(tmp_path, "/run/predict", {"content-length": str(MOST_SENT + 1)}) == 413
    assert answer(tmp_path, "/run/predict", body=b"x" * (MOST_SENT + 1)) == 413
    assert answer(tmp_path, "/upload", body=b"x" * (MOST_SENT + 1)) == 200
    assert answer(tmp_path, "/run/predict", fails=True) == 500


@posix
def test_files_below_folders_are_given_and_no_others(tmp_path: Path) -> None:
    for name in ("out/a.png", "out/.b.png", "out/.d/c.png", "out/m.safetensors", "cache/x/r.json", "secret.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "out" / "link.png").symlink_to(tmp_path / "secret.png")
    (tmp_path / "out" / "loop.png").symlink_to("loop.png")
    (tmp_path / "out" / "zero.png").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "out" / "pipe.png")
    for name in ("out/a.png", "cache/x/r.json"):
        for route in ("/file=", "/file/", "/gradio_api/file=", "/gradio_api/file/"):
            assert answer(tmp_path, f"{route}{tmp_path / name}") == 200
    refused = ["out/.b.png", "out/.d/c.png", "out/m.safetensors", "secret.png", "out/../secret.png", "out", "none.png"]
    refused += ["out/link.png", "out/loop.png", "out/zero.png", "out/pipe.png", "out/a\0.png", "out/" + "x" * 5000]
    for text in [*(str(tmp_path / name) for name in refused), "/etc/passwd", "http://evil.example/x.png", "", "\ud800"]:
        assert answer(tmp_path, f"/file={text}") == 403, text
        assert file_below(text, [tmp_path / "out"]) is None or text.endswith("m.safetensors")


@pytest.mark.parametrize(
    ("kind", "given", "read"),
    [
        ("Textbox", None, ""),
        ("Textbox", "x", "x"),
        ("Dropdown", [], None),
        ("Dropdown", "b", "b"),
        ("Slider", 0.5, 0.5),
        ("Number", "", None),
        ("Checkbox", None, False),
    ],
)
def test_fields_hold_what_pages_send(kind: str, given: object, read: object) -> None:
    reader = reader_of(kind, {"label": "It", "choices": ["a", "b"]})
    assert reader is not None
    assert reader(given) == read


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        ("Textbox", "x" * (MOST_LETTERS + 1)),
        ("Textbox", "\ud800"),
        ("Dropdown", "c"),
        ("Dropdown", ["a"]),
        ("Dropdown", {"a": 1}),
        ("Dropdown", 5),
        ("Slider", "0.5"),
        ("Slider", float("nan")),
        ("Number", 10**400),
        ("Number", True),
        ("Number", [1]),
        ("Checkbox", "yes"),
    ],
)
def test_what_no_field_can_hold_is_refused(kind: str, given: object) -> None:
    reader = reader_of(kind, {"label": "It", "choices": ["a", "b"]})
    assert reader is not None
    with pytest.raises(ElementalError, match="It"):
        reader(given)


def test_a_field_whose_choices_are_not_known_takes_any_text() -> None:
    for choices, free in (([], False), (["a"], True)):
        reader = reader_of("Dropdown", {"choices": choices, "allow_custom_value": free})
        assert reader is not None
        assert reader("/models/c.safetensors") == "/models/c.safetensors"
    assert reader_of("HTML", {}) is None


def test_a_record_names_no_files_of_elsewhere(tmp_path: Path) -> None:
    files, rest = RunFiles(tmp_path), {"version": 1, "kind": "plot", "definition": {}, "options": {}, "models": {}}
    for name in ("x00-y00", "../../secret"):
        files.record.write_text(json.dumps({**rest, "cells": {name: {"state": "done"}}}))
        if name == "x00-y00":
            assert set(read_record(files).cells) == {name}
    with pytest.raises(ImageError, match="no record"):
        read_record(files)


def test_texts_and_numbers_that_would_fill_the_memory_are_bounded() -> None:
    drawn = fit_text("\n" * 50_000, width=200, size=12)
    assert len(drawn.lines) <= 1000
    assert drawn.lines[-1].endswith("...")
    assert sum(map(len, fit_text("abcdefghi " * MOST_DRAWN, width=900, size=12).lines)) <= MOST_DRAWN + 4
    with pytest.raises(ImageError, match="1000"):
        ImageRequest("x", batch=1001)
    with pytest.raises(RecipeError, match="not JSON"):
        recipe_from_json("[" * 100_000, name="x")
