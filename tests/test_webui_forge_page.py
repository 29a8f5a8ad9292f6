"""The page of Forge, with the components of a real gradio 4 or newer."""

from __future__ import annotations

import importlib
import sys
from types import SimpleNamespace
from typing import Any

import pytest

pytestmark = pytest.mark.slow

gr = pytest.importorskip("gradio")
if gr.__version__.startswith("3."):
    pytest.skip("Forge has gradio 4", allow_module_level=True)


_PAGES = ("elemental.hosts.webui.page", "elemental.hosts.forge.page")


@pytest.fixture(name="main_entry")
def main_entry_fixture(monkeypatch: pytest.MonkeyPatch) -> Any:
    entry = SimpleNamespace(ui_checkpoint=None)
    monkeypatch.setitem(sys.modules, "modules_forge", SimpleNamespace(main_entry=entry))
    monkeypatch.setitem(sys.modules, "modules", SimpleNamespace(shared=SimpleNamespace()))
    for name in _PAGES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    return entry


def test_fields_and_the_list_of_checkpoints_are_found(main_entry: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    page = importlib.import_module("elemental.hosts.forge.page").ForgePage()
    for name in _PAGES:
        monkeypatch.delitem(sys.modules, name)
    with gr.Blocks() as txt2img:
        with gr.Row():
            fields = [gr.Textbox(), gr.Slider(), gr.State(1)]
            button = gr.Button(elem_id="txt2img_generate")
        assert page.inputs(button) == []
        button.click(fn=None, js="other", inputs=fields[:1])
        fields[0].submit(fn=print, inputs=fields[:1], js="submit")
        button.click(fn=print, inputs=fields, js="submit")
    assert page.inputs(button) == fields
    with gr.Blocks() as demo:
        for _ in range(2):
            page.watch_list(gr.Textbox(), print)
        main_entry.ui_checkpoint = gr.Dropdown(choices=["a", "b"])
        page.watch_list(main_entry.ui_checkpoint, print)
        for _ in range(2):
            page.watch_list(gr.Textbox(), print)
        txt2img.render()
    wired = [target for function in demo.default_config.fns.values() for target in function.targets]
    listed = main_entry.ui_checkpoint._id
    assert [event for number, event in wired if number == listed] == ["input", "select", "blur"]
    assert page.inputs(button) == fields
