"""Many browsers at once on one server: each types, sees its own preview, and presses what the others press, too."""

from __future__ import annotations

import json
import random
import re
import shutil
import statistics
import threading
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from elemental.session.job_board import MOST_WAITING

from ..browser import Page
from ..refusing import UNEXPECTED
from ..serving import Apart
from .page_client import Client, Watch
from .page_forged import GOES_ON, settle

_TAG = "<img src=x onerror='window.pwned=1'>"
_BUTTONS = (
    "run_merge",
    "run_both",
    "run_images",
    "restore",
    "stop",
    "run_plot",
    "resume",
    "refresh",
    "run_save",
    "swap",
)
_POOLS = ("AnyIO worker thread", "asyncio_")
"""Threads that gradio keeps for a while, or for ever, as many as were needed at once."""

_TYPIST = """(() => {
const me = NUMBER, seed = SEED;
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
const say = (what) => console.log("CROWD " + JSON.stringify({me, ...what}));
const table = Uint32Array.from({length: 256}, (_, n) => {
    for (let bit = 0; bit < 8; bit++) n = n & 1 ? (n >>> 1) ^ 0xedb88320 : n >>> 1;
    return n;
});
const stamp = (text) => {
    let crc = -1;
    for (const byte of new TextEncoder().encode(text)) crc = (crc >>> 8) ^ table[(crc ^ byte) & 255];
    return ((crc ^ -1) >>> 0).toString(16).padStart(8, "0");
};
const until = async (right, ms) => {
    const end = performance.now() + ms;
    while (!right()) {
        if (performance.now() > end) return false;
        await sleep(30);
    }
    return true;
};
const report = () => document.querySelector("#elemental_report .elemental-report");
const rules = () => Array.from(document.querySelectorAll("#elemental_map [data-rule]"), (rule) => rule.textContent);
const block = (number) => `OUT${String(3 + number % 9).padStart(2, "0")}`; // those that have attention
async function type() {
    if (!await until(() => document.querySelector("#elemental_tab[data-ready]"), 300000)) say({wrong: "never came"});
    await sleep(1500);
    for (let round = seed; ; round++) {
        const area = document.querySelector("#elemental_spec textarea");
        if (!area || window.pwned) return say({wrong: window.pwned ? "ran a script" : "has no field"});
        const ratio = ((me * 37 + round * 11) % 97 + 2) / 100;
        const lines = Array.from({length: 1 + (me + round) % 4}, (_, n) => `${block(me + n)}:attn2:${ratio}`);
        area.value = lines.join("\\n");
        area.dispatchEvent(new Event("input", {bubbles: true}));
        const began = performance.now(), wanted = stamp(area.value), typed = area.value;
        const known = await until(() => report() && report().dataset.stamp === wanted, 120000);
        const ms = performance.now() - began;
        const said = report() ? report().textContent : "";
        if (area.value !== typed) say({changed: 1});
        else if (!known) say({wrong: `waits for ${typed}: ${said}`});
        else if (!said.includes(`${lines.length} rule`)) say({wrong: `typed ${typed}, reads ${said}`});
        else if (await until(() => rules().sort().join() === lines.sort().join(), 60000)) say({ms});
        else if (area.value === typed) say({wrong: `typed ${typed}, has ${rules()}`});
        await sleep(PAUSE * (0.5 + Math.random()));
    }
}
type();
})();"""


_PRESS = """([id, at]) => setTimeout(() => {
    const found = document.getElementById(id);
    if (found) (found.tagName === "BUTTON" ? found : found.querySelector("button")).click();
}, at - Date.now())"""


_PRESS_IN_QUEUE = """(act) => {
    const found = Array.from(document.querySelectorAll(`#elemental_queue [data-queue=${act}]:enabled`));
    if (found.length) found[Math.floor(Math.random() * found.length)].click();
}"""


