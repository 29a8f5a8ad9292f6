"""The Search panel in a browser: images are picked by clicks and by keys, round after round; a reload loses nothing."""

from __future__ import annotations

from typing import Any

import pytest

from .browser import Page
from .noise_tab import fresh_site, kept, noise_site, noise_tab, one_browser, open_page, say  # noqa: F401
from .serving import Site

pytest.importorskip("gradio")

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """No time of another test's images is known."""
    monkeypatch.setenv("ELEMENTAL_CACHE", str(tmp_path / "cache"))


def begin(tab: Page, vary: str = "OUT03:attn2:0-1\nOUT05:attn2:0-1\nalpha:0.2-0.8", **fields: str) -> None:
    """Start a search of small rounds, and wait until the first is there."""
    tab.panel("Search")
    tab.write("vary", vary)
    for name, text in {"candidates": "4", **fields}.items():
        tab.write(f"search_{name}", text)
    tab.job("run_search")
    in_round(tab, 1)


def in_round(tab: Page, number: int, state: str = "ready") -> None:
    """Wait until a round is shown, with all of its images."""
    board = tab.page.locator(f"#elemental_search_board [data-round='{number}'][data-state='{state}']")
    tab.wait(lambda: bool(board.count()), f"round {number}, {state}")
    if state == "ready":
        loaded = "images => images.every(image => image.complete && image.naturalWidth > 0)"
        tab.wait(lambda: bool(board.locator("img").evaluate_all(loaded)), "its images")


def candidate(tab: Page, number: int) -> Any:
    return tab.page.locator(f"#elemental_search_board [data-candidate='{number}']")


def act(tab: Page, name: str) -> None:
    button(tab, name).click()


def button(tab: Page, name: str) -> Any:
    return tab.page.locator(f"#elemental_search_board [data-act='{name}']")


def open_fields(tab: Page) -> None:
    """Open the fields, which fold away when a search begins."""
    tab.wait(lambda: not tab.page.locator("#elemental_vary").is_visible(), "the fields to fold away")
    tab.page.locator("#elemental_search_box > .label-wrap").click()
    tab.page.locator("#elemental_vary").wait_for()


def badges(tab: Page, *numbers: int) -> None:
    """Wait until these are picked, the best first, and no others."""
    found: dict[str, str] = {}

    def read() -> bool:
        buttons = tab.page.locator("#elemental_search_board [data-candidate][aria-pressed=true]")
        said = buttons.evaluate_all("all => all.map(b => [b.querySelector('.badge').textContent, b.dataset.candidate])")
        found.clear()
        found.update(said)
        return found == {place: str(number) for place, number in zip(("1st", "2nd", "3rd"), numbers, strict=False)}

    tab.wait(read, f"{numbers} to be picked", 20)


def test_images_are_picked_by_clicks(tab: Page, site: Site) -> None:
    begin(tab)
    assert button(tab, "next").is_disabled()
    assert button(tab, "undo").is_disabled()
    assert button(tab, "none").is_enabled()
    for number in (3, 1, 4):
        candidate(tab, number).click()
    badges(tab, 3, 1, 4)
    assert button(tab, "next").is_enabled()
    assert button(tab, "none").is_disabled()  # it would say nothing of what is picked
    candidate(tab, 1).click()  # taken back
    badges(tab, 3, 4)
    candidate(tab, 2).click()
    candidate(tab, 0).click()  # in the place of the third
    badges(tab, 3, 4, 0)
    assert candidate(tab, 3).get_attribute("aria-label") == "Candidate 3, picked as 1st"
    tab.screenshot("search")
    act(tab, "next")
    in_round(tab, 2)
    badges(tab)
    assert "3, 4, 0 (the start)" in tab.text("search_board")
    act(tab, "none")
    in_round(tab, 3)
    act(tab, "undo")
    in_round(tab, 2)
    act(tab, "anew")
    in_round(tab, 3)
    assert "anew, step 0.15" in tab.text("search_board")
    (record,) = site.output.glob("searches/*/search.json")
    assert '"step": 0.15' in record.read_text()


