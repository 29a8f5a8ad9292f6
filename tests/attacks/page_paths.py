"""Names of files in everything that takes one: what can be read, written, or made to hang by it."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from ..serving import Apart
from .page_client import Answer, Client, Watch

MARK = b"CANARY-7f3a"
LONGEST = 10.0
"""Seconds that any answer may take."""
_PATIENCE = 120.0
"""Seconds that a job may take: a disk that others use, too, may need a while until a small file is safe on it."""

_DEVICES = ("/dev/zero", "/dev/stdin", "/proc/self/mem", "/proc/self/environ", "/proc/self/fd/0", "/etc/passwd")
_WINDOWS = ("C:\\Windows\\win.ini", "\\\\127.0.0.1\\c$\\x.safetensors", "//127.0.0.1/share/x.png", "NUL", "CON.png")
_ODD = (
    "",
    ".",
    "..",
    "/",
    "~",
    "~root",
    "\0",
    "a\0.png",
    "x" * 5000,
    "ü" * 300,
    "\ud800",
    "%",
    "%00",
    "file:///etc/passwd",
)
_WEB = ("http://127.0.0.1:9/x.png", "https://example.invalid/x.png", "ftp://127.0.0.1/x", "data:text/plain,x")
_FILE_ROUTES = (
    "/file=",
    "/file/",
    "/static/",
    "/assets/",
    "/proxy=",
    "/svelte/",
    "/custom_component/x/client/component/",
)


class Place:
    """Traps in and around the folders of a server: files that nobody may get, and what never ends.

    Args:
        server: That serves.

    Attributes:
        secrets: Files that hold the mark.
    """

    def __init__(self, server: Apart) -> None:
        self.folder = server.site.models.parent
        self.out, self.models, self.work = server.site.output, server.site.models, self.folder / "work"
        self.outside = self.folder / "outside"
        for folder in (self.out, self.outside, self.work / ".hidden", self.out / ".hidden", self.out / "images"):
            folder.mkdir(parents=True, exist_ok=True)
        names = ("secret.png", "secret.gif", "secret.json", "secret.txt", "secret.safetensors")
        self.secrets = [self._secret(self.outside / name) for name in names]
        self.secrets += [self._secret(self.work / name) for name in ("secret.txt", "secret.png", ".hidden/secret.png")]
        self.secrets += [self._secret(self.models / name) for name in ("secret.safetensors", "secret.yaml")]
        self.secrets += [self._secret(self.out / name) for name in (".secret.png", ".hidden/secret.png", "secret.csv")]
        self.secrets += [self._secret(self.out / name) for name in ("secret.safetensors", "plots/x/run.json")]
        self.secrets += list(self._links())
        for folder in (self.outside, self.models / "inner"):
            folder.mkdir(exist_ok=True)
            shutil.copyfile(self.models / "b.safetensors", folder / "typed.safetensors")
        self.before = self.image()

    def _secret(self, path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(MARK)
        return path

    def _links(self) -> Iterator[Path]:
        links = {"link.png": self.outside / "secret.png", "link.gif": self.outside / "secret.gif"}
        links |= {"linked": self.outside, "zero.png": Path("/dev/zero"), "zero.gif": Path("/dev/zero")}
        links |= {"loop.gif": self.out / "loop.gif", "mem.png": Path("/proc/self/mem")}
        links |= {"plots/gone/run.json": self.outside / "gone.json", "plots/zero/run.json": Path("/dev/zero")}
        for name, target in links.items():
            (self.out / name).parent.mkdir(parents=True, exist_ok=True)
            (self.out / name).symlink_to(target)
            yield self.out / name
        yield from (self.out / "linked" / name for name in ("secret.png", "secret.gif"))
        for name in ("pipe.png", "pipe.gif", "plots/pipe/run.json", "checks/pipe/diff/run.json"):
            (self.out / name).parent.mkdir(parents=True, exist_ok=True)
            os.mkfifo(self.out / name)
            yield self.out / name
        os.mkfifo(self.models / "pipe.safetensors")
        (self.models / "zero.safetensors").symlink_to("/dev/zero")
        yield from (self.models / "pipe.safetensors", self.models / "zero.safetensors")

    def image(self) -> dict[str, str]:
        """Give a digest of each file that no request may change: all but new ones in the server's own folders."""
        kept = [*self.outside.rglob("*"), *self.work.rglob("*"), *self.folder.glob("*"), *self.secrets]
        kept += [self.models / name for name in ("a.safetensors", "b.safetensors", "a.yaml", "b.yaml")]
        kept = [path for path in kept if path.name not in ("server.log", "config", "hashes", "gradio")]
        plain = [path for path in kept if path.is_file() and path.resolve() == path]
        return {str(path): "" for path in kept} | {
            str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in plain
        }

    def worst(self) -> list[str]:
        """List a few names that are always tried, each for its own reason."""
        found = ("out/pipe.gif", "out/loop.gif", "out/zero.gif", "out/link.gif", "models/pipe.safetensors", "outside")
        return ["/dev/zero", "/etc/passwd", "\0", "\ud800", "x" * 5000, *(str(self.folder / name) for name in found)]

    def exposed(self) -> list[Path]:
        """List secrets in the folders that the page serves images of, and the nearest ones beside them."""
        names = ("secret.csv", "secret.safetensors", "plots/x/run.json", ".secret.png", "link.png", "linked/secret.png")
        return [*(self.out / name for name in names), self.outside / "secret.png", self.models / "secret.yaml"]

    def names(self) -> list[str]:
        """List names for each secret, in many spellings, and names of what never ends."""
        found = [*_DEVICES, *_WINDOWS, *_ODD, *_WEB]
        for path in self.secrets:
            up = os.path.relpath(path, self.work)
            round_about = f"{self.out}/images/../../{path.relative_to(self.folder)}"
            found += [str(path), up, round_about, f"/{path}", f"{path}/", f"{path}\0.png", up.replace("/", "\\")]
            found += [up.replace("../", "....//"), f"/proc/self/root{path}", f"/proc/self/cwd/{up}", f"file://{path}"]
        return found


