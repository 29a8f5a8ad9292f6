"""Images in a real browser: sent to pages of the host, their folders opened, those of the history in the viewer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from elemental.session.session import session_of

from .browser import Page
from .noise_tab import fresh_site, noise_tab, one_browser  # noqa: F401
from .serving import Site, served
from .test_viewer import caption, generate, keys, viewer

pytest.importorskip("gradio")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", name="served_site")
def site_of_a_host_with_pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Serve the tab on a host that has pages that images can be sent to."""
    with served(tmp_path_factory.mktemp("site"), noise=True, pages=("txt2img", "img2img")) as site:
        yield site


def sending(tab: Page, what: str) -> Any:
    return tab.page.locator(f".elemental-sending [data-send={what}]")


def open_entries(tab: Page, count: int) -> Any:
    """Open the history, and give its small images."""
    tab.panel("History")
    tab.press("refresh_history")
    images = tab.page.locator("#elemental_history [data-show]")
    tab.wait(lambda: images.count() == count, f"{count} images")
    return images


def test_images_are_sent_to_pages_of_the_host(tab: Page, site: Site) -> None:
    sent = site.host.sent
    sent.clear()
    assert not tab.page.locator(".elemental-sending").is_visible()
    tab.write("spec", "OUT03:attn2:1")
    tab.report("1 rule sets")
    tab.write("batch", "3")
    tab.job("run_both")
    images = tab.page.locator("#elemental_gallery button:has(img)")
    tab.wait(lambda: images.count() == 3, "the images")
    tab.screenshot("sending")
    sending(tab, "txt2img").click()
    tab.wait(lambda: len(sent) == 1, "the first to be sent")
    page, infotext, size = sent[0]
    assert (page, size) == ("txt2img", (64, 64))
    assert infotext.startswith("a red circle on blue\n")
    assert "Seed: 3," in infotext
    assert "recipe" not in infotext
    assert "Model" not in infotext
    images.nth(2).click()
    keys(tab, "Escape")
    assert tab.page.locator(".elemental-chosen img").get_attribute("alt") == images.nth(2).locator("img").get_attribute(
        "alt"
    )
    sending(tab, "img2img").click()
    tab.wait(lambda: len(sent) == 2, "the last to be sent")
    assert (sent[1][0], "Seed: 5," in sent[1][1]) == ("img2img", True)
    images.nth(1).click()
    keys(tab, "t")
    viewer(tab).wait_for(state="hidden")
    tab.wait(lambda: len(sent) == 3, "the second to be sent")
    assert (sent[2][0], "Seed: 4," in sent[2][1]) == ("txt2img", True)
    assert tab.read("spec") == "OUT03:attn2:1"


def test_the_folder_of_an_image_is_opened(tab: Page, site: Site) -> None:
    opened = site.host.opened_folders
    opened.clear()
    generate(tab)
    sending(tab, "folder").click()
    tab.wait(lambda: opened == [site.output / "images"], "the folder")
    tab.page.locator("#elemental_gallery img").first.click()
    keys(tab, "o")
    tab.wait(lambda: opened == [site.output / "images"] * 2, "the folder again")
    assert viewer(tab).is_visible()


def test_grids_are_not_sent(tab: Page, site: Site) -> None:
    site.host.opened_folders.clear()
    tab.panel("XY plot")
    tab.choose("x_type", "alpha")
    tab.write("x_values", "0, 1")
    tab.job("run_plot")
    grid = tab.page.locator("#elemental_products img").first
    grid.wait_for()
    grid.click()
    buttons = viewer(tab).locator(".buttons button")
    assert buttons.filter(has_text="Send to txt2img").is_disabled()
    buttons.filter(has_text="Open folder").click()
    tab.wait(lambda: len(site.host.opened_folders) == 1, "the folder")
    assert site.host.opened_folders[0].parent == site.output / "plots"
    keys(tab, "Escape")
    assert sending(tab, "txt2img").is_disabled()


def test_images_of_the_history_are_opened_in_the_viewer(tab: Page) -> None:
    for seed in ("11", "12"):
        tab.write("seed", seed)
        tab.job("run_both")
    tab.panel("XY plot")
    tab.choose("x_type", "alpha")
    tab.write("x_values", "0, 0.5")
    tab.job("run_plot")
    images = open_entries(tab, 3)
    tab.screenshot("history-images")
    images.nth(1).click()
    viewer(tab).wait_for()
    assert "generate 20" in caption(tab)
    assert "2 of 3" in caption(tab)
    tab.screenshot("history-viewer")
    keys(tab, "p", "ArrowRight")
    assert "3 of 3" in caption(tab)
    assert "Left, Pinned: generate 20" in caption(tab)
    keys(tab, "d")
    viewer(tab).locator(".legend").filter(has_text="changed").wait_for()
    keys(tab, "d", "ArrowRight")
    assert "plot 20" in caption(tab)
    assert "alpha: 0, 0.5" in caption(tab)
    keys(tab, "Escape")
    viewer(tab).wait_for(state="hidden")
    assert images.nth(0).evaluate("button => button === document.activeElement")
    keys(tab, "Enter")
    viewer(tab).wait_for()
    assert "1 of 3" in caption(tab)
    keys(tab, "End", "u")
    viewer(tab).wait_for(state="hidden")
    tab.wait(lambda: tab.read("seed") == "11", "the seed of the oldest image")


def test_an_image_that_is_gone_cannot_be_opened(tab: Page, site: Site) -> None:
    tab.job("run_both")
    images = open_entries(tab, 1)
    tab.page.wait_for_timeout(500)  # a list that is drawn anew later would know already
    Path(session_of(site.host).history.entries()[0].image).unlink()
    images.first.evaluate("button => button.click()")
    tab.wait(lambda: "gone" in tab.text("history_answer"), "the reason")
    assert not viewer(tab).is_visible()
    open_entries(tab, 0)
    assert tab.page.locator("#elemental_history td.image img").count() == 1
