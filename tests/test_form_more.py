"""Further models and adjustments in the form: read and written, planned, painted, copied and found; without a page."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from elemental import MergeMode, MergeRecipe, RecipeError, SpecError, merge_to_file, model_source
from elemental.cli.argument_parser import COMMANDS
from elemental.cli.recipe_options import make_recipe
from elemental.hosts.base import CheckpointRef
from elemental.images.image_request import ImageRequest
from elemental.merge.files.metadata import recipe_to_share
from elemental.recipe.recipe import MoreModel, recipe_from_dict
from elemental.session.command_line import command_of, recipe_of
from elemental.session.element_map import name_ends
from elemental.session.form import MergeForm, finder, form_from_dict
from elemental.session.found_forms import read_form_file
from elemental.session.further_models import add_more, usual_ratio
from elemental.session.map_strokes import apply_stroke
from elemental.session.page_values import whole_merge
from elemental.session.run_plans import PlotForm, plan_plot
from elemental.session.save_names import suggest_name
from elemental.session.session import Session, session_of
from elemental.session.simplify_jobs import simplify_form
from elemental.workflows import identify_models

from .conftest import LAYOUTS, random_state, save
from .fake_host import FakeHost
from .plotting import load
from .test_erase_rules import NAMES

FORM = MergeForm("a.safetensors", "b.safetensors", alpha=0.3, more="c.safetensors:0.2\nd.safetensors:-0.1")
ADJUSTED = replace(FORM, more="", adjust="1,0,0,-2.5")


@pytest.fixture(scope="module")
def folder(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with four models; not to be written to."""
    folder = tmp_path_factory.mktemp("models")
    for name in "abc":
        shutil.copy(models[name], folder)
    save(folder / "d.safetensors", random_state(LAYOUTS["sd1"], 4))
    return folder


@pytest.fixture
def session(folder: Path, tmp_path: Path) -> Session:
    return session_of(FakeHost(load, output=tmp_path / "out", models=folder))


def own_session(folder: Path, tmp_path: Path) -> Session:
    """Give a session whose folder of models can be written to."""
    copied = shutil.copytree(folder, tmp_path / "own")
    return session_of(FakeHost(load, output=tmp_path / "out", models=copied))


def test_a_form_and_its_recipe_have_the_same_models(session: Session, folder: Path) -> None:
    recipe = session.recipe(FORM)
    assert recipe.more == (
        MoreModel(model_source(folder / "c.safetensors"), 0.2),
        MoreModel(model_source(folder / "d.safetensors"), -0.1),
    )
    assert session.form_of(recipe) == FORM
    assert form_from_dict(FORM.to_dict()) == FORM
    said = session.previewer.look(FORM).report
    assert "With B2 c.safetensors:0.2, B3 d.safetensors:-0.1." in said
    assert "tensors differ from A" in said


@pytest.mark.parametrize(
    ("line", "ratio"),
    [
        (" c.safetensors : .5 ", 0.5),
        ("c.safetensors:\N{MINUS SIGN}1", -1),
        ("FOLDER/c.safetensors:2", 2),
    ],
)
def test_a_line_is_a_model(session: Session, folder: Path, line: str, ratio: float) -> None:
    recipe = session.recipe(replace(FORM, more=f"\n{line.replace('FOLDER', str(folder))}\n"))
    assert recipe.more == (MoreModel(model_source(folder / "c.safetensors"), ratio),)


