"""Numbers that are weights only together with what lies beside them are never merged, whatever their names."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from elemental.cli.main import DONE, FAILED, main

from .conftest import save
from .merging import State, ema_of, only, save_all, some_elements, u_net, whole

UNET = "model.diffusion_model."
FP8 = torch.float8_e4m3fn
LAYERS = "attn2.to_k"


def layers(state: State) -> list[str]:
    return [key.removesuffix(".weight") for key in state if key.endswith(LAYERS + ".weight")]


def each_layer(change: Callable[[str, torch.Tensor], State]) -> Callable[[State], State]:
    """Put other tensors in the place of a layer's weight."""

    def changed(state: State) -> State:
        found = dict(state)
        for layer in layers(state):
            found |= change(layer, found.pop(layer + ".weight").float())
        return found

    return changed


def codes(text: str) -> torch.Tensor:
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


def fp8_with(**beside: torch.Tensor) -> Callable[[State], State]:
    return each_layer(
        lambda layer, weight: {
            f"{layer}.weight": (weight * 100).to(FP8),
            **{f"{layer}.{n}": t for n, t in beside.items()},
        }
    )


def plain_with(name: str, factor: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[State], State]:
    return each_layer(lambda layer, weight: {f"{layer}.weight": weight.half(), layer + name: factor(weight)})


