"""Merges of files of every structure: each is refused, or right, or told of.

A file has the layout of a real one, and then some of its tensors are dropped, renamed, stored in another number format
or shape, doubled, put into other dictionaries, or given factors, marks and averages beside them. What its numbers mean
is known throughout. So the result of each merge can be compared with the formula, by tensors and not by names.
"""

from __future__ import annotations

import argparse
import random
import re
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from elemental import ElementalError, MergeRecipe, merge_to_file, model_source

from ..merging import ema_of, whole
from ..reference import float64_formula, ulps

ALPHA = 0.3
_KEPT = (
    "_blocks.0.0.", "in_layers.0", "proj_in", "attn2.to_k", "op.", "out.2.", "label_emb.0.0", "middle_block.1",
    "mlp.fc1", "mlp.c_fc", "embeddings.", "ln_final", "text_projection", "positional_embedding", "layer_norm1",
    "quant_conv.", "conv_in.", "mid.attn_1.q",
)  # fmt: skip
_PARTS = {
    "model.diffusion_model.": "U-Net",
    "first_stage_model.": "VAE",
    "conditioner.embedders.0.": "CLIP-L",
    "conditioner.embedders.1.": "CLIP-G",
    "cond_stage_model.": "text encoder",
}
_NO_MATTER = re.compile(r"position_ids$|text_projection|logit_scale")
_FORMATS = (
    torch.float32, torch.bfloat16, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2,
    torch.int8, torch.uint8, torch.int32, torch.int64, torch.bool,
)  # fmt: skip
_FACTORS = (
    ".scale_weight", ".weight_scale", ".weight_scale_inv", ".scales", ".weight.absmax", ".SCB", ".gain", "_scale",
    ".weight_step", ".multiplier", ".amax", ".weight.s",
)  # fmt: skip
_PREFIXES = ("module.", "_orig_mod.", "net.", "ema.", "model.", "backup.", "autoencoder.", "wrapper.inner.", "x_")
_PIECES = (
    ("text_model.", ""), ("first_stage_model.", "vae."), ("first_stage_model.", "autoencoder."),
    ("model.diffusion_model.", "diffusion_model."), ("model.diffusion_model.", ""), (".weight", ".kernel"),
    ("transformer_blocks.0", "transformer_blocks.7"), ("attn2", "cross_attn"), ("conditioner.", "text_encoders."),
    ("cond_stage_model.", "clip."), ("input_blocks.1.", "input_blocks.3."), ("norm", "Norm"), ("resblocks", "layers"),
)  # fmt: skip


