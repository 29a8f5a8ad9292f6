"""One page, one form: each gets its own whole after a reload and a restart, and can undo what was done to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .browser import Page
from .noise_tab import fresh_site, kept, noise_site, noise_tab, one_browser, open_page, say  # noqa: F401
from .serving import Site, served

pytest.importorskip("gradio")

pytestmark = pytest.mark.slow

STORE = "text => { sessionStorage.setItem('elemental_page', text); Storage.prototype.setItem = () => {}; }"
"""Has a page keep a text, and nothing after it."""

CELL = """([row, column]) => {
    const rows = Array.from(document.querySelectorAll(".elemental-map tbody tr"));
    const cell = rows.find((found) => found.cells[0].textContent === row).cells[column];
    for (const type of ["pointerdown", "mousedown", "mouseup", "click"]) {
        cell.dispatchEvent(new MouseEvent(type, {bubbles: true, button: 0}));
    }
}"""


def fill(page: Page, *, model_b: str, spec: str, values: str, prompt: str) -> None:
    """Fill fields of several panels: lists, texts, a number, a tick box."""
    page.choose("model_b", model_b)
    page.options()
    page.choose("vae", "from B")
    page.write("spec", spec)
    page.write("prompt", prompt)
    page.write("seed", "77")
    page.panel("XY plot")
    page.choose("x_type", "alpha")
    page.write("x_values", values)
    page.page.locator("#elemental_compare input").check()
    page.panel("Element check")
    page.write("elements", f"OUT03, {values}")
    page.panel("Merge")


def says(page: Page, *, model_b: str, spec: str, values: str, prompt: str) -> None:
    """Look at the same fields."""
    page.options()
    for name, text in (("model_b", model_b), ("vae", "from B"), ("spec", spec), ("prompt", prompt), ("seed", "77")):
        say(page, name, text)
    page.panel("XY plot")
    say(page, "x_values", values)
    assert page.read("x_type") == "alpha"
    assert page.page.locator("#elemental_compare input").is_checked()
    page.panel("Element check")
    say(page, "elements", f"OUT03, {values}")
    page.panel("Merge")


ONE = {"model_b": "b.safetensors", "spec": "OUT03:attn2:1\n# one", "values": "0, 0.5", "prompt": "the first"}
OTHER = {"model_b": "a.safetensors", "spec": "OUT04::0.25", "values": "1", "prompt": "the second"}


def test_two_pages_have_each_its_own_form(tab: Page, site: Site, chromium: Any, tmp_path: Path) -> None:
    other = open_page(chromium, site.url, tmp_path)
    fill(tab, **ONE)
    fill(other, **OTHER)
    other.write("alpha", "0.125")
    other.page.reload()  # right after typing: nothing was kept of it yet
    tab.page.reload()
    tab.ready()
    other.ready()
    says(tab, **ONE)
    says(other, **OTHER)
    say(other, "alpha", "0.125")
    assert other.errors == []
    other.page.context.close()


def test_a_page_gets_its_form_back_after_a_restart(chromium: Any, tmp_path: Path) -> None:
    with served(tmp_path, noise=True) as site:
        page = open_page(chromium, site.url, tmp_path)
        fill(page, **ONE)
        kept(page, "the first")
        port = int(site.url.rstrip("/").rpartition(":")[2])
    with served(tmp_path, noise=True, port=port) as site:
        page.page.reload()
        page.ready()
        says(page, **ONE)
        new = open_page(chromium, site.url, tmp_path)  # one that has nothing of its own
        say(new, "model_b", "b.safetensors")
        new.page.context.close()
        page.page.context.close()


def test_what_a_page_kept_may_be_anything(tab: Page) -> None:
    tab.write("spec", "OUT03::1")
    kept(tab, "OUT03::1")
    for broken in (
        '{"page": "{\\"alpha\\": \\"x\\", \\"mode\\": 5, \\"vae\\": [], \\"spec\\": \\"OUT05::1\\", \\"steps\\": {}}"}',
        '{"page": "[1]", "texts": {"elemental_spec": "OUT05::1", "elemental_alpha": "x", "elemental_mode": "none"}}',
    ):
        tab.page.evaluate(STORE, broken)
        tab.page.reload()
        tab.ready()
        say(tab, "spec", "OUT05::1")
        assert tab.read("mode") == "weight-sum"
        tab.report("1 rule sets")


def test_the_map_a_sample_and_a_swap_are_undone_and_redone(tab: Page) -> None:
    undo = tab.page.locator("[data-step='-1']")
    redo = tab.page.locator("[data-step='1']")
    kept(tab, "b.safetensors")
    assert undo.is_disabled()
    tab.page.evaluate(CELL, ["cross-attention", 24])
    say(tab, "spec", "OUT09:attn2:1")
    kept(tab, "OUT09:attn2")
    tab.press("swap")
    say(tab, "model_a", "b.safetensors")
    kept(tab, '\\"model_a\\": \\"b.safetensors')
    tab.panel("XY plot")
    tab.choose("plot_sample", "2  Rules on top of other rules")
    tab.wait(lambda: tab.read("x_type") == "add-elemental", "the sample")
    kept(tab, "add-elemental")
    tab.panel("Merge")
    say(tab, "spec", "OUT00-OUT11:attn2:1")
    undo.click()
    say(tab, "spec", "OUT09:attn2:1")
    assert tab.read("model_a") == "b.safetensors"
    tab.page.locator(".elemental-map").focus()
    tab.page.keyboard.press("Control+z")
    say(tab, "model_a", "a.safetensors")
    tab.page.keyboard.press("Control+z")
    say(tab, "spec", "")
    tab.report("tensors differ")
    assert undo.is_disabled()
    tab.page.keyboard.press("Control+Shift+Z")
    say(tab, "spec", "OUT09:attn2:1")
    tab.page.keyboard.press("Control+y")
    say(tab, "model_a", "b.safetensors")
    tab.page.reload()
    tab.ready()
    say(tab, "model_a", "b.safetensors")
    redo.click()
    say(tab, "spec", "OUT00-OUT11:attn2:1")
    tab.wait(redo.is_disabled, "the last step")


def test_typing_is_undone_by_the_browser_first(tab: Page) -> None:
    tab.page.evaluate(CELL, ["cross-attention", 24])
    say(tab, "spec", "OUT09:attn2:1")
    kept(tab, "OUT09:attn2")
    area = tab.page.locator("#elemental_spec textarea")
    area.focus()
    area.press("End")
    area.press_sequentially("  # x")
    kept(tab, "# x")
    area.press("Control+z")
    tab.wait(lambda: tab.read("spec").startswith("OUT09:attn2:1") and "# x" not in tab.read("spec"), "undo")
    for _ in range(8):
        if tab.read("spec") == "":
            break
        area.press("Control+z")
        tab.page.wait_for_timeout(900)
    say(tab, "spec", "")


def test_a_step_is_no_more_than_what_was_done_last(tab: Page) -> None:
    kept(tab, "b.safetensors")
    tab.page.locator("#elemental_spec textarea").press_sequentially("OUT03::1")
    tab.page.evaluate(CELL, ["cross-attention", 24])  # before the typing was kept
    say(tab, "spec", "OUT03::1\nOUT09:attn2:1")
    kept(tab, "OUT09:attn2")
    tab.page.locator("[data-step='-1']").click()
    say(tab, "spec", "OUT03::1")
    tab.page.locator("[data-step='-1']").click()
    say(tab, "spec", "")
