"""Simplified merges: the cut by probes, exact rules, and the command on the demo's models."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest
from PIL import Image

import elemental
from elemental.cli.main import main
from elemental.demo.checkpoint_pair import copy_pair
from elemental.effects.directions import Directions, from_model_a
from elemental.hosts.standalone.host import StandaloneHost
from elemental.images.diff import mean_difference
from elemental.images.image_request import ImageRequest
from elemental.runs.differentiated_merge import differentiated_merge
from elemental.runs.effect_estimate import EffectWatcher
from elemental.runs.simplify import Simplified, SimplifyOrder, simplify, without_ratios
from elemental.runs.simplify_cut import Probe, find_cut
from elemental.runs.simplify_order import ElementOrder
from elemental.runs.simplify_results import simplified_to_dict, spec_of
from elemental.workflows import make_images, read_recipe

from .fake_host import FakeHost
from .plotting import load

Capture = pytest.CaptureFixture[str]


class Printed(NamedTuple):
    out: str
    err: str


def run(capsys: Capture, *words: str, code: int = 0) -> Printed:
    """Run a command, and give what it printed."""
    try:
        found = main(words)
    except SystemExit as exc:  # options that cannot be read
        found = int(str(exc.code))
    printed = capsys.readouterr()
    assert found == code, printed.err
    return Printed(printed.out, printed.err)


REQUEST = ImageRequest("a red circle on blue", seed=3, steps=3, cfg=4.0, width=64, height=64)


def cut(
    most: int, distance: Callable[[Sequence[int]], float], reorder: Callable[[list[int], list[int]], list[int]]
) -> tuple[list[int], list[int]]:
    """Find a cut of numbers that stand for tensors; give what was found, and the sizes that were tried."""
    tried = list[int]()

    def attempt(chosen: Any) -> Probe:
        tried.append(len(chosen))
        return Probe(chosen, (), distance(chosen))

    found: Any = find_cut(cast(Any, range(most)), attempt, cast(Any, reorder), 0.5)
    return list(found.tensors), tried


@pytest.mark.parametrize("most", [1, 2, 7, 882])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_the_least_number_that_is_enough_is_found_in_few_probes(most: int, share: float) -> None:
    enough = max(1, round(share * most))
    found, tried = cut(most, lambda chosen: float(len(chosen) < enough), lambda _, others: others)
    assert len(found) in tried
    assert enough <= len(found) <= max(enough + 1, 1.04 * enough)
    assert len(tried) <= 11
    assert all(1 <= count <= most for count in tried)


def test_all_of_them_are_always_enough() -> None:
    assert cut(5, lambda _: 1.0, lambda _, others: others)[0] == [0, 1, 2, 3, 4]


def test_what_is_behind_a_number_that_is_not_enough_is_ordered_anew() -> None:
    needed = {*range(60), *range(150, 160)}
    asked = list[int]()

    def reorder(chosen: list[int], others: list[int]) -> list[int]:
        asked.append(len(chosen))
        assert sorted([*chosen, *others]) == list(range(882))
        return sorted(others, key=lambda tensor: tensor not in needed)

    found, tried = cut(882, lambda chosen: float(not needed <= set(chosen)), reorder)
    assert needed <= set(found)
    assert len(found) <= 83  # 70 that are not enough, and ten; 160 in the first order
    assert asked == sorted(set(asked))
    assert set(asked) < set(tried)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return copy_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module")
def host() -> StandaloneHost:
    return StandaloneHost()


def fake_host(folder: Path) -> FakeHost:
    host = FakeHost(load, output=folder)
    host.differentiates = True
    return host


@pytest.mark.parametrize("leave_out", [False, True])
def test_what_is_missing_is_the_share_of_each_tensor(pair: tuple[Path, Path], tmp_path: Path, leave_out: bool) -> None:
    """The fake host predicts in proportion to the tensors, so that the first order is exact."""
    a, b = map(elemental.model_source, pair)
    recipe = elemental.MergeRecipe(a, b, alpha=1.0)
    half = replace(recipe, alpha=0.0, rules=elemental.parse_rules("IN00-M00::1"))
    steps = list[str]()
    with differentiated_merge(fake_host(tmp_path), recipe, purpose="tests") as opened:
        plan = opened.models.planner(recipe).plan(recipe)
        directions = Directions(from_model_a(plan), opened.models.open(recipe))
        order = ElementOrder(opened, directions, [REQUEST], watcher=EffectWatcher(), on_step=steps.append)
        order.visit(without_ratios(recipe) if leave_out else recipe, "the goal", [0, 1], is_goal=True)
        missing = order.missing(half, reverse=leave_out)
    assert steps.count("measuring what is missing") == 4  # the three steps of a fake image, and the decoding
    # the blocks that are at B are what is missing for A; the others, for B
    inside = {name.key for name in (tensor.name for tensor in plan.tensors) if name.block.startswith(("IN", "M"))}
    for key, share in missing.items():
        assert share >= 0
        assert (key in inside) is leave_out or share == 0, key
    assert sum(missing.values()) == pytest.approx(4, rel=1e-3)


@pytest.mark.slow
def test_where_each_tensor_counts_all_are_found(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """An image of the fake host is another one whatever is changed."""
    a, b = map(elemental.model_source, pair)
    recipe, said = elemental.MergeRecipe(a, b, alpha=0.5), list[tuple[int, int, str]]()
    order = SimplifyOrder(recipe, (REQUEST,), passes=3)
    watcher = EffectWatcher(on_progress=lambda *what: said.append(what))
    result = simplify(fake_host(tmp_path), order, watcher=watcher)
    assert result.distance == 0
    assert result.generated == sum(text == "generating" or text.endswith("elements") for _, _, text in said)
    assert all(done <= total for done, total, _ in said)


def image_of(host: StandaloneHost, recipe: elemental.MergeRecipe) -> Image.Image:
    return make_images(host, REQUEST, recipe)[0].image


@pytest.mark.slow
@pytest.mark.parametrize("leave_out", [False, True])
def test_the_spec_makes_images_within_the_tolerance(
    host: StandaloneHost, pair: tuple[Path, Path], leave_out: bool
) -> None:
    a, b = map(elemental.model_source, pair)
    weights = elemental.parse_block_weights(",".join(["0.5", *["1", "0.25"] * 12, "1"]))
    recipe = elemental.MergeRecipe(a, b, block_alpha=weights)
    order = SimplifyOrder(recipe, (REQUEST,), tolerance=0.3, passes=6, leave_out=leave_out)
    result = simplify(host, order)
    assert isinstance(result, Simplified)
    of_a, of_merge = image_of(host, without_ratios(recipe)), image_of(host, recipe)
    assert result.images[0][:2] == (of_a, of_merge)
    assert result.full_distance == pytest.approx(mean_difference(of_a, of_merge))
    parsed = elemental.parse_rules(spec_of(order, result))
    base = recipe if leave_out else without_ratios(recipe)
    written = replace(base, rules=parsed)
    target = of_a if leave_out else of_merge
    assert mean_difference(image_of(host, written), target) == pytest.approx(result.distance)
    assert result.distance <= 0.3 * result.full_distance
    before, after, liked = (elemental.plan_merge(each).tensors for each in (base, written, recipe))
    moved = [index for index, tensor in enumerate(after) if not tensor.note and tensor.alpha != before[index].alpha]
    assert len(moved) == result.elements < sum(not tensor.note for tensor in after)
    assert all(after[index].alpha == (0 if leave_out else liked[index].alpha) for index in moved)
    told = simplified_to_dict(order, result)
    assert list(told) == ["spec", "elements", "rules", "distance", "full_distance", "images"]
    assert told["rules"] == len(parsed)


@pytest.mark.slow
def test_the_command_writes_a_spec_and_a_grid_with_the_recipe(
    pair: tuple[Path, Path], tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "out"
    words = ["simplify", *map(str, pair), "--alpha", "1", "--tolerance", "40%", "--passes", "3", "-o", str(out)]
    images = ["--prompt", "a red circle on blue", "--prompt", "a white star on red", "--steps", "2", "--cfg", "4"]
    size = ["--width", "64", "--height", "64"]
    told = json.loads(run(capsys, *words, *images, *size, "--json").out)
    grid, spec = out / "simplified.png", out / "simplified.txt"
    assert spec.read_text().strip() == told["spec"]
    recipe = read_recipe(grid)
    assert (recipe.alpha, len(recipe.rules)) == (0.0, told["rules"])
    assert 0 < told["distance"] <= 0.4 * told["full_distance"]
    assert "with --alpha 0 move" in run(capsys, *words, *images, *size).out
    assert (out / "simplified-2.png").is_file()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "a prompt is needed"),
        (["--prompt", "x", "--tolerance", "0"], "is no share"),
        (["--prompt", "x", "--tolerance", "ten"], "is no share"),
        (["--prompt", "x", "--passes", "2"], "3 or more"),
    ],
)
def test_wrong_options_are_refused(
    pair: tuple[Path, Path], tmp_path: Path, capsys: Capture, more: list[str], message: str
) -> None:
    assert message in run(capsys, "simplify", *map(str, pair), "-o", str(tmp_path), *more, code=2).err


def test_a_merge_that_changes_nothing_cannot_be_simplified(
    pair: tuple[Path, Path], tmp_path: Path, capsys: Capture
) -> None:
    size = ["--prompt", "x", "--steps", "1", "--passes", "3", "--width", "64", "--height", "64"]
    words = ["simplify", *map(str, pair), "--alpha", "0", "-o", str(tmp_path), *size]
    assert "nothing to simplify" in run(capsys, *words, code=1).err
