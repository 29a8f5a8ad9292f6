"""A real page in a real browser: the tab served by itself, driven through Chromium."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
_GET = "install it with: apt-get install chromium (Debian), or name another one in the variable CHROMIUM"

# What pages say of themselves, and not of the tab: up to gradio 4 they ask for fonts of another site.
_NOISE = (
    "ERR_NAME_NOT_RESOLVED",
    "ERR_INTERNET_DISCONNECTED",
    "fonts.googleapis",
    "ERR_CONNECTION_REFUSED",
    "manifest",
    "AbortError",  # a request that a reload cut off
    "Connection errored out",
)


def find_chromium() -> str:
    """Find the browser; without one the test is skipped, but never where CI is set."""
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        if os.environ.get("CI"):
            pytest.fail(f"There is no Chromium; {_GET}")
        pytest.skip(f"needs Chromium; {_GET}")
    return path


class Page:
    """The tab in a browser.

    Args:
        page: Playwright's.
        screens: Where screenshots are kept.
    """

    def __init__(self, page: Any, screens: Path) -> None:
        self.page = page
        self.errors: list[str] = []
        self._screens = screens
        page.on("pageerror", lambda error: self._note("error", str(error)))
        page.on("console", lambda message: self._note(message.type, message.text))

    def _note(self, kind: str, text: str) -> None:
        if kind == "error" and not any(noise in text for noise in _NOISE):
            self.errors.append(text)

    def open(self, url: str) -> None:
        self.page.goto(url)
        self.ready()

    def ready(self) -> None:
        """Wait until the page's own script has begun and the map is drawn."""
        self.page.wait_for_selector("#elemental_tab[data-ready]", timeout=90_000)
        self.page.wait_for_timeout(300)
        self.page.wait_for_selector("#elemental_report .elemental-report", timeout=60_000)

    def panel(self, name: str) -> None:
        """Open a panel; gradio 6 has tabs where 3 has buttons, and hidden copies of them."""
        tabs = self.page.get_by_role("tab", name=name, exact=True).or_(
            self.page.get_by_role("button", name=name, exact=True)
        )
        tabs.and_(self.page.locator(":visible")).first.click()

    def options(self) -> None:
        """Open the VAE and other options."""
        if not self.page.locator("#elemental_vae").is_visible():
            self.page.locator("#elemental_options > .label-wrap").click()
            self.page.locator("#elemental_vae").wait_for()

    def write(self, name: str, text: str) -> None:
        self.page.locator(f"#elemental_{name} textarea, #elemental_{name} input").first.fill(text)

    def read(self, name: str) -> str:
        return str(self.page.locator(f"#elemental_{name} textarea, #elemental_{name} input").first.input_value())

    def choose(self, name: str, value: str) -> None:
        """Choose from a dropdown; a list that is open when others are listed may keep the old ones."""
        field = self.page.locator(f"#elemental_{name} input").first
        options = self.page.locator("ul.options li:visible, ul[role=listbox] li:visible")
        option = options.filter(has_text=re.compile(rf"^\W*{re.escape(value)}\s*$")).first
        end = time.monotonic() + 60
        field.click()
        while not option.count() and time.monotonic() < end:
            self.page.wait_for_timeout(500)
            if not option.count():
                field.press("Tab")
                field.click()
        option.click()
        field.press("Tab")

    def press(self, name: str) -> None:
        found = self.page.locator(f"button#elemental_{name}, #elemental_{name} button")
        found.first.click()

    def text(self, name: str) -> str:
        return str(self.page.locator(f"#elemental_{name}").first.inner_text())

    def wait(self, true: Callable[[], bool], what: str, seconds: float = 90.0) -> None:
        """Wait for something to be so."""
        end = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < end, f"waited in vain for {what}: {self.text('progress')!r}, {self.errors}"
            self.page.wait_for_timeout(50)

    def quiet(self, seconds: float = 1.0) -> None:
        """Wait until the page has asked for nothing in so many seconds: what was begun before is sent by then."""
        asked: list[str] = []

        def note(request: Any) -> None:
            asked.append(request.url)

        self.page.on("request", note)
        end = time.monotonic() + 90
        try:
            while True:
                before = len(asked)
                self.page.wait_for_timeout(1000 * seconds)
                if len(asked) == before:
                    return
                assert time.monotonic() < end, f"waited in vain for the page to be quiet: {asked[before:]}"
        finally:
            self.page.remove_listener("request", note)

    def job(self, name: str, *, ends: str = "done", seconds: float = 120.0) -> str:
        """Press a button, wait until its job has ended so, and give what it says."""
        before = self.page.locator("#elemental_progress .elemental-message").first
        known = before.get_attribute("data-job") if before.count() else None
        self.press(name)
        shown = self.page.locator("#elemental_progress .elemental-message").first
        self.wait(lambda: bool(shown.count()) and shown.get_attribute("data-job") != known, f"{name} to begin")
        self.ended(ends, seconds)
        return self.text("progress")

    def ended(self, ends: str = "done", seconds: float = 120.0) -> None:
        """Wait until the job that is shown has ended so."""
        states = self.page.locator("#elemental_progress .elemental-message")
        self.wait(
            lambda: bool(states.count()) and ends in str(states.first.get_attribute("class")).split(), ends, seconds
        )

    def report(self, words: str) -> None:
        """Wait until the report beside the spec says something."""
        self.wait(lambda: words in self.text("report"), f"{words!r} in the report", 10)

    def screenshot(self, name: str) -> None:
        """Keep images of the page, in the light and in the dark theme."""
        self._screens.mkdir(parents=True, exist_ok=True)
        for theme in ("light", "dark"):
            self.page.evaluate("dark => document.body.classList.toggle('dark', dark)", theme == "dark")
            self.page.wait_for_timeout(250)
            self.page.screenshot(path=self._screens / f"{name}-{theme}.png")
        self.page.evaluate("document.body.classList.remove('dark')")


@contextmanager
def browser(*options: str) -> Iterator[Any]:
    """Start the browser, with further options of its own."""
    sync_api = pytest.importorskip("playwright.sync_api")
    path = find_chromium()
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=[*_ARGUMENTS, *options])
        yield started
        started.close()
