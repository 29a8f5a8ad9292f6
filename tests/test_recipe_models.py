"""Recipes as models in the tab: listed and marked, chosen, told of, merged; and nothing told of other folders."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from elemental import MergeRecipe, ModelSource, RecipeError, model_source
from elemental.cli.main import DONE, main
from elemental.demo.checkpoint_pair import copy_pair
from elemental.hosts.standalone.host import StandaloneHost
from elemental.session.command_line import command_of, recipe_of
from elemental.session.form import MergeForm, form_from_recipe, title_of
from elemental.session.listed_models import find_listed, missing_models
from elemental.session.recipe_models import list_recipes
from elemental.session.session import Session, session_of
from elemental.ui.model_cards import draw_cards

SOFT = "sub/soft.json [recipe]"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a folder with the demo's pair, a recipe of it, and other files of the same kind of name."""
    found = tmp_path / "models"
    found.mkdir()
    copy_pair(found)
    (found / "sub").mkdir()
    inner = MergeRecipe(ModelSource("a.safetensors"), ModelSource("b.safetensors"), alpha=0.25)
    write(found / "sub" / "soft.json", inner)
    (found / "a.json").write_text('{"description": "what a site says of a", "mode": 1, "models": []}')
    (found / "broken.json").write_text("{")
    return found


@pytest.fixture
def session(folder: Path, tmp_path: Path) -> Session:
    return session_of(StandaloneHost(models=folder, output=tmp_path / "out"))


def write(path: Path, recipe: MergeRecipe) -> Path:
    path.write_text(json.dumps(recipe.to_dict()), encoding="utf-8")
    return path


def test_recipes_are_listed_and_marked(session: Session, folder: Path) -> None:
    assert session.model_titles() == ["a.safetensors", "b.safetensors", SOFT]
    assert [listed.path for listed in list_recipes(folder)] == [folder / "sub" / "soft.json"]
    (folder / "sub" / "soft.json").write_text("{}")
    assert SOFT not in session.model_titles()


def test_a_recipe_is_chosen_as_a_model(session: Session, folder: Path) -> None:
    form = MergeForm(model_a=SOFT, model_b="b.safetensors", alpha=0.5)
    recipe = session.recipe(form)
    assert recipe.model_a.recipe is not None
    assert recipe.model_a.recipe.alpha == 0.25
    assert recipe.model_a.recipe.model_a == model_source(folder / "a.safetensors")
    by_path = session.recipe(replace(form, model_a=str(folder / "sub" / "soft.json")))
    assert by_path == recipe
    preview = session.previewer.look(form)
    assert preview.plan is not None
    assert preview.plan.changes
    assert 'class="elemental-report error"' not in preview.report
    weighted = session.recipe(replace(form, blocks="GRAD_A"))  # the preset is for the architecture within
    assert weighted.block_alpha is not None


def test_a_card_says_what_the_recipe_is(session: Session) -> None:
    cards = draw_cards(session, MergeForm(model_a=SOFT, model_b="b.safetensors"))
    assert "SD 1.x · recipe · weight-sum of a, b; alpha 0.25" in cards
    assert f'title="{SOFT}: weight-sum of a, b; alpha 0.25"' in cards


def test_the_form_can_be_copied(session: Session, folder: Path, tmp_path: Path) -> None:
    form = MergeForm(model_a=SOFT, model_b="b.safetensors", alpha=0.5)
    words = shlex.split(command_of(session, form, name=str(tmp_path / "made")))
    assert words[2] == str(folder / "sub" / "soft.json")
    assert main(words[1:]) == DONE
    shared = json.loads(recipe_of(session, form))
    assert shared["models"]["a"]["path"] == "soft.json"
    assert shared["models"]["a"]["recipe"]["models"]["a"] == {"path": "a.safetensors"}
    assert str(folder) not in json.dumps(shared)


def test_a_recipe_made_elsewhere_names_what_is_listed(session: Session, folder: Path) -> None:
    inner = MergeRecipe(ModelSource("a.safetensors"), ModelSource("b.safetensors"))
    recipe = MergeRecipe(ModelSource("soft.json", recipe=inner), ModelSource("b.safetensors"))
    listed = find_listed(session, recipe)
    assert listed.model_a.recipe is not None
    assert listed.model_a.recipe.model_a == model_source(folder / "a.safetensors")
    assert missing_models(session, listed) == [
        "Model A is a recipe, which is not among the models here: save it as soft.json in their folder, "
        "or merge by --recipe on the command line."
    ]
    write(folder / "soft.json", inner)
    assert missing_models(session, listed) == []
    form = form_from_recipe(listed, session.checkpoints())
    assert form.model_a == "soft.json [recipe]"
    assert session.recipe(form).model_a.recipe is not None
    assert title_of(ModelSource("ab.safetensors", recipe=inner), ()) == "ab.json [recipe]"


@pytest.mark.parametrize(
    "title", ["../out.json [recipe]", "sub/../../out.json [recipe]", "{tmp}/out.json", "no.json [recipe]"]
)
def test_nothing_outside_the_folder_is_read(session: Session, tmp_path: Path, title: str) -> None:
    write(tmp_path / "out.json", MergeRecipe(ModelSource("a.safetensors"), ModelSource("b.safetensors")))
    with pytest.raises(RecipeError, match="No model named"):
        session.find_model(title.format(tmp=tmp_path))


def test_a_recipe_reads_no_models_outside_the_folder(session: Session, folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "secret.safetensors"
    outside.write_bytes((folder / "a.safetensors").read_bytes())
    hidden = write(tmp_path / "hidden.json", MergeRecipe(ModelSource("a.safetensors"), ModelSource("b.safetensors")))
    for name, path in (("one", outside), ("two", hidden), ("three", tmp_path / "gone.json")):
        write(folder / f"{name}.json", MergeRecipe(ModelSource("a.safetensors"), ModelSource(str(path))))
        report = session.previewer.look(MergeForm(model_a=f"{name}.json [recipe]", model_b="b.safetensors")).report
        assert 'class="elemental-report error"' in report
        assert str(tmp_path / path.name) not in report


def test_cycles_in_the_folder_are_refused(session: Session, folder: Path) -> None:
    write(folder / "one.json", MergeRecipe(ModelSource("a.safetensors"), ModelSource("two.json")))
    write(folder / "two.json", MergeRecipe(ModelSource("one.json"), ModelSource("a.safetensors")))
    with pytest.raises(RecipeError, match=r"one\.json -> two\.json -> one\.json"):
        session.find_model("one.json [recipe]")
