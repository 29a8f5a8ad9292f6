#!/usr/bin/env python3
"""Run the checks of this repository: the same ones on your machine, in ``.ci/run`` and in the GitHub workflow.

Needs Python's standard library only, on Linux and Windows. The environment is built with the README's test command, so
that command is checked too::

    python3 tools/checks.py                           all steps, in a fresh environment
    python3 tools/checks.py --only style types        some steps, in the environment that is there
    python3 tools/checks.py --older-gradio --dry-run  print the steps, run none
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
ON_WINDOWS = os.name == "nt"

MARKER = "<!-- test command -->"
WINDOWS_MARKER = "<!-- test command windows -->"
"""The README's test command is the first line of the code block after each of these; the second may be absent."""

ENVIRONMENT = ".venv"
ESLINT = ("eslint@10.15.0", "@eslint/js@10.0.1", "globals@17.14.0")
OLDER_GRADIO = {
    "gradio3": ("gradio==3.41.2", "starlette<1"),  # what AUTOMATIC1111's WebUI 1.10.1 has; Starlette 1 breaks it
    "gradio4": ("gradio==4.40.0", "fastapi==0.104.1", "pydantic==2.8.2", "huggingface-hub==0.26.2"),  # Forge's
}
"""The gradio of each host, and what must be installed beside it; each has an environment and a step of this name."""
TESTS_OF_TAB = tuple(
    f"tests/test_{name}.py"
    for name in (
        *("tab", "form", "keyboard", "accessible", "queue_page", "plot_axes_page", "guard", "attack_page"),
        "lost_presses",
        "lora_page",
        "search_page",
        "more_page",
        "devices_page",
    )
)
TEST_TOOLS = ("playwright", "axe-playwright-python", "pytest", "pytest-rerunfailures", "pytest-xdist", "hypothesis")
IN_TWO_PROCESSES = ("-n", "2", "--dist", "loadfile")

FEW_FAILURES = 3
"""As many failed tests are run once more, alone: of thousands, on a busy machine, one may have waited in vain. Those
that pass then are named in the summary. More failures than these have another cause."""
PYTEST_CACHE = ".pytest_cache"

SCREENSHOTS = "ELEMENTAL_SCREENSHOTS"
DEFAULT_SCREENSHOTS = "build/screens"
EMPTY_TREE = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"  # git's name of a tree without files
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")

Command = str | Sequence[str]
"""A line for the shell, or a program and its arguments."""


@dataclass(frozen=True)
class Step:
    """One check.

    Attributes:
        name: For ``--only`` and the summary.
        purpose: What it checks, in a few words.
        commands: Run one after the other; the first one that fails ends the step.
        again: Runs the tests that failed once more, where the last command runs tests; see :data:`FEW_FAILURES`.
        removed: Folders deleted first.
        cleared: Folders deleted once it has passed; after a failure they are left for looking into it.
        variables: Environment variables set for the commands.
        required: Whether the steps after it cannot run if it fails.
        skipped: Why it is not run; empty if it is.
    """

    name: str
    purpose: str
    commands: Sequence[Command]
    again: Sequence[str] = ()
    removed: Sequence[str] = ()
    cleared: Sequence[str] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    required: bool = False
    skipped: str = ""


@dataclass(frozen=True)
class Options:
    """What was asked for on the command line.

    Attributes:
        python: The interpreter that environments are made with; empty for the README's own word.
        older_gradio: Whether the tab is tested on the WebUI's gradio 3 and Forge's gradio 4 too.
        unpinned: Whether the newest version of everything is installed.
        install_browser: Whether Chromium is installed with apt-get where there is none.
        only: Names of steps; empty for all.
        dry_run: Whether the steps are printed and not run.
    """

    python: str = ""
    older_gradio: bool = False
    unpinned: bool = False
    install_browser: bool = False
    only: Sequence[str] = ()
    dry_run: bool = False


class ChecksError(Exception):
    """The checks cannot be run at all."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the steps that were asked for, and print a summary.

    Args:
        arguments: Of the command line; the process's by default.

    Returns:
        0 if every step passed, 1 if one failed, 2 if the checks could not be run.
    """
    options = read_options(arguments)
    os.chdir(ROOT)
    try:
        steps = choose_steps(list_steps(options), options)
    except ChecksError as exc:
        say(f"error: {exc}")
        return 2
    if options.dry_run:
        for step in steps:
            say(*describe(step))
        return 0
    return run_all(steps)


