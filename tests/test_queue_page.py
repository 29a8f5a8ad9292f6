"""The queue in a browser: jobs wait, are moved and dropped on any page; the page's title, and notifications."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from elemental.session.jobs import JobState
from elemental.session.session import session_of

from .browser import Page
from .noise_tab import fresh_site, noise_site, noise_tab, one_browser, open_page  # noqa: F401
from .queued import Running, act, listed, lists, running
from .serving import Site

pytest.importorskip("gradio")

pytestmark = pytest.mark.slow

_RECORDER = """
globalThis.notified = [];
globalThis.asked = 0;
globalThis.Notification = class {
    static permission = "default";
    static requestPermission() {
        globalThis.asked += 1;
        Notification.permission = globalThis.refuses ? "denied" : "granted";
        return Promise.resolve(Notification.permission);
    }
    constructor(title, options) { globalThis.notified.push([title, options.body]); }
    close() {}
};
document.hasFocus = () => Boolean(globalThis.focused);
"""
"""Stands in the place of the browser's notifications, which cannot be seen here; the page never has the focus."""

_HIDE = """() => {
    globalThis.hide = true;
    Object.defineProperty(document, "hidden", {get: () => globalThis.hide, configurable: true});
    const frames = requestAnimationFrame;
    globalThis.requestAnimationFrame = (call) => globalThis.hide ? 0 : frames(call);
    document.dispatchEvent(new Event("visibilitychange"));
}"""
"""Hides the page as a browser does whose other tab is shown: it has no frames."""

_SHOW = "() => { globalThis.hide = false; document.dispatchEvent(new Event('visibilitychange')); }"


_DOWN_TWICE = """() => {
    const button = document.querySelector("#elemental_queue ol li [data-queue=down]");
    button.focus();
    button.click();
    button.click();
}"""


def titled(page: Page, title: str) -> None:
    page.wait(lambda: page.page.title() == title, f"the title {title!r}, not {page.page.title()!r}")


def test_a_second_job_waits_and_runs(tab: Page, site: Site) -> None:
    with running(site) as first:
        tab.wait(lambda: "at work" in tab.text("progress"), "the first", 15)
        assert not tab.page.locator("#elemental_queue header").count()
        tab.write("spec", "OUT03:attn2:1")
        tab.report("1 rule sets")
        tab.press("run_both")
        lists(tab, "Merge and generate")
        item = tab.page.locator("#elemental_queue ol li")
        assert "weight-sum of a, b; alpha 0.5; rules OUT03:attn2:1" in item.inner_text()
        assert "1 waiting" in tab.text("queue")
        assert "at work" in tab.text("progress")
        tab.write("spec", "OUT05::0")  # what the form says later is of no concern to it
        tab.report("1 rule sets")
        tab.page.reload()
        tab.ready()
        lists(tab, "Merge and generate")
        tab.screenshot("queue")
        first.end()
        tab.wait(lambda: "Merged in" in tab.text("progress"), "its turn")
        tab.ended()
        lists(tab)
        assert "All of it." in tab.text("queue")
        assert "OUT03:attn2:1" in tab.text("live")
        tab.page.locator("#elemental_gallery img").first.wait_for()
    tab.job("restore")
    tab.wait(lambda: not tab.page.locator("#elemental_queue header").count(), "the list of the last queue to go")


def test_jobs_are_moved_and_dropped_on_any_page(tab: Page, site: Site, chromium: Any, tmp_path: Path) -> None:
    other = open_page(chromium, site.url, tmp_path)
    with running(site) as first:
        tab.wait(lambda: "at work" in tab.text("progress"), "the first", 15)
        names = {"run_merge": "Merge", "run_images": "Generate", "restore": "Restore"}
        for number, name in enumerate(names, 1):
            tab.press(name)
            lists(tab, *list(names.values())[:number])
        other.wait(lambda: len(listed(other)) == 3, "the other page to see them", 15)
        act(other, "up", "Restore")
        lists(tab, "Merge", "Restore", "Generate")
        tab.page.evaluate(_DOWN_TWICE)  # the second before the first is answered
        lists(tab, "Restore", "Generate", "Merge")
        focus = "document.activeElement.dataset.queue"
        tab.wait(lambda: tab.page.evaluate(focus) in ("up", "down", "drop"), "the focus to stay in the list")
        lists(other, "Restore", "Generate", "Merge")
        act(other, "drop", "Generate")
        lists(tab, "Restore", "Merge")
        lists(other, "Restore", "Merge")
        tab.page.locator("[data-queue=drop-all]").click()
        lists(other)
        first.end()
        tab.ended()
    assert other.errors == []
    other.page.context.close()


def test_a_job_that_fails_is_told_and_the_next_one_runs(tab: Page, site: Site) -> None:
    with running(site) as first:
        tab.wait(lambda: "at work" in tab.text("progress"), "the first", 15)
        copy = site.models / "gone.safetensors"
        copy.write_bytes((site.models / "b.safetensors").read_bytes())
        tab.press("refresh")
        tab.choose("model_b", "gone.safetensors")
        tab.report("tensors differ")
        tab.press("run_merge")
        lists(tab, "Merge")
        tab.choose("model_b", "b.safetensors")
        tab.report("tensors differ")
        tab.press("run_images")
        lists(tab, "Merge", "Generate")
        copy.unlink()
        tab.press("stop")  # ends the first alone
        tab.page.wait_for_timeout(200)
        first.end()
        tab.wait(lambda: "Generate" in tab.text("progress") and "1 image" in tab.text("progress"), "the last")
        failed = tab.page.locator("#elemental_queue li.failed")
        assert "gone.safetensors" in failed.inner_text()
        tab.screenshot("queue-failed")


