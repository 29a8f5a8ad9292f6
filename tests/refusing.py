"""What tests of mistakes and faults share: an older result, and a merge that is refused and changes nothing."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from elemental.cli import main as cli
from elemental.merge.files import writer
from elemental.merge.files.model_locator import model_source
from elemental.recipe.recipe import MergeRecipe

Merge = Callable[..., tuple[int, str]]
OLD = b"an older result"
TEMPORARY = f".*{writer.SUFFIX}"
UNEXPECTED = re.compile("Traceback|defect of the program|should not have|Unexpected error")
"""How the program speaks of a bug in it, which nothing that a user or an attacker does may bring out."""


def refusal(merge: Merge, folder: Path, *arguments: object) -> str:
    """Check that a merge is refused properly and changes nothing in a folder; give the message."""
    before = snapshot(folder)
    code, error = merge(*arguments)
    assert code == cli.FAILED, error
    assert error.startswith("error: ")
    assert len(error.splitlines()) <= 3
    assert not UNEXPECTED.search(error), error
    assert snapshot(folder) == before
    return error


def snapshot(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def inputs(folder: Path) -> tuple[Path, Path]:
    return folder / "a.safetensors", folder / "b.safetensors"


def recipe(folder: Path) -> MergeRecipe:
    a, b = map(model_source, inputs(folder))
    return MergeRecipe(a, b)
