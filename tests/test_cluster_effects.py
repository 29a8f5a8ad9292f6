"""Estimates of effects on many workers: the files of one process, whatever becomes of workers."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from elemental.cli import main as cli
from elemental.cluster.crew import Crew, Lost
from elemental.cluster.effects_maker import ClusterEffects
from elemental.cluster.maker import ClusterMaker
from elemental.cluster.worker import WorkerFacts
from elemental.effects.samples import UNET, Pass
from elemental.effects.samples_file import read_samples
from elemental.errors import HostError, MergeError, Stopped
from elemental.hosts.base import Host
from elemental.images.image_request import ImageRequest
from elemental.merge.files.open_models import OpenModels
from elemental.merge.progress import Controls
from elemental.runs.axes.base import Setting
from elemental.runs.effect_confirmation import confirm_effects
from elemental.runs.effect_estimate import EffectOrder, EffectWatcher, Method, estimate_effects
from elemental.runs.effect_maker import EffectMaker
from elemental.runs.effect_ranking import rank_effects
from elemental.runs.effect_results import write_effects
from elemental.runs.image_maker import ImageMaker
from elemental.workflows import plan_merge

from .fake_host import FakeDifferentiator, FakeHost, FakeTrace
from .here_workers import HereWorkers, setup
from .plotting import REQUEST, load

GONE, BACK = Lost("no power", for_good=True), Lost("no memory", for_good=False)


class WholeTrace(FakeTrace):
    """An image that can be computed as a whole."""

    whole = True

    def draw(self) -> Tensor:
        """Give the values of channels."""
        return self.decode()


class WholeDifferentiator(FakeDifferentiator):
    """Differentiates whole images."""

    def trace(self, request: ImageRequest, *, model: Mapping[str, str], room: int = 0) -> WholeTrace:  # noqa: ARG002
        """Make the image."""
        return WholeTrace(self._host.make_images(request, model=model)[0], self._weights)


class DifferentiatingHost(FakeHost):
    """Differentiates whole images."""

    def differentiator(self) -> FakeDifferentiator | None:
        """Give what does so."""
        return None if self._live is None else WholeDifferentiator(self, self._live)


def make_host(device: str) -> FakeHost:  # noqa: ARG001
    return DifferentiatingHost(load)


@pytest.fixture(params=Method, ids=lambda method: method.value)
def order(request: pytest.FixtureRequest, base: Setting) -> EffectOrder:
    """Give an estimate of three images by either method."""
    requests = tuple(replace(REQUEST, seed=seed) for seed in (3, 4, 5))
    return EffectOrder(base.recipe, requests, passes=4, method=request.param)


@pytest.fixture
def here() -> Iterator[Any]:
    """Give what begins so many workers in this process."""
    with ExitStack() as stack:

        def begin(count: int, make: Callable[[str], Host] = make_host) -> HereWorkers:
            workers = HereWorkers(
                [WorkerFacts("one kind")] * count, setup({}, make_host=make), draw=random.Random(count)
            )
            stack.callback(workers.close)
            return workers

        yield begin


def estimate(
    order: EffectOrder,
    folder: Path,
    maker: EffectMaker | None = None,
    *,
    images: ImageMaker | None = None,
    results: bool = False,
    **watching: Any,
) -> dict[str, bytes]:
    """Estimate, confirm a tensor, and give all files: those that are kept, and if wanted the results."""
    host, watcher = make_host("cpu"), EffectWatcher(**watching)
    effects = estimate_effects(host, order, folder=folder, watcher=watcher, maker=maker)
    plan = plan_merge(order.recipe)
    ranking = rank_effects(effects.samples, [tensor.name for tensor in plan.tensors])
    by_key = {tensor.name.key: tensor for tensor in plan.tensors}
    first = [by_key[ranking.tensors[0].name]]
    confirmed = confirm_effects(images or host, effects, first, folder=folder, watcher=watcher)
    if results:
        write_effects(folder, effects, ranking.with_confirmed(confirmed.figures), plan.architecture)
    return files(folder)


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def on(workers: HereWorkers) -> dict[str, Any]:
    crew = Crew(workers)
    return {"maker": ClusterEffects(crew), "images": ClusterMaker(crew, OpenModels())}


def passes_in(folder: Path) -> list[Pass]:
    (path,) = folder.glob("effects-*.safetensors")
    return list(read_samples(path)[0].passes)


@pytest.fixture
def whole(order: EffectOrder, tmp_path: Path) -> dict[str, bytes]:
    """Give the files of the estimate as one process makes them."""
    made = estimate(order, tmp_path / "one")
    assert len(made) == 2  # samples, and what confirms them
    return made


def test_workers_make_the_files_of_one_process(here: Any, order: EffectOrder, tmp_path: Path) -> None:
    workers, told = here(5), list[tuple[int, int, str]]()
    made = estimate(order, tmp_path / "many", **on(workers), results=True, on_progress=lambda *step: told.append(step))
    assert len(made) == 6 + 2 + len(order.requests)  # results, samples and what confirms them, images
    assert made == estimate(order, tmp_path / "one", results=True)
    done, total, _ = next(step for step in told if step[2] == "done")
    assert done == total
    assert {number for number, _ in workers.begun} == set(range(5))


@pytest.mark.slow
def test_lost_workers_cost_no_pass(here: Any, order: EffectOrder, whole: Mapping[str, bytes], tmp_path: Path) -> None:
    source = "image" if order.method is Method.WHOLE else UNET
    workers = here(3)
    workers.losses = {
        "image 2": [BACK],
        f"pass 1 ({source}) of image 3": [BACK],
        f"pass 2 ({source}) of image 1": [GONE],
        "image 1, moved a little": [BACK],
        "x01-y00": [BACK],
    }
    assert estimate(order, tmp_path / "many", **on(workers)) == whole
    assert not any(workers.losses.values())


@pytest.mark.slow
def test_a_pass_that_costs_workers_is_named_and_the_others_are_kept(
    here: Any, order: EffectOrder, whole: Mapping[str, bytes], tmp_path: Path
) -> None:
    source = "image" if order.method is Method.WHOLE else UNET
    workers, folder = here(2), tmp_path / "many"
    workers.losses = {f"pass 2 ({source}) of image 1": [BACK, BACK]}
    with pytest.raises(HostError) as caught:
        estimate(order, folder, **on(workers))
    text = f"Pass 2 ({source}) of image 1: 2 workers ended while they made it. no memory"
    assert str(caught.value) == text
    assert len(passes_in(folder)) == len(passes_in(tmp_path / "one")) - 1
    assert estimate(order, folder, **on(here(2))) == whole  # in the order of the schedule, too


@pytest.mark.slow
def test_the_last_worker_ends_the_estimate_and_what_it_made_is_kept(
    here: Any, order: EffectOrder, whole: Mapping[str, bytes], tmp_path: Path
) -> None:
    source = "image" if order.method is Method.WHOLE else UNET
    workers, folder = here(1), tmp_path / "many"
    workers.losses = {f"pass 1 ({source}) of image 3": [GONE]}
    with pytest.raises(HostError, match=r"All workers are gone\. no power"):
        estimate(order, folder, **on(workers))
    assert 0 < len(passes_in(folder)) < len(passes_in(tmp_path / "one"))
    assert estimate(order, folder) == whole  # one process goes on


@pytest.mark.slow
def test_a_stopped_estimate_goes_on_anywhere(
    here: Any, order: EffectOrder, whole: Mapping[str, bytes], tmp_path: Path
) -> None:
    told, folder = list[str](), tmp_path / "many"
    stop = Controls(should_stop=lambda: sum(text.startswith("pass") for text in told) > 2)
    with pytest.raises(Stopped, match="passes that are kept: "):
        estimate(order, folder, **on(here(2)), on_progress=lambda *step: told.append(step[2]), controls=stop)
    kept = passes_in(folder)
    assert 0 < len(kept) < len(passes_in(tmp_path / "one"))
    assert estimate(order, folder, **on(here(3))) == whole
    assert estimate(replace(order, passes=6), folder, **on(here(2))) == estimate(
        replace(order, passes=6), tmp_path / "one"
    )


def test_an_error_of_a_worker_is_that_of_one_process(
    here: Any, order: EffectOrder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from elemental.effects.passes import PassMaker

    sample = PassMaker.sample

    def fail(self: PassMaker, image: Any, which: Pass) -> Tensor:
        if which.number == 1 and which.request == 0:
            raise MergeError("this one")
        return sample(self, image, which)

    monkeypatch.setattr(PassMaker, "sample", fail)
    with pytest.raises(MergeError, match=r"^this one$"):
        estimate(order, tmp_path / "many", **on(here(2)))
    assert passes_in(tmp_path / "many")


@pytest.mark.slow
def test_an_image_that_confirms_and_costs_workers_is_named(here: Any, order: EffectOrder, tmp_path: Path) -> None:
    workers = here(2)
    workers.losses = {"x01-y00": [BACK, BACK]}
    with pytest.raises(HostError, match=r"^\S+: 2 workers ended while they made it\. no memory"):
        estimate(order, tmp_path, **on(workers))
    begun = [name for _, name in workers.begun if name.startswith("x")]
    assert len(begun) == 3 + 1  # all others are made


def test_a_host_that_cannot_differentiate_whole_images_says_so_once(here: Any, base: Setting, tmp_path: Path) -> None:
    def make(_device: str) -> FakeHost:
        host = FakeHost(load)
        host.differentiates = True
        return host

    notes: list[str] = []
    order = EffectOrder(base.recipe, (REQUEST,), passes=2, method=Method.WHOLE)
    maker = on(here(3, make))["maker"]
    effects = estimate_effects(
        make("cpu"), order, folder=tmp_path, maker=maker, watcher=EffectWatcher(on_note=notes.append)
    )
    assert effects.order.method is Method.STEPS
    first, second = notes
    assert first == "This host cannot differentiate whole images: single steps are used."
    assert second.startswith("A backward pass needs about")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--workers", "2"], "--workers goes with --on"),
        (["--on", "ray", "--workers", "0"], "at least one"),
        (["--on", "ray", "--device", "cuda:1"], "it is cpu or cuda"),
        (["--on", "slurm"], '"slurm" is not ray or ray:ADDRESS'),
    ],
)
def test_options_that_do_not_go_together(
    options: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("diffusers")
    try:
        ended = cli.main(["effects", "a", "b", "--prompt", "x", "-o", str(tmp_path / "out"), *options])
    except SystemExit as exc:
        ended = int(exc.code or 0)
    assert (ended, said in " ".join(capsys.readouterr().err.split())) == (cli.WRONG_USAGE, True)
    assert not (tmp_path / "out").exists()
