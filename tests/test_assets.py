"""Style and script of the tab touch nothing of the page that they stand in."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OWN = ("#elemental_tab", "#elemental_tooltip", "#elemental_menu", "#elemental_viewer")


def test_every_rule_of_the_style_is_for_the_tab_alone() -> None:
    style = re.sub(r"/\*.*?\*/", "", (ROOT / "style.css").read_text(encoding="utf-8"), flags=re.DOTALL)
    style = re.sub(r"@media[^{]*\{((?:[^{}]*\{[^{}]*\})*)\s*\}", r"\1", style)
    style = re.sub(r":is\([^)]*\)", ":is", style)
    selectors = [selector.strip() for block in re.findall(r"([^{}]+)\{", style) for selector in block.split(",")]
    assert len(selectors) > 40
    assert [selector for selector in selectors if not selector.startswith(OWN)] == []


@pytest.mark.parametrize("path", sorted((ROOT / "javascript").glob("*.js")), ids=lambda path: path.name)
def test_a_script_is_one_function(path: Path) -> None:
    script = path.read_text(encoding="utf-8")
    script = re.sub(r"/\*.*?\*/", "", script, flags=re.DOTALL).strip()
    assert script.startswith("(function () {")
    assert script.endswith("})();")
    assert [line for line in script.splitlines()[1:-1] if line.strip() and not line.startswith("    ")] == []
    assert "window." not in script


def test_no_button_is_named_like_one_that_the_webui_presses() -> None:
    """The WebUI's keys press whatever button of the open tab has an id that ends so."""
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "elemental" / "ui").glob("*.py"))
    ids = re.findall(r'elem_id="([^"]+)"', source)
    assert len(ids) > 30
    assert [name for name in ids if name.endswith(("_generate", "_interrupt", "_skip"))] == []
    assert all(name.startswith("elemental_") for name in ids)
