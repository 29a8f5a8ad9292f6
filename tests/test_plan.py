from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from elemental.architectures.blocks import SD1
from elemental.architectures.keys import FIRST_CONV, Component
from elemental.demo.layout import Layout, tensor_shapes
from elemental.errors import MergeError, RecipeError
from elemental.merge.change_counts import Tally, count_changes
from elemental.merge.files.tensor_info import TensorInfo
from elemental.merge.plan import MergePlan, Role
from elemental.merge.plan_summary import describe_changes, draw_elements, draw_map, plan_as_dict
from elemental.merge.planner import plan_tensors
from elemental.modes.catalogue import MergeMode
from elemental.recipe.block_weights import BlockWeights
from elemental.recipe.recipe import MergeRecipe, ModelSource, SaveDtype, VaeChoice
from elemental.recipe.spec_parser import parse_rules

from .conftest import INPAINTING, LAYOUTS

A, B, C, VAE = map(ModelSource, "abcv")
Infos = dict[str, TensorInfo]


def infos(layout: Layout | str, dtype: str = "F16") -> Infos:
    shapes = tensor_shapes(LAYOUTS[layout] if isinstance(layout, str) else layout)
    return {key: TensorInfo("I64" if key.endswith("_ids") else dtype, shape) for key, shape in shapes.items()}


def plan(spec: str = "", models: dict[Role, Infos] | None = None, **parts: Any) -> MergePlan:
    models = models or {Role.A: infos("sd1"), Role.B: infos("sd1")}
    if Role.C in models:
        parts.setdefault("model_c", C)
        parts.setdefault("mode", MergeMode.ADD_DIFFERENCE)
    return plan_tensors(MergeRecipe(A, B, rules=parse_rules(spec), **parts), models)


def warnings(plan: MergePlan) -> list[str]:
    return [warning.message for warning in plan.warnings]


def by_key(plan: MergePlan) -> dict[str, Any]:
    return {tensor.name.key: tensor for tensor in plan.tensors}


UNET = "model.diffusion_model."
TO_K = UNET + "output_blocks.6.1.transformer_blocks.0.attn2.to_k.weight"
TO_Q = UNET + "output_blocks.6.1.transformer_blocks.0.attn2.to_q.weight"
IDS = "cond_stage_model.transformer.text_model.embeddings.position_ids"


def test_rules_lie_over_block_weights_over_alpha() -> None:
    weights = BlockWeights(tuple(index / 100 for index in range(25)))
    tensors = by_key(plan("OUT06:attn:0.5,OUT06:attn2.to_k:0.2", alpha=0.9, block_alpha=weights))
    assert (tensors[TO_K].alpha, tensors[TO_K].rule, tensors[TO_K].base_alpha) == (0.2, 1, 0.19)
    assert (tensors[TO_Q].alpha, tensors[TO_Q].rule) == (0.5, 0)
    assert (tensors[UNET + "middle_block.0.in_layers.0.bias"].alpha, tensors[FIRST_CONV].alpha) == (0.12, 0)
    assert tensors["first_stage_model.quant_conv.bias"].alpha == 0.9


def test_the_plan_is_in_as_order_and_of_its_format() -> None:
    models = {Role.A: infos("sd1"), Role.B: dict(reversed(infos("sd1", "F32").items()))}
    assert [tensor.name.key for tensor in plan(models=models).tensors] == list(models[Role.A])
    assert by_key(plan(models=models))[TO_K].info.dtype == "F16"
    saved = by_key(plan(models=models, dtype=SaveDtype.BF16))
    assert (saved[TO_K].info.dtype, saved[IDS].info.dtype) == ("BF16", "I64")


@pytest.mark.parametrize(
    ("mode", "alpha", "beta", "inputs"),
    [
        (MergeMode.WEIGHT_SUM, 0, None, (Role.A,)),
        (MergeMode.WEIGHT_SUM, 1, None, (Role.B,)),
        (MergeMode.WEIGHT_SUM, 0.5, None, (Role.A, Role.B)),
        (MergeMode.ADD_DIFFERENCE, 0, None, (Role.A,)),
        (MergeMode.ADD_DIFFERENCE, 1, None, (Role.A, Role.B, Role.C)),
        (MergeMode.TRIPLE_SUM, 0, 0, (Role.A,)),
        (MergeMode.TRIPLE_SUM, 1, 0, (Role.B,)),
        (MergeMode.TRIPLE_SUM, 0, 1, (Role.C,)),
        (MergeMode.SUM_TWICE, 0.3, 1, (Role.C,)),
        (MergeMode.SUM_TWICE, 1, 0, (Role.B,)),
        (MergeMode.SUM_TWICE, 1, 0.5, (Role.A, Role.B, Role.C)),
    ],
)
def test_whole_models_are_copied(mode: MergeMode, alpha: float, beta: float | None, inputs: tuple[Role, ...]) -> None:
    models = {role: infos("sd1") for role in ((Role.A, Role.B, Role.C) if mode.uses_c else (Role.A, Role.B))}
    assert by_key(plan(models=models, mode=mode, alpha=alpha, beta=beta))[TO_K].inputs == inputs


