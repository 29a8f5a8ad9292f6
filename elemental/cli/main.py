"""The command line's main: signals, exit codes, and what is said of an error."""

from __future__ import annotations

import io
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from ..errors import ElementalError, RecipeError, SpecError, Stopped
from .argument_parser import parse_command
from .command import Interrupts, UsageError
from .output import printable

DONE, FAILED, WRONG_USAGE, STOPPED = 0, 1, 2, 130
"""The exit codes."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: The arguments; by default the process's.

    Returns:
        0 done, 1 failed, 2 wrong usage (of options, spec or recipe), 130 stopped.

    Raises:
        SystemExit: The options are wrong, or ask for help; what to say has been printed.
    """
    _print_any_character()
    line = parse_command(sys.argv[1:] if argv is None else argv)
    interrupts = _note_interrupts()
    try:
        line.execute(interrupts)
    except UsageError as exc:
        line.refuse(printable(str(exc)))
    except (Exception, KeyboardInterrupt) as exc:
        return _fail(exc, interrupts, debug=line.debug)
    return DONE


def _print_any_character() -> None:
    """Have stdout and stderr escape what the terminal cannot show: a file's name is no reason to fail."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _note_interrupts() -> Interrupts:
    """Have the signals that end a program raise KeyboardInterrupt; gives a list that each of them is added to."""
    interrupts: list[int] = []

    def interrupt(number: int, _frame: object) -> NoReturn:
        interrupts.append(number)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    if signal.getsignal(signal.SIGINT) not in (signal.SIG_IGN, None):  # a job in the background ignores it
        signal.signal(signal.SIGINT, interrupt)
    return interrupts


def _fail(error: BaseException, interrupts: Interrupts, *, debug: bool) -> int:
    """Print what happened, and give the exit code."""
    if debug:
        import traceback

        print(printable(traceback.format_exc()), end="", file=sys.stderr)
    message, code = _explain(error, interrupts)
    print(printable(message), file=sys.stderr)
    return code


def _explain(error: BaseException, interrupts: Interrupts) -> tuple[str, int]:
    """Say what happened, and which exit code it has.

    Args:
        error: What was raised.
        interrupts: Signals that asked to stop.
    """
    if isinstance(error, Stopped):
        return str(error), STOPPED
    if isinstance(error, (SpecError, RecipeError)):
        return str(error), WRONG_USAGE
    if isinstance(error, ElementalError):
        return f"error: {error}", FAILED
    if interrupts or isinstance(error, KeyboardInterrupt):  # torch, hit by an interrupt, raises errors of other types
        return str(Stopped()), STOPPED
    if isinstance(error, MemoryError):
        return "error: Out of memory.", FAILED
    hint = 'Please report it with "elemental --version --verbose", and with --debug, which shows where.'
    return f"Unexpected error (a bug): {type(error).__name__}: {error}\n{hint}", FAILED
