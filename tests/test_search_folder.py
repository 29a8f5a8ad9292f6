"""Searches in a folder: rounds are runs, picks decide what is proposed, and it goes on wherever it ended."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from elemental import CheckpointError, ElementalError, ImageError, RecipeError
from elemental.hosts.base import NO_FIELDS
from elemental.images.files import read_image
from elemental.images.image_request import GeneratedImage, ImageRequest
from elemental.runs.axes.base import Setting
from elemental.runs.axes.context import AxisContext, make_axis_context
from elemental.runs.cells import Cell
from elemental.runs.resume import open_run
from elemental.runs.run_files import latest_run
from elemental.runs.run_record import PageRecord, read_record
from elemental.runs.runner import Progress, RunWatcher
from elemental.searches.broken import describe_broken
from elemental.searches.judges import judge, read_score, toward
from elemental.searches.search_folder import Search
from elemental.searches.search_order import SearchOrder, order_from_dict
from elemental.searches.steering import BEST, Settings
from elemental.workflows import read_recipe

from .fake_host import FakeHost
from .killing import killed_at
from .plotting import REQUEST, load


@pytest.fixture
def context(fake: FakeHost, base: Setting) -> AxisContext:
    return make_axis_context(fake, base.recipe)


@pytest.fixture
def order(base: Setting) -> SearchOrder:
    requests = (REQUEST, replace(REQUEST, prompt="a blue square", seed=4))
    return SearchOrder(base.recipe, ("IN01", "OUT03:attn2:0-0.6"), requests, Settings(population=4))


@pytest.fixture
def search(order: SearchOrder, context: AxisContext, tmp_path: Path) -> Search:
    return Search.begin(tmp_path / "search", order, context)


def times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.glob("round-*/cells*/*.png")}


def test_a_round_is_a_run_and_the_best_is_not_made_again(search: Search, fake: FakeHost) -> None:
    assert not search.is_complete
    assert search.images(BEST) == (None, None)
    made = search.make_images(fake)
    assert (made.made, made.failed, made.waiting) == (10, {}, 0)  # the start and four candidates, two images each
    assert made.products == (search.sheet,)
    assert search.is_complete
    cell = search.images(3)[1]
    assert cell is not None
    assert cell == search.folder / "round-01" / "cells" / "x03-y01.png"
    assert read_recipe(cell).rules == search.round.candidates[2].recipe.rules
    values = search.round.candidates[2].values
    assert search.labels(3) == (f"IN01 {values[0]:g}", f"OUT03:attn2 {values[1]:g}")

    search.pick([3, 1])
    assert search.round.best.values == values
    assert search.images(BEST)[1] == cell
    assert search.make_images(fake).made == 8
    assert search.make_images(fake).made == 0
    past = search.past[0]
    assert (past.number, past.order, past.values, past.images[1], past.score) == (1, (3, 1), values, cell, None)
    sheet = read_image(search.sheet or Path())
    assert sheet.width > 5 * 64
    search.pick([BEST])
    assert search.images(BEST)[1] == cell


def test_candidates_of_one_image_each_stand_in_several_rows(
    order: SearchOrder, context: AxisContext, fake: FakeHost, tmp_path: Path
) -> None:
    single = replace(order, requests=order.requests[:1], settings=Settings(population=8))
    search = Search.begin(tmp_path / "search", single, context)
    search.make_images(fake)
    sheet = read_image(search.sheet or Path())
    assert 0.6 < sheet.width / sheet.height < 1  # three rows of three, and a line of text below each


def test_it_goes_on_from_its_folder(search: Search, fake: FakeHost, context: AxisContext) -> None:
    search.make_images(fake)
    search.pick([2], scores={2: 0.5, 1: float("nan")})
    again = Search.open(search.folder, context)
    assert (again.order, again.round, again.past[0].values) == (search.order, search.round, search.past[0].values)
    assert again.past[0].score == 0.5
    assert again.images(BEST) == search.images(BEST)
    assert order_from_dict(json.loads(json.dumps(again.order.to_dict()))) == search.order


def test_what_was_taken_back_is_used_only_by_the_same_candidates(search: Search, fake: FakeHost) -> None:
    search.make_images(fake)
    search.pick([1])
    search.make_images(fake)
    one = search.images(2)
    search.undo()
    assert search.is_complete
    before = times(search.folder)
    assert search.make_images(fake).made == 0
    search.pick([2])
    assert not search.is_complete  # other candidates: nothing of theirs is there
    assert search.images(2) == (None, None)
    search.make_images(fake)
    other = search.images(2)
    assert other[0] is not None
    assert other[0].parent.name == "cells-2"
    search.undo()
    search.pick([1])
    assert search.images(2) == one
    assert search.is_complete
    assert search.make_images(fake).made == 0
    assert before.items() <= times(search.folder).items()
    with pytest.raises(RecipeError, match="nothing to take back"):
        [search.undo() for _ in range(2)]


def test_it_goes_on_from_any_candidate_of_any_round(search: Search, fake: FakeHost) -> None:
    search.make_images(fake)
    search.pick([1])
    first = search.past[0]
    search.make_images(fake)
    search.restart(1, 4, 0.01)
    assert search.round.number == 3
    best = search.images(BEST)[0]
    assert best == search.folder / "round-01" / "cells" / "x04-y00.png"
    near = [abs(each.values[0] - search.round.best.values[0]) for each in search.round.candidates]
    assert max(near) < 0.1
    assert search.make_images(fake).made == 8
    search.restart(3, BEST, 0.02)  # of the best so far, wherever that is from
    assert search.images(BEST)[0] == best
    assert search.past[0] == first
    assert search.past[1].order == ()


class Stubborn(FakeHost):
    """Fails for the first candidate of a round that is not the start, in both images."""

    def make_images(
        self, request: ImageRequest, *, model: Mapping[str, str], fields: Mapping[str, str] = NO_FIELDS
    ) -> Sequence[GeneratedImage]:
        if request.seed == 4:
            raise RuntimeError("a part came off")
        return super().make_images(request, model=model, fields=fields)


def test_nobody_picks_what_has_no_image(search: Search, fake: FakeHost) -> None:
    with pytest.raises(RecipeError, match="Candidate 2 of round 1 has no image, or not all of them"):
        search.pick([2])
    search.make_images(Stubborn(load))
    assert search.is_complete
    assert search.failed == dict.fromkeys(range(5), "RuntimeError: a part came off")
    with pytest.raises(RecipeError, match="has no image"):
        search.pick([2])
    with pytest.raises(ImageError, match=r"No candidate of round 1 can be judged(?s:.*)candidate 4: failed: Runtime"):
        judge(search, lambda _: 1.0, "one")
    with pytest.raises(RecipeError, match="has no image"):
        search.restart(1, 1, 0.1)
    assert search.make_images(fake).made == 5  # they are tried again
    for order, told in (([], "Nothing is picked"), ([9], "no candidate 9"), ([1, 1], "named twice")):
        with pytest.raises(RecipeError, match=told):
            search.pick(order)
    for restart, told in (((2, 1, 0.1), "no round 2"), ((1, 7, 0.1), "no candidate 7"), ((1, 1, 0), "above 0")):
        with pytest.raises(RecipeError, match=told):
            search.restart(*restart)
    assert search.past == ()


@pytest.mark.slow
def test_killed_anywhere_it_goes_on_with_no_image_twice(
    order: SearchOrder, fake: FakeHost, context: AxisContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed as its files are about to appear, every third of them: its record, records of rounds, images, sheets."""
    order = replace(order, requests=(REQUEST,))

    def play(search: Search) -> None:
        while search.round.number < 3:
            search.make_images(fake)
            search.pick([2, 1])
        search.write_results()

    whole = Search.begin(tmp_path / "whole", order, context)
    play(whole)
    at = -2
    while True:
        at += 3
        folder = tmp_path / str(at)
        with killed_at(at, monkeypatch) as watched:
            play(Search.begin(folder, order, context))
        if not watched.killed:
            break
        before = times(folder)
        if at == 1:  # before its record there is no search, and its place is free
            with pytest.raises(ImageError, match="no search to go on with"):
                Search.open(folder, context)
            play(Search.begin(folder, order, context))
        else:
            play(Search.open(folder, context))
        assert before.items() <= times(folder).items()  # none was made again
        names = {path.relative_to(folder) for path in folder.rglob("*") if not path.name.startswith(".")}
        assert names == {path.relative_to(whole.folder) for path in whole.folder.rglob("*")}
        for name in [Path("round-02/grid.png"), Path("best.png"), Path("best.txt"), Path("rounds.csv")]:
            assert (folder / name).read_bytes() == (whole.folder / name).read_bytes()
    assert {"search.json", "run.json", "x04-y00.png", "grid.png", "best.png"} <= set(watched.appeared)


