"""The way back into the form: the history, dropped files, presets and samples, and what is copied; in a browser."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from elemental.images.files import read_texts
from elemental.session.session import session_of
from elemental.workflows import user_presets_path

from .browser import Page
from .noise_tab import fresh_site, kept, noise_site, noise_tab, one_browser, say  # noqa: F401
from .serving import Site

pytest.importorskip("gradio")

pytestmark = pytest.mark.slow

CLEAR = "#elemental_recipe_file button[aria-label*=lear], #elemental_recipe_file button[aria-label*=emove]"


def run_plot(tab: Page) -> None:
    tab.panel("XY plot")
    tab.choose("x_type", "alpha")
    tab.write("x_values", "0, 0.5")
    tab.choose("y_type", "seed")
    tab.write("y_values", "1, 2")
    tab.job("run_plot")


def drop(tab: Page, path: Path) -> None:
    """Give a file to the panel."""
    tab.page.locator("#elemental_recipe_file input[type=file]").set_input_files(path)


def open_history(tab: Page, entries: int) -> None:
    tab.panel("History")
    tab.press("refresh_history")
    rows = tab.page.locator("#elemental_history tbody tr")
    tab.wait(lambda: rows.count() == entries, f"{entries} entries")


def test_an_entry_goes_back_to_its_panel(tab: Page) -> None:
    tab.write("prompt", "a blue square")
    tab.write("seed", "99")
    tab.write("spec", "OUT03:attn2:1")
    tab.report("1 rule sets")
    tab.job("run_both")
    run_plot(tab)
    tab.panel("Merge")
    tab.write("spec", "")
    tab.write("prompt", "something else")
    tab.write("seed", "1")
    open_history(tab, 2)
    newest = tab.page.locator("#elemental_history tbody tr").first
    assert "alpha: 0, 0.5; seed: 1, 2" in newest.inner_text()
    assert tab.page.locator("#elemental_history td.image img").count() == 2
    tab.screenshot("history")
    newest.locator("[data-entry]").click()
    tab.page.locator("#elemental_x_type").wait_for()
    say(tab, "x_values", "0, 0.5")
    assert tab.read("prompt") == "something else"
    open_history(tab, 2)
    tab.page.locator("[data-entry-all]").last.click()
    tab.page.locator("#elemental_spec").wait_for()
    say(tab, "spec", "OUT03:attn2:1")
    say(tab, "prompt", "a blue square")
    say(tab, "seed", "99")
    assert tab.page.locator("#elemental_spec").is_visible()


def test_entries_are_searched_starred_and_deleted(tab: Page, site: Site) -> None:
    for spec in ("OUT03:attn2:1", "OUT04::0.25"):
        tab.write("spec", spec)
        tab.report("1 rule sets")
        tab.job("run_merge")
    open_history(tab, 2)
    rows = tab.page.locator("#elemental_history tbody tr")
    tab.write("history_search", "attn2 merge")
    tab.wait(lambda: rows.count() == 1 and "OUT03" in rows.first.inner_text(), "the one that is searched for")
    tab.page.locator("[data-star]").click()
    tab.wait(lambda: tab.page.locator("[data-star][aria-pressed=true]").count() == 1, "the star")
    tab.write("history_search", "")
    tab.wait(lambda: rows.count() == 2, "both")
    tab.page.locator("#elemental_history_starred input").check()
    tab.wait(lambda: rows.count() == 1, "the starred one")
    tab.page.locator("#elemental_history_starred input").uncheck()
    tab.wait(lambda: rows.count() == 2, "both again")
    tab.page.locator("[data-delete]").first.click()
    tab.wait(lambda: rows.count() == 1 and "OUT03" in rows.first.inner_text(), "the other one to be gone")
    (entry,) = session_of(site.host).history.entries()
    assert entry.starred


def test_dropped_files_fill_the_page(tab: Page, site: Site) -> None:
    tab.write("prompt", "a blue square")
    tab.write("spec", "OUT03:attn2:1")
    tab.report("1 rule sets")
    tab.job("run_both")
    run_plot(tab)
    (image,) = (site.output / "images").glob("*.png")
    (grid,) = site.output.glob("plots/*/grid.png")
    tab.write("prompt", "x")
    tab.write("x_values", "")
    tab.panel("Merge")
    tab.write("spec", "")
    tab.panel("History")
    failed: list[str] = []
    tab.page.on("response", lambda response: failed.append(response.url) if response.status >= 500 else None)
    drop(tab, image)
    tab.page.locator("#elemental_spec").wait_for()
    say(tab, "spec", "OUT03:attn2:1")
    say(tab, "prompt", "a blue square")
    assert tab.read("seed") == read_texts(image)["parameters"].partition("Seed: ")[2].partition(",")[0]
    tab.panel("History")
    tab.page.locator(CLEAR).first.click()
    tab.page.locator("#elemental_recipe_file input[type=file]").wait_for(state="attached")
    drop(tab, grid)
    tab.page.locator("#elemental_x_type").wait_for()
    say(tab, "x_values", "0, 0.5")
    say(tab, "y_values", "1, 2")
    assert failed == []


def test_a_file_that_says_nothing_is_named_without_its_folder(tab: Page, tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text("{broken")
    tab.panel("History")
    drop(tab, tmp_path / "mine.json")
    tab.wait(lambda: "mine.json" in tab.text("history_answer"), "the answer")
    assert "/" not in tab.text("history_answer")


def test_the_same_preset_and_sample_can_be_chosen_again(tab: Page) -> None:
    tab.page.get_by_text("Block weights (MBW)").click()
    for _ in range(2):
        tab.choose("preset", "ALL_B")
        tab.wait(lambda: tab.read("blocks").startswith("1,1,1,1"), "the preset")
        say(tab, "preset_name", "ALL_B")
        tab.write("blocks", "")
    tab.panel("XY plot")
    for _ in range(2):
        tab.choose("plot_sample", "5  Two block weight presets over two seeds")
        tab.wait(lambda: "GRAD_V" in tab.read("x_values"), "the sample")
        tab.write("x_values", "")


def test_presets_are_saved_renamed_and_deleted(tab: Page) -> None:
    path = user_presets_path()
    tab.page.get_by_text("Spec presets").click()
    tab.write("spec", "# outlines\nOUT03:attn2:1")
    tab.write("spec_preset_name", "outlines")
    tab.press("spec_preset_save")
    tab.wait(lambda: "Saved outlines" in tab.text("spec_preset_answer"), "it to be saved")
    tab.write("spec_preset_name", "faces")
    tab.press("spec_preset_rename")
    tab.wait(lambda: "to faces" in tab.text("spec_preset_answer"), "it to be renamed")
    tab.write("spec", "")
    tab.page.locator("#elemental_spec_preset input").first.click()
    tab.page.locator("ul.options li:visible, ul[role=listbox] li:visible").filter(has_text="faces").first.click()
    say(tab, "spec", "# outlines\nOUT03:attn2:1")
    tab.screenshot("spec-preset")
    tab.press("spec_preset_delete")
    tab.wait(lambda: "Deleted faces" in tab.text("spec_preset_answer"), "it to be deleted")
    tab.page.get_by_text("Block weights (MBW)").click()
    tab.write("blocks", ",".join(["0.25"] * 26))
    tab.write("preset_name", "GRAD_V")
    tab.press("preset_save")
    tab.wait(lambda: "already" in tab.text("preset_answer"), "it to be asked for again")
    tab.write("preset_name", "quarter")
    tab.press("preset_save")
    tab.wait(lambda: "Saved QUARTER" in tab.text("preset_answer"), "it to be saved")
    assert "QUARTER: 0.25,0.25" in path.read_text()
    tab.write("blocks", "quarter")  # as on the command line
    tab.report("tensors differ")
    cell = tab.page.locator(".elemental-map td.e[data-r='0.25']").first
    tab.wait(lambda: cell.count() == 1, "the map")
    tab.press("preset_delete")
    tab.wait(lambda: "Deleted" in tab.text("preset_answer"), "it to be deleted")
    tab.write("blocks", "")
    tab.report("tensors differ")


def test_a_saved_file_is_in_the_lists(tab: Page) -> None:
    tab.page.get_by_text("Save ...").click()
    tab.write("name", "fresh")
    tab.job("run_save")
    tab.page.wait_for_timeout(500)
    tab.choose("model_b", "fresh.safetensors")
    tab.report("tensors")


def test_beta_is_painted_and_has_sliders(tab: Page) -> None:
    tab.choose("mode", "sum-twice")
    tab.choose("model_c", "b.safetensors")
    tab.report("tensors differ")
    tab.page.locator("#elemental_brush").fill("0.75")
    rows = tab.page.locator(".elemental-map[data-ratio=beta] tbody tr")
    names = [name.strip() for name in rows.locator("th").all_inner_texts()]
    rows.nth(names.index("cross-attention")).locator("td").nth(23).click()
    say(tab, "spec", "OUT09:attn2:0.5:0.75")
    tab.report("1 rule sets")
    tab.page.get_by_text("Block weights (MBW)").click()
    slider = tab.page.locator("#elemental_sliders_blocks_beta input[data-block=IN01]")
    slider.wait_for()
    slider.fill("1.5")
    tab.wait(lambda: tab.read("blocks_beta").split(",")[:4] == ["0.25", "0.25", "1.5", "0.25"], "the text")
    tab.screenshot("beta")


def test_the_merge_is_copied(tab: Page) -> None:
    tab.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    tab.write("spec", "OUT03:attn2:1")
    tab.report("1 rule sets")
    tab.page.get_by_text("Save ...").click()
    clipboard = "navigator.clipboard.readText()"
    tab.page.locator("[data-copy=command]").click()
    tab.wait(lambda: "elemental merge" in tab.page.evaluate(clipboard), "the command")
    assert "--elemental OUT03:attn2:1 -o merged.safetensors" in tab.page.evaluate(clipboard)
    tab.page.locator("[data-copy=recipe]").click()
    tab.wait(lambda: tab.page.evaluate(clipboard).startswith("{"), "the recipe")
    assert json.loads(tab.page.evaluate(clipboard))["rules"] == "OUT03:attn2:1"