def test_keys_pick_and_a_reload_loses_nothing(tab: Page) -> None:
    begin(tab)
    open_fields(tab)
    tab.page.locator("#elemental_vary textarea").press("End")
    tab.page.keyboard.press("2")
    say(tab, "vary", "OUT03:attn2:0-1\nOUT05:attn2:0-1\nalpha:0.2-0.82")
    badges(tab)
    candidate(tab, 1).focus()
    for key in ("3", "2", "3", "0"):
        tab.page.keyboard.press(key)
    badges(tab, 2, 0)
    tab.page.keyboard.press("Space")
    badges(tab, 2, 0, 1)
    kept(tab, "0.82")
    tab.page.reload()
    tab.ready()
    tab.panel("Search")
    in_round(tab, 1)
    badges(tab, 2, 0, 1)
    say(tab, "search_candidates", "4")
    candidate(tab, 4).focus()
    tab.page.keyboard.press("Enter")
    in_round(tab, 2)
    assert "2, 0 (the start), 1" in tab.text("search_board")
    focused = "document.activeElement.dataset.candidate || ''"
    tab.wait(lambda: tab.page.evaluate(focused) == "4", "the focus to stay")


def test_the_best_goes_into_the_form(tab: Page) -> None:
    begin(tab, "OUT03:attn2:0-1\nOUT05:attn2:0-1")
    title = str(candidate(tab, 2).get_attribute("title"))
    first, second = (line.split() for line in title.splitlines())
    use = tab.page.locator("#elemental_search_board [data-search-use=use]")
    assert use.inner_text() == "Use 0 (the start)"
    candidate(tab, 2).click()
    tab.wait(lambda: use.inner_text() == "Use 2", "what is used")
    use.click()
    say(tab, "spec", f"OUT03:attn2:{first[1]}\nOUT05:attn2:{second[1]}")
    tab.wait(lambda: tab.page.locator("#elemental_spec").is_visible(), "the Merge panel")
    said = "Candidate 2 of round 1 is in the form now. Merge & Generate makes its image."
    tab.wait(lambda: said in tab.text("notice"), "what to do next")
    tab.panel("Search")
    badges(tab, 2)
    tab.page.locator("#elemental_search_board [data-search-use=simplify]").click()
    say(tab, "spec", "OUT03:attn2:0.5\nOUT05:attn2:0.5")
    tab.wait(lambda: "cannot differentiate" in tab.text("progress"), "Simplify to begin")


def test_candidates_are_compared_with_the_best(tab: Page) -> None:
    begin(tab, prompts="a cat\na dog")
    candidate(tab, 3).locator("img").nth(1).dblclick()
    caption = tab.page.locator("#elemental_viewer .caption")
    tab.wait(lambda: "Right: Candidate 3, a dog" in caption.inner_text(), "the candidate")
    assert "Left, Pinned: The best so far, a dog" in caption.inner_text()
    tab.page.locator("#elemental_viewer .stage").press("ArrowRight")
    tab.wait(lambda: "Right: Candidate 4, a dog" in caption.inner_text(), "the next")
    tab.page.keyboard.press("Escape")
    badges(tab)  # two clicks leave what was picked as it was
    assert tab.page.evaluate("getComputedStyle(document.documentElement).overflowY") != "hidden"
    look = tab.page.locator("#elemental_search_board [data-compare='1']")
    look.click()
    tab.wait(lambda: "Right: Candidate 1, a cat" in caption.inner_text(), "the candidate")
    assert tab.page.evaluate("getComputedStyle(document.documentElement).overflowY") == "hidden"
    pick = tab.page.locator("#elemental_viewer .buttons button", has_text="Pick").first
    tab.page.keyboard.press("k")
    tab.wait(lambda: "Picked 1st" in pick.inner_text(), "the pick")
    tab.page.keyboard.press("ArrowRight")
    tab.wait(lambda: "Right: Candidate 2, a cat" in caption.inner_text(), "the next")
    assert "Picked" not in pick.inner_text()
    pick.click()
    tab.wait(lambda: "Picked 2nd" in pick.inner_text(), "the other pick")
    tab.page.keyboard.press("Escape")
    badges(tab, 1, 2)
    assert look.evaluate("button => button === document.activeElement")


