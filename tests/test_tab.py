"""The tab in a real browser: each panel's main path, and what users meet when something is wrong."""

from __future__ import annotations

import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from elemental import MergeMode
from elemental.images.files import read_image, read_texts
from elemental.merge.files.metadata import recipe_from_metadata
from elemental.recipe.numbers import format_numbers, measured_numbers
from elemental.runs.simplify import SimplifyOrder
from elemental.session import simplify_jobs
from elemental.session.form import numbers_for
from elemental.session.session import session_of
from elemental.workflows import read_recipe

from .browser import Page
from .map_effects import demo_effects
from .serving import Site

pytest.importorskip("gradio")

pytestmark = pytest.mark.slow

SPEC = "OUT09::2\nIN00-IN05:ff:0.3"
_PAINT_AND_TYPE = """
text => {
    const rows = Array.from(document.querySelectorAll(".elemental-map tbody tr"));
    const cell = rows.find((row) => row.cells[0].textContent === "attn2.to_k").cells[24];
    for (const type of ["mousedown", "mouseup"]) cell.dispatchEvent(new MouseEvent(type, {bubbles: true, button: 0}));
    if (text === null) return;
    const area = document.querySelector("#elemental_spec textarea");
    area.value = text;
    area.dispatchEvent(new Event("input", {bubbles: true}));
}
"""
"""Clicks on a cell of OUT09, and types before the rule can be there."""


def live(tab: Page) -> str:
    return tab.text("live")


def test_a_merge_is_drawn_saved_and_given_back(tab: Page, site: Site) -> None:
    tab.write("spec", SPEC)
    tab.report("2 rules set 54 of 686 U-Net elements")
    tab.options()
    tab.page.locator("#elemental_print_change input").check()
    said = tab.job("run_both")
    assert "Merged in" in said
    assert "merge active" in live(tab)
    assert "OUT09::2" in live(tab)
    assert "rule 1: OUT09::2" in tab.text("details")
    (image,) = (site.output / "images").glob("00000-3.png")
    recipe = recipe_from_metadata(read_texts(image), name="the image")
    assert [str(rule) for rule in recipe.rules.rules] == SPEC.splitlines()
    tab.wait(lambda: tab.page.locator("#elemental_gallery img").count() >= 1, "the image")
    tab.screenshot("merge")

    tab.page.get_by_text("Save ...").click()
    tab.write("name", "../outside")
    tab.press("run_save")
    tab.wait(lambda: "is no name for a file" in tab.text("notice"), "the name to be refused")
    tab.write("name", "ab")
    assert "Saved ab.safetensors" in tab.job("run_save")
    assert [str(rule) for rule in read_recipe(site.models / "ab.safetensors").rules.rules] == SPEC.splitlines()
    assert "exists" in tab.job("run_save", ends="failed")

    merged = read_image(image).tobytes()
    tab.job("restore")
    assert "a.safetensors" in live(tab)
    assert "merge" not in live(tab)
    tab.job("run_images")
    plain = read_image(site.output / "images" / "00001-3.png").tobytes()
    assert plain != merged
    tab.write("spec", "")
    tab.report("tensors differ")

    tab.write("spec", "OUT08::0.5")  # what is saved is what was seen, whatever the form says by now
    tab.report("1 rule sets")
    tab.job("run_merge")
    tab.write("spec", "OUT03::0")
    tab.report("1 rule sets")
    tab.page.locator("#elemental_overwrite input").check()
    assert "not what the form says now" in tab.job("run_save")
    assert [str(rule) for rule in read_recipe(site.models / "ab.safetensors").rules.rules] == ["OUT08::0.5"]
    tab.panel("History")
    tab.press("refresh_history")
    newest = tab.page.locator("#elemental_history tbody tr").first
    tab.wait(lambda: "not what the form says" in newest.inner_text(), "the newest entry")
    newest.locator("[data-entry]").click()
    tab.panel("Merge")
    tab.wait(lambda: tab.read("spec") == "OUT08::0.5", "what was saved")


def test_a_mistake_is_shown_with_a_caret_and_mended(tab: Page) -> None:
    tab.write("spec", "OUT12:attn2:0.5")
    tab.report('unknown block "OUT12"')
    assert "^^^^^" in tab.text("report")
    assert "stale" in str(tab.page.locator("#elemental_map").first.get_attribute("class"))
    tab.screenshot("mistake")
    tab.press("run_merge")
    tab.wait(lambda: "unknown block" in tab.text("notice"), "the refusal")
    tab.write("spec", "OUT11:atn2:0.5")
    tab.report("warning")
    tab.report("matches no tensor")
    tab.write("spec", "OUT11:attn2:0.5")
    tab.report("1 rule sets 5 of 686 U-Net elements")
    assert "stale" not in str(tab.page.locator("#elemental_map").first.get_attribute("class"))


