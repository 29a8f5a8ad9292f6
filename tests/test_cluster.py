"""Runs on a cluster of Ray: the same files as on one device, whatever becomes of workers; and what needs no Ray."""

from __future__ import annotations

import json
import os
import platform
import random
import shutil
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from elemental import HostError, ModelSource, __version__
from elemental.cli import main as cli
from elemental.cli.cluster_option import RayCluster, refuse_cluster_options
from elemental.cli.command import UsageError
from elemental.cluster.crew import Crew, Lost
from elemental.cluster.maker import ClusterMaker
from elemental.cluster.places import Node, Places, choose_places
from elemental.cluster.ray_workers import open_cluster, require_ray
from elemental.cluster.shares import Shares
from elemental.cluster.worker import Worker, WorkerFacts
from elemental.hosts.base import NO_FIELDS, Host
from elemental.images.image_request import GeneratedImage, ImageRequest
from elemental.merge.files.checkpoint import read_signature
from elemental.merge.files.hashes import CACHE_VARIABLE
from elemental.merge.files.open_models import OpenModels
from elemental.merge.progress import Controls
from elemental.runs.axes.base import Setting
from elemental.runs.cells import Cell
from elemental.runs.estimate import estimate_plot
from elemental.runs.image_maker import ImageMaker
from elemental.runs.resume import open_run
from elemental.runs.run_files import latest_run
from elemental.runs.run_record import read_record
from elemental.runs.runner import Progress, RunResult, RunWatcher, continue_run, start_run
from elemental.runs.xy_plot import XYPlot
from elemental.runs.xy_plot_run import PlotRun
from elemental.session import plot_and_check_jobs as run_jobs
from elemental.session.form import MergeForm
from elemental.session.run_devices import RunDevices
from elemental.session.run_plans import PlotForm
from elemental.session.session import session_of
from elemental.workflows import CONFIG_VARIABLE

from .fake_host import FakeHost
from .here_workers import HereWorkers, make_fake_host, setup
from .plotting import REQUEST, ended, load, plot, run
from .ray_nodes import LOOPBACK, ROOT, CannotBegin, RayNodes, limit

SEEDS = "1, 2, 3"
ALPHAS = "0, 0.3, 0.6"


def cells(count: int, base: Setting) -> list[Cell]:
    return [Cell(number, 0, base.recipe, REQUEST) for number in range(count)]


@pytest.mark.parametrize("workers", [1, 2, 3, 7, 12])
@pytest.mark.parametrize("count", [0, 1, 5, 10])
def test_shares_are_runs_of_neighbours_and_each_cell_is_begun_once(count: int, workers: int, base: Setting) -> None:
    shares = Shares(cells(count, base), workers)
    begun: dict[int, list[int]] = {worker: [] for worker in range(workers)}
    draw = random.Random(count * 100 + workers)
    while len(shares):
        worker = draw.randrange(workers)
        cell = shares.next(worker)
        assert cell is not None
        begun[worker].append(cell.x)
    assert sorted(x for own in begun.values() for x in own) == list(range(count))
    assert all(shares.next(worker) is None for worker in range(workers))


def test_an_idle_worker_takes_the_later_half_of_the_longest_run(base: Setting) -> None:
    shares = Shares(cells(12, base), 3)  # 0-3, 4-7, 8-11
    taken = [shares.next(worker) for worker in (0, 0, 0, 0, 1, 0, 0, 0, 1)]
    assert [cell.x for cell in taken if cell] == [0, 1, 2, 3, 4, 10, 11, 6, 5]
    lost = taken[-1]
    assert lost is not None
    shares.give_back(1, lost)
    assert [cell.x for worker in (2, 0, 0, 2) if (cell := shares.next(worker))] == [8, 7, 5, 9]


