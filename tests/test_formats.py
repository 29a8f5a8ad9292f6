"""Checkpoints as they are found: number formats, the pickles of trainers, keys in any order."""

from __future__ import annotations

import hashlib
import json
import random
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file as load_numpy
from safetensors.torch import load_file, save, save_file
from torch import nn

import elemental
from elemental import RecipeError, SaveDtype
from elemental.architectures.keys import FIRST_CONV
from elemental.cli.main import DONE, FAILED, main

from .merging import DTYPE_NAMES, SPEC, State, assert_merged, merge, same_bits, save_all, some_elements, u_net, whole

HALF, BRAIN, SINGLE = torch.float16, torch.bfloat16, torch.float32
E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2


@pytest.mark.parametrize(
    ("of_a", "of_b"),
    [
        (E5M2, E5M2), (E4M3, E5M2), (E4M3, HALF), (HALF, E4M3), (E5M2, BRAIN), (SINGLE, E4M3),
        (HALF, SINGLE), (SINGLE, HALF), (BRAIN, HALF), (HALF, BRAIN), (BRAIN, SINGLE), (torch.float64, HALF),
    ],
)  # fmt: skip
def test_a_decides_the_number_format(tmp_path: Path, of_a: torch.dtype, of_b: torch.dtype) -> None:
    states = [some_elements(whole(seed, dtype)) for seed, dtype in ((1, of_a), (2, of_b))]
    result = merge(save_all(tmp_path, states), tmp_path / "out.safetensors", spec=SPEC)
    assert_merged(result, states, spec=SPEC)


@pytest.mark.parametrize("saved", list(SaveDtype))
@pytest.mark.parametrize("formats", [(E4M3, HALF), (HALF, E5M2), (SINGLE, E4M3), (BRAIN, SINGLE)])
def test_a_format_that_is_asked_for(tmp_path: Path, saved: SaveDtype, formats: Sequence[torch.dtype]) -> None:
    states = [some_elements(whole(seed, dtype)) for seed, dtype in enumerate(formats)]
    out = tmp_path / "out.safetensors"
    arguments = [*map(str, save_all(tmp_path, states)), "-o", str(out), "--alpha", "0.3", "--dtype", saved.value]
    assert main(["merge", *arguments, "--elemental", SPEC]) == DONE
    wanted = {SaveDtype.FP16: HALF, SaveDtype.BF16: BRAIN, SaveDtype.FP32: SINGLE}[saved]
    assert_merged(load_file(out), states, spec=SPEC, saved=wanted)


