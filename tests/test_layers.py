"""Who may import whom, as the contracts in pyproject.toml say; what importing costs; that the documentation agrees."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import elemental
from elemental.cli.argument_parser import PURPOSES

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "elemental"
HEAVY = {"torch", "numpy", "PIL", "gradio", "diffusers", "transformers"}


def test_the_contracts_hold() -> None:
    pytest.importorskip("importlinter")
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def draw_layers(contracts: Sequence[Mapping[str, Any]]) -> str:
    """Render import-linter's contracts as a table: the rooms from the top, and the packages that not all may import."""
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    lines = ["| rooms, from the top | packages that only some rooms may import |", "|---|---|"]
    for layer in layers:
        rooms = [room.strip() for room in layer.split("|")]
        names = " and ".join(f"`{room}`" for room in rooms)
        permits = "; ".join(text for room in rooms for text in _permits(room, contracts))
        lines.append(f"| {names}{', which never import each other' * (len(rooms) > 1)} | {permits or 'none'} |")
    return "\n".join(lines) + "\n"


def _permits(room: str, contracts: Sequence[Mapping[str, Any]]) -> list[str]:
    """List the restricted packages that a room may import, by the part of it that may import them."""
    packages: dict[str, list[str]] = {}
    for contract in contracts:
        barred = [module.removeprefix("elemental.") for module in contract.get("source_modules", ())]
        outside = [name for name in contract.get("forbidden_modules", ()) if not name.startswith("elemental")]
        if outside and room not in barred:
            packages.setdefault(_place(room, barred), []).extend(f"`{name}`" for name in outside)
    return [f"{place}: {', '.join(names)}" for place, names in packages.items()]


def _place(room: str, barred: Sequence[str]) -> str:
    """Say which part of a room may import a package: the parts that may, or may not, whichever are fewer."""
    children = {path.stem for path in (PACKAGE / room).glob("*") if path.is_dir() or path.suffix == ".py"}
    children = {f"{room}.{name}" for name in children if not name.startswith("__")}
    may_not = sorted(children & set(barred))
    may = sorted(children - set(barred))
    is_part = bool(may_not) and len(may) <= len(may_not)
    names = ", ".join(f"`{part.replace('.', '/')}`" for part in (may if is_part else may_not))
    return names if is_part else f"`{room}` without {names}" if may_not else f"`{room}`"


def test_the_table_of_layers_is_what_the_contracts_say() -> None:
    read = pytest.importorskip("importlinter.api").read_configuration
    contracts = read(str(ROOT / "pyproject.toml"))["contracts_options"]
    document = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert document.split("<!-- layers -->\n")[1].split("<!-- /layers -->")[0] == draw_layers(contracts)


def test_a_contract_that_changes_changes_the_table() -> None:
    forbidden = {"type": "forbidden", "forbidden_modules": ["gradio", "elemental.hosts"]}
    contracts: list[dict[str, Any]] = [
        {"type": "layers", "layers": ["ui", "merge | images"]},
        {**forbidden, "source_modules": ["elemental.images", "elemental.merge.plan"]},
    ]
    assert draw_layers(contracts).splitlines()[2:] == [
        "| `ui` | `ui`: `gradio` |",
        "| `merge` and `images`, which never import each other | `merge` without `merge/plan`: `gradio` |",
    ]
    contracts[1]["source_modules"] += ["elemental.ui", "elemental.merge"]
    assert draw_layers(contracts).splitlines()[2:] == [
        "| `ui` | none |",
        "| `merge` and `images`, which never import each other | none |",
    ]


TORCHLESS = ["architectures", "plan", "recipe", "spec", "spec_properties", "weights"]


def test_tests_of_specs_recipes_and_plans_load_no_torch() -> None:
    paths = [f"tests/test_{name}.py" for name in TORCHLESS]
    code = (
        "import sys, pytest\n"
        f"code = pytest.main([*{paths!r}, '--collect-only', '-qq', '-p', 'no:randomly', '-p', 'no:cacheprovider'])\n"
        f"print(code, *sorted({HEAVY - {'numpy'}!r} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr.split() == ["0"], done.stdout


@pytest.mark.parametrize(
    "module",
    [
        "",
        ".cli.main",
        ".workflows",
        ".hosts.base",
        ".runs.axes.catalogue",
        ".merge.files.writer",
        ".merge.plan_summary",
    ],
)
def test_importing_loads_nothing_heavy(module: str) -> None:
    code = f"import sys, elemental{module}; print(*sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


UNUSED = {
    "concurrent.futures", "difflib", "hashlib", "logging", "pickletools", "platformdirs", "random", "secrets", "shutil",
    "tempfile", "textwrap", "traceback", "zipfile",
}  # fmt: skip
"""What other commands use, or errors, and what takes a good part of the time of a plan to import."""


def test_planning_imports_no_more_than_it_uses() -> None:
    pair = [str(PACKAGE / "demo" / f"{name}.safetensors") for name in "ab"]
    code = (
        "import argparse, dataclasses, json, pathlib, signal, threading; given = set(sys.modules)\n"
        "from elemental.cli.main import main; code = main(sys.argv[1:])\n"
        f"print(code, *sorted({UNUSED | HEAVY!r} & set(sys.modules) - given), file=sys.stderr)"
    )
    command = [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}"]
    words = ["plan", *pair, "--alpha", "0.3", "--elemental", "OUT05:attn2:0.5"]
    done = subprocess.run([*command, *words], capture_output=True, text=True, check=True)
    assert done.stderr.split() == ["0"], done.stderr


@pytest.mark.parametrize("word", ["--help", "--version", "plna", "--wrong"])
def test_what_is_said_of_all_commands_imports_none(word: str) -> None:
    code = (
        "import sys; from elemental.cli.main import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        f"print(*sorted(({COMMAND_MODULES!r} | {HEAVY!r}) & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, word], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == ""


COMMAND_MODULES = {f"elemental.cli.{name}" for name in PURPOSES}


def test_commands_load_nothing_heavy_before_they_run() -> None:
    code = (
        f"import sys; from importlib import import_module; [import_module(name) for name in {COMMAND_MODULES!r}]\n"
        f"print(*sorted({HEAVY!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_public_names_that_are_not_imported_yet_are_there_for_everyone() -> None:
    code = (
        "import sys, elemental\n"
        "print(set(elemental.__all__) <= set(dir(elemental)), 'elemental.workflows' in sys.modules)\n"
        "from elemental import *\n"
        "print(MergeRecipe.__module__, hasattr(elemental, 'no_such_name'))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False", "elemental.recipe.recipe", "False"]


def test_type_checkers_find_public_names_where_they_are_imported_from() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    told = {
        alias.name: "." * node.level + str(node.module)
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert told == vars(elemental)["_HOMES"]
    assert sorted(told) == elemental.__all__


def test_every_public_name_is_listed_once_sorted_and_explained() -> None:
    assert sorted(elemental.__all__) == elemental.__all__
    assert len(set(elemental.__all__)) == len(elemental.__all__)
    for name in elemental.__all__:
        assert getattr(elemental, name).__doc__, name


def test_only_what_is_named_in_the_layout_stands_beside_the_rooms() -> None:
    package = Path(elemental.__file__).parent
    beside = {entry.name for entry in os.scandir(package) if entry.name.endswith(".py")}
    assert beside == {"__init__.py", "__main__.py", "errors.py", "workflows.py"}
