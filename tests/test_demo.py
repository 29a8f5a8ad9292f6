"""The demo pair, and the strip that explains elemental merging."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from elemental.architectures.blocks import SD1
from elemental.cli.main import DONE, main
from elemental.demo import checkpoint_pair as make
from elemental.demo.layout import DEMO_LAYOUT, tensor_shapes
from elemental.merge.files.checkpoint import Checkpoint

PAIR = [Path(make.__file__).with_name(f"{name}.safetensors") for name in "ab"]


@pytest.mark.parametrize("path", PAIR, ids=lambda path: path.stem)
def test_the_pair_has_every_block_and_element_of_sd1(path: Path) -> None:
    assert path.stat().st_size < 32_000_000
    assert path.with_suffix(".yaml").is_file()
    with Checkpoint(path) as checkpoint:
        assert checkpoint.architecture is SD1
        assert {key: info.shape for key, info in checkpoint.tensors.items()} == tensor_shapes(DEMO_LAYOUT)
        assert sum(key.startswith("model.diffusion_model.") for key in checkpoint.tensors) == 686
        assert {info.dtype for info in checkpoint.tensors.values()} == {"F16", "I64"}


@pytest.mark.slow
def test_the_demo_shows_effects_of_element_groups(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("diffusers")
    assert main(["demo", "-o", str(tmp_path / "demo")]) == DONE
    printed = capsys.readouterr().out
    strip = tmp_path / "demo" / "strip"
    assert str(strip / "grid.png") in printed
    cells = json.loads((strip / "run.json").read_text())["cells"]
    shares: dict[str, list[float]] = {facts["x"]: [] for facts in cells.values()}
    for facts in cells.values():
        if "figures" in facts:
            shares[facts["x"]].append(facts["figures"]["share"])
    plain, whole, *groups = shares.items()
    assert plain == ("no rules", [])
    assert whole[0].endswith("::2")
    for _, found in (whole, *groups):
        assert max(found) > 1  # percent: visible
    assert len({max(found) for _, found in groups}) == len(groups)  # and different


@pytest.mark.slow
@pytest.mark.parametrize(("command", "sample", "count"), [("plot", 2, 6), ("plot", 4, 12), ("check", 8, 17)])
def test_samples_run_on_the_pair(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, sample: int, count: int
) -> None:
    pytest.importorskip("diffusers")
    request = ["--prompt", "a red circle on blue", "--steps", "1", "--width", "64", "--height", "64"]
    assert main([command, *map(str, PAIR), "--sample", str(sample), *request, "-o", str(tmp_path)]) == DONE
    assert f"\n{count} images" in f"\n{capsys.readouterr().out}"
    assert len(list(tmp_path.rglob("grid.png"))) == 1
    assert len(list(tmp_path.rglob("x0[01]-y*.png"))) >= count - 8