def test_beta_of_a_rule_outlives_later_rules_without_one() -> None:
    models = {role: infos("sd1") for role in (Role.A, Role.B, Role.C)}
    made = plan("OUT06::0.5:0.3,OUT06:attn2.to_k:0.2", models, mode=MergeMode.SUM_TWICE, beta=0.1)
    tensors = by_key(made)
    assert (tensors[TO_K].alpha, tensors[TO_K].beta, tensors[TO_K].rule) == (0.2, 0.3, 1)
    assert (tensors[FIRST_CONV].alpha, tensors[FIRST_CONV].beta) == (0.5, 0.1)
    assert not warnings(made)


def test_what_is_not_in_every_model_stays() -> None:
    models = {Role.A: infos("sd1"), Role.B: infos("sd1")}
    del models[Role.B][TO_K]
    models[Role.B]["extra.weight"] = TensorInfo("F16", (3,))
    made = plan(models=models)
    tensors = by_key(made)
    assert (tensors[TO_K].inputs, tensors[TO_K].note) == ((Role.A,), "not in B, kept from A")
    assert (tensors[IDS].inputs, tensors[IDS].note) == ((Role.A,), "an index, kept from A")
    assert made.left_out == {Role.B: ("extra.weight",)}
    assert "extra.weight" not in tensors


def test_position_ids_stay_also_as_floats() -> None:
    damaged = {**infos("sd1"), IDS: TensorInfo("F32", (1, 77))}
    assert by_key(plan(models={Role.A: damaged, Role.B: damaged}))[IDS].inputs == (Role.A,)


def test_inpainting_takes_a_normal_model_as_b_only() -> None:
    for layout in ("sd1", "sd2", "sdxl"):
        wide, normal = infos(INPAINTING[layout]), infos(layout)
        assert by_key(plan(models={Role.A: wide, Role.B: normal}))[FIRST_CONV].info.shape[1] == 9
        plan(models={Role.A: wide, Role.B: wide, Role.C: normal})
        with pytest.raises(MergeError, match="must be model A"):
            plan(models={Role.A: normal, Role.B: wide})


def test_an_inpainting_model_is_never_replaced_by_a_narrower_one() -> None:
    models = {Role.A: infos(INPAINTING["sd1"]), Role.B: infos("sd1")}
    tensors = by_key(plan(models=models, alpha=1))
    assert (tensors[FIRST_CONV].inputs, tensors[TO_K].inputs) == ((Role.A, Role.B), (Role.B,))


def test_the_hint_of_inpainting_is_given_for_it_alone() -> None:
    odd = {**infos("sd1"), FIRST_CONV: TensorInfo("F16", (9, 4, 3, 3))}
    with pytest.raises(MergeError) as caught:
        plan(models={Role.A: infos("sd1"), Role.B: odd})
    assert "inpainting" not in str(caught.value)


def test_a_tensor_of_another_kind_stays() -> None:
    models = {Role.A: infos("sd1"), Role.B: {**infos("sd1"), TO_K: TensorInfo("I64", (16, 8))}}
    assert by_key(plan(models=models))[TO_K].note == "not a float tensor in B, kept from A"


def test_other_shapes_and_architectures_are_refused() -> None:
    odd = {**infos("sd1"), TO_K: TensorInfo("F16", (8, 9))}
    with pytest.raises(MergeError, match=r"attn2\.to_k\.weight is \[16, 8\] in the result, \[8, 9\] in model B"):
        plan(models={Role.A: infos("sd1"), Role.B: odd})
    with pytest.raises(MergeError, match=r"A is SD 1\.x, B is SDXL"):
        plan(models={Role.A: infos("sd1"), Role.B: infos("sdxl")})
    with pytest.raises(RecipeError, match=r"19 numbers besides BASE, for SDXL, but these checkpoints are SD 1\.x"):
        plan(block_alpha=BlockWeights((0.1,) * 19))


