"""Who may import whom, as the contracts in pyproject.toml say; and what importing costs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import elemental

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "numpy", "PIL", "gradio", "diffusers", "transformers"}


def test_the_contracts_hold() -> None:
    pytest.importorskip("importlinter")
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


@pytest.mark.parametrize(
    "module", ["", ".cli.app", ".workflows", ".hosts.base", ".runs.axes", ".merge.files.writer", ".merge.describe"]
)
def test_importing_loads_nothing_heavy(module: str) -> None:
    code = f"import sys, elemental{module}; print(*sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_every_public_name_is_listed_once_sorted_and_explained() -> None:
    assert sorted(elemental.__all__) == elemental.__all__
    assert len(set(elemental.__all__)) == len(elemental.__all__)
    for name in elemental.__all__:
        assert getattr(elemental, name).__doc__, name


def test_only_what_is_named_in_the_layout_stands_beside_the_rooms() -> None:
    package = Path(elemental.__file__).parent
    beside = {entry.name for entry in os.scandir(package) if entry.name.endswith(".py")}
    assert beside == {"__init__.py", "__main__.py", "errors.py", "workflows.py"}
