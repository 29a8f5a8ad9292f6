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

PURPOSES: Mapping[str, str] = {
    "inspect": "show what is in a checkpoint",
    "plan": "preview a merge without making it",
    "merge": "merge models into a file",
    "extract": "make a LoRA of the difference between two models",
    "generate": "make images from a model, or from a merge in memory",
    "plot": "make an XY plot: grids of images of different merges",
    "check": "rank elements by how much they change the image (element check)",
    "effects": "estimate how much each element changes images, and map it",
    "search": "find ratios by choosing images: you, a score, or a goal",
    "simplify": "find the shortest spec whose images are like a merge's",
    "ui": "start the standalone web page (reachable from this computer only)",
    "demo": "create two small demo models, merge them, and make images",
}
"""What each command does, in a few words: help says it without importing the commands, which takes a while."""


class _Commands(Mapping[str, Command[Any]]):
    """Every command by its name; the module of one is imported when it is asked for, since all take a while."""

    def __getitem__(self, name: str) -> Command[Any]:
        if name not in PURPOSES:
            raise KeyError(name)
        command: Command[Any] = getattr(import_module(f".{name}", __package__), name.upper())
        return command

    def __iter__(self) -> Iterator[str]:
        return iter(PURPOSES)

    def __len__(self) -> int:
        return len(PURPOSES)


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
    words = join_negative_numbers(argv)
    parser, parsers = _make_parsers(words)
    args, rest = parser.parse_known_args(words)
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


def _make_parsers(words: Sequence[str]) -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """Make the parser of all commands, with the options of the one that is called, and those of commands by name.

    Args:
        words: The command line. Only what comes before a command can say something about others.
    """
    called = next((word for word in words if not word.startswith("-")), None)
    names = words[:1] if called is not None and words[0] == called and called in PURPOSES else tuple(PURPOSES)
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
    return parser, {name: _add(commands, name, COMMANDS[name] if name == called else None) for name in names}


class _Parser(argparse.ArgumentParser):
    """The parser of a command; the example and the notes are written when help is asked for, since some take a while.

    Args:
        command: The command; None if it is not called.
        options: As argparse has them.
    """

    def __init__(self, *, command: Command[Any] | None, **options: Any) -> None:
        super().__init__(**options)
        self._command = command

    def format_help(self) -> str:
        import textwrap

        if self._command is not None:
            notes = self._command.notes
            example = textwrap.indent(self._command.example, "  ")
            self.epilog = f"example:\n{example}\n\n{notes if isinstance(notes, str) else notes()}"
        return super().format_help()


def _add(
    commands: argparse._SubParsersAction[_Parser], name: str, command: Command[Any] | None
) -> argparse.ArgumentParser:
    purpose = PURPOSES[name]
    if command is None:  # it is only listed
        return commands.add_parser(name, command=None, help=purpose, formatter_class=_AnyFormatter, add_help=False)
    added = commands.add_parser(
        name,
        command=command,
        help=purpose,
        usage=f"elemental {name} {command.arguments}",
        description=f"{purpose[0].upper()}{purpose[1:]}.",
        formatter_class=_AnyFormatter,
        allow_abbrev=False,
    )
    command.add_options(added)
    added.add_argument("--debug", action="store_true", help="print a traceback on errors")
    added.formatter_class = argparse.RawDescriptionHelpFormatter
    return added