@pytest.mark.parametrize(
    ("nodes", "device", "workers", "places"),
    [
        ([Node(8, 2), Node(8, 1), Node(4, 0)], None, None, Places(3, "cuda", 0)),
        ([Node(8, 2)], None, 1, Places(1, "cuda", 0)),
        ([Node(8, 2)], "cpu", None, Places(1, "cpu", 8)),
        ([Node(8, 0), Node(16, 0)], None, None, Places(2, "cpu", 8)),
        ([Node(8, 0), Node(0, 0)], None, 3, Places(3, "cpu", 2)),
        ([Node(8, 0), Node(8, 0)], None, 3, Places(3, "cpu", 4)),
    ],
)
def test_workers_are_one_a_gpu_or_one_a_machine(
    nodes: Sequence[Node], device: str | None, workers: int | None, places: Places
) -> None:
    assert choose_places(nodes, device, workers) == places


@pytest.mark.parametrize(
    ("device", "workers", "said"), [("cuda", None, "0 GPUs"), ("cuda", 1, "0 GPUs"), (None, 3, "2 CPUs")]
)
def test_more_workers_than_there_is_room_for_are_refused(device: str | None, workers: int | None, said: str) -> None:
    with pytest.raises(HostError, match=f"The cluster has {said}"):
        choose_places([Node(2, 0)], device, workers)


def make_plot(host: Host, base: Setting) -> XYPlot:
    return plot(host, base, ("seed", SEEDS), ("alpha", ALPHAS))


def start(maker: ImageMaker, plotted: XYPlot, folder: Path, **watching: Any) -> RunResult:
    watcher = RunWatcher(**watching)
    return start_run(maker, PlotRun(plotted), folder, estimate=estimate_plot(plotted), watcher=watcher)


def go_on(maker: ImageMaker, folder: Path) -> RunResult:
    record = read_record(latest_run(folder))
    return continue_run(maker, open_run(FakeHost(load), record), record)


def files(folder: Path) -> dict[str, bytes]:
    """Read all images, and the record without its times."""
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.png")}
    record = json.loads((folder / "run.json").read_text())
    record.pop("sessions")
    for cell in record["cells"].values():
        cell.pop("seconds")
    return {**found, "run.json": json.dumps(record).encode()}


@pytest.fixture
def plotted(fake: FakeHost, base: Setting) -> XYPlot:
    return make_plot(fake, base)


@pytest.fixture
def whole(fake: FakeHost, plotted: XYPlot, tmp_path: Path) -> dict[str, bytes]:
    """Give the files of the plot as one process makes them."""
    run(fake, plotted, tmp_path / "one")
    return files(tmp_path / "one")


@pytest.fixture
def here(plotted: XYPlot) -> Iterator[Any]:
    with ExitStack() as stack:

        def make(facts: Sequence[WorkerFacts]) -> tuple[HereWorkers, ClusterMaker]:
            workers = HereWorkers(facts, setup(estimate_plot(plotted).models))
            stack.callback(workers.close)
            return workers, ClusterMaker(Crew(workers), stack.enter_context(OpenModels()))

        yield make


def test_lost_workers_cost_no_image_and_none_is_made_twice(
    here: Any, plotted: XYPlot, whole: Mapping[str, bytes], tmp_path: Path
) -> None:
    workers, maker = here([WorkerFacts("one kind")] * 3)
    workers.losses = {"x00-y01": [Lost("ended", for_good=False)], "x01-y02": [Lost("ended", for_good=True)]}
    result = start(maker, plotted, tmp_path / "many")
    assert (result.made, result.failed, result.waiting) == (9, {}, 0)
    assert files(tmp_path / "many") == whole
    names = [name for _, name in workers.begun]
    assert sorted(names) == sorted([*{cell.name for cell in plotted.cells()}, "x00-y01", "x01-y02"])


def test_a_worker_that_cannot_make_anything_costs_no_image(
    here: Any, plotted: XYPlot, whole: Mapping[str, bytes], tmp_path: Path
) -> None:
    workers, maker = here([WorkerFacts("one kind")] * 3)
    workers.broken = {0, 2}
    result = start(maker, plotted, tmp_path / "many")
    assert (result.made, result.failed, result.waiting) == (9, {}, 0)
    assert files(tmp_path / "many") == whole
    assert [number for number, _ in workers.begun if number in workers.broken] == [0, 2]  # once each