def read_options(arguments: Sequence[str] | None) -> Options:
    """Read the command line.

    Args:
        arguments: The words on it.
    """
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default="", metavar="PATH", help="make the environments with this interpreter")
    parser.add_argument(
        "--older-gradio", action="store_true", help="test the tab on the WebUI's gradio 3 and Forge's gradio 4 too"
    )
    parser.add_argument("--unpinned", action="store_true", help="install the newest version of everything")
    parser.add_argument(
        "--install-browser", action="store_true", help="install Chromium with apt-get where there is none (needs root)"
    )
    parser.add_argument("--only", nargs="+", default=(), metavar="STEP", help="run these steps only")
    parser.add_argument("--dry-run", action="store_true", help="print the steps and run none")
    return Options(**vars(parser.parse_args(arguments)))


def list_steps(options: Options) -> list[Step]:
    """List every step, in the order in which they run: what is quick comes before the tests.

    Raises:
        ChecksError: The README has no test command, or its two commands differ.
    """
    build, test = split_command(test_command(read_text("README.md"), options))
    tool = scripts(ENVIRONMENT)
    return [
        browser_step(options),
        Step(
            "environment", "the README's test command, up to the tests", [build], removed=[ENVIRONMENT], required=True
        ),
        Step(
            "style",
            "Python's style, and stray blanks in any file",
            [[f"{tool}ruff", "check", "."], [f"{tool}ruff", "format", "--check", "."], whitespace_command()],
        ),
        Step("types", "types of elemental, tests, benchmarks and tools", [[f"{tool}mypy"]]),
        Step("layers", "which room imports which", [[f"{tool}lint-imports"]]),
        javascript_step(options),
        Step("workflows", "files that GitHub reads", list(schema_commands(f"{tool}check-jsonschema"))),
        Step(
            "tests",
            "the README's test command, the tests",
            [test],
            again_command(f"{tool}python"),
            [DEFAULT_SCREENSHOTS, PYTEST_CACHE],
            variables=variables_for_tests(),
        ),
        *(older_gradio_step(name, options, build) for name in OLDER_GRADIO),
    ]


def choose_steps(steps: Sequence[Step], options: Options) -> list[Step]:
    """Leave out what was not asked for.

    Raises:
        ChecksError: There is no step of that name.
    """
    names = [step.name for step in steps]
    if unknown := [name for name in options.only if name not in names]:
        raise ChecksError(f"no step is called {', '.join(unknown)}; there are {', '.join(names)}")
    if options.only:
        return [step for step in steps if step.name in options.only]
    return [step for step in steps if options.older_gradio or step.name not in OLDER_GRADIO]


# The README's command


def test_command(readme: str, options: Options) -> str:
    """Give the README's test command, as it is typed on this system.

    Args:
        readme: The text of the README.
        options: May name another interpreter, or ask for versions without pins.

    Raises:
        ChecksError: There is none, or the one for Windows is not the same command.
    """
    command = line_after(MARKER, readme)
    if not command:
        raise ChecksError(f"README.md has no code block after {MARKER}")
    for_windows, in_readme = windows_form(command), line_after(WINDOWS_MARKER, readme)
    if in_readme not in ("", for_windows):
        raise ChecksError(f"README.md's test command for Windows should be\n{for_windows}\nand is\n{in_readme}")
    command = for_windows if ON_WINDOWS else command
    if options.unpinned:
        command = re.sub(r"==[\w.]+", "", command)
    return f"{quoted(options.python)} {command.partition(' ')[2]}" if options.python else command


def line_after(marker: str, text: str) -> str:
    """Give the first line of the code block that follows a marker; nothing if there is no marker."""
    _, _, rest = text.partition(f"{marker}\n")
    block = re.match(r"\s*```\w*\n(.+)\n", rest)
    return block[1].strip() if block else ""


def windows_form(command: str) -> str:
    r"""Turn a POSIX command into one for Windows: ``python`` and ``.venv\Scripts\`` instead."""
    words = [
        word.replace("/bin/", "/Scripts/").replace("/", "\\") if word.startswith(f"{ENVIRONMENT}/") else word
        for word in command.split(" ")
    ]
    return " ".join(words).replace("python3 ", "python ", 1)


