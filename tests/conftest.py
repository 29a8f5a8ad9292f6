"""Small checkpoints with the layout of real ones, and a cache and a configuration folder of the tests' own."""

from __future__ import annotations

import io
import re
import shutil
import signal
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

from elemental import MergeRecipe, model_source
from elemental.cli import main as cli
from elemental.demo.layout import SD1_LAYOUT, SD2_LAYOUT, SDXL_LAYOUT, Layout, shrink, tensor_shapes
from elemental.merge.files.hashes import CACHE_VARIABLE
from elemental.runs.axes.base import Setting
from elemental.workflows import CONFIG_VARIABLE

from .refusing import OLD, Merge

if TYPE_CHECKING:  # torch is imported where it is used: most tests of specs, recipes and plans need none
    import torch
    from torch import Tensor

    from .browser import Page
    from .fake_host import FakeHost
    from .serving import Site

settings.register_profile("patient", settings(), deadline=None)  # on a busy machine, time says nothing
settings.load_profile("patient")

LAYOUTS = {
    "sd1": shrink(SD1_LAYOUT, width=8, text_width=8),
    "sd2": shrink(SD2_LAYOUT, width=8, text_width=8),
    "sdxl": shrink(SDXL_LAYOUT, width=8, text_width=8),
}
VOCABULARY = 49408
_XL = replace(shrink(SDXL_LAYOUT, vocabulary=VOCABULARY), labels=6 * 256 + 32)
DRAWABLE: dict[str, Layout] = {
    "sd1": shrink(SD1_LAYOUT, vocabulary=VOCABULARY),
    "sd2": shrink(SD2_LAYOUT, vocabulary=VOCABULARY),
    "sdxl": _XL,
}
"""Small models that diffusers can run: 32 channels are the least that its norm layers take."""
SLOW_FILE = re.compile(r"^pytestmark = [^\n]*(\n    )?pytest\.mark\.slow", re.MULTILINE)
SLOW_FIXTURES = {"drawable"}
"""Whoever asks for models that images can be made from waits for diffusers, or writes them at the least."""
HELD_UP = ["TimeoutError", "waited in vain"]
"""How a test of the page fails if its browser had no turn in time, beside other work on the same cores. It is run
again, which the summary counts; one that found something else is not."""
INPAINTING = {name: replace(layout, in_channels=9) for name, layout in LAYOUTS.items()}


def random_state(layout: Layout, seed: int, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """Fill a layout with random numbers in one format, float16 by default."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    return {
        key: torch.arange(shape[1]).reshape(shape)
        if key.endswith("position_ids")
        else (torch.randn(shape, generator=generator) * 0.05).to(dtype or torch.float16)
        for key, shape in tensor_shapes(layout).items()
    }


def save(path: Path, state: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> Path:
    """Write a safetensors file and give its path."""
    from safetensors.torch import save_file

    save_file(dict(state), path, metadata=metadata)
    return path


def pickles_float8() -> bool:
    """Tell whether this torch can write fp8 in its own format; 2.1 cannot."""
    import torch

    try:
        torch.save(torch.zeros(1, dtype=torch.float8_e4m3fn), io.BytesIO())
    except KeyError:
        return False
    return True


def save_drawable(folder: Path) -> dict[str, Path]:
    """Write SD 1.x checkpoints a, b and c that images can be made from."""
    paths = {}
    for seed, name in enumerate("abc", 1):
        state = random_state(DRAWABLE["sd1"], seed)
        larger = {key: value * 3 if value.is_floating_point() else value for key, value in state.items()}
        paths[name] = save(folder / f"{name}.safetensors", larger)
    return paths


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out files of slow tests alone, if those are not wanted, since importing them takes some seconds."""
    if config.option.markexpr != "not slow" or not collection_path.name.startswith("test_"):
        return None
    return True if SLOW_FILE.search(collection_path.read_text(encoding="utf-8")) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by what they ask for: as slow, or as ones that a busy machine can hold up."""
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        if SLOW_FIXTURES.intersection(fixtures):
            item.add_marker(pytest.mark.slow)
        if "chromium" in fixtures:
            item.add_marker(pytest.mark.flaky(reruns=2, only_rerun=HELD_UP))


@pytest.fixture(scope="module")
def served_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The tab in a server of its own, with the demo models."""
    from .serving import served

    with served(tmp_path_factory.mktemp("site")) as site:
        yield site


@pytest.fixture
def site(served_site: Site) -> Site:
    """One server for all tests of a file, since a new one takes seconds; what a test leaves in it is taken away."""
    served_site.reset()
    return served_site


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A browser for all tests of a file."""
    from .browser import browser

    with browser() as started:
        yield started


@pytest.fixture
def tab(site: Site, chromium: Any, tmp_path: Path) -> Iterator[Page]:
    """A page of the tab in the browser."""
    from .noise_tab import open_page

    page = open_page(chromium, site.url, tmp_path, height=1000)
    yield page
    assert page.errors == [], page.errors
    page.page.context.close()


@pytest.fixture(autouse=True)
def _own_folders(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv(CONFIG_VARIABLE, str(tmp_path_factory.mktemp("config")))


@pytest.fixture(autouse=True)
def _own_signals() -> Iterator[None]:
    """Put back the handlers that a command sets, so that no test depends on the one before."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    handlers = [signal.getsignal(number) for number in numbers]
    set_handler = signal.signal  # some tests replace it
    yield
    for number, handler in zip(numbers, handlers, strict=True):
        set_handler(number, handler)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Give three SD 1.x checkpoints a, b and c in fp16, not to be written to."""
    folder = tmp_path_factory.mktemp("models")
    return {
        name: save(folder / f"{name}.safetensors", random_state(LAYOUTS["sd1"], seed))
        for seed, name in enumerate("abc", 1)
    }


@pytest.fixture(scope="session")
def drawable(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Give three SD 1.x checkpoints a, b and c that images can be made from, not to be written to."""
    return save_drawable(tmp_path_factory.mktemp("drawable"))


@pytest.fixture
def fake() -> FakeHost:
    """Give a host that draws noise from the numbers of the live model."""
    from .fake_host import FakeHost
    from .plotting import load

    return FakeHost(load)


@pytest.fixture
def base(models: dict[str, Path]) -> Setting:
    """Start from tiny models, which the fake host draws noise from."""
    from .plotting import REQUEST, RULES

    return Setting(MergeRecipe(model_source(models["a"]), model_source(models["b"]), alpha=0.3, rules=RULES), REQUEST)


@pytest.fixture
def folder(tmp_path: Path, models: dict[str, Path]) -> Path:
    """Give a folder with models a and b, and with an older result."""
    for name in "ab":
        shutil.copy(models[name], tmp_path)
    (tmp_path / "out.safetensors").write_bytes(OLD)
    return tmp_path


@pytest.fixture
def merge(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Merge:
    """Give the command ``elemental merge``, run in this process for speed; it gives exit code and stderr."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # pytest keeps its own handlers
    return lambda *arguments: (cli.main(["merge", *map(str, arguments)]), capsys.readouterr().err)