def test_fields_are_filled_though_gradio_listens_late(site: Site, chromium: Any, tmp_path: Path) -> None:
    """The WebUI's gradio has its buttons on the page before it listens to them; what is pressed then is lost."""
    context = chromium.new_context(viewport={"width": 1280, "height": 1000})
    context.set_default_timeout(30_000)
    context.add_init_script(
        """let lost = 3;
        addEventListener("click", (event) => {
            const hidden = event.target.closest("#elemental_boot, #elemental_sync");
            if (hidden && lost > 0) {
                lost -= hidden.id === "elemental_boot";
                event.stopImmediatePropagation();
            }
        }, true);"""
    )
    page = Page(context.new_page(), tmp_path / "screens")
    page.open(site.url)
    page.report("tensors differ")
    assert page.errors == []
    context.close()


def test_a_late_answer_does_not_stay(tab: Page) -> None:
    tab.write("spec", "OUT05:attn2:0.5")
    tab.report("1 rule sets")
    tab.page.evaluate(
        """() => {
            const report = document.querySelector(".elemental-report");
            report.dataset.number = "1";
            report.innerHTML = "<p>an answer about an older form</p>";
        }"""
    )
    tab.report("1 rule sets")


def test_fast_typing_ends_on_a_report_of_what_stands_there(tab: Page) -> None:
    area = tab.page.locator("#elemental_spec textarea")
    for _ in range(3):
        area.fill("")
        area.press_sequentially("OUT03 OUT04:attn2:0.5", delay=3)
        tab.report("1 rule sets 10 of 686 U-Net elements")


def test_cells_write_rules(tab: Page) -> None:
    tab.page.locator("#elemental_brush").fill("0.25")
    fold(tab, "cross-attention")
    cells = row_of(tab, "attn2.to_k").locator("td")
    cells.nth(18).hover()  # OUT04: BASE, 12 of IN, M00 and four of OUT stand before it
    tip = tab.page.locator("#elemental_tooltip")
    assert "model.diffusion_model.output_blocks.4.1.transformer_blocks.*.attn2.to_k" in tip.inner_text()
    assert "alpha 0.5\nfrom alpha" in tip.inner_text()
    tab.page.mouse.down()
    cells.nth(20).hover()
    tab.page.mouse.up()
    tab.wait(lambda: tab.read("spec") == "OUT04-OUT06:attn2.to_k:0.25", "the rule")
    tab.report("1 rule sets 3 of 686 U-Net elements")
    tab.page.locator("#elemental_brush").fill("1")
    cells.nth(18).click()
    tab.wait(lambda: tab.read("spec").endswith("\nOUT04:attn2.to_k:1"), "the second rule")
    cells.nth(18).click()
    tab.page.wait_for_timeout(300)
    assert tab.read("spec").count("\n") == 1  # the same cell again writes the same rule
    tab.report("2 rules set 3 of 686 U-Net elements")
    cells.nth(18).hover()
    tab.wait(lambda: "rule 2: OUT04:attn2.to_k:1" in tip.inner_text(), "the deciding rule")
    tab.write("spec", "OUT04:attn2.to_k:0.3  # mine")
    tab.report("1 rule sets")
    cells.nth(18).click()
    tab.wait(lambda: tab.read("spec") == "OUT04:attn2.to_k:0.3  # mine\nOUT04:attn2.to_k:1", "a rule below the comment")


def fold(tab: Page, family: str) -> None:
    tab.page.locator(f"[data-fold='{family}']").first.click()


def row_of(tab: Page, name: str) -> Any:
    rows = tab.page.locator(".elemental-map tbody tr")
    return rows.nth(next(i for i in range(rows.count()) if rows.nth(i).locator("th").inner_text().strip() == name))


def test_rows_fold_and_a_whole_family_is_painted(tab: Page) -> None:
    assert not row_of(tab, "attn2.to_k").is_visible()
    cell = row_of(tab, "cross-attention").locator("td").nth(19)
    cell.click()
    tab.wait(lambda: tab.read("spec") == "OUT05:attn2:1", "the rule of four layers")
    tab.report("1 rule sets 5 of 686")
    fold(tab, "cross-attention")
    assert row_of(tab, "attn2.to_k").is_visible()
    assert row_of(tab, "attn2.to_k").locator("td").nth(19).inner_text() == "1"
    tab.write("spec", "OUT05:attn2.to_q:0.5")
    tab.report("1 rule sets 1 of 686")
    assert row_of(tab, "attn2.to_k").is_visible()  # on the map that was drawn anew
    assert tab.page.locator("[data-fold='cross-attention']").first.get_attribute("aria-expanded") == "true"
    fold(tab, "cross-attention")
    assert not row_of(tab, "attn2.to_k").is_visible()


