"""Commands of the program in processes of their own, to be killed: started cold, or forked from one that is warm.

What is forked runs the same command line function, and saves the seconds that importing torch and diffusers takes. The
process that forks has imported everything, has run nothing of it, and has no thread that could be lost on the way.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).parents[2]
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
_LONGEST = 300


def warm_up(*modules: str) -> None:
    """Import what forked commands need; to be called before anything else imports torch."""
    os.environ.update(_ONE_THREAD)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # as the commands do that need it
    for module in modules:
        import_module(module)
    if len(os.listdir("/proc/self/task")) > 1:  # noqa: PTH208 - of a folder that is none
        raise RuntimeError("threads run already: what is forked could hang")


class Command:
    """A command that runs.

    Args:
        argv: Its arguments.
        log: Where its output goes, with the endings ``.out`` and ``.err``.
        cold: Whether to start it as a user does, or to fork it.
        before: Called first in a forked process, to meddle with it.
    """

    def __init__(
        self, argv: Sequence[object], log: Path, *, cold: bool = False, before: Callable[[], object] = lambda: None
    ) -> None:
        self._log = log
        self._cold: subprocess.Popen[bytes] | None = None
        words = list(map(str, argv))
        if cold:
            environment = {name: value for name, value in os.environ.items() if name not in _ONE_THREAD}
            command = [sys.executable, "-m", "elemental", *words]
            with log.with_suffix(".out").open("wb") as out, log.with_suffix(".err").open("wb") as err:
                self._cold = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=err)
        else:
            self._warm = multiprocessing.get_context("fork").Process(target=_run, args=(words, log, before))
            self._warm.start()
        self.started = time.monotonic()

    @property
    def code(self) -> int | None:
        """The exit code, negative after a kill; None while it runs."""
        return self._warm.exitcode if self._cold is None else self._cold.poll()

    @property
    def age(self) -> float:
        """Seconds since it was started."""
        return time.monotonic() - self.started

    @property
    def errors(self) -> str:
        """What it said on stderr."""
        return self._log.with_suffix(".err").read_text(encoding="utf-8")

    def kill(self) -> int:
        """Kill it where it is, unless it has ended, and give the exit code."""
        (self._cold or self._warm).kill()
        return self.wait()

    def terminate(self) -> None:
        """Ask it to end."""
        (self._cold or self._warm).terminate()

    def wait(self) -> int:
        """Wait for its end and give the exit code; one that hangs is killed, which its code then tells."""
        end = time.monotonic() + _LONGEST
        while (code := self.code) is None:
            if time.monotonic() > end:
                return self.kill()
            time.sleep(0.002)
        return code

    def sleep_until(self, happened: Callable[[], object]) -> bool:
        """Wait until something has happened; tells False if the command ended before."""
        while not happened():
            if self.code is not None:
                return bool(happened())
            time.sleep(0.001)
        return True


def _run(words: list[str], log: Path, before: Callable[[], object]) -> None:
    from elemental.cli import main as cli

    for number, ending in ((1, ".out"), (2, ".err")):
        file = os.open(log.with_suffix(ending), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        os.dup2(file, number)
        os.close(file)
    before()
    code = cli.main(words)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # what is left is of the forking alone
    sys.exit(code)


class Tally:
    """What an attack did and found."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.failures: list[str] = []

    def check(self, holds: bool, what: str) -> None:
        """Note a failure unless something holds."""
        if not holds:
            self.failures.append(what)
            print(f"FAILED: {what}", flush=True)

    def report(self, seconds: float) -> int:
        """Print the figures, and give the exit code that they deserve."""
        for what, count in sorted(self.counts.items()):
            print(f"{what}: {count}")
        print(f"failures: {len(self.failures)} ({seconds:.0f} s)")
        return 1 if self.failures else 0
