"""What a command is: its example and notes, how its options are declared and read, and what it runs."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Generic, TypeVar

from ..recipe.lookalikes import plain_text
from ..recipe.rule_hints import explain_ratio
from ..recipe.spec_reader import parse_ratio

Options = TypeVar("Options")

Interrupts = Sequence[int]
"""The signals that have asked this process to stop, in the order in which they came."""


class UsageError(Exception):
    """The options do not go together; the text is for the user, and is shown with the usage of the command."""


@dataclass(frozen=True)
class Command(Generic[Options]):
    """A command of the command line.

    Attributes:
        arguments: How it is called, without its name.
        example: A call of it.
        add_options: Declares its options.
        read: Makes its dataclass of options from what argparse gives; raises UsageError.
        run: Runs it; raises UsageError, ElementalError, KeyboardInterrupt.
        notes: What else its help says, or what writes it when help is asked for.
    """

    arguments: str
    example: str
    add_options: Callable[[argparse.ArgumentParser], None]
    read: Callable[[argparse.Namespace], Options]
    run: Callable[[Options, Interrupts], None]
    notes: str | Callable[[], str] = ""

    def execute(self, args: argparse.Namespace, interrupts: Interrupts) -> None:
        """Read the options once, and run the command with them."""
        self.run(self.read(args), interrupts)

    def read_text(self, text: str) -> Options:
        """Read options from a text, such as the options of a sample."""
        import shlex  # for samples alone

        parser = argparse.ArgumentParser(prog="options", add_help=False, allow_abbrev=False)
        self.add_options(parser)
        return self.read(parser.parse_args(join_negative_numbers(shlex.split(text))))


def read_as(kind: type[Options], args: argparse.Namespace, **converted: Any) -> Options:
    """Make a dataclass of options from what argparse gives.

    Args:
        kind: The dataclass; its fields have the names that argparse uses.
        args: What argparse gives; a field that it lacks keeps its default.
        **converted: Fields whose values are not taken from there.
    """
    parsed = vars(args)
    names = [field.name for field in fields(kind) if field.name in parsed]  # type: ignore[arg-type]
    return kind(**{name: parsed[name] for name in names} | converted)


def read_number(text: str) -> float:
    """Read a number of the command line, as the numbers of specs are read: Python's own 0_5 is 5.

    Raises:
        argparse.ArgumentTypeError: It is no number.
    """
    plain = plain_text(text).strip()
    number = parse_ratio(plain)
    if number is None and re.fullmatch(r"[+-]?(?:nan|inf|infinity)", plain.lower()):
        return float(plain)  # who takes the number says what is allowed
    if number is None:
        raise argparse.ArgumentTypeError(f'"{text}" is not a number{explain_ratio(plain)}')
    return number


def read_integer(text: str) -> int:
    """Read a whole number of the command line.

    Raises:
        argparse.ArgumentTypeError: It is none.
    """
    plain = plain_text(text).strip()
    if not re.fullmatch(r"[+-]?[0-9]{1,18}", plain):
        raise argparse.ArgumentTypeError(f'"{text}" is not a whole number')
    return int(plain)


def join_negative_numbers(argv: Sequence[str]) -> list[str]:
    """Write ``--alpha -1e-1`` as ``--alpha=-1e-1``: argparse takes most negative numbers for options."""
    joined: list[str] = []
    for word in argv:
        if joined and re.match(r"-[.\d]", word) and re.fullmatch(r"--[a-z-]+", joined[-1]):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined
