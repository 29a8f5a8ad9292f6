"""The commands ``plot`` and ``check`` as a user types them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from PIL.PngImagePlugin import PngInfo

pytest.importorskip("diffusers")

from elemental.cli.main import DONE, FAILED, STOPPED, WRONG_USAGE, main
from elemental.hosts.standalone.host import StandaloneHost
from elemental.images.files import read_image, read_texts
from elemental.runs.xy_plot_run import PLOT_FIELD

from .conftest import save
from .lora_files import lora, with_name

pytestmark = pytest.mark.slow

SIZE = ["--width", "64", "--height", "64", "--steps", "1", "--prompt", "a cat"]


@pytest.fixture
def ab(drawable: Mapping[str, Path]) -> list[str]:
    return [str(drawable["a"]), str(drawable["b"]), "--alpha", "0"]


def test_plot_grid_and_again(ab: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    axes = ["--x-type", "alpha", "--x", "0, 1", "--y-type", "pinpoint-element", "--y", ":attn2"]
    assert main(["plot", *ab, *axes, *SIZE, "--compare", "-o", str(tmp_path / "one")]) == DONE
    captured = capsys.readouterr()
    first, path, last = captured.out.splitlines()
    assert first == "2 images, 2 merges."
    assert path == str(tmp_path / "one" / "grid.png")
    assert "outside of generating" in last
    record = json.loads((tmp_path / "one" / "run.json").read_text())
    assert record["cells"]["x01-y00"]["figures"]["mean"] > 0

    assert main(["plot", "--recipe", path, "-o", str(tmp_path / "two")]) == DONE
    assert (tmp_path / "two" / "grid.png").read_bytes() == Path(path).read_bytes()

    # what is given beside the grid replaces its parts
    options = ["--x-type", "alpha", "--x", "0.5", "--seed", "9", "-o", str(tmp_path / "three")]
    assert main(["plot", "--recipe", path, *options]) == DONE
    cells = json.loads((tmp_path / "three" / "run.json").read_text())["cells"]
    assert list(cells) == ["x00-y00"]
    assert (cells["x00-y00"]["request"]["seed"], cells["x00-y00"]["recipe"]["rules"]) == (9, ":attn2:0.5")

    damaged = tmp_path / "damaged.png"
    text = PngInfo()
    for name, value in read_texts(Path(path)).items():
        text.add_text(name, value.replace('"groups": ', '"grups": ') if name == PLOT_FIELD else value)
    read_image(Path(path)).save(damaged, pnginfo=text)
    assert main(["plot", "--recipe", str(damaged), "-o", str(tmp_path / "four")]) == FAILED
    assert f"The plot in {damaged} is damaged: an entry is missing ('groups')" in capsys.readouterr().err

    # and a cell alone is an image with a recipe
    cell = tmp_path / "one" / "cells" / "x01-y00.png"
    assert main(["merge", "--recipe", str(cell), "--dry-run"]) == DONE
    assert ":attn2:1" in read_texts(cell)["parameters"]


def test_check_and_its_folder(ab: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--elements", "OUT08:attn2, M00", "--ratio", "1", *SIZE, "-o", str(tmp_path)]
    assert main(["check", *ab, *options]) == DONE
    folder = tmp_path / "a-b" / "diff"
    names = ["grid.png", "ranking.png", "diff.csv", "gif"]
    assert capsys.readouterr().out.splitlines()[1:-1] == [str(folder / name) for name in names]
    assert len(list((folder / "gif").iterdir())) == 2
    (folder / "ranking.png").unlink()
    assert main(["check", "--resume", str(tmp_path)]) == DONE  # the folder that was given, as of a plot
    assert (folder / "ranking.png").is_file()


def test_stop_and_resume(
    ab: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make = StandaloneHost.make_images

    def interrupted(self: StandaloneHost, request: object, **more: object) -> object:
        if getattr(request, "seed", 0) == 2:
            raise KeyboardInterrupt
        return make(self, request, **more)  # type: ignore[arg-type]

    out = str(tmp_path / "run")
    with monkeypatch.context() as patched:
        patched.setattr(StandaloneHost, "make_images", interrupted)
        assert main(["plot", *ab, "--x-type", "seed", "--x", "1, 2, 3", *SIZE, "-o", out]) == STOPPED
    captured = capsys.readouterr()
    assert "Stopped; 2 images not made" in captured.err
    assert f"elemental plot --resume {out}" in captured.err
    assert (tmp_path / "run" / "grid.png").is_file()
    assert main(["plot", "--resume", out]) == DONE
    assert "2 images in" in capsys.readouterr().out
    assert main(["plot", "--resume", out]) == DONE  # nothing is left to do
    assert capsys.readouterr().out.splitlines() == [str(tmp_path / "run" / "grid.png")]
    for beside in (["--seed", "5"], ["--seed", "0"], ["--alpha", "0"], ["--dry-run"], ["--device", "cuda"]):
        with pytest.raises(SystemExit):
            main(["plot", "--resume", out, *beside])
    assert main(["plot", "--resume", str(tmp_path)]) == FAILED
    assert "no run to go on with" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["plot", "--x-type", "alpha", "--x", "1"], WRONG_USAGE, "-o DIR"),
        (["plot", "--x", "1", "-o", "."], WRONG_USAGE, "--x-type and --x go together"),
        (["plot", "-o", "."], WRONG_USAGE, "a plot needs --x-type and --x"),
        (["plot", "--x-type", "alfa", "--x", "1", "-o", "."], WRONG_USAGE, "invalid choice"),
        (["plot", "--x-type", "sampler", "--x", "Eular", "--dry-run"], WRONG_USAGE, 'x axis, sampler, value "Eular"'),
        (["plot", "--x-type", "alpha", "--x", "1", "--sampler", "Eular", "--dry-run"], FAILED, 'no sampler "Eular"'),
        (["plot", "--x-type", "elemental", "--x", "OUT12::1", "--dry-run"], WRONG_USAGE, 'unknown block "OUT12"'),
        (["plot", "--sample", "6", "--dry-run"], WRONG_USAGE, "the samples of a plot are 1, 2"),
        (["plot", "--resume", "x"], WRONG_USAGE, "takes everything from the run; leave out the models, --alpha"),
        (
            ["check", "--elements", "OUT05", "--ratio", "1", "--sampler", "Eular", "--dry-run"],
            FAILED,
            'no sampler "Eular"',
        ),
        (["check", "--elements", "OUT05", "--dry-run"], WRONG_USAGE, "a check needs --elements and --ratio"),
        (["check", "--elements", "OUT05:attn:1", "--ratio", "1", "--dry-run"], WRONG_USAGE, "without a ratio"),
        (["check", "--elements", "OUT05:atn", "--ratio", "1", "--strict", "--dry-run"], WRONG_USAGE, "did you mean"),
    ],
)
def test_wrong_usage(
    ab: list[str], options: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command, *rest = options
    try:
        ended = main([command, *ab, *rest])
    except SystemExit as exc:
        ended = int(exc.code or 0)
    assert (ended, message in " ".join(capsys.readouterr().err.split())) == (code, True)


def test_many_images_want_a_yes(ab: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    axes = ["--x-type", "seed", "--x", ",".join(map(str, range(400)))]
    axes += ["--y-type", "cfg", "--y", ",".join(f"1.{n:03}" for n in range(250)), "--dry-run"]
    assert main(["plot", *ab, *axes]) == FAILED
    assert "100,000 images" in capsys.readouterr().err
    axes = ["--x-type", "seed", "--x", ",".join(map(str, range(1001))), "--dry-run"]
    assert main(["plot", *ab, *axes, "--yes"]) == DONE
    assert capsys.readouterr().out.startswith("1,001 images, 1 merge.")


def test_samples_are_listed_and_taken(ab: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plot", "--sample", "0"]) == DONE
    listed = capsys.readouterr().out.splitlines()
    assert listed[0].split(None, 1) == ["1", 'The strip of "elemental demo": what the element groups of one block do']
    assert main(["plot", *ab[:2], "--sample", "3", "--x-type", "alpha", "--x", "1", "--dry-run"]) == DONE
    assert capsys.readouterr().out.startswith("8 images, 8 merges.")
    for number in (1, 2, 4, 5):
        assert main(["plot", *ab[:2], "--sample", str(number), "--dry-run", "--strict"]) == DONE
    for number in (6, 7):
        assert main(["check", *ab[:2], "--sample", str(number), "--dry-run", "--strict"]) == DONE


def test_values_from_files(ab: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "rules.txt"
    file.write_text("OUT00::0.5", encoding="utf-8")
    assert main(["plot", *ab, "--sample", "2", "--elemental-file", str(file), "-o", str(tmp_path / "x"), *SIZE]) == DONE
    record = json.loads((tmp_path / "x" / "run.json").read_text())
    assert record["definition"]["recipe"]["rules"] == "OUT00::0.5"
    assert record["definition"]["recipe"]["models"]["a"]["size"] > 0
    capsys.readouterr()
    file = tmp_path / "specs.txt"
    file.write_text("\n\nOUT05:attn2:1\n\nOUT06::1\n", encoding="utf-8")
    assert main(["plot", *ab, "--x-type", "elemental", "--x-file", str(file), "--dry-run"]) == DONE
    assert capsys.readouterr().out.splitlines()[1:4] == [
        "x00-y00 no rules",
        "x01-y00 OUT05:attn2:1",
        "x02-y00 OUT06::1",
    ]
    assert main(["plot", *ab, "--x-type", "elemental", "--x-file", str(tmp_path / "no.txt"), "--dry-run"]) == FAILED
    assert "Cannot read the values" in capsys.readouterr().err


def test_axes_that_set_mode_and_beta_need_no_options_for_them(
    drawable: Mapping[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    abc = [str(drawable[name]) for name in "abc"]
    modes = ["--x-type", "mode", "--x", "weight-sum, add-difference", "--dry-run"]
    assert main(["plot", *abc, *modes]) == DONE
    betas = ["--x-type", "alpha-beta", "--x", "0.1 0.2, 0.3 0.4", "--mode", "sum-twice", "--dry-run"]
    assert main(["plot", *abc, *betas]) == DONE
    assert capsys.readouterr().out.count("2 images, 2 merges.") == 2


def test_a_third_axis_and_a_first_image_without_rules(ab: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    axes = ["--x-type", "elemental", "--x", "OUT05::1", "--z-type", "seed", "--z", "1, 2"]
    assert main(["plot", *ab, *axes, *SIZE, "--first-without-rules", "--dry-run"]) == DONE
    assert capsys.readouterr().out.splitlines()[:3] == [
        "4 images, 2 merges.",
        "x00-y00-z00 no rules seed 1",
        "x01-y00-z00 OUT05::1 seed 1",
    ]
    for wrong in (["--first-without-rules"], ["--z-type", "seed"]):
        with pytest.raises(SystemExit) as ended:
            main(["plot", *ab, "--x-type", "alpha", "--x", "0, 1", *wrong, "--dry-run"])
        assert ended.value.code == WRONG_USAGE


def test_the_ratio_of_a_lora_added_to_a_alone_varies(
    drawable: Mapping[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layer = with_name("lora_unet_down_blocks_0_resnets_0_conv1", lora((32, 32, 3, 3)))
    file = save(tmp_path / "style.safetensors", layer)
    axis = ["--x-type", "lora", "--x", "style:0-1(+0.5)"]
    out = tmp_path / "plot"
    assert main(["plot", str(drawable["a"]), "--lora", str(file), *axis, *SIZE, "-o", str(out)]) == DONE
    assert capsys.readouterr().out.startswith("3 images, 3 merges.")
    assert len({read_image(path).tobytes() for path in (out / "cells").iterdir()}) == 3
    missing = ["plot", str(drawable["a"]), str(drawable["b"]), *axis, "--dry-run"]
    assert main(missing) == WRONG_USAGE
    assert "The merge has no LoRA whose ratio could vary: add it with --lora" in capsys.readouterr().err
