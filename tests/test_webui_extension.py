"""What the WebUI calls, on a stand-in: the user's own images of a merge, the choice of a checkpoint, the tab."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from elemental import HostError, live_merge
from elemental.merge.files.metadata import recipe_from_json
from elemental.session.merged_model import LiveState, MergedModel

from .webui_standin_fixtures import REQUEST, Rig, mark, webui_merged_model, webui_rig  # noqa: F401
from .webui_standin_parts import tab_values

ROOT = Path(__file__).parent.parent


def put_merge(rig: Rig, merged_model: MergedModel, a: str = "a", b: str = "b") -> str:
    """Put a merge into the model, and give the digest of its image."""
    with rig.host.job("merge", 1):
        merged_model.merge(rig.recipe("BASE:mlp:1", a=a, b=b))
        (image,) = merged_model.images(REQUEST)
    return mark(image)


def test_the_users_own_images_are_of_the_merge_and_name_it(rig: Rig, merged_model: MergedModel) -> None:
    before, plain = rig.webui.digest(), rig.webui.generate()
    assert "Elemental" not in plain.infotext
    seen = put_merge(rig, merged_model)
    image = rig.webui.generate()
    assert image.data == seen != plain.data
    assert "Model" not in image.infotext
    assert 'Elemental: "weight-sum of a, b; alpha 0.5; rules BASE:mlp:1"' in image.infotext
    with rig.host.job("restore", 1):
        merged_model.restore()
    again = rig.webui.generate()
    assert (again.data, again.infotext, rig.webui.digest()) == (plain.data, plain.infotext, before)


def test_the_users_own_images_are_of_the_merge_if_another_checkpoint_is_chosen(
    rig: Rig, merged_model: MergedModel
) -> None:
    plain = rig.webui.generate().data
    seen = put_merge(rig, merged_model, a="b", b="c")
    del rig.webui.opts.data["sd_model_checkpoint"]
    shared_by_scripts: dict[str, Any] = {}
    for _ in range(2):  # as a script does that makes many images with copies of one request
        assert rig.webui.generate(override_settings=shared_by_scripts).data == seen
    assert merged_model.live().kind is LiveState.ACTIVE
    assert (shared_by_scripts, rig.webui.opts.data["sd_model_checkpoint"]) == ({}, None)
    rig.webui.opts.data["sd_model_checkpoint"] = "a.safetensors"
    with rig.host.job("restore", 1):
        merged_model.restore()
    assert rig.webui.generate().data == plain


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({"override_settings": {"sd_model_checkpoint": "b.safetensors"}}, False),
        ({"override_settings": {"sd_model_checkpoint": "a.safetensors"}}, False),
        ({"refiner_checkpoint": "b"}, False),
        ({"enable_hr": True, "hr_checkpoint_name": "b"}, False),
        ({"hr_checkpoint_name": "b"}, True),
        ({"refiner_checkpoint": "a"}, True),
        ({"enable_hr": True, "hr_checkpoint_name": "Use same checkpoint"}, True),
        ({"override_settings": {"clip_skip": 2}}, True),
    ],
)
def test_a_request_for_another_checkpoint_ends_the_merge_first(
    rig: Rig, merged_model: MergedModel, fields: dict[str, Any], kept: bool
) -> None:
    def copied() -> dict[str, Any]:
        return {key: dict(value) if isinstance(value, dict) else value for key, value in fields.items()}

    before, expected = rig.webui.digest(), rig.webui.generate(**copied())
    rig.webui.reload()
    seen = put_merge(rig, merged_model)
    image = rig.webui.generate(**copied())
    assert (merged_model.live().kind is LiveState.ACTIVE) is kept
    assert image.data == (seen if kept else expected.data)
    assert ("Elemental" in image.infotext, bool(image.p.comments)) == (kept, not kept)
    if not kept:
        rig.webui.reload()
        assert rig.webui.digest() == before


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_choosing_a_checkpoint_ends_the_merge_and_loads_it(rig: Rig, merged_model: MergedModel, name: str) -> None:
    rig.webui.opts.choose("sd_model_checkpoint", f"{name}.safetensors")
    digest, image = rig.webui.digest(), rig.webui.generate()
    rig.webui.opts.choose("sd_model_checkpoint", "c.safetensors" if name != "c" else "a.safetensors")
    put_merge(rig, merged_model)
    rig.webui.opts.choose("sd_model_checkpoint", f"{name}.safetensors")
    assert merged_model.live().kind is LiveState.FILE
    assert rig.webui.digest() == digest
    assert (rig.webui.generate().data, rig.webui.generate().infotext) == (image.data, image.infotext)
    assert rig.webui.opts.data["sd_model_checkpoint"] == f"{name}.safetensors"


def test_picking_the_checkpoint_that_is_chosen_already_ends_the_merge(rig: Rig, merged_model: MergedModel) -> None:
    picks: list[Any] = []
    listed = SimpleNamespace(elem_id="setting_sd_model_checkpoint", select=lambda fn, **_: picks.append(fn))
    rig.webui.fire("after_component", listed)
    rig.webui.fire("after_component", SimpleNamespace(elem_id="setting_sd_vae", select=pytest.fail))
    (pick,) = picks
    before, plain = rig.webui.digest(), rig.webui.generate().data
    entries = rig.webui.lock.entries
    pick("a.safetensors")
    assert rig.webui.lock.entries == entries  # there is nothing to end
    put_merge(rig, merged_model)
    for other in ("b.safetensors", "gone", None):
        pick(other)
        assert merged_model.live().kind is LiveState.ACTIVE
    pick("a.safetensors")
    assert (merged_model.live().kind, rig.webui.digest()) == (LiveState.FILE, before)
    with live_merge(rig.open()) as merge:
        merge.apply(rig.recipe())
        merge.keep("mine")
    pick("a.safetensors")
    assert (rig.webui.generate().data, rig.webui.digest()) == (plain, before)


@pytest.mark.slow
@pytest.mark.parametrize("opened", ["a", "b"])
@pytest.mark.parametrize("chosen", ["a", "b", "c"])
def test_a_choice_during_a_job_waits_until_its_end(rig: Rig, opened: str, chosen: str) -> None:
    rig.webui.opts.choose("sd_model_checkpoint", "b.safetensors")
    digests = {}
    for name in "abc":
        rig.webui.reload(info=rig.webui.closest(name))
        digests[name] = rig.webui.digest()
    rig.webui.opts.data["sd_model_checkpoint"] = "b.safetensors"
    threads: list[threading.Thread] = []
    started = threading.Event()

    def choose() -> None:
        started.set()
        rig.webui.opts.choose("sd_model_checkpoint", f"{chosen}.safetensors")

    def on_step(_: int) -> None:
        if not threads:
            threads.append(threading.Thread(target=choose, daemon=True))
            threads[0].start()
            started.wait(5)
            threads[0].join(0.2)  # it waits for the queue by now, if it has to

    rig.webui.on_step = on_step
    rig.tab = tab_values(count=2)  # in two rounds, before each of which
    two = replace(REQUEST, batch=2)  # the host goes by its settings
    with rig.job("plot", 4):
        rig.open(opened)
        first, second = rig.images(two), rig.images(two)
        assert first == second
        assert rig.webui.digest() == digests[opened]
    threads[0].join(5)
    rig.webui.generate()
    assert rig.webui.digest() == digests[chosen]
    assert rig.webui.opts.data["sd_model_checkpoint"] == f"{chosen}.safetensors"


def test_a_choice_during_the_users_own_image_of_a_merge_waits_until_its_end(
    rig: Rig, merged_model: MergedModel
) -> None:
    rig.open("b")
    other = rig.webui.digest()
    rig.webui.generate()
    seen = put_merge(rig, merged_model)
    threads: list[threading.Thread] = []

    def choose() -> None:
        rig.webui.opts.choose("sd_model_checkpoint", "b.safetensors")

    def on_step(_: int) -> None:
        if not threads:
            threads.append(threading.Thread(target=choose, daemon=True))
            threads[0].start()
            threads[0].join(0.2)  # it waits for the queue by now

    rig.webui.on_step = on_step
    image = rig.webui.generate(n_iter=2)  # in two rounds, before each of which the host goes by its settings
    assert image.data == seen
    threads[0].join(5)
    assert (rig.webui.digest(), merged_model.live().kind) == (other, LiveState.FILE)
    assert [text for _, text in image.all if "Elemental" not in text] == []
    rig.webui.opts.choose("sd_model_checkpoint", "a.safetensors")
    put_merge(rig, merged_model)
    assert rig.webui.generate(n_iter=2).all == image.all


def test_a_merge_that_waits_behind_a_choice_is_not_loaded_over(rig: Rig, merged_model: MergedModel) -> None:
    rig.open("b")
    chosen = rig.webui.digest()
    rig.webui.generate()

    def merge() -> None:
        put_merge(rig, merged_model)

    calls = (lambda: rig.webui.opts.choose("sd_model_checkpoint", "b.safetensors"), merge)
    threads = [threading.Thread(target=call, daemon=True) for call in calls]
    with rig.webui.lock:  # as while an image is being made
        for number, thread in enumerate(threads, 1):
            thread.start()
            while rig.webui.lock.waiting < number:
                time.sleep(0.001)
    for thread in threads:
        thread.join(20)
    assert merged_model.live().kind is LiveState.ACTIVE
    assert "Elemental" in rig.webui.generate().infotext
    with rig.host.job("restore", 1):
        merged_model.restore()
    rig.webui.generate()
    assert rig.webui.digest() == chosen


@pytest.mark.slow
@pytest.mark.parametrize("option", ["fp8_storage", "cache_fp16_weight"])
def test_other_settings_that_load_checkpoints_end_the_merge(rig: Rig, merged_model: MergedModel, option: str) -> None:
    before = rig.webui.digest()
    put_merge(rig, merged_model)
    rig.webui.opts.choose(option, "Enable")
    assert merged_model.live().kind is LiveState.FILE
    assert rig.webui.digest() == before


def test_a_lost_merge_is_not_in_the_infotext(rig: Rig, merged_model: MergedModel) -> None:
    before, plain = rig.webui.digest(), rig.webui.generate()
    put_merge(rig, merged_model)
    rig.webui.reload(forced_reload=True)  # the same checkpoint, whose prompts the WebUI has encoded with the merge
    assert merged_model.live().kind is LiveState.LOST
    image = rig.webui.generate()
    assert (image.data, image.infotext, rig.webui.digest()) == (plain.data, plain.infotext, before)


def test_an_error_before_a_load_does_not_prevent_it(rig: Rig) -> None:
    def fail() -> None:
        raise HostError("no")

    rig.host.before_loading(fail)
    rig.webui.opts.choose("sd_model_checkpoint", "b.safetensors")
    assert rig.host.loaded().path == rig.paths["b"]


def test_calls_before_a_load_may_use_the_host(rig: Rig, merged_model: MergedModel) -> None:
    opened: list[Any] = []
    rig.host.before_loading(lambda: opened.append(rig.open()))  # while the host holds the queue itself
    put_merge(rig, merged_model)
    rig.webui.generate(override_settings={"sd_model_checkpoint": "b.safetensors"})
    rig.webui.opts.choose("sd_model_checkpoint", "c.safetensors")
    assert len(opened) == 2
    assert rig.host.loaded().path == rig.paths["c"]


def run_script(monkeypatch: pytest.MonkeyPatch, tab: ModuleType | None) -> ModuleType:
    """Run the extension's script as the WebUI does."""
    monkeypatch.setitem(sys.modules, "elemental.ui.tab", tab)  # None: it cannot be imported
    spec = importlib.util.spec_from_file_location("elemental_webui.py", ROOT / "scripts" / "elemental_webui.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_reload_ui_registers_everything_once(
    rig: Rig, merged_model: MergedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    tab: Any = ModuleType("tab")
    tab.make_tab = lambda host, form: (host, form)
    seen = put_merge(rig, merged_model)
    for _ in range(3):
        rig.webui.callbacks.clear()
        module = run_script(monkeypatch, tab)
        counts = {event: len(calls) for event, calls in rig.webui.callbacks.items()}
        assert counts == {
            "after_component": 2,
            "ui_tabs": 1,
            "infotext_pasted": 1,
            "model_loaded": 1,
            "cfg_denoiser": 1,
        }
        classes = [value for value in vars(module).values() if isinstance(value, type)]
        assert [kind for kind in classes if issubclass(kind, rig.webui.scripts.Script)] == [rig.hooks.ElementalScript]
        (((host, _), title, name),) = rig.webui.fire("ui_tabs")[0]
        assert (host, title, name) == (rig.host, "Elemental", "elemental")
        for option in ("sd_model_checkpoint", "fp8_storage", "cache_fp16_weight"):
            gate = rig.webui.opts.data_labels[option].onchange
            assert type(gate).__name__ == "LoadGate"
            assert type(gate._then).__name__ == "function"
    assert rig.webui.generate().data == seen  # the merge has outlived it
    script = rig.hooks.ElementalScript()
    assert (script.title(), script.show(False)) == ("Elemental", rig.webui.scripts.AlwaysVisible)


def test_a_tab_that_cannot_be_made_says_why(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    tab: Any = ModuleType("tab")
    tab.make_tab = lambda _host, _form: 1 / 0
    rig.webui.callbacks.clear()
    run_script(monkeypatch, tab)
    ((blocks, title, _),) = rig.webui.fire("ui_tabs")[0]
    assert title == "Elemental"
    assert "ZeroDivisionError: division by zero" in blocks[-1]
    rig.webui.callbacks.clear()
    with pytest.raises(ImportError):
        run_script(monkeypatch, None)
    ((blocks, title, _),) = rig.webui.fire("ui_tabs")[0]
    assert title == "Elemental"
    assert "could not start: ModuleNotFoundError" in blocks[-1]


def test_the_generate_buttons_inputs_are_found(rig: Rig) -> None:
    fields = {number: SimpleNamespace(elem_id=f"field {number}") for number in range(5)}
    blocks = SimpleNamespace(parent=None, blocks=fields, dependencies=[])
    button = SimpleNamespace(elem_id="txt2img_generate", _id=9, parent=SimpleNamespace(parent=blocks))
    form = rig.hooks.Txt2imgForm(rig.host.page)
    assert list(form.components) == []
    for component in (fields[1], button, SimpleNamespace(elem_id="img2img_generate", _id=10, parent=None)):
        form.on_component(component, elem_id="whatever")
    assert list(form.components) == []
    blocks.dependencies += [
        {"targets": [8], "js": "submit", "inputs": [0, 4]},
        {"targets": [9], "js": None, "inputs": [0, 3]},
        {"targets": [9], "js": "submit", "inputs": [0, 2, 1]},
        {"targets": [], "inputs": []},
    ]
    assert list(form.components) == [fields[2], fields[1]]
    blocks.dependencies[2]["targets"] = [(9, "click")]  # as later versions of gradio have it
    assert list(form.components) == [fields[2], fields[1]]


def test_a_pasted_infotext_gives_its_recipe_once(rig: Rig, merged_model: MergedModel) -> None:
    put_merge(rig, merged_model)
    image = rig.webui.generate()
    recipe = image.p.extra_generation_params["Elemental recipe"]
    for params in ({"Prompt": "x"}, {"Elemental recipe": ""}):
        rig.webui.fire("infotext_pasted", "", params)
        assert rig.host.take_pasted() is None
    rig.webui.fire("infotext_pasted", image.infotext, {"Elemental recipe": recipe})
    assert rig.host.pasted_recipes() == rig.host.take_pasted
    assert recipe_from_json(rig.host.take_pasted(), name="x").rules == rig.recipe("BASE:mlp:1").rules
    assert rig.host.take_pasted() is None


@pytest.fixture(name="installer")
def install_module() -> Any:
    spec = importlib.util.spec_from_file_location("install", ROOT / "install.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_install_does_nothing_if_all_is_there(
    installer: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("pip was run"))
    installer.main()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("code", [0, 1])
def test_install_installs_what_is_missing_and_nothing_else(
    installer: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], code: int
) -> None:
    commands = []

    def pip(command: list[str], **_: object) -> None:
        commands.append(command)
        if code:
            raise subprocess.CalledProcessError(code, command, "", "no network\nERROR: none found")

    monkeypatch.setattr(installer, "NEEDED", ("torch", "no-such-package"))
    monkeypatch.setattr(subprocess, "run", pip)
    monkeypatch.setenv("INDEX_URL", "https://index.example")
    installer.main()
    (command,) = commands
    assert command[:4] == [sys.executable, "-m", "pip", "install"]
    assert {"--no-deps", "https://index.example", "no-such-package"} <= set(command)
    assert not {"torch", "--upgrade", "-U"} & set(command)
    said = "could not install no-such-package (ERROR: none found)" if code else "installed no-such-package"
    assert said in capsys.readouterr().out