def split_command(command: str) -> tuple[str, str]:
    """Part the command that builds the environment from the last one, which runs the tests."""
    build, _, test = command.rpartition(" && ")
    if not build:
        raise ChecksError(f"README.md's test command should build an environment and run tests: {command}")
    return build, test


def quoted(word: str) -> str:
    """Quote a word for this system's shell."""
    return subprocess.list2cmdline([word]) if ON_WINDOWS else shlex.quote(word)


def scripts(environment: str) -> str:
    """Give the folder of an environment's programs, with the separator at its end."""
    return f"{environment}\\Scripts\\" if ON_WINDOWS else f"{environment}/bin/"


# Steps that depend on the machine


def browser_step(options: Options) -> Step:
    """Install Chromium if that was asked for and no browser is found."""
    browser = find_browser()
    why = (
        f"{browser} is there" if browser else "" if options.install_browser else "no browser, and no --install-browser"
    )
    install = ["apt-get", "install", "-y", "-qq", "chromium"]
    commands = [["apt-get", "update", "-qq"], install]
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    return Step("browser", "Chromium, for tests of the page", commands, variables=quiet, required=True, skipped=why)


def find_browser() -> str:
    """Find Chromium, or a browser built on it; nothing if there is none."""
    named = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), "")
    if named or not ON_WINDOWS:
        return named
    folders = [os.environ.get(name, "") for name in ("PROGRAMFILES", "PROGRAMFILES(X86)", "LOCALAPPDATA")]
    places = [Path(folder) / "Google/Chrome/Application/chrome.exe" for folder in folders if folder]
    return next((str(place) for place in places if place.is_file()), "")


def variables_for_tests(folder: str = "") -> dict[str, str]:
    """Give the variables that tests read: where screenshots go, and the browser if it was found."""
    screenshots = Path(os.environ.get(SCREENSHOTS) or ROOT / DEFAULT_SCREENSHOTS) / folder
    browser = find_browser()
    return {SCREENSHOTS: str(screenshots)} | ({"CHROMIUM": browser} if browser else {})


def whitespace_command() -> Sequence[str]:
    """Have git look for blanks at line ends, blank lines at the end of files and left-over conflict marks."""
    return ["git", "diff", "--check", EMPTY_TREE]


def javascript_step(options: Options) -> Step:
    """Check the page's script with ESLint, where Node.js is installed."""
    packages = [f"{name.rpartition('@')[0]}@latest" for name in ESLINT] if options.unpinned else ESLINT
    npx = shutil.which("npx")
    chosen = [f"--package={package}" for package in packages]
    command = [npx or "npx", "--yes", *chosen, "eslint", "--config", "tools/eslint.config.mjs", "javascript"]
    return Step("javascript", "the page's script", [command], skipped="" if npx else "npx is not installed")


def schema_commands(tool: str) -> Iterator[Sequence[str]]:
    """Check what GitHub reads against its schemas, which come with the tool."""
    forms = sorted(path.as_posix() for path in Path(".github/ISSUE_TEMPLATE").glob("*.yml"))
    config = ".github/ISSUE_TEMPLATE/config.yml"
    workflows = sorted(path.as_posix() for path in Path(".github/workflows").glob("*.yml"))
    yield [tool, "--builtin-schema", "vendor.github-workflows", *workflows]
    yield [tool, "--builtin-schema", "custom.github-workflows-require-timeout", *workflows]
    yield [tool, "--builtin-schema", "vendor.github-issue-forms", *(path for path in forms if path != config)]
    yield [tool, "--builtin-schema", "vendor.github-issue-config", config]


def older_gradio_step(name: str, options: Options, build: str) -> Step:
    """Test the tab in an environment of its own, on the gradio that a host has.

    Args:
        name: Of the step, in ``OLDER_GRADIO``.
        options: May name another interpreter.
        build: The README's command, whose interpreter and torch are taken.
    """
    torch = next((word for word in build.split() if re.fullmatch(r"torch(==[\w.]+)?", word)), "torch")
    python = options.python or build.partition(" ")[0]
    environment = f"{ENVIRONMENT}-{name}"
    inside = f"{scripts(environment)}python"
    install = [inside, "-m", "pip", "install", "-q"]
    commands = [
        [python, "-m", "venv", environment],
        [*install, torch],
        [*install, "-e", ".[standalone]", *OLDER_GRADIO[name], *TEST_TOOLS],
        [inside, "-m", "pytest", *IN_TWO_PROCESSES, *TESTS_OF_TAB],
    ]
    removed = [environment, f"{DEFAULT_SCREENSHOTS}/{name}", PYTEST_CACHE]
    purpose = f"the tab on {OLDER_GRADIO[name][0]}"
    # Each environment takes 2 GB, and no step after this one uses it.
    return Step(name, purpose, commands, again_command(inside), removed, [environment], variables_for_tests(name))