def test_a_stopped_round_goes_on(search: Search, fake: FakeHost) -> None:
    def stop(_cell: Cell, _image: Image.Image | None, progress: Progress) -> None:
        fake.stopped = progress.done == 3

    stopped = search.make_images(fake, watcher=RunWatcher(on_cell=stop))
    assert (stopped.made, stopped.waiting) == (3, 7)
    assert not search.is_complete
    fake.stopped = False
    assert search.make_images(fake).made == 7


def test_a_record_of_another_version_is_refused(search: Search, context: AxisContext, order: SearchOrder) -> None:
    path = search.folder / "search.json"
    whole = json.loads(path.read_text())
    for damage, told in (
        ({"version": 2}, "is no record of a search that this program knows"),
        ({"order": 5}, "is damaged"),
        ({"said": [{}]}, "is damaged"),
        ({"options": []}, "is damaged"),
        ({"said": [{"from": [7, 1], "step": 0.1}]}, "There is no round 7"),
        ({"said": [{"picked": [7]}]}, "There is no candidate 7"),
    ):
        path.write_text(json.dumps(whole | damage))
        with pytest.raises(ElementalError, match=told):
            Search.open(search.folder, context)
    path.write_text("{")
    with pytest.raises(ImageError, match="Cannot read"):
        Search.open(search.folder, context)
    with pytest.raises(ImageError, match="holds a search already"):
        Search.begin(search.folder, order, context)