def packed(weight: torch.Tensor) -> torch.Tensor:
    return torch.zeros(weight.numel() // 2, 1, dtype=torch.uint8)


FORMATS: dict[str, tuple[str, Callable[[State], State]]] = {
    "by blocks of 128": ("scaled fp8", fp8_with(weight_scale_inv=torch.ones(1, 1))),
    "scales of inputs alone": ("scaled fp8", fp8_with(input_scale=torch.tensor(1.0))),
    "newer ComfyUI": ("ComfyUI", fp8_with(weight_scale=torch.tensor(0.1), comfy_quant=codes('{"format": "x"}'))),
    "nvfp4": (
        "nvfp4",
        each_layer(
            lambda layer, weight: {
                f"{layer}.weight": torch.zeros(len(weight), weight.shape[1] // 2, dtype=torch.uint8),
                f"{layer}.weight_scale": torch.ones(len(weight), 1).to(FP8),
                f"{layer}.weight_scale_2": torch.tensor(0.1),
            }
        ),
    ),
    "bitsandbytes nf4": (
        "bitsandbytes nf4",
        each_layer(
            lambda layer, weight: {
                f"{layer}.weight": packed(weight),
                f"{layer}.weight.absmax": torch.ones(2),
                f"{layer}.weight.quant_map": torch.linspace(-1, 1, 16),
                f"{layer}.weight.quant_state.bitsandbytes__nf4": codes("{}"),
            }
        ),
    ),
    "bitsandbytes int8": (
        "bitsandbytes int8",
        each_layer(
            lambda layer, weight: {
                f"{layer}.weight": weight.to(torch.int8),
                f"{layer}.SCB": torch.ones(len(weight)),
                f"{layer}.weight_format": torch.tensor(0, dtype=torch.uint8),
            }
        ),
    ),
    "GPTQ": (
        "GPTQ",
        each_layer(
            lambda layer, weight: {
                f"{layer}.qweight": torch.zeros(1, len(weight), dtype=torch.int32),
                f"{layer}.qzeros": torch.zeros(1, 1, dtype=torch.int32),
                f"{layer}.scales": torch.ones(1, len(weight)).half(),
            }
        ),
    ),
    "SVDQuant": (
        "SVDQuant",
        each_layer(
            lambda layer, weight: {
                f"{layer}.qweight": torch.zeros(len(weight), 4, dtype=torch.int8),
                f"{layer}.wscales": torch.ones(1, len(weight)).half(),
            }
        ),
    ),
    "optimum-quanto": (
        "quanto",
        each_layer(
            lambda layer, weight: {
                f"{layer}.weight._data": weight.to(torch.int8),
                f"{layer}.weight._scale": torch.ones(len(weight), 1),
            }
        ),
    ),
    "int8 without a factor": ("int8", each_layer(lambda layer, weight: {f"{layer}.weight": weight.to(torch.int8)})),
    "packed without a factor": ("packed", each_layer(lambda layer, weight: {f"{layer}.weight": packed(weight)})),
    "an unknown factor of rows": ("with factors beside them", plain_with(".row_gain", lambda weight: weight[:, 0])),
    "an unknown factor": ("with factors beside them", plain_with("_multiplier", lambda _: torch.tensor(0.5))),
    "an unknown factor of blocks": ("with factors beside", plain_with(".weight.step", lambda weight: weight[:4, :2])),
    "factors in a place of their own": (
        "with factors beside them",
        lambda state: {**state, **{f"scales.{layer}.weight": torch.tensor(0.5) for layer in layers(state)}},
    ),
    "factors below a folder": (
        "with factors beside them",
        lambda state: {**state, **{f"quant_scales/{layer}.weight": torch.tensor(0.5) for layer in layers(state)}},
    ),
    "factors by names without dots": (
        "scaled fp8",
        lambda state: {
            **fp8_with()(state),
            **{f"scale.{layer.replace('.', '_')}_weight": torch.tensor(0.5) for layer in layers(state)},
        },
    ),
    "one factor of fp8": (
        "scaled fp8",
        lambda state: {**fp8_with()(state), layers(state)[0] + ".gain": torch.tensor(0.5)},
    ),
    "a marker of the U-Net": ("ComfyUI", lambda state: {**state, UNET + "scaled_fp8": torch.zeros(2).to(FP8)}),
    "a first layer that is packed": (
        "packed",
        lambda state: {**state, UNET + "input_blocks.0.0.weight": torch.zeros(144, 1, dtype=torch.uint8)},
    ),
    "a text encoder of int8": (
        "int8",
        lambda state: {key: t.to(torch.int8) if key.endswith("mlp.fc1.weight") else t for key, t in state.items()},
    ),
}  # fmt: skip


def contiguous(state: State) -> State:
    return {key: tensor.contiguous().clone() for key, tensor in state.items()}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save(tmp_path_factory.mktemp("plain") / "plain.safetensors", some_elements(whole(1))))


@pytest.mark.parametrize("kind", FORMATS)
def test_quantised_models_are_refused_by_name(
    tmp_path: Path, kind: str, plain: str, capsys: pytest.CaptureFixture[str]
) -> None:
    spoken, change = FORMATS[kind]
    quantised = str(save(tmp_path / "q.safetensors", contiguous(change(some_elements(whole(2))))))
    difference = ["--mode", "add-difference"]
    for models, role in (
        ([quantised, plain], "A"),
        ([plain, quantised], "B"),
        ([plain, plain, quantised, *difference], "C"),
    ):
        assert main(["merge", *models, "-o", str(tmp_path / "out.safetensors")]) == FAILED
        error = capsys.readouterr().err.splitlines()[-1]
        assert f"The numbers of model {role} are " in error
        assert spoken in error
        assert "use its fp16 or bf16 file" in error
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("_quantization_metadata", '{"format_version": "1.0", "layers": {"out.2": {"format": "int8_tensorwise"}}}'),
        ("quantization_config", '{"quant_method": "bitsandbytes"}'),
    ],
)
def test_headers_tell_it_too(
    tmp_path: Path, field: str, text: str, plain: str, capsys: pytest.CaptureFixture[str]
) -> None:
    quantised = str(save(tmp_path / "q.safetensors", some_elements(whole(2)), {field: text}))
    assert main(["plan", plain, quantised]) == FAILED
    assert f"({field})" in capsys.readouterr().err
    assert main(["inspect", quantised]) == DONE
    assert re.search(rf"^The numbers are .*\({field}\), which cannot be merged", capsys.readouterr().out, re.MULTILINE)


def test_a_quantised_vae_file_is_refused(tmp_path: Path, plain: str, capsys: pytest.CaptureFixture[str]) -> None:
    vae = {
        key.removeprefix("first_stage_model."): tensor for key, tensor in only(whole(2), "first_stage_model.").items()
    }
    vae = {**vae, "decoder.conv_in.weight_scale": torch.tensor(0.1)}
    path = str(save(tmp_path / "vae.safetensors", vae))
    assert main(["plan", plain, plain, "--vae", path]) == FAILED
    assert "The numbers of the VAE file are stored with factors" in capsys.readouterr().err


def to_fp8(state: State) -> State:
    return {key: tensor.to(FP8) if tensor.is_floating_point() else tensor for key, tensor in state.items()}