@dataclass
class Figures:
    """What came of an attack.

    Attributes:
        outcomes: How often each.
        failures: What must not happen, with the round by which it happens again.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


@dataclass
class Model:
    """A file, and what its numbers mean.

    Attributes:
        file: The tensors as they are stored.
        places: The key in the file of each tensor of the layout.
        meanings: The weights that each tensor of the layout stands for.
        beside: What else is stored.
    """

    file: dict[str, Tensor]
    places: dict[str, str]
    meanings: dict[str, Tensor]
    beside: dict[str, Tensor] = field(default_factory=dict)

    def stored(self) -> dict[str, Tensor]:
        return {key: tensor.contiguous().clone() for key, tensor in {**self.file, **self.beside}.items()}


@cache
def _base(layout: str, seed: int) -> dict[str, Tensor]:
    return {key: t for key, t in whole(seed, layout=layout).items() if any(piece in key for piece in _KEPT)}


def make_model(layout: str, seed: int) -> Model:
    file = dict(_base(layout, seed))
    return Model(file, {key: key for key in file}, {key: tensor.double() for key, tensor in file.items()})


def _some(model: Model, dice: random.Random) -> list[str]:
    """Choose tensors: one, a few, those of a layer, of a part, or all."""
    keys = list(model.places)
    if not keys:
        return []
    one = dice.choice(keys)
    how = dice.randrange(5)
    if how == 0:
        return [one]
    if how == 1:
        return dice.sample(keys, min(len(keys), dice.randint(2, 12)))
    if how == 2:
        return [key for key in keys if key.rpartition(".")[0] == one.rpartition(".")[0]]
    if how == 3:
        part = next((prefix for prefix in _PARTS if one.startswith(prefix)), one)
        return [key for key in keys if key.startswith(part)]
    return keys


def drop(model: Model, dice: random.Random) -> None:
    for key in _some(model, dice):
        del model.file[model.places.pop(key)]
        del model.meanings[key]


def _move(model: Model, key: str, name: str) -> None:
    old = model.places[key]
    if name != old and name not in model.file and name not in model.beside:
        model.file[name] = model.file.pop(old)
        model.places[key] = name


def rename(model: Model, dice: random.Random) -> None:
    keys, (old, new) = _some(model, dice), dice.choice(_PIECES)
    for key in keys:
        _move(model, key, model.places[key].replace(old, new))


def wrap(model: Model, dice: random.Random) -> None:
    prefix = dice.choice(_PREFIXES)
    for key in _some(model, dice):
        _move(model, key, prefix + model.places[key])


def retype(model: Model, dice: random.Random) -> None:
    dtype = dice.choice(_FORMATS)
    for key in _some(model, dice):
        tensor = model.file[model.places[key]]
        changed = (tensor.double() * (1 if dtype.is_floating_point else 50)).to(dtype)
        model.file[model.places[key]] = changed
        model.meanings[key] = changed.double()


def scale(model: Model, dice: random.Random) -> None:
    """Store numbers that are weights only times a factor beside them."""
    name, dtype = dice.choice(_FACTORS), dice.choice((torch.float8_e4m3fn, torch.float16, torch.int8))
    by_row = dice.random() < 0.5
    for key in _some(model, dice):
        place = model.places[key]
        if not place.endswith(".weight") or model.file[place].dim() < 2:
            continue
        weight = model.file[place].double()
        factor = torch.tensor(0.37) if not by_row else torch.linspace(0.1, 0.9, len(weight))
        wide = factor.double().reshape(-1, *[1] * (weight.dim() - 1)) if by_row else factor.double()
        model.file[place] = (weight / wide).to(dtype)
        model.beside[place.removesuffix(".weight") + name] = factor
        model.meanings[key] = model.file[place].double() * wide


def reshape(model: Model, dice: random.Random) -> None:
    for key in _some(model, dice):
        place = model.places[key]
        tensor = model.file[place]
        if tensor.dim() == 4 and tensor.shape[2:] == (1, 1):
            model.file[place] = tensor.reshape(tensor.shape[:2])
        elif dice.random() < 0.3:
            model.file[place] = torch.cat([tensor, tensor]) if tensor.dim() else tensor
            model.meanings[key] = model.file[place].double()


def double(model: Model, dice: random.Random) -> None:
    prefix = dice.choice(_PREFIXES)
    for key in _some(model, dice):
        model.beside.setdefault(prefix + model.places[key], model.file[model.places[key]].clone())


def mark(model: Model, dice: random.Random) -> None:
    name = dice.choice(
        ("v_pred", "ztsnr", "edm_vpred.sigma_max", "edm_mean", "scaled_fp8", "alphas_cumprod", "new_mark")
    )
    model.beside[name] = torch.zeros(dice.choice((0, 1)))


def average(model: Model, dice: random.Random) -> None:
    model.beside |= ema_of({key: model.file[place] for key, place in model.places.items()}, dice.randrange(99))


def leave(model: Model, dice: random.Random) -> None:
    """Leave what training leaves."""
    name = dice.choice(("first_stage_model.loss.discriminator.main.0.weight", "depth_model.a.weight", "optimizer.step"))
    model.beside[name] = torch.ones(4)


CHANGES: tuple[Callable[[Model, random.Random], None], ...] = (
    drop, rename, wrap, retype, scale, reshape, double, mark, average, leave,
)  # fmt: skip


def write(model: Model, path: Path, dice: random.Random) -> Path:
    """Write a file, sometimes as a pickle with its tensors in other dictionaries."""
    if dice.random() < 0.8:
        save_file(model.stored(), path.with_suffix(".safetensors"))
        return path.with_suffix(".safetensors")
    nested: object = model.stored()
    for name in dice.choice(((), ("state_dict",), ("model",), ("state_dict", "state_dict"), ("module",))):
        nested = {name: nested, "epoch": 3}
    torch.save(nested, path.with_suffix(".ckpt"))
    return path.with_suffix(".ckpt")


def strike(number: int, seed: int, folder: Path) -> tuple[str, list[str]]:
    """Merge one pair of files; give the outcome, and what is wrong."""
    dice = random.Random(f"{seed}:{number}")
    layout = dice.choice(("sd1", "sd1", "sd2", "sdxl"))
    models = [make_model(layout, 1), make_model(layout, 2)]
    done = []
    for _ in range(dice.choice((1, 1, 1, 2, 3))):
        change, position = dice.choice(CHANGES), dice.choice((0, 1, 1))
        change(models[position], dice)
        done.append(f"{change.__name__} in {'AB'[position]}")
    a, b = (model_source(write(model, folder / name, dice)) for model, name in zip(models, "ab", strict=True))
    recipe = MergeRecipe(a, b, alpha=ALPHA, force=dice.random() < 0.1)
    try:
        result = merge_to_file(recipe, folder / "out.safetensors", overwrite=True, with_hashes=False)
    except ElementalError:
        return "refused", []
    except Exception as exc:
        return "crashed", [f"{', '.join(done)}: {type(exc).__name__}: {exc}"]
    words = "\n".join(warning.message for warning in result.plan.warnings)
    wrong = silent_faults(models, load_file(result.path), words)
    outcome = "wrong" if wrong else "told of" if result.plan.warnings else "right"
    return outcome, [f"{', '.join(done)}: {text}" for text in wrong[:3]]


def silent_faults(models: list[Model], merged: dict[str, Tensor], words: str) -> list[str]:
    """List the tensors that are not what the formula gives, and that no warning names, by key or by part."""
    a, b = models
    faults = []
    for key, place in a.places.items():
        if _NO_MATTER.search(key) or place in words or _is_named(key, words):
            continue
        if key not in b.places and not any(_part(other) == _part(key) for other in b.places):
            continue  # a model that was pruned on purpose
        if place not in merged:
            faults.append(f"{place} is not in the result")
        elif key not in b.places:
            faults.append(f"{place} has no partner, unsaid")
        elif a.meanings[key].numel() != b.meanings[key].numel():
            faults.append(f"{place} has another shape, unsaid")
        else:
            own = a.meanings[key]
            exact = float64_formula("weight-sum", [own, b.meanings[key].reshape(own.shape)], ALPHA, 0)
            if not merged[place].is_floating_point():
                faults.append(f"{place} is not merged, unsaid")
            elif (off := ulps(merged[place].reshape(own.shape), exact)) > 1:
                faults.append(f"{place} is {off:.0f} units off")
    return faults


def _part(key: str) -> str:
    return next((name for prefix, name in _PARTS.items() if key.startswith(prefix)), "")


def _is_named(key: str, words: str) -> bool:
    """Tell whether a text names a tensor, as most do by its usual key whatever that in the file, or its part."""
    part = _part(key)
    return key in words or (bool(part) and part in words)


def attack(rounds: int, seed: int, *, first: int = 0) -> Figures:
    """Merge so many pairs of files."""
    figures = Figures()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(first, first + rounds):
            outcome, wrong = strike(number, seed, Path(folder))
            figures.outcomes[outcome] += 1
            figures.failures += [f"round {number} of seed {seed}: {text}" for text in wrong]
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="the round to begin with")
    args = parser.parse_args()
    figures = attack(args.rounds, args.seed, first=args.first)
    print("\n".join(figures.failures))
    print(", ".join(f"{outcome}: {count:,}" for outcome, count in figures.outcomes.most_common()))
    raise SystemExit(bool(figures.failures))


if __name__ == "__main__":
    main()
