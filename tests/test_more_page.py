"""Further models and adjustments in the tab, in a browser: added, merged, kept, and back from the history."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from elemental.cli.main import DONE, main
from elemental.workflows import read_recipe

from .browser import Page
from .noise_tab import fresh_site, kept, noise_site, noise_tab, one_browser, say  # noqa: F401
from .serving import Site

pytest.importorskip("gradio")

pytestmark = pytest.mark.slow

_BOX = "#elemental_more_box"


def put_model(site: Site, name: str) -> Path:
    """Write a model between A and B into the host's folder."""
    a, b = (load_file(site.models / f"{letter}.safetensors") for letter in "ab")
    path = site.models / f"{name}.safetensors"
    save_file({key: a[key] + 0.3 * (b[key] - a[key]) if a[key].is_floating_point() else a[key] for key in a}, path)
    return path


def open_fold(tab: Page, name: str, field: str) -> None:
    if not tab.page.locator(f"#elemental_{field}").is_visible():
        tab.page.locator(f"#elemental_{name} > .label-wrap").click()
        tab.page.locator(f"#elemental_{field}").wait_for()


def add(tab: Page, name: str, ratio: str) -> None:
    tab.choose("more_model", name)
    tab.write("more_ratio", ratio)
    tab.press("more_add")


def legend(tab: Page) -> list[str]:
    return [str(text) for text in tab.page.locator(".elemental-key [data-end]").all_inner_texts()]


def test_the_file_is_that_of_the_command_line(tab: Page, site: Site, tmp_path: Path) -> None:
    path = put_model(site, "d")
    tab.press("refresh")
    open_fold(tab, "more_box", "more")
    assert tab.read("more_ratio") == "0.25"
    add(tab, "d.safetensors", "0.2")
    say(tab, "more", "d.safetensors:0.2")
    assert tab.read("more_model") == ""
    tab.report("With B2 d.safetensors:0.2.")
    tab.write("spec", "B2 OUT09:attn2:0.5")
    tab.report("1 rule sets ")
    tab.wait(lambda: tab.page.locator(".elemental-map[data-target=B2] [data-rules]").count() > 0, "the map of B2")
    tab.options()
    tab.write("adjust", "1,0,0,-2")
    tab.report("3 tensors adjusted: IN 1, CONT -2.")
    tab.screenshot("more")
    kept(tab, "1,0,0,-2")
    tab.page.reload()
    tab.ready()
    tab.options()
    say(tab, "adjust", "1,0,0,-2")
    open_fold(tab, "more_box", "more")
    say(tab, "more", "d.safetensors:0.2")
    tab.page.get_by_text("Save ...").click()
    tab.write("name", "mixed")
    assert "Saved mixed.safetensors" in tab.job("run_save")

    out = tmp_path / "mixed.safetensors"
    a, b = site.models / "a.safetensors", site.models / "b.safetensors"
    words = ["--more", f"{path}:0.2", "--elemental", "B2 OUT09:attn2:0.5", "--adjust", "1,0,0,-2"]
    assert main(["merge", str(a), str(b), "--alpha", "0.5", *words, "-o", str(out)]) == DONE
    assert load_file(site.models / "mixed.safetensors").keys() == load_file(out).keys()
    assert (site.models / "mixed.safetensors").read_bytes() == out.read_bytes()
    assert read_recipe(out).more[0].ratio == 0.2


def test_they_are_undone_hidden_by_the_mode_and_back_from_the_history(tab: Page, site: Site) -> None:
    put_model(site, "d")
    assert legend(tab) == ["0 (A)", "1 (B)"]
    tab.press("refresh")
    open_fold(tab, "more_box", "more")
    add(tab, "d.safetensors", "0.2")
    tab.report("With B2 d.safetensors:0.2.")
    tab.wait(lambda: legend(tab) == ["0", "1"], "a legend without models")
    kept(tab, "d.safetensors:0.2")
    tab.job("run_merge")
    assert "B2 0.2" in tab.text("live")
    undo = tab.page.locator("[data-step='-1']")
    tab.wait(undo.is_enabled, "something to undo")
    assert str(undo.get_attribute("title")).startswith("Undo: Further models")
    undo.click()
    say(tab, "more", "")

    tab.choose("mode", "slerp")
    tab.page.locator(_BOX).wait_for(state="hidden")
    tab.choose("mode", "add-difference")
    tab.page.locator(_BOX).wait_for()
    tab.wait(lambda: tab.read("more_ratio") == "1", "the usual ratio of the mode")
    tab.wait(lambda: "how much of its difference to C is added" in tab.text("more_hint"), "the hint")

    tab.panel("History")
    tab.press("refresh_history")
    tab.page.locator("#elemental_history [data-entry]").first.click()
    tab.page.locator("#elemental_spec").wait_for()
    say(tab, "more", "d.safetensors:0.2")
    tab.report("With B2 d.safetensors:0.2.")


def test_the_map_of_a_further_model_is_painted(tab: Page, site: Site) -> None:
    put_model(site, "d")
    tab.press("refresh")
    open_fold(tab, "more_box", "more")
    tab.write("more", "d.safetensors:0.2")
    tab.write("spec", "B2 OUT03:attn2:0.5")
    cells = tab.page.locator(".elemental-map[data-target=B2] tr[data-family=cross-attention] td.e")
    tab.wait(lambda: cells.count() > 0, "the map of B2")
    cells.nth(0).click()
    say(tab, "spec", "B2 OUT03:attn2:0.5\nB2 IN01:attn2:1")
    tab.report("2 rules set")


@pytest.mark.parametrize("width", [1366, 400])
def test_the_row_fits_the_page(tab: Page, width: int) -> None:
    tab.page.set_viewport_size({"width": width, "height": 900})
    open_fold(tab, "more_box", "more")
    tab.options()
    for field in ("more", "more_model", "more_ratio", "more_add", "adjust"):
        box = tab.page.locator(f"#elemental_{field}").bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
    tab.page.locator("#elemental_more").scroll_into_view_if_needed()
    tab.screenshot(f"more-{width}")
    tab.page.locator("#elemental_adjust").scroll_into_view_if_needed()
    tab.screenshot(f"adjust-{width}")
