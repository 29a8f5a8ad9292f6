"""Each panel in the eyes of axe-core, in the light and in the dark theme: nothing of ours is a serious violation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from .browser import Page
from .noise_tab import fresh_site, noise_site, noise_tab, one_browser  # noqa: F401

pytest.importorskip("gradio")
sync_playwright = pytest.importorskip("axe_playwright_python.sync_playwright")

pytestmark = pytest.mark.slow

_SERIOUS = ("serious", "critical")
_OF_GRADIO = {
    "label-content-name-mismatch",  # its field for uploads is named by what stands inside it
}
"""Rules that parts of gradio break in each program that uses them."""
_WHERE = {"include": [["#elemental_tab"], ["#elemental_viewer"]]}


def violations(tab: Page) -> list[str]:
    """Give what axe-core finds in our tab that is serious or worse, a line for each element."""
    where = {**_WHERE, "include": [part for part in _WHERE["include"] if tab.page.locator(part[0]).count()]}
    found = sync_playwright.Axe().run(tab.page, context=where, options={"resultTypes": ["violations"]})
    return [
        f"{violation['id']}: {' '.join(map(str, node['target']))}: {node['failureSummary']}"
        for violation in found.response["violations"]
        if violation["impact"] in _SERIOUS and violation["id"] not in _OF_GRADIO
        for node in violation["nodes"]
    ]


def in_both_themes(tab: Page) -> Iterator[str]:
    for theme in ("light", "dark"):
        tab.page.evaluate("dark => document.body.classList.toggle('dark', dark)", theme == "dark")
        tab.page.wait_for_timeout(400)  # colours fade from one theme to the other
        yield from (f"{theme}: {line}" for line in violations(tab))


def open_everything(tab: Page) -> None:
    for name in ("mbw", "lora_box", "spec_preset_box", "options", "save"):
        tab.page.locator(f"#elemental_{name} > .label-wrap").click()
    tab.page.locator(".elemental-map th[data-block=OUT05]").first.click()


def make_a_merge(tab: Page) -> None:
    tab.job("run_both")


def make_a_check(tab: Page) -> None:
    tab.panel("Element check")
    tab.write("elements", "OUT03:attn2, OUT05")
    tab.job("run_check")


def look_at_history(tab: Page) -> None:
    tab.job("run_both")
    tab.panel("History")
    tab.press("refresh_history")
    tab.page.locator("#elemental_history tbody tr").first.wait_for()


def look_at_an_image(tab: Page) -> None:
    tab.job("run_both")
    tab.page.locator("#elemental_gallery img").first.click()
    tab.page.locator("#elemental_viewer .caption").wait_for()


def judge_a_search(tab: Page) -> None:
    tab.panel("Search")
    tab.write("vary", "OUT03:attn2:0-1")
    tab.write("search_candidates", "4")
    tab.job("run_search")
    board = tab.page.locator("#elemental_search_board [data-state=ready]")
    board.wait_for()
    board.locator("[data-candidate='2']").click()


_SCENES: dict[str, Callable[[Page], Any]] = {
    "merge": make_a_merge,
    "everything open": open_everything,
    "plot": lambda tab: tab.panel("XY plot"),
    "check": make_a_check,
    "search": judge_a_search,
    "history": look_at_history,
    "viewer": look_at_an_image,
    "mistake": lambda tab: tab.write("spec", "OUT12:attn2:0.5"),
}


@pytest.mark.parametrize("scene", _SCENES)
def test_nothing_serious_is_found(tab: Page, scene: str) -> None:
    tab.write("spec", "OUT05:attn2:0.3\nOUT09::2")
    tab.report("2 rules")
    _SCENES[scene](tab)
    assert list(in_both_themes(tab)) == []