class Crowd:
    """Browsers on one server.

    Args:
        server: That serves.
        chromium: Opens them.
        watch: Is told what happens.
        count: How many.
        pause: Seconds between two texts that one types.

    Attributes:
        waited: Milliseconds from each text to its preview.
    """

    def __init__(self, server: Apart, chromium: Any, watch: Watch, *, count: int, pause: float) -> None:
        self._server, self._chromium, self._watch, self._pause = server, chromium, watch, pause
        self.waited: list[float] = []
        self._made = 0
        self.pages = [self._open() for _ in range(count)]

    def _open(self) -> Page:
        """Open one more, which begins to type when it is there."""
        self._made += 1
        context = self._chromium.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
        context.set_default_timeout(60_000)
        script = _TYPIST.replace("NUMBER", str(self._made)).replace("SEED", str(7 * self._made))
        context.add_init_script(script.replace("PAUSE", str(1000 * self._pause)))
        page = Page(context.new_page(), Path())
        page.page.on("console", self._hear)
        page.page.goto(self._server.site.url, wait_until="commit")
        self._watch.count("pages opened")
        return page

    def _hear(self, message: Any) -> None:
        if not message.text.startswith("CROWD "):
            return
        said = json.loads(message.text[6:])
        self._watch.check("wrong" not in said, f"page {said['me']} {said.get('wrong')}")
        if "ms" in said:
            self.waited.append(said["ms"])
            self._watch.count("previews in browsers")
        if "changed" in said:
            self._watch.count("texts that something else was put over")

    def ready(self) -> None:
        """Wait until all are there."""
        for page in self.pages:
            page.page.wait_for_selector("#elemental_tab[data-ready]", timeout=300_000)

    def press(self, pages: Sequence[Page], name: str) -> None:
        """Have several pages press a button at the same moment."""
        at = 1000 * (time.time() + 0.3)
        for page in pages:
            page.page.evaluate(_PRESS, [f"elemental_{name}", at])
        self._watch.done["buttons pressed"] += len(pages)

    def reload(self, page: Page) -> None:
        page.page.reload(wait_until="commit")
        self._watch.count("pages loaded anew")

    def replace(self, page: Page) -> None:
        """Close a page in the middle of whatever it does, and open another."""
        self._leave(page)
        self.pages[self.pages.index(page)] = self._open()

    def _leave(self, page: Page) -> None:
        self._watch.check(not page.errors, f"a page says {page.errors[:3]}")
        page.page.context.close()
        self._watch.count("pages closed")

    def close(self) -> None:
        for page in self.pages:
            self._leave(page)


class _Clients:
    """Threads that ask for previews without a browser, as fast as they get them, with a breath between."""

    def __init__(self, url: str, watch: Watch, *, count: int, pause: float) -> None:
        self.waited: list[float] = []
        self._watch, self._pause, self._ended = watch, pause, threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(Client(url), number)) for number in range(count)]
        for thread in self._threads:
            thread.start()

    def _ask(self, client: Client, number: int) -> None:
        turn = 0
        while not self._ended.wait(self._pause):
            turn += 1
            rules = [
                f"OUT{3 + (number + row) % 9:02}:attn1:0.{number + 10}{turn % 1000:03}1" for row in range(1 + turn % 3)
            ]
            spec = "\n".join(rules)
            models = {"model_a": "a.safetensors", "model_b": "b.safetensors"}
            answer = client.send("sync", session=f"raw{number}", spec=spec, **models)
            self.waited.append(1000 * answer.seconds)
            self._watch.answered(answer, "a preview")
            shown = re.findall(r'data-rule="\d+">([^<]*)<', "".join(map(str, answer.data)))
            own = f'data-stamp="{zlib.crc32(spec.encode()):08x}"' in "".join(map(str, answer.data)) and shown == rules
            self._watch.check(own, f"asked for {rules}, got {shown}: {answer.text[:200]}")

    def close(self) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()


def attack_with_crowd(
    server: Apart,
    client: Client,
    watch: Watch,
    chromium: Any,
    *,
    browsers: int,
    seconds: float,
    seed: int,
    pause: float = 5.0,
) -> dict[str, str]:
    """Have many use the page at once, and compare what the server holds afterwards with what it held before.

    Args:
        server: That serves, without a job.
        client: Talks to it.
        watch: Is told what happens.
        chromium: Opens browsers.
        browsers: How many.
        seconds: For how long.
        seed: Decides who does what.
        pause: Seconds between two texts that one browser types.

    Returns:
        Figures in words.
    """
    draw = random.Random(seed)
    before = _rest(server, client, watch)
    _merge_with_tag(server, client, watch)
    crowd = Crowd(server, chromium, watch, count=browsers, pause=pause)
    crowd.ready()
    clients = _Clients(server.site.url, watch, count=4, pause=pause / 2)
    end, beat = time.monotonic() + seconds, 0
    try:
        while time.monotonic() < end:
            _act(crowd, server, watch, draw, beat)
            beat += 1
    finally:
        clients.close()
        crowd.close()
    settle(server, client, watch)
    after = _rest(server, client, watch, before=before)
    watch.check(after["digest"] == before["digest"], "the live model is not what it was")
    watch.check(len(crowd.waited) > 0 and len(clients.waited) > 0, "nobody saw a preview")
    return {
        "preview in a browser, ms": _spread(crowd.waited),
        "preview by HTTP, ms": _spread(clients.waited),
        "threads": f"{_own_threads(before)} before, {_own_threads(after)} after",
        "descriptors": f"{before['files']} before, {after['files']} after",
        "memory, MB": f"{before['memory']} before, {after['memory']} after",
    }


