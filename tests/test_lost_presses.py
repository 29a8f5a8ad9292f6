"""Presses count although what was pressed is drawn anew or moves between mouse down and mouse up, in a browser."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from elemental.session.session import session_of

from .browser import Page
from .noise_tab import fresh_site, noise_site, noise_tab, one_browser  # noqa: F401
from .queued import listed, lists, running
from .serving import Site

pytest.importorskip("gradio")

pytestmark = pytest.mark.slow

HIGH: Any = {"width": 1366, "height": 1600}
"""The size of a window in which the buttons are not held at its lower edge."""


def centre(part: Any) -> tuple[float, float]:
    part.scroll_into_view_if_needed()
    box = part.bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def hold(tab: Page, part: Any) -> tuple[float, float]:
    """Press the mouse on something, and hold it."""
    at = centre(part)
    tab.page.mouse.move(*at)
    tab.page.mouse.down()
    return at


def button(tab: Page, job: str, act: str) -> Any:
    return tab.page.locator("#elemental_queue ol li").filter(has_text=job).locator(f"[data-queue={act}]")


def three_wait(tab: Page) -> None:
    tab.wait(lambda: "at work" in tab.text("progress"), "the first", 15)
    tab.press("run_merge")
    lists(tab, "Merge")
    tab.press("run_images")
    lists(tab, "Merge", "Generate")
    tab.press("restore")
    lists(tab, "Merge", "Generate", "Restore")


def move_last_up(tab: Page, site: Site) -> None:
    """Let another page change the list, and wait until it is drawn anew."""
    board = session_of(site.host).board
    board.move(board.waiting()[2].number, -1)
    lists(tab, "Merge", "Restore", "Generate")


def test_a_press_in_the_queue_is_for_the_job_that_was_pressed(tab: Page, site: Site) -> None:
    with running(site):
        three_wait(tab)
        hold(tab, button(tab, "Generate", "drop"))
        move_last_up(tab, site)  # Restore lies under the pointer now
        tab.page.mouse.up()
        lists(tab, "Merge", "Restore")
        session_of(site.host).board.drop_all()


def test_a_press_that_is_let_go_elsewhere_is_called_off(tab: Page, site: Site) -> None:
    with running(site):
        three_wait(tab)
        x, y = hold(tab, button(tab, "Generate", "drop"))
        move_last_up(tab, site)
        tab.page.mouse.move(x - 40, y)
        tab.page.mouse.up()
        tab.page.wait_for_timeout(1000)
        assert listed(tab) == ["Merge", "Restore", "Generate"]
        session_of(site.host).board.drop_all()


def test_space_is_a_press(tab: Page, site: Site) -> None:
    with running(site):
        three_wait(tab)
        button(tab, "Generate", "drop").focus()
        tab.page.keyboard.down(" ")
        move_last_up(tab, site)
        tab.page.keyboard.up(" ")
        lists(tab, "Merge", "Restore")
        session_of(site.host).board.drop_all()


def test_a_job_that_begins_under_the_pointer_is_not_another_one(tab: Page, site: Site) -> None:
    with running(site) as first:
        tab.wait(lambda: "at work" in tab.text("progress"), "the first", 15)
        with running(site) as second:
            lists(tab, "A long one")
            tab.press("restore")
            lists(tab, "A long one", "Restore")
            hold(tab, button(tab, "A long one", "drop"))
            first.end()
            lists(tab, "Restore")  # under the pointer
            tab.page.mouse.up()
            tab.wait(lambda: "A long one has begun" in tab.text("notice"), "what to do instead")
            assert listed(tab) == ["Restore"]
            second.end()
            tab.ended()


def test_cells_that_are_drawn_anew_are_painted(tab: Page) -> None:
    cells = tab.page.locator(".elemental-map tbody tr:not([hidden]) td.e")
    chosen, ruled = tab.page.locator(".elemental-map td.chosen"), tab.page.locator(".elemental-map td.ruled")
    hold(tab, cells.nth(4))
    tab.write("spec", "OUT11::0.3")
    ruled.first.wait_for()
    tab.page.mouse.up()
    tab.wait(lambda: tab.read("spec").count("\n") == 1, "a second rule")
    tab.report("2 rules")
    hold(tab, cells.nth(4))
    tab.write("spec", "OUT11::0.4")
    tab.report("1 rule sets")
    tab.wait(lambda: chosen.count() == 1, "the cell on the map drawn anew")
    tab.page.mouse.move(*centre(cells.nth(5)))
    assert chosen.count() == 2
    tab.page.mouse.up()
    tab.wait(lambda: tab.read("spec").count("\n") == 2, "rules for both")


def test_names_of_columns_count(tab: Page) -> None:
    hold(tab, tab.page.locator(".elemental-map th[data-block=OUT05]"))
    tab.write("spec", "OUT11::0.3")
    tab.page.locator(".elemental-map td.ruled").first.wait_for()
    tab.page.mouse.up()
    tab.wait(lambda: tab.page.locator(".elemental-map td.chosen").count() > 4, "the column")


def test_an_entry_that_was_pressed_is_deleted_and_not_the_one_in_its_place(tab: Page, site: Site) -> None:
    for ratio in ("0.1", "0.2", "0.3"):
        tab.write("spec", f"OUT05::{ratio}")
        tab.report("1 rule sets")
        tab.job("run_merge")
    tab.panel("History")
    rows = tab.page.locator("#elemental_history tbody tr")
    tab.wait(lambda: rows.count() == 3, "the entries")
    hold(tab, rows.nth(1).locator("[data-delete]"))
    history = session_of(site.host).history
    history.delete(max(entry.number for entry in history.entries()))
    tab.page.evaluate("document.querySelector('button#elemental_refresh_history').click()")
    tab.wait(lambda: rows.count() == 2, "the list drawn anew")
    tab.page.mouse.up()
    tab.wait(lambda: rows.count() == 1, "one more to go")
    assert "0.1" in rows.inner_text()


def test_an_image_that_takes_the_place_of_another_is_not_opened_for_it(tab: Page) -> None:
    tab.write("batch", "1")
    tab.job("run_images")
    image = tab.page.locator("#elemental_gallery img").first
    image.wait_for()
    address = image.evaluate("image => image.src")
    hold(tab, image)
    tab.page.evaluate(
        "() => { const old = document.querySelector('#elemental_gallery img');"
        "old.replaceWith(Object.assign(new Image(), {src: old.src + '?new', width: 60})); }"
    )
    tab.page.mouse.up()
    shown = tab.page.locator("#elemental_viewer .stage > img")
    shown.wait_for()
    assert shown.evaluate("image => image.src") == address


def test_a_button_that_moves_under_the_pointer_is_pressed(tab: Page, site: Site) -> None:
    tab.page.set_viewport_size(HIGH)
    merge = tab.page.locator("#elemental_run_merge")
    hold(tab, merge)
    at = merge.bounding_box()["y"]
    tab.write("spec", "OUT11::0.3" + "\n# a line" * 12)
    tab.report("1 rule sets")
    tab.wait(lambda: merge.bounding_box()["y"] > at + 40, "the button to move away")
    tab.page.mouse.up()
    tab.ended()
    assert "OUT11::0.3" in session_of(site.host).live_form.spec
    tab.job("restore")


def test_a_button_from_which_the_pointer_is_moved_away_is_not_pressed(tab: Page) -> None:
    x, y = hold(tab, tab.page.locator("#elemental_run_merge"))
    tab.page.mouse.move(x, y + 60)
    tab.page.mouse.up()
    tab.page.wait_for_timeout(500)
    assert not tab.text("progress").strip()


def test_nothing_moves_while_an_answer_is_awaited(tab: Page, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    tab.page.set_viewport_size(HIGH)
    previewer = session_of(site.host).previewer
    look, asked, gate = previewer.look, threading.Event(), threading.Event()

    def slow(form: Any) -> Any:
        asked.set()
        gate.wait(20)
        return look(form)

    places = {name: tab.page.locator(f"#elemental_{name}").first for name in ("run_merge", "map", "report")}
    monkeypatch.setattr(previewer, "look", slow)
    try:
        before = {name: place.bounding_box() for name, place in places.items()}
        tab.write("alpha", "0.4")
        tab.page.keyboard.press("Tab")
        tab.wait(asked.is_set, "the question")
        tab.page.wait_for_timeout(100)
        assert {name: place.bounding_box() for name, place in places.items()} == before
    finally:
        gate.set()
