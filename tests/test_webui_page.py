"""What the WebUI's page does with an image, on stand-ins of the modules that it takes for it."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from elemental import HostError

from .webui_standin_fixtures import Rig, webui_rig  # noqa: F401


def give(monkeypatch: pytest.MonkeyPatch, name: str, **parts: Any) -> Any:
    """Give the host a module."""
    module = SimpleNamespace(**parts)
    monkeypatch.setitem(sys.modules, f"modules.{name}", module)
    monkeypatch.setattr(sys.modules["modules"], name, module, raising=False)
    return module


def test_buttons_are_registered_for_the_pages_that_can_be_filled(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    bindings: list[Any] = []
    fields: dict[str, Any] = {"txt2img": {}, "img2img": {}, "inpaint": {}}
    give(
        monkeypatch,
        "infotext_utils",
        ParamBinding=SimpleNamespace,
        register_paste_params_button=bindings.append,
        paste_fields=fields,
    )
    assert rig.host.image_pages() == ["txt2img", "img2img"]
    rig.host.wire_image_page("img2img", button="button", infotext="text", image="image")
    (binding,) = bindings
    assert vars(binding) == {
        "paste_button": "button",
        "tabname": "img2img",
        "source_text_component": "text",
        "source_image_component": "image",
    }
    del fields["img2img"]
    assert rig.host.image_pages() == ["txt2img"]


def test_a_host_without_these_functions_has_no_such_pages(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not rig.host.image_pages()
    assert rig.host.folder_opener() is None
    give(monkeypatch, "infotext_utils", paste_fields={"txt2img": {}})
    assert not rig.host.image_pages()


def test_folders_are_opened_unless_the_webui_hides_that(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    util = give(monkeypatch, "util", open_folder=opened.append)
    rig.host.folder_opener()(Path("images"))
    assert opened == ["images"]

    def fail(_path: str) -> None:
        raise FileNotFoundError(2, "No such file", "xdg-open")

    util.open_folder = fail
    with pytest.raises(HostError, match="The folder cannot be opened: No such file"):
        rig.host.folder_opener()(Path("images"))
    rig.webui.cmd_opts.hide_ui_dir_config = True
    assert rig.host.folder_opener() is None
