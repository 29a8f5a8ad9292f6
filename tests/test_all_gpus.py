"""``--device cuda`` on a computer with several GPUs: who makes the images, and where this process computes."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("diffusers")

from elemental import HostError
from elemental.cli import cluster_option, run_options, search, ui
from elemental.cli.main import DONE, FAILED, WRONG_USAGE, main
from elemental.cluster import ray_workers
from elemental.errors import ElementalError
from elemental.merge.files.model_locator import AS_RECORDED
from elemental.merge.progress import Controls
from elemental.runs.image_maker import ImageMaker
from elemental.session.run_devices import RunDevices

from .fake_cluster import FakeCluster
from .fake_host import FakeHost
from .plotting import load

PLOT = ["--x-type", "seed", "--x", "1, 2", "--prompt", "a cat", "--width", "64", "--height", "64", "--steps", "1"]


class Machine:
    """A computer with GPUs, and with Ray or without it.

    Attributes:
        devices: The device of each host that was made.
        places: Where each run has asked for workers.
        cluster: The workers.
        unloaded: How often a host has let go of its model.
    """

    def __init__(self, patch: pytest.MonkeyPatch, gpus: int, *, ray: bool) -> None:
        self.devices: list[str | None] = []
        self.places: list[str] = []
        self.cluster = FakeCluster(load)
        self.unloaded = 0
        patch.setattr("torch.cuda.device_count", lambda: gpus)
        patch.setattr(ray_workers, "find_spec", lambda _: object() if ray else None)
        patch.setattr(cluster_option, "cluster_maker", self._workers)
        for module in (run_options, search):
            patch.setattr(module, "make_host", self._make_host)

    def _make_host(self, device: str | None) -> FakeHost:
        self.devices.append(device)
        host = FakeHost(load)
        host.differentiates = True
        host.unload = self._unload  # type: ignore[attr-defined]
        return host

    def _unload(self) -> None:
        self.unloaded += 1

    @contextmanager
    def _workers(
        self, on: str, *, workers: int | None, device: str | None, models: Any, locator: Any
    ) -> Iterator[tuple[ImageMaker, str]]:
        assert workers is None
        self.places.append(on)
        with self.cluster.begin(models, locator, device=device, controls=Controls()) as begun:
            yield begun


@pytest.fixture
def ab(models: Mapping[str, Path]) -> list[str]:
    return [str(models["a"]), str(models["b"]), "--alpha", "0.5"]


def test_all_gpus_make_a_plot_and_what_is_left_of_it(
    ab: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = Machine(monkeypatch, 4, ray=True)
    out = tmp_path / "out"
    assert main(["plot", *ab, *PLOT, "--device", "cuda", "-o", str(out)]) == DONE
    assert "2 workers on ray:local (cuda)." in capsys.readouterr().out
    assert (machine.places, machine.cluster.asked, machine.devices) == (["ray:local"], ["cuda"], ["cpu"])
    assert json.loads((out / "run.json").read_text())["options"]["device"] == "cuda"
    (out / "cells" / "x00-y00.png").unlink()
    assert main(["plot", "--resume", str(out)]) == DONE
    assert (machine.places, machine.cluster.asked, machine.devices) == (["ray:local"] * 2, ["cuda"] * 2, ["cpu"] * 2)


@pytest.mark.parametrize(("gpus", "device"), [(4, "cuda:0"), (1, "cuda"), (4, "cpu"), (4, None)])
def test_one_device_makes_what_is_asked_of_one(
    gpus: int,
    device: str | None,
    ab: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    machine = Machine(monkeypatch, gpus, ray=True)
    options = [] if device is None else ["--device", device]
    out = str(tmp_path / "out")
    assert main(["plot", *ab, *PLOT, *options, "-o", out]) == DONE
    (tmp_path / "out" / "cells" / "x00-y00.png").unlink()
    assert main(["plot", "--resume", out]) == DONE
    assert machine.places == []
    assert machine.devices == [device, device or "cpu"]
    assert "GPUs" not in capsys.readouterr().err


def test_without_ray_one_gpu_makes_it_and_a_note_says_how_to_use_all(
    ab: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = Machine(monkeypatch, 2, ray=False)
    assert main(["plot", *ab, *PLOT, "--device", "cuda", "-o", str(tmp_path / "out")]) == DONE
    assert (machine.places, machine.devices) == ([], ["cuda"])
    note = 'note: 2 GPUs; one is used. To use all, install the extra cluster: pip install "sd-webui-elemental[cluster]"'
    assert capsys.readouterr().err.count(note) == 1
    assert main(["plot", *ab, *PLOT, "--device", "cuda", "--dry-run"]) == DONE


def test_workers_that_cannot_begin_leave_a_way(
    ab: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = Machine(monkeypatch, 2, ray=True)
    machine.cluster.fails = "The cluster has 0 GPUs."
    options = ["plot", *ab, *PLOT, "--device", "cuda", "-o", str(tmp_path / "out")]
    hint = "The cluster has 0 GPUs.\nWith --device cuda:0, one GPU does the work, without Ray."
    assert main(options) == FAILED
    assert hint in capsys.readouterr().err
    assert main([*options, "--on", "ray"]) == FAILED
    assert "cuda:0" not in capsys.readouterr().err
    assert machine.places == ["ray:local", "ray"]


def test_a_search_estimates_effects_on_a_gpu_before_workers_need_it(
    ab: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = Machine(monkeypatch, 2, ray=True)
    groups: list[object] = []

    def estimate(host: object, *_: object, **__: object) -> list[str]:
        groups.append(host)
        assert (machine.devices, machine.unloaded) == (["cpu", "cuda"], 0)
        return ["IN01", "OUT03"]

    monkeypatch.setattr("elemental.searches.effect_groups.estimate_groups", estimate)
    machine.cluster.fails = "no memory"
    judged = ["--score", "math:fsum", "--population", "4", "--json"]
    options = [*ab, *PLOT[4:], *judged, "--device", "cuda", "-o", str(tmp_path / "out")]
    assert main(["search", *options]) == FAILED
    captured = capsys.readouterr()
    assert "no memory" in captured.err
    assert captured.out == ""
    assert (len(groups), machine.unloaded, machine.places) == (1, 1, ["ray:local"])


def test_a_search_prints_json_alone_though_workers_make_its_images(
    ab: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = Machine(monkeypatch, 2, ray=True)
    (tmp_path / "brightness.py").write_text(
        "def score(image):\n    return sum(image.resize((1, 1)).getpixel((0, 0)))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    judged = ["--vary", "IN01", "--score", "brightness:score", "--population", "4", "--rounds", "1", "--json"]
    assert main(["search", *ab, *PLOT[4:], *judged, "--device", "cuda", "-o", str(tmp_path / "out")]) == DONE
    assert json.loads(capsys.readouterr().out)
    assert machine.places == ["ray:local"]


def test_all_gpus_of_this_computer_are_those_of_no_other_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[object] = []

    def init(address: str | None, **_: object) -> None:
        begun.append(address)
        raise ElementalError("no room")

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False, init=init))
    monkeypatch.setattr(ray_workers, "find_spec", lambda _: object())
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")  # which Ray passes over for this name alone
    with (
        pytest.raises(HostError, match="Cannot begin with Ray: no room"),
        cluster_option.cluster_maker(
            cluster_option.ALL_GPUS, workers=None, device="cuda", models={}, locator=AS_RECORDED
        ),
    ):
        pass
    assert begun == ["local"]


@pytest.mark.parametrize(
    ("options", "gpus", "own", "name", "first"),
    [
        ([], 0, "cpu", None, False),
        (["--on", "ray:10.0.0.1:6379", "--workers", "3"], 0, "cpu", "Ray: 10.0.0.1:6379", True),
        (["--on", "ray", "--device", "cuda"], 1, "cuda", "Ray", True),
        (["--device", "cuda"], 2, "cuda", "Ray: this computer's devices", False),
        (["--device", "cuda:1"], 2, "cuda:1", None, False),
    ],
)
def test_a_page_offers_the_cluster_that_there_is(
    options: list[str],
    gpus: int,
    own: str,
    name: str | None,
    first: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Machine(monkeypatch, gpus, ray=True)
    given: list[RunDevices] = []

    def serve(_host: object, _options: object, _output: object, devices: RunDevices) -> tuple[Any, str]:
        given.append(devices)
        return SimpleNamespace(block_thread=lambda: None), "http://x"

    monkeypatch.setattr(ui, "make_host", lambda *_, **__: FakeHost(load))
    monkeypatch.setattr(ui, "_serve", serve)
    assert main(["ui", "--models", str(tmp_path), *options]) == DONE
    (devices,) = given
    assert (devices.own, devices.cluster_first) == (own, first)
    assert (devices.cluster.name if devices.cluster is not None else None) == name


def test_a_page_without_ray_says_so_before_it_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Machine(monkeypatch, 0, ray=False)
    monkeypatch.setattr(ui, "make_host", lambda *_, **__: FakeHost(load))
    assert main(["ui", "--models", str(tmp_path), "--on", "ray"]) == FAILED
    assert 'pip install "sd-webui-elemental[cluster]"' in capsys.readouterr().err
    with pytest.raises(SystemExit) as wrong:
        main(["ui", "--models", str(tmp_path), "--workers", "2"])
    assert wrong.value.code == WRONG_USAGE
    assert "--workers goes with --on" in capsys.readouterr().err
