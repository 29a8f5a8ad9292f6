"""What is said of the chosen models below their lists; without a page."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from elemental.demo.layout import Layout
from elemental.merge.files.checkpoint import Checkpoint
from elemental.session import model_facts
from elemental.session.form import MergeForm
from elemental.session.model_facts import read_facts, read_preview
from elemental.session.session import session_of
from elemental.ui.model_cards import draw_cards

from .conftest import INPAINTING, LAYOUTS, random_state, save
from .fake_host import FakeHost
from .plotting import load

pytest.importorskip("gradio")


@pytest.mark.parametrize(
    ("layout", "dtype", "kind", "said"),
    [
        (LAYOUTS["sd1"], torch.float16, "SD 1.x", "fp16"),
        (LAYOUTS["sd2"], torch.float32, "SD 2.x", "fp32"),
        (LAYOUTS["sdxl"], torch.bfloat16, "SDXL", "bf16"),
        (INPAINTING["sd1"], torch.float16, "SD 1.x inpainting", "fp16"),
    ],
)
def test_kind_size_and_format(layout: Layout, dtype: torch.dtype, kind: str, said: str, tmp_path: Path) -> None:
    path = save(tmp_path / "m.safetensors", random_state(layout, 1, dtype))
    facts = read_facts(path)
    assert (facts.kind, facts.dtype) == (kind, said)
    assert facts.size == f"{path.stat().st_size / 1e6:.1f} MB"


def test_a_file_that_is_no_model_has_a_size(tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_bytes(b"x" * 2_000_000)
    facts = read_facts(tmp_path / "m.safetensors")
    assert (facts.kind, facts.size, facts.dtype) == ("", "2.0 MB", "")


def test_a_preview_is_found_as_the_webui_finds_it(tmp_path: Path) -> None:
    model = tmp_path / "m.v2.safetensors"
    assert read_preview(model) == b""
    Image.new("RGB", (640, 960), "red").save(tmp_path / "m.v2.preview.png")
    red = read_preview(model)
    assert red.startswith(b"\xff\xd8")
    Image.new("RGB", (640, 960), "blue").save(tmp_path / "m.v2.png")
    blue = read_preview(model)
    assert blue not in (b"", red)
    Image.new("RGB", (64, 96), "green").save(tmp_path / "m.v2.png")
    os.utime(tmp_path / "m.v2.png", (1, 1))
    assert read_preview(model) not in (b"", red, blue)
    (tmp_path / "m.v2.png").write_text("damaged")
    assert read_preview(model) == red


def test_only_chosen_models_are_read_and_only_once(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in models.values():
        (tmp_path / path.name).symlink_to(path)
    for number in range(300):
        (tmp_path / f"other-{number}.safetensors").write_bytes(b"no model")
    opened: list[str] = []

    def note(path: Path) -> Checkpoint:
        opened.append(path.name)
        return Checkpoint(path)

    monkeypatch.setattr(model_facts, "Checkpoint", note)
    session = session_of(FakeHost(load, output=tmp_path / "out", models=tmp_path))
    form = MergeForm("a.safetensors", "b.safetensors", "c.safetensors")
    for _ in range(3):
        drawn = draw_cards(session, form)
    assert opened == ["a.safetensors", "b.safetensors"]
    assert drawn.count("<span") == 2
    assert 'title="a.safetensors"' in drawn
    assert "SD 1.x · " in drawn
    sum_twice = MergeForm("a.safetensors", "gone.safetensors", "c.safetensors", mode="sum-twice")
    assert "<b>C</b>" in draw_cards(session, sum_twice)
    assert "<b>B</b>" not in draw_cards(session, sum_twice)
