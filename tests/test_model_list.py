"""The lists of models in a real browser: what is said of those that are chosen, and the name of what is saved."""

from __future__ import annotations

import shutil
from itertools import pairwise

import pytest
from PIL import Image

from .browser import Page
from .noise_tab import fresh_site, noise_site, noise_tab, one_browser, say  # noqa: F401
from .serving import Site

pytest.importorskip("gradio")

pytestmark = pytest.mark.slow

LONG = "a model with a name that is much longer than its list is wide, version 8.5.safetensors"


def suggested(tab: Page) -> str:
    return str(tab.page.locator("#elemental_name :is(textarea, input)").get_attribute("placeholder"))


def placeholder(tab: Page, name: str) -> None:
    """Wait until a name is suggested."""
    tab.wait(lambda: suggested(tab) == name, f"{name} to be suggested")


def test_what_the_chosen_models_are(tab: Page, site: Site) -> None:
    cards = tab.page.locator(".elemental-cards > span")
    tab.wait(lambda: cards.count() == 2, "two cards")
    assert "A SD 1.x · " in " ".join(cards.first.inner_text().split())
    assert cards.locator("img").count() == 0
    shutil.copy(site.models / "b.safetensors", site.models / LONG)
    preview = site.models / LONG.replace(".safetensors", ".preview.png")
    Image.new("RGB", (512, 768), "orange").save(preview)
    tab.press("refresh")
    tab.page.wait_for_timeout(500)
    tab.choose("mode", "sum-twice")
    tab.choose("model_b", LONG)
    tab.choose("model_c", "b.safetensors")
    tab.wait(lambda: cards.count() == 3 and cards.nth(1).locator("img").count() == 1, "an image of B")
    assert cards.nth(1).get_attribute("title") == LONG
    field = tab.page.locator("#elemental_model_b input").first
    tab.wait(lambda: field.get_attribute("title") == LONG, "the whole name")
    assert field.evaluate("input => getComputedStyle(input).textOverflow") == "ellipsis"
    tab.screenshot("models-three")
    cards.nth(1).hover()
    tab.wait(lambda: cards.nth(1).locator("img").evaluate("image => image.clientHeight") == 160, "a larger image")
    tab.screenshot("models-hover")
    tab.options()
    vae = tab.page.locator("#elemental_vae input").first
    assert vae.evaluate("input => input.scrollWidth <= input.clientWidth")
    tab.page.set_viewport_size({"width": 400, "height": 800})
    tab.page.wait_for_timeout(300)
    tab.page.locator("#elemental_models").scroll_into_view_if_needed()
    tab.screenshot("models-narrow")
    assert tab.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_merge_is_saved_without_a_name(tab: Page, site: Site) -> None:
    tab.page.get_by_text("Save ...").click()
    placeholder(tab, "a-b-0.5")
    tab.write("spec", "OUT05:attn2:0.3")
    placeholder(tab, "a-b-0.5-OUT05-attn2-0.3")
    tab.screenshot("save-name")
    names = [f"a-b-0.5-OUT05-attn2-0.3{number}" for number in ("", "-2", "-3")]
    for name, following in pairwise(names):
        tab.job("run_save")
        assert (site.models / f"{name}.safetensors").is_file()
        placeholder(tab, following)
    tab.write("name", "mine")
    tab.write("spec", "OUT05:attn2:0.4")
    tab.wait(lambda: "0.4" in suggested(tab), "another name")
    assert tab.read("name") == "mine"
    tab.job("run_save")
    assert (site.models / "mine.safetensors").is_file()
    tab.page.wait_for_timeout(500)
    tab.choose("mode", "sum-twice")
    for letter in "cba":
        tab.choose(f"model_{letter}", "mine.safetensors")
        say(tab, f"model_{letter}", "mine.safetensors")


def test_the_merge_in_the_model_gives_the_name(tab: Page) -> None:
    tab.page.get_by_text("Save ...").click()
    tab.write("spec", "OUT05:attn2:0.3")
    tab.report("1 rule sets")
    tab.job("run_merge")
    tab.write("spec", "OUT06:attn2:0.3")
    tab.report("1 rule sets")
    tab.page.wait_for_timeout(500)
    assert suggested(tab) == "a-b-0.5-OUT05-attn2-0.3"
    tab.job("restore")
    placeholder(tab, "a-b-0.5-OUT06-attn2-0.3")
