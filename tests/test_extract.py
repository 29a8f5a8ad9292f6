"""A LoRA of the difference between two models: it leads from one to the other, and what it lacks is said."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from elemental import Controls, LoraSource, MergeError, MergeRecipe, Stopped, merge_to_file, model_source
from elemental.cli.main import DONE, FAILED, WRONG_USAGE, main
from elemental.merge.extract import extract_lora

from .conftest import save
from .lora_files import State, lora
from .merging import only
from .test_lora import CONV, SPELLINGS, TO_Q, some

BIAS = "model.diffusion_model.input_blocks.0.0.bias"


def pair(folder: Path, layout: str) -> tuple[Path, Path, set[str]]:
    """Make a model, and another one that differs from it by products of rank 4 in some layers."""
    a = some(layout, 1, torch.float32)
    keys = set(SPELLINGS[layout].values())
    keys |= {key for key in a if key.endswith(("resblocks.1.attn.in_proj_weight", "1.model.text_projection"))}
    b: State = {
        key: (tensor + lora(tuple(tensor.shape))[1]).float() if key in keys else tensor for key, tensor in a.items()
    }
    return save(folder / "a.safetensors", a), save(folder / "b.safetensors", b), keys


@pytest.mark.parametrize(("layout", "prefix"), [("sd1", "lora_te_"), ("sd2", "lora_te_"), ("sdxl", "lora_te2_")])
def test_added_to_a_it_is_b(tmp_path: Path, layout: str, prefix: str) -> None:
    a, b, keys = pair(tmp_path, layout)
    found = extract_lora(model_source(a), model_source(b), tmp_path / "lora.safetensors", rank=12)
    assert found.left_out == ()
    assert found.remaining < 2e-3
    names = {key.rpartition(".lora_")[0] for key in load_file(found.path) if ".lora_" in key}
    assert len(names) == found.layers
    assert any(name.startswith(prefix) for name in names)
    assert any(name.startswith("lora_unet_input_blocks_") for name in names) is (layout == "sdxl")
    source = model_source(a)
    recipe = MergeRecipe(source, source, alpha=0.0, loras=(LoraSource(model_source(found.path)),))
    result = merge_to_file(recipe, tmp_path / "out.safetensors", with_hashes=False)
    assert result.plan.loras[0].applied == found.layers
    baked, wanted, before = (load_file(path) for path in (result.path, b, a))
    for key in keys:
        difference = (wanted[key] - before[key]).norm()
        assert (baked[key] - wanted[key]).norm() < 3e-3 * difference, key


def test_what_remains_is_what_the_singular_values_say(tmp_path: Path) -> None:
    a = some("sd1", 1, torch.float32)
    b = dict(a)
    generator = torch.Generator().manual_seed(1)
    for key in (TO_Q, CONV):
        b[key] = a[key] + torch.randn(a[key].shape, generator=generator) * 0.1
    b[BIAS] = a[BIAS] + 1
    one, other = save(tmp_path / "a.safetensors", a), save(tmp_path / "b.safetensors", b)
    values = [torch.linalg.svdvals((b[key].double() - a[key].double()).flatten(1)) for key in (TO_Q, CONV)]
    for rank in (1, 3):
        out = tmp_path / f"{rank}.safetensors"
        found = extract_lora(model_source(one), model_source(other), out, rank=rank)
        rest = sum(float(each[rank:].square().sum()) for each in values)
        whole = sum(float(each.square().sum()) for each in values)
        assert found.remaining == pytest.approx(math.sqrt(rest / whole), rel=1e-3)
        assert (found.layers, found.left_out) == (2, (BIAS,))
        assert {tuple(tensor.shape) for tensor in only(load_file(out), "lora_unet_up_blocks_3").values()} == {
            (8, rank, 1, 1),
            (rank, 24, 3, 3),
            (),
        }


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b, _ = pair(tmp_path, "sd1")
    out = tmp_path / "lora.safetensors"
    words = ["extract", str(a), str(b), "-o", str(out), "--rank"]
    assert main([*words, "2"]) == DONE
    printed = capsys.readouterr().out
    assert "layers of rank 2; " in printed
    assert "% of the difference remains." in printed
    before = out.read_bytes()
    assert main([*words, "4"]) == FAILED
    assert "exists" in capsys.readouterr().err
    assert out.read_bytes() == before
    assert main([*words, "4", "--overwrite"]) == DONE
    assert out.read_bytes() != before
    with pytest.raises(SystemExit, match=str(WRONG_USAGE)):
        main([*words, "0", "--overwrite"])


def test_what_cannot_be_extracted(tmp_path: Path) -> None:
    a, b, _ = pair(tmp_path, "sd1")
    one, other, out = model_source(a), model_source(b), tmp_path / "lora.safetensors"
    with pytest.raises(MergeError, match="nothing to extract: all layers of the models are alike"):
        extract_lora(one, one, out)
    with pytest.raises(MergeError, match="is one of the models; give the LoRA another name"):
        extract_lora(one, other, b, overwrite=True)
    with pytest.raises(MergeError, match=r"must end in \.safetensors"):
        extract_lora(one, other, tmp_path / "lora.ckpt")
    xl = model_source(save(tmp_path / "xl.safetensors", some("sdxl", 1, torch.float32)))
    with pytest.raises(MergeError, match="different architectures"):
        extract_lora(one, xl, out)
    broken = load_file(b)
    broken[TO_Q][0, 0] = float("nan")
    with pytest.raises(MergeError, match="attn1_to_q: a model holds NaN or infinite numbers there"):
        extract_lora(one, model_source(save(tmp_path / "n.safetensors", broken)), out)
    with pytest.raises(Stopped):
        extract_lora(one, other, out, controls=Controls(should_stop=lambda: True))
    assert not out.exists()
