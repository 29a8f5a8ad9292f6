"""The command ``search`` as a user types it: three ways of judging, going on, and every mistake."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("diffusers")

from elemental.cli import run_options, search
from elemental.cli.main import DONE, FAILED, STOPPED, WRONG_USAGE, main
from elemental.demo.checkpoint_pair import copy_pair
from elemental.hosts.base import NO_FIELDS
from elemental.images.files import read_image
from elemental.images.image_request import GeneratedImage, ImageRequest
from elemental.workflows import read_recipe

from .fake_host import FakeHost
from .plotting import load

SIZE = ["--width", "64", "--height", "64", "--steps", "1", "--prompt", "a red circle on blue", "--population", "4"]
Capture = pytest.CaptureFixture[str]
Answer = Callable[..., None]


class SmoothHost(FakeHost):
    """Makes images of few blotches instead of noise."""

    def make_images(
        self, request: ImageRequest, *, model: Mapping[str, str], fields: Mapping[str, str] = NO_FIELDS
    ) -> Sequence[GeneratedImage]:
        made = super().make_images(request, model=model, fields=fields)
        return [replace(each, image=each.image.crop((0, 0, 4, 4)).resize(each.image.size)) for each in made]


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> FakeHost:
    """Images are made in no time, by a host in memory."""
    host = SmoothHost(load)
    for module in (run_options, search):
        monkeypatch.setattr(module, "make_host", lambda _device: host)
    return host


@pytest.fixture
def ab(models: Mapping[str, Path]) -> list[str]:
    return [str(models["a"]), str(models["b"]), "--alpha", "0.5", *SIZE]


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Answer:
    """Type lines; then the input ends."""

    def type_lines(*lines: str) -> None:
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))

    return type_lines


@pytest.fixture
def scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A score in the current folder: the mean of all channel values."""
    (tmp_path / "my_taste.py").write_text(
        "from PIL import ImageStat\ndef bright(images):\n"
        "    return sum(sum(ImageStat.Stat(image).mean) for image in images)\n"
    )
    monkeypatch.chdir(tmp_path)
    return "my_taste:bright"


def run(capsys: Capture, *words: str, code: int = DONE) -> str:
    """Run ``elemental search``, and give what it printed, errors last."""
    try:
        ended = main(["search", *words])
    except SystemExit as exc:
        ended = int(str(exc.code))
    printed = capsys.readouterr()
    assert ended == code, printed.err
    return printed.out + printed.err


def said(folder: Path) -> list[object]:
    found: list[object] = json.loads((folder / "search.json").read_text())["said"]
    return found


def images(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.glob("round-*/cells*/*.png")}