def test_what_no_worker_can_make_fails_and_is_not_tried_without_end(
    here: Any, plotted: XYPlot, whole: Mapping[str, bytes], tmp_path: Path
) -> None:
    workers, maker = here([WorkerFacts("one kind")] * 3)
    workers.broken = {0, 1, 2}
    result = start(maker, plotted, tmp_path / "many")
    assert set(result.failed) == {cell.name for cell in plotted.cells()}
    assert set(result.failed.values()) == {"the device is full"}
    workers.broken = {1}
    assert go_on(maker, tmp_path / "many").made == 9
    assert files(tmp_path / "many") == whole


def test_a_worker_that_could_not_begin_is_left_out(
    here: Any, plotted: XYPlot, whole: Mapping[str, bytes], tmp_path: Path
) -> None:
    workers, _ = here([WorkerFacts("one kind")] * 2)
    del workers.facts[1]
    workers.gone = {1}
    start(ClusterMaker(Crew(workers), OpenModels()), plotted, tmp_path / "many")
    assert files(tmp_path / "many") == whole
    workers.losses = {"x00-y00": [Lost("no power", for_good=True)]}
    with pytest.raises(HostError, match="All workers are gone"):
        start(ClusterMaker(Crew(workers), OpenModels()), plotted, tmp_path / "none")


def test_a_cell_that_costs_workers_is_a_blank_and_the_last_worker_ends_the_run(
    here: Any, plotted: XYPlot, whole: Mapping[str, bytes], tmp_path: Path
) -> None:
    workers, maker = here([WorkerFacts("one kind")] * 2)
    workers.losses = {"x00-y01": [Lost("no memory", for_good=False)] * 2}
    result = start(maker, plotted, tmp_path / "many")
    assert result.failed == {"x00-y01": "2 workers ended while they made it. no memory"}
    workers.losses = {"x00-y01": [Lost("no power", for_good=True)]}
    del workers.facts[1]
    with pytest.raises(HostError, match=r"All workers are gone\. no power"):
        go_on(one_left(workers), tmp_path / "many")
    assert go_on(here([WorkerFacts("one kind")])[1], tmp_path / "many").made == 1
    assert files(tmp_path / "many") == whole


def one_left(workers: HereWorkers) -> ClusterMaker:
    workers.count = 1
    return ClusterMaker(Crew(workers), OpenModels())


def test_the_record_names_devices_that_differ(here: Any, plotted: XYPlot, tmp_path: Path) -> None:
    start(here([WorkerFacts("H200"), WorkerFacts("A100")])[1], plotted, tmp_path)
    record = json.loads((tmp_path / "run.json").read_text())
    assert {cell["device"] for cell in record["cells"].values()} == {"H200", "A100"}
    again = read_record(latest_run(tmp_path)).to_dict()
    assert again == record


def test_a_late_worker_that_lacks_a_model_is_not_used(here: Any, plotted: XYPlot, tmp_path: Path) -> None:
    workers, maker = here([WorkerFacts("one kind")] * 2)
    workers.facts[1] = WorkerFacts("one kind", ("node7: a.safetensors is not there",))
    workers.losses = {"x00-y02": [Lost("ended", for_good=False)]}
    result = start(maker, plotted, tmp_path)
    assert result.made == 9
    lost = max(index for index, (number, _) in enumerate(workers.begun) if number == 1)
    assert all(number == 0 for number, _ in workers.begun[lost + 1 :])


def test_a_machine_is_named_with_what_it_lacks(plotted: XYPlot) -> None:
    models = {"/nowhere/a.safetensors": next(iter(estimate_plot(plotted).models.values()))}
    facts = Worker().start(setup(models, version="0.0.1"))
    assert facts.lacks == (f"{platform.node()} has version {__version__} of this program, and not 0.0.1.",)
    (missing,) = Worker().start(setup(models)).lacks
    assert missing.startswith(f"{platform.node()}: /nowhere/a.safetensors is not there")