def test_the_vae_can_be_taken_whole() -> None:
    key = "first_stage_model.quant_conv.weight"
    assert by_key(plan(vae=VaeChoice.A))[key].inputs == (Role.A,)
    made = plan("VAE:quant:1,TE::0.1", vae=VaeChoice.B, alpha=0.2)
    assert by_key(made)[key].inputs == (Role.B,)
    assert warnings(made) == ['Rule 1 "VAE:quant:1" sets elements of the VAE, which is not merged (vae: b).']
    own = {name: info for name, info in infos("sd1", "F32").items() if name.startswith("first_stage_model.")}
    models = {Role.A: infos("sd1"), Role.B: infos("sd1"), Role.VAE: own}
    taken = by_key(plan(models=models, vae=VaeChoice.FILE, vae_file=VAE))[key]
    assert (taken.inputs, taken.info.dtype) == ((Role.VAE,), "F16")
    pruned = {name: info for name, info in infos("sd1").items() if name not in own}
    added = by_key(plan(models={**models, Role.A: pruned}, vae=VaeChoice.FILE, vae_file=VAE))[key]
    assert (added.inputs, added.info.dtype) == ((Role.VAE,), "F32")
    with pytest.raises(MergeError, match="has no VAE"):
        plan(models={Role.A: infos("sd1"), Role.B: pruned}, vae=VaeChoice.B)


@pytest.mark.parametrize(
    ("layout", "spec", "words"),
    [
        ("sd1", "OUT05:atn2:0.5", 'matches no tensor: "atn2" is not in this SD 1.x checkpoint; did you mean "attn2"?'),
        ("sdxl", "IN09::1", '"IN09" is not in this SDXL checkpoint; SDXL has BASE, IN00-IN08, M00, OUT00-OUT08.'),
        ("sd1", "IN03:attn2:1", '"attn2" is in IN01, IN02, IN04, IN05, IN07 and 11 more blocks'),
        ("sd1", "OUT05:attn2 atn1:1", '"atn1" matches nothing here; did you mean "attn1"?'),
        ("sdxl", "IN08 IN09::1", '"IN09" matches nothing here'),
        ("sd1", "OUT05:attn2.to_kk:1", 'did you mean "attn2.to_k"?'),
        ("sd1", ":first_stage_model.quant_cnv:1", 'did you mean "first_stage_model.quant_conv"?'),
        ("sdxl", "IN05-IN11::1", '"IN05-IN11" goes beyond SDXL, which has BASE, IN00-IN08, M00, OUT00-OUT08.'),
        ("sd1", "OUT05:attn2:1,OUT05::0.2", 'Rule 1 "OUT05:attn2:1", line 1: later rules override all of it.'),
        ("sd1", "OUT05:attn2:2.5", "the ratio 2.5 is outside -1 to 2."),
    ],
)
def test_warnings_name_what_was_probably_meant(layout: str, spec: str, words: str) -> None:
    (message,) = warnings(plan(spec, {Role.A: infos(layout), Role.B: infos(layout)}))
    assert words in message


def test_ratios_and_results_are_remarked_on() -> None:
    assert warnings(plan(alpha=0)) == ["Nothing would change: the result is model A."]
    assert warnings(plan(alpha=3)) == ["alpha: 3 is outside -1 to 2."]
    weights = BlockWeights((0.5,) * 24 + (-2.0,))
    assert warnings(plan(block_alpha=weights)) == ["block weights of alpha: -2 is outside -1 to 2."]
    same = replace(MergeRecipe(A, B), model_b=A)
    models = {Role.A: infos("sd1"), Role.B: infos("sd1")}
    assert [w.message for w in plan_tensors(same, models).warnings] == ["The same file is given for two of the models."]
    marked = {**infos("sd1"), "v_pred": TensorInfo("F16", (0,))}
    assert warnings(plan(models={Role.A: infos("sd1"), Role.B: marked})) == [
        'B is marked as v-prediction ("v_pred") and A is not.'
    ]
    assert "v_pred" in by_key(plan(models={Role.A: marked, Role.B: infos("sd1")}))


