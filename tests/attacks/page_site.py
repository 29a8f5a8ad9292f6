"""Another site's page in the user's browser: whatever it tries against the page of this machine."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from ..serving import Apart
from .page_client import Client, Watch

SITE = "evil.example"
RESOLVER = f"--host-resolver-rules=MAP {SITE} 127.0.0.1"
"""The option with which a browser finds the site on this machine; its name could lead here outside of tests, too."""

_PAGE = """<!doctype html><title>evil</title><body><a id=link href="TARGET/">look</a><script>
const target = "TARGET", prefix = "PREFIX", body = JSON.stringify(MESSAGE), found = {};
const post = (name, options) => fetch(target + prefix + "/run/predict", {method: "POST", body, ...options})
    .then(async (answer) => { found[name] = `${answer.type} ${answer.status} ${await answer.text()}`; })
    .catch((error) => { found[name] = `error ${error}`; });
const later = (name, set) => new Promise((done) => {
    const end = (text) => { found[name] = text; done(); };
    set(end);
    setTimeout(() => end(found[name] || "nothing"), 1500);
});
const form = new FormData();
form.append("files", new File(["x"], "x.png"));
window.done = Promise.all([
    post("text", {mode: "no-cors", headers: {"Content-Type": "text/plain"}}),
    post("untyped", {mode: "no-cors", body: new Blob([body])}),
    post("json", {headers: {"Content-Type": "application/json"}}),
    post("credentials", {headers: {"Content-Type": "application/json"}, credentials: "include"}),
    fetch(target + prefix + "/upload", {method: "POST", mode: "no-cors", body: form}).catch(() => 0),
    fetch(target + "/config").then((answer) => answer.text()).then((text) => { found.config = text; }).catch(() => 0),
    later("image", (end) => {
        const image = new Image();
        [image.onload, image.onerror] = [() => end("loaded"), () => end("refused")];
        image.src = target + prefix + "/file=IMAGE";
    }),
    later("socket", (end) => {
        const socket = new WebSocket(target.replace("http", "ws") + "/queue/join");
        [socket.onopen, socket.onerror] = [() => end("opened"), () => end("refused")];
    }),
    later("events", (end) => {
        const events = new EventSource(target + prefix + "/heartbeat/x");
        events.onmessage = events.onopen = () => end("opened");
    }),
    later("frame", () => document.body.append(Object.assign(document.createElement("iframe"), {src: target + "/"}))),
]).then(() => found);
</script>"""


@contextmanager
def _site(page: str) -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(page.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


def attack_from_site(
    server: Apart, client: Client, watch: Watch, chromium: Any, *, hosts: Sequence[str] = (SITE, "localhost")
) -> None:
    """Open another site's page, which asks for all that a page can ask for, and see that it got and did nothing.

    Args:
        server: That serves, without a job.
        client: Talks to it.
        watch: Is told what happens.
        chromium: A browser that was started with :data:`RESOLVER`.
        hosts: The names under which the other site is at home.
    """
    from PIL import Image

    image = server.site.output / "images" / "site.png"
    image.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(image)
    before = server.facts()["job"]
    message = client.as_json("run_merge").decode()
    parts = {"TARGET": f"http://{client.at}", "PREFIX": client.prefix, "MESSAGE": message, "IMAGE": str(image)}
    text = _PAGE
    for name, value in parts.items():
        text = text.replace(name, value)
    uploaded = set((server.site.models.parent / "gradio").rglob("*.png"))
    with _site(text) as port:
        for host in hosts:
            _visit(chromium, watch, client, f"http://{host}:{port}/")
    _rebind(chromium, watch, client)
    watch.check(server.facts()["job"] == before, f"a site has begun a job: {server.facts()['job']}")
    new = set((server.site.models.parent / "gradio").rglob("*.png")) - uploaded
    watch.check(not new, f"a site has uploaded {new}")
    image.unlink()


def _visit(chromium: Any, watch: Watch, client: Client, url: str) -> None:
    context = chromium.new_context()
    page = context.new_page()
    page.goto(url)
    found = page.evaluate("window.done")
    watch.done["tries of another site"] += 10
    for name in ("json", "credentials", "config"):
        watch.check(
            "data" not in str(found.get(name)) and "components" not in str(found.get(name)), f"{url} read {found}"
        )
    for name in ("image", "socket", "events"):
        watch.check(found[name] in ("refused", "nothing"), f"{url}: {name} {found[name]}")
    inner = next(frame for frame in page.frames if frame != page.main_frame)
    watch.check(inner.query_selector("#elemental_tab") is None, f"{url} has the page in a frame")
    page.click("#link")
    page.wait_for_selector("#elemental_tab[data-ready]", timeout=90_000)
    context.close()
    watch.check(client.ask("GET", "/").status == 200, "the server is gone")


def _rebind(chromium: Any, watch: Watch, client: Client) -> None:
    """The site's name leads to this machine: its page would be of the same origin as what it asks for."""
    context = chromium.new_context()
    page = context.new_page()
    answer = page.goto(f"http://{SITE}:{client.at.partition(':')[2]}/")
    watch.check(answer.status == 403, f"the page is given as {SITE}'s: {answer.status}")
    for route in ("/config", client.prefix + "/run/predict"):
        status = page.evaluate("(route) => fetch(route, {method: 'POST', body: '{}'}).then((a) => a.status)", route)
        watch.check(status == 403, f"{route} answers {SITE}: {status}")
    watch.done["tries of another site"] += 3
    context.close()
