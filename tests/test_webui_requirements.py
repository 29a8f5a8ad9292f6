"""Versions of hosts that lack something that the port needs: nothing is hooked, and the tab says why."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from .forge_standin import ForgeStandIn
from .test_webui_extension import run_script
from .webui_standin import StandIn
from .webui_standin_fixtures import put_modules

pytestmark = pytest.mark.slow


def make_webui(
    kind: type[StandIn], models: dict[str, Path], monkeypatch: pytest.MonkeyPatch, lacks: str
) -> tuple[Any, str]:
    """Start a host with the extension, and give it and the text in place of the tab."""
    webui: Any = kind(models["a"].parent)
    modules = webui.modules()
    *owners, name = lacks.split(".")
    owner: Any = modules["modules_forge"] if owners[:1] == ["main_entry"] else modules["modules"]
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


@pytest.mark.parametrize(
    "lacks",
    ["main_entry.refresh_model_loading_parameters", "sd_models.model_data.forge_hash", "processing.process_images"],
)
def test_a_forge_that_lacks_something_is_left_alone(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch, lacks: str
) -> None:
    webui, text = make_webui(ForgeStandIn, models, monkeypatch, lacks)
    assert "in this version of Forge, which lacks modules" in text
    assert lacks in text
    assert set(webui.callbacks) == {"ui_tabs"}
    assert type(getattr(webui.main_entry, "refresh_model_loading_parameters", None)).__name__ != "Refresh"
