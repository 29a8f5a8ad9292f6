"""What version 0.1.0 wrote is read, and means the same: recipes, images, history, presets, hashes, command lines.

The files are in ``data/version_0_1_0``, whose README.txt says how each was made.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from elemental import (
    MergeMode,
    MergePlan,
    MergeRecipe,
    ModelLocator,
    ModelSource,
    SaveDtype,
    VaeChoice,
    format_rules,
    merge_to_file,
    model_source,
    parse_block_weights,
    parse_rules,
    plan_merge,
    read_recipe,
)
from elemental.cli.argument_parser import COMMANDS, parse_command
from elemental.cli.recipe_options import make_recipe
from elemental.images.files import read_texts
from elemental.images.image_request import request_from_dict
from elemental.images.infotext import find_value
from elemental.merge.files.hashes import remembered_sha256
from elemental.recipe.recipe import recipe_from_dict
from elemental.runs.sample_file import find_samples
from elemental.session.form import finder, form_from_dict
from elemental.session.history import History
from elemental.session.session import session_of
from elemental.workflows import load_presets

from .version_0_1_0 import DATA, EXPECTED, WEIGHTS, Watched, home_of_0_1_0  # noqa: F401

LINES: list[dict[str, Any]] = json.loads((DATA / "command_lines.json").read_text(encoding="utf-8"))
SPEC = "recipes/rules.txt"
PLOT_RULES = parse_rules("IN00::0.5")


def ratios(plan: MergePlan) -> list[list[float | None]]:
    tensors = sorted(plan.tensors, key=lambda tensor: tensor.name.key)
    assert [tensor.name.key for tensor in tensors] == EXPECTED["tensors"]
    return [[tensor.alpha, tensor.beta] for tensor in tensors]


def model(name: str, folder: str = "~/models", *, hashed: bool = True) -> ModelSource:
    data = (DATA / "home" / "models" / f"{name}.safetensors").read_bytes()
    return ModelSource(f"{folder}/{name}.safetensors", hashlib.sha256(data).hexdigest() if hashed else None, len(data))


A, B, C, VAE = map(model, ("a", "b", "c", "vae"))
WEBUI = "~/webui/models"
ALPHAS_SDXL, BETAS_SDXL = ("0.1 " * 19, " ".join(f"{index / 10:g}" for index in range(20)))
RECIPES: dict[str, MergeRecipe] = {
    "recipes/weight-sum.json": MergeRecipe(
        A, B, alpha=0.3, block_alpha=parse_block_weights(" ".join(f"{index / 20:g}" for index in range(25))),
        rules=parse_rules("OUT05:attn2:0.5\nNOT BASE:norm:0.2"), vae=VaeChoice.B, dtype=SaveDtype.BF16,
    ),
    "recipes/add-difference.json": MergeRecipe(
        A, B, C, MergeMode.ADD_DIFFERENCE, alpha=0.7, rules=parse_rules("M00 OUT00-OUT03::-1e-10"), vae=VaeChoice.FILE,
        vae_file=VAE, dtype=SaveDtype.FP16,
    ),
    "recipes/triple-sum.json": MergeRecipe(
        A, B, C, MergeMode.TRIPLE_SUM, alpha=0.35, beta=0.2, block_alpha=parse_block_weights("0.4 " * 13 + "0.6 " * 13),
        rules=parse_rules("OUT05:NOT attn1 attn2:0.5:0.1\nTE:mlp:1:0\nIN04::0.45"), vae=VaeChoice.A,
        dtype=SaveDtype.FP32,
    ),
    "recipes/sum-twice.json": MergeRecipe(
        A, B, C, MergeMode.SUM_TWICE, alpha=0.15, beta=0.9, block_beta=parse_block_weights("0.8 " + "0.1 " * 25),
        rules=parse_rules("NOT IN00-OUT10::0.55:0.65"),
    ),
    "recipes/sdxl.json": MergeRecipe(
        A, B, C, MergeMode.SUM_TWICE, alpha=0.15, block_alpha=parse_block_weights(ALPHAS_SDXL),
        block_beta=parse_block_weights(BETAS_SDXL),
    ),
    "recipes/by-hand.json": MergeRecipe(
        ModelSource(A.path), ModelSource(B.path), alpha=0.3, rules=parse_rules("OUT05:attn2:0.5")
    ),
    "models/merged.safetensors": MergeRecipe(
        A, B, alpha=0.25, block_alpha=parse_block_weights(WEIGHTS), vae=VaeChoice.FILE, vae_file=VAE,
        rules=parse_rules("OUT05:attn2:1.5\nNOT BASE:norm:0.75"), dtype=SaveDtype.FP32,
    ),
    "models/again.safetensors": MergeRecipe(
        model("merged"), B, C, MergeMode.SUM_TWICE, alpha=0.5, beta=0.25,
        block_beta=parse_block_weights("0 " * 13 + "0.5 " * 12),
        rules=parse_rules("IN04:attn1 attn2:0.25:0.75\nTE::1:0"),
    ),
    "models/no-hash.safetensors": MergeRecipe(
        model("a", hashed=False), model("b", hashed=False), model("c", hashed=False), MergeMode.ADD_DIFFERENCE,
        alpha=-0.5,
    ),
    "images/00000-7.png": MergeRecipe(
        ModelSource(
            "~/demo/a.safetensors", "98614d2b1a7dc567fc2123a1b1145e28ac57c47e369ae648664762240ce6eabd", 26518406
        ),
        ModelSource("~/demo/b.safetensors", None, 26518406), alpha=0.25,
        rules=parse_rules("OUT05:attn2:0.5\nNOT BASE:norm:0.75"),
    ),
    "images/webui.png": MergeRecipe(
        model("a", WEBUI), model("b", WEBUI), model("c", WEBUI), MergeMode.TRIPLE_SUM, alpha=0.25, beta=0.5,
        block_beta=parse_block_weights("0.25 " * 26), rules=parse_rules("OUT05:attn2:1:0.25\nNOT BASE:norm:0.75"),
    ),
    "plot/grid-2of2.png": MergeRecipe(
        A, B, alpha=0.25, block_alpha=parse_block_weights(WEIGHTS), rules=PLOT_RULES, vae=VaeChoice.FILE, vae_file=VAE,
        dtype=SaveDtype.FP16,
    ),
    "checks/a-b/diff/grid-1of2.png": MergeRecipe(A, B, alpha=0.25, rules=PLOT_RULES),
}  # fmt: skip


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_read_field_by_field(home: Path, name: str) -> None:
    recipe = read_recipe(home / name)
    assert recipe == RECIPES[name]
    assert format_rules(recipe.rules) == format_rules(RECIPES[name].rules)


@pytest.mark.parametrize("name", [name for name in EXPECTED["ratios"] if name != SPEC])
def test_a_recipe_gives_each_tensor_its_ratios(home: Path, name: str) -> None:
    plan = plan_merge(read_recipe(home / name), locator=ModelLocator(home / "models"))
    assert ratios(plan) == EXPECTED["ratios"][name]


def test_a_spec_gives_each_tensor_its_ratio(home: Path) -> None:
    rules = parse_rules((home / SPEC).read_text(encoding="utf-8"))
    assert format_rules(rules) == EXPECTED["rules"]
    plan = plan_merge(replace(read_recipe(home / "recipes" / "by-hand.json"), rules=rules))
    assert ratios(plan) == EXPECTED["ratios"][SPEC]


@pytest.mark.parametrize("name", ["merged.safetensors", "again.safetensors", "no-hash.safetensors"])
def test_a_merged_file_is_made_again_byte_for_byte(home: Path, name: str) -> None:
    made = merge_to_file(read_recipe(home / "models" / name), home / "out.safetensors").path
    assert made.read_bytes() == (home / "models" / name).read_bytes()


def test_a_merged_file_passes_on_what_it_was_merged_from(home: Path) -> None:
    def described(path: Path) -> dict[str, Any]:
        with safe_open(path, framework="pt") as file:
            return dict(json.loads(file.metadata()["sd_merge_models"]))

    again = home / "models" / "again.safetensors"
    recipe = MergeRecipe(model_source(again), model_source(home / "models" / "c.safetensors"))
    found = described(merge_to_file(recipe, home / "out.safetensors").path)
    assert len(described(again)) == 4
    assert {**found, **described(again)} == found


def test_an_infotext_is_read() -> None:
    infotext = read_texts(DATA / "home" / "images" / "00000-7.png")["parameters"]
    assert infotext.splitlines()[:2] == ['a red circle, "café": plain', "Negative prompt: blue, grey"]
    values = {"Sampler": "DPM++ 2M", "Schedule type": "Karras", "CFG scale": "4.0", "Seed": "7", "Size": "64x64"}
    values |= {"Elemental": "weight-sum of a, b; alpha 0.25; rules OUT05:attn2:0.5\nNOT BASE:norm:0.75"}
    assert {name: find_value(infotext, name) for name in values} == values


def test_the_history_is_read_line_by_line(home: Path) -> None:
    path = home / "config" / "history.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    entries = session_of(Watched(home)).history.entries()[::-1]
    assert [entry.kind for entry in entries] == ["merge", "generate", "save", "generate", "plot", "plot", "check"]
    for entry, line in zip(entries, lines, strict=True):
        assert History(path).find(line["number"]) == entry
        for name in ("name", "result", "when", "form", "recipe"):
            assert getattr(entry, name) == line[name]


def test_the_history_fills_the_form(home: Path) -> None:
    host = Watched(home)
    for entry in History(home / "config" / "history.jsonl").entries():
        form, wanted = form_from_dict(entry.form), recipe_from_dict(entry.recipe)
        first = wanted.mode is MergeMode.WEIGHT_SUM
        assert (form.model_a, form.model_b) == tuple(f"{name}.safetensors" for name in ("ab" if first else "ba"))
        assert (form.model_c, form.beta) == (("", 0.35) if first else ("c.safetensors", 0.75))
        assert ("# café" in form.spec) is first
        assert (wanted.vae, wanted.dtype) == ((VaeChoice.B, None) if first else (VaeChoice.A, SaveDtype.BF16))
        assert bare(form.recipe(finder(host.checkpoints()))) == bare(wanted)


def bare(recipe: MergeRecipe) -> MergeRecipe:
    """Leave out hashes and sizes."""
    models: dict[str, Any] = {f"model_{role}": ModelSource(source.path) for role, source in recipe.sources.items()}
    return replace(recipe, **models)


def test_the_history_fills_the_panels(home: Path) -> None:
    gradio = pytest.importorskip("gradio")
    from elemental.ui.check_panel import CheckPanel
    from elemental.ui.device_list import DeviceList
    from elemental.ui.page_memory import PageMemory
    from elemental.ui.plot_panel import PlotPanel

    session: Any = session_of(Watched(home))
    with gradio.Blocks():
        devices = DeviceList(session)
        plot = PlotPanel(session, session, devices, [], gradio.Textbox())
        check = CheckPanel(session, session, devices, [])
    memory = PageMemory(session, {**plot.fields, **check.fields}, None)
    checked, one_row, plotted = (dict(entry.form) for entry in session.history.entries()[:3])

    def fill(form: dict[str, Any]) -> dict[str, Any]:
        return {name: memory.fill(form)[field]["value"] for name, field in plot.fields.items()}

    none = plot.fields["y_type"].value
    no_third = {"z_type": none, "z": ""}
    x = "OUT05:attn2:1\n\nM00::0.75"  # its blank lines in front are the tick of a box now
    assert fill(plotted) == {
        "x_type": "elemental", "x": x, "y_type": "seed", "y": "1, 2", **no_third, "compare": True, "without_rules": True
    }  # fmt: skip
    assert fill(one_row) == {
        "x_type": "cfg", "x": "1.5", "y_type": none, "y": "", **no_third, "compare": False, "without_rules": False
    }  # fmt: skip
    filled = memory.fill(checked)
    assert (filled[check.elements]["value"], filled[check.ratio]["value"]) == ("OUT05:attn2, M00", 1.25)


@pytest.mark.usefixtures("home")
def test_the_users_presets_are_read() -> None:
    presets = load_presets()
    assert presets["MINE"] == tuple(map(parse_block_weights, (WEIGHTS, "0.25 " * 20)))
    assert presets["OUT HALF"] == (parse_block_weights("0 " * 13 + "0.5 " * 12),)
    assert presets["GRAD_V"] == (parse_block_weights("0.75 " * 26),)


def test_a_hash_is_still_remembered(home: Path) -> None:
    path = home / "models" / "a.safetensors"
    place, stat = os.path.normcase(path.resolve()), path.stat()
    entry = Path(os.environ["ELEMENTAL_CACHE"], "hashes", f"{hashlib.sha256(place.encode()).hexdigest()[:32]}.json")
    entry.parent.mkdir(parents=True)
    facts = {"path": place, "size": stat.st_size, "mtime": stat.st_mtime_ns, "sha256": "0" * 64}
    entry.write_text(json.dumps(facts), encoding="utf-8")
    assert remembered_sha256(path) == "0" * 64


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("entry", LINES, ids=lambda entry: entry["line"][:60])
def test_a_command_line_means_what_it_meant(entry: dict[str, Any]) -> None:
    line = parse_command(shlex.split(entry["line"]))
    values = {name: str(value) if isinstance(value, Path) else value for name, value in vars(line.args).items()}
    assert entry.get("models") in (None, *values.values())
    for option, value in entry["options"].items():
        assert values[line.parser._option_string_actions[option].dest] == value, option
    options = COMMANDS[line.command].read(line.args)
    if "recipe" in entry:
        assert make_recipe(options.recipe)[0] == recipe_from_dict(entry["recipe"])
    if "request" in entry:
        assert options.images.request() == request_from_dict(entry["request"])


def test_samples_have_their_numbers() -> None:
    kinds = {number: "plot" if sample.axes else "check" for number, sample in find_samples().items()}
    words = [shlex.split(entry["line"]) for entry in LINES if entry["options"].get("--sample")]
    assert {int(line[line.index("--sample") + 1]): line[0] for line in words}.items() <= kinds.items()