def attack_paths(server: Apart, client: Client, watch: Watch, *, rounds: int, seed: int) -> Place:
    """Ask for every name on every route and in every field that takes one.

    Args:
        server: That serves, without a job.
        client: Talks to it.
        watch: Is told what happens.
        rounds: How many names of each kind are asked for at the most.
        seed: Decides which, where there are more.
    """
    place, draw = Place(server), random.Random(seed)
    names = place.names()
    chosen = [draw.sample(names, min(count, len(names))) for count in (rounds, rounds, 4 * rounds)]
    for path in place.exposed():
        _refused(watch, client.ask("GET", f"{client.prefix}/file={path}"), f"the file {path}")
    _ask_for_files(client, watch, chosen[0])
    _ask_for_own(server, client, watch, place)
    for name in (*place.worst(), *chosen[1]):
        _name_in_fields(client, watch, name)
    _save(client, watch, place)
    _upload(client, watch, chosen[2], place)
    _runs(server, client, watch, place)
    watch.check(place.image() == place.before, f"files changed: {_differences(place)}")
    return place


def _differences(place: Place) -> list[str]:
    now = place.image()
    return [path for path in {*now, *place.before} if now.get(path) != place.before.get(path)]


def _refused(watch: Watch, answer: Answer, what: str) -> None:
    watch.count("paths asked for")
    watch.answered(answer, what)
    watch.check(answer.seconds < LONGEST, f"{what} took {answer.seconds:.1f} s")
    watch.check(MARK not in answer.body and b"root:x:0" not in answer.body, f"{what} gave {answer.text[:100]}")


def _ask_for_files(client: Client, watch: Watch, names: list[str]) -> None:
    for name in names:
        for route in dict.fromkeys((*_FILE_ROUTES, *(client.prefix + route for route in _FILE_ROUTES))):
            once = quote(name, safe="/", errors="surrogatepass")
            spellings = {name.encode(errors="replace").decode(), once, quote(name, safe="", errors="surrogatepass")}
            for spelling in sorted({*spellings, quote(once, safe="/"), once.replace("../", "%2e%2e/")}):
                for method in ("GET", "HEAD") if len(spelling) < 200 else ("GET",):
                    answer = client.ask(method, route + spelling)
                    _refused(watch, answer, f"{method} {route}{spelling[:120]}")
                    if "file" in route and name:
                        watch.check(
                            answer.status in (0, 403, 404, 405, 400, 414), f"{route}{spelling[:120]}: {answer.status}"
                        )


def _ask_for_own(server: Apart, client: Client, watch: Watch, place: Place) -> None:
    """What the page shows is given: images of its folder, and what was uploaded."""
    for path in (place.out / "images" / "own.png", place.folder / "gradio" / "x" / "own.json"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"own")
        answer = client.ask("GET", f"{client.prefix}/file={path}")
        watch.check((answer.status, answer.body) == (200, b"own"), f"{path} is not given: {answer.status}")
        path.unlink()
    (place.out / "images" / "own.gif").write_bytes(b"GIF")
    said = client.send("gif", gif=f"{place.out / 'images' / 'own.gif'}\n1")
    watch.check("data:image/gif" in said.text, f"a GIF of its own is not shown: {said.text[:100]}")
    typed = client.send("sync", model_b=str(place.models / "inner" / "typed.safetensors"))
    watch.check("tensors differ" in typed.text, f"a model by its path is not planned: {typed.text[:200]}")
    outside = client.send("sync", model_b=str(place.outside / "typed.safetensors"))
    watch.check("No model named" in outside.text, f"a model outside the folder is planned: {outside.text[:200]}")
    whole = client.send("recipe_of_a", model_a=str(place.models / "a.yaml"))
    watch.check("holds no recipe" in whole.text, f"a file without a header is read whole: {whole.text[:200]}")
    watch.check(server.runs(), "the server has ended")