def test_a_ratio_can_be_left_out_where_there_is_a_usual_one(session: Session) -> None:
    form = replace(FORM, mode="ties", model_c="c.safetensors", more="d.safetensors")
    assert [model.ratio for model in session.recipe(form).more] == [1]
    with pytest.raises(RecipeError, match="weight-sum needs a ratio for B2, its share of the mix: write NAME:RATIO"):
        session.recipe(replace(FORM, more="c.safetensors"))
    assert [usual_ratio(mode) for mode in (MergeMode.WEIGHT_SUM, MergeMode.TIES)] == ["0.25", "1"]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("c.safetensors:0.2\nx.safetensors:1", 'B3: No model named "x.safetensors". Refresh the list or choose one.'),
        ("/etc/passwd:1", 'B2: No model named "/etc/passwd". Refresh the list or choose one.'),
        ("c.safetensors:0,2", '"0,2" is no ratio of the model c.safetensors'),
        ("c.safetensors:", '"" is no ratio of the model c.safetensors'),
        ("x:" + "1" * 100_000 + "x", "is no model: the line has 100,003 letters. Write one model a line"),
        ("c.safetensors:1\n" * 9, "There are 9 further models, and a merge takes up to 8, B2 to B9."),
        ("c.safetensors:1e999", "must be a finite number (of B2)"),
    ],
)
def test_what_is_no_model_is_told(session: Session, more: str, words: str) -> None:
    with pytest.raises(RecipeError) as caught:
        session.recipe(replace(FORM, more=more))
    assert words in str(caught.value)
    assert 'class="elemental-report error"' in session.previewer.look(replace(FORM, more=more)).report


def test_a_title_with_a_hash_has_its_ratio_at_the_end(folder: Path) -> None:
    listed = [CheckpointRef(f"{name}.safetensors", folder / f"{name}.safetensors") for name in "ab"]
    find = finder([*listed, CheckpointRef("c.safetensors [0123abcdef]", folder / "c.safetensors")], folder)
    form = replace(FORM, more="c.safetensors [0123abcdef]:0.2")
    assert form.recipe(find).more == (MoreModel(model_source(folder / "c.safetensors"), 0.2),)
    with pytest.raises(RecipeError, match=r'B2: "much" is no ratio of the model c\.safetensors \[0123abcdef\]\.'):
        replace(form, more="c.safetensors [0123abcdef]:much").recipe(find)


def test_modes_that_take_none_pass_over_them(session: Session) -> None:
    assert session.recipe(replace(FORM, mode="slerp", more="x.safetensors:1")).more == ()
    with pytest.raises(SpecError, match="no further models"):  # what is typed is not dropped silently
        session.recipe(replace(FORM, mode="slerp", spec="B2 OUT03::1"))


def test_model_b_is_needed_beside_them(session: Session) -> None:
    with pytest.raises(RecipeError, match=r"Choose model B\."):
        session.recipe(replace(FORM, model_b="", adjust="1"))


def test_a_recipe_can_stand_there(folder: Path, tmp_path: Path) -> None:
    session = own_session(folder, tmp_path)
    inner = json.loads(recipe_to_share(identify_models(session.recipe(FORM)).to_dict()))
    (session.host.models_folder() / "soft.json").write_text(json.dumps(inner))
    assert "soft.json [recipe]" in session.model_titles()
    form = replace(FORM, more="soft.json [recipe]:0.2")
    recipe = session.recipe(form)
    assert recipe.more[0].file.recipe is not None
    assert len(recipe.more[0].file.recipe.more) == 2
    assert session.form_of(recipe).more == f"{session.host.models_folder() / 'soft.json'}:0.2"
    assert session.recipe(session.form_of(recipe)) == recipe
    assert "tensors differ from A" in session.previewer.look(form).report


def test_rules_for_them_are_counted_and_have_a_map(session: Session) -> None:
    plain = session.previewer.look(FORM).table or ""
    assert 'data-target="B2"' not in plain
    assert "<caption>" not in plain
    (alone,) = re.findall(r"1 rule sets (\d+) of", session.previewer.look(replace(FORM, spec="OUT03::1")).report)
    seen = session.previewer.look(replace(FORM, spec="B2 OUT04:attn2.to_k:0.7\nOUT03::1"))
    assert f"2 rules set {int(alone) + 1} of 686 U-Net elements." in seen.report
    tables = re.split("(?=<table)", seen.table or "")[1:]
    assert [re.findall('data-ratio="(.*?)"', table) for table in tables] == [["alpha"], ["B2"]]
    assert 'data-source="from the line of B2"' in tables[1]
    cells = re.findall(r"<td[^>]*data-r=0\.7[^>]*>", tables[1])
    assert cells
    assert all("ruled" in cell for cell in cells)
    assert "B2 OUT04:attn2.to_k:0.7" in tables[1]
    assert "OUT03::1<" not in tables[1]
    assert "data-r=0.2" in tables[1]
    assert "data-r=0.7" not in tables[0]


