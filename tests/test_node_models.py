"""Models that a node of a cluster lacks: each is sent there once, and is then used as the file itself would be."""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Barrier
from types import SimpleNamespace

import pytest

from elemental import CheckpointError, HostError, MergeRecipe, ModelSource, model_source
from elemental.cluster import node_models, sender
from elemental.cluster.crew import Crew
from elemental.cluster.maker import ClusterMaker
from elemental.cluster.node_models import PlacedModels, RunModel, describe_models, locator_on_node, place_models
from elemental.cluster.sender import ModelSender, Offer, offer_models
from elemental.cluster.worker import WorkerFacts
from elemental.merge.files.beside import read_config
from elemental.merge.files.checkpoint import Signature, read_signature
from elemental.merge.files.hashes import CACHE_VARIABLE, remembered_sha256
from elemental.merge.files.model_locator import AS_RECORDED, ModelLocator
from elemental.merge.files.open_models import OpenModels
from elemental.recipe.recipe import LoraSource
from elemental.runs.axes.base import Setting
from elemental.runs.estimate import estimate_plot

from .conftest import save
from .fake_host import FakeHost
from .here_workers import HereWorkers, setup
from .lora_files import lora, with_name
from .plotting import load, plot, run
from .test_cluster import files, start

NODE = platform.node()
LAYER = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
CONFIG = b"model: {params: {parameterization: v}}\n"
SIZE = 1000
CONTENT = bytes(index * 7 % 251 for index in range(SIZE))
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class CountingSender(ModelSender):
    """Notes which pieces are asked for."""

    def __init__(self, offers: Mapping[str, Offer]) -> None:
        super().__init__(offers)
        self.asked: list[tuple[str, int]] = []

    def fetch(self, name: str, start: int, stop: int) -> bytes:
        """Note the piece, and give it."""
        self.asked.append((name, start))
        return super().fetch(name, start, stop)


class FakeSender:
    """Gives one content for every name, and fails where a test says so."""

    def __init__(self, content: bytes = CONTENT, *, sha256: str = SHA256, fails_at: int | None = None) -> None:
        self.content, self.digest, self.fails_at = content, sha256, fails_at

    def sha256(self, name: str) -> str:  # noqa: ARG002
        """Give what the test has set."""
        return self.digest

    def fetch(self, name: str, start: int, stop: int) -> bytes:  # noqa: ARG002
        """Give a piece.

        Raises:
            HostError: It is time to fail.
        """
        if self.fails_at is not None and start >= self.fails_at:
            raise HostError("What sends it cannot be asked: it is gone.")
        return self.content[start:stop]


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send many pieces of small files."""
    for module in (node_models, sender):
        monkeypatch.setattr(module, "PIECE", 64)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the folder in which the node keeps models."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


WANTED = {"/there/a.safetensors": RunModel(Signature(SIZE, 1))}


def kept(cache: Path) -> list[str]:
    """List what is in the cache, but locks."""
    return sorted(path.name for path in cache.glob("*") if path.suffix != ".lock") if cache.is_dir() else []


def the_lack(placed: PlacedModels) -> str:
    (line,) = placed.lacks
    assert len(line.splitlines()) == 1
    assert line.startswith(f"{NODE}: /there/a.safetensors is not there")
    return line


@pytest.fixture
def there(base: Setting, tmp_path: Path) -> tuple[Setting, Callable[[], AbstractContextManager[None]]]:
    """Give a merge of a chain and a LoRA in a folder of its own; and what takes that folder out of a node's sight."""
    folder = tmp_path / "there"
    folder.mkdir()
    a, b = (Path(shutil.copy(source.path, folder)) for source in (base.recipe.model_a, base.recipe.model_b))
    a.with_suffix(".yaml").write_bytes(CONFIG)
    style = save(folder / "style.safetensors", with_name(LAYER, lora((8, 8))))
    inner = MergeRecipe(model_source(b), model_source(a), alpha=0.4)
    recipe = replace(
        base.recipe,
        model_a=model_source(a),
        model_b=ModelSource("soft.json", recipe=inner),
        loras=(LoraSource(model_source(style), 0.5),),
    )

    @contextmanager
    def away() -> Iterator[None]:
        folder.rename(tmp_path / "away")
        try:
            yield
        finally:
            (tmp_path / "away").rename(folder)

    return replace(base, recipe=recipe), away