def _merge_with_tag(server: Apart, client: Client, watch: Watch) -> None:
    """Put a model whose name is HTML into the form, the live model and the history, which all pages show."""
    path = server.site.models / f"{_TAG}.safetensors"
    shutil.copyfile(server.site.models / "b.safetensors", path)
    for owner in ("sync", "run_merge"):
        answer = client.send(owner, model_a="a.safetensors", model_b=str(path))
        watch.check(not UNEXPECTED.search(answer.text) and answer.status == 200, f"{owner}: {answer.text[:200]}")
    _ended(client, watch)
    shown = client.send("poll", seen="").text
    watch.check("merge active" in shown and _TAG not in shown, f"the merge of {_TAG} is shown so: {shown[:300]}")


def _act(crowd: Crowd, server: Apart, watch: Watch, draw: random.Random, beat: int) -> None:
    """One second: a rush to one button, or something that one page does by itself."""
    some = draw.sample(crowd.pages, min(len(crowd.pages), draw.choice((1, 2, 6, 20))))
    kind = beat % 4
    if kind == 0:
        crowd.press(some, draw.choice(("run_merge", "run_both", "run_plot")))
    elif kind == 1:
        crowd.press(some, draw.choice(_BUTTONS))
    elif kind == 2:
        crowd.press(some[:1], "run_both")
        crowd.replace(some[0])
    else:
        crowd.reload(some[0])
        crowd.press(some[1:], "stop")
    crowd.pages[0].page.wait_for_timeout(700)
    _look_at_queues(crowd, watch, draw)
    facts = server.facts()
    workers = [name for name in facts["threads"] if name.startswith("elemental_")]
    watch.check(len(workers) == 1, f"not one thread for all jobs: {workers}")
    watch.check(server.runs(), "the server has ended")
    watch.count("jobs seen running" if facts["job"].endswith("running") else "moments without a job")
    for page in some if kind < 2 else ():
        said = page.page.evaluate("() => (document.getElementById('elemental_notice') || {}).textContent || ''").strip()
        watch.check(not UNEXPECTED.search(said), f"a page says {said}")
        if "jobs are waiting already" in said:
            watch.count("pages told that too many jobs wait")


def _look_at_queues(crowd: Crowd, watch: Watch, draw: random.Random) -> None:
    """Count what a page lists, and have it move or drop some of that."""
    page = draw.choice(crowd.pages).page
    shown = page.locator("#elemental_queue ol li").count()
    watch.check(shown <= MOST_WAITING, f"{shown} jobs are waiting")
    watch.done["most jobs that waited"] = max(watch.done["most jobs that waited"], shown)
    page.evaluate(_PRESS_IN_QUEUE, draw.choice(("up", "down", "drop", "drop-all")))


def _rest(server: Apart, client: Client, watch: Watch, before: dict[str, Any] | None = None) -> dict[str, Any]:
    """Bring the server to rest, with the user's model loaded and no sockets open, and look at it."""
    for owner in ("restore", "run_images", "restore"):
        answer = client.send(owner, model_a="a.safetensors", batch=1, steps=1, width=64, height=64)
        watch.check("elemental-message" in answer.text, f"{owner}: {answer.text[:200]}")
        _ended(client, watch)
    facts = server.facts()
    for _ in range(40):  # connections are closed by and by
        facts = server.facts()
        if before is None or (facts["files"] <= before["files"] + 2 and _own_threads(facts) <= _own_threads(before)):
            break
        time.sleep(1)
    watch.check(facts["live"] == "file" and facts["loaded"].endswith("a.safetensors"), f"loaded is {facts['loaded']}")
    if before is not None:
        watch.check(
            facts["files"] <= before["files"] + 2, f"descriptors: {before['files']} before, {facts['files']} after"
        )
        watch.check(_own_threads(facts) <= _own_threads(before), f"threads: {facts['threads']}")
    return facts


def _ended(client: Client, watch: Watch) -> None:
    end = time.monotonic() + 60
    while GOES_ON.search(client.send("poll", seen="").text):
        if not watch.check(time.monotonic() < end, "a job does not end"):
            return
        time.sleep(0.05)


def _own_threads(facts: dict[str, Any]) -> int:
    return sum(not name.startswith(_POOLS) for name in facts["threads"])


def _spread(values: Sequence[float]) -> str:
    if len(values) < 2:
        return "too few"
    cuts = statistics.quantiles(values, n=20)
    return f"median {statistics.median(values):.0f}, 95th {cuts[18]:.0f}, largest {max(values):.0f} of {len(values)}"