def test_without_ray_the_message_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("elemental.cluster.ray_workers.find_spec", lambda _: None)
    with pytest.raises(HostError, match=r'pip install "sd-webui-elemental\[cluster\]"'):
        require_ray()


@pytest.mark.parametrize(
    ("on", "workers", "device", "said"),
    [
        (None, 2, None, "--workers goes with --on"),
        ("ray", 0, None, "at least one"),
        ("ray", None, "cuda:1", "it is cpu or cuda"),
    ],
)
def test_options_that_do_not_go_together(on: str | None, workers: int | None, device: str | None, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        refuse_cluster_options(on, workers, device)


@pytest.mark.parametrize("on", ["slurm", "ray:", "rays"])
def test_another_place_than_ray_is_refused(on: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["plot", "a", "b", "--on", on])
    assert f'"{on}" is not ray or ray:ADDRESS' in capsys.readouterr().err


class DyingHost(FakeHost):
    """Ends its process the first time that it makes one of the images."""

    def __init__(self, marker: Path) -> None:
        super().__init__(load)
        self._marker = marker

    def make_images(
        self, request: ImageRequest, *, model: Mapping[str, str], fields: Mapping[str, str] = NO_FIELDS
    ) -> Sequence[GeneratedImage]:
        """End, or make the images."""
        if request.seed == 2 and not self._marker.exists():
            self._marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().make_images(request, model=model, fields=fields)


def make_dying_host(marker: Path, device: str) -> DyingHost:  # noqa: ARG001
    return DyingHost(marker)


class StuckHost(FakeHost):
    """Makes no image on a node that was begun in a certain folder, and says that it is asked for one."""

    def __init__(self, folder: Path) -> None:
        super().__init__(load)
        self._folder = folder

    def make_images(
        self, request: ImageRequest, *, model: Mapping[str, str], fields: Mapping[str, str] = NO_FIELDS
    ) -> Sequence[GeneratedImage]:
        """Wait for the end, or make the images."""
        if Path.cwd() == self._folder:
            (self._folder / "stuck").touch()
            signal.pause()
        return super().make_images(request, model=model, fields=fields)


def make_stuck_host(folder: Path, device: str) -> StuckHost:  # noqa: ARG001
    return StuckHost(folder)


_NO_RAY = pytest.StashKey[str]()
"""Why Ray does not begin: it is tried once."""


@pytest.fixture(scope="module")
def ray_nodes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayNodes]:
    """Begin a Ray of two nodes, whose processes end with these tests; without one, they are skipped."""
    if not hasattr(signal, "SIGALRM"):
        pytest.skip("these tests end what hangs by signals, which this system does not have")
    if reason := request.session.stash.get(_NO_RAY, ""):
        pytest.skip(reason)
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        for name, value in LOOPBACK.items():  # first: Ray reads it when it is imported
            patch.setenv(name, value)
        pytest.importorskip("ray", reason="runs on a cluster need Ray, which is not installed")
        try:
            nodes = RayNodes(2, {CACHE_VARIABLE: str(tmp_path_factory.mktemp("cache"))})
        except CannotBegin as exc:
            request.session.stash[_NO_RAY] = f"Ray does not begin on this machine: {exc}"
            pytest.skip(request.session.stash[_NO_RAY])
        yield stack.enter_context(nodes)


@pytest.fixture
def nodes(ray_nodes: RayNodes) -> Iterator[RayNodes]:
    """Give the nodes to a test that may not take for ever."""
    with limit(nodes=ray_nodes):
        yield ray_nodes


@pytest.mark.slow
def test_two_workers_make_the_files_of_one_though_one_is_killed(
    nodes: RayNodes, plotted: XYPlot, whole: Mapping[str, bytes], tmp_path: Path
) -> None:
    models, marker = estimate_plot(plotted).models, tmp_path / "killed"
    make_host = partial(make_dying_host, marker)
    with open_cluster(nodes.address, make_host=make_host, models=models, workers=2) as (maker, device):
        result = start(maker, plotted, tmp_path / "many")
    assert (device, maker.at_once, marker.exists()) == ("cpu", 2, True)
    assert (result.made, result.failed) == (9, {})
    assert files(tmp_path / "many") == whole


