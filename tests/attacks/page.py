"""The page served by itself against names of files, forged requests, other sites, and many browsers at once.

``python -m tests.attacks.page --rounds N --seed S`` starts servers of its own on this machine, one after the other.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..browser import browser, find_chromium
from ..serving import Apart
from .page_client import Client, Watch, read_log
from .page_crowd import attack_with_crowd
from .page_forged import attack_forged
from .page_paths import attack_paths
from .page_site import RESOLVER, attack_from_site


@contextmanager
def server_under_attack(folder: Path, watch: Watch, *, noise: bool = True) -> Iterator[tuple[Apart, Client]]:
    """Start a server, and afterwards see that it lives and what it wrote.

    Args:
        folder: An empty one, for all that it has and writes.
        watch: Is told what is found.
        noise: Whether its images are noise, which takes no time.
    """
    with Apart(folder, noise=noise) as server:
        yield server, Client(server.site.url)
        watch.check(server.runs(), "the server has ended")
    read_log(server.log, watch)


def attack(name: str, *, rounds: int, seed: int, browsers: int, seconds: float) -> Watch:
    """Run one part of the attack, and print its figures.

    Args:
        name: Of the part: paths, forged, site, crowd.
        rounds: How many names of files, and a tenth of how many forged requests.
        seed: Decides what is drawn.
        browsers: How many of them are open at once.
        seconds: How long they are.
    """
    watch, figures, started = Watch(), {}, time.perf_counter()
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        server_under_attack(Path(folder), watch, noise=name != "crowd") as (server, client),
    ):
        if name == "paths":
            attack_paths(server, client, watch, rounds=rounds, seed=seed)
        elif name == "forged":
            attack_forged(server, client, watch, rounds=10 * rounds, seed=seed)
        elif name == "site":
            with browser(RESOLVER) as chromium:
                attack_from_site(server, client, watch, chromium)
        else:
            _leave_a_core(Path(folder))
            with browser() as chromium:
                figures = attack_with_crowd(
                    server, client, watch, chromium, browsers=browsers, seconds=seconds, seed=seed
                )
    print(f"{name}: {time.perf_counter() - started:.0f} s, slowest answer {watch.slowest:.2f} s")
    for what, count in sorted(watch.done.items()):
        print(f"  {what}: {count:,}")
    for what, text in figures.items():
        print(f"  {what}: {text}")
    for failure in watch.failures[:20]:
        print(f"  FAILURE {failure[:2000]}")
    print(f"  failures: {len(watch.failures)}", flush=True)
    return watch


def _leave_a_core(folder: Path) -> None:
    """Have the browsers, in life on machines of their own, leave one of this machine's cores to the server."""
    cores = sorted(os.sched_getaffinity(0))[1:] if sys.platform == "linux" else []
    if cores and shutil.which("taskset"):
        script = folder / "chromium"
        script.write_text(f'#!/bin/sh\nexec taskset -c {",".join(map(str, cores))} "{find_chromium()}" "$@"\n')
        script.chmod(0o755)
        os.environ["CHROMIUM"] = str(script)


def main() -> int:
    import gradio

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=400)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--browsers", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--parts", nargs="+", default=["paths", "forged", "site", "crowd"])
    args = parser.parse_args()
    print(f"gradio {gradio.__version__}, Python {sys.version.split()[0]}", flush=True)
    options = {"rounds": args.rounds, "seed": args.seed, "browsers": args.browsers, "seconds": args.seconds}
    failures = sum(len(attack(part, **options).failures) for part in args.parts)
    print(f"failures in all: {failures}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
