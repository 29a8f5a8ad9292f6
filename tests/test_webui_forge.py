"""Hosts that the port does not work in: Forge, and versions of the WebUI that lack something. Nothing is hooked."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from .test_webui_extension import run_script
from .webui_standin import ForgeStandIn, StandIn
from .webui_standin_fixtures import put_modules

pytestmark = pytest.mark.slow

SECONDS = 20.0
"""A request that hangs does so for ever."""


def make_webui(
    kind: type[StandIn], models: dict[str, Path], monkeypatch: pytest.MonkeyPatch, lacks: str = ""
) -> tuple[Any, str]:
    """Start a host with the extension, and give it and the text in place of the tab."""
    webui: Any = kind(models["a"].parent)
    modules = webui.modules()
    if lacks:
        *owners, name = lacks.split(".")
        owner: Any = modules["modules"]
        for part in owners:
            owner = getattr(owner, part)
        delattr(owner, name)
        put = {key: module for key, module in modules.items() if key != f"modules.{lacks}"}
        monkeypatch.setattr(webui, "modules", lambda: put)
    put_modules(webui, monkeypatch)
    tab: Any = SimpleNamespace(make_tab=lambda *_: pytest.fail("the tab was built"))
    script = run_script(monkeypatch, tab)
    scripts = [value for value in vars(script).values() if isinstance(value, type)]
    webui.scripts.scripts_txt2img.scripts = [found() for found in scripts if issubclass(found, webui.scripts.Script)]
    pages = webui.fire("ui_tabs")
    ((blocks, title, _),) = pages[0]
    assert (len(pages), title) == (1, "Elemental")
    return webui, str(blocks[-1])


def in_time(call: Any) -> Any:
    """Give what a call gives, which must not wait for ever."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(call()), daemon=True)
    thread.start()
    thread.join(SECONDS)
    assert not thread.is_alive(), "the request hangs"
    return results[0]


def test_forge_is_left_alone(models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    reactions = {}
    made = ForgeStandIn.__init__

    def remember(self: Any, folder: Path) -> None:
        made(self, folder)
        reactions.update({name: label.onchange for name, label in self.opts.data_labels.items()})

    monkeypatch.setattr(ForgeStandIn, "__init__", remember)
    webui, text = make_webui(ForgeStandIn, models, monkeypatch)
    assert "does not work in Forge and Forge Neo yet" in text
    assert set(webui.callbacks) == {"ui_tabs"}
    assert webui.scripts.scripts_txt2img.scripts == []
    assert {name: label.onchange for name, label in webui.opts.data_labels.items()} == reactions
    for name in ("b.safetensors", "a.safetensors", "c.safetensors"):
        settings = {"sd_model_checkpoint": name}
        image = in_time(lambda settings=settings: webui.generate(override_settings=dict(settings)))
        assert "Elemental" not in image.infotext
        assert webui.model.sd_checkpoint_info.name == name


def test_the_gate_of_0_1_0_would_hang_there(models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in shows what it is for: with a gate, the same request waits for itself."""
    webui: Any = ForgeStandIn(models["a"].parent)
    put_modules(webui, monkeypatch)
    from elemental.hosts.webui.host import WebUIHost
    from elemental.hosts.webui.kinds import webui_parts

    WebUIHost(webui_parts()).guard_loading()
    request = threading.Thread(
        target=webui.generate, kwargs={"override_settings": {"sd_model_checkpoint": "b.safetensors"}}, daemon=True
    )
    request.start()
    request.join(1.0)
    assert request.is_alive()


def test_register_itself_hooks_nothing_there(models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    webui: Any = ForgeStandIn(models["a"].parent)
    put_modules(webui, monkeypatch)
    from elemental.hosts.webui import extension

    extension.register(lambda *_: pytest.fail("the tab was built"), lambda reason: reason)
    assert set(webui.callbacks) == {"ui_tabs"}
    assert type(webui.opts.data_labels["sd_model_checkpoint"].onchange).__name__ == "function"
    (((text, title, name),),) = webui.fire("ui_tabs")
    assert ("Forge" in text, title, name) == (True, "Elemental", "elemental")


@pytest.mark.parametrize(
    "lacks",
    [
        "sd_models.SkipWritingToConfig",
        "sd_models.model_data.lock",
        "sd_vae.get_base_vae",
        "cmd_opts.ckpt_dir",
        "sd_schedulers",
        "txt2img.txt2img_create_processing",
        "script_callbacks.on_infotext_pasted",
    ],
)
def test_a_host_that_lacks_something_is_left_alone(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch, lacks: str
) -> None:
    path = f"shared.{lacks}" if lacks.startswith("cmd_opts") else lacks
    webui, text = make_webui(StandIn, models, monkeypatch, path)
    assert f"lacks modules.{path}" in text or f"lacks modules.{path}." in text
    assert set(webui.callbacks) == {"ui_tabs"}
    assert webui.scripts.scripts_txt2img.scripts == []
    assert webui.generate(override_settings={"sd_model_checkpoint": "b.safetensors"}).data
