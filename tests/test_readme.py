from __future__ import annotations

import re
from pathlib import Path

import pytest

from elemental.demo.make import copy_pair
from elemental.spec.parser import parse_rules

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_python_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = re.search(r"<!-- python example -->\n```python\n(.*?)```", README, re.DOTALL)
    assert found
    copy_pair(tmp_path / "elemental-demo")
    monkeypatch.chdir(tmp_path)
    exec(found[1], {})
    assert capsys.readouterr().out == "15 elements are set by rules\n"


def test_every_spec_in_it_can_be_read() -> None:
    specs = re.findall(r'--elemental "([^"]+)"', README)
    specs += [text for text in re.findall(r"`([^`\n]+)`", README) if re.search(r":[-.\d]+$", text)]
    assert len(specs) >= 6
    for spec in specs:
        assert parse_rules(spec).rules


def test_every_link_leads_somewhere() -> None:
    for document in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_the_tree_in_the_architecture_is_the_one_on_disk() -> None:
    document = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    tree = document.split("```\nelemental/\n")[1].split("```")[0]
    told, folder = set(), ""
    for line in tree.splitlines():
        names = re.split(r",? ", re.split(r"\s{2,}", line.strip())[0])
        if names[0].endswith("/"):
            folder = names[0]
        else:
            folder = folder if line.startswith("    ") else ""
            told |= {folder + name for name in names}
    package = ROOT / "elemental"
    files = {path.relative_to(package).as_posix() for path in package.rglob("*.*") if path.suffix != ".pyc"}
    assert told == {name for name in files if not name.endswith("__init__.py")}
