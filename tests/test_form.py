"""The form, what is shown beside it as one types, and the names of files; without a page."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from elemental import MergeMode, MergeRecipe, RecipeError, SaveDtype, SpecError, model_source, parse_rules
from elemental.architectures.blocks import BASE
from elemental.architectures.detection import detect_architecture
from elemental.architectures.element_groups import find_groups
from elemental.architectures.keys import name_key
from elemental.architectures.tensor_sets import members
from elemental.demo.layout import SD1_LAYOUT, SD2_LAYOUT, SDXL_LAYOUT, tensor_shapes
from elemental.hosts.base import CheckpointRef
from elemental.recipe.block_weights import parse_block_weights
from elemental.recipe.rule_matching import RuleMatcher
from elemental.recipe.spec_parser import parse_rules as parse
from elemental.runs.sample_file import find_samples
from elemental.session.form import MergeForm, finder, form_from_dict, form_from_recipe, safe_file_name
from elemental.session.merge_preview import Previewer, stamp_of


@pytest.fixture
def refs(models: dict[str, Path]) -> list[CheckpointRef]:
    return [CheckpointRef(f"{name}.safetensors", path) for name, path in models.items()]


@pytest.fixture
def form() -> MergeForm:
    return MergeForm(model_a="a.safetensors", model_b="b.safetensors")


@pytest.mark.slow
def test_a_form_and_its_recipe_are_the_same(refs: list[CheckpointRef], models: dict[str, Path]) -> None:
    recipe = MergeRecipe(
        model_source(models["a"]),
        model_source(models["b"]),
        model_source(models["c"]),
        mode=MergeMode.TRIPLE_SUM,
        alpha=0.3,
        beta=0.2,
        block_alpha=parse_block_weights(",".join(["0.1"] * 26)),
        rules=parse_rules("OUT03:attn2:0.5:0.1\nIN00::1"),
        dtype=SaveDtype.BF16,
        force=True,
        drop_ema=True,
    )
    form = form_from_recipe(recipe, refs)
    assert form.model_c == "c.safetensors"
    assert form.recipe(finder(refs)) == recipe
    assert form_from_dict(form.to_dict()) == form
    assert form_from_dict({"alpha": None, "unknown": 1, "spec": "x"}) == MergeForm(spec="x")


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"spec": "OUT12:x:1"}, SpecError, "OUT12"),
        ({"model_b": ""}, RecipeError, "Choose model B"),
        ({"model_a": None, "model_b": ""}, RecipeError, "Choose model A and B"),
        ({"mode": "sum-twice"}, RecipeError, "Choose model C"),
        ({"model_b": "gone.safetensors"}, RecipeError, 'No model named "gone.safetensors"'),
        ({"blocks": "1, 2"}, RecipeError, "block weights: "),
        ({"alpha": ""}, RecipeError, "alpha must be a number"),
        ({"spec": "OUT03::1:1"}, SpecError, "has no beta"),
    ],
)
def test_what_is_missing_is_said(
    refs: list[CheckpointRef], form: MergeForm, changes: dict[str, object], error: type[Exception], words: str
) -> None:
    wrong = replace(form, **changes)  # type: ignore[arg-type]
    with pytest.raises(error, match=words):
        wrong.recipe(finder(refs))
    assert 'class="elemental-report error"' in Previewer(lambda: refs).look(wrong).report


def test_blocks_that_there_are_not_are_answered_by_those_of_model_a(refs: list[CheckpointRef], form: MergeForm) -> None:
    preview = Previewer(lambda: refs)
    known = preview.look(replace(form, spec="OUT12::1")).report
    assert "SD 1.x has BASE, IN00-IN11, M00, OUT00-OUT11." in known
    assert "SDXL" not in known
    for unreadable in ("", "gone.safetensors"):
        said = preview.look(replace(form, model_a=unreadable, spec="OUT12::1")).report
        assert "SDXL has BASE, IN00-IN08, M00, OUT00-OUT08." in said


def test_unused_fields_are_passed_over(refs: list[CheckpointRef], form: MergeForm) -> None:
    recipe = replace(form, model_c="c.safetensors", beta=0.7, blocks_beta=",".join("0" * 26)).recipe(finder(refs))
    assert (recipe.model_c, recipe.beta, recipe.block_beta) == (None, None, None)


@pytest.mark.parametrize(
    "name", ["", "  ", "..", "../x", "/etc/x", "a/b", "C:\\x", "x\ny", "..safetensors", ".x", "a" * 300]
)
def test_names_that_lead_elsewhere_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(RecipeError):
        safe_file_name(name, tmp_path)


@pytest.mark.parametrize("name", ["x", "x.safetensors", " x ", "x.SAFETENSORS"])
def test_a_plain_name_is_a_file_of_the_folder(tmp_path: Path, name: str) -> None:
    assert safe_file_name(name, tmp_path) == tmp_path / "x.safetensors"


def test_the_preview_counts_and_stamps(refs: list[CheckpointRef], form: MergeForm) -> None:
    previewer = Previewer(lambda: refs)
    spec = "OUT03 OUT04:attn2:0.5\r\nTE:mlp:1"
    seen = previewer.look(replace(form, spec=spec))
    assert f'data-stamp="{stamp_of(spec)}"' in seen.report
    assert stamp_of(spec) == stamp_of(spec.replace("\r", ""))
    assert "2 rules set 10 of 686 U-Net elements and " in seen.report
    assert "SD 1.x: " in seen.report
    assert "nothing would change" in previewer.look(replace(form, alpha=0)).report
    assert "warning:</b> Rule 1" in previewer.look(replace(form, spec="OUT03:atn2:1")).report


def test_the_preview_sees_that_a_file_changed(tmp_path: Path, models: dict[str, Path], form: MergeForm) -> None:
    a, b = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    a.write_bytes(models["a"].read_bytes())
    b.write_bytes(models["b"].read_bytes())
    previewer = Previewer(lambda: [CheckpointRef(path.name, path) for path in (a, b)])
    assert previewer.look(form).plan is not None
    b.write_bytes(b"damaged")
    assert previewer.look(form).plan is None


def test_the_map_shows_each_ratio_where_it_will_be(refs: list[CheckpointRef], form: MergeForm) -> None:
    spec = "OUT04:attn2.to_k:0.25\nOUT05:ff.net.0.proj.weight:2\nIN01:norm1:-1"
    seen = Previewer(lambda: refs).look(replace(form, spec=spec, vae="a"))
    assert seen.table is not None
    rows = {
        re.search(r"<th[^>]*>([^<]*)<", row)[1]: re.findall(r"<td(?: ([^>]*))?>[^<]*</td>", row)  # type: ignore[index]
        for row in re.findall(r"<tr[^>]*>(<th scope=\"row\".*?)</tr>", seen.table)
    }
    blocks = re.findall(r'data-block="(\w+)"', seen.table)
    cell = {(row, block): mark for row, cells in rows.items() for block, mark in zip(blocks, cells, strict=True)}
    assert "data-r=0.25" in cell["attn2.to_k", "OUT04"]
    assert "data-rules=1" in cell["attn2.to_k", "OUT04"]
    assert "data-r=0.5" in cell["attn2.to_k", "OUT03"]
    assert 'data-r="0.5 2"' in cell["ff.net.0.proj", "OUT05"]
    assert "mixed above ruled" in cell["ff.net.0.proj", "OUT05"]
    assert 'data-r="0.5 2"' in cell["feed-forward", "OUT05"]
    assert "data-part=ff" in cell["feed-forward", "OUT05"]
    assert "below" in cell["norm1", "IN01"]
    assert cell["attn2.to_k", "OUT00"] == ""  # no such element there
    assert "kept" in cell["VAE", BASE]
    assert "VAE taken from model A" in cell["VAE", BASE]


def test_the_map_says_where_ratios_come_from_and_which_names_there_are(
    refs: list[CheckpointRef], form: MergeForm
) -> None:
    previewer = Previewer(lambda: refs)
    plain = previewer.look(form).table or ""
    assert 'data-source="from alpha"' in plain
    assert "from block weights" not in plain
    weighted = previewer.look(replace(form, blocks=",".join(["0"] * 24 + ["0.3"]))).table or ""
    assert (
        'data-block="OUT11" data-prefix="model.diffusion_model.output_blocks.11." data-source="from block weights '
        in (weighted)
    )
    assert "from block weights (OUT11 = 0.3)" in weighted
    assert "(BASE = " not in weighted  # it was left to alpha
    blocks, elements = re.findall(r'elemental-names" data-blocks="([^"]*)" data-elements="([^"]*)"', plain)[0]
    assert blocks.split()[:5] == ["NOT", "TE", "VAE", "BASE", "IN00"]
    assert {"NOT", "attn1", "attn2.to_k", "ff", "to_out", "skip_connection"} < set(elements.split())
    assert not [word for word in elements.split() if word.isdecimal() or word.startswith((".", "model"))]


@pytest.mark.parametrize("vae", ["merged", "a", "b"])
def test_a_stored_vae_is_read_as_before(vae: str, refs: list[CheckpointRef], form: MergeForm) -> None:
    stored = {**form.to_dict(), "vae": vae}
    assert form_from_dict(stored).recipe(finder(refs)).vae.value == vae


@pytest.mark.slow
@pytest.mark.parametrize("layout", [SD1_LAYOUT, SD2_LAYOUT, SDXL_LAYOUT])
def test_the_words_of_a_cell_select_its_tensors_and_no_others(layout: object) -> None:
    shapes = tensor_shapes(layout)  # type: ignore[arg-type]
    names = [name_key(key, detect_architecture(shapes, name="x")) for key in shapes]
    matcher = RuleMatcher(names)
    seen: set[int] = set()
    for group in find_groups(names):
        for place in group.places.values():
            (rule,) = parse(f"{place.word}:{place.part}:1").rules
            assert tuple(members(matcher.matching(rule))) == place.indices, (group.name, place.block)
            seen.update(place.indices)
    assert len(seen) > 0.99 * len(names)  # all but what is neither U-Net nor text encoder nor VAE


def test_a_planner_of_many_rules_is_drawn_in_time(refs: list[CheckpointRef], form: MergeForm) -> None:
    """No timing: that a thousand rules give one table whose size does not grow with them."""
    rules = "\n".join(f"OUT{number % 12:02}:attn2.to_k:0.{number % 9 + 1}" for number in range(1000))
    few = Previewer(lambda: refs).look(replace(form, spec=rules[:200].rpartition("\n")[0]))
    many = Previewer(lambda: refs).look(replace(form, spec=rules))
    assert few.table is not None
    assert many.table is not None
    assert len(many.table) < 1.2 * len(few.table)


@pytest.mark.slow
def test_a_sample_says_what_the_merge_panel_has_to_say_for_it() -> None:
    pytest.importorskip("gradio")
    from elemental.ui.sample_list import explain_sample

    shown = explain_sample(find_samples()[1])
    assert "two blank lines at the" in shown
    assert "&quot;elemental&quot;" in shown
    assert "Set in the Merge panel: alpha 0, block weights none, spec empty.<" in shown


@pytest.mark.parametrize(
    "typed",
    [
        "OUTSIDE/secret.safetensors",
        "OUTSIDE/none.safetensors",
        "/etc/passwd",
        "/etc/none",
        "FOLDER/../out/secret.safetensors",
        "../out/secret.safetensors",
        "secret.safetensors",
        "FOLDER",
        "~/secret.safetensors",
        "a",
        "FOLDER/x\0.safetensors",
    ],
)
def test_a_path_that_the_host_does_not_list_tells_nothing(tmp_path: Path, typed: str) -> None:
    """The answer is the same whether or not there is such a file."""
    folder, outside = tmp_path / "models", tmp_path / "out"
    for path in (folder / "a.safetensors", outside / "secret.safetensors"):
        path.parent.mkdir()
        path.write_bytes(b"x")
    typed = typed.replace("OUTSIDE", str(outside)).replace("FOLDER", str(folder))
    find = finder([CheckpointRef("a.safetensors", folder / "a.safetensors")], folder)
    with pytest.raises(RecipeError) as caught:
        find(typed)
    assert str(caught.value) == f'No model named "{typed}". Refresh the list or choose one.'


def test_listed_models_and_those_of_the_folder_are_found(tmp_path: Path) -> None:
    folder, listed = tmp_path / "models", tmp_path / "elsewhere.safetensors"
    (folder / "sub").mkdir(parents=True)
    for path in (listed, folder / "sub" / "new.safetensors"):
        path.write_bytes(b"x")
    find = finder([CheckpointRef("else", listed)], folder)
    for typed in ("else", " else ", str(listed), str(folder / "sub" / "new.safetensors")):
        assert find(typed).path
    with pytest.raises(RecipeError):
        finder([CheckpointRef("else", listed)])(str(folder / "sub" / "new.safetensors"))


def test_a_ratio_that_is_blank_is_no_ratio(refs: list[CheckpointRef]) -> None:
    pytest.importorskip("gradio")
    from elemental.ui.form_values import parse_form

    values = list({**MergeForm("a.safetensors", "b.safetensors").to_dict(), "alpha": None, "beta": None}.values())
    with pytest.raises(RecipeError, match="alpha must be a number"):
        parse_form(values).recipe(finder(refs))
    plain = replace(parse_form(values), alpha=0.5)  # the mode has no beta
    assert plain.recipe(finder(refs)).beta is None
    with pytest.raises(RecipeError, match="beta must be a number"):
        replace(plain, mode="sum-twice", model_c="c.safetensors").recipe(finder(refs))
