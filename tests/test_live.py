"""The live merge: equal to the file merge bit for bit, writing only what moved, and gone without a trace afterwards."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from elemental import (
    Controls,
    HostError,
    MergeError,
    MergeMode,
    MergeRecipe,
    SaveDtype,
    Stopped,
    VaeChoice,
    live_merge,
    merge_to_file,
    model_source,
    parse_rules,
    plan_merge,
)
from elemental.demo.checkpoint_pair import copy_pair
from elemental.hosts.base import CheckpointRef
from elemental.merge.live_sinks import LiveSink
from elemental.merge.plan import TensorPlan
from elemental.recipe.block_weights import parse_block_weights

from .conftest import LAYOUTS, random_state, save
from .fake_host import FakeModel

SPEC = "IN03-OUT05:attn2:0.7,OUT06:attn1 ff.net:0.2,BASE:mlp:1"


def fake_model(path: Path, dtype: torch.dtype | None = None) -> FakeModel:
    """Load a checkpoint into plain tensors, the integers left out, one tensor in parts and one transposed."""
    tensors: dict[str, Sequence[Tensor]] = {}
    for key, tensor in load_file(path).items():
        if not tensor.is_floating_point():
            continue
        own = tensor.to(dtype or tensor.dtype)
        if key.endswith("attn2.to_k.weight"):
            tensors[key] = tuple(part.clone() for part in own.chunk(2))
        elif key.endswith("attn2.to_v.weight"):
            tensors[key] = (own.T.contiguous().T,)
        else:
            tensors[key] = (own.clone(),)
    return FakeModel(CheckpointRef(path.stem, path), tensors)


def state(model: FakeModel) -> dict[str, Tensor]:
    """Give the bytes of each tensor, which torch 2.1 can put together in fp8 too, seen in its own format."""
    return {
        key: torch.cat([part.reshape(-1).view(torch.uint8) for part in parts]).view(parts[0].dtype)
        for key, parts in model.tensors().items()
    }


def assert_is_file(model: FakeModel, path: Path) -> None:
    """Compare every live tensor with a file, as loading it into the live format would give, bit for bit."""
    wanted = load_file(path)
    for key, values in state(model).items():
        loaded = wanted[key].reshape(-1).to(values.dtype)
        assert torch.equal(values.view(torch.uint8), loaded.view(torch.uint8)), key


@pytest.fixture
def recipe(models: Mapping[str, Path]) -> MergeRecipe:
    return MergeRecipe(model_source(models["a"]), model_source(models["b"]), alpha=0.3, rules=parse_rules(SPEC))


RECIPES: dict[str, Callable[[MergeRecipe, Mapping[str, Path]], MergeRecipe]] = {
    "other rules": lambda recipe, _: replace(recipe, rules=parse_rules("OUT05::1,IN04:attn:0")),
    "no rules": lambda recipe, _: replace(recipe, rules=parse_rules("")),
    "blocks": lambda recipe, _: replace(
        recipe, block_alpha=parse_block_weights(",".join(str(n / 26) for n in range(26)))
    ),
    "A itself": lambda recipe, _: replace(recipe, alpha=0.0, rules=parse_rules("")),
    "VAE of B": lambda recipe, _: replace(recipe, vae=VaeChoice.B),
    "bf16": lambda recipe, _: replace(recipe, dtype=SaveDtype.BF16),
    "sum-twice": lambda recipe, models: replace(
        recipe, mode=MergeMode.SUM_TWICE, model_c=model_source(models["c"]), beta=0.25
    ),
    "add-difference": lambda recipe, models: replace(
        recipe, mode=MergeMode.ADD_DIFFERENCE, model_c=model_source(models["c"])
    ),
    "other models": lambda recipe, models: replace(
        recipe, model_a=model_source(models["c"]), model_b=model_source(models["a"])
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.bfloat16, torch.float8_e4m3fn])
def test_every_recipe_gives_what_loading_its_file_would(
    recipe: MergeRecipe, models: Mapping[str, Path], tmp_path: Path, dtype: torch.dtype
) -> None:
    model = fake_model(models["a"], dtype)
    with live_merge(model) as merge:
        for index, change in enumerate([lambda recipe, _: recipe, *RECIPES.values()]):
            now = change(recipe, models)
            merge.apply(now)
            merged = merge_to_file(now, tmp_path / f"{index}.safetensors", with_hashes=False)
            assert_is_file(model, merged.path)
            assert merge.is_intact()


@pytest.mark.slow
@pytest.mark.parametrize("change", RECIPES.values(), ids=RECIPES)
def test_the_model_is_afterwards_what_it_was(
    recipe: MergeRecipe, models: Mapping[str, Path], change: Callable[..., MergeRecipe]
) -> None:
    model = fake_model(models["a"])
    before = model.digest()
    with live_merge(model) as merge:
        merge.apply(recipe)
        assert model.digest() != before
        merge.apply(change(recipe, models))
    assert model.digest() == before
    assert model.kept is None


def test_only_what_differs_is_written(recipe: MergeRecipe, models: Mapping[str, Path]) -> None:
    model = fake_model(models["a"])
    with live_merge(model) as merge:
        merge.apply(recipe)
        for ratio in (0.1, 0.9):
            spec = f"{SPEC},OUT05:attn2:{ratio}"
            written = merge.apply(replace(recipe, rules=parse_rules(spec)))
            moved = {tensor.name for tensor in written.plan.tensors}
            assert {(name.block, "attn2" in name.element) for name in moved} == {("OUT05", True)}
            assert model.moved[-1] == {name.key for name in moved}
            assert written.nbytes == sum(part.nbytes for key in model.moved[-1] for part in model.tensors()[key])
        calls = len(model.moved)
        assert not merge.apply(replace(recipe, rules=parse_rules(spec))).plan.tensors
        assert len(model.moved) == calls


def test_a_changed_model_moves_only_what_is_computed_from_it(recipe: MergeRecipe, models: Mapping[str, Path]) -> None:
    model = fake_model(models["a"])
    spec = parse_rules("OUT05:attn2:0.5")
    with live_merge(model) as merge:
        merge.apply(replace(recipe, alpha=0.0, rules=spec))
        assert len(model.moved[-1]) < 20
        merge.apply(replace(recipe, alpha=0.0, rules=spec, model_b=model_source(models["c"])))
        assert all("output_blocks.5.1.transformer_blocks.0.attn2" in key for key in model.moved[-1])


def test_a_model_that_differs_from_its_file_is_given_back_as_it_was(
    recipe: MergeRecipe, models: Mapping[str, Path]
) -> None:
    model = fake_model(models["a"])
    key = next(key for key in model.tensors() if key.startswith("first_stage_model.") and key.endswith("weight"))
    model.tensors()[key][0].fill_(1.5)  # a VAE chosen separately, say
    before = model.digest()
    with live_merge(model) as merge:
        merge.apply(replace(recipe, alpha=0.0, rules=parse_rules("")))
        assert_is_file(model, models["a"])  # the merge is of the files, not of what was live
    assert model.digest() == before
    nowhere = FakeModel(None, model.tensors())  # the host does not say where the model came from
    with live_merge(nowhere) as merge:
        merge.apply(recipe)
    assert model.digest() == before


def test_a_kept_merge_stays(recipe: MergeRecipe, models: Mapping[str, Path], tmp_path: Path) -> None:
    model = fake_model(models["a"])
    with live_merge(model) as merge:
        merge.apply(recipe)
        merge.keep("mine")
    assert model.kept == "mine"
    assert_is_file(model, merge_to_file(recipe, tmp_path / "merged.safetensors").path)
    kept = model.digest()
    with live_merge(model) as merge:
        merge.apply(replace(recipe, alpha=0.9))
    assert model.digest() == kept


def test_a_merge_that_something_else_replaced_is_lost(recipe: MergeRecipe, models: Mapping[str, Path]) -> None:
    model = fake_model(models["a"])
    with live_merge(model) as merge:
        assert not merge.is_intact()
        merge.apply(recipe)
        assert merge.is_intact()
        for key, parts in fake_model(models["a"]).tensors().items():  # the host loads its file again
            for part, original in zip(model.tensors()[key], parts, strict=True):
                part.copy_(original)
        assert not merge.is_intact()
        merge.apply(recipe)  # is written anew
        assert merge.is_intact()


def test_stop_in_mid_write_gives_the_model_back(recipe: MergeRecipe, models: Mapping[str, Path]) -> None:
    model = fake_model(models["a"])
    before = model.digest()
    seen = 0

    def stop() -> bool:
        nonlocal seen
        seen += 1
        return seen > 300

    with pytest.raises(Stopped), live_merge(model) as merge:
        merge.apply(recipe, controls=Controls(should_stop=stop))
    assert seen > 300
    assert model.digest() == before
    with live_merge(model) as merge:  # the next run works
        merge.apply(recipe)
        assert merge.is_intact()


def test_a_failed_step_is_made_good_by_the_next(
    recipe: MergeRecipe, models: Mapping[str, Path], tmp_path: Path
) -> None:
    model = fake_model(models["a"])
    with live_merge(model) as merge:
        merge.apply(recipe)
        other = replace(recipe, alpha=0.8)
        polls = iter(range(10**9))
        with pytest.raises(Stopped):
            merge.apply(other, controls=Controls(should_stop=lambda: next(polls) > 200))
        assert not merge.is_intact()
        with pytest.raises(MergeError, match="no complete merge"):
            merge.keep("half")
        merge.apply(recipe)
        assert_is_file(model, merge_to_file(recipe, tmp_path / "merged.safetensors").path)


def test_memory_that_runs_out_in_mid_write(
    recipe: MergeRecipe, models: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = fake_model(models["a"])
    before = model.digest()
    calls = 0

    def failing(job: Callable[..., Tensor | None]) -> Callable[..., Tensor | None]:
        def fail(sink: LiveSink, tensor: TensorPlan, *piece: Any) -> Tensor | None:
            nonlocal calls
            calls += 1
            if calls == 200:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory")
            return job(sink, tensor, *piece)

        return fail

    with live_merge(model) as merge, monkeypatch.context() as patch:
        for name in ("write", "room"):
            patch.setattr(LiveSink, name, failing(getattr(LiveSink, name)))
        with pytest.raises(MergeError, match="memory"):
            merge.apply(recipe)
    assert model.digest() == before


@pytest.mark.parametrize("kind", ["inference", "parameters"])
def test_a_model_whose_tensors_are_not_plain(recipe: MergeRecipe, models: Mapping[str, Path], kind: str) -> None:
    with torch.inference_mode(kind == "inference"):
        tensors = {key: (tensor.clone(),) for key, tensor in load_file(models["a"]).items()}
    if kind == "parameters":
        tensors = {key: (torch.nn.Parameter(part, part.is_floating_point()),) for key, (part,) in tensors.items()}
    model = FakeModel(CheckpointRef("a", models["a"]), tensors)
    plain = FakeModel(CheckpointRef("a", models["a"]), {key: (part,) for key, part in load_file(models["a"]).items()})
    before = plain.digest()
    some = replace(recipe, rules=parse_rules(f"{SPEC},OUT05:attn2:0.4"))
    with live_merge(model) as merge, live_merge(plain) as other:
        for now in (recipe, some, recipe):
            merge.apply(now)
            other.apply(now)
            assert digest_of(model) == plain.digest()
        assert merge.is_intact()
    assert digest_of(model) == before


def digest_of(model: FakeModel) -> bytes:
    tensors = {key: tuple(part.detach() for part in parts) for key, parts in model.tensors().items()}
    return FakeModel(None, tensors).digest()


def test_a_tensor_that_the_host_refuses(recipe: MergeRecipe, models: Mapping[str, Path]) -> None:
    model = fake_model(models["a"])
    before = model.digest()
    refused = next(iter(model.tensors()))
    model.refuses = frozenset([refused])
    with pytest.raises(HostError, match="refuses"), live_merge(model) as merge:
        merge.apply(recipe)
    assert model.digest() == before


def test_an_error_between_merge_and_image(recipe: MergeRecipe, models: Mapping[str, Path]) -> None:
    model = fake_model(models["a"])
    before = model.digest()
    with pytest.raises(ZeroDivisionError), live_merge(model) as merge:  # noqa: PT012
        merge.apply(recipe)
        raise ZeroDivisionError
    assert model.digest() == before


def test_one_merge_at_a_time(recipe: MergeRecipe, models: Mapping[str, Path]) -> None:
    model = fake_model(models["a"])
    with live_merge(model) as merge:
        merge.apply(recipe)
        with pytest.raises(HostError, match="Another merge"), live_merge(model):
            pass
        assert merge.is_intact()
    with live_merge(model):
        pass


@pytest.mark.parametrize("kind", ["sd2", "sdxl"])
def test_a_live_model_of_another_kind(recipe: MergeRecipe, tmp_path: Path, kind: str) -> None:
    model = fake_model(save(tmp_path / "other.safetensors", random_state(LAYOUTS[kind], 1)))
    before = model.digest()
    with pytest.raises(MergeError, match="not of the same kind"), live_merge(model) as merge:
        merge.apply(recipe)
    assert model.digest() == before


def test_tensors_that_a_later_model_lacks_are_given_back(
    recipe: MergeRecipe, models: Mapping[str, Path], tmp_path: Path
) -> None:
    without = {key: value for key, value in load_file(models["b"]).items() if not key.startswith("first_stage")}
    small = model_source(save(tmp_path / "small.safetensors", without))
    model = fake_model(models["a"])
    with live_merge(model) as merge:
        merge.apply(recipe)
        merge.apply(replace(recipe, model_a=small))
        original = load_file(models["a"])
        for key, values in state(model).items():
            if key.startswith("first_stage"):
                assert torch.equal(values, original[key].reshape(-1)), key


def test_threads_claim_one_after_the_other(recipe: MergeRecipe, models: Mapping[str, Path]) -> None:
    model = fake_model(models["a"])
    outcomes: list[str] = []
    barrier = threading.Barrier(4)

    def run() -> None:
        barrier.wait()
        try:
            with live_merge(model) as merge:
                merge.apply(recipe)
                outcomes.append("done")
        except HostError:
            outcomes.append("refused")

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("done") >= 1
    assert len(outcomes) == 4
    assert model.digest() == fake_model(models["a"]).digest()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_model_on_two_devices(recipe: MergeRecipe, models: Mapping[str, Path]) -> None:
    model = fake_model(models["a"])
    tensors = {
        key: tuple(part.cuda() for part in parts) if "output_blocks" in key else parts
        for key, parts in model.tensors().items()
    }
    split = FakeModel(model.checkpoint, tensors)
    with live_merge(split) as merge:
        merge.apply(recipe)
        assert merge.is_intact()
    for key, parts in split.tensors().items():
        for part, original in zip(parts, fake_model(models["a"]).tensors()[key], strict=True):
            assert torch.equal(part.cpu(), original)


def test_differences_of_plans_are_those_of_their_ratios(recipe: MergeRecipe) -> None:
    """The fast way to tell what moved agrees with the whole plan."""
    from elemental.architectures.tensor_sets import members
    from elemental.merge.files.open_models import OpenModels

    with OpenModels() as open_models:
        planner = open_models.planner(recipe)
    plan = plan_merge(recipe)
    found = {
        planner.names[index].key: ratio
        for ratio, tensors in planner.ratios(recipe).items()
        for index in members(tensors)
    }
    assert found == {tensor.name.key: (tensor.alpha, tensor.beta) for tensor in plan.tensors}


def test_what_the_host_loaded_meanwhile_is_not_written_over(models: dict[str, Path]) -> None:
    live = fake_model(models["a"])
    recipe = MergeRecipe(model_source(models["a"]), model_source(models["b"]))
    with live_merge(live) as merge:
        merge.apply(recipe)
        for key, tensor in load_file(models["c"]).items():
            for part in live.tensors().get(key, ()):
                part.fill_(float(tensor.reshape(-1)[0]))
        others = live.digest()
        live.is_replaced = True
        assert not merge.is_intact()
        with pytest.raises(HostError, match="merge again"):
            merge.apply(recipe)
    assert live.digest() == others


_ENDS_WITH_A_MERGE = """
import sys
from pathlib import Path
import elemental
from tests.test_live import fake_model
a, b = (Path(sys.argv[1]) / f"{name}.safetensors" for name in "ab")
context = elemental.live_merge(fake_model(a))
context.__enter__().apply(elemental.MergeRecipe(elemental.model_source(a), elemental.model_source(b)))
"""


@pytest.mark.slow
def test_a_process_may_end_with_a_merge_in_the_model(tmp_path: Path) -> None:
    """Tensors that are touched while Python ends would abort it."""
    copy_pair(tmp_path)
    command = [sys.executable, "-c", _ENDS_WITH_A_MERGE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1])
    assert (done.returncode, done.stderr) == (0, "")
