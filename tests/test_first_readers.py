"""What first readers of the page stumbled over, in a browser."""

from __future__ import annotations

from dataclasses import replace

import pytest

from elemental.modes.base import Group
from elemental.modes.catalogue import MergeMode, grouped_modes
from elemental.session.session import session_of

from .browser import Page
from .map_effects import demo_effects
from .noise_tab import fresh_site, kept, noise_site, noise_tab, one_browser, say  # noqa: F401
from .serving import Site

pytest.importorskip("gradio")

pytestmark = pytest.mark.slow

_LISTED = """items => items.map(item => [
    item.textContent.replace(/^\\W+/, "").trim(),
    getComputedStyle(item, "::before").content,
    getComputedStyle(item, "::after").content,
])"""

_IS_SEEN = "part => part.getBoundingClientRect().bottom <= innerHeight + 1"


def test_the_map_shows_the_effects_or_the_check(tab: Page, site: Site) -> None:
    previewer, effects = session_of(site.host).previewer, demo_effects()
    measured = replace(effects, made_from="Element check of 4", unit="measured change of the image, mean of 255")
    radios = tab.page.locator(".elemental-effect-tools fieldset label:visible")
    legend = tab.page.locator(".elemental-legend")
    previewer.paint("effect", lambda _plan: effects)
    tab.write("spec", "OUT11::1")
    tab.wait(lambda: radios.all_inner_texts() == ["ratio", "effect"], "the effects alone")
    previewer.paint("check", lambda _plan: measured)
    tab.write("spec", "OUT10::1")
    tab.wait(lambda: radios.all_inner_texts() == ["ratio", "check", "effect"], "both")
    assert "Element check" in legend.inner_text()
    legend.scroll_into_view_if_needed()
    tab.screenshot("effects-or-check")
    tab.page.get_by_label("effect", exact=True).check()
    tab.wait(lambda: "Element check" not in legend.inner_text(), "the effects again")
    assert tab.page.get_by_label("effect", exact=True).is_checked()
    tab.page.get_by_label("check", exact=True).check()
    tab.wait(lambda: "Element check" in legend.inner_text(), "the check again")
    tab.page.get_by_label("ratio", exact=True).check()
    assert not legend.is_visible()
    tab.page.get_by_label("effect", exact=True).check()
    tab.wait(lambda: legend.is_visible() and "Element check" not in legend.inner_text(), "the effects from the ratios")


def test_an_estimate_comes_into_view(tab: Page) -> None:
    tab.page.set_viewport_size({"width": 1366, "height": 500})
    tab.panel("XY plot")
    tab.choose("x_type", "alpha")
    tab.write("x_values", "0, 1")
    button = tab.page.locator("button#elemental_estimate_plot, #elemental_estimate_plot button")
    answer = tab.page.locator("#elemental_plot_answer .elemental-message")
    for _ in range(2):  # the second time there is the same answer already
        button.evaluate("button => scrollTo(0, scrollY + button.getBoundingClientRect().bottom - innerHeight)")
        tab.press("estimate_plot")
        tab.wait(lambda: "2 images" in tab.text("plot_answer"), "the answer")
        tab.wait(lambda: bool(answer.evaluate(_IS_SEEN)), "it to be seen")


def test_undo_says_what_it_undoes(tab: Page) -> None:
    undo, redo = tab.page.locator("[data-step='-1']"), tab.page.locator("[data-step='1']")
    kept(tab, "a.safetensors")
    assert undo.get_attribute("title") == "Undo (Ctrl+Z)"
    tab.write("spec", "OUT03::1")
    tab.wait(lambda: "Elemental spec OUT03::1 → empty" in str(undo.get_attribute("title")), "what is undone")
    undo.click()
    say(tab, "spec", "")
    said = "Redo: Elemental spec empty → OUT03::1 (Ctrl+Shift+Z)"
    tab.wait(lambda: redo.get_attribute("title") == said, "what is done again")
    tab.write("spec", "\n".join(f"OUT0{number}:attn2:0.5" for number in range(6)))
    tab.wait(lambda: undo.get_attribute("title") == "Undo: Elemental spec (Ctrl+Z)", "no long text")


def test_a_long_sheet_begins_at_its_top(tab: Page) -> None:
    tab.panel("Element check")
    tab.write("elements", "\n".join(f"OUT{number:02}" for number in range(12)))
    tab.job("run_check")
    tab.page.locator("#elemental_products img").first.click()
    viewer = tab.page.locator("#elemental_viewer")
    caption = viewer.locator(".caption")
    tab.wait(lambda: "100 %" in caption.inner_text(), "its cells as they are")
    image, stage = viewer.locator(".stage > img"), viewer.locator(".stage")
    tab.screenshot("long-sheet")
    assert image.bounding_box()["y"] == pytest.approx(stage.bounding_box()["y"], abs=2)
    assert image.bounding_box()["height"] > 2 * stage.bounding_box()["height"]
    tab.page.keyboard.press("PageDown")  # the next one is as large as the window
    tab.wait(lambda: image.bounding_box()["height"] <= stage.bounding_box()["height"] + 1, "an image as a whole")
    tab.page.keyboard.press("PageUp")
    tab.wait(lambda: "100 %" in caption.inner_text(), "the sheet as before")
    tab.page.keyboard.press("0")
    tab.wait(lambda: image.bounding_box()["height"] <= stage.bounding_box()["height"] + 1, "the sheet as a whole")


def test_modes_are_grouped_and_explained(tab: Page) -> None:
    field = tab.page.locator("#elemental_mode input").first
    items = tab.page.locator("#elemental_mode ul li")
    field.click()
    tab.wait(lambda: items.count() == len(MergeMode), "the menu")
    tab.wait(lambda: items.first.get_attribute("data-group") == Group.TWO.value, "its groups")
    tab.screenshot("modes")
    listed = items.evaluate_all(_LISTED)
    assert [name for name, _, _ in listed] == [mode.value for mode in grouped_modes()]
    heads = [head.strip('"') for _, head, _ in listed if head not in ("none", '""')]
    assert heads == [group.value for group in Group]
    assert [said.strip('"') for _, _, said in listed] == [mode.record.purpose for mode in grouped_modes()]
    field.press("Control+a")
    field.press_sequentially("difference")
    tab.wait(lambda: 0 < items.count() < len(MergeMode), "those with the word")
    adds = MergeMode.ADD_DIFFERENCE.record.purpose
    tab.wait(lambda: items.first.get_attribute("data-purpose") == adds, "what they are for")
    assert items.first.get_attribute("data-group") == Group.LEARNED.value
    field.press("Escape")
    tab.choose("mode", "triple-sum")
    say(tab, "mode", "triple-sum")