def _name_in_fields(client: Client, watch: Watch, name: str) -> None:
    """Put a name into each field; what it would mean is refused, with a reason, and nothing is begun or shown."""
    asked = {
        "sync": {"model_a": name}, "run_merge": {"model_b": name}, "run_images": {"model_a": name},
        "recipe_of_a": {"model_a": name}, "gif": {"gif": f"{name}\n1"}, "entry": {"entry": f"{name}\n2"},
        "resume": {"unfinished": name or "x"}, "preset": {"preset": name}, "plot_sample": {"plot_sample": name},
        "estimate_plot": {"x_type": "model-b", "x_values": f'"{name}"'}, "poll": {"seen": name},
        "run_check": {"model_b": name, "elements": "OUT05"}, "mode": {"mode": name},
        "run_both": {"vae": name, "model_b": "x"},
    }  # fmt: skip
    for owner, values in asked.items():
        _refused(watch, client.send(owner, **values), f"{owner} with {values!r:.150}")
    for value in (name, {"name": name, "is_file": True, "data": None, "size": 1, "orig_name": "x.json"}):
        _refused(watch, client.send("recipe_file", recipe_file=value), f"the recipe file {value!r:.150}")
    sent = {"path": name, "meta": {"_type": "gradio.FileData"}, "orig_name": "x.json"}
    if "://" not in name:  # gradio fetches those of public servers, which a test must not
        _refused(watch, client.send("recipe_file", recipe_file=sent), f"the recipe file {sent!r:.150}")


_NO_NAMES = (
    "..",
    "../x",
    "/tmp/x",
    "a/b",
    "a\\b",
    "C:x",
    "x\0",
    "x\ny",
    ".x",
    "..safetensors",
    "\\\\h\\s",
    "x" * 300,
)


def _save(client: Client, watch: Watch, place: Place) -> None:
    """Nothing is saved under a name that leads elsewhere, nor over a model unless that is asked for."""
    before = sorted(place.models.iterdir())
    for name in (*_NO_NAMES, *_DEVICES, *(str(path) for path in place.secrets[:6]), "\ud800", "ü" * 199):
        _refused(watch, client.send("run_save", name=name, overwrite=True), f"save as {name!r:.80}")
        _wait(client, watch)
    for name, overwrite in (("a", False), ("b.safetensors", False), ("a", True), ("b", True), ("pipe", False)):
        watch.answered(client.send("run_save", name=name, overwrite=overwrite), f"save as {name}")
        _wait(client, watch)
    watch.check(sorted(place.models.iterdir()) == before, f"saved: {set(place.models.iterdir()) - set(before)}")
    for _ in range(2):  # a blank name is for the program to choose: never that of a file which is there
        watch.answered(client.send("run_save", name=" ", overwrite=True), "save without a name")
        _wait(client, watch)
    new = sorted(path.name for path in set(place.models.iterdir()) - set(before))
    watch.check(all(re.fullmatch(r"a-b-[\w.-]+", name) for name in new), f"saved without a name: {new}")


def _wait(client: Client, watch: Watch) -> None:
    """Let the job that was begun, if one was, come to its end."""
    end = time.monotonic() + _PATIENCE
    while "elemental-message running" in client.send("poll", seen="").text:
        if time.monotonic() > end:
            watch.check(False, "a job does not end")
            return
        time.sleep(0.02)


def _upload(client: Client, watch: Watch, names: list[str], place: Place) -> None:
    """What is uploaded lies below gradio's own folder, whatever it is called."""
    for name in names:
        line = name.encode(errors="replace").replace(b'"', b"%22").replace(b"\n", b" ")
        body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="%s"\r\n\r\n{}\r\n--x--\r\n' % line
        answer = client.ask(
            "POST", f"{client.prefix}/upload", body, {"Content-Type": "multipart/form-data; boundary=x"}
        )
        _refused(watch, answer, f"upload of {name[:80]!r}")
        for path in json.loads(answer.body) if answer.status == 200 else []:
            inside = Path(path).resolve().is_relative_to((place.folder / "gradio").resolve())
            watch.check(inside, f"{name!r:.80} was uploaded to {path}")


def _runs(server: Apart, client: Client, watch: Watch, place: Place) -> None:
    """A run is gone on with by its name in the list alone; a record that names other files shows none of them."""
    watch.answered(client.send("run_plot", x_type="alpha", x_values="0, 1"), "a plot")
    _wait(client, watch)
    record = max(place.out.glob("plots/2*/run.json"))
    data = json.loads(record.read_text())
    done = next(iter(data["cells"].values()))
    way = os.path.relpath(place.outside / "secret", record.parent / "cells")
    evil = {**data, "cells": {**data["cells"], way: done, "x07-y00": {**done, "state": "waiting"}}}
    record.write_text(json.dumps(evil))
    listed = client.send("list_runs")
    watch.answered(listed, "the list of runs")
    watch.check(record.parent.name not in listed.text, f"a run with files of elsewhere is listed: {listed.text[:300]}")
    answer = client.send("resume", unfinished="")
    watch.answered(answer, "go on with it")
    _wait(client, watch)
    shown = client.send("poll", seen="").text
    watch.check("secret" not in shown, f"an image of elsewhere is shown: {shown[:300]}")
    record.write_text(json.dumps(data))
    watch.check(server.runs(), "the server has ended")
