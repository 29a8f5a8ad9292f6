"""The command ``effects`` as a user types it, on the demo pair."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

pytest.importorskip("diffusers")

import elemental.demo
from elemental import MergeRecipe, make_images, model_source, parse_rules
from elemental.cli.main import DONE, FAILED, STOPPED, WRONG_USAGE, main
from elemental.effects.passes import PassMaker
from elemental.effects.samples_file import read_samples
from elemental.hosts.standalone.host import StandaloneHost
from elemental.images.diff import mean_difference
from elemental.images.files import read_image
from elemental.images.image_request import ImageRequest

pytestmark = pytest.mark.slow

DEMO = Path(elemental.demo.__file__).parent
A, B = (str(DEMO / f"{name}.safetensors") for name in "ab")
PROMPT = "a red circle on blue"
SIZE = ["--width", "64", "--height", "64", "--steps", "2", "--cfg", "4"]
FIRST = [A, B, "--alpha", "0", "--prompt", PROMPT, "--seed", "3", *SIZE]
RESULTS = [
    "effect-map.png",
    "effect-chart.png",
    "effects.csv",
    "effect-groups.csv",
    "effect-blocks.csv",
    "effects.json",
    "effect-images",
]


@pytest.fixture(scope="module")
def estimated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with an estimate of two passes, not to be written to."""
    folder = tmp_path_factory.mktemp("estimated") / "new"
    assert main(["effects", *FIRST, "--passes", "2", "-o", str(folder)]) == DONE
    return folder


@pytest.fixture
def again(estimated: Path, tmp_path: Path) -> Path:
    """Give a folder that goes on from there."""
    return Path(shutil.copytree(estimated, tmp_path / "again"))


def passes_in(folder: Path) -> list[int]:
    """Count the passes of each file of samples."""
    return sorted(len(read_samples(path)[0].passes) for path in folder.glob("*.safetensors"))


def test_json_and_files(again: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["effects", *FIRST, "--passes", "2", "-o", str(again), "--json"]) == DONE
    captured = capsys.readouterr()
    told = json.loads(captured.out)
    assert list(told) == ["method", "passes", "tensors", "groups", "blocks"]
    assert (told["method"], told["passes"]) == ("whole", 2)
    keys = {"tensors": ["key", "block", "element", "effect"], "groups": ["block", "element", "effect"]}
    for name in ("tensors", "groups", "blocks"):
        effects = [entry["effect"] for entry in told[name]]
        assert effects == sorted(effects, reverse=True)
        assert effects[0] > 0
        assert list(told[name][0]) == keys.get(name, ["block", "effect"])
    assert len({entry["key"] for entry in told["tensors"]}) == len(told["tensors"]) > 1000
    assert "note: A backward pass needs about" in captured.err

    with (again / "effects.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["block"], row["element"]) for row in rows] == [
        (entry["block"], entry["element"]) for entry in told["tensors"]
    ]
    for name in ("effect-map.png", "effect-chart.png"):
        assert np.asarray(read_image(again / name)).std() > 0
    (image,) = (again / "effect-images").iterdir()
    assert image.name == "00000-3.png"
    assert read_image(image).size == (64, 64)


def test_more_passes_and_true_figures(again: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["effects", *FIRST, "--passes", "3", "--confirm", "2", "-o", str(again)]) == DONE
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "4 images and 3 backward passes at most."
    assert lines[1].startswith("What more of b changes: the first 20 of 1,")
    assert lines[4].split() == ["true", "effect", "share", "together", "elements"]
    assert lines[-8:-1] == [str(again / name) for name in RESULTS]
    assert lines[-1].startswith("3 backward passes (2 of them were there) and 3 new images in ")
    assert passes_in(again) == [3]

    first, second, third = json.loads((again / "effects.json").read_text())["tensors"][:3]
    assert first["true"] >= second["true"] > 0
    assert "true" not in third
    host = StandaloneHost()
    request = ImageRequest(PROMPT, seed=3, steps=2, cfg=4, width=64, height=64)
    recipe = MergeRecipe(model_source(A), model_source(B), alpha=0.0)
    for entry in (first, second):
        rules = parse_rules(f"{entry['block']}:{entry['key']}:1")
        (made,) = make_images(host, request, MergeRecipe(recipe.model_a, recipe.model_b, alpha=0.0, rules=rules))
        base = read_image(again / "effect-images" / "00000-3.png")
        assert mean_difference(base, made.image) == pytest.approx(entry["true"], rel=1e-5)