def test_its_rounds_are_no_plots(search: Search, fake: FakeHost) -> None:
    search.make_images(fake)
    record = read_record(latest_run(search.folder / "round-01"))
    with pytest.raises(ImageError, match="is a round of a search; go on with that"):
        open_run(fake, record)


def test_models_may_not_change_between_rounds(
    order: SearchOrder, fake: FakeHost, context: AxisContext, models: Mapping[str, Path], tmp_path: Path
) -> None:
    from elemental import model_source

    copy = tmp_path / "b.safetensors"
    copy.write_bytes(models["b"].read_bytes())
    order = replace(order, recipe=replace(order.recipe, model_b=model_source(copy)))
    search = Search.begin(tmp_path / "search", order, context, options={"x": 1}, page=PageRecord({"y": 2}, ["note"]))
    search.make_images(fake)
    assert read_record(latest_run(search.folder / "round-01")).settings == {"y": 2}
    search.pick([1])
    copy.write_bytes(models["a"].read_bytes())
    with pytest.raises(CheckpointError, match="changed"):
        search.make_images(fake)


def test_results(search: Search, fake: FakeHost) -> None:
    search.make_images(fake)
    search.pick([2], scores={2: 0.25})
    image, recipe, spec, table = search.write_results()
    best = search.round.best
    assert read_recipe(image).rules == best.recipe.rules
    assert read_recipe(recipe).rules == best.recipe.rules
    assert f"IN01::{best.values[0]:g}" in spec.read_text()
    assert table.read_text().splitlines() == [
        "round,picked,score,IN01,OUT03:attn2",
        f"1,2,0.25,{best.values[0]},{best.values[1]}",
    ]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"requests": ()}, "needs an image"),
        ({"requests": (replace(REQUEST, batch=2),)}, "single ones"),
        ({"requests": (REQUEST, replace(REQUEST, width=128))}, "need one size"),
    ],
)
def test_orders_that_make_no_sense_are_refused(order: SearchOrder, change: dict[str, object], told: str) -> None:
    with pytest.raises(ImageError, match=told):
        replace(order, **change)  # type: ignore[arg-type]


