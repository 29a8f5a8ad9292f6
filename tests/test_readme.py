from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

import elemental
from elemental.cli import main as cli
from elemental.cli.argument_parser import parse_command
from elemental.demo.checkpoint_pair import copy_pair
from elemental.errors import SpecError
from elemental.recipe.spec_parser import parse_rules

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDE = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")
Capture = pytest.CaptureFixture[str]


@pytest.mark.parametrize(
    ("document", "printed"),
    [
        (README, "15 elements are set by rules\n"),
        pytest.param(GUIDE, "(128, 128) seed 3\n", marks=pytest.mark.slow),  # draws
    ],
)
def test_the_python_examples_run(
    document: str, printed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    found = re.search(r"<!-- python example -->\n```python\n(.*?)```", document, re.DOTALL)
    assert found
    if "StandaloneHost" in found[1]:
        pytest.importorskip("diffusers")
    copy_pair(tmp_path / "elemental-demo")
    monkeypatch.chdir(tmp_path)
    exec(found[1], {})
    assert capsys.readouterr().out == printed


def test_the_table_of_elements_is_what_the_program_prints(tmp_path: Path, capsys: Capture) -> None:
    copy_pair(tmp_path)
    assert cli.main(["inspect", str(tmp_path / "a.safetensors"), "--elements"]) == cli.DONE
    table = GUIDE.split("<!-- element table -->\n```\n")[1].split("```")[0]
    assert table in capsys.readouterr().out


def test_the_mistake_in_the_guide_is_shown_so() -> None:
    shown = GUIDE.split("what is allowed:\n\n```\n")[1].split("\n```")[0]
    with pytest.raises(SpecError) as caught:
        parse_rules("OUT03:attn1:1\nNOT OUT12:attn:1")
    assert str(caught.value) == shown


def test_the_guide_names_what_the_package_offers() -> None:
    table = GUIDE.split("## Python")[1].split("The docstring of each")[0]
    assert set(re.findall(r"`(\w+)`", table)) == set(elemental.__all__)


def test_the_changelog_begins_with_this_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## \[([^\]]+)\]", changelog, re.MULTILINE)[0] == elemental.__version__


def helped(monkeypatch: pytest.MonkeyPatch, capsys: Capture, *arguments: str) -> str:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        cli.main([*arguments, "--help"])
    return capsys.readouterr().out


def test_help_fits_a_terminal_and_its_examples_can_be_read(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    first = helped(monkeypatch, capsys)
    commands = re.findall(r"^    (\w+)  ", first, re.MULTILINE)
    assert len(commands) == 12
    for command in commands:
        text = helped(monkeypatch, capsys, command)
        assert max(map(len, (first + text).splitlines())) <= 80
        example = re.search(r"^example:\n  elemental ((?:.*\\\n)*.*)$", text, re.MULTILINE)
        assert example, command
        words = shlex.split(example[1].replace("\\\n", " "))
        assert parse_command(words).command == words[0] == command


def test_every_spec_in_it_can_be_read() -> None:
    text = README + re.sub(r"### What varies\n.*?\n## ", "", GUIDE, flags=re.DOTALL)  # those are in test_vary_texts.py
    specs = re.findall(r'--elemental "([^"]+)"', text)
    specs += [piece for piece in re.findall(r"`([^`\n]+)`", text) if re.search(r":[-.\d]+$", piece)]
    assert len(specs) >= 12
    for spec in specs:
        assert parse_rules(spec).rules


def test_every_link_leads_somewhere() -> None:
    for document in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_the_tree_in_the_architecture_is_the_one_on_disk() -> None:
    document = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    tree = document.split("```\nelemental/\n")[1].split("```")[0]
    told: set[str] = set()
    folders: list[str] = []
    for line in tree.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2 - 1
        names = re.split(r",? ", re.split(r"\s{2,}", line.strip())[0])
        folders = folders[:depth]
        if names[0].endswith("/"):
            folders.append(names[0])
        else:
            told |= {"".join([*folders, name]) for name in names}
    package = ROOT / "elemental"
    files = {path.relative_to(package).as_posix() for path in package.rglob("*.*") if path.suffix != ".pyc"}
    assert told == {name for name in files if not name.endswith("__init__.py")}
