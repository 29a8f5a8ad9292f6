"""Merges killed at random moments, two at once, on disks that fill, break, go dark, or shut their doors.

Each time the target is the old file or the whole new one, the models are untouched, what fails says so in one message,
and the next merge into that folder succeeds and clears up. Run as ``python -m tests.attacks.saving --rounds 200``: so
many kills of processes that were started as a user starts them, and a fifth as many of each other blow.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from elemental.cli.main import STOPPED
from elemental.merge.files.hashes import CACHE_VARIABLE

from .blows import BLOWS
from .disks import can_mount, disk
from .merges import PLACES, Judge, Merge, clear_cache, make_merges, make_place, wait_for_moment
from .processes import Command, Tally, warm_up

_ALL = ["kills", "pairs", "stops", *BLOWS]
_AIMED = 0.7
"""Share of the kills that wait for the temporary file; the others take any moment of the process's life."""


def main() -> int:
    """Attack, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200, help="kills (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=_ALL, metavar="BLOW", help=f"of {', '.join(_ALL)}")
    parser.add_argument("--warm", action="store_true", help="kill forked processes, which saves their imports")
    args = parser.parse_args()
    warm_up("elemental.cli.main", "elemental.merge.merge_to_file", "safetensors.numpy")  # fp16 needs no torch
    with tempfile.TemporaryDirectory() as folder:
        return attack(Path(folder), rounds=args.rounds, seed=args.seed, only=args.only or _ALL, cold=not args.warm)


def attack(folder: Path, *, rounds: int, seed: int, only: list[str], cold: bool = True) -> int:
    """Kill merges and meddle with their disks; gives 1 if anything was lost.

    Args:
        folder: To work in.
        rounds: How many kills.
        seed: Decides all that is drawn.
        only: The kinds of blows.
        cold: Whether to kill processes that import everything themselves.
    """
    started = time.monotonic()
    rng, tally = random.Random(seed), Tally()
    os.environ[CACHE_VARIABLE] = str(folder / "cache")
    merges = make_merges(folder, 6 if rounds >= 50 else 2, rng, cold=cold and "kills" in only)
    judge = Judge(tally, folder)
    few = max(1, rounds // 5)
    if "kills" in only:
        kill(judge, merges, folder, rng, rounds=rounds, cold=cold)
    if "pairs" in only:
        merge_twice_at_once(judge, merges, folder, rng, rounds=few)
    if "stops" in only:
        stop(judge, merges, folder, rng, rounds=few)
    for name, blow in BLOWS.items():
        if name in only:
            blow(judge, merges, folder, rng, few)
    for merge in merges:
        for path, model in merge.models.items():
            tally.check(not model.is_changed, f"{path.name} was changed")
    return tally.report(time.monotonic() - started)


def kill(judge: Judge, merges: list[Merge], folder: Path, rng: random.Random, *, rounds: int, cold: bool) -> None:
    """Kill merges at random moments."""
    count = judge.tally.counts
    with ExitStack() as stack:
        mounts = can_mount("tmpfs", folder)
        elsewhere = folder / "elsewhere"
        if mounts:
            stack.enter_context(disk("tmpfs", elsewhere, 256 << 20))
        else:
            count["kills: skipped, no other disk can be mounted"] += 1
        for number in range(rounds):
            merge, kind = rng.choice(merges), rng.choice(PLACES if mounts else PLACES[:-1])
            place = make_place(kind, folder / "place", elsewhere if "disk" in kind else None, rng)
            if rng.random() < 0.5:
                clear_cache(folder / "cache")
            command = Command(merge.command(place.output, *place.options), folder / "killed", cold=cold)
            wait_for_moment(command, place, merge, rng, aimed=_AIMED)
            code = command.kill()
            what = f"kill {number}, {kind}, {merge.name}"
            phase = "while writing" if place.leftovers else "before writing"
            if judge.judge(place, [merge], [code], what):
                phase = "after the renaming" if code else "after the end"
            judge.tally.check(code in (0, -9), f"{what}: exit code {code}, {command.errors}")
            count["kills"] += 1
            count[f"kills {phase}"] += 1
            count[f"kills, {kind}"] += 1
            judge.try_again(place, merge, what, name=rng.choice((None, "next.safetensors")))


def stop(judge: Judge, merges: list[Merge], folder: Path, rng: random.Random, *, rounds: int) -> None:
    """Stop merges by SIGTERM at random moments."""
    for number in range(rounds):
        merge, kind = rng.choice(merges), rng.choice(PLACES[:-1])
        place = make_place(kind, folder / "place", None, rng)
        command = Command(merge.command(place.output, *place.options), folder / "stopped")
        wait_for_moment(command, place, merge, rng, aimed=_AIMED)
        command.terminate()
        code = command.wait()
        what = f"stop {number}, {kind}, {merge.name}"
        judge.judge(place, [merge], [code], what)
        if code == STOPPED:
            judge.stopped(place, command, what)
        judge.tally.check(code in (0, STOPPED, -signal.SIGTERM), f"{what}: exit code {code}, {command.errors}")
        judge.tally.counts[f"stops, exit code {code}"] += 1
        judge.try_again(place, merge, what)


def merge_twice_at_once(judge: Judge, merges: list[Merge], folder: Path, rng: random.Random, *, rounds: int) -> None:
    """Merge twice to the same target at once, and kill one, both or none."""
    count = judge.tally.counts
    for number in range(rounds):
        pair = rng.sample(merges, 2)
        place = make_place("overwrite", folder / "place", None, rng)
        first = Command(pair[0].command(place.output, "--overwrite"), folder / "first")
        time.sleep(rng.uniform(0, 0.2))
        second = Command(pair[1].command(place.output, "--overwrite"), folder / "second")
        killed = rng.sample((first, second), rng.randrange(3))
        for command in killed:
            time.sleep(rng.uniform(0, 0.5))
            command.kill()
        codes = [first.wait(), second.wait()]
        what = f"pair {number}, {pair[0].name} and {pair[1].name}"
        new = judge.judge(place, pair, codes, what)
        judge.tally.check(all(code in (0, -9) for code in codes), f"{what}: {codes}, {first.errors} {second.errors}")
        count["pairs"] += 1
        count[f"pairs, {sum(code != 0 for code in codes)} killed, target {'new' if new else 'old'}"] += 1
        judge.try_again(place, rng.choice(pair), what)


if __name__ == "__main__":
    raise SystemExit(main())
