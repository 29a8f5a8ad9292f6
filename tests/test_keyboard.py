"""The keyboard alone suffices: for a merge from its models to the saved file, a plot, a check, a comparison."""

from __future__ import annotations

import pytest

from .browser import Page
from .noise_tab import fresh_site, noise_site, noise_tab, one_browser  # noqa: F401
from .serving import Site

pytest.importorskip("gradio")

pytestmark = pytest.mark.slow

_MOST_STEPS = 250
_REACHED = """selector => {
    const at = document.activeElement;
    return Boolean(at) && at.matches(selector);
}"""


def reach(tab: Page, selector: str, key: str = "Tab") -> None:
    """Press Tab, or Shift+Tab, until something has the focus."""
    for _ in range(_MOST_STEPS):
        if tab.page.evaluate(_REACHED, selector):
            return
        tab.page.keyboard.press(key)
    raise AssertionError(f"{selector} is not reached by {key}; the focus is on {_where(tab)}")


def _where(tab: Page) -> str:
    return str(tab.page.evaluate("() => document.activeElement.outerHTML.slice(0, 200)"))


def field(name: str) -> str:
    return f"#elemental_{name} :is(input, textarea)"


def button(name: str) -> str:
    return f"button#elemental_{name}, #elemental_{name} button"


def fill(tab: Page, name: str, text: str) -> None:
    """Go to a field, and type in the place of what stands there."""
    reach(tab, field(name))
    tab.page.keyboard.press("Control+a")
    tab.page.keyboard.type(text)


def choose(tab: Page, name: str, text: str) -> None:
    """Go to a list, type a part of a name, and take the first that is left, which gradio 4 wants pointed at."""
    fill(tab, name, text)
    listed = tab.page.locator("ul:is(.options, [role=listbox]) li:visible").filter(has_text=text)
    listed.first.wait_for()
    if "active" not in str(listed.first.get_attribute("class")).split():
        tab.page.keyboard.press("ArrowDown")
    tab.page.keyboard.press("Enter")
    listed.first.wait_for(state="hidden")


def press(tab: Page, selector: str) -> None:
    reach(tab, selector)
    tab.page.keyboard.press("Enter")


def run(tab: Page, name: str, *, ends: str = "done") -> str:
    """Go to a button, press it, and wait for the job's end."""
    shown = tab.page.locator("#elemental_progress .elemental-message").first
    known = shown.get_attribute("data-job") if shown.count() else None
    press(tab, button(name))
    tab.wait(lambda: bool(shown.count()) and shown.get_attribute("data-job") != known, f"{name} to begin")
    tab.ended(ends)
    return tab.text("progress")


def open_panel(tab: Page, name: str) -> None:
    """Go to a panel's name, among the others whose names are reached by arrows, or by Tab in older gradio."""
    for _ in range(_MOST_STEPS):
        if tab.page.evaluate("() => document.activeElement.textContent.trim()") == name:
            break
        tab.page.keyboard.press("Tab")
    tab.page.keyboard.press("Enter")


def start_over(tab: Page) -> None:
    """Give the focus to the page, as when it was opened."""
    tab.page.evaluate("() => document.activeElement.blur()")
    tab.page.keyboard.press("Control+Home")


def test_tab_leaves_a_long_list_for_the_next_field(tab: Page) -> None:
    tab.panel("Merge")
    reach(tab, field("mode"))
    tab.page.keyboard.press("Tab")
    tab.wait(lambda: tab.page.evaluate(_REACHED, field("alpha")), f"alpha to have the focus, not {_where(tab)}", 5)
    listed = tab.page.locator("ul:is(.options, [role=listbox]) li:visible")
    tab.wait(lambda: not listed.count(), "the list to close", 5)


def test_a_merge_is_chosen_run_seen_saved_and_given_back(tab: Page, site: Site) -> None:
    choose(tab, "model_a", "b.safe")
    choose(tab, "model_b", "a.safe")
    fill(tab, "spec", "OUT09::2")
    tab.report("1 rule sets")
    tab.page.keyboard.press("Escape")  # the list of names, so that Tab leaves the field
    assert "Merged in" in run(tab, "run_both")
    assert "merge active" in tab.text("live")
    assert "weight-sum of b, a" in tab.text("live")

    press(tab, "#elemental_gallery button")
    viewer = tab.page.locator("#elemental_viewer")
    viewer.wait_for()
    tab.page.keyboard.press("Escape")
    viewer.wait_for(state="hidden")

    start_over(tab)
    press(tab, "#elemental_save > .label-wrap")
    fill(tab, "name", "by-keyboard")
    assert "Saved by-keyboard.safetensors" in run(tab, "run_save")
    assert (site.models / "by-keyboard.safetensors").is_file()
    run(tab, "restore")
    assert "merge active" not in tab.text("live")


def test_a_plot_is_made(tab: Page, site: Site) -> None:
    open_panel(tab, "XY plot")
    choose(tab, "x_type", "alpha")
    fill(tab, "x_values", "0, 1")
    assert tab.read("x_type") == "alpha"
    assert "2 images" in run(tab, "run_plot")
    assert list(site.output.rglob("grid*.png"))


def test_a_check_is_made(tab: Page) -> None:
    open_panel(tab, "Element check")
    fill(tab, "elements", "OUT03:attn2, OUT05")
    run(tab, "run_check")
    row = tab.page.locator("#elemental_table tbody tr").filter(has_text="OUT05")
    row.wait_for()
    press(tab, "#elemental_table tbody tr :is(button, [tabindex])")


def test_images_are_compared(tab: Page) -> None:
    fill(tab, "batch", "2")
    run(tab, "run_both")
    press(tab, "#elemental_gallery button")
    viewer = tab.page.locator("#elemental_viewer")
    viewer.wait_for()
    for key in ("p", "ArrowRight"):
        tab.page.keyboard.press(key)
    tab.wait(lambda: viewer.get_attribute("data-mode") == "slider", "the slider")
    tab.page.keyboard.press("d")
    tab.wait(lambda: "changed" in viewer.locator(".legend").inner_text(), "the difference")
    tab.page.keyboard.press("Space")
    tab.wait(lambda: viewer.locator(".caption").inner_text().startswith("Pinned"), "the pinned image")
    tab.page.keyboard.press("Escape")
    viewer.wait_for(state="hidden")