def test_pressing_twice_is_one_job(tab: Page, site: Site) -> None:
    with running(site):
        tab.wait(lambda: "at work" in tab.text("progress"), "the first", 15)
        tab.page.locator("#elemental_run_both").dblclick()
        lists(tab, "Merge and generate")
        tab.page.wait_for_timeout(1200)
        lists(tab, "Merge and generate")
        tab.press("run_both")
        lists(tab, "Merge and generate", "Merge and generate")
        session_of(site.host).board.drop_all()


def test_the_title_says_how_far_it_is(tab: Page, site: Site) -> None:
    own = tab.page.title()
    with running(site) as first:
        titled(tab, f"37 % · {own}")
        first.job.show(done=0.5)
        titled(tab, f"50 % · {own}")
        tab.page.evaluate("title => { document.title = title; }", f"[8% ETA: 3s] {own}")  # as the WebUI's images do
        first.job.show(done=0.6)
        tab.page.wait_for_timeout(1000)
        assert tab.page.title() == f"[8% ETA: 3s] {own}"
        tab.page.evaluate("title => { document.title = title; }", own)
        titled(tab, f"60 % · {own}")
        tab.page.evaluate(
            "document.body.append(Object.assign(document.createElement('div'), {className: 'progressDiv'}))"
        )
        tab.page.evaluate("title => { document.title = title; }", own)  # as it does while they wait
        tab.page.wait_for_timeout(1000)
        assert tab.page.title() == own
        tab.page.evaluate("document.querySelector('.progressDiv').remove()")
        titled(tab, f"60 % · {own}")
        tab.page.evaluate("document.title = 'Another title'")
        titled(tab, "60 % · Another title")
        tab.page.evaluate("title => { document.title = title; }", own)
        titled(tab, f"60 % · {own}")
    titled(tab, own)
    tab.page.wait_for_timeout(500)
    assert tab.page.title() == own


@pytest.fixture
def told(site: Site, chromium: Any) -> Iterator[Callable[[], Page]]:
    """Open pages whose notifications are recorded."""
    context = chromium.new_context(viewport={"width": 1366, "height": 768})
    context.set_default_timeout(30_000)
    context.add_init_script(_RECORDER)

    def open_one() -> Page:
        page = Page(context.new_page(), Path())
        page.open(site.url)
        return page

    yield open_one
    context.close()


def notified(page: Page) -> list[list[str]]:
    said: list[list[str]] = page.page.evaluate("globalThis.notified")
    return said


def run_one(page: Page, site: Site, seconds: float) -> None:
    with running(site) as job:
        page.wait(lambda: "at work" in page.text("progress"), "the job", 15)
        job.end(seconds)
        page.wait(lambda: "All of it." in page.text("progress"), "its end")


def test_a_long_job_is_notified_if_one_has_asked_for_it(told: Callable[[], Page], site: Site) -> None:
    page = told()
    box = page.page.locator(".elemental-notify input")
    run_one(page, site, 40)
    assert notified(page) == []
    assert page.page.evaluate("globalThis.asked") == 0
    assert not box.is_checked()
    page.page.locator(".elemental-notify").click()
    assert page.page.evaluate("globalThis.asked") == 1
    assert box.is_checked()
    run_one(page, site, 5)
    page.page.evaluate("globalThis.focused = true")
    run_one(page, site, 40)
    assert notified(page) == []  # it was short; and one that is looking at the page sees it
    page.page.evaluate("globalThis.focused = false")
    run_one(page, site, 40)
    page.wait(lambda: notified(page) == [["A long one: done", "All of it."]], "the notification")
    page.page.wait_for_timeout(500)
    assert len(notified(page)) == 1
    assert page.errors == []


def test_the_wish_is_remembered_and_a_refusal_is_told(told: Callable[[], Page]) -> None:
    page = told()
    box = page.page.locator(".elemental-notify input")
    page.page.evaluate("globalThis.refuses = true")
    page.page.locator(".elemental-notify").click()
    page.wait(lambda: "does not allow it" in page.text("notify"), "the refusal")
    assert not box.is_checked()
    page.page.evaluate("Notification.permission = 'default'; globalThis.refuses = false")
    page.page.locator(".elemental-notify").click()
    page.wait(box.is_checked, "the tick")
    page.page.context.add_init_script("Notification.permission = 'granted'")
    again = told()
    assert again.page.locator(".elemental-notify input").is_checked()
    assert again.page.evaluate("globalThis.asked") == 0


def test_a_hidden_page_still_tells(told: Callable[[], Page], site: Site) -> None:
    page = told()
    own = page.page.title()
    page.page.locator(".elemental-notify").click()
    with running(site) as first:
        titled(page, f"37 % · {own}")
        page.page.evaluate(_HIDE)
        first.job.show(done=0.5)
        titled(page, f"50 % · {own}")
        second = Running(session_of(site.host))
        first.end(40)
        page.wait(lambda: len(notified(page)) == 1, "the first to be told")
        titled(page, f"37 % · {own}")
        second.end(50)
        page.wait(lambda: len(notified(page)) == 2, "the second to be told")
        titled(page, own)
        page.quiet()  # what the end of a job changes in the panels is asked for once more
        asked: list[str] = []
        page.page.on("request", lambda request: asked.append(request.url))
        page.page.wait_for_timeout(4000)
        assert asked == []  # there is nothing to ask for any more
        page.page.evaluate(_SHOW)
        page.wait(lambda: "All of it." in page.text("progress"), "the end on the page")
        page.page.wait_for_timeout(500)
        titled(page, own)
        assert len(notified(page)) == 2
    assert first.job.view.state is JobState.DONE
    assert page.errors == []
