"""Which dictionary of a pickle is the model: told by what it holds and where it lies, never guessed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch

from elemental.cli.main import DONE, FAILED, main
from elemental.errors import CheckpointError
from elemental.merge.files.checkpoint import Checkpoint

from .merging import State, assert_merged, ema_of, merge, only, same_bits, save_all, whole

MODEL, STALE = whole(1), whole(2)
VAE, CLIP = "first_stage_model.", "cond_stage_model."
U_NET, COPY = (
    {key.removeprefix("model.diffusion_model."): tensor for key, tensor in only(state, "model.").items()}
    for state in (MODEL, STALE)
)
OPTIMIZER = {"state": {0: {"step": 3, "exp_avg": torch.ones(2), "exp_avg_sq": torch.ones(2)}}, "param_groups": []}

READ: dict[str, tuple[Any, State, str]] = {
    "module of DeepSpeed": ({"module": MODEL, "optimizer": OPTIMIZER}, MODEL, ""),
    "model": ({"model": MODEL, "epoch": 3}, MODEL, ""),
    "model_state_dict": ({"model_state_dict": MODEL, "optimizer_state_dict": OPTIMIZER}, MODEL, ""),
    "module in state_dict": ({"state_dict": {"module": MODEL, "ids": torch.ones(3)}}, MODEL, ""),
    "tensors beside state_dict": ({**STALE, "state_dict": MODEL}, MODEL, "the dictionary at the top in the file"),
    "a VAE around a U-Net": ({**only(STALE, VAE), "model": MODEL}, MODEL, "the dictionary at the top in the file"),
    "an older copy called module": ({"state_dict": {**MODEL, "module": STALE}}, MODEL, '"state_dict/module" in the'),
    "an older copy deeper": ({**MODEL, "old": {"state_dict": STALE}}, MODEL, '"old/state_dict" in the file'),
    "averages beside state_dict": ({"ema": STALE, "state_dict": MODEL}, MODEL, '"ema" in the file is not read'),
    "the U-Net's averages": ({"ema": COPY, "model": MODEL}, MODEL, '"ema" in the file is not read'),
    "averages of less depth": ({"ema": COPY, "run": {"model": MODEL}}, MODEL, '"ema" in the file is not read'),
    "the same tensors twice": ({"model": MODEL, "again": dict(MODEL)}, MODEL, ""),
    "one dictionary twice": ({"ema": MODEL, "model": MODEL}, MODEL, ""),
    "losses beside it": ({"loss": torch.ones(1), "losses": {"x": torch.ones(2)}, "model": MODEL}, MODEL, ""),
    "averages within": ({"state_dict": {**MODEL, **ema_of(STALE, 1)}}, {**MODEL, **ema_of(STALE, 1)}, ""),
    "itself within": ({"state_dict": {**MODEL, "state_dict": MODEL}}, MODEL, ""),
}


@pytest.mark.parametrize("name", READ)
def test_the_model_is_found(name: str, tmp_path: Path) -> None:
    content, state, told = READ[name]
    torch.save(content, tmp_path / "x.ckpt")
    with Checkpoint(tmp_path / "x.ckpt") as file:
        assert list(file.tensors) == list(state)
        assert all(same_bits(file.tensor(key), tensor) for key, tensor in state.items())
        assert told in " ".join(file.renamings)
        assert bool(told) is bool(file.renamings)


ALTERNATIVES: dict[str, tuple[Any, tuple[str, str]]] = {
    "model and ema": ({"model": MODEL, "ema": STALE}, ('"model"', '"ema"')),
    "U-Net and its averages": ({"unet": U_NET, "unet_ema": COPY}, ('"unet"', '"unet_ema"')),
    "deeper": ({"a": {"model": MODEL}, "b": {"model": STALE}}, ('"a/model"', '"b/model"')),
    "in two spellings": ({"model": only(MODEL, "model."), "ema": COPY}, ('"model"', '"ema"')),
    "in state_dict": (
        {"state_dict": {"online": MODEL, "target": STALE}},
        ('"state_dict/online"', '"state_dict/target"'),
    ),
}


@pytest.mark.parametrize("name", ALTERNATIVES)
def test_two_models_are_refused(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content, both = ALTERNATIVES[name]
    torch.save(content, tmp_path / "x.ckpt")
    assert main(["inspect", str(tmp_path / "x.ckpt")]) == FAILED
    error = capsys.readouterr().err
    assert "holds two models" in error
    assert all(one in error for one in both)


def test_what_is_found_is_merged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (a,) = save_all(tmp_path, [whole(3)])
    torch.save({"ema": STALE, "state_dict": {**MODEL, "state_dict": STALE}}, tmp_path / "b.ckpt")
    result = merge([a, tmp_path / "b.ckpt"], tmp_path / "out.safetensors")
    assert_merged(result, [whole(3), MODEL])
    assert main(["plan", str(a), str(tmp_path / "b.ckpt")]) == DONE
    assert 'Names in B: "ema" in the file is not read' in capsys.readouterr().out


def bare(state: State, prefix: str) -> State:
    """Give a part of a model without what stands before it."""
    return {key.removeprefix(prefix): tensor for key, tensor in only(state, prefix).items()}


VAE_ALONE, CLIP_ALONE = bare(MODEL, VAE), bare(MODEL, CLIP + "transformer.")
XL = whole(1, layout="sdxl")
XL_PARTS = {
    "unet": bare(XL, "model.diffusion_model."),
    "vae": bare(XL, VAE),
    "text_encoder": bare(XL, "conditioner.embedders.0.transformer."),
    "text_encoder_2": bare(XL, "conditioner.embedders.1.model."),
}
APART: dict[str, tuple[Any, State]] = {
    "without prefixes": ({"unet": U_NET, "vae": VAE_ALONE, "text_encoder": CLIP_ALONE, "optimizer": OPTIMIZER}, MODEL),
    "with prefixes": ({"vae": only(MODEL, VAE), "te": only(MODEL, CLIP), "unet": only(MODEL, "model.")}, MODEL),
    "other names": ({"model": U_NET, "autoencoder": VAE_ALONE, "cond_stage_model": bare(MODEL, CLIP)}, MODEL),
    "in each other": ({"state_dict": {**U_NET, "vae": VAE_ALONE, "te": CLIP_ALONE}}, MODEL),
    "a U-Net in a VAE": ({**only(MODEL, VAE), "unet": U_NET, "te": CLIP_ALONE}, MODEL),
    "SDXL": (XL_PARTS, XL),
}


@pytest.mark.parametrize("name", APART)
def test_parts_beside_each_other_are_joined(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content, state = APART[name]
    torch.save(content, tmp_path / "x.ckpt")
    with Checkpoint(tmp_path / "x.ckpt") as file:
        assert file.tensors.keys() == state.keys() == set(file.file_keys.values())
        assert all(same_bits(file.tensor(key), tensor) for key, tensor in state.items())
    (a,) = save_all(tmp_path, [state])
    assert main(["plan", str(a), str(tmp_path / "x.ckpt"), "--strict"]) == DONE
    assert "in the file are joined" in capsys.readouterr().out


UNREAD: dict[str, tuple[Any, str]] = {
    "a text encoder of transformers": (
        {"unet": U_NET, "vae": VAE_ALONE, "clip": CLIP_ALONE},
        '"unet": "clip" is not read',
    ),
    "parts beside state_dict": ({"state_dict": U_NET, "vae": VAE_ALONE}, '"state_dict": "vae" is not read'),
    "two VAEs": ({"unet": U_NET, "vae": VAE_ALONE, "vae_ema": bare(STALE, VAE)}, '"vae_ema" is not read'),
    "averages of the U-Net": ({"model": MODEL, "model_ema": COPY}, '"model_ema" is not read'),
    "averages of more": ({"model": U_NET, "ema": STALE}, '"ema": "model" is not read'),
    "less in state_dict": ({**MODEL, "state_dict": only(STALE, "model.")}, "the dictionary at the top is not read"),
}


@pytest.mark.parametrize("name", UNREAD)
def test_what_may_be_meant_and_is_not_read_is_warned_of(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content, told = UNREAD[name]
    (a,) = save_all(tmp_path, [whole(3)])
    torch.save(content, tmp_path / "b.ckpt")
    assert main(["plan", str(a), str(tmp_path / "b.ckpt")]) == DONE
    assert any("warning: " in line and told in line for line in capsys.readouterr().err.splitlines())


def test_one_of_two_state_dicts_in_each_other_is_no_model_of_hosts(tmp_path: Path) -> None:
    torch.save({"state_dict": {"state_dict": STALE, "model": MODEL}}, tmp_path / "x.ckpt")
    with pytest.raises(CheckpointError, match="holds two models"):
        Checkpoint(tmp_path / "x.ckpt")


def test_more_models_than_anybody_saves(tmp_path: Path) -> None:
    tensor = torch.zeros(1)
    content = {str(number): {"input_blocks.0.0.weight": tensor} for number in range(4000)}
    torch.save({"input_blocks.0.0.weight": tensor, **content}, tmp_path / "x.ckpt")
    began = time.process_time()
    with pytest.raises(CheckpointError, match="holds 4,001 models"):
        Checkpoint(tmp_path / "x.ckpt")
    assert time.process_time() - began < 5


def test_a_number_that_cannot_be_written(tmp_path: Path) -> None:
    torch.save({10**5000: {"x": torch.ones(1)}, "model": MODEL}, tmp_path / "x.ckpt")
    with Checkpoint(tmp_path / "x.ckpt") as file:
        assert list(file.tensors) == list(MODEL)


def test_dictionaries_in_dictionaries(tmp_path: Path) -> None:
    content: Any = dict(MODEL)
    for _ in range(100):
        content = {"x": content}
    torch.save(content, tmp_path / "x.ckpt")
    with pytest.raises(CheckpointError, match="holds no tensors by name"):
        Checkpoint(tmp_path / "x.ckpt")