def test_the_map_of_a_further_model_is_painted_by_its_rules() -> None:
    def stroke(**more: object) -> str:
        cells = [["OUT03", "attn2"], ["OUT04", "attn2"]]
        return json.dumps({"columns": ["OUT03", "OUT04"], "cells": cells, "ratio": "0.2", "target": "B2", **more})

    def apply(spec: str, **more: object) -> str:
        return apply_stroke(spec, stroke(**more), lambda: NAMES)

    assert apply("OUT03 OUT04:attn2:1") == "OUT03 OUT04:attn2:1\nB2 OUT03 OUT04:attn2:0.2"
    assert apply("B2 OUT03 OUT04:attn2:1") == "B2 OUT03 OUT04:attn2:0.2"
    assert apply("B3 OUT03 OUT04:attn2:1, OUT03::1") == "B3 OUT03 OUT04:attn2:1, OUT03::1\nB2 OUT03 OUT04:attn2:0.2"
    assert apply("OUT03::1\nB2 OUT03-OUT05:attn2:1", action="erase") == "OUT03::1\nB2 OUT05:attn2:1"
    assert apply("OUT03::1\nB2 IN01::1", action="only") == "OUT03::1\nB2 OUT03 OUT04:attn2:0.2"
    for wrong in ({"target": "lora.x"}, {"target": 2}, {"alphas": ["1", "1"]}):
        with pytest.raises(RecipeError, match="cannot be read"):
            apply("", **wrong)


def test_the_command_and_the_name_have_them(session: Session, folder: Path) -> None:
    form = replace(FORM, adjust="1,0,0,-2.5")
    words = shlex.split(command_of(session, form))
    assert f"--more={folder / 'c.safetensors'}:0.2" in words
    assert "--adjust=1,0,0,-2.5" in words
    assert make_recipe(COMMANDS["merge"].read_text(shlex.join(words[2:])).recipe)[0] == session.recipe(form)
    shared = recipe_of(session, form)
    assert str(folder) not in shared
    further = recipe_from_dict(json.loads(shared)).more
    assert [model.file.path for model in further] == ["c.safetensors", "d.safetensors"]
    assert suggest_name(session.recipe(form), folder) == "a-b-c-d-0.3-adjusted"
    many = session.recipe(replace(FORM, more="c.safetensors:0.1\n" * 8))
    assert suggest_name(many, folder) == "a-b-c-c-6-more-0.3"


def test_added_models_are_whole_lines() -> None:
    assert add_more("", "c.safetensors", " 0.2 ") == "c.safetensors:0.2"
    assert add_more("c.safetensors:0.5\n\n", "d", "") == "c.safetensors:0.5\nd"


def test_a_saved_merge_fills_the_form_with_them(session: Session, tmp_path: Path) -> None:
    path = tmp_path / "ab.safetensors"
    form = replace(FORM, spec="B3 OUT03:attn2:0.5", adjust="0,2")
    merge_to_file(session.recipe(form), path)
    found = read_form_file(session, path)
    assert (form_from_dict(found.values), found.remarks) == (form, ())


def test_a_further_model_that_is_not_here_is_told(session: Session, tmp_path: Path) -> None:
    recipe = session.recipe(FORM)
    gone = replace(recipe.more[0], file=model_source("/old/gone.safetensors"))
    file = tmp_path / "recipe.json"
    file.write_text(json.dumps(replace(recipe, more=(gone,)).to_dict()))
    found = read_form_file(session, file)
    assert 'Model B2: no model named "gone.safetensors" is in the list; choose one.' in found.remarks
    assert str(found.values["more"]).endswith("gone.safetensors:0.2")


