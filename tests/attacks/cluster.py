"""Plots and checks on workers, of which workers, nodes and drivers are killed, until the runs are whole.

Each ends as one that a single process makes: every image, grid, table and GIF the same byte for byte, no image made
twice, and the record readable after every kill. Run as ``python -m tests.attacks.cluster``: 50 kills on a Ray of four
nodes, all on this computer. A node that was killed is followed by another; a cell that cost two workers is blank, and
is made when the run is gone on with.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from elemental.cli.main import FAILED
from elemental.merge.files.hashes import CACHE_VARIABLE

from ..ray_nodes import LOOPBACK, CannotBegin, RayNodes
from .plots import RUNS, WARM, Trial, Whole, make_whole
from .processes import Command, Tally, warm_up

NO_RAY = 3
"""The exit code where Ray does not begin."""
_ALONE = 0.15
"""How often a run is gone on with in one process."""
_LOST = "workers ended while they made it"


def main() -> int:
    """Attack, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=50, help="kills (default: %(default)s)")
    parser.add_argument("--nodes", type=int, default=4, help="nodes of one CPU each (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=list(RUNS), help="what to kill")
    args = parser.parse_args()
    warm_up(*(f"elemental.{name}" for name in WARM))
    os.environ.update(LOOPBACK)
    with tempfile.TemporaryDirectory() as folder:
        os.environ[CACHE_VARIABLE] = str(Path(folder) / "cache")
        names = args.only or list(RUNS)[2:]
        return attack(Path(folder), rounds=args.rounds, nodes=args.nodes, seed=args.seed, names=names)


def attack(folder: Path, *, rounds: int, nodes: int, seed: int, names: list[str]) -> int:
    """Kill what makes plots and checks; gives 1 if anything was lost, and ``NO_RAY`` where there is none.

    Args:
        folder: To work in.
        rounds: How many kills.
        nodes: How many nodes there are.
        seed: Decides all that is drawn.
        names: Of the runs, one after the other.
    """
    started, rng, tally = time.monotonic(), random.Random(seed), Tally()
    wholes = [make_whole(name, folder / f"whole-{name}") for name in names]
    try:
        ray_nodes = RayNodes(nodes)
    except CannotBegin as exc:
        print(f"Ray does not begin on this machine: {exc}")
        return NO_RAY
    with ray_nodes:
        wholes = [_with_time_on(ray_nodes, whole, folder / f"timed-{whole.name}") for whole in wholes]
        number = 0
        while tally.counts["kills"] < rounds:
            most = min(rounds, tally.counts["kills"] + -(-rounds // len(wholes)))
            trial = folder / f"trial-{number}"
            ClusterTrial(wholes[number % len(wholes)], trial, tally, rng, most=most, nodes=ray_nodes).go_through()
            number += 1
            print(f"{tally.counts['kills']} kills, {len(tally.failures)} failures", flush=True)
    return tally.report(time.monotonic() - started)


def _with_time_on(nodes: RayNodes, whole: Whole, folder: Path) -> Whole:
    """Give a run with the time that its process takes on workers, which begin with each driver."""
    command = Command([*whole.argv, "-o", folder, *_on(nodes)], folder.with_suffix(".log"))
    if command.wait() != 0:
        raise RuntimeError(f"the run on workers that nothing disturbs fails: {command.errors}")
    generating = whole.cells * whole.each / nodes.count
    return replace(whole, before=max(whole.before, command.age - generating))


def _on(nodes: RayNodes) -> list[object]:
    return ["--on", f"ray:{nodes.address}", "--workers", nodes.count]


class ClusterTrial(Trial):
    """One run on workers, disturbed again and again, until there are so many kills in all."""

    def __init__(
        self, whole: Whole, folder: Path, tally: Tally, rng: random.Random, *, most: int, nodes: RayNodes
    ) -> None:
        super().__init__(whole, folder, tally, rng, most=most)
        self._nodes = nodes

    def _begin(self) -> Command:
        alone = self._run is not None and self._rng.random() < _ALONE
        self._tally.counts["drivers alone" if alone else "drivers"] += 1
        return self._command([] if alone else _on(self._nodes))

    def _strike(self, command: Command) -> str:
        """Kill workers and nodes, as long as there are kills, and in the end the driver, or ask it to end."""
        counts = self._tally.counts
        while (what := self._rng.choice(["worker", "worker", "node", "driver"])) != "driver":
            self._wait_for_moment(command)
            if command.code is not None or counts["kills"] >= self._most - 1:
                break
            if what == "node":
                self._nodes.kill(self._rng.choice(self._nodes.numbers))
                self._nodes.add()
            elif workers := self._nodes.workers():
                os.kill(self._rng.choice(workers), signal.SIGKILL)
            else:
                continue
            counts["kills"] += 1
            counts[f"kills, {what}s"] += 1
        return super()._strike(command)

    def _is_over(self, command: Command) -> bool:
        if command.code == FAILED and _LOST in command.errors:
            self._tally.counts["runs with a cell that cost two workers"] += 1
            return False
        return super()._is_over(command)


if __name__ == "__main__":
    raise SystemExit(main())