def test_a_column_is_chosen_by_its_name_and_used(tab: Page) -> None:
    bar = tab.page.locator(".elemental-selected")
    assert not bar.is_visible()
    tab.page.locator("#elemental_brush").fill("0.75")
    tab.page.locator(".elemental-map th[data-block=OUT05]").click()
    assert "tensors" in bar.locator("output").inner_text()
    bar.get_by_text("Set to ratio").click()
    tab.wait(lambda: tab.read("spec") == "OUT05::0.75", "the rule of the block")
    assert not bar.is_visible()
    tab.page.locator(".elemental-map th[data-block=OUT05]").click()
    tab.write("spec", "OUT04-OUT06::0.75")
    tab.report("1 rule sets")
    tab.wait(lambda: tab.page.locator(".elemental-map td.chosen").count() > 4, "the choice, on the map drawn anew")
    bar.get_by_text("Erase").click()
    tab.wait(lambda: tab.read("spec") == "OUT04 OUT06::0.75", "the rule without the block")
    row_of(tab, "feed-forward").locator("th").click()
    bar.get_by_text("Check these").click()
    elements = tab.page.locator("#elemental_elements textarea")
    tab.wait(lambda: elements.count() > 0 and "OUT11:ff" in elements.input_value().splitlines(), "the elements")
    tab.panel("Merge")


def test_ratios_rise_over_a_drag_that_escape_cancels(tab: Page) -> None:
    tab.page.locator("#elemental_brush").fill("0.2")
    tab.page.locator("#elemental_brush_end").fill("0.6")
    cells = row_of(tab, "cross-attention").locator("td")
    cells.nth(17).hover()
    tab.page.mouse.down()
    cells.nth(19).hover()
    tab.page.keyboard.press("Escape")
    tab.page.mouse.up()
    tab.page.wait_for_timeout(300)
    assert tab.read("spec") == ""
    cells.nth(17).hover()
    tab.page.mouse.down()
    cells.nth(19).hover()
    tab.page.mouse.up()
    rules = "OUT03:attn2:0.2\nOUT04:attn2:0.4\nOUT05:attn2:0.6"
    tab.wait(lambda: tab.read("spec") == rules, "a rule for each column")
    tab.page.locator("#elemental_brush_end").fill("")
    cells.nth(18).click(button="right")
    tab.page.locator("#elemental_menu").get_by_text("Erase").click()
    tab.wait(lambda: tab.read("spec") == "OUT03:attn2:0.2\nOUT05:attn2:0.6", "the rule erased")
    tab.page.locator(".elemental-tools fieldset").get_by_text("erase").click()
    cells.nth(17).click()
    tab.wait(lambda: tab.read("spec") == "OUT05:attn2:0.6", "the next erased")
    tab.page.locator(".elemental-tools fieldset").get_by_text("paint").click()


def test_the_map_is_painted_by_effect_and_its_first_cells_are_used(tab: Page, site: Site) -> None:
    tools = tab.page.locator(".elemental-effect-tools")
    assert not tools.is_visible()
    effects = demo_effects()
    previewer = session_of(site.host).previewer
    previewer.find_effects = lambda plan: effects if plan is not None else None
    try:
        tab.write("spec", "OUT11::1")
        tools.wait_for()
        _look_at_effects(tab)
        _choose_the_first(tab, len(effects.cells))
        _use_the_first(tab)
    finally:
        previewer.find_effects = None
    tab.write("spec", "")
    tools.wait_for(state="hidden")


def test_the_effect_map_is_made_and_shown(tab: Page, site: Site) -> None:
    tab.write("passes", "2")
    try:
        said = tab.job("run_effects", seconds=200)
        assert "2 backward passes in " in said
        tab.page.locator(".elemental-effect-tools").wait_for()
        assert "from 2 backward passes" in tab.page.locator(".elemental-legend").inner_text()
        assert tab.page.locator("#elemental_table tbody tr").count() == 20
        tab.report("of the change, 1,")  # of more than a thousand elements at alpha 0.5
        tab.write("spec", "NOT OUT03::0\nOUT03:NOT attn2:0")
        tab.report("of the change, 5 elements")
        tab.screenshot("effects")
        tab.write("passes", "0")
        tab.press("run_effects")
        tab.wait(lambda: "enter a whole number" in tab.text("notice"), "the number to be refused")
    finally:
        session_of(site.host).previewer.find_effects = None


