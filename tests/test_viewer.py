"""The right side in a real browser: images whole, the viewer, comparing, the strip, and what stays over jobs."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from PIL import Image

from .browser import Page
from .noise_tab import fresh_site, noise_site, noise_tab, one_browser  # noqa: F401
from .serving import Site

pytest.importorskip("gradio")

pytestmark = pytest.mark.slow

_INSIDE = "image => { const {top, bottom} = image.getBoundingClientRect(); return top >= 0 && bottom <= innerHeight; }"
_SCROLLS = """() => Array.from(document.querySelectorAll("#elemental_gallery, #elemental_gallery *"))
    .filter((part) => part.scrollHeight > part.clientHeight + 1 && getComputedStyle(part).overflowY !== "visible"
        && getComputedStyle(part).overflowY !== "hidden").length"""
_CONTRAST = """element => {
    const channels = (colour) => {
        const context = Object.assign(document.createElement("canvas"), {width: 1, height: 1}).getContext("2d");
        context.fillStyle = colour;
        context.fillRect(0, 0, 1, 1);
        return Array.from(context.getImageData(0, 0, 1, 1).data);
    };
    const light = (colour) => channels(colour).slice(0, 3).map((value) => value / 255)
        .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4))
        .reduce((sum, value, at) => sum + value * [0.2126, 0.7152, 0.0722][at], 0);
    let behind = element;
    while (behind && channels(getComputedStyle(behind).backgroundColor)[3] < 255) behind = behind.parentElement;
    const [one, other] = [getComputedStyle(element).color,
        behind ? getComputedStyle(behind).backgroundColor : "white"].map(light);
    return (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
}"""
"""As WCAG 2.1 defines it."""


def generate(tab: Page, count: int = 1) -> Any:
    """Make images, and give the first in the results."""
    tab.write("batch", str(count))
    tab.job("run_images")
    images = tab.page.locator("#elemental_gallery img")
    tab.wait(lambda: images.count() == count, "the images")
    tab.wait(lambda: bool(images.last.evaluate("image => image.complete && image.naturalWidth > 0")), "the last one")
    return images.first


def viewer(tab: Page) -> Any:
    return tab.page.locator("#elemental_viewer")


def caption(tab: Page) -> str:
    return str(viewer(tab).locator(".caption").inner_text())


def zoom(tab: Page) -> int:
    """Give the zoom in percent."""
    return int(caption(tab).rpartition("·")[2].strip(" %"))


def keys(tab: Page, *names: str) -> None:
    for name in names:
        tab.page.keyboard.press(name)


def place(tab: Page) -> tuple[float, float, float]:
    """Give the left and top edge of the image in the viewer, and its width."""
    box = viewer(tab).locator(".stage > img").bounding_box()
    assert box is not None
    return box["x"], box["y"], box["width"]


@pytest.mark.parametrize(("width", "height"), [(1366, 768), (1920, 1080), (2560, 1440)])
def test_an_image_is_shown_whole(tab: Page, width: int, height: int) -> None:
    tab.page.set_viewport_size({"width": width, "height": height})
    image = generate(tab)
    assert image.evaluate(_INSIDE)
    assert tab.page.evaluate(_SCROLLS) == 0
    results = tab.page.locator("#elemental_results").bounding_box()
    assert results is not None
    assert results["x"] + results["width"] > 0.95 * width  # a wide window is used


def test_the_viewer_is_opened_and_left_by_the_keyboard(tab: Page) -> None:
    generate(tab, 3)
    thumbnails = tab.page.locator("#elemental_gallery button:has(img)")
    thumbnails.nth(1).focus()
    keys(tab, "Enter")
    viewer(tab).wait_for()
    assert "seed 4" in caption(tab)
    assert "2 of 3 · 64 x 64" in caption(tab)
    assert tab.page.evaluate("document.elementFromPoint(20, 300).closest('#elemental_viewer') !== null")
    keys(tab, "ArrowRight")
    assert "seed 5" in caption(tab)
    keys(tab, "ArrowRight")
    assert "seed 3" in caption(tab)  # round to the first
    keys(tab, "ArrowLeft", "Escape")
    viewer(tab).wait_for(state="hidden")
    assert thumbnails.nth(2).evaluate("button => button === document.activeElement")
    assert tab.page.locator("#elemental_gallery .preview").count() == 0  # gradio's own


def test_one_zooms_and_pans(tab: Page) -> None:
    generate(tab).click()
    tab.wait(lambda: zoom(tab) > 100, "the whole image, larger than it is")
    whole, (left, top, width) = zoom(tab), place(tab)
    assert width / 64 == pytest.approx(whole / 100, abs=0.01)
    tab.page.mouse.move(left + width / 4, top + width / 4)
    tab.page.mouse.wheel(0, -400)
    tab.wait(lambda: zoom(tab) > 1.5 * whole, "the zoom")
    now = place(tab)
    assert now[1] + now[2] / 4 == pytest.approx(top + width / 4, abs=2)  # what is under the pointer stays
    keys(tab, "0", "+", "+", "+", "+")
    before = place(tab)
    keys(tab, "ArrowDown")
    assert place(tab)[1] == before[1] - 80
    assert "1 of 1" in caption(tab)
    tab.page.mouse.move(683, 300)
    tab.page.mouse.down()
    tab.page.mouse.move(683, 330, steps=3)
    tab.page.mouse.up()
    assert place(tab)[1] == before[1] - 50
    keys(tab, "1")
    assert zoom(tab) == 100
    keys(tab, "0")
    assert zoom(tab) == whole
    tab.page.mouse.dblclick(683, 300)
    tab.wait(lambda: zoom(tab) == min(2 * whole, 1600), "the double")


def test_full_screen_is_left_first(tab: Page) -> None:
    generate(tab).click()
    keys(tab, "f")
    full = "document.fullscreenElement !== null"
    tab.wait(lambda: bool(tab.page.evaluate(full)), "the full screen")
    keys(tab, "Escape")
    tab.wait(lambda: not tab.page.evaluate(full), "the window")
    assert viewer(tab).is_visible()
    keys(tab, "Escape")
    viewer(tab).wait_for(state="hidden")


def test_a_pinned_image_is_compared(tab: Page, site: Site) -> None:
    generate(tab, 2).click()
    buttons = viewer(tab).locator(".buttons button")
    assert buttons.filter(has_text="Slider").is_disabled()
    keys(tab, "p", "ArrowRight")
    assert viewer(tab).get_attribute("data-mode") == "slider"
    assert "Left, Pinned: a; seed 3" in caption(tab)
    assert "Right: a; seed 4" in caption(tab)
    clip = "viewer => viewer.querySelector('.over').style.clipPath"
    before = viewer(tab).evaluate(clip)
    tab.page.mouse.move(683, 300)
    tab.page.mouse.down()
    tab.page.mouse.move(760, 300, steps=3)
    tab.page.mouse.up()
    assert viewer(tab).evaluate(clip) != before
    keys(tab, "s", "s")  # off and on again: now the slider has the arrow keys
    tab.wait(lambda: bool(tab.page.evaluate("document.activeElement.type === 'range'")), "the slider")
    before = viewer(tab).evaluate(clip)
    keys(tab, "ArrowRight", "ArrowRight")
    assert viewer(tab).evaluate(clip) != before
    assert "2 of 2" in caption(tab)
    keys(tab, " ")
    assert caption(tab).startswith("Pinned: a; seed 3")
    assert viewer(tab).locator(".over").is_visible()
    keys(tab, " ")
    assert caption(tab).startswith("a; seed 4")
    assert not viewer(tab).locator(".over").is_visible()
    _look_at_the_difference(tab, site)
    keys(tab, "ArrowLeft", "p")
    assert buttons.filter(has_text="Slider").is_disabled()
    buttons.filter(has_text="Pin").click()
    keys(tab, "ArrowRight", " ")  # after a click, the keys are those of the image and not of the button
    assert caption(tab).startswith("Pinned: a; seed 3")


def _look_at_the_difference(tab: Page, site: Site) -> None:
    from elemental.images.diff import compare_images

    one, other = (Image.open(path) for path in sorted((site.output / "images").glob("*.png")))
    figures = compare_images(one.convert("RGB"), other.convert("RGB"))
    keys(tab, "d")
    legend = viewer(tab).locator(".legend")
    tab.wait(lambda: "changed" in legend.inner_text(), "the figures")
    said = f"changed {figures.share:.1f} %, mean {figures.mean:.2f}, largest {figures.largest} of 255"
    assert said in legend.inner_text()
    assert viewer(tab).locator("canvas").is_visible()
    tab.screenshot("difference")


def test_images_stay_over_jobs_that_make_none(tab: Page, site: Site) -> None:
    image = generate(tab)
    shown = image.get_attribute("src")
    assert not tab.page.locator("#elemental_made").first.is_visible()
    for name in ("run_merge", "restore"):
        tab.job(name)
        tab.wait(lambda: "Images of Generate" in tab.text("made"), "the line")
        assert image.get_attribute("src") == shown
    tab.page.reload()
    tab.ready()
    tab.wait(lambda: image.count() == 1, "the image after a reload")
    next(iter((site.output / "images").glob("*.png"))).unlink()
    tab.job("run_merge")
    assert "done" in tab.text("progress")  # though the file of the last images is gone


def test_the_strip_keeps_what_was_there_before(tab: Page) -> None:
    first = generate(tab).get_attribute("src")
    tab.write("seed", "8")
    tab.wait(lambda: generate(tab).get_attribute("src") != first, "another image")
    strip = tab.page.locator("#elemental_strip img")
    tab.wait(lambda: strip.count() == 1, "the strip")
    assert strip.first.get_attribute("src") == first
    strip.first.click()
    assert "seed 3" in caption(tab)
    keys(tab, "p", "ArrowLeft")
    assert "Right: a; seed 8" in caption(tab)  # also over jobs
    keys(tab, "Escape")
    tab.page.reload()
    tab.ready()
    tab.wait(lambda: strip.count() == 1, "the strip after a reload")
    tab.page.evaluate(
        """() => {
            const kept = JSON.parse(sessionStorage.getItem("elemental_viewer"));
            const gone = {src: kept.pinned.src.replace(".png", "-gone.png"), caption: "gone"};
            sessionStorage.setItem("elemental_viewer", JSON.stringify({...kept, earlier: [...kept.earlier, gone]}));
        }"""
    )
    tab.page.reload()
    tab.ready()
    tab.wait(lambda: strip.count() == 1, "the one whose file is gone to be dropped")
    tab.errors.clear()  # the browser notes that it was not found
    tab.page.locator(".elemental-clear").click()
    assert strip.count() == 0


def test_stop_can_be_pressed_while_a_job_runs(tab: Page, site: Site) -> None:
    stop = tab.page.locator("#elemental_stop")
    assert stop.is_disabled()
    begun, gate = threading.Event(), threading.Event()
    whole = site.host.make_images

    def slow(*args: Any, **options: Any) -> Any:
        begun.set()
        gate.wait(30)
        return whole(*args, **options)

    site.host.make_images = slow
    try:
        tab.press("run_images")
        tab.wait(begun.is_set, "the job")
        tab.wait(stop.is_enabled, "Stop")
        for dark in (False, True):
            tab.page.evaluate("dark => document.body.classList.toggle('dark', dark)", dark)
            tab.page.wait_for_timeout(400)  # colours change slowly
            assert stop.evaluate(_CONTRAST) >= 4.5
    finally:
        gate.set()
        site.host.make_images = whole
    tab.ended()
    tab.wait(stop.is_disabled, "Stop to have nothing to do")


def test_states_can_be_read_in_both_themes(tab: Page) -> None:
    tab.job("run_merge")
    tab.write("spec", "OUT11:atn2:0.5")
    tab.report("matches no tensor")
    for dark in (False, True):
        tab.page.evaluate("dark => document.body.classList.toggle('dark', dark)", dark)
        tab.page.wait_for_timeout(400)
        for words in (".elemental-live.active em", ".elemental-report .warning b", "#elemental_progress pre"):
            assert tab.page.locator(words).first.evaluate(_CONTRAST) >= 4.5, (words, dark)


def test_a_check_is_seen_as_a_gif_and_in_the_viewer(tab: Page) -> None:
    tab.panel("Element check")
    tab.write("elements", "OUT09, OUT09:attn1, OUT08")
    tab.job("run_check")
    tab.page.locator("#elemental_table tbody tr").first.click()
    change = tab.page.locator("#elemental_gif_view img")
    change.wait_for()
    for name in ("products", "gallery"):
        tab.page.locator(f"#elemental_{name} img").first.wait_for()
    grid = tab.page.locator("#elemental_products img").first.bounding_box()
    results = tab.page.locator("#elemental_results").bounding_box()
    assert grid is not None
    assert results is not None
    assert grid["width"] > 0.9 * results["width"]
    change.focus()
    keys(tab, "Enter")
    viewer(tab).wait_for()
    assert "1 of 7" in caption(tab)  # the GIF, the grid and the chart, and four images
    keys(tab, "ArrowRight")
    assert "Element check: grid.png" in caption(tab)
    keys(tab, "End")
    assert "OUT08 at ratio 1; changed " in caption(tab)
    assert "; seed 3" in caption(tab)


def test_a_narrow_window_goes_to_the_results(tab: Page) -> None:
    tab.page.set_viewport_size({"width": 400, "height": 800})
    form, results = (tab.page.locator(f"#elemental_{name}").first.bounding_box() for name in ("controls", "results"))
    assert form is not None
    assert results is not None
    assert results["y"] > form["y"]
    tab.page.locator("#elemental_run_images").scroll_into_view_if_needed()
    image = generate(tab)
    top = tab.page.locator("#elemental_live").first.bounding_box()
    assert top is not None
    assert -1 <= top["y"] < 400
    assert tab.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    image.click()
    assert "seed 3" in caption(tab)
    tab.screenshot("narrow-viewer")


def test_an_image_and_a_cell_of_a_grid_are_used(tab: Page) -> None:
    tab.write("spec", "OUT05::1")
    tab.report("1 rule sets")
    tab.job("run_both")
    tab.write("spec", "")
    tab.write("prompt", "another")
    tab.report("tensors differ")
    tab.page.locator("#elemental_gallery img").first.click()
    keys(tab, "u")
    tab.wait(lambda: tab.read("spec") == "OUT05::1", "the image's spec")
    tab.wait(lambda: tab.read("prompt") != "another", "its prompt")
    assert not viewer(tab).is_visible()
    tab.wait(lambda: "The form is filled in from 00000-3.png." in tab.text("filled"), "what was done")
    tab.panel("XY plot")
    tab.choose("x_type", "alpha")
    tab.write("x_values", "0, 0.75")
    tab.job("run_plot")
    tab.page.locator("#elemental_products img").first.click()
    assert viewer(tab).get_by_text("Use a cell").is_enabled()
    keys(tab, "c")
    assert caption(tab).startswith("Click the cell to use.")
    left, top, width = place(tab)
    tab.page.mouse.click(left + 0.75 * width, top + 0.5 * width)
    tab.wait(lambda: tab.read("alpha") == "0.75", "the cell's alpha")
    tab.wait(lambda: tab.page.locator("#elemental_spec").is_visible(), "the panel that it belongs to")


def test_a_table_of_a_check_is_sorted_and_its_rows_are_used(tab: Page) -> None:
    tab.panel("Element check")
    tab.write("elements", "OUT03:attn2, OUT04:attn1, OUT05")
    tab.job("run_check")
    rows = tab.page.locator("#elemental_table tbody tr")
    tab.wait(lambda: rows.count() == 3, "the table")
    names = [rows.nth(row).locator("td").nth(1).inner_text() for row in range(3)]
    tab.page.locator("#elemental_table [data-sort='1']").click()
    assert [rows.nth(row).locator("td").nth(1).inner_text() for row in range(3)] == sorted(names)
    tab.page.locator("#elemental_table [data-sort='1']").click()
    assert [rows.nth(row).locator("td").nth(1).inner_text() for row in range(3)] == sorted(names, reverse=True)
    tab.page.locator("#elemental_table [data-sort='3']").click()
    means = [float(rows.nth(row).locator("td").nth(3).inner_text()) for row in range(3)]
    assert means == sorted(means, reverse=True)
    rows.filter(has_text="OUT04:attn1").locator("[data-use]").click()
    tab.wait(lambda: tab.read("spec") == "OUT04:attn1:1", "the rule of the row")
    tab.panel("Merge")
    tab.write("spec", "")
    tab.report("tensors differ")
