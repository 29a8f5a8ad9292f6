"""Tensors that are kept for the next cells: read once, right whatever was read since, and not of a changed file."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from elemental import CheckpointError, MergeError, MergePlan, MergeRecipe, model_source
from elemental.merge.execute import Sink, execute
from elemental.merge.files.open_models import OpenModels
from elemental.merge.files.tensor_data import Buffer, TensorData
from elemental.merge.models import Model
from elemental.merge.plan import Role, TensorPlan
from elemental.merge.recent_tensors import RecentTensors

from .merging import State

ENTRIES = ("out.2.weight", "out.2.bias", "time_embed.0.bias", "out.0.bias", "out.0.weight")
KEYS = [f"model.diffusion_model.{name}" for name in ENTRIES]

Models = Mapping[Role, Model]


class Fixed(Sink):
    """Collects results."""

    def __init__(self) -> None:
        self.results: State = {}

    def write(self, tensor: TensorPlan, start: int, values: Tensor) -> None:
        result = self.results.setdefault(tensor.name.key, torch.empty(tensor.info.numel, dtype=values.dtype))
        result[start : start + len(values)] = values


@pytest.fixture
def opened(models: Mapping[str, Path]) -> Iterator[tuple[Models, MergePlan]]:
    """Give models A and B, and the plan of a merge."""
    recipe = MergeRecipe(model_source(models["a"]), model_source(models["b"]), alpha=0.3)
    with OpenModels() as open_models:
        files = open_models.open(recipe)
        yield files, open_models.planner(recipe).plan(recipe)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """List the bytes of every tensor that is read from a file."""
    found: list[int] = []
    read = TensorData.read

    def count(data: TensorData, start: int, stop: int, buffer: Buffer) -> Tensor:
        found.append((stop - start) * data.dtype.itemsize)
        return read(data, start, stop, buffer)

    monkeypatch.setattr(TensorData, "read", count)
    return found


def only(plan: MergePlan, keys: Sequence[str]) -> MergePlan:
    return MergePlan(plan.architecture, plan.recipe, tuple(t for t in plan.tensors if t.name.key in keys))


def run(plan: MergePlan, readers: Mapping[Role, object]) -> State:
    sink = Fixed()
    execute(plan, readers, sink)  # type: ignore[arg-type]
    return sink.results


def same(some: State, others: State) -> bool:
    return some.keys() == others.keys() and all(torch.equal(some[key], others[key]) for key in some)


def stored(models: Models, plan: MergePlan) -> int:
    """Give the bytes of a plan's inputs, each from a multiple of 64 on."""
    inputs = [models[role].tensors[tensor.name.key] for tensor in plan.tensors for role in tensor.inputs]
    return sum(-(-info.nbytes // 64) * 64 for info in inputs)


def test_a_tensor_is_read_once(opened: tuple[Models, MergePlan], reads: list[int]) -> None:
    models, whole = opened
    recent, plan = RecentTensors(), only(whole, KEYS)
    wanted = run(plan, models)
    reads.clear()
    counts = []
    for _ in range(4):
        assert same(run(plan, recent.readers(models, plan)), wanted)
        counts.append(len(reads))
    assert counts == [2 * len(KEYS)] * 4


def test_a_tensor_of_several_pieces_is_read_once(
    opened: tuple[Models, MergePlan], reads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    models, whole = opened
    monkeypatch.setattr("elemental.merge.computation.CPU_PIECE", 25)
    plan = only(whole, KEYS)
    recent, wanted = RecentTensors(), run(plan, models)
    for expected in (sum(2 * -(-tensor.info.numel // 100) for tensor in plan.tensors), 0):
        reads.clear()
        assert same(run(plan, recent.readers(models, plan)), wanted)
        assert len(reads) == expected


def test_a_merge_that_failed_leaves_what_was_read_right(
    opened: tuple[Models, MergePlan], monkeypatch: pytest.MonkeyPatch
) -> None:
    models, whole = opened
    monkeypatch.setattr("elemental.merge.computation.CPU_PIECE", 25)
    plan = only(whole, KEYS)
    recent, wanted = RecentTensors(), run(plan, models)

    class Failing(Fixed):
        def write(self, tensor: TensorPlan, start: int, values: Tensor) -> None:
            super().write(tensor, start, values)
            if start:
                raise MergeError("the second piece")

    with pytest.raises(MergeError, match="second"):
        execute(plan, recent.readers(models, plan), Failing())
    assert same(run(plan, recent.readers(models, plan)), wanted)


def test_a_plan_of_more_than_half_of_the_memory_reads_the_files(opened: tuple[Models, MergePlan]) -> None:
    models, whole = opened
    plan = only(whole, KEYS)
    most = 2 * stored(models, plan)
    assert RecentTensors(most).readers(models, plan) is not models
    assert RecentTensors(most - 64).readers(models, plan) is models


def test_what_was_read_first_makes_room(opened: tuple[Models, MergePlan], reads: list[int]) -> None:
    models, whole = opened
    plans = [only(whole, [key]) for key in KEYS]
    recent = RecentTensors(2 * max(stored(models, plan) for plan in plans))

    def read(plan: MergePlan) -> int:
        reads.clear()
        assert same(run(plan, recent.readers(models, plan)), run(plan, models))
        return len(reads) - 2  # those of the comparison

    large, *small = sorted(plans, key=lambda plan: -stored(models, plan))
    for plan in plans:
        read(plan)
    assert read(small[-1]) == 0
    read(large)
    assert read(large) == 0
    others = [only(whole, [tensor.name.key]) for tensor in whole.tensors if tensor.info.nbytes <= 1 << 12]
    for plan in others:
        read(plan)
    assert read(large) == 2
    assert sum(held.data.nbytes for held in recent._held.values()) <= recent._capacity


@pytest.mark.parametrize("seed", range(8))
def test_any_plans_one_after_the_other(
    opened: tuple[Models, MergePlan], seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the tensors of a plan partly held, partly overwritten by the others of this very plan."""
    models, whole = opened
    chance = random.Random(seed)
    if seed % 2:
        monkeypatch.setattr("elemental.merge.execute._THREAD_BYTES", 1)
    usual = chance.sample([tensor.name.key for tensor in whole.tensors if tensor.info.nbytes < 1 << 11], 40)
    wanted = run(only(whole, usual), models)
    capacity, from_memory = chance.choice([1 << 12, 1 << 13, 1 << 14]), 0
    recent = RecentTensors(capacity)
    for _ in range(150):
        plan = only(whole, chance.sample(usual, chance.randint(1, 12)))
        readers = recent.readers(models, plan)
        from_memory += readers is not models
        assert same(run(plan, readers), {key: wanted[key] for key in (tensor.name.key for tensor in plan.tensors)})
    assert from_memory > 20


def test_a_plan_whose_tensors_lie_where_room_is_made_reads_them_again(
    opened: tuple[Models, MergePlan], reads: list[int]
) -> None:
    models, whole = opened
    first, second, third = (only(whole, [key]) for key in (KEYS[0], KEYS[4], KEYS[3]))
    all_three = only(whole, [KEYS[0], KEYS[4], KEYS[3]])
    recent = RecentTensors(2 * stored(models, all_three))
    for plan in (first, second, third):
        run(plan, recent.readers(models, plan))
    recent._end += recent._capacity - stored(models, first)  # the memory behind the first one has been given to others
    reads.clear()
    assert same(run(all_three, recent.readers(models, all_three)), run(all_three, models))
    assert len(reads) == 2 * 6  # all of them, and those of the comparison


def test_memory_is_made_ready_during_a_large_merge(opened: tuple[Models, MergePlan], reads: list[int]) -> None:
    models, whole = opened
    plan = only(whole, KEYS)
    recent, wanted = RecentTensors(2 * stored(models, plan)), run(plan, models)
    assert same(run(whole, recent.readers(models, whole)), run(whole, models))
    for _ in range(2):
        reads.clear()
        assert same(run(plan, recent.readers(models, plan)), wanted)
    recent.wait()
    assert not reads


def test_without_memory_the_files_are_read(opened: tuple[Models, MergePlan], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("elemental.merge.recent_tensors.torch.empty", fail)
    recent = RecentTensors()
    for _ in range(2):
        assert recent.readers(opened[0], only(opened[1], KEYS)) is opened[0]


def test_a_file_that_was_written_to_is_refused(models: Mapping[str, Path], tmp_path: Path) -> None:
    paths = [Path(shutil.copy(models[name], tmp_path)) for name in "ab"]
    recipe = MergeRecipe(model_source(paths[0]), model_source(paths[1]), alpha=0.3)
    recent = RecentTensors()
    with OpenModels() as open_models:
        files = open_models.open(recipe)
        plan = only(open_models.planner(recipe).plan(recipe), KEYS)
        run(plan, recent.readers(files, plan))
        paths[0].write_bytes(b"something else")
        with pytest.raises(CheckpointError, match="changed"):
            run(plan, recent.readers(files, plan))
