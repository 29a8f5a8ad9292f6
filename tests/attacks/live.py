"""Raise an error at every call of a live merge into its host, one after the other, and see that the model is back.

Each scene is played again for each moment and each kind of error; afterwards all live tensors are what they were, bit
for bit, the host is idle, and the next merge makes the right image. On the stand-ins for the WebUI, reForge, Forge and
Forge Neo, what these do inside fails, too: a load, the encoding of a prompt, an image half-way. Last, Ctrl-C is pressed
at random, twice.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from elemental import ElementalError

from .interrupts import attack_with_interrupts
from .places import HOSTS, Place, Seen, place_on
from .scenes import SCENES, Scene, scenes_on
from .traps import KINDS, OF_TENSORS, Trap, trapped_host, trapped_tensors

LOAD_AGAIN = "Load the checkpoint again"
MOST_SHOWN = 40
ERRORS = ("once", "lasting")


@dataclass
class Report:
    """What came of an attack.

    Attributes:
        struck: How often an error was raised, by its kind.
        moments: How many moments there were, by scene.
        healed: How often the user's job went on or ended as if nothing had happened.
        loaded_again: How often the user was told to load the checkpoint again, and it helped.
        failures: What must not be.
    """

    struck: Counter[str] = field(default_factory=Counter)
    moments: dict[str, int] = field(default_factory=dict)
    healed: int = 0
    loaded_again: int = 0
    failures: list[str] = field(default_factory=list)

    def totals(self) -> str:
        """Give the numbers so far in a line."""
        return f"{sum(self.struck.values())} errors raised, {len(self.failures)} failures"


def attack(
    place: Place,
    scene: type[Scene],
    folder: Path,
    report: Report,
    *,
    kinds: Sequence[str],
    lasting: bool = False,
    draw: random.Random | None = None,
    every_tensor: int = 1,
) -> None:
    """Play a scene once for each moment and kind of error.

    Args:
        place: The host.
        scene: What is played.
        folder: For what it writes.
        report: Takes what is found.
        kinds: Of errors.
        lasting: Whether what has failed once keeps failing until the scene is over.
        draw: Draws one of the kinds for each moment; all are tried if it is None.
        every_tensor: Of the moments at which a tensor is read, or written, only one in so many.
    """
    scene(place, folder).prepare()
    place.open(scene.start)
    before = place.see()
    counting, played = Trap(), scene(place, folder)
    _play(place, played, counting)
    moments = list(counting.moments)
    played.after()
    place.forget()
    place.open(scene.start)
    report.failures += [f"{scene.__name__}, undisturbed: {problem}" for problem in played.wrong]
    name = scene.__name__
    report.moments[name] = len(moments)
    report.failures += [f'{name}: no moment was "{kind}"' for kind in {*OF_TENSORS} - {*moments}]
    for number in _choose(moments, every_tensor):
        for kind in [draw.choice(list(kinds))] if draw else kinds:
            trap = Trap(number, KINDS[kind], lasting=lasting)
            where = f"{type(place).__name__}, {name}, {kind} at {number} ({moments[number]})"
            found = strike(place, scene(place, folder), trap, before, report)
            report.struck[kind] += bool(trap.raised)
            if not trap.raised:
                found.append("was not reached")
            report.failures += [f"{where}: {problem}" for problem in found]
            if found:  # one failure is not to be found again and again
                place.reset()
                place.open(scene.start)


def _choose(moments: Sequence[str], every_tensor: int) -> Iterator[int]:
    seen: Counter[str] = Counter()
    for number, name in enumerate(moments):
        seen[name] += 1
        if name not in OF_TENSORS or seen[name] % every_tensor == 0:
            yield number


def _play(place: Place, scene: Scene, trap: Trap) -> BaseException | None:
    """Act, and give what was raised."""
    with trapped_tensors(trap), place.trapped_inside(trap):
        try:
            scene.act(trapped_host(place.host, trap), trap)
        except BaseException as exc:
            if not trap.raised:
                raise
            return exc
    return None


def strike(place: Place, scene: Scene, trap: Trap, before: Seen, report: Report) -> list[str]:
    """Play a scene with one error, and give what is wrong then."""
    error = _play(place, scene, trap)
    told, ended = _texts(error), error is None
    error = None  # its frames would keep the host's old models alive
    trap.at = None
    try:
        scene.after()
    except ElementalError as exc:
        told += _texts(exc)
        with suppress(ElementalError):
            scene.after()
    found = list(scene.wrong)
    report.healed += ended
    if ended and trap.kind is KeyboardInterrupt and not scene.notes_interrupts:
        found.append("Ctrl-C was swallowed")
    after = place.see()
    if after != before and any(LOAD_AGAIN in text for text in told):
        place.open(scene.start)
        after = place.see()
        report.loaded_again += 1
    found += [f"{part} is not what it was" for part, value in vars(before).items() if getattr(after, part) != value]
    try:
        found += _merge_again(place, scene, before)
    except ElementalError as exc:
        found.append(f"the next merge failed: {exc}")
    return found


def _merge_again(place: Place, scene: Scene, before: Seen) -> Iterator[str]:
    recipe = scene.recipes[0]
    if place.draw(recipe) != place.pixels(recipe):
        yield "the next merge made a wrong image"
    place.forget()
    place.open(scene.start)
    if place.see() != before:
        yield "the host is not what it was after the next merge"


def _texts(error: BaseException | None) -> list[str]:
    texts = []
    while error is not None:
        texts.append(str(error))
        error = error.__cause__ or error.__context__
    return texts


def show(report: Report) -> None:
    print("moments: " + ", ".join(f"{name} {count}" for name, count in report.moments.items()))
    print("errors raised: " + ", ".join(f"{kind} {count}" for kind, count in report.struck.items()))
    print(f"nothing of it seen by the user: {report.healed}; told to load again: {report.loaded_again}")
    for failure in report.failures[:MOST_SHOWN]:
        print(f"FAILURE {failure}")


def attack_host(host: str, errors: str, options: argparse.Namespace, draw: random.Random) -> int:
    """Play every scene on a host, and give the number of failures.

    Args:
        host: Its name.
        errors: Whether they come once, or keep coming.
        options: What was asked for on the command line.
        draw: Draws one kind of error for each moment, where not all are tried.
    """
    report, started = Report(), time.perf_counter()
    is_slow = host == "standalone"
    with tempfile.TemporaryDirectory() as folder, place_on(host, Path(folder)) as place:
        for scene in scenes_on(host):
            if scene.__name__ in options.scenes:
                attack(
                    place,
                    scene,
                    Path(folder),
                    report,
                    kinds=options.kinds,
                    lasting=errors == ERRORS[1],
                    draw=draw if options.drawn or is_slow else None,
                    every_tensor=100 if is_slow else options.every_tensor,
                )
                print(f"{host}, {errors}, {scene.__name__}: {report.totals()}", flush=True)
    print(f"\n{host}, errors, {errors}: {time.perf_counter() - started:.0f} s")
    show(report)
    return len(report.failures)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", nargs="*", choices=HOSTS, default=HOSTS)
    parser.add_argument("--scenes", nargs="+", default=[scene.__name__ for scene in SCENES])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS))
    parser.add_argument("--drawn", action="store_true", help="one of the kinds at each moment, as on standalone")
    parser.add_argument("--every-tensor", type=int, default=1, help="one in so many moments that come for each tensor")
    parser.add_argument("--errors", nargs="+", choices=ERRORS, default=ERRORS, help="that come once, or keep coming")
    parser.add_argument("--presses", type=int, default=3000, help="rounds in which Ctrl-C is pressed")
    options = parser.parse_args()
    logging.disable()
    draw = random.Random(options.seed)
    failures = sum(attack_host(host, errors, options, draw) for host in options.hosts for errors in options.errors)
    with tempfile.TemporaryDirectory() as folder, place_on("fake", Path(folder)) as place:
        counts, wrong = attack_with_interrupts(place, options.presses, draw)
    print("\nCtrl-C in time: " + ", ".join(f"{times} times in {count} rounds" for times, count in counts.items()))
    for failure in wrong:
        print(f"FAILURE {failure}")
    failures += len(wrong)
    print(f"\nfailures: {failures}")
    return min(failures, 1)


if __name__ == "__main__":
    sys.exit(main())
