"""The axes of the plot panel in a browser: picking values, hints, swapping, a third axis, times, the tick box."""

from __future__ import annotations

import json
import shutil
from typing import Any

import pytest

from elemental.images.files import read_image, read_texts
from elemental.session.preset_stores import SpecPresets

from .browser import Page
from .noise_tab import fresh_site, kept, noise_site, noise_tab, one_browser, say  # noqa: F401
from .serving import Site

pytest.importorskip("gradio")

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """No time of another test's images is known."""
    monkeypatch.setenv("ELEMENTAL_CACHE", str(tmp_path / "cache"))


def open_plot(tab: Page, **axes: tuple[str, str]) -> None:
    """Open the panel and set axes."""
    tab.panel("XY plot")
    for side, (kind, values) in axes.items():
        if tab.read(f"{side}_type") != kind:
            tab.choose(f"{side}_type", kind)
        tab.write(f"{side}_values", values)


def pick(tab: Page, side: str, value: str) -> None:
    """Pick a value from the list of an axis."""
    tab.page.locator(f"#elemental_{side}_hint [data-pick]").select_option(value)


def shows(tab: Page, name: str) -> bool:
    return bool(tab.page.locator(f"#elemental_{name}:visible").count())


def test_values_are_picked(tab: Page, site: Site) -> None:
    shutil.copy(site.models / "a.safetensors", site.models / "a, two.safetensors")
    site.host.refresh()
    SpecPresets().save("mine", "# of mine\nOUT05:attn2:0.5\n\nOUT06:ff:1\n")
    open_plot(tab, x=("mode", ""))
    pick(tab, "x", "triple-sum")
    say(tab, "x_values", "triple-sum")
    pick(tab, "x", "weight-sum")
    say(tab, "x_values", "triple-sum, weight-sum")
    tab.choose("x_type", "model-b")
    tab.wait(lambda: "Files" in tab.text("x_hint"), "the hint")
    tab.write("x_values", "b.safetensors")
    pick(tab, "x", "a, two.safetensors")
    say(tab, "x_values", 'b.safetensors, "a, two.safetensors"')
    pick(tab, "x", "a, two.safetensors")  # the same again
    say(tab, "x_values", 'b.safetensors, "a, two.safetensors", "a, two.safetensors"')
    tab.choose("x_type", "elemental")
    tab.wait(lambda: "Specs" in tab.text("x_hint"), "the hint")
    tab.write("x_values", "OUT03::1")
    pick(tab, "x", "mine")
    say(tab, "x_values", "OUT03::1\n\n# of mine\nOUT05:attn2:0.5\nOUT06:ff:1")
    tab.choose("x_type", "alpha")
    tab.wait(lambda: "0-1(+0.25)" in tab.text("x_hint") and not shows(tab, "x_hint [data-pick]"), "no list for numbers")


def test_x_and_y_are_swapped(tab: Page) -> None:
    open_plot(tab, x=("sampler", "Euler a"))
    tab.press("swap_axes")
    tab.wait(lambda: "Choose an axis for Y" in tab.text("plot_answer"), "what is missing")
    open_plot(tab, y=("alpha", "0, 1"))
    tab.press("swap_axes")
    say(tab, "x_values", "0, 1")
    say(tab, "y_values", "Euler a")
    say(tab, "x_type", "alpha")
    say(tab, "y_type", "sampler")
    tab.wait(lambda: shows(tab, "y_hint [data-pick]") and not shows(tab, "x_hint [data-pick]"), "the lists to follow")
    pick(tab, "y", "Euler")
    say(tab, "y_values", "Euler a, Euler")