def test_images_are_those_of_one_process(
    there: tuple[Setting, Callable[[], AbstractContextManager[None]]],
    tmp_path: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in (node_models, sender):
        monkeypatch.setattr(module, "PIECE", 1 << 18)
    setting, away = there
    plotted = plot(FakeHost(load), setting, ("seed", "1, 2"), ("alpha", "0, 0.3"))
    run(FakeHost(load), plotted, tmp_path / "one")
    models = estimate_plot(plotted).models
    names = {Path(name).name for name in models}
    assert names == {"a.safetensors", "b.safetensors", "style.safetensors"}
    hidden = tmp_path / "away"
    offered = offer_models(models).items()
    sends = CountingSender({name: offer._replace(path=hidden / Path(name).name) for name, offer in offered})
    workers = HereWorkers([WorkerFacts("one kind")] * 2, setup(models, sends), away)
    assert [facts.lacks for facts in workers.said] == [(), ()]
    sent = sorted(line.partition(" (")[0] for facts in workers.said for line in facts.sent)
    assert sent == [f"Sent {name}" for name in sorted(names)]
    assert len(sends.asked) == len(set(sends.asked))  # each piece once, though two workers wanted it
    try:
        with OpenModels() as open_models:
            result = start(ClusterMaker(Crew(workers), open_models), plotted, tmp_path / "many")
    finally:
        workers.close()
    assert (result.made, result.failed) == (4, {})
    assert files(tmp_path / "many") == files(tmp_path / "one")
    assert not any(remembered_sha256(Path(name)) for name in models)  # or later images would name hashes
    assert len(kept(cache)) == 4


def test_a_file_that_is_there_is_used_and_nothing_is_sent(models: Mapping[str, Path], cache: Path) -> None:
    path = str(models["a"])
    placed = place_models(describe_models({path: read_signature(models["a"])}), ModelSender({}))
    assert (dict(placed.places), placed.sent, placed.lacks) == ({path: models["a"]}, (), ())
    assert not cache.exists()


@pytest.mark.parametrize("change", ["nothing", "time", "content", "configuration"])
def test_a_file_that_differs_there_is_not_used(change: str, cache: Path, tmp_path: Path) -> None:
    model, there = tmp_path / "a.safetensors", tmp_path / "there.safetensors"
    model.write_bytes(CONTENT)
    shutil.copy2(model, there)
    if change == "time":
        os.utime(there, ns=(1, 1))
    elif change == "content":
        there.write_bytes(CONTENT[1:])
    elif change == "configuration":
        there.with_suffix(".yaml").write_bytes(CONFIG)
    signature = read_signature(model)
    sends = ModelSender({str(there): Offer(model, signature, None)})
    placed = place_models({str(there): RunModel(signature)}, sends)
    used = there if change == "nothing" else cache / f"{SHA256}.safetensors"
    assert (dict(placed.places), placed.lacks) == ({str(there): used}, ())
    assert used.read_bytes() == CONTENT


def test_workers_of_one_node_wait_for_each_other(cache: Path) -> None:
    workers, sends = 4, FakeSender()
    barrier, asked, real = Barrier(workers), list[int](), sends.fetch

    def fetch(name: str, start: int, stop: int) -> bytes:
        asked.append(start)
        return real(name, start, stop)

    sends.fetch = fetch  # type: ignore[method-assign]

    def place(_: int) -> PlacedModels:
        barrier.wait(60)
        return place_models(WANTED, sends)

    with ThreadPoolExecutor(workers) as pool:
        placed = list(pool.map(place, range(workers)))
    assert sorted(line for each in placed for line in each.sent) == [f"Sent a.safetensors (0.0 MB) to {NODE}."]
    assert {each.places["/there/a.safetensors"] for each in placed} == {cache / f"{SHA256}.safetensors"}
    assert sorted(asked) == list(range(0, SIZE, 64))


_KILLED = """
import os, signal, sys
from tests.test_node_models import FakeSender, WANTED, node_models
class Killed(FakeSender):
    def fetch(self, name, start, stop):
        if start >= 640:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().fetch(name, start, stop)
node_models.PIECE = 64
node_models.place_models(WANTED, Killed())
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_a_killed_worker_leaves_no_lock_and_nothing_that_counts(cache: Path) -> None:
    root = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, "-c", _KILLED], cwd=root, env=environment, timeout=120, check=False)
    assert done.returncode < 0
    assert kept(cache) == [f"{SHA256}.part"]
    placed = place_models(WANTED, FakeSender())
    assert (len(placed.sent), placed.lacks, kept(cache)) == (1, (), [f"{SHA256}.safetensors"])


@pytest.mark.parametrize(
    ("sends", "said"),
    [
        (FakeSender(CONTENT[:-1] + b"x"), "What arrived has another SHA-256"),
        (FakeSender(CONTENT[:-1]), "What arrived has another SHA-256"),
        (FakeSender(fails_at=640), "What sends it cannot be asked: it is gone."),
        (FakeSender(sha256="../../../a"), "no SHA-256"),
        (FakeSender(sha256=SHA256.upper()), "no SHA-256"),
        (FakeSender(sha256=f"{SHA256}\n"), "no SHA-256"),
    ],
)
def test_what_cannot_be_sent_is_said_and_nothing_is_left(sends: FakeSender, said: str, cache: Path) -> None:
    assert said in the_lack(place_models(WANTED, sends))
    assert kept(cache) == []
    placed = place_models(WANTED, FakeSender())
    assert placed.places["/there/a.safetensors"].read_bytes() == CONTENT


def test_a_full_disk_is_said_and_nothing_is_left(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as full:
        full.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=999))
        assert f"{cache} has 0.0 MB free" in the_lack(place_models(WANTED, FakeSender()))

    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as full:
        full.setattr(os, "fsync", fail)
        assert os.strerror(errno.ENOSPC) in the_lack(place_models(WANTED, FakeSender()))
    assert kept(cache) == []
    assert place_models(WANTED, FakeSender()).lacks == ()


def test_a_file_in_the_cache_that_was_cut_short_is_sent_again(cache: Path) -> None:
    place_models(WANTED, FakeSender())
    (cache / f"{SHA256}.safetensors").write_bytes(CONTENT[1:])
    assert len(place_models(WANTED, FakeSender()).sent) == 1
    assert (cache / f"{SHA256}.safetensors").read_bytes() == CONTENT
    assert place_models(WANTED, FakeSender()).sent == ()


def test_the_configuration_goes_with_the_model(cache: Path) -> None:
    (name, plain), other = next(iter(WANTED.items())), CONFIG + b"# 2"
    found = [
        place_models({name: plain._replace(config=config)}, FakeSender()).places[name]
        for config in (None, CONFIG, other, CONFIG)
    ]
    assert [read_config(path) for path in found] == [None, CONFIG, other, CONFIG]
    assert found[1] == found[3]
    assert len(kept(cache)) == 5
    found[1].with_suffix(".yaml").unlink()
    assert place_models({name: plain._replace(config=CONFIG)}, FakeSender()).sent == ()
    assert read_config(found[1]) == CONFIG


def test_only_the_files_of_the_run_are_given_and_only_unchanged(tmp_path: Path) -> None:
    model, other = tmp_path / "a.safetensors", tmp_path / "secret.safetensors"
    for path in (model, other):
        path.write_bytes(CONTENT)
    models = {str(model): read_signature(model)}
    sends = ModelSender(offer_models(models))
    assert sends.sha256(str(model)) == SHA256
    assert sends.fetch(str(model), 10, 20) == CONTENT[10:20]
    for name in (str(other), f"{tmp_path}/./a.safetensors", "../secret.safetensors"):
        with pytest.raises(CheckpointError, match="none of the run's models"):
            sends.fetch(name, 0, 1)
        with pytest.raises(CheckpointError, match="none of the run's models"):
            sends.sha256(name)
    for first, end in ((-1, 1), (5, 5), (0, 65), (SIZE - 1, SIZE + 1)):
        with pytest.raises(CheckpointError, match="has no piece"):
            sends.fetch(str(model), first, end)
    os.utime(model, ns=(1, 1))
    with pytest.raises(CheckpointError, match="changed while it was read"):
        sends.fetch(str(model), 0, 1)
    with pytest.raises(CheckpointError, match="has changed since the run began"):
        ModelSender(offer_models(models)).sha256(str(model))


def test_the_hash_is_computed_once_and_stays_out_of_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tmp_path / "a.safetensors"
    model.write_bytes(CONTENT)
    offers = offer_models({str(model): read_signature(model)})
    assert ModelSender(offers).sha256(str(model)) == SHA256
    assert remembered_sha256(model) is None
    monkeypatch.setattr(sender, "compute_sha256", lambda *_, **__: "computed again")
    assert ModelSender(offers).sha256(str(model)) == SHA256


def test_models_are_found_by_the_paths_of_who_began_the_run(models: Mapping[str, Path], tmp_path: Path) -> None:
    cached = tmp_path / f"{SHA256}.safetensors"
    locator = locator_on_node(
        ModelLocator(tmp_path), {"/home/ann/m/a.safetensors": cached, "m/a.safetensors": models["a"]}, "/home/ann"
    )
    for path in ("~/m/a.safetensors", "/home/ann/m/a.safetensors"):
        assert locator.locate(ModelSource(path)) == cached
        assert locator.locate(ModelSource(path, sha256=SHA256, size=SIZE)) == cached
    assert locator.locate(ModelSource("m/a.safetensors")) == models["a"]
    assert locator.locate(model_source(models["b"])) == AS_RECORDED.locate(model_source(models["b"]))
    assert locator.folder == tmp_path