@pytest.mark.parametrize(("dtype", "large"), [(E4M3, 480.0), (E5M2, 65000.0), (HALF, 70000.0)])
@pytest.mark.parametrize("alpha", ["0.999", "1"])
def test_numbers_that_as_format_cannot_hold(
    tmp_path: Path, dtype: torch.dtype, large: float, alpha: str, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = some_elements(u_net(1, dtype)), some_elements(u_net(2, SINGLE))
    b[FIRST_CONV] = torch.full_like(b[FIRST_CONV], large)
    out = tmp_path / "out.safetensors"
    assert main(["merge", *map(str, save_all(tmp_path, [a, b])), "-o", str(out), "--alpha", alpha]) == FAILED
    assert f"{FIRST_CONV}: the result is too large for {DTYPE_NAMES[dtype]}" in capsys.readouterr().err
    assert not out.exists()


def training_state(state: State) -> dict[str, Any]:
    """Give what trainers put beside a state dict, down to tensors of the same names."""
    moments = {"step": 470_000, "exp_avg": torch.ones(3), "exp_avg_sq": torch.ones(3)}
    group = {"lr": 1e-4, "betas": (0.9, 0.999), "amsgrad": False, "params": [0]}
    return {
        "epoch": 3,
        "global_step": 470_000,
        "pytorch-lightning_version": "1.4.2",
        "callbacks": {"EMA": {key: torch.zeros_like(tensor) for key, tensor in state.items()}},
        "optimizer_states": [{"state": {0: moments}, "param_groups": [group]}],
        "lr_schedulers": [{"base_lrs": [1e-4], "last_epoch": 5, "_step_count": 6}],
        "hparams": {"name": None, "resume": True},
    }


def of_a_module(state: State) -> OrderedDict[str, torch.Tensor]:
    module = OrderedDict(state)
    module._metadata = OrderedDict({"": {"version": 1}})  # type: ignore[attr-defined]
    return module


def in_one_storage(state: State) -> State:
    floats = {key: tensor for key, tensor in state.items() if tensor.is_floating_point()}
    sizes = [tensor.numel() for tensor in floats.values()]
    parts = torch.split(torch.cat([tensor.reshape(-1) for tensor in floats.values()]), sizes)
    return {**state, **{key: part.view(floats[key].shape) for key, part in zip(floats, parts, strict=True)}}


ODD = {
    "scale_factor": torch.tensor([0.18215], dtype=HALF).expand(2)[0],
    "position_ids": torch.arange(77).expand(1, -1),
    "ones": torch.ones(1, dtype=HALF).expand(1, 1),
}
PICKLED: dict[str, Callable[[State], object]] = {
    "bare": lambda state: state,
    "training state beside it": lambda state: {**training_state(state), "state_dict": state},
    "of a module": lambda state: {"state_dict": of_a_module(state)},
    "parameters": lambda state: {k: nn.Parameter(t, requires_grad=t.is_floating_point()) for k, t in state.items()},
    "one storage": in_one_storage,
    "views": lambda state: {k: t.t().contiguous().t() if t.dim() == 2 else t for k, t in state.items()} | ODD,
    "more than tensors": lambda state: {"state_dict": {**state, "global_step": 5, "name": "x", "none": None}},
}


@pytest.mark.slow
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("form", PICKLED)
def test_pickles_give_what_safetensors_give(tmp_path: Path, form: str, zipped: bool) -> None:
    states = [some_elements(u_net(seed)) for seed in (1, 2)]
    for state in states:
        state |= {key: tensor.contiguous().clone() for key, tensor in ODD.items()}
    wanted = merge(save_all(tmp_path, states), tmp_path / "out.safetensors", spec=SPEC)
    pickles = [tmp_path / "a.ckpt", tmp_path / "b.pt"]
    for path, state in zip(pickles, states, strict=True):
        torch.save(PICKLED[form](state), path, _use_new_zipfile_serialization=zipped)
    result = merge(pickles, tmp_path / "out.safetensors", spec=SPEC)
    assert result.keys() == wanted.keys()
    assert all(same_bits(result[key], tensor) for key, tensor in wanted.items())


@pytest.mark.parametrize("dtype", [BRAIN, SINGLE])
def test_pickles_in_other_formats(tmp_path: Path, dtype: torch.dtype) -> None:
    states = [some_elements(u_net(seed, dtype)) for seed in (1, 2)]
    paths = [tmp_path / "a.ckpt", tmp_path / "b.ckpt"]
    for path, state in zip(paths, states, strict=True):
        torch.save({"state_dict": state}, path)
    assert_merged(merge(paths, tmp_path / "out.safetensors", spec=SPEC), states, spec=SPEC)


def write_in_order(path: Path, state: State, keys: Iterable[str], *, headed: Iterable[str] | None = None) -> Path:
    """Write a safetensors file whose tensors lie in an order of one's own, and are listed in another."""
    entries, data = {}, b""
    for key in keys:
        raw = save({key: state[key]})
        begin, data = len(data), data + raw[8 + struct.unpack("<Q", raw[:8])[0] :]
        shape = list(state[key].shape)
        entries[key] = {"dtype": DTYPE_NAMES[state[key].dtype], "shape": shape, "data_offsets": [begin, len(data)]}
    header = json.dumps({key: entries[key] for key in headed or entries}).encode()
    header = header.ljust(1 << 18)  # of one length in every order
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)
    return path


@pytest.mark.slow
def test_the_order_of_keys_does_not_matter(tmp_path: Path) -> None:
    a, b = u_net(1), u_net(2)
    a.update(v_pred=torch.zeros(0), alphas=torch.ones(3, dtype=SINGLE))
    paths = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    of_a, of_b = map(elemental.model_source, paths)
    recipe = elemental.MergeRecipe(of_a, of_b, alpha=0.3, rules=elemental.parse_rules(SPEC))
    found = set()
    shuffle = random.Random(1).sample
    for order in (list, sorted, lambda keys: list(keys)[::-1], lambda keys: shuffle(list(keys), len(keys))):
        write_in_order(paths[0], a, order(a), headed=shuffle(list(a), len(a)))
        write_in_order(paths[1], b, shuffle(list(b), len(b)))
        # Without the files' hashes, which differ, the same numbers make the same file.
        out = elemental.merge_to_file(recipe, tmp_path / "out.safetensors", overwrite=True, with_hashes=False).path
        found.add(out.read_bytes())
    assert len(found) == 1
    assert_merged(load_file(out), [a, b], spec=SPEC)


