"""Rankings, maps and files of an estimate whose samples are made up."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import elemental.demo
from elemental import MergeMode, MergeRecipe, model_source, plan_merge
from elemental.architectures.detection import detect_architecture
from elemental.architectures.keys import KeyName, name_key
from elemental.demo.layout import DEMO_LAYOUT, tensor_shapes
from elemental.effects.samples import DECODING, IMAGE, Pass, Samples
from elemental.images.files import read_image, read_texts
from elemental.images.image_request import ImageRequest
from elemental.recipe.spec_parser import parse_rules
from elemental.runs.effect_confirmation import with_more_of
from elemental.runs.effect_estimate import EffectOrder, Effects, Method, count_passes
from elemental.runs.effect_ranking import EffectRanking, map_effects, rank_effects
from elemental.runs.effect_results import describe_estimate, effects_to_dict, title_of, write_effects
from elemental.workflows import read_recipe

SHAPES = tensor_shapes(DEMO_LAYOUT)
ARCHITECTURE = detect_architecture(SHAPES, name="demo")
NAMES = [name_key(key, ARCHITECTURE) for key in SHAPES]
MEAN = math.sqrt(2 / math.pi) / (math.sqrt(math.pi) / 2)
"""Of an absolute value, by that of the root of the mean of two squares."""
PREFIX = "model.diffusion_model.output_blocks.5.1.transformer_blocks.0.attn2."
QUERY, OUT, BIAS = (f"{PREFIX}{part}" for part in ("to_q.weight", "to_out.0.weight", "to_out.0.bias"))
TEXT = next(name.key for name in NAMES if name.key.startswith("cond_stage_model."))
KEYS = (QUERY, OUT, BIAS, TEXT)
SAMPLES = Samples(
    KEYS,
    (Pass(0, 0, IMAGE), Pass(0, 1, IMAGE)),
    torch.tensor([[3.0, 1.0, 2.0, 0.5], [-4.0, 1.0, -1.0, 0.5]]),
    {},
)


def rms(*numbers: float) -> float:
    return MEAN * math.sqrt(sum(number**2 for number in numbers) / len(numbers))


def about(*numbers: float) -> Any:
    """What compares as equal with these numbers; checkers of types know better."""
    return pytest.approx(numbers[0] if len(numbers) == 1 else list(numbers), rel=1e-5)


@pytest.fixture
def ranking() -> EffectRanking:
    return rank_effects(SAMPLES, NAMES)


def test_tensors_groups_and_blocks_have_the_largest_first(ranking: EffectRanking) -> None:
    assert [effect.name for effect in ranking.tensors] == [QUERY, BIAS, OUT, TEXT]
    assert [effect.effect for effect in ranking.tensors] == pytest.approx([rms(3, 4), rms(2, 1), rms(1, 1), rms(0.5)])
    groups = [(effect.block, effect.element, effect.effect) for effect in ranking.groups]
    assert groups == [
        ("OUT05", "attn2.to_q", about(rms(3, -4))),
        ("OUT05", "attn2.to_out.0", about(rms(3, 0))),  # weight and bias move together
        ("TE", "", about(rms(0.5))),
    ]
    assert [(effect.block, effect.effect) for effect in ranking.blocks] == [
        ("OUT05", about(rms(6, -4))),
        ("BASE", about(rms(0.5))),
    ]
    assert ranking.whole == about(rms(6.5, -3.5))
    assert ranking.groups[0].share == pytest.approx(rms(3, -4) / ranking.whole)


def test_what_the_first_make_together(ranking: EffectRanking) -> None:
    together = ranking.shares_together(ranking.groups)
    assert together == pytest.approx([rms(3, -4) / ranking.whole, rms(6, -4) / ranking.whole, 1.0])


def test_a_rule_names_exactly_what_an_effect_is_of(ranking: EffectRanking) -> None:
    for effect in (*ranking.tensors, *ranking.groups, *ranking.blocks):
        (rule,) = parse_rules(f"{effect.block}:{effect.element}:1").rules
        matched = {name.key for name in NAMES if rule.matches(name)}
        assert matched == set(effect.keys)


def test_confirmed_tensors_come_first_by_their_true_figures(ranking: EffectRanking) -> None:
    assert (ranking.is_confirmed, ranking.shown) == (False, ranking.groups)
    confirmed = ranking.with_confirmed({TEXT: 0.25, OUT: 7.0, BIAS: 0.0})
    assert [(effect.name, effect.confirmed) for effect in confirmed.tensors] == [
        (OUT, 7.0),
        (TEXT, 0.25),
        (BIAS, 0.0),
        (QUERY, None),
    ]
    assert confirmed.shown == confirmed.tensors
    assert confirmed.groups == ranking.groups


@pytest.mark.parametrize("mode", [MergeMode.WEIGHT_SUM, MergeMode.SUM_TWICE])
def test_one_tensor_moves_by_one_and_nothing_else(mode: MergeMode) -> None:
    a, b = (model_source(Path(elemental.demo.__file__).parent / f"{name}.safetensors") for name in "ab")
    more: dict[str, Any] = {"model_c": a, "beta": 0.25} if mode.uses_c else {}
    rules = parse_rules("OUT05:attn2:0.75, BASE:NOT token_embedding:0.125")
    recipe = MergeRecipe(a, b, mode=mode, alpha=0.5, rules=rules, **more)
    before = plan_merge(recipe).tensors
    for tensor in [tensor for tensor in before if not tensor.note][::150]:
        after = plan_merge(with_more_of(recipe, tensor)).tensors
        moved = {
            one.name.key: (other.alpha - one.alpha, other.beta)
            for one, other in zip(before, after, strict=True)
            if (one.alpha, one.beta) != (other.alpha, other.beta)
        }
        assert moved == {tensor.name.key: (1.0, tensor.beta)}


def test_the_map_has_a_cell_for_each_group_and_block(ranking: EffectRanking) -> None:
    drawn = map_effects(ranking, ARCHITECTURE, title="effects")
    assert [(row.label, dict(row.effects)) for row in drawn.rows] == [
        ("TE", {"BASE": about(rms(0.5))}),
        ("attn2.to_out.0", {"OUT05": about(rms(3, 0))}),
        ("attn2.to_q", {"OUT05": about(rms(3, 4))}),
    ]
    assert drawn.rows[2].total == about(rms(3, 4))
    assert drawn.block_totals == {"OUT05": about(rms(6, 4)), "BASE": about(rms(0.5))}
    assert tuple(drawn.blocks) == ARCHITECTURE.blocks


def test_a_name_without_samples_is_left_out() -> None:
    other = KeyName("model_ema.decay", NAMES[0].component, "BASE", "model_ema.decay")
    assert [effect.name for effect in rank_effects(SAMPLES, [other, *NAMES]).blocks] == ["OUT05", "BASE"]
    empty = Samples((), (), torch.zeros(0, 0), {})
    assert rank_effects(empty, NAMES).whole == 0


def estimate(folder: Path | None = None, name: str = "effects-1.safetensors", *, prompt: str = "a cat") -> Effects:
    from PIL import Image

    recipe = MergeRecipe(model_source("models/a.safetensors"), model_source("models/b.safetensors"), alpha=0.0)
    requests = (ImageRequest(prompt, seed=3), ImageRequest(prompt, seed=4))
    image = Image.new("RGB", (64, 64))
    file = None if folder is None else folder / name
    return Effects(EffectOrder(recipe, requests), SAMPLES, (image, image), file, 2, 4)


def test_files_of_an_estimate(tmp_path: Path, ranking: EffectRanking) -> None:
    confirmed = ranking.with_confirmed({OUT: 7.0})
    written = write_effects(tmp_path / "new", estimate(tmp_path / "new"), confirmed, ARCHITECTURE)
    names = ["map.png", "chart.png", "s.csv", "groups.csv", "blocks.csv", "s.json", "images"]
    assert [path.name.replace("effect-", "").replace("effect", "") for path in written] == names
    drawn, chart, tensors, groups, blocks, figures, images = written
    for path in (drawn, chart):
        assert np.asarray(read_image(path)).std() > 0
        assert read_recipe(path).alpha == 0
    rows = tensors.read_text(encoding="utf-8-sig").splitlines()
    assert rows[1] == f"1,OUT05,1.transformer_blocks.0.attn2.to_out.0.weight,{rms(1):.4f},{19.157:.3f},7.0000"
    assert [len(path.read_text().splitlines()) for path in (tensors, groups, blocks)] == [5, 4, 3]
    told = json.loads(figures.read_text())
    assert told["samples"] == "effects-1.safetensors"
    assert told["requests"][1]["seed"] == 4
    assert told["recipe"]["models"]["a"]["path"] == "a.safetensors"
    assert {name: told[name] for name in ("method", "passes", "tensors", "groups", "blocks")} == effects_to_dict(
        estimate(), confirmed
    )
    assert sorted(path.name for path in images.iterdir()) == ["00000-3.png", "00001-4.png"]
    assert read_texts(images / "00001-4.png")["parameters"].startswith("a cat\nSteps: 20")


def test_plain_data_has_the_order_of_the_ranking(ranking: EffectRanking) -> None:
    told = effects_to_dict(estimate(), ranking.with_confirmed({OUT: 7.0}))
    assert list(told) == ["method", "passes", "tensors", "groups", "blocks"]
    assert (told["method"], told["passes"]) == ("steps", 2)
    assert told["tensors"][0] == {
        "key": OUT,
        "block": "OUT05",
        "element": "1.transformer_blocks.0.attn2.to_out.0.weight",
        "effect": about(MEAN),
        "true": 7.0,
    }
    assert told["tensors"][1]["key"] == QUERY
    assert "true" not in told["tensors"][1]
    assert told["groups"][0] == {
        "block": "OUT05",
        "element": "attn2.to_q",
        "effect": about(rms(3, 4)),
    }
    assert told["blocks"][1] == {"block": "BASE", "effect": about(rms(0.5))}


def test_nothing_of_another_estimate_is_overwritten(tmp_path: Path, ranking: EffectRanking) -> None:
    def write(name: str) -> list[str]:
        return [path.name for path in write_effects(tmp_path, estimate(tmp_path, name), ranking, ARCHITECTURE)]

    first = write("effects-1.safetensors")
    content = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    second = write("effects-2.safetensors")
    assert second == [
        "effect-map-2.png",
        "effect-chart-2.png",
        "effects-2.csv",
        "effect-groups-2.csv",
        "effect-blocks-2.csv",
        "effects-2.json",
        "effect-images-2",
    ]
    assert {path: path.read_bytes() for path in content} == content
    assert (write("effects-1.safetensors"), write("effects-2.safetensors")) == (first, second)  # the same again
    (tmp_path / "effects.json").write_text("[]")  # somebody else's
    assert write("effects-1.safetensors")[0] == "effect-map-3.png"
    assert (tmp_path / "effects.json").read_text() == "[]"


def test_what_an_estimate_was_made_from() -> None:
    order = estimate(prompt="x").order
    other = EffectOrder(order.recipe, (*order.requests, ImageRequest("y", seed=4)), method=Method.WHOLE)
    assert describe_estimate(order, SAMPLES).splitlines() == [
        "A a.safetensors   B b.safetensors   weight-sum: (1 - a) A + a B   alpha 0",
        "prompt: x   Euler a   20 steps   CFG 7   512x512",
        "seeds: 3, 4",
        "estimated from 2 backward passes of U-Net steps",
    ]
    assert describe_estimate(other, SAMPLES).splitlines()[2:] == [
        'prompts: "x", "y"',
        "seeds: 3, 4",
        "estimated from 2 backward passes of whole images",
    ]


def test_the_title_says_what_more_is_of() -> None:
    a, b, c = (model_source(f"{name}.safetensors") for name in "abc")
    assert title_of(MergeRecipe(a, b)) == "What more of b changes"
    assert title_of(MergeRecipe(a, b, model_c=c, mode=MergeMode.ADD_DIFFERENCE)) == "What more of b - c changes"


def test_passes_of_the_vae_are_not_counted() -> None:
    samples = SAMPLES.with_pass(Pass(0, 0, DECODING), torch.zeros(4)).with_pass(Pass(0, 2, IMAGE), torch.zeros(4))
    assert count_passes(samples) == 3
