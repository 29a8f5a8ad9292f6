"""What the tensors of a layer mean, against the modules of lycoris-lora, which trainers save such files with."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from elemental.lora.layers import read_layers

lycoris = pytest.importorskip("lycoris", reason="lycoris-lora is not installed, the second opinion on its own formats")

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "LoRA": ("LoConModule", {}),
    "LoCon": ("LoConModule", {"use_tucker": True}),
    "LoHa": ("LohaModule", {}),
    "LoHa Tucker": ("LohaModule", {"use_tucker": True}),
    "LoKr": ("LokrModule", {"factor": 2}),
    "LoKr of factors": ("LokrModule", {"factor": 2, "decompose_both": True}),
    "LoKr Tucker": ("LokrModule", {"factor": 2, "use_tucker": True}),
}
LAYERS = {"linear": lambda: torch.nn.Linear(24, 16), "convolution": lambda: torch.nn.Conv2d(24, 16, 3)}


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize(("kind", "options"), KINDS.values(), ids=KINDS)
def test_the_same_matrix(kind: str, options: dict[str, Any], layer: Any) -> None:
    torch.manual_seed(19)
    inner = layer()
    module = getattr(lycoris.modules, kind)("lora_unet_x", inner, 1.0, lora_dim=3, alpha=2.0, **options)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.3)
    found = {f"lora_unet_x.{name}": tensor.detach() for name, tensor in module.custom_state_dict().items()}
    # What LoHa and LoKr add when they compute; their get_diff_weight multiplies by alpha / rank again in version 4.1.
    whole = module.get_weight if hasattr(module, "get_weight") else lambda _: module.get_diff_weight(1.0)[0]
    theirs = whole(inner.weight.shape).detach()
    layers = read_layers({key: tuple(tensor.shape) for key, tensor in found.items()}, {}, name="l.safetensors")
    assert not layers.unread
    (change,) = [change for change in layers.changes if change.kind == "weight"]
    numbers = {role: found[key] for role, key in change.tensors.items()}
    rows = change.matrix(numbers).rows(0, 16) * change.scale(numbers)
    assert change.size == (16, inner.weight[0].numel())
    torch.testing.assert_close(rows, theirs.double().reshape(16, -1), rtol=1e-5, atol=1e-6)


OF_WEIGHT: dict[str, tuple[str, dict[str, Any]]] = {
    "DoRA": ("LoConModule", {"weight_decompose": True}),
    "DoRA of inputs": ("LoConModule", {"weight_decompose": True, "wd_on_out": False}),
    "DoRA, Tucker": ("LoConModule", {"weight_decompose": True, "use_tucker": True}),
    "DoRA of LoHa": ("LohaModule", {"weight_decompose": True}),
    "DoRA of LoKr": ("LokrModule", {"weight_decompose": True, "factor": 2}),
    "OFT": ("DiagOFTModule", {}),
    "OFT with a limit, rescaled": ("DiagOFTModule", {"constraint": 0.05, "rescaled": True}),
    "BOFT": ("ButterflyOFTModule", {}),
    "BOFT with a limit, rescaled": ("ButterflyOFTModule", {"constraint": 0.05, "rescaled": True}),
    "IA3": ("IA3Module", {}),
    "IA3 of inputs": ("IA3Module", {"train_on_input": True}),
    "GLoRA": ("GLoRAModule", {}),
}


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize(("kind", "options"), OF_WEIGHT.values(), ids=OF_WEIGHT)
def test_the_same_weight(kind: str, options: dict[str, Any], layer: Any) -> None:
    torch.manual_seed(19)
    inner = layer()
    module = getattr(lycoris.modules, kind)("lora_unet_x", inner, 1.0, lora_dim=4, alpha=2.0, **options)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.3)
    saved = module.custom_state_dict() or module.state_dict()
    found = {f"lora_unet_x.{name}": tensor.detach() for name, tensor in saved.items()}
    if kind in ("LohaModule", "LokrModule"):  # as they compute; their get_merged_weight takes alpha / rank twice
        theirs = module.apply_weight_decompose(inner.weight + module.get_weight(inner.weight.shape))
    else:
        theirs = module.get_merged_weight(1.0)[0]
    layers = read_layers({key: tuple(tensor.shape) for key, tensor in found.items()}, {}, name="l.safetensors")
    assert not layers.unread
    (change,) = layers.changes
    assert change.fits(tuple(inner.weight.shape))
    numbers = {role: found[key] for role, key in change.tensors.items()}
    ours = change.changed(inner.weight.detach().double(), numbers)
    torch.testing.assert_close(ours, theirs.detach().double(), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(ours, inner.weight.double(), rtol=1e-2)