@pytest.mark.slow
def test_a_stopped_run_goes_on_on_another_number_of_workers(
    nodes: RayNodes, plotted: XYPlot, whole: Mapping[str, bytes], tmp_path: Path
) -> None:
    def interrupt(_cell: Cell, _image: object, progress: Progress) -> None:
        if progress.done == 4:
            raise KeyboardInterrupt

    models = estimate_plot(plotted).models
    with open_cluster(nodes.address, make_host=make_fake_host, models=models, workers=2) as (maker, _):
        result = start(maker, plotted, tmp_path / "many", on_cell=interrupt)
    assert (result.made, result.waiting) == (4, 5)
    with open_cluster(nodes.address, make_host=make_fake_host, models=models, workers=1) as (maker, _):
        assert go_on(maker, tmp_path / "many").made == 5
    assert files(tmp_path / "many") == whole


@pytest.mark.slow
def test_a_run_goes_on_without_a_node_that_is_killed(
    nodes: RayNodes, plotted: XYPlot, whole: Mapping[str, bytes], tmp_path: Path
) -> None:
    doomed, saved = tmp_path / "doomed", list[str]()
    doomed.mkdir()
    number = nodes.add(doomed)

    def kill_when_stuck() -> bool:
        if (doomed / "stuck").exists() and number in nodes.numbers:
            nodes.kill(number)
        return False

    models, make_host = estimate_plot(plotted).models, partial(make_stuck_host, doomed)
    with open_cluster(nodes.address, make_host=make_host, models=models) as (maker, _):
        result = start(
            maker,
            plotted,
            tmp_path / "many",
            on_cell=lambda cell, _image, _progress: saved.append(cell.name),
            controls=Controls(should_stop=kill_when_stuck),
        )
        assert maker.at_once == 3
    assert number not in nodes.numbers
    assert (result.made, result.failed, result.waiting) == (9, {}, 0)
    assert sorted(saved) == sorted(cell.name for cell in plotted.cells())
    assert files(tmp_path / "many") == whole


