"""Further models in recipes, on the command line and in what is said of them; and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file

import elemental
from elemental import LoraSource, MergeMode, MergeRecipe, ModelSource, MoreModel, RecipeError, SpecError
from elemental.cli.argument_parser import parse_command
from elemental.cli.main import DONE, FAILED, WRONG_USAGE, main
from elemental.cli.plan import PLAN
from elemental.cli.recipe_options import make_recipe
from elemental.merge.files.metadata import name_recipe, recipe_to_share
from elemental.recipe.chains import refuse_deep
from elemental.recipe.more_texts import MoreText, format_more, parse_more
from elemental.recipe.ratio_changes import with_more_alpha
from elemental.recipe.recipe import recipe_from_dict
from elemental.runs.axes.base import Setting
from elemental.runs.cells import Cell, order_cells
from elemental.runs.grid_contents import describe_setting
from elemental.runs.simplify import SimplifyOrder, simplify

from .conftest import LAYOUTS, random_state, save
from .fake_host import FakeHost
from .merging import same_bits
from .plotting import REQUEST

A, B, C = (ModelSource(f"{name}.safetensors") for name in "abc")
B2, B3 = MoreModel(ModelSource("d.safetensors"), 0.25), MoreModel(ModelSource("e.safetensors", "ab" * 32, 7), -0.5)


@pytest.fixture
def four(models: dict[str, Path], tmp_path: Path) -> list[str]:
    further = save(tmp_path / "d.safetensors", random_state(LAYOUTS["sd1"], 4))
    return [*(str(models[name]) for name in "abc"), str(further)]


# Recipes


def test_a_recipe_survives_being_written() -> None:
    recipe = MergeRecipe(A, B, more=(B2, B3), rules=elemental.parse_rules("b2 OUT03 OUT04:attn2:0.5,OUT05::1,B3 TE::0"))
    data = json.loads(json.dumps(recipe.to_dict()))
    assert data["more"][0] == {"path": "d.safetensors", "sha256": None, "size": None, "ratio": 0.25}
    assert data["rules"].splitlines()[0] == "B2 OUT03 OUT04:attn2:0.5"
    assert set(data["models"]) == {"a", "b"}
    assert recipe_from_dict(data) == recipe
    assert list(recipe.sources) == ["a", "b", "b2", "b3"]
    assert "more" not in replace(recipe, more=(), rules=elemental.parse_rules("")).to_dict()


def test_a_shared_recipe_has_no_folders() -> None:
    inner = ModelSource("/home/me/inner.json", recipe=MergeRecipe(A, ModelSource("/home/me/b.safetensors")))
    recipe = MergeRecipe(A, B, more=(MoreModel(ModelSource("/home/me/d.safetensors"), 0.25), MoreModel(inner, 0.5)))
    text = recipe_to_share(recipe.to_dict())
    assert "/home" not in text
    assert [model.ratio for model in recipe_from_dict(json.loads(text)).more] == [0.25, 0.5]


def test_a_recipe_within_counts_as_deep() -> None:
    data: dict[str, object] = {"models": {}}
    for _ in range(10):
        data = {"models": {}, "more": [{"path": "x.json", "ratio": 1, "recipe": data}]}
    with pytest.raises(RecipeError, match="More than 8 recipes"):
        refuse_deep(data)


def test_more_alpha_is_of_alpha_alone() -> None:
    recipe = MergeRecipe(A, B, alpha=0.25, more=(B2,), rules=elemental.parse_rules("OUT03::0.5,B2 OUT03::0.5"))
    moved = with_more_alpha(recipe, 0.25)
    assert (moved.alpha, moved.more) == (0.5, recipe.more)
    assert [rule.alpha for rule in moved.rules.rules] == [0.75, 0.5]


def test_another_mode_drops_what_it_cannot_use() -> None:
    recipe = MergeRecipe(A, B, more=(B2,), rules=elemental.parse_rules("OUT03::0.5,B2 OUT03::0.5"))
    plain = recipe.with_mode(MergeMode.SLERP)
    assert (plain.more, len(plain.rules)) == ((), 1)
    assert recipe.with_mode(MergeMode.WEIGHT_SUM) == recipe


def test_a_description_names_further_models() -> None:
    recipe = MergeRecipe(A, B, alpha=0.3, more=(B2, B3))
    assert name_recipe(recipe) == "weight-sum of a, b, d, e; alpha 0.3; B2 0.25; B3 -0.5"
    assert "B2 d.safetensors 0.25   B3 e.safetensors -0.5" in describe_setting(Setting(recipe, REQUEST))


def test_simplify_refuses_them(fake: FakeHost) -> None:
    with pytest.raises(RecipeError, match="so one with further models"):
        simplify(fake, SimplifyOrder(MergeRecipe(A, B, more=(B2,)), (REQUEST,)))


def test_cells_of_other_ratios_are_other_merges() -> None:
    ratios = [0.5, 0.25, 0.5]
    recipes = [MergeRecipe(A, B, more=(replace(B2, ratio=ratio),)) for ratio in ratios]
    ordered = order_cells([Cell(x, 0, recipe, REQUEST) for x, recipe in enumerate(recipes)])
    assert [cell.x for cell in ordered] == [0, 2, 1]


def test_what_a_mode_does_not_take_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"slerp, .*, takes no further models: remove them, or choose weight-sum, "):
        MergeRecipe(A, B, mode=MergeMode.SLERP, more=(B2,))
    with pytest.raises(RecipeError, match="9 further models, and a merge takes up to 8, B2 to B9"):
        MergeRecipe(A, B, more=(B2,) * 9)
    with pytest.raises(RecipeError, match=r"must be a finite number \(of B2\)"):
        MergeRecipe(A, B, more=(replace(B2, ratio=float("nan")),))
    with pytest.raises(RecipeError, match=r"is 1 or 0, not 0.25 \(of B2\)"):
        MergeRecipe(A, B, C, mode=MergeMode.MODEL_STOCK, more=(B2,))
    with pytest.raises(RecipeError, match=r"karcher takes ratios of further models from 0 on, not -0.5 \(of B3\)"):
        MergeRecipe(A, B, C, mode=MergeMode.KARCHER, more=(B2, B3))


@pytest.mark.parametrize(
    ("spec", "mode", "message"),
    [
        ("B3 OUT03::1", MergeMode.WEIGHT_SUM, "the merge has no model B3"),
        ("B2 OUT03::1:1", MergeMode.WEIGHT_SUM, '"B2" has no beta'),
        ("OUT03 B2::1", MergeMode.WEIGHT_SUM, '"B2" stands first in a rule'),
        ("B2 OUT03::0.5", MergeMode.MODEL_STOCK, "is 1 or 0, not 0.5"),
        ("B2 OUT03::-1", MergeMode.GEOMETRIC_MEDIAN, "from 0 on, not -1"),
    ],
)
def test_rules_that_cannot_be_are_refused(spec: str, mode: MergeMode, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        MergeRecipe(
            A,
            B,
            C if mode.uses_c else None,
            mode=mode,
            more=(replace(B2, ratio=1.0),),
            rules=elemental.parse_rules(spec),
        )


def test_a_rule_for_a_model_needs_one() -> None:
    with pytest.raises(SpecError, match="The merge has no further models: add one, or remove the rule"):
        MergeRecipe(A, B, rules=elemental.parse_rules("B2 OUT03::1"), loras=(LoraSource(C),))


# The command line


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("d.safetensors", MoreText("d.safetensors")),
        ("d.safetensors:0.2", MoreText("d.safetensors", 0.2)),
        ("d.json: -.5 ", MoreText("d.json", -0.5)),
        (r"C:\models\d.safetensors", MoreText(r"C:\models\d.safetensors")),
        (r"C:\models\d.safetensors:1", MoreText(r"C:\models\d.safetensors", 1.0)),
        ("/models/12:30 d.ckpt:1e-1", MoreText("/models/12:30 d.ckpt", 0.1)),
    ],
)
def test_a_text_is_a_file_and_the_number_behind_it(text: str, meant: MoreText) -> None:
    assert parse_more(text) == meant
    if meant.ratio is not None:
        assert parse_more(format_more(meant.file, meant.ratio)) == meant


@pytest.mark.parametrize("text", ["d.safetensors:0,8", "d.safetensors:much", "d.ckpt:1:1"])
def test_what_is_no_ratio_is_refused(text: str) -> None:
    with pytest.raises(RecipeError, match=r"is no ratio of the model .*: it is one number"):
        parse_more(text)
    with pytest.raises(RecipeError, match="A further model is written FILE:RATIO"):
        parse_more(" ")


def _recipe(*words: str) -> MergeRecipe:
    return make_recipe(PLAN.read(parse_command(["plan", *words]).args).recipe)[0]


def test_options_replace_the_models_of_a_recipe(four: list[str], tmp_path: Path) -> None:
    a, b, c, d = four
    first = _recipe(a, b, "--more", f"{c}:0.2", "--more", f"{d}:-0.1")
    assert [model.ratio for model in first.more] == [0.2, -0.1]
    file = tmp_path / "recipe.json"
    file.write_text(json.dumps(first.to_dict()), encoding="utf-8")
    assert _recipe("--recipe", str(file)).more == first.more
    assert [model.ratio for model in _recipe("--recipe", str(file), "--more", f"{d}:1").more] == [1]
    assert _recipe("--recipe", str(file), "--more", "none").more == ()
    chained = _recipe(a, b, "--more", f"{file}:0.5")
    assert chained.more[0].file.recipe == first


def test_without_a_ratio_it_is_the_modes(four: list[str]) -> None:
    a, b, c, d = four
    assert _recipe(a, b, c, "--mode", "ties", "--more", d).more[0].ratio == 1
    with pytest.raises(RecipeError, match="weight-sum needs a ratio for B2, its share of the mix"):
        _recipe(a, b, "--more", d)


def test_another_mode_says_what_it_leaves_out(
    four: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b, c, _ = four
    file = tmp_path / "recipe.json"
    rules = "B2 OUT03::1"
    file.write_text(json.dumps(_recipe(a, b, "--more", f"{c}:0.2", "--elemental", rules).to_dict()), encoding="utf-8")
    assert main(["plan", "--recipe", str(file), "--mode", "slerp"]) == DONE
    assert "slerp has no use for the recipe's further models." in capsys.readouterr().err


def test_a_merge_of_four(four: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b, c, d = four
    out, again = tmp_path / "out.safetensors", tmp_path / "again.safetensors"
    words = ["--alpha", "0.25", "--more", f"{c}:0.25", "--more", f"{d}:0.25", "--elemental", "B3 OUT03:attn2:0"]
    assert main(["merge", a, b, *words, "-o", str(out)]) == DONE
    result, states = load_file(out), [load_file(path) for path in four]
    key = "model.diffusion_model.out.2.bias"
    mean = sum(state[key].double() for state in states) / 4
    assert float((result[key].double() - mean).abs().max()) < 1e-4
    assert main(["merge", "--recipe", str(out), "-o", str(again)]) == DONE
    assert again.read_bytes() == out.read_bytes()
    recipe = elemental.read_recipe(out)
    assert all(len(model.file.sha256 or "") == 64 and model.file.size for model in recipe.more)
    elsewhere = tmp_path / "models"
    elsewhere.mkdir()
    Path(d).rename(elsewhere / "renamed.safetensors")
    moved = tmp_path / "moved.safetensors"
    assert main(["merge", "--recipe", str(out), "--models", str(elsewhere), "-o", str(moved)]) == DONE
    assert all(same_bits(tensor, result[name]) for name, tensor in load_file(moved).items())
    capsys.readouterr()


def test_the_plan_shows_them(four: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    a, b, c, d = four
    words = ["plan", a, b, "--more", f"{c}:0.2", "--more", f"{d}:0", "--elemental", "B2 OUT03:attn2.to_k:0.7"]
    assert main(words) == DONE
    printed = capsys.readouterr()
    assert "ratio of B2: 0.2" in printed.out
    assert f"B2: {elemental.model_source(c).path}" in printed.out
    assert "\nB2:\n" in printed.out
    assert "1 rule sets 1 of " in printed.out
    assert "B3: nothing of it is merged, since its ratio is 0." in printed.err
    assert main([*words, "--json"]) == DONE
    tensors = json.loads(capsys.readouterr().out)["tensors"]
    ruled = [tensor for tensor in tensors if "more_rules" in tensor]
    assert [(tensor["more"], tensor["more_rules"]) for tensor in ruled] == [([0.7, 0.0], [0, None])]
    assert {tuple(tensor["more"]) for tensor in tensors} == {(0.2, 0.0), (0.7, 0.0)}


def test_mistakes_are_told(four: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b, c, d = four
    out = str(tmp_path / "out.safetensors")
    assert main(["merge", a, b, "--more", f"{tmp_path / 'none.safetensors'}:1", "-o", out]) == FAILED
    assert "none.safetensors" in capsys.readouterr().err
    assert main(["merge", a, b, "--mode", "slerp", "--more", f"{c}:1", "-o", out]) == WRONG_USAGE
    assert "takes no further models" in capsys.readouterr().err
    assert main(["merge", a, b, "--more", f"{c}:much", "-o", out]) == WRONG_USAGE
    assert '"much" is no ratio' in capsys.readouterr().err
    assert main(["merge", a, b, "--more", f"{d}:1", "-o", d, "--overwrite"]) == FAILED
    assert "is model B2 itself; give the result another name" in capsys.readouterr().err
    key = "model.diffusion_model.output_blocks.3.1.proj_in.weight"
    state = random_state(LAYOUTS["sd1"], 5)
    other = save(tmp_path / "other.safetensors", {**state, key: state[key][:, :4].contiguous()})
    assert main(["merge", a, b, "--more", f"{other}:0.5", "-o", out]) == FAILED
    said = capsys.readouterr().err
    assert "in model B2" in said
    assert '"B2 OUT03::0" after your other rules would leave B2 out there.' in said
    spec = ["--elemental", "B2 OUT03::0"]
    assert main(["merge", a, b, "--more", f"{other}:0.5", *spec, "-o", out]) == DONE
    with pytest.raises(SystemExit, match=str(WRONG_USAGE)):
        main(["generate", a, "--more", f"{c}:1", "-o", out])
    assert "--more: one model alone is not merged" in capsys.readouterr().err
    assert main(["merge", a, b, c, "-o", str(tmp_path / "three.safetensors")]) == WRONG_USAGE
    assert "it takes further models, B2 and so on, where C could be one" in capsys.readouterr().err
