"""Texts speak of things by the names that the program has for them now."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
THIS = Path(__file__).relative_to(ROOT).as_posix()
FOLDERS = ("elemental", "scripts", "javascript", "tests", "tools", "benchmarks", "docs", ".github")
SUFFIXES = (".py", ".js", ".mjs", ".md", ".yml", ".yaml")
OLD_NAMES = re.compile(r"picture|workbench|\bdesks?\b", re.IGNORECASE)


def texts() -> Iterator[tuple[str, str]]:
    """Give name and text of each file of the project; this one and the changelog's tables of old names are left out."""
    paths = [*ROOT.glob("*"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*"))]
    for path in paths:
        name = path.relative_to(ROOT).as_posix()
        if path.suffix in SUFFIXES and path.is_file() and name not in (THIS, "CHANGELOG.md"):
            yield name, path.read_text(encoding="utf-8")


def old_names(name: str, text: str) -> list[str]:
    lines = enumerate(text.splitlines(), 1)
    return [f"{name}:{number}: {line.strip()}" for number, line in lines if OLD_NAMES.search(line)]


def test_every_file_is_looked_at() -> None:
    names = {name for name, _ in texts()}
    assert {"README.md", "install.py", ".github/workflows/tests.yml", "docs/evidence/reliability.md"} <= names
    assert {"javascript/elemental.js", "elemental/cli/main.py", "tests/attacks/soak.py"} <= names


@pytest.mark.parametrize("line", ["A Picture of it", "make_pictures(", "the workbench's", "at the desk", "Desk"])
def test_an_old_name_is_found(line: str) -> None:
    assert old_names("file", f"first\n{line}\n") == [f"file:2: {line}"]


def test_no_text_has_an_old_name() -> None:
    assert [found for name, text in texts() for found in old_names(name, text)] == []


def test_the_changelog_has_them_only_where_it_says_what_they_were() -> None:
    now = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").partition("## [0.1.0]")[0]
    unexplained = [
        paragraph
        for paragraph in re.split(r"\n(?=- |\||\n)", now)
        if OLD_NAMES.search(paragraph) and not re.search(r"^\||\bwas\b|\bwere\b|\bis `elemental", paragraph.strip())
    ]
    assert unexplained == []


def test_the_readme_says_standalone() -> None:
    assert not re.search(r"by itself|on its own", (ROOT / "README.md").read_text(encoding="utf-8"))