def test_a_score_ranks_and_what_shows_nothing_is_last(
    search: Search, fake: FakeHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search.make_images(fake)
    for number, size in ((1, 64), (2, 64)):
        for path in search.images(number):
            assert path is not None
            colour = (
                np.full((size, size, 3), 7) if number == 1 else np.random.default_rng(0).integers(0, 255, (64, 64, 3))
            )
            Image.fromarray(colour.astype(np.uint8)).save(path)
    for number in (BEST, 3, 4):
        for path in search.images(number):
            assert path is not None
            Image.linear_gradient("L").resize((64, 64)).point(lambda v, n=number: v // (n + 1)).convert("RGB").save(
                path
            )
    (tmp_path / "taste.py").write_text(
        "def bright(images):\n    return sum(sum(image.getextrema()[0]) for image in images) / len(images)\n"
        "def odd(images):\n    return float('nan')\ndef text(images):\n    return 'good'\n"
        "def bad(images):\n    raise KeyError('lamp')\n"
    )
    monkeypatch.chdir(tmp_path)
    judged = judge(search, read_score("taste:bright"), "taste:bright")
    assert judged.order == (BEST, 3, 4)
    assert judged.faults == {1: "image 1: one colour only", 2: "image 1: noise"}
    assert judge(search, read_score("taste:odd"), "taste:odd").order == (BEST,)
    goal = search.images(4)[0]
    assert goal is not None
    for measure in ("mean", "ssim"):
        assert judge(search, toward(goal, measure, (64, 64)), "goal").order[0] == 4
    for name, told in (
        ("text", "it gave 'good', which is no number"),
        ("bad", "failed on candidate 0 .* KeyError: 'lamp'"),
    ):
        with pytest.raises(ImageError, match=told):
            judge(search, read_score(f"taste:{name}"), name)
    for text, told in (
        ("taste", "write MODULE:FUNCTION"),
        ("taste:no", "no function no"),
        ("no.pe:x", "cannot be imported"),
    ):
        with pytest.raises(RecipeError, match=told):
            read_score(text)
    with pytest.raises(ImageError, match="has 64x64 pixels, the images of the search 64x128"):
        toward(goal, "mean", (64, 128))
    with pytest.raises(ImageError, match="Cannot read"):
        toward(tmp_path / "none.png", "mean", (64, 64))


def test_real_images_are_not_called_broken() -> None:
    dice = np.random.default_rng(1)

    def image(pixels: np.ndarray) -> Image.Image:
        return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))

    ramp = np.repeat(np.arange(64.0)[None, :, None], 64, 0).repeat(3, 2)
    real = {
        "dark": ramp / 16,
        "flat": 128 + dice.normal(0, 2, (64, 64, 3)),
        "grain": 3 * ramp + dice.normal(0, 25, (64, 64, 3)),
        "stripes": 255 * (np.arange(64)[None, :, None] % 2) * np.ones((64, 64, 3)),
        "one dot": np.pad(np.full((1, 1, 3), 255.0), ((30, 33), (30, 33), (0, 0))),
    }
    assert {name: describe_broken(image(pixels)) for name, pixels in real.items()} == dict.fromkeys(real, "")
    broken = {
        "one colour only": np.zeros((64, 64, 3)),
        "noise": dice.integers(0, 256, (64, 64, 3)),
    }
    for told, pixels in broken.items():
        assert describe_broken(image(pixels)) == told
    assert describe_broken(image(np.full((8, 8, 3), 255))) == "one colour only"
    grey = dice.integers(0, 256, (512, 512, 1)).repeat(3, 2)
    assert describe_broken(image(grey)) == "noise"
