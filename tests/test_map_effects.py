"""The element map's effects as HTML, without a page."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path

import pytest

import elemental
from elemental.architectures.element_families import Family, find_families
from elemental.architectures.element_groups import find_groups
from elemental.demo.checkpoint_pair import copy_pair
from elemental.hosts.base import CheckpointRef
from elemental.images.effect_scale import COLOURS, UNIT, format_share
from elemental.merge.files.open_models import OpenModels
from elemental.merge.plan import MergePlan
from elemental.session.element_map import draw_map
from elemental.session.form import MergeForm
from elemental.session.map_effects import CellEffect, MapEffects
from elemental.session.merge_preview import Previewer

from .map_effects import demo_effects

EFFECT_MARKS = re.compile(r';--e:\d+%| data-(?:effect|rank|share|most)="[^"]*"')


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> MergePlan:
    folder = tmp_path_factory.mktemp("pair")
    copy_pair(folder)
    a, b = (elemental.model_source(folder / f"{name}.safetensors") for name in "ab")
    recipe = elemental.MergeRecipe(a, b)
    with OpenModels() as models:
        return models.planner(recipe).plan(recipe)


def families_of(plan: MergePlan) -> list[Family]:
    names = [tensor.name for tensor in plan.tensors]
    return find_families(find_groups(names), names)


def cells(html: str) -> dict[str, dict[str, str]]:
    """Read the attributes of ranked cells, by rank."""
    found = [dict(re.findall(r'([\w-]+)=(?:"([^"]*)"|)', cell)) for cell in re.findall(r"<td( [^>]*)>", html)]
    return {cell["data-rank"]: cell for cell in found if "data-rank" in cell}


def test_each_cell_says_its_effect_rank_and_share(plan: MergePlan) -> None:
    effects, families = demo_effects(), families_of(plan)
    html = draw_map(plan, families, effects)
    found = cells(html)
    assert set(found) == {str(cell.rank) for cell in effects.cells.values()}
    first = found["1"]
    assert (first["data-effect"], first["data-share"]) == ("20", "10 %")
    assert found[str(len(found))]["data-effect"] == "0"
    styles = re.findall(r"--v:[^ >]*?--e:(\d+)%[^>]*? data-rank=\"(\d+)\"", html)
    places = [int(place) for place, _ in sorted(styles, key=lambda style: int(style[1]))]
    assert places[0] == 100
    assert places == sorted(places, reverse=True)
    assert places[-1] == 0
    vae = effects.cells["VAE", "BASE"]
    assert found[str(vae.rank)]["data-most"] == "conv_in.weight 2.0"
    assert html.count("data-most") == 1


def test_the_table_says_what_the_first_cells_do_together(plan: MergePlan) -> None:
    effects, families = demo_effects(), families_of(plan)
    html = draw_map(plan, families, effects)
    (ranked,) = re.findall(r'data-ranked="(\d+)"', html)
    (together,) = re.findall(r'data-together="([^"]*)"', html)
    shares = unescape(together).split("|")
    assert len(shares) == int(ranked) == len(effects.cells)
    assert (shares[0], shares[1], shares[-1]) == ("10 %", "19 %", "100 %")
    given = MapEffects(effects.cells, together=[0.5, *[0.6] * (len(effects.cells) - 1)])
    assert f'data-together="{format_share(0.5)}|{format_share(0.6)}|' in draw_map(plan, families, given)


def test_the_legend_has_colours_ticks_and_unit(plan: MergePlan) -> None:
    html = draw_map(plan, families_of(plan), demo_effects())
    legend = html[: html.index("<table")]
    assert UNIT in legend
    assert "made from &quot;nothing&quot; &amp; none" in legend
    assert [unescape(tick) for tick in re.findall(r"<i [^>]*>([^<]*)</i>", legend)] == [
        "≤ 0.03", "0.1", "0.3", "1", "3", "10",
    ]  # fmt: skip
    assert legend.count("#") == len(COLOURS)


def test_without_effects_the_map_is_what_it_was(plan: MergePlan) -> None:
    families = families_of(plan)
    plain = draw_map(plan, families)
    assert "effect" not in plain
    assert "--e" not in plain
    painted = draw_map(plan, families, demo_effects())
    table = painted[painted.index("<table") :]
    table = re.sub(r' data-effects=.*? style="[^"]*"', "", table, count=1)
    assert EFFECT_MARKS.sub("", table) == plain
    some = MapEffects({("TE", "BASE"): CellEffect(1.0, 1, 1.0)})
    assert list(cells(draw_map(plan, families, some))) == ["1"]
    assert cells(draw_map(plan, families, MapEffects({}))) == {}


def test_the_preview_draws_the_effects_that_belong_to_the_plan(tmp_path: Path) -> None:
    copy_pair(tmp_path)
    refs = [CheckpointRef(path.name, path) for path in sorted(tmp_path.glob("*.safetensors"))]
    previewer = Previewer(lambda: refs)
    form = MergeForm("a.safetensors", "b.safetensors")
    assert "data-rank" not in (previewer.look(form).table or "")
    asked: list[MergePlan] = []

    def find(plan: MergePlan) -> MapEffects | None:
        asked.append(plan)
        return demo_effects() if plan.recipe.alpha == 0.5 else None

    previewer.find_effects = find
    assert "data-rank" in (previewer.look(form).table or "")
    assert "data-rank" not in (previewer.look(MergeForm("a.safetensors", "b.safetensors", alpha=0.25)).table or "")
    assert len(asked) == 2


def test_the_colours_of_a_check_reach_to_the_largest_figure_ranked_or_not() -> None:
    small, large = CellEffect(0.04, 2, None), CellEffect(7.5, 0, None, "OUT09")
    checked = MapEffects({("attn2", "OUT03"): small}, families={("ff", "OUT09"): large}, unit="measured")
    assert checked.scale.position(7.5) == 1
    assert checked.scale.position(0.04) < 0.5
    estimate = MapEffects({("attn2", "OUT03"): small}, families={("ff", "OUT09"): large})
    assert estimate.scale.position(0.04) == 1  # families are sums of what is ranked