def test_the_plan_as_data_names_every_tensor() -> None:
    data = plan_as_dict(plan("OUT06:attn2.to_k:0.2"))
    entry = next(tensor for tensor in data["tensors"] if tensor["key"] == TO_K)
    assert entry == {
        "key": TO_K,
        "block": "OUT06",
        "element": "1.transformer_blocks.0.attn2.to_k.weight",
        "alpha": 0.2,
        "beta": None,
        "rule": 0,
        "beta_rule": None,
        "inputs": ["a", "b"],
        "note": "",
    }
    assert (data["architecture"], data["warnings"], len(data["tensors"])) == ("SD 1.x", [], 1131)


def test_the_map_shows_each_ratio_in_its_place() -> None:
    lines = list(draw_map(plan("OUT05:attn2:1,IN01:attn2.to_k:-0.5,M00:attn2:0.25", alpha=0)))
    heads = ["".join(column) for column in zip(*(line.ljust(90) for line in lines[:5]), strict=True)]
    columns = {block: index for index, block in enumerate(map(str.strip, heads)) if block}
    assert list(columns) == [block.replace("M00", "M00") for block in SD1.unet_blocks]
    row = next(line for line in lines if line.startswith("1.transformer_blocks.*.attn2.to_k"))
    shown = {block: row.ljust(90)[column] for block, column in columns.items()}
    assert (shown["OUT05"], shown["IN01"], shown["M00"], shown["IN02"], shown["IN00"]) == ("#", "-", "3", "0", " ")


def test_the_map_shows_what_stays_and_beta() -> None:
    models = {role: infos("sd1") for role in (Role.A, Role.B, Role.C)}
    del models[Role.B][TO_K]
    made = plan("OUT06::0:1", models, mode=MergeMode.SUM_TWICE, alpha=0.5, beta=0)
    rows = [line for line in draw_map(made) if line.startswith("1.transformer_blocks.*.attn2.to_")]
    to_k, _, to_q, _ = (row.split()[1:] for row in rows[:4])
    assert (to_k[10], to_q[10]) == ("=", "0")
    assert rows[6].split()[1:][10] == "#"


def test_the_element_table_comes_from_the_keys() -> None:
    rows = {line.split()[0]: line for line in draw_elements(infos("sd1"), SD1) if line}
    assert rows["0.skip_connection"].count(" x") == 14
    assert "x" not in rows["0.skip_connection"].split("0.skip_connection")[1][:8]


def test_changes_name_both_rules_and_what_stays() -> None:
    models = {role: infos("sd1") for role in (Role.A, Role.B, Role.C)}
    del models[Role.C][TO_Q]
    spec = "OUT06:attn2.to_k attn2.to_q:0.5:0.3,OUT06:attn2.to_k:0.2"
    lines = list(describe_changes(plan(spec, models, mode=MergeMode.SUM_TWICE, alpha=0.5, beta=0.1)))
    assert "0.5:0.1 -> 0.2:0.3  rule 1: OUT06:attn2.to_k attn2.to_q:0.5:0.3; rule 2: OUT06:attn2.to_k:0.2" in lines[1]
    assert lines[0].endswith("(not in C, kept from A)")


def test_changes_are_listed_one_a_tensor() -> None:
    *lines, summary = describe_changes(plan("OUT06:attn2.to_k:0.2,OUT06:attn2.to_q:0.5", alpha=0.5))
    assert lines == [
        "OUT06 1.transformer_blocks.0.attn2.to_q.weight 0.5 -> 0.5  rule 2: OUT06:attn2.to_q:0.5",
        "OUT06 1.transformer_blocks.0.attn2.to_k.weight 0.5 -> 0.2  rule 1: OUT06:attn2.to_k:0.2",
    ]
    assert summary == "2 rules set 2 of 686 U-Net elements; 1 to another ratio than before."


def test_counts_tell_the_unet_from_the_rest() -> None:
    counts = count_changes(plan("OUT06:attn2.to_k:0.2,VAE::0,TE:position_ids:1", alpha=0.0))
    assert (counts.unet, counts.all_tensors) == (Tally(686, 1, 1, 1), Tally(1131, 250, 2, 1))
    assert counts.rules_set == "3 rules set 1 of 686 U-Net elements, and 249 of 445 tensors outside the U-Net"
    assert counts.by_component[Component.VAE] == Tally(248, 248, 0, 0)


def test_counts_name_no_total_that_no_rule_reaches() -> None:
    assert count_changes(plan("OUT06:attn2.to_k:0.2")).rules_set == "1 rule sets 1 of 686 U-Net elements"
