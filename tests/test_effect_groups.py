"""What should vary, from estimates of effects that are made up, and from those of real images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from elemental import MergeRecipe, RecipeError, model_source, plan_merge
from elemental.demo.checkpoint_pair import copy_pair
from elemental.hosts.standalone.host import StandaloneHost
from elemental.images.image_request import ImageRequest
from elemental.runs.axes.context import make_axis_context
from elemental.runs.effect_estimate import EffectWatcher
from elemental.runs.effect_ranking import EffectRanking, rank_effects
from elemental.searches.effect_groups import estimate_groups, groups_of
from elemental.searches.vary_texts import read_space

from .test_axes import CONTEXT
from .test_effect_ranking import NAMES, OUT, QUERY, SAMPLES, TEXT


@pytest.fixture
def ranking() -> EffectRanking:
    return rank_effects(SAMPLES, NAMES)


def test_the_strongest_are_named_first(ranking: EffectRanking) -> None:
    assert groups_of(ranking) == ["OUT05", "BASE"]
    assert groups_of(ranking, 1) == ["OUT05"]
    assert groups_of(ranking, by="groups") == ["OUT05:attn2.to_q", "OUT05:attn2.to_out.0", "TE"]
    assert groups_of(ranking, 2, by="elements") == [f"OUT05:{QUERY}", f"OUT05:{OUT.replace('weight', 'bias')}"]


def test_what_has_no_effect_is_left_out() -> None:
    numbers = SAMPLES.numbers.clone()
    numbers[:, SAMPLES.keys.index(TEXT)] = 0
    assert groups_of(rank_effects(replace(SAMPLES, numbers=numbers), NAMES)) == ["OUT05"]


def test_texts_are_rules_for_exactly_these_tensors(ranking: EffectRanking) -> None:
    recipe = MergeRecipe(model_source("a"), model_source("b"))
    context = replace(CONTEXT, names=NAMES)
    for by, ranked in (("blocks", ranking.blocks), ("groups", ranking.groups), ("elements", ranking.tensors)):
        space = read_space(groups_of(ranking, by=by), recipe, context)
        for effect, rule in zip(ranked, space.recipe(space.start).rules.rules, strict=True):
            assert [name.key for name in NAMES if rule.matches(name)] == list(effect.keys)


@pytest.mark.parametrize(
    ("count", "by", "told"), [(0, "blocks", "1 or more"), (8, "block", "there are blocks, groups")]
)
def test_what_makes_no_sense_is_refused(ranking: EffectRanking, count: int, by: str, told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        groups_of(ranking, count, by=by)


@pytest.mark.slow
def test_groups_are_estimated_from_images(tmp_path: Path) -> None:
    a, b = map(model_source, copy_pair(tmp_path))
    recipe, host = MergeRecipe(a, b, alpha=0), StandaloneHost()
    said: list[tuple[int, int, str]] = []
    request = ImageRequest("a red circle on blue", seed=3, steps=2, width=64, height=64)
    watcher = EffectWatcher(on_progress=lambda done, total, text: said.append((done, total, text)))
    texts = estimate_groups(host, recipe, [request], 3, by="groups", watcher=watcher)
    assert len(texts) == len(set(texts)) == 3
    assert said[-1][2] == "done"
    space = read_space(texts, recipe, make_axis_context(host, recipe))
    assert space.start == (0, 0, 0)
    assert not plan_merge(space.recipe([1, 1, 1])).warnings