def again_command(python: str) -> Sequence[str]:
    """Give the command that runs the tests that failed last, one after the other."""
    return [python, "-m", "pytest", "--last-failed", "--last-failed-no-failures", "none"]


# Running


class Outcome(NamedTuple):
    """How a step ended.

    Attributes:
        passed: Whether all its commands succeeded, the tests perhaps when they were run again.
        passed_again: The tests that failed first, and passed then.
    """

    passed: bool
    passed_again: Sequence[str] = ()

    def __str__(self) -> str:
        return "passed" if self.passed else "FAILED"


def run_all(steps: Sequence[Step]) -> int:
    """Run steps and say how each ended; a failure ends the rest only if they cannot do without.

    Args:
        steps: In the order in which they run.

    Returns:
        0 if none failed, else 1.
    """
    results, failed = [], False
    for step in steps:
        if step.skipped:
            results.append(f"skipped  {step.name:12} {step.skipped}")
            continue
        started = time.monotonic()
        outcome = run(step)
        results.append(f"{outcome!s:8} {step.name:12} {time.monotonic() - started:.0f} s")
        results.extend(f"{'':22}failed first, and passed when run again: {test}" for test in outcome.passed_again)
        failed = failed or not outcome.passed
        if not outcome.passed and step.required:
            break
    say("", *results)
    return int(failed)


def run(step: Step) -> Outcome:
    """Run a step that is not skipped."""
    say("", f"=== {step.name}: {step.purpose}")
    delete(step.removed)
    outcome = Outcome(all(call(command, step.variables) for command in step.commands))
    if not outcome.passed and step.again:
        outcome = run_again(step)
    if outcome.passed:
        delete(step.cleared)
    return outcome


def run_again(step: Step) -> Outcome:
    """Run the tests that failed once more, if they are few."""
    failed = failed_tests()
    if not 0 < len(failed) <= FEW_FAILURES:
        return Outcome(False)
    say("", f"=== {step.name}, once more: {', '.join(failed)}")
    return Outcome(True, failed) if call(step.again, step.variables) else Outcome(False)


def failed_tests() -> list[str]:
    """List the tests that failed in pytest's last run; none if it did not come to its end."""
    try:
        return list(json.loads(read_text(f"{PYTEST_CACHE}/v/cache/lastfailed")))
    except FileNotFoundError:
        return []


def delete(folders: Sequence[str]) -> None:
    """Delete the folders that exist."""
    for folder in filter(os.path.exists, folders):
        shutil.rmtree(folder)


def call(command: Command, variables: Mapping[str, str]) -> bool:
    """Run one command, with its output on this process's, and tell whether it succeeded."""
    say(f"+ {shown(command)}")
    in_shell = isinstance(command, str)
    try:
        code = subprocess.run(command, shell=in_shell, env={**os.environ, **variables}).returncode
    except FileNotFoundError:
        say(f"{command[0]} is not installed; the step environment installs what the checks need")
        return False
    if code:
        say(f"ended with {code}: {shown(command)}")
    return code == 0


def describe(step: Step) -> list[str]:
    """Give what a step would do, in lines."""
    heading = f"{step.name}: {step.purpose}" + (f" (skipped: {step.skipped})" if step.skipped else "")
    if step.skipped:
        return [heading]
    removed = [f"    remove {folder}" for folder in step.removed]
    variables = [f"    {name}={value}" for name, value in step.variables.items()]
    cleared = [f"    remove {folder} if all passed" for folder in step.cleared]
    return [heading, *removed, *variables, *(f"    {shown(command)}" for command in step.commands), *cleared]


def shown(command: Command) -> str:
    """Give a command as it would be typed."""
    if isinstance(command, str):
        return command
    return subprocess.list2cmdline(command) if ON_WINDOWS else shlex.join(command)


def read_text(name: str) -> str:
    """Read a file of the repository."""
    return Path(name).read_text(encoding="utf-8")


def say(*lines: str) -> None:
    """Print lines at once, so that they stand before what a command prints."""
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
