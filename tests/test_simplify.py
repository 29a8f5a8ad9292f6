"""Simplified merges: the cut by probes, exact rules, and the command on the demo's models."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
from PIL import Image

import elemental
from elemental.cli.main import main
from elemental.demo.checkpoint_pair import copy_pair
from elemental.hosts.standalone.host import StandaloneHost
from elemental.images.diff import mean_difference
from elemental.images.image_request import ImageRequest
from elemental.runs.simplify import Simplified, SimplifyOrder, _Probe, least_enough, simplify, without_ratios
from elemental.runs.simplify_results import simplified_to_dict, spec_of
from elemental.workflows import make_images, read_recipe

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


@pytest.mark.parametrize("most", [1, 2, 7, 882])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_the_least_number_that_is_enough_is_found_in_few_probes(most: int, share: float) -> None:
    enough, tried = max(1, round(share * most)), list[int]()

    def probe(count: int) -> _Probe:
        tried.append(count)
        return _Probe(count, (), 0.0 if count >= enough else 1.0)

    found = least_enough(most, probe, 0.5)
    assert found.count == tried[-1] or found.count in tried
    assert enough <= found.count <= max(enough + 1, 1.1 * enough)
    assert len(tried) <= 10
    assert all(1 <= count <= most for count in tried)


def test_all_of_them_are_always_enough() -> None:
    assert least_enough(5, lambda count: _Probe(count, (), 1.0), 0.5).count == 5


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return copy_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module")
def host() -> StandaloneHost:
    return StandaloneHost()


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
