"""The command line: which commands there are, and which of them some words ask for."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any, NoReturn

from .command import Command, Interrupts, join_negative_numbers

_EPILOG = """\
Run "elemental COMMAND --help" for the options of a command and an example.

exit codes: 0 done, 1 failed, 2 usage error (options, spec, recipe), 130 stopped
environment variables:
  ELEMENTAL_CACHE   folder for model hashes, and models sent to a cluster
  ELEMENTAL_CONFIG  folder for your presets and the merge history
"""

_VERSION_NAME = "--version"

_AnyFormatter = partial(argparse.RawDescriptionHelpFormatter, width=80)
"""The formatter that argparse makes and throws away for each option; it need not ask how wide the terminal is."""

_NAMES = (
    "inspect", "plan", "merge", "extract", "generate", "plot", "check", "effects", "search", "simplify", "ui",
    "demo",
)  # fmt: skip


class _Commands(Mapping[str, Command[Any]]):
    """Every command by its name; the module of one is imported when it is asked for, since all take a while."""

    def __getitem__(self, name: str) -> Command[Any]:
        if name not in _NAMES:
            raise KeyError(name)
        command: Command[Any] = getattr(import_module(f".{name}", __package__), name.upper())
        return command

    def __iter__(self) -> Iterator[str]:
        return iter(_NAMES)

    def __len__(self) -> int:
        return len(_NAMES)


COMMANDS: Mapping[str, Command[Any]] = _Commands()
"""Every command by its name; each is a module of its own here."""


@dataclass(frozen=True)
class CommandLine:
    """A command line, parsed.

    Attributes:
        command: The name of the command.
        args: Its options, as argparse gives them.
        parser: The parser of the command, or of all.
    """

    command: str
    args: argparse.Namespace
    parser: argparse.ArgumentParser

    @property
    def debug(self) -> bool:
        """Whether to show where an error comes from."""
        return getattr(self.args, "debug", False)

    def execute(self, interrupts: Interrupts) -> None:
        """Run the command.

        Args:
            interrupts: Gets the signals that ask this process to stop.

        Raises:
            UsageError: The options do not go together.
        """
        if self.command == _VERSION_NAME:
            from .version import VERSION

            VERSION.execute(self.args, interrupts)
        else:
            COMMANDS[self.command].execute(self.args, interrupts)

    def refuse(self, message: str) -> NoReturn:
        """Print the usage and a message, and exit with 2."""
        self.parser.error(message)


def parse_command(argv: Sequence[str]) -> CommandLine:
    """Parse a command line: options and models in any order, and negative numbers as values.

    Args:
        argv: The words, without the program's name.

    Raises:
        SystemExit: They ask for help, or are wrong; what to say has been printed.
    """
    parser, parsers = _make_parsers(argv[:1] if argv[:1] and argv[0] in COMMANDS else tuple(COMMANDS))
    args, rest = parser.parse_known_args(join_negative_numbers(argv))
    if args.version:
        return CommandLine(_VERSION_NAME, args, parser)
    if args.verbose:
        parser.error("--verbose goes with --version")
    if args.command is None:
        parser.error("the following arguments are required: COMMAND")
    line = CommandLine(args.command, args, parsers[args.command])
    return _with_models(line, rest) if rest else line


def _with_models(line: CommandLine, words: Sequence[str]) -> CommandLine:
    """Take words that argparse could not place, between and after options, as models."""
    parsed = vars(line.args)
    if "models" not in parsed or any(word.startswith("-") for word in words):
        line.refuse(f"unrecognized arguments: {' '.join(words)}")
    args = argparse.Namespace(**{**parsed, "models": [*parsed["models"], *words]})
    return CommandLine(line.command, args, line.parser)


def _make_parsers(names: Sequence[str]) -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """Make the parser of all, and those of some commands by name."""
    parser = argparse.ArgumentParser(
        prog="elemental",
        usage="elemental [-h] [--version] COMMAND ...",
        description="Merge Stable Diffusion checkpoints element by element.",
        epilog=_EPILOG,
        formatter_class=_AnyFormatter,
    )
    parser.add_argument("--version", action="store_true", help="show the version")
    parser.add_argument(
        "--verbose", action="store_true", help="with --version: also print system details for a bug report"
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", prog="elemental", parser_class=_Parser)
    return parser, {name: _add(commands, name, COMMANDS[name]) for name in names}


class _Parser(argparse.ArgumentParser):
    """The parser of a command; the example and the notes are written when help is asked for, since some take a while.

    Args:
        command: The command.
        options: As argparse has them.
    """

    def __init__(self, *, command: Command[Any], **options: Any) -> None:
        super().__init__(**options)
        self._command = command

    def format_help(self) -> str:
        import textwrap

        notes = self._command.notes
        example = textwrap.indent(self._command.example, "  ")
        self.epilog = f"example:\n{example}\n\n{notes if isinstance(notes, str) else notes()}"
        return super().format_help()


def _add(commands: argparse._SubParsersAction[_Parser], name: str, command: Command[Any]) -> argparse.ArgumentParser:
    added = commands.add_parser(
        name,
        command=command,
        help=command.purpose,
        usage=f"elemental {name} {command.arguments}",
        description=f"{command.purpose[0].upper()}{command.purpose[1:]}.",
        formatter_class=_AnyFormatter,
        allow_abbrev=False,
    )
    command.add_options(added)
    added.add_argument("--debug", action="store_true", help="print a traceback on errors")
    added.formatter_class = argparse.RawDescriptionHelpFormatter
    return added