def test_a_merge_is_simplified_and_put_into_the_form(tab: Page, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simplify_jobs, "SimplifyOrder", partial(SimplifyOrder, passes=3))
    tab.write("tolerance", "")
    tab.press("run_simplify")
    tab.wait(lambda: "Tolerance is blank" in tab.text("notice"), "the tolerance to be refused")
    tab.write("tolerance", "60")
    tab.wait(lambda: "Tolerance" not in tab.text("notice"), "the error to be gone")
    tab.write("spec", "OUT03:attn2:1")
    tab.report("1 rule sets")
    said = tab.job("run_simplify", seconds=200)
    assert "of what A's does" in said
    assert tab.page.locator("#elemental_products img").count() == 1
    assert tab.page.locator("#elemental_gallery img").count() >= 4
    tab.screenshot("simplified")
    job = session_of(site.host).board.job
    assert job is not None
    form = job.view.form
    assert form is not None
    tab.write("spec", "OUT04::0.25")  # while one looks at what was found
    tab.report("1 rule sets")
    tab.panel("History")
    tab.page.locator("[data-take]").click()
    tab.wait(lambda: tab.read("spec") == form.spec, "the spec that was found")
    tab.wait(lambda: tab.read("alpha") == "0", "alpha of what was found")
    assert tab.page.locator("#elemental_spec").is_visible()
    tab.wait(lambda: session_of(site.host).form == form, "the page's form to be the one that was found")
    before = {entry.kind: entry.form for entry in session_of(site.host).history.entries()}
    assert (before["simplify"]["spec"], before["form"]["spec"]) == ("OUT03:attn2:1", "OUT04::0.25")


def _look_at_effects(tab: Page) -> None:
    fold(tab, "cross-attention")
    largest = tab.page.locator(".elemental-map td[data-rank='1']")
    background = "cell => getComputedStyle(cell).backgroundImage + getComputedStyle(cell).backgroundPosition"
    assert "22, 6, 79" in largest.evaluate(background)
    assert tab.page.locator(".elemental-legend").is_visible()
    largest.hover()
    tip = tab.page.locator("#elemental_tooltip")
    count = tab.page.locator(".elemental-map td[data-rank]").count()
    assert f"estimate 20 of 255, rank 1 of {count}, 10 % of the change\nalpha" in tip.inner_text()
    tab.screenshot("effect-map")
    tab.page.locator(".elemental-effect-tools fieldset span").first.click()
    assert "linear-gradient(135deg" in largest.evaluate(background)
    assert not tab.page.locator(".elemental-legend").is_visible()
    tab.write("spec", "OUT10::1")  # the map is drawn anew, and stays as it was chosen
    tab.page.locator(".elemental-map td.ruled").first.wait_for()
    tab.report("1 rule sets")
    tab.page.wait_for_timeout(200)
    assert "linear-gradient(135deg" in largest.evaluate(background)
    tab.page.locator(".elemental-effect-tools fieldset span").last.click()
    assert "22, 6, 79" in largest.evaluate(background)


def _choose_the_first(tab: Page, count: int) -> None:
    said, first = tab.page.locator(".elemental-effect-tools output"), tab.page.locator(".elemental-map td.first")
    slider = tab.page.locator(".elemental-effect-tools [type=range]")
    buttons = tab.page.locator(".elemental-effect-tools button")
    assert said.inner_text() == f"of {count}"
    assert buttons.first.is_disabled()
    slider.fill("200")
    assert (tab.page.locator("#elemental_first").input_value(), first.count()) == (str(count), count)
    assert "100 % of the change" in said.inner_text()
    slider.fill("1")
    assert (tab.page.locator("#elemental_first").input_value(), first.count()) == ("1", 1)
    tab.page.locator("#elemental_first").fill("2")
    assert said.inner_text() == f"of {count}: 2 tensors, 19 % of the change"
    assert 1 < int(slider.input_value()) < 40
    tab.write("spec", "OUT09::1")
    tab.report("1 rule sets")
    tab.wait(lambda: first.count() == 2, "the same on the map that was drawn anew")
    tab.page.locator("#elemental_first").fill("9999")
    assert first.count() == count


def _use_the_first(tab: Page) -> None:
    tab.page.locator("#elemental_brush").fill("0.75")
    tab.page.locator("#elemental_first").fill("3")
    tab.write("spec", "")
    tab.page.locator("[data-chosen=rules]").click()
    tab.wait(lambda: tab.read("spec") == "OUT05 OUT07:attn2.to_k:0.75\nTE::0.75", "the rules")
    tab.report("2 rules set")
    tab.page.locator("[data-chosen=check]").click()
    elements = tab.page.locator("#elemental_elements textarea")
    elements.wait_for()
    tab.wait(lambda: elements.input_value() == "OUT05:attn2.to_k\nOUT07:attn2.to_k\nTE", "the elements to check")
    tab.press("estimate_check")
    tab.wait(lambda: "4 images" in tab.text("check_answer"), "the estimate, of the server's own field")
    tab.panel("Merge")


def test_an_edit_that_is_newer_than_the_answer_is_kept(tab: Page) -> None:
    tab.write("spec", "OUT11::1")
    tab.report("1 rule sets")
    fold(tab, "cross-attention")
    tab.page.evaluate(_PAINT_AND_TYPE, "OUT10::1  # typed meanwhile")
    tab.wait(lambda: tab.read("spec") == "OUT10::1  # typed meanwhile\nOUT09:attn2.to_k:1", "both")
    tab.page.evaluate(_PAINT_AND_TYPE, None)  # one stroke after the other, before the first is answered
    tab.page.evaluate(_PAINT_AND_TYPE, None)
    tab.report("2 rules set")
    tab.page.wait_for_timeout(500)
    assert tab.read("spec").count("\n") == 1


def test_an_idle_page_hardly_asks(tab: Page, site: Site) -> None:
    tab.quiet()
    asked: list[str] = []
    tab.page.on("request", lambda request: asked.append(request.url) if request.method == "POST" else None)
    tab.page.wait_for_timeout(5000)
    assert len(asked) <= 1
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
        running = tab.page.locator("#elemental_progress .elemental-message.running")
        tab.wait(lambda: running.count() == 1, "the page to see it")
        asked.clear()
        tab.wait(lambda: len(asked) >= 3, "the page to follow the job")
        tab.page.evaluate("document.getElementById('elemental_tab').style.display = 'none'")
        tab.quiet()
        asked.clear()
        tab.page.wait_for_timeout(2000)
        assert len(asked) <= 1  # nobody sees the tab, but the page's title tells how far the job is
    finally:
        gate.set()
        site.host.make_images = whole
    tab.page.evaluate("document.getElementById('elemental_tab').style.display = ''")
    tab.ended()


def test_where_the_vae_comes_from_is_kept_as_it_was_stored(tab: Page, site: Site) -> None:
    tab.options()
    tab.choose("vae", "from B")
    tab.wait(lambda: session_of(site.host).form.vae == "b", "the form")
    tab.page.reload()
    tab.ready()
    tab.options()
    assert tab.read("vae") == "from B"


def test_the_map_is_used_by_the_keyboard(tab: Page) -> None:
    tab.page.locator("#elemental_brush").fill("0.5")
    tab.page.locator(".elemental-map").focus()
    for key in ["ArrowDown"] * 3 + ["ArrowRight"] * 30 + ["Shift+ArrowLeft"] * 2:
        tab.page.keyboard.press(key)
    assert "OUT09" in tab.page.locator("#elemental_tooltip").inner_text()
    tab.page.keyboard.press("Enter")
    tab.wait(lambda: tab.read("spec") == "OUT09-OUT11:attn2:0.5", "a rule by the keyboard")
    tab.report("1 rule sets 15 of 686 U-Net elements")
    for key in ("ArrowRight", "ArrowRight", "Delete"):
        tab.page.keyboard.press(key)
    tab.wait(lambda: tab.read("spec") == "OUT09 OUT10:attn2:0.5", "the rule without OUT11")
    tab.page.keyboard.press("Shift+F10")
    menu = tab.page.locator("#elemental_menu")
    assert menu.locator(":focus").inner_text() == "Set to ratio 0.5"
    for key in ("ArrowDown", "ArrowDown", "Enter"):
        tab.page.keyboard.press(key)
    tab.wait(lambda: tab.read("spec") == "OUT11:attn2:0.5", "only this cell")
    assert menu.count() == 0


def test_tab_completes_names_and_leaves_an_empty_field(tab: Page) -> None:
    area = tab.page.locator("#elemental_spec textarea")
    area.fill("")
    area.press_sequentially("OUT1")
    area.press("Tab")
    assert "OUT10" in tab.page.locator("#elemental_completions").inner_text()
    area.press_sequentially("0-OUT1")
    area.press("Tab")
    assert "OUT11" in tab.page.locator("#elemental_completions").inner_text()
    area.press_sequentially("1:skip")
    area.press("Tab")
    assert tab.read("spec") == "OUT10-OUT11:skip_connection"
    area.press("End")
    area.press_sequentially(":1, ")
    area.press("Tab")
    inside = "document.activeElement.closest('#elemental_spec') !== null"
    assert not tab.page.evaluate(inside)
    area.fill("OUT1")
    for _ in range(2):
        area.press("Tab")
    assert not tab.page.evaluate(inside)  # asked again, it goes on
    area.fill("OUT0")
    area.press("Escape")
    area.press("Tab")
    assert not tab.page.evaluate(inside)


