"""Merges with rules for the ratio of a LoRA: the plan, the file, the live model, plots, and the command line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from elemental import (
    LoraSource,
    MergeRecipe,
    SpecError,
    live_merge,
    make_images,
    merge_to_file,
    model_source,
    parse_rules,
    plan_merge,
    read_recipe,
)
from elemental.architectures.tensor_sets import members
from elemental.cli.argument_parser import parse_command
from elemental.cli.main import DONE, WRONG_USAGE, main
from elemental.cli.plan import PLAN
from elemental.cli.recipe_options import find_recipe, make_recipe
from elemental.images.files import read_image
from elemental.merge.change_counts import count_changes
from elemental.merge.files.open_models import OpenModels
from elemental.merge.plan_summary import describe_changes, plan_as_dict
from elemental.recipe.ratio_changes import on_the_way, with_more_alpha
from elemental.recipe.recipe import ModelSource
from elemental.recipe.rules import format_rules
from elemental.runs.axes.base import Setting
from elemental.runs.estimate import estimate_plot
from elemental.runs.simplify import without_ratios
from elemental.runs.xy_plot import plot_from_dict

from .conftest import save
from .fake_host import FakeHost
from .lora_files import lora, with_name
from .merging import same_bits
from .plotting import plot, run
from .reference import slow_ratio, ulps
from .test_axes import CONTEXT
from .test_live import assert_is_file, fake_model
from .test_lora import CLIP, CONV, TO_Q, some, style

PROJ = "model.diffusion_model.middle_block.1.proj_in.weight"
SPEC = """\
OUT09::0.9, lora.style OUT05 OUT09::0.5
lora.style TE::0.2, lora.STYLE :attn1:-0.5
:attn1:0.1
lora.other :proj_in:2
lora.style IN06::0"""


class Pair:
    """Two small checkpoints and two LoRAs, and what these add by key, float64."""

    def __init__(self, folder: Path) -> None:
        self.a, self.b = (save(folder / f"{seed}.safetensors", some("sd1", seed, torch.float16)) for seed in (1, 2))
        tensors, self.style_adds = style(self.a)
        made = lora(tuple(load_file(self.a)[PROJ].shape))
        self.other_adds = {PROJ: made[1]}
        self.style = save(folder / "Style.safetensors", tensors)
        self.other = save(folder / "other.safetensors", with_name("lora_unet_mid_block_attentions_0_proj_in", made))

    def recipe(self, spec: str = SPEC) -> MergeRecipe:
        loras = (LoraSource(model_source(self.style), 0.8, 0.3), LoraSource(model_source(self.other), 0.5))
        a, b = model_source(self.a), model_source(self.b)
        return MergeRecipe(a, b, alpha=0.4, rules=parse_rules(spec), loras=loras)

    def ratios(self, key: str, spec: str = SPEC) -> tuple[float, float, float]:
        """Give alpha and the ratios of both LoRAs for a tensor by a second opinion."""
        alpha = slow_ratio(spec, key, 12)
        te = key.startswith("cond_stage_model.")
        in_style = slow_ratio(spec, key, 12, target="lora.style")
        in_other = slow_ratio(spec, key, 12, target="lora.other")
        return (
            0.4 if alpha is None else alpha,
            (0.3 if te else 0.8) if in_style is None else in_style,
            0.5 if in_other is None else in_other,
        )

    def sum(self, key: str, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Tensor:
        alpha, in_style, in_other = self.ratios(key)
        whole = (1 - alpha) * a[key].double() + alpha * b[key].double()
        for ratio, adds in ((in_style, self.style_adds), (in_other, self.other_adds)):
            whole = whole + ratio * adds[key] if key in adds else whole
        return whole


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(tmp_path_factory.mktemp("pair"))


def test_the_plan_has_the_ratio_of_each_tensor(pair: Pair) -> None:
    recipe = pair.recipe()
    plan = plan_merge(recipe)
    targets = [rule.target for rule in recipe.rules.rules]
    for tensor in plan.tensors:
        key = tensor.name.key
        alpha, *ratios = pair.ratios(key)
        adds = (pair.style_adds, pair.other_adds)
        assert tensor.alpha == alpha, key
        assert dict(tensor.loras) == {n: r for n, r in enumerate(ratios) if r and key in adds[n]}, key
        assert tensor.rule is None or not targets[tensor.rule]
        assert all(targets[rule] for rule in tensor.lora_rules)
    assert any(ratio < 0 for tensor in plan.tensors for _, ratio in tensor.loras)
    with OpenModels() as models:
        sets = models.planner(recipe).lora_uses(recipe)
    found = {index: uses for uses, tensors in sets.items() for index in members(tensors)}
    assert found == {index: tensor.loras for index, tensor in enumerate(plan.tensors)}


def test_the_file_is_the_sum_of_these_ratios_rounded_once(pair: Pair, tmp_path: Path) -> None:
    a, b = load_file(pair.a), load_file(pair.b)
    after = load_file(merge_to_file(pair.recipe(), tmp_path / "out.safetensors").path)
    for key in {*pair.style_adds, *pair.other_adds}:
        assert ulps(after[key], pair.sum(key, a, b), lost=1e-14) <= 0.51, key
    plain = replace(pair.recipe("OUT09::0.9, :attn1:0.1"), loras=())
    for key, tensor in load_file(merge_to_file(plain, tmp_path / "plain.safetensors").path).items():
        if key not in {*pair.style_adds, *pair.other_adds}:
            assert same_bits(after[key], tensor), key


def test_the_live_merge_writes_only_what_a_rule_moves(pair: Pair, tmp_path: Path) -> None:
    in_text = {key for key in pair.style_adds if key.startswith("cond_stage_model.")}
    of_out09 = {key for key in pair.style_adds if ".output_blocks.9." in key}
    steps = [
        ("::0.4", None),
        ("::0.4, lora.style OUT09::0.5", of_out09),
        ("::0.4, lora.style OUT09::0.5, lora.style TE::0.1", in_text),
        ("lora.style TE::0.1, ::0.4, lora.style OUT09:conv in_layers:0.5", set()),
        ("lora.style::0, ::0.4", set(pair.style_adds)),
        ("lora.style::0, ::0.4, lora.other M00::-1", {PROJ}),
        (SPEC, None),
    ]
    model = fake_model(pair.a)
    before = model.digest()
    with live_merge(model) as merge:
        for index, (spec, moved) in enumerate(steps):
            recipe = pair.recipe(spec)
            written = {tensor.name.key for tensor in merge.apply(recipe).plan.tensors}
            assert moved is None or written == moved, spec
            assert_is_file(model, merge_to_file(recipe, tmp_path / f"{index}.safetensors", with_hashes=False).path)
            assert merge.is_intact()
    assert model.digest() == before


def test_the_header_repeats_the_merge(pair: Pair, tmp_path: Path) -> None:
    first = merge_to_file(pair.recipe(), tmp_path / "out.safetensors").path
    again = read_recipe(first)
    assert format_rules(again.rules) == format_rules(pair.recipe().rules)
    for name in ("1.safetensors", "2.safetensors", "Style.safetensors", "other.safetensors"):
        (tmp_path / name).write_bytes((pair.a.parent / name).read_bytes())
    assert main(["merge", "--recipe", str(first), "-o", str(tmp_path / "again.safetensors")]) == DONE
    assert (tmp_path / "again.safetensors").read_bytes() == first.read_bytes()


def test_a_recipe_with_them_stands_in_the_place_of_a_model(pair: Pair, tmp_path: Path) -> None:
    file = tmp_path / "inner.json"
    file.write_text(json.dumps(pair.recipe().to_dict()), encoding="utf-8")
    inner = read_recipe(file)
    outer = MergeRecipe(ModelSource(str(file), recipe=inner), model_source(pair.b), alpha=0.0)
    one = load_file(merge_to_file(outer, tmp_path / "one.safetensors", with_hashes=False).path)
    other = load_file(merge_to_file(inner, tmp_path / "other.safetensors", with_hashes=False).path)
    assert all(same_bits(one[key], other[key]) for key in {*pair.style_adds, *pair.other_adds})


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("lora.style IN02::1", 'Rule 1 "lora.style IN02::1", line 1: the LoRA Style.safetensors changes none of these'),
        ("lora.style :atn2:1", "matches no tensor"),
        ("lora.style TE::1, lora.style BASE::2", "later rules override all of it"),
        ("lora.other M00::1, lora.other M00:proj_in:2", "override it wherever the LoRA other.safetensors changes"),
        ("lora.style TE::-3", "the ratio -3 is outside -1 to 2"),
        ("lora.other M00::0", "LoRA other.safetensors: nothing of it is added: rules set its ratio to 0."),
    ],
)
def test_what_was_probably_not_meant(pair: Pair, spec: str, words: str) -> None:
    (warning,) = [each.message for each in plan_merge(pair.recipe(spec)).warnings]
    assert words in warning


@pytest.mark.parametrize("spec", [SPEC, "lora.style TE::1, TE::0.2, lora.other M00::2, M00::1", "lora.style IN01::1"])
def test_rules_of_others_override_nothing(pair: Pair, spec: str) -> None:
    assert not plan_merge(pair.recipe(spec)).warnings


def test_what_rules_set_is_listed_and_counted(pair: Pair) -> None:
    plan = plan_merge(pair.recipe("lora.style OUT09::0.5, OUT09:in_layers.2.weight:0.9, lora.style TE:q_proj:1"))
    *lines, summary = describe_changes(plan)
    shown = [" ".join(line.split()) for line in lines]
    assert "OUT09 0.in_layers.2.weight 0.4 -> 0.9 rule 2: OUT09:in_layers.2.weight:0.9" in shown
    assert "OUT09 0.in_layers.2.weight lora.style 0.8 -> 0.5 rule 1: lora.style OUT09::0.5" in shown
    assert f"BASE {CLIP} lora.style 0.3 -> 1 rule 3: lora.style TE:q_proj:1" in shown
    counts = count_changes(plan)
    assert counts.rules == 1
    assert counts.lora_rules_set == f"2 rules set the ratios of LoRAs in {len(lines) - 1} tensors"
    assert summary.endswith(f"1 to another ratio than before; {counts.lora_rules_set}.")
    data = {tensor["key"]: tensor for tensor in plan_as_dict(plan)["tensors"]}
    assert (data[CONV]["rule"], data[CONV]["lora_rules"], data[CONV]["loras"]) == (1, [0], [[0, 0.5]])
    assert "lora_rules" not in data[TO_Q]
    (alone,) = list(describe_changes(plan_merge(pair.recipe("lora.other M00::1"))))[1:]
    assert alone == "1 rule sets the ratios of LoRAs in 1 tensor."


def test_other_ratios_of_the_mode_leave_them_alone(pair: Pair) -> None:
    recipe = pair.recipe("lora.style::0.6, OUT03::0.2")
    assert format_rules(with_more_alpha(recipe, 0.5).rules) == "lora.style::0.6\nOUT03::0.7"
    assert format_rules(on_the_way(recipe, 0.5).rules) == "lora.style::0.6\nOUT03::0.1"
    assert format_rules(without_ratios(recipe).rules) == "lora.style::0.6"


@pytest.fixture
def styled(base: Setting, tmp_path: Path) -> Setting:
    made = with_name("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q", lora((8, 8)))
    file = save(tmp_path / "my style.safetensors", made)
    return replace(base, recipe=replace(base.recipe, loras=(LoraSource(model_source(file), 0.8),)))


def test_an_axis_of_specs_sets_them(fake: FakeHost, styled: Setting, tmp_path: Path) -> None:
    specs = "lora.My_Style IN01::0\n\nlora.my_style IN01::-2, OUT03::0.1\n\nlora.my_style OUT09::1"
    made = plot(fake, styled, ("elemental", specs))
    assert [value.text for value in made.x.values] == [
        "lora.my_style IN01::0", "lora.my_style IN01::-2\nOUT03::0.1", "lora.my_style OUT09::1",
    ]  # fmt: skip
    assert plot_from_dict(json.loads(json.dumps(made.to_dict())), CONTEXT) == made
    assert any("my style.safetensors changes none of these" in text for text in estimate_plot(made).warnings)
    folder = tmp_path / "run"
    run(fake, made, folder)
    images = [read_image(folder / "cells" / f"x0{x}-y00.png").tobytes() for x in range(3)]
    assert len(set(images)) == 3
    for number, (cell, image) in enumerate(zip(made.cells(), images, strict=True)):
        out = tmp_path / f"{number}.safetensors"
        merge_to_file(cell.recipe, out, with_hashes=False)
        (wanted,) = make_images(fake, styled.request, model_source(out))
        assert image == wanted.image.tobytes()


def test_a_lora_that_the_merge_has_not_is_told_of_the_axis(fake: FakeHost, styled: Setting) -> None:
    with pytest.raises(SpecError, match=r'(.*\n)*.*no LoRA "mystyle"; did you mean "my_style"'):
        estimate_plot(plot(fake, styled, ("add-elemental", "lora.mystyle IN01::0")))


def _recipe(*words: str) -> tuple[MergeRecipe, list[str]]:
    return make_recipe(PLAN.read(parse_command(["plan", *words]).args).recipe)


def test_other_loras_leave_out_the_rules_of_a_recipe(pair: Pair, tmp_path: Path) -> None:
    file = tmp_path / "recipe.json"
    file.write_text(json.dumps(pair.recipe("lora.style TE::1, ::0.2, lora.other::1").to_dict()), encoding="utf-8")
    kept, remarks = _recipe("--recipe", str(file), "--lora", f"{pair.other}:0.1")
    assert (format_rules(kept.rules), len(kept.loras)) == ("::0.2\nlora.other::1", 1)
    assert remarks == ["The recipe's rules for lora.style are left out, since --lora takes the place of its LoRAs."]
    none, remarks = _recipe("--recipe", str(file), "--lora", "none")
    assert (format_rules(none.rules), none.loras) == ("::0.2", ())
    assert "lora.style, lora.other are left out" in remarks[0]
    with pytest.raises(SpecError, match='no LoRA "style"'):
        _recipe("--recipe", str(file), "--lora", f"{pair.other}:0.1", "--elemental", "lora.style::1")


def test_a_renamed_file_keeps_its_rules(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    pair = Pair(folder)
    first = merge_to_file(pair.recipe(), tmp_path / "out.safetensors").path
    pair.style.rename(folder / "New name.safetensors")
    pair.other.rename(folder / "style.safetensors")
    again = tmp_path / "again.safetensors"
    words = ["--recipe", str(first), "--models", str(folder)]
    assert main(["merge", *words, "-o", str(again)]) == DONE
    found, _ = find_recipe(PLAN.read(parse_command(["plan", *words]).args).recipe)
    assert [lora.file.name for lora in found.loras] == ["New name.safetensors", "style.safetensors"]
    targets = [rule.target for rule in found.rules.of_targets]
    assert targets == ["lora.new_name", "lora.new_name", "lora.new_name", "lora.style", "lora.new_name"]
    third = merge_to_file(found, tmp_path / "third.safetensors").path
    one, *others = (load_file(path) for path in (first, again, third))
    assert all(same_bits(one[key], other[key]) for key in one for other in others)


def test_the_command_line(pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(pair.a), "--lora", f"{pair.style}:0.8", "--elemental"]
    out = str(tmp_path / "out.safetensors")
    assert main(["merge", *words, "lora.style OUT09::0.5", "-o", out, "--print-change"]) == DONE
    printed = capsys.readouterr()
    assert "warning" not in printed.err
    assert "1 rule sets the ratios of LoRAs in 1 tensor" in printed.out
    assert "lora.style 0.8 -> 0.5" in printed.out + printed.err
    before, after = load_file(pair.a), load_file(out)
    assert ulps(after[CONV], before[CONV].double() + 0.5 * pair.style_adds[CONV], lost=1e-14) <= 0.51
    assert main(["plan", *words, "OUT09::1, lora.stile OUT09::0.5"]) == WRONG_USAGE
    error = capsys.readouterr().err
    assert 'line 1, column 11: the merge has no LoRA "stile"; did you mean "style"?' in error
    assert "              ^^^^^^^^^^\n" in error
    assert main(["plan", *words, "lora.style OUT09::0.5:0.1"]) == WRONG_USAGE
    assert '"lora.style" has no beta' in capsys.readouterr().err