def test_a_cell_of_the_second_grid_is_used(tab: Page, site: Site) -> None:
    tab.write("prompt", "a cat")
    open_plot(tab, x=("alpha", "0.25, 0.75"), y=("seed", "11, 12"), z=("elemental", "OUT03::1\n\nOUT05:attn2:0.5"))
    tab.press("estimate_plot")
    tab.wait(lambda: "8 images, 4 merges. How long it takes is not known" in tab.text("plot_answer"), "no time")
    assert "8 images" in tab.job("run_plot")
    tab.press("estimate_plot")
    tab.wait(lambda: "8 images, 4 merges. About " in tab.text("plot_answer"), "the time that was measured")
    assert tab.text("plot_answer").strip().endswith("s an image.")
    grids = tab.page.locator("#elemental_products img")
    tab.wait(lambda: grids.count() == 2, "two grids")
    tab.screenshot("third-axis")
    grids.nth(1).click()
    image = tab.page.locator("#elemental_viewer .stage img").first
    tab.wait(lambda: "grid-2of2" in str(image.get_attribute("src")), "the second grid")
    assert "grid-2of2.png, OUT05:attn2:0.5" in str(image.get_attribute("alt"))
    (grid,) = site.output.glob("plots/*/grid-2of2.png")
    places, (width, height) = json.loads(read_texts(grid)["elemental_cells"]), read_image(grid).size
    tab.wait(lambda: bool(image.evaluate("image => image.complete && image.naturalWidth > 0")), "its image")
    tab.page.locator("#elemental_viewer").press("c")
    box = image.bounding_box()
    x, y = sum(places["columns"][1]) / 2 / width, sum(places["rows"][0]) / 2 / height
    tab.page.mouse.click(box["x"] + x * box["width"], box["y"] + y * box["height"])
    say(tab, "spec", "OUT05:attn2:0.5")
    say(tab, "alpha", "0.75")
    say(tab, "seed", "11")
    assert tab.page.locator("#elemental_spec").is_visible()


def test_a_third_axis_comes_back_from_the_history_and_after_a_reload(tab: Page) -> None:
    open_plot(tab, x=("alpha", "0, 1"), z=("cfg", "1, 4"))
    tab.job("run_plot")
    tab.choose("z_type", "none")
    tab.wait(lambda: not shows(tab, "z_values"), "no values without an axis")
    tab.panel("History")
    tab.press("refresh_history")
    newest = tab.page.locator("#elemental_history tbody tr").first
    tab.wait(lambda: "alpha: 0, 1; cfg: 1, 4" in newest.inner_text(), "its axes")
    newest.locator("[data-entry]").click()
    say(tab, "z_type", "cfg")
    say(tab, "z_values", "1, 4")
    kept(tab, '\\"z\\":')
    tab.page.reload()
    tab.ready()
    tab.panel("XY plot")
    say(tab, "z_type", "cfg")
    say(tab, "z_values", "1, 4")


def test_the_first_image_is_without_rules(tab: Page, site: Site) -> None:
    box = tab.page.locator("#elemental_without_rules input")
    open_plot(tab, x=("elemental", "OUT03::1\n\nOUT05::1"))
    box.check()
    tab.press("estimate_plot")
    tab.wait(lambda: "3 images" in tab.text("plot_answer"), "one more")
    tab.job("run_plot")
    (grid,) = site.output.glob("plots/*/grid.png")
    cells = json.loads(grid.with_name("run.json").read_text())["cells"]
    assert [cell["x"] for cell in cells.values()] == ["no rules", "OUT03::1", "OUT05::1"]
    box.uncheck()
    tab.write("x_values", "\n\nOUT03::1\n\nOUT05::1")  # as it was written before there was the box
    tab.press("estimate_plot")
    tab.wait(lambda: "3 images" in tab.text("plot_answer"), "the same")
    tab.write("x_values", "x")
    tab.panel("History")
    tab.page.locator("#elemental_recipe_file input[type=file]").set_input_files(grid)
    say(tab, "x_values", "OUT03::1\n\nOUT05::1")
    tab.wait(box.is_checked, "the tick")
    tab.choose("x_type", "alpha")
    tab.wait(lambda: not shows(tab, "without_rules"), "no box for numbers")
    tab.wait(lambda: not tab.page.locator("ul.options:visible").count(), "the list to be closed again")