def test_sliders_and_text_follow_each_other(tab: Page) -> None:
    tab.page.get_by_text("Block weights (MBW)").click()
    slider = tab.page.locator("#elemental_sliders_blocks input[data-block=IN01]")
    slider.wait_for()
    slider.fill("1.5")
    tab.wait(lambda: tab.read("blocks").split(",")[:4] == ["0.5", "0.5", "1.5", "0.5"], "the text")
    tab.write("blocks", ",".join(["0.3333"] * 25 + ["3"]))
    tab.wait(lambda: slider.input_value() == "0.33", "the slider")
    slider.fill("1")
    tab.wait(lambda: tab.read("blocks").split(",")[1:4] == ["0.3333", "1", "0.3333"], "that number alone")
    assert tab.read("blocks").endswith(",3")
    tab.write("blocks", ",".join(["0.1"] * 26))
    tab.wait(lambda: slider.input_value() == "0.1", "the slider")
    cell = tab.page.locator(".elemental-map td.e[data-r='0.1']").first
    tab.wait(lambda: cell.count() == 1, "the map")
    cell.hover()
    assert "from block weights (BASE = 0.1)" in tab.page.locator("#elemental_tooltip").inner_text()
    tab.choose("preset", "GRAD_V")
    tab.wait(lambda: len(tab.read("blocks").split(",")) in (25, 26) and "0.1" not in tab.read("blocks")[:4], "a preset")
    tab.screenshot("weights")
    tab.write("spec", "OUT12::1")
    tab.report("unknown block")
    tab.choose("preset", "ALL_B")
    tab.wait(lambda: slider.input_value() == "1", "the slider, though the spec is wrong")
    tab.write("spec", "")
    tab.write("blocks", "1,2")
    tab.report("block weights")
    tab.write("blocks", "")
    tab.report("tensors differ")


def test_modes_show_what_they_need(tab: Page) -> None:
    assert not tab.page.locator("#elemental_model_c").is_visible()
    tab.choose("mode", "triple-sum")
    tab.page.locator("#elemental_model_c").wait_for()
    assert "b C" in tab.text("formula")
    tab.report("Choose model C")
    tab.choose("model_c", "b.safetensors")
    tab.report("tensors differ")
    assert tab.page.locator(".elemental-map").count() == 2
    tab.choose("mode", "weight-sum")
    tab.page.locator("#elemental_model_c").wait_for(state="hidden")
    tab.report("tensors differ")


def test_the_numbers_of_a_mode_are_typed_and_kept(tab: Page) -> None:
    assert not tab.page.locator("#elemental_mode_numbers").is_visible()
    tab.choose("mode", "dare")
    tab.wait(lambda: tab.read("mode_numbers") == "p=0.5, seed=0", "the defaults")
    assert "p (0 to 0.999), 0.5 unless given: the share of the difference" in tab.text("formula")
    tab.write("mode_numbers", "p=2")
    tab.report("dare takes p (0 to 0.999), not p 2")
    tab.write("mode_numbers", "p=0.9, seed=3")
    tab.report("tensors differ")
    tab.page.reload()
    tab.ready()
    tab.wait(lambda: tab.read("mode_numbers") == "p=0.9, seed=3", "what was typed, after a reload")
    tab.choose("mode", "della")
    tab.wait(lambda: tab.read("mode_numbers") == "p=0.9, e=0.1, seed=3", "the numbers that both have")
    tab.choose("mode", "weight-sum")
    tab.page.locator("#elemental_mode_numbers").wait_for(state="hidden")
    tab.report("tensors differ")


@pytest.mark.parametrize("mode", [mode for mode in MergeMode if mode is not MergeMode.WEIGHT_SUM])
def test_a_mode_is_chosen_and_drawn(tab: Page, site: Site, mode: MergeMode) -> None:
    """The default, weight-sum, is drawn by most other tests."""
    tab.choose("mode", mode.value)
    tab.wait(lambda: mode.formula in tab.text("formula"), "the formula")
    tab.wait(lambda: tab.page.locator("#elemental_model_b").is_visible() is mode.uses_b, "model B")
    if mode.uses_c:
        tab.choose("model_c", "b.safetensors")
    tab.report("tensors differ")
    assert "Merged in" in tab.job("run_both")
    (image,) = (site.output / "images").glob("00000-3.png")
    recipe = recipe_from_metadata(read_texts(image), name="the image")
    chosen = {name: number for name, number in recipe.numbers.items() if name not in measured_numbers(mode)}
    assert (recipe.mode, format_numbers(chosen), recipe.unmeasured) == (mode, numbers_for(mode, ""), ())
    tab.job("restore")