def test_each_prompt_with_each_seed(again: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [
        "--alpha",
        "0.5",
        "--prompt",
        PROMPT,
        "--prompt",
        "x",
        "--seed",
        "3",
        "--seed",
        "4",
        "--seed",
        "3",
        *SIZE,
    ]
    assert main(["effects", A, B, *options, "--passes", "4", "-o", str(again)]) == DONE
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "2 prompts with 2 seeds each: 5 images and 4 backward passes at most."
    assert lines[1].startswith("What more of b changes: the first 20 of 3")
    assert lines[-8] == str(again / "effect-map-2.png")  # that of the first is still there
    assert lines[-1].startswith("4 backward passes and 5 new images in ")
    names = [path.name for path in sorted((again / "effect-images-2").iterdir())]
    assert names == ["00000-3.png", "00001-4.png", "00002-3.png", "00003-4.png"]
    assert passes_in(again) == [2, 4]
    told = json.loads((again / "effects-2.json").read_text())
    assert [(request["prompt"], request["seed"]) for request in told["requests"]] == [
        (PROMPT, 3),
        (PROMPT, 4),
        ("x", 3),
        ("x", 4),
    ]


def test_stop_keeps_passes(again: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    sample, left = PassMaker.sample, [2]

    def interrupted(self: PassMaker, *arguments: Any) -> Tensor:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return sample(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(PassMaker, "sample", interrupted)
        assert main(["effects", *FIRST, "--passes", "6", "-o", str(again)]) == STOPPED
    assert "Stopped; passes that are kept: 4. Start again to go on" in capsys.readouterr().err
    assert passes_in(again) == [4]
    assert main(["effects", *FIRST, "--passes", "5", "-o", str(again)]) == DONE
    assert "5 backward passes (4 of them were there)" in capsys.readouterr().out


def test_stop_keeps_true_figures(
    again: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make, left = StandaloneHost.make_images, [2]

    def interrupted(self: StandaloneHost, *arguments: Any, **more: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return make(self, *arguments, **more)

    options = ["effects", *FIRST, "--passes", "2", "-o", str(again)]
    with monkeypatch.context() as patched:
        patched.setattr(StandaloneHost, "make_images", interrupted)
        assert main([*options, "--confirm", "4"]) == STOPPED
    assert "Stopped; 2 of 4 tensors are confirmed: start again to go on." in capsys.readouterr().err
    (figures,) = again.glob("confirmed-*.json")
    assert len(json.loads(figures.read_text())["differences"]) == 2
    assert main([*options, "--confirm", "3"]) == DONE
    assert "and 2 new images in" in capsys.readouterr().out  # the recipe's, and one that confirms
    figures.write_text("{}")
    assert main([*options, "--confirm", "1"]) == DONE  # made anew
    assert "and 2 new images in" in capsys.readouterr().out


def test_a_host_that_cannot_differentiate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StandaloneHost, "differentiator", lambda _: None)
    assert main(["effects", *FIRST, "-o", str(tmp_path)]) == FAILED
    assert "This host cannot differentiate images" in capsys.readouterr().err


def test_single_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["effects", *FIRST, "--passes", "1", "--single-steps", "-o", str(tmp_path), "--json"]) == DONE
    told = json.loads(capsys.readouterr().out)
    assert (told["method"], told["passes"]) == ("steps", 1)
    assert told["tensors"][0]["effect"] > 0


def test_a_folder_that_cannot_be_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["effects", *FIRST, "-o", str(tmp_path / "file" / "x")]) == FAILED
    assert "Cannot make the folder" in capsys.readouterr().err


def test_equal_models_have_no_effects(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copied = str(shutil.copy(A, tmp_path / "c.safetensors"))
    options = [A, copied, "--alpha", "0", "--prompt", "x", *SIZE, "--passes", "1", "-o", str(tmp_path / "out")]
    assert main(["effects", *options]) == FAILED
    assert capsys.readouterr().err.endswith("where it counts, the models are equal.\n")


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ([A, B], WRONG_USAGE, "a prompt is needed: --prompt TEXT"),
        ([A, B, "--prompt", "x", "--passes", "0"], WRONG_USAGE, "--passes 0: it must be from 1 to 10,000"),
        ([A, B, "--prompt", "x", "--confirm", "-1"], WRONG_USAGE, "--confirm -1: it must be 0 or more"),
        (
            [A, B, "--prompt", "x", "--seed", "1", "--seed", "2", "--passes", "1"],
            WRONG_USAGE,
            "--passes 1: 2 images need 2 passes or more",
        ),
        ([A, B, "--prompt", "x", "--confirm", "999"], FAILED, "1,001 images, more than 1,000"),
        ([A, B, "--prompt", "x", "--width", "63"], FAILED, "The width is 63"),
        ([A, B, "--prompt", "x", "--sampler", "Eular"], FAILED, 'no sampler "Eular"'),
        ([A, B, "--prompt", "x", "--elemental", "OUT12::1"], WRONG_USAGE, 'unknown block "OUT12"'),
        ([A, B, "--prompt", "x", "--elemental", "OUT05:atn:1", "--strict"], WRONG_USAGE, "did you mean"),
        ([A, "none.safetensors", "--prompt", "x"], FAILED, "none.safetensors"),
        ([A, "--prompt", "x"], WRONG_USAGE, "two models are needed"),
        ([A, A, "--prompt", "x"], WRONG_USAGE, "Model B is the same file as model A: more of it changes nothing."),
        (
            [A, B, B, "--mode", "add-difference", "--prompt", "x"],
            WRONG_USAGE,
            "Model B is the same file as model C: more of it changes nothing.",
        ),
    ],
)
def test_wrong_usage(
    options: list[str], code: int, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    try:
        ended = main(["effects", *options, "-o", str(out)])
    except SystemExit as exc:
        ended = int(exc.code or 0)
    assert (ended, message in " ".join(capsys.readouterr().err.split())) == (code, True)
    assert not out.exists()


def test_the_bar_follows_the_work(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from elemental.cli.progress import ProgressBar, effect_watcher

    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    interrupts: list[int] = []
    with ProgressBar() as bar:
        watcher = effect_watcher(bar, interrupts)
        watcher.on_progress(0, 7, "generating")
        watcher.on_note("it needs\x1b memory")
        watcher.on_progress(1, 5, "pass 1 of 3")
        watcher.on_progress(2, 5, "pass 2 of 3")
    shown = capsys.readouterr().err
    for text in ("generating: 0/7 |", "note: it needs\\u001b memory\n", "pass 1 of 3: 1/5 |", "pass 2 of 3: 2/5 |"):
        assert text in shown
    assert not watcher.controls.should_stop()
    interrupts.append(2)
    assert watcher.controls.should_stop()