@pytest.fixture
def out_of_sight(base: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> XYPlot:
    """Give a plot of models in the driver's current folder, where no node finds them: each is in another."""
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    a, b = (
        ModelSource(f"models/{Path(shutil.copy(source.path, tmp_path / 'models' / name)).name}")
        for source, name in ((base.recipe.model_a, "a.safetensors"), (base.recipe.model_b, "b.safetensors"))
    )
    shutil.copy(ROOT / "elemental" / "demo" / "a.yaml", "models")
    return make_plot(FakeHost(load), replace(base, recipe=replace(base.recipe, model_a=a, model_b=b)))


@pytest.mark.slow
def test_models_that_no_node_has_are_sent_once(
    nodes: RayNodes, out_of_sight: XYPlot, fake: FakeHost, tmp_path: Path
) -> None:
    run(fake, out_of_sight, tmp_path / "one")
    models, told = estimate_plot(out_of_sight).models, list[str]()
    assert sorted(models) == ["models/a.safetensors", "models/b.safetensors"]
    begin = partial(open_cluster, nodes.address, make_host=make_fake_host, models=models, workers=2, tell=told.append)
    with begin() as (maker, _):
        result = start(maker, out_of_sight, tmp_path / "many")
    assert (result.made, result.failed) == (9, {})
    assert files(tmp_path / "many") == files(tmp_path / "one")
    sent = [line.partition(" (")[0] for line in told]
    assert sorted(sent) == ["Sent a.safetensors", "Sent b.safetensors"]  # the nodes are one computer, with one cache
    with begin() as (maker, _):
        assert go_on(maker, tmp_path / "many").made == 0
    assert len(told) == 2


@pytest.mark.slow
def test_a_node_that_cannot_be_sent_a_model_is_named_before_the_first_image(nodes: RayNodes, tmp_path: Path) -> None:
    gone = tmp_path / "a.safetensors"
    models = {str(gone): read_signature(ROOT / "elemental" / "demo" / "a.safetensors")}
    with pytest.raises(HostError) as caught, open_cluster(nodes.address, make_host=make_fake_host, models=models):
        pass
    assert str(caught.value).startswith(f"{platform.node()}: {gone} is not there")
    assert str(caught.value).endswith(f"Cannot open {gone}: No such file or directory.")
    assert len(str(caught.value).splitlines()) == 1


def test_the_command_line_draws_the_same_on_a_cluster(
    nodes: RayNodes,
    drawable: Mapping[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("diffusers")
    import torch

    monkeypatch.setenv("RAY_ADDRESS", nodes.address)
    monkeypatch.chdir(tmp_path)
    models = [str(drawable[name]) for name in "ab"]
    axis = ["--x-type", "pinpoint-element", "--x", "IN01:attn1, OUT05:attn2", "--y-type", "alpha", "--y", "1"]
    axis += ["--alpha", "0"]
    image = ["--prompt", "a star", "--steps", "1", "--width", "64", "--height", "64"]
    assert cli.main(["plot", *models, "-o", "many", *axis, *image, "--on", "ray", "--workers", "2"]) == cli.DONE
    assert "2 workers on ray (cpu)." in capsys.readouterr().out
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as each of the workers
    try:
        assert cli.main(["plot", *models, "-o", "one", *axis, *image]) == cli.DONE
    finally:
        torch.set_num_threads(threads)
    assert files(tmp_path / "many") == files(tmp_path / "one")


@pytest.mark.slow
def test_effects_on_two_workers_are_those_of_one_process(
    nodes: RayNodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("diffusers")
    import torch

    from elemental.demo.checkpoint_pair import copy_pair

    monkeypatch.setenv("RAY_ADDRESS", nodes.address)
    monkeypatch.chdir(tmp_path)
    size = ["--steps", "2", "--width", "64", "--height", "64", "--cfg", "4"]
    options = [*map(str, copy_pair(tmp_path)), "--alpha", "0", "--prompt", "a red circle", *size]
    options += ["--seed", "3", "--seed", "4", "--passes", "3", "--confirm", "1"]
    assert cli.main(["effects", *options, "-o", "many", "--on", "ray", "--workers", "2"]) == cli.DONE
    assert "2 workers on ray (cpu)." in capsys.readouterr().out
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as each of the workers
    try:
        assert cli.main(["effects", *options, "-o", "one"]) == cli.DONE
    finally:
        torch.set_num_threads(threads)
    made, wanted = (
        {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (tmp_path / "many", tmp_path / "one")
    )
    assert len(wanted) == 6 + 2 + 2  # results, samples and confirmed figures, images
    assert made == wanted


def test_a_page_draws_the_same_on_a_cluster(
    nodes: RayNodes, drawable: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("diffusers")
    import torch

    from elemental.hosts.standalone.host import StandaloneHost

    monkeypatch.setenv(CONFIG_VARIABLE, str(tmp_path / "config"))
    axes = PlotForm("pinpoint-element", "IN01:attn1, OUT05:attn2", "alpha", "1")
    form, request = MergeForm("a.safetensors", "b.safetensors", alpha=0), replace(REQUEST, prompt="a star")
    many, one = (session_of(StandaloneHost(models=drawable["a"].parent, output=tmp_path / name)) for name in "mo")
    many.devices, one.devices = RunDevices("cpu", RayCluster(f"ray:{nodes.address}", 2)), RunDevices("cpu")
    job, texts = run_jobs.run_plot(many, form, axes, request, elsewhere=True), set[str]()
    while not job.view.ended:
        texts.add(job.wait(job.view.version, 60).text)
    assert ended(job).text.startswith("2 images in ")
    assert "starting 2 workers (cpu), and sending them models that they lack ..." in texts
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as each of the workers
    try:
        ended(run_jobs.run_plot(one, form, axes, request))
    finally:
        torch.set_num_threads(threads)
    found, expected = (files(next((tmp_path / name / "plots").iterdir())) for name in "mo")
    assert found == expected