def test_candidates_are_seen_beside_a_goal(tab: Page, tmp_path: Any) -> None:
    from PIL import Image

    begin(tab)
    goal, broken = tmp_path / "goal.png", tmp_path / "broken.png"
    Image.new("RGB", (32, 32), "red").save(goal)
    broken.write_text("no image")
    place = tab.page.locator(".elemental-goal")
    place.locator("input").set_input_files(broken)
    tab.wait(lambda: "cannot be shown as an image" in place.inner_text(), "the reason")
    sent: list[str] = []
    tab.page.on("request", lambda request: sent.append(request.url))
    place.locator("input").set_input_files(goal)
    place.locator("img").wait_for()
    look = tab.page.locator("#elemental_search_board [data-compare='2']")
    look.click()
    caption = tab.page.locator("#elemental_viewer .caption")
    tab.wait(lambda: "Left, Pinned: The goal, goal.png" in caption.inner_text(), "the goal")
    assert "Right: Candidate 2" in caption.inner_text()
    tab.page.keyboard.press("Escape")
    assert not any("upload" in url for url in sent)
    place.locator("button").click()
    look.click()
    tab.wait(lambda: "Left, Pinned: The best so far" in caption.inner_text(), "the best so far")


def test_the_fields_make_room_for_the_images(tab: Page, site: Site) -> None:
    """Another search is begun from where they are; the earlier one is listed then, and has no row before."""
    tab.panel("Search")
    assert tab.page.locator("#elemental_run_search").is_visible()
    assert not tab.page.locator("#elemental_run_another").is_visible()
    assert not tab.page.locator("#elemental_search_earlier").is_visible()
    begin(tab)
    (folder,) = site.output.glob("searches/*")
    open_fields(tab)
    candidate(tab, 1).click()
    assert tab.page.locator("#elemental_vary").is_visible()  # once for each search
    assert not tab.page.locator("#elemental_run_search").is_visible()
    assert not tab.page.locator("#elemental_search_earlier").is_visible()
    tab.job("run_another")
    tab.wait(lambda: tab.read("searches") == f"{folder.name}: round 1", "the earlier search in the list")
    assert tab.page.locator("#elemental_search_earlier").is_visible()
    tab.wait(lambda: not tab.page.locator("#elemental_vary").is_visible(), "the fields to fold away again")


_LATE = """wish => {
    const input = document.querySelector("#elemental_search_act textarea, #elemental_search_act input");
    input.value = `${wish}\\n1`;
    input.dispatchEvent(new Event("input", {bubbles: true}));
}"""
"""Sends what a page sends that has not heard yet of what another one has done."""


def test_two_pages_see_the_same_search(tab: Page, site: Site, chromium: Any, tmp_path: Any) -> None:
    begin(tab)
    other = open_page(chromium, site.url, tmp_path)
    other.panel("Search")
    in_round(other, 1)
    (folder,) = site.output.glob("searches/*")
    candidate(tab, 1).click()
    act(tab, "next")
    in_round(tab, 2)
    other.page.evaluate(_LATE, f"next {folder.name} 1 2")
    other.wait(lambda: "judged on another page" in other.text("notice"), "the reason")
    in_round(other, 2)
    assert other.errors == []
    other.page.context.close()


def test_an_earlier_search_is_gone_on_with(tab: Page, site: Site) -> None:
    from elemental.session.session import session_of

    begin(tab)
    candidate(tab, 1).click()
    act(tab, "next")
    in_round(tab, 2)
    (folder,) = site.output.glob("searches/*")
    session_of(site.host).search = None
    tab.page.reload()
    tab.ready()
    tab.panel("Search")
    tab.wait(lambda: "No search is open" in tab.text("search_board"), "no search")
    tab.wait(lambda: tab.read("searches") == f"{folder.name}: round 2", "the search in the list")
    tab.press("go_on")
    in_round(tab, 2)