@pytest.mark.usefixtures("fast")
def test_a_person_picks_takes_back_and_stops(ab: list[str], answer: Answer, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "found"
    answer("3, 1", "9", "best", "u", "2 4", "0", "q")
    printed = run(capsys, *ab, "--vary", "IN01", "--vary", "OUT03:attn2 atn1:0-0.6", "--pick", "-o", str(out))
    assert '"atn1" matches nothing here; did you mean "attn1"?' in printed
    assert printed.count(f"Round 1: {out / 'round-01' / 'grid.png'}") == 2  # again after u
    assert "There is no candidate 9 in round 2; there are 0 to 4." in printed
    assert '"best" is no number of a candidate' in printed
    assert said(out) == [{"picked": [2, 4]}, {"picked": [0]}]
    assert f"To go on: elemental search --resume {out}" in printed
    assert "round  picked" in printed
    assert read_recipe(out / "best.png").rules == read_recipe(out / "best.json").rules
    assert (out / "best.txt").read_text().strip() in printed

    before = images(out)
    answer()  # the end of the input stops, too
    run(capsys, "--resume", str(out), "--undo")
    assert said(out) == [{"picked": [2, 4]}]
    run(capsys, "--resume", str(out), "--from", "1.3", "--step", "0.05")
    assert said(out)[1] == {"from": [1, 3], "step": 0.05}
    assert before.items() <= images(out).items()
    table = (out / "rounds.csv").read_text().splitlines()
    assert table[0] == "round,picked,score,IN01,OUT03:attn2 atn1"
    assert table[2].startswith('2,"from 1.3, step 0.05",,')


@pytest.mark.usefixtures("fast")
def test_a_score_judges_all_rounds_and_goes_on_with_more(
    ab: list[str], scored: str, answer: Answer, tmp_path: Path, capsys: Capture
) -> None:
    vary = ["--vary", "IN01", "--vary", "M00"]
    out = tmp_path / "found"
    printed = run(capsys, *ab, *vary, "--score", scored, "--rounds", "2", "-o", str(out), "--json", "--seed", "1")
    found = json.loads(printed)
    scores = [each["score"] for each in found["rounds"]]
    assert len(scores) == 2
    assert scores == sorted(scores)  # the best so far stays
    assert set(found["best"]) == {"IN01", "M00"}
    assert run(capsys, "--resume", str(out)).startswith("round  picked")  # nothing is left to do
    assert len(said(out)) == 2
    run(capsys, "--resume", str(out), "--rounds", "3")
    assert len(said(out)) == 3
    again = tmp_path / "again"
    run(capsys, *ab, *vary, "--score", scored, "--rounds", "3", "-o", str(again), "--seed", "1")
    assert said(again) == said(out)
    assert (again / "best.png").read_bytes() == (out / "best.png").read_bytes()
    answer("1")
    run(capsys, "--resume", str(out), "--pick")  # another judge
    assert said(out)[3] == {"picked": [1]}


@pytest.mark.usefixtures("fast")
def test_a_goal_judges_first_and_a_person_later(ab: list[str], answer: Answer, tmp_path: Path, capsys: Capture) -> None:
    out, goal = tmp_path / "found", tmp_path / "goal.png"
    answer()
    run(capsys, *ab, "--vary", "IN01", "--pick", "-o", str(tmp_path / "first"))
    read_image(tmp_path / "first" / "round-01" / "cells" / "x02-y00.png").save(goal)
    answer("3", "q")
    options = ["--toward", str(goal), "--measure", "ssim", "--pick-after", "1", "-o", str(out)]
    run(capsys, *ab, "--vary", "IN01", *options)
    first, second = said(out)
    assert isinstance(first, dict)
    assert first["picked"][0] == 2
    assert first["scores"]["2"] == 1
    assert second == {"picked": [3]}
    goal.unlink()
    assert "Cannot read" in run(capsys, "--resume", str(out), code=FAILED)


@pytest.mark.usefixtures("fast")
def test_it_stops_and_goes_on(
    ab: list[str], scored: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, make, calls = tmp_path / "found", SmoothHost.make_images, list[int]()

    def interrupted(self: SmoothHost, request: object, **more: object) -> object:
        calls.append(1)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return make(self, request, **more)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(SmoothHost, "make_images", interrupted)
        options = ["--vary", "IN01", "--score", scored, "--rounds", "2", "-o", str(out)]
        printed = run(capsys, *ab, *options, code=STOPPED)
    assert f"2 images of round 2 not made. To go on: elemental search --resume {out}" in printed
    before = images(out)
    run(capsys, "--resume", str(out))
    assert before.items() <= images(out).items()
    assert len(said(out)) == 2
    assert "holds a search already" in run(capsys, *ab, *options, code=FAILED)
    record = out / "search.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"version": 9}))
    assert "no record of a search that this program knows" in run(capsys, "--resume", str(out), code=FAILED)


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize(
    ("options", "code", "told"),
    [
        (["-o", "x"], WRONG_USAGE, "who judges? --pick (you), --score MODULE:FUNCTION or --toward IMAGE"),
        (["--pick", "--score", "m:f", "-o", "x"], WRONG_USAGE, "--pick and --score do not go together; to pick after"),
        (["--score", "m:f", "--measure", "ssim", "-o", "x"], WRONG_USAGE, "--measure goes with --toward"),
        (["--pick", "--pick-after", "2", "-o", "x"], WRONG_USAGE, "--pick-after goes with --score or --toward"),
        (["--pick", "--json", "-o", "x"], WRONG_USAGE, "--json prints nothing else"),
        (["--pick"], WRONG_USAGE, "a folder is needed: -o DIR"),
        (["--pick", "--undo", "-o", "x"], WRONG_USAGE, "--from and --undo go with --resume"),
        (["--pick", "--from", "2", "-o", "x"], WRONG_USAGE, "write ROUND.CANDIDATE, such as 2.5"),
        (["--pick", "--rounds", "0", "-o", "x"], WRONG_USAGE, "--rounds 0: it must be 1 or more"),
        (["--pick", "--population", "3", "-o", "x"], WRONG_USAGE, "can have 4 to 64"),
        (["--pick", "--vary", "OUT12", "-o", "x"], WRONG_USAGE, 'unknown block "OUT12"'),
        (["--pick", "--vary", "effects:x", "-o", "x"], WRONG_USAGE, "write effects:8"),
        (["--score", "nomodule:f", "-o", "x"], WRONG_USAGE, "nomodule cannot be imported"),
        (["--toward", "none.png", "-o", "x"], FAILED, "Cannot read none.png as an image"),
        (["--pick", "--workers", "2", "-o", "x"], WRONG_USAGE, "--workers goes with --on"),
        (["--resume", "x"], WRONG_USAGE, "leave out the models, --alpha"),
    ],
)
def test_mistakes_are_refused(
    ab: list[str],
    options: list[str],
    code: int,
    told: str,
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert told in " ".join(run(capsys, *ab, *options, code=code).split())
    assert not (tmp_path / "x").exists()


@pytest.mark.usefixtures("fast")
def test_mistakes_beside_resume(tmp_path: Path, capsys: Capture) -> None:
    assert "holds no search to go on with" in run(capsys, "--resume", str(tmp_path), code=FAILED)


@pytest.mark.slow
def test_on_the_models_of_the_demo_what_varies_is_found_by_its_effects(
    answer: Answer, scored: str, tmp_path: Path, capsys: Capture
) -> None:
    pair = [str(path) for path in copy_pair(tmp_path / "models")]
    options = [*pair, "--alpha", "0", *SIZE, "--seed", "3"]
    printed = run(capsys, *options, "--vary", "effects:2", "--score", scored, "--rounds", "1", "-o", "one")
    assert printed.startswith("effects:2: ")
    vary = json.loads((tmp_path / "one" / "search.json").read_text())["order"]["vary"]
    assert len(vary) == 2
    assert len(images(tmp_path / "one")) == 5
    answer("2 1")
    run(capsys, "--resume", "one", "--pick", "--rounds", "2")
    assert said(tmp_path / "one")[1] == {"picked": [2, 1]}
    goal = "one/round-01/cells/x02-y00.png"
    varied = [word for text in vary for word in ("--vary", text)]
    run(capsys, *options, *varied, "--toward", goal, "--rounds", "1", "-o", "two")
    assert said(tmp_path / "two")[0]["picked"][0] == 2  # type: ignore[index]
    assert read_recipe(tmp_path / "two" / "best.png").rules == read_recipe(goal).rules