def test_ctrl_enter_runs(tab: Page) -> None:
    area = tab.page.locator("#elemental_spec textarea")
    area.fill("OUT08::1")
    tab.report("1 rule sets")
    area.press("Control+Enter")
    tab.wait(lambda: "OUT08::1" in live(tab), "the merge")
    tab.ended()
    tab.job("restore")


def test_a_plot_is_stopped_seen_after_a_reload_and_resumed(tab: Page, site: Site) -> None:
    tab.panel("XY plot")
    tab.choose("x_type", "pinpoint-element")
    tab.write("x_values", "OUT09:attn1, OUT09:ff, OUT08:attn2")
    tab.choose("y_type", "alpha")
    tab.write("y_values", "0, 1, 2")
    tab.press("estimate_plot")
    tab.wait(lambda: "image" in tab.text("plot_answer"), "the estimate")
    assert "9 images, 9 merges" in tab.text("plot_answer")
    drawn, gate = threading.Event(), threading.Event()
    whole = site.host.make_images

    def slow(*args: Any, **options: Any) -> Any:
        images = whole(*args, **options)
        drawn.set()
        gate.wait(20)
        return images

    site.host.make_images = slow
    try:
        tab.press("run_plot")
        tab.wait(
            lambda: "running" in str(tab.page.locator("#elemental_progress .elemental-message").get_attribute("class")),
            "it",
        )
        tab.wait(drawn.is_set, "the first image")
        tab.page.reload()
        tab.ready()
        progress = tab.page.locator("#elemental_progress .elemental-message.running")
        tab.wait(lambda: progress.count() == 1, "the running plot after the page was loaded anew")
        tab.panel("XY plot")
        tab.wait(lambda: tab.read("x_values").startswith("OUT09:attn1"), "what was typed")
        assert "pinpoint-element" in tab.read("x_type")
        tab.press("run_plot")
        waiting = tab.page.locator("#elemental_queue ol li")
        tab.wait(lambda: waiting.count() == 1, "the second one to wait")
        waiting.locator("[data-queue=drop]").click()
        tab.wait(lambda: waiting.count() == 0, "it to be dropped")
        tab.press("stop")
        tab.page.wait_for_timeout(300)
    finally:
        gate.set()
        site.host.make_images = whole
    tab.ended("stopped")
    tab.wait(lambda: "of 9 images" in tab.read("unfinished"), "the unfinished run in its list")
    (folder,) = (site.output / "plots").iterdir()
    made = len(list((folder / "cells").glob("*.png")))
    assert 0 < made < 9
    said = tab.job("resume")
    assert f"{9 - made} images" in said
    assert len(list((folder / "cells").glob("*.png"))) == 9
    assert (folder / "grid.png").is_file()
    tab.wait(lambda: tab.page.locator("#elemental_products img").count() >= 1, "the grid")
    tab.screenshot("plot")
    assert "merge" not in live(tab)


def test_a_check_ranks_and_shows_what_changes(tab: Page, site: Site) -> None:
    tab.panel("Element check")
    tab.write("elements", "OUT09, OUT09:attn1, OUT08")
    tab.write("check_ratio", "2")
    said = tab.job("run_check")
    assert "4 images" in said
    rows = tab.page.locator("#elemental_table tbody tr")
    assert rows.count() == 3
    rows.first.click()
    tab.page.locator("#elemental_gif_view img").wait_for()
    assert (site.output / "checks" / "a-b" / "diff" / "diff.csv").is_file()
    for name in ("products", "gallery"):
        tab.page.locator(f"#elemental_{name} img").first.wait_for()
    places = [
        tab.page.locator(f"#elemental_{name}").first.bounding_box() for name in ("gif_view", "products", "gallery")
    ]
    tops = [place["y"] for place in places if place]
    assert len(tops) == 3
    assert tops == sorted(tops)  # one below the other, and nothing beside them
    tab.screenshot("check")


def test_history_loads_a_spec_of_several_lines(tab: Page) -> None:
    spec = "OUT09::0.7\nOUT08:attn1:0.2\nNOT OUT03:ff:0.1"
    tab.write("spec", spec)
    tab.report("3 rules")
    tab.job("run_merge")
    tab.write("spec", "")
    tab.report("tensors differ")
    tab.panel("History")
    tab.press("refresh_history")
    newest = tab.page.locator("#elemental_history tbody tr").first
    tab.wait(lambda: "OUT08:attn1:0.2" in newest.inner_text(), "the newest entry")
    tab.screenshot("history")
    tab.page.locator("#elemental_history [data-entry]").first.click()
    tab.panel("Merge")
    tab.wait(lambda: tab.read("spec") == spec, "the spec")
    tab.job("restore")