def test_a_plot_keeps_them(session: Session) -> None:
    run, _ = plan_plot(session, replace(FORM, adjust="2"), PlotForm("alpha", "0,0.5"), ImageRequest("a cat"))
    forms = [session.form_of(cell.recipe) for cell in run.plot.cells()]
    assert {(form.more, form.adjust) for form in forms} == {(FORM.more, "2")}


def test_simplify_refuses_them_at_once(session: Session) -> None:
    with pytest.raises(RecipeError, match="so one with further models"):
        simplify_form(session, FORM, ImageRequest("a cat"))
    assert not session.board.busy


def test_a_merge_from_before_there_were_any_has_none() -> None:
    before = {name: value for name, value in FORM.to_dict().items() if name not in ("more", "adjust")}
    assert whole_merge(before) == {**before, "more": "", "adjust": ""}
    assert whole_merge(FORM.to_dict()) == FORM.to_dict()


def test_a_form_and_its_recipe_have_the_same_adjustments(session: Session) -> None:
    recipe = session.recipe(ADJUSTED)
    assert recipe.adjust == (1, 0, 0, -2.5, 0, 0, 0, 0)
    assert session.form_of(recipe) == ADJUSTED
    assert "3 tensors adjusted: IN 1, CONT -2.5." in session.previewer.look(ADJUSTED).report
    assert session.recipe(replace(ADJUSTED, adjust=" 1, 0, 0, \N{MINUS SIGN}2.5, ")).adjust == recipe.adjust
    assert session.recipe(replace(ADJUSTED, adjust="0,0")).adjust is None


def test_a_alone_can_be_adjusted(session: Session) -> None:
    alone = replace(ADJUSTED, model_b="")
    recipe = session.recipe(alone)
    assert recipe.only_changes_a
    assert session.form_of(recipe) == replace(alone, model_b="a.safetensors", alpha=0)
    with pytest.raises(RecipeError, match=r"Choose model B\."):
        session.recipe(replace(alone, adjust="0,0"))


@pytest.mark.parametrize(
    ("adjust", "words"),
    [
        ("1,x", 'adjust: "x" is no number'),
        ("1,2,3,4,5,6,7,8,9", "adjust takes up to 8 numbers (IN,OUT,OUT2,CONT,BRI,COL1,COL2,COL3), not 9."),
        ("1" * 10_000, "adjust takes up to 8 numbers, not 10,000 letters."),
    ],
)
def test_what_is_no_adjustment_is_told(session: Session, adjust: str, words: str) -> None:
    for form in (replace(ADJUSTED, adjust=adjust), replace(ADJUSTED, adjust=adjust, model_b="")):
        with pytest.raises(RecipeError) as caught:
            session.recipe(form)
        assert words in str(caught.value)


@pytest.mark.parametrize(
    ("mode", "ends"),
    [
        ("weight-sum", ("A", "B")),
        ("slerp", ("A", "B")),
        ("tensor-sum", ("A", "B")),
        ("cosine-a", ("", "")),
        ("triple-sum", ("", "")),
        ("sum-twice", ("", "")),
        ("multiply-difference", ("", "")),
        ("add-difference", ("A", "A + B - C")),
        ("geometric-median", ("A", "")),
        ("ties", ("A", "")),
        ("self", ("", "A")),
    ],
)
def test_the_legend_names_the_ends_of_the_mode(session: Session, mode: str, ends: tuple[str, str]) -> None:
    form = replace(FORM, mode=mode, model_c="c.safetensors", more="")
    assert name_ends(session.recipe(form)) == ends
    assert f'data-zero="{ends[0]}" data-one="{ends[1]}"' in (session.previewer.look(form).table or "")


def test_with_further_models_an_end_is_a_model_only_if_it_always_is(session: Session) -> None:
    assert name_ends(session.recipe(FORM)) == ("", "")
    median = replace(FORM, mode="geometric-median", model_c="c.safetensors", more="d.safetensors")
    assert name_ends(session.recipe(median)) == ("A", "")
    a, b = model_source("a"), model_source("b")
    assert name_ends(MergeRecipe(a, b, more=(MoreModel(a, 0.0),))) == ("", "")
