"""The tab on a host whose images are noise, in a browser: for tests of what pages remember, where no image matters."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .browser import Page, browser
from .serving import Site, served

SCREENS = "ELEMENTAL_SCREENSHOTS"


@pytest.fixture(scope="module", name="served_site")
def noise_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Serve the tab."""
    with served(tmp_path_factory.mktemp("site"), noise=True) as site:
        yield site


@pytest.fixture(name="site")
def fresh_site(served_site: Site) -> Site:
    """Give the site as it was served first."""
    served_site.reset()
    return served_site


@pytest.fixture(scope="module", name="chromium")
def one_browser() -> Iterator[Any]:
    """Start the browser."""
    with browser() as started:
        yield started


@pytest.fixture(name="tab")
def noise_tab(site: Site, chromium: Any, tmp_path: Path) -> Iterator[Page]:
    """Open a page."""
    page = open_page(chromium, site.url, tmp_path)
    yield page
    assert page.errors == [], page.errors
    page.page.context.close()


def open_page(chromium: Any, url: str, folder: Path, *, height: int = 768) -> Page:
    """Open a page in a browser of its own."""
    context = chromium.new_context(viewport={"width": 1366, "height": height})
    context.set_default_timeout(30_000)
    page = Page(context.new_page(), Path(os.environ.get(SCREENS, folder / "screens")))
    page.open(url)
    page.wait(lambda: "tensors differ" in page.text("report"), "the report", 60)
    return page


def kept(page: Page, words: str) -> None:
    """Wait until a page has kept something that its form says."""
    page.wait(lambda: words in page.page.evaluate("sessionStorage.elemental_page || ''"), f"{words!r} to be kept")


def say(page: Page, name: str, text: str) -> None:
    """Wait until a field says something."""
    page.wait(lambda: page.read(name) == text, f"{name} to be {text!r}")
