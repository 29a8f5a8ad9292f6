"""Who may import whom: downwards only, and each room no more of the outside than it needs."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import elemental

PACKAGE = Path(elemental.__file__).parent

# Room: rooms of ours, packages of others; the longest matching name counts.
LAYERS: dict[str, tuple[set[str], set[str]]] = {
    "errors": (set(), set()),
    "spec": ({"errors", "spec"}, set()),
    "merge/tensors": (set(), set()),
    "merge/plan": ({"errors", "spec", "merge/tensors"}, set()),
    "merge/show": ({"errors", "spec", "merge/plan", "merge/tensors"}, set()),
    "merge": ({"errors", "spec", "merge"}, {"torch", "safetensors", "numpy", "platformdirs"}),
    "images": ({"errors", "spec", "images"}, {"PIL", "numpy", "skimage"}),
    "hosts/base": ({"errors", "images/request"}, {"PIL", "numpy", "torch"}),
    "hosts/fake": ({"errors", "images", "hosts/base"}, {"PIL", "numpy", "torch"}),
    "hosts/keymap": ({"spec"}, set()),
    "hosts/tokens": ({"errors"}, {"instant_clip_tokenizer"}),
    "hosts": (
        {"errors", "spec", "images", "hosts", "merge/checkpoint", "merge/memory", "merge/parts"},
        {"PIL", "torch", "diffusers", "transformers"},
    ),
    "demo": (
        {"errors", "spec", "merge", "images", "hosts", "workflows", "demo"},
        {"safetensors", "numpy", "PIL", "torch", "diffusers", "transformers"},
    ),
    "demo/layout": (set(), set()),
    "workflows": ({"errors", "spec", "merge", "images", "hosts/base"}, {"platformdirs", "tqdm"}),
    "surveys": ({"errors", "spec", "merge", "images"}, set()),
    "run_files": ({"errors", "images"}, set()),
    "runs": ({"errors", "spec", "merge", "images", "hosts/base", "workflows", "surveys", "run_files"}, {"PIL"}),
    "plots": (
        {"errors", "spec", "merge", "images", "hosts/base", "workflows", "surveys", "run_files", "runs"},
        {"PIL"},
    ),
    "checks": ({"errors", "spec", "merge/metadata", "images", "plots", "run_files"}, set()),
    "resume": ({"errors", "spec", "images", "hosts/base", "checks", "plots", "run_files", "runs"}, set()),
    "jobs": ({"errors"}, set()),
    "history": (set(), set()),
    "workbench": ({"errors", "spec", "merge", "images", "hosts/base", "workflows"}, set()),
    "ui": (
        {"errors", "spec", "merge", "images", "hosts/base", "workflows", "surveys", "run_files", "runs", "plots"}
        | {"checks", "resume", "jobs", "history", "workbench", "ui"},
        {"PIL"},
    ),
    "ui/compat": ({"errors", "ui/guard", "ui/values"}, {"gradio", "starlette"}),
    "cli": (
        {"errors", "spec", "merge", "demo", "workflows", "cli_recipe", "cli_pictures", "cli_plots", "cli_demo"}
        | {"cli_ui", "cli_parser"},
        {"tqdm"},
    ),
    "cli_parser": ({"", "cli_recipe", "cli_pictures", "cli_plots", "cli_ui"}, set()),
    "cli_ui": ({"errors", "ui", "cli_pictures", "cli_plots"}, set()),
    "cli_recipe": ({"errors", "spec", "merge", "workflows"}, set()),
    "cli_pictures": ({"errors", "spec", "merge", "images", "hosts", "demo", "workflows", "cli_recipe"}, {"tqdm"}),
    "cli_plots": (
        {
            "errors",
            "merge/controls",
            "spec",
            "images",
            "hosts",
            "workflows",
            "surveys",
            "run_files",
            "runs",
            "plots",
            "checks",
            "resume",
        }
        | {"cli_recipe", "cli_pictures"},
        {"tqdm", "PIL"},
    ),
    "cli_demo": (
        {"errors", "spec", "merge/sources", "images", "hosts", "demo/make", "plots", "runs", "surveys"}
        | {"cli_pictures", "cli_plots"},
        set(),
    ),
    "__main__": ({"cli"}, set()),
    "": ({"errors", "spec", "merge", "workflows"}, set()),
}

LAYERS |= {
    f"hosts/{path.stem}": (
        {"errors", "spec", "images/request", "images/infotext", "hosts/base", "merge/checkpoint", "merge/memory"}
        | {f"hosts/{other.stem}" for other in (PACKAGE / "hosts").glob("webui*.py")},
        {"modules", "torch", "PIL", "gradio"},
    )
    for path in (PACKAGE / "hosts").glob("webui*.py")
}

# What planning goes through, and so must not load torch: these import it within functions at the most.
LIGHT = [
    "merge/checkpoint",
    "merge/hashes",
    "merge/metadata",
    "merge/controls",
    "merge/writer",
    "merge/sources",
    "hosts/base",
    "images/axes",
    "images/request",
    "workflows",
    "cli",
    "cli_parser",
    "cli_recipe",
    "cli_pictures",
    "cli_plots",
    "cli_demo",
    "cli_ui",
    "",
]


def modules() -> Iterator[str]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(PACKAGE).with_suffix("").as_posix().removesuffix("__init__").rstrip("/")


def imports(module: str, *, at_top_only: bool = False) -> Iterator[str]:
    """List what a module imports: ours by room, such as "merge/plan", others' by the name of the package."""
    path = PACKAGE / f"{module}.py"
    inside = path.is_file() and module
    path = path if inside else PACKAGE / module / "__init__.py"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    folder = (Path(module).parent if inside else Path(module)).parts
    for node in tree.body if at_top_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (f"!{alias.name.partition('.')[0]}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield f"!{(node.module or '').partition('.')[0]}"
        elif isinstance(node, ast.ImportFrom):
            base = [*folder[: len(folder) - node.level + 1], *(node.module or "").split(".")]
            place = "/".join(filter(None, base))
            for alias in node.names:
                own = f"{place}/{alias.name}".lstrip("/")
                yield own if (PACKAGE / f"{own}.py").is_file() else place


def rule_of(module: str) -> tuple[set[str], set[str]]:
    return LAYERS[max((room for room in LAYERS if lies_in(module, room)), key=len)]


def lies_in(module: str, room: str) -> bool:
    return module == room or (bool(room) and module.startswith(room + "/"))


@pytest.mark.parametrize("module", list(modules()))
def test_imports_go_downwards(module: str) -> None:
    ours, others = rule_of(module)
    for name in imports(module):
        if name.startswith("!"):
            assert name[1:] in others | sys.stdlib_module_names, f"{module or '__init__'} imports {name[1:]}"
        else:
            assert any(lies_in(name, room) for room in ours), f"{module or '__init__'} imports {name}"


@pytest.mark.parametrize("module", LIGHT)
def test_what_planning_needs_loads_no_torch(module: str) -> None:
    heavy = {"!torch", "!numpy", "merge/execute", "merge/modes", "merge/dtypes"}
    assert not heavy & set(imports(module, at_top_only=True))


def test_every_name_is_exported_once_and_sorted() -> None:
    assert sorted(elemental.__all__) == elemental.__all__
    assert len(set(elemental.__all__)) == len(elemental.__all__)
    for name in elemental.__all__:
        assert getattr(elemental, name).__doc__, name
