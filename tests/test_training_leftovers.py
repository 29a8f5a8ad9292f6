"""What training leaves in checkpoints beside the weights: kept from A, and asked of no other file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from elemental.cli.main import DONE, main
from elemental.merge.files.checkpoint import Checkpoint

from .conftest import save
from .merging import State, assert_merged, merge, only, same_bits, save_all, whole

VAE = "first_stage_model."
LEFTOVERS: dict[str, State] = {
    "a discriminator": {
        VAE + "loss.discriminator.main.8.weight": torch.randn(1, 4),
        VAE + "loss.discriminator.main.9.running_var": torch.ones(4),
        VAE + "loss.discriminator.main.9.num_batches_tracked": torch.tensor(5),
    },
    "a perceptual loss": {
        VAE + "loss.perceptual_loss.net.slice1.0.weight": torch.randn(4, 3, 3, 3),
        VAE + "loss.perceptual_loss.scaling_layer.shift": torch.randn(1, 3, 1, 1),
    },
    "averages of the VAE": {
        VAE + "model_ema.decay": torch.tensor(0.99),
        VAE + "model_ema.decoderconv_inweight": torch.ones(3),
    },
    "a noise schedule": {
        "betas": torch.rand(9), "alphas_cumprod": torch.rand(9), "posterior_variance": torch.rand(9),
        "sqrt_recipm1_alphas_cumprod": torch.rand(9), "log_one_minus_alphas_cumprod": torch.rand(9),
    },
    "weights of losses": {"logvar": torch.rand(9), "lvlb_weights": torch.rand(9), "scale_factor": torch.tensor(0.18)},
    "LPIPS at the top": {"lpips.lin0.model.1.weight": torch.rand(1, 4, 1, 1), "loss.logvar": torch.zeros(())},
    "an optimizer": {"optimizer.state.0.exp_avg": torch.rand(4), "optimizer.state.0.step": torch.tensor(7)},
    "counters": {"global_step": torch.tensor(840000), "model.num_timesteps": torch.tensor(1000.0)},
    "a mask of OpenCLIP": {"cond_stage_model.model.attn_mask": torch.full((4, 4), float("-inf")).triu_(1)},
}  # fmt: skip


def shifted(state: State) -> State:
    def shift(tensor: Tensor) -> Tensor:
        return tensor + 1 if tensor.is_floating_point() else tensor

    return {key: shift(tensor) for key, tensor in state.items()}


@pytest.mark.parametrize("name", LEFTOVERS)
@pytest.mark.parametrize("owners", ["A", "B", "AB"])
def test_they_are_a_s(name: str, owners: str, tmp_path: Path) -> None:
    extra = LEFTOVERS[name]
    states = [whole(1) | (extra if "A" in owners else {}), whole(2) | (shifted(extra) if "B" in owners else {})]
    result = merge(save_all(tmp_path, states), tmp_path / "out.safetensors", spec="BASE::0.3")
    assert all(same_bits(result.pop(key), extra[key]) for key in (extra if "A" in owners else ()))
    assert_merged(result, [whole(1), whole(2)])


@pytest.mark.parametrize("name", LEFTOVERS)
@pytest.mark.parametrize("choice", ["b", "file", "prefixed file"])
def test_a_vae_needs_none_of_them(name: str, choice: str, tmp_path: Path) -> None:
    extra = LEFTOVERS[name]
    a, b = save_all(tmp_path, [whole(1) | extra, whole(2)])
    vae = only(whole(3), VAE)
    if choice == "file":  # a file of training itself: with leftovers, and no prefix
        vae = {key.removeprefix(VAE): tensor for key, tensor in {**vae, **shifted(extra)}.items()}
    file = save(tmp_path / "vae.safetensors", vae)
    words = ["--vae", "b" if choice == "b" else str(file), "-o", str(tmp_path / "out.safetensors")]
    assert main(["merge", str(a), str(b), *words]) == DONE
    with Checkpoint(tmp_path / "out.safetensors") as result:
        source = whole(2 if choice == "b" else 3)
        assert result.tensors.keys() == {**whole(1), **extra}.keys()
        assert all(same_bits(result.tensor(key), source[key]) for key in only(source, VAE))
        assert all(same_bits(result.tensor(key), tensor) for key, tensor in extra.items())


def test_leftovers_alone_are_no_vae(tmp_path: Path) -> None:
    """A model that was pruned of its VAE, but not of what trained it, gets one."""
    a = {**only(whole(1), "model.", "cond"), **LEFTOVERS["a discriminator"]}
    paths = [*map(str, save_all(tmp_path, [a, whole(2)])), str(tmp_path / "out.safetensors")]
    assert main(["merge", *paths[:2], "--vae", "b", "-o", paths[2]]) == DONE
    with Checkpoint(paths[2]) as result:
        assert result.tensors.keys() == {**a, **only(whole(2), VAE)}.keys()