TEXT = "cond_stage_model.transformer.text_model."
PLAIN_KINDS: dict[str, Callable[[State], State]] = {
    "plain fp8": to_fp8,
    "EMA weights": lambda state: {**state, **ema_of(u_net(1), 3)},
    "a noise schedule": lambda state: {
        **state,
        **{name: torch.linspace(0, 1, 1000) for name in ("betas", "alphas_cumprod", "sqrt_one_minus_alphas_cumprod")},
        "scale_factor": torch.tensor(0.18),
        "denoiser.sigmas": torch.linspace(0, 1, 9),
    },
    "counters and scales of OpenCLIP": lambda state: {
        **state,
        TEXT + "logit_scale": torch.tensor(4.6),
        TEXT + "text_projection": torch.zeros(8, 8),
    },
    "markers": lambda state: {**state, "v_pred": torch.zeros(0), "edm_vpred.sigma_max": torch.tensor(120.0)},
    "losses of a VAE's training": lambda state: {
        **state,
        "first_stage_model.loss.logvar": torch.tensor(0.0),
        "first_stage_model.loss.discriminator.main.3.weight": torch.zeros(8),
        "first_stage_model.loss.discriminator.main.3.running_var": torch.zeros(8),
        "first_stage_model.loss.discriminator.main.3.num_batches_tracked": torch.tensor(7),
        "first_stage_model.loss.perceptual_loss.scaling_layer.scale": torch.zeros(1, 3, 1, 1),
    },
    "a depth estimator": lambda state: {
        **state,
        "depth_model.model.pretrained.model.cls_token": torch.zeros(1, 1, 8),
        "depth_model.model.pretrained.model.pos_embed": torch.zeros(1, 5, 8),
        "depth_model.model.pretrained.model.norm.weight": torch.zeros(8),
        "depth_model.model.pretrained.model.norm.bias": torch.zeros(8),
        "depth_model.model.scratch.bn.weight": torch.zeros(8),
        "depth_model.model.scratch.bn.num_batches_tracked": torch.tensor(7),
    },
    "position ids of 32 bits": lambda state: {
        **state,
        TEXT + "embeddings.position_ids": torch.arange(77, dtype=torch.int32).reshape(1, 77),
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", PLAIN_KINDS)
def test_what_real_models_have_is_no_factor(
    tmp_path: Path, kind: str, plain: str, capsys: pytest.CaptureFixture[str]
) -> None:
    other = str(save(tmp_path / "b.safetensors", contiguous(PLAIN_KINDS[kind](some_elements(whole(2))))))
    for models in ([plain, other], [other, plain]):
        assert main(["plan", *models]) == DONE, capsys.readouterr().err


@pytest.mark.parametrize("name", ["{}.alpha", "scale.{}.weight"])
@pytest.mark.parametrize("owners", ["A", "B", "AB"])
def test_one_factor_among_floats_is_a_warning(
    tmp_path: Path, name: str, owners: str, capsys: pytest.CaptureFixture[str]
) -> None:
    states = [some_elements(whole(1)), some_elements(whole(2))]
    for owner in owners:
        states["AB".index(owner)][name.format(layers(states[0])[0])] = torch.tensor(1.0).half()
    assert main(["plan", *map(str, save_all(tmp_path, states))]) == DONE
    error = capsys.readouterr().err
    for owner in owners:
        assert f"in model {owner} can be a factor of {layers(states[0])[0]}.weight, which is merged" in error


def test_unknown_tensors_beside_fp8_are_told_of(tmp_path: Path, plain: str, capsys: pytest.CaptureFixture[str]) -> None:
    beside = {f"q/{number}": torch.tensor(0.5) for number in range(3)}
    fp8 = to_fp8(some_elements(whole(2)))
    words = "The U-Net of model B is fp8, and 3 tensors have unknown names, such as q/0: if they are factors"
    for state, told in (({**fp8, **beside}, True), (fp8, False), (some_elements(whole(2)) | beside, False)):
        assert main(["plan", plain, str(save(tmp_path / "b.safetensors", state))]) == DONE
        assert (words in capsys.readouterr().err) is told


def test_inspecting_a_quantised_file_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quantised = save(tmp_path / "q.safetensors", contiguous(FORMATS["bitsandbytes nf4"][1](some_elements(whole(2)))))
    assert main(["inspect", str(quantised)]) == DONE
    assert "The numbers are bitsandbytes nf4" in capsys.readouterr().out