def test_the_library_reads_results(tmp_path: Path) -> None:
    states = [u_net(1), u_net(2)]
    states[0] |= {"v_pred": torch.zeros(0), "scale_factor": torch.tensor(0.18215), "steps": torch.tensor([1, 2])}
    out = tmp_path / "out.safetensors"
    result = merge(save_all(tmp_path, states), out, spec=SPEC)
    arrays = load_numpy(out)
    with safe_open(out, framework="pt") as tensors, safe_open(out, framework="numpy") as listed:
        assert set(tensors.keys()) == set(listed.keys()) == result.keys() == arrays.keys() == states[0].keys()
        assert all(isinstance(part, str) for field in tensors.metadata().items() for part in field)
        assert tensors.metadata()["format"] == "pt"
        for key, tensor in result.items():
            assert same_bits(tensors.get_tensor(key), tensor)
            assert same_bits(torch.from_numpy(arrays[key]), tensor)
        assert same_bits(tensors.get_slice(FIRST_CONV)[1:3, 2:], result[FIRST_CONV][1:3, 2:].contiguous())


def fields_of(path: Path) -> dict[str, Any]:
    """Read a header as the WebUI does: what looks like JSON is taken for it."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        text = file.read(size)
    assert text[:2] == b'{"'
    fields: dict[str, str] = json.loads(text)["__metadata__"]
    return {name: json.loads(value) if value[:1] == "{" else value for name, value in fields.items()}


def test_the_header_says_nothing_of_a_that_no_longer_holds(tmp_path: Path) -> None:
    of_a = {
        "format": "pt",
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": "stable-diffusion-v1",
        "modelspec.title": "A",
        "modelspec.hash_sha256": "0x" + "1" * 64,
        "modelspec.prediction_type": "v",
        "modelspec.thumbnail": "data:image/jpeg;base64,AAAA",
        "ss_output_name": "a",
        "sshs_model_hash": "2" * 64,
        "prompt": '{"1": {}}',
        "sd_merge_recipe": "A and B",
        "sd_merge_models": "[1, 2]",
        "elemental_recipe": '{"version": 1}',
    }
    parents = {"3" * 64: {"name": "x.ckpt", "legacy_hash": "45dee52b", "sd_merge_recipe": None}, "4" * 64: {}}
    webui = {"type": "webui", "primary_model_hash": "3" * 64, "multiplier": 0.3, "custom_name": "\ud800 \u00e9"}
    of_b = {"sd_merge_recipe": json.dumps(webui), "sd_merge_models": json.dumps(parents)}
    paths = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for seed, (path, metadata) in enumerate(zip(paths, (of_a, of_b), strict=True)):
        save_file(some_elements(u_net(seed)), path, metadata)
    merge(paths, tmp_path / "out.safetensors")
    fields = fields_of(tmp_path / "out.safetensors")
    untrue = {"modelspec.hash_sha256", "sshs_model_hash", "prompt"}
    assert fields.keys() == {*of_a, "sd_merge_recipe", "sd_merge_models", "modelspec.merged_from"} - untrue
    a, b = (hashlib.sha256(path.read_bytes()).hexdigest() for path in paths)
    assert fields["sd_merge_models"].keys() == {a, b, *parents}
    assert {key: fields["sd_merge_models"][key] for key in parents} == parents
    assert [fields["sd_merge_models"][model]["sd_merge_recipe"] for model in (a, b)] == [None, webui]
    recipe = fields["sd_merge_recipe"]
    assert (recipe["type"], recipe["primary_model_hash"], recipe["secondary_model_hash"]) == ("elemental", a, b)
    assert fields["elemental_recipe"]["models"]["a"]["sha256"] == a


@pytest.mark.parametrize("text", ["[" * 100_000, "{", "null", '"x"', ""])
def test_fields_of_others_that_make_no_sense_are_passed_over(tmp_path: Path, text: str) -> None:
    paths = save_all(tmp_path, [some_elements(u_net(seed)) for seed in (1, 2)])
    garbage = dict.fromkeys(("sd_merge_recipe", "sd_merge_models", "elemental_recipe"), text)
    save_file(load_file(paths[0]), paths[0], garbage)
    merge(paths, tmp_path / "out.safetensors")
    fields = fields_of(tmp_path / "out.safetensors")
    assert {model["sd_merge_recipe"] for model in fields["sd_merge_models"].values()} == {None}
    with pytest.raises(RecipeError, match=r"a\.safetensors"):
        elemental.read_recipe(paths[0])