def test_what_is_wrong_is_said_and_the_next_run_works(tab: Page, site: Site) -> None:
    copy = site.models / "gone.safetensors"
    copy.write_bytes((site.models / "b.safetensors").read_bytes())
    tab.press("refresh")
    tab.choose("model_b", "gone.safetensors")
    tab.report("tensors differ")
    copy.unlink()
    tab.press("run_merge")
    tab.wait(lambda: 'No model named "gone.safetensors"' in tab.text("notice"), "the message")
    tab.choose("model_b", "a.safetensors")
    tab.report("same file")
    tab.choose("model_b", "b.safetensors")
    tab.report("tensors differ")
    tab.write("width", "63")
    tab.press("run_both")
    tab.wait(lambda: "multiple of 8" in tab.text("notice"), "the refused size")
    tab.write("width", "64")
    tab.write("batch", "0")
    tab.press("run_both")
    tab.wait(lambda: "Images must be 1 or more" in tab.text("notice"), "the refused number")
    tab.write("batch", "1")
    tab.job("run_both")
    tab.job("restore")


def test_an_error_is_gone_when_its_cause_is(tab: Page) -> None:
    def said(words: str) -> bool:
        return words in tab.text("notice") if words else not tab.text("notice").strip()

    def says(words: str) -> None:
        tab.wait(lambda: said(words), f"{words!r} in the notice")

    for wrong, words in (("OUT12::1", "unknown block"), ("OUT03::1:1", "has no beta")):
        tab.write("spec", wrong)
        tab.report(words)
        tab.press("run_merge")
        says(words)
        tab.write("spec", "OUT03::1")
        tab.report("1 rule sets")
        says("")
    for field, right in (("width", "64"), ("seed", "3"), ("steps", "2"), ("cfg", "4")):
        tab.write(field, "")
        tab.press("run_images")
        says("blank; enter a")
        tab.write(field, right)
        says("")


def test_an_estimate_is_gone_when_its_fields_change(tab: Page) -> None:
    def shows(place: str, words: str) -> bool:
        return words in tab.text(place) if words else tab.text(place).strip() == ""

    def estimate(name: str, words: str) -> None:
        tab.press(f"estimate_{name}")
        tab.wait(lambda: shows(f"{name}_answer", words), "the estimate")
        tab.page.wait_for_timeout(300)
        assert shows(f"{name}_answer", words)

    tab.panel("XY plot")
    tab.choose("x_type", "alpha")
    tab.write("x_values", "0, 1, x")
    estimate("plot", "x")
    tab.write("x_values", "0, 1")
    tab.wait(lambda: shows("plot_answer", ""), "the error to go away")
    estimate("plot", "2 images")
    tab.choose("y_type", "seed")
    tab.wait(lambda: shows("plot_answer", ""), "the estimate to go away")
    tab.write("y_values", "1, 2")
    estimate("plot", "4 images")
    tab.panel("Merge")
    tab.write("spec", "OUT03::1")
    tab.report("1 rule sets")
    tab.panel("XY plot")
    tab.wait(lambda: shows("plot_answer", ""), "the estimate of another form to go away")
    tab.panel("Element check")
    tab.write("elements", "OUT09, OUT08")
    estimate("check", "3 images")
    tab.write("elements", "OUT09")
    tab.wait(lambda: shows("check_answer", ""), "the estimate to go away")
    tab.panel("XY plot")
    tab.page.locator("#elemental_plot_sample input").first.click()
    options = tab.page.locator("ul.options li:visible, ul[role=listbox] li:visible")
    options.filter(has_text="The strip of").first.click()
    tab.wait(lambda: not shows("plot_answer", ""), "what the sample shows")
    tab.page.wait_for_timeout(500)
    assert not shows("plot_answer", "")


def test_two_browsers_see_one_job(tab: Page, site: Site, chromium: Any, tmp_path: Path) -> None:
    context = chromium.new_context()
    other = Page(context.new_page(), tmp_path)
    other.open(site.url)
    tab.write("spec", "OUT07::1")
    tab.report("1 rule")
    tab.job("run_merge")
    other.wait(lambda: "OUT07::1" in live(other), "the other page to see it")
    other.wait(lambda: "Merged in" in other.text("progress"), "the other page to follow it")
    other.job("restore")
    tab.wait(lambda: "merge" not in live(tab), "this page to see it")
    context.close()
