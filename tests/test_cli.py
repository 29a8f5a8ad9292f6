from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import FrozenInstanceError, fields, is_dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from elemental import __version__
from elemental.cli.argument_parser import COMMANDS, parse_command
from elemental.cli.main import DONE, FAILED, WRONG_USAGE, main
from elemental.cli.plan import PLAN
from elemental.cli.progress import ProgressBar, StepReport, run_watcher
from elemental.cli.recipe_options import make_recipe
from elemental.recipe.recipe import MergeRecipe
from elemental.runs.axes.base import Setting
from elemental.runs.cells import Cell
from elemental.runs.runner import Progress
from elemental.workflows import user_presets_path

from .conftest import LAYOUTS, random_state, save

OUT05 = "model.diffusion_model.output_blocks.5."


@pytest.fixture
def ab(models: dict[str, Path]) -> list[str]:
    return [str(models["a"]), str(models["b"])]


def test_inspect(ab: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", ab[0], "--elements"]) == DONE
    printed = capsys.readouterr().out
    assert "SD 1.x" in printed
    assert "U-Net 686, text encoder 197, VAE 248" in printed
    assert "1.transformer_blocks.*.attn2.to_k" in printed


def test_inspect_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save(tmp_path / "x.safetensors", random_state(LAYOUTS["sdxl"], 1))
    assert main(["inspect", str(path), "--json", "--elements"]) == DONE
    facts = json.loads(capsys.readouterr().out)
    assert (facts["architecture"], facts["dtypes"]) == ("SDXL", {"F16": 2514, "I64": 1})
    assert facts["tensors"] == {"U-Net": 1680, "text encoder": 587, "VAE": 248}
    assert "out.0.weight" in facts["elements"]["OUT08"]
    assert list(facts["elements"])[:2] == ["BASE", "IN00"]


def test_plan_json(ab: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    spec = "OUT05:attn2:0.5,OUT05:atn:1"
    assert main(["plan", *ab, "--alpha", "0.2", "--elemental", spec, "--json"]) == DONE
    captured = capsys.readouterr()
    plan = json.loads(captured.out)
    assert plan["architecture"] == "SD 1.x"
    set_by_rule = [tensor for tensor in plan["tensors"] if tensor["rule"] == 0]
    assert len(set_by_rule) == 5
    assert {(tensor["block"], tensor["alpha"]) for tensor in set_by_rule} == {("OUT05", 0.5)}
    assert len(plan["warnings"]) == 1
    assert 'did you mean "attn' in plan["warnings"][0]
    assert plan["warnings"][0] in captured.err


def test_plan_strict(ab: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *ab, "--elemental", "OUT05:atn2:1", "--strict"]) == WRONG_USAGE
    assert "atn2" in capsys.readouterr().err
    assert main(["plan", *ab, "--elemental", "OUT05:attn2:1", "--strict"]) == DONE


def test_plan_summary_and_map(ab: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *ab, "--alpha", "0", "--elemental", "OUT05:attn2:1"]) == DONE
    printed = capsys.readouterr().out
    assert "5 of 1131 tensors change; U-Net 5 of 686, text encoder 0 of 197, VAE 0 of 248." in printed
    assert "1 rule sets 5 of 686 U-Net elements." in printed
    assert "\x1b" not in printed


def test_merge(ab: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.safetensors"
    options = ["--alpha", "0", "--elemental", "OUT05:attn2:1", "--print-change", "-o", str(out)]
    assert main(["merge", *ab, *options]) == DONE
    captured = capsys.readouterr()
    a, b, merged = (load_file(path) for path in (*ab, str(out)))
    for key, tensor in merged.items():
        assert tensor.equal((b if key.startswith(OUT05) and "attn2" in key else a)[key])
    assert "OUT05 1.transformer_blocks.0.attn2.to_k.weight     0 -> 1  rule 1: OUT05:attn2:1" in captured.out
    assert captured.err == ""
    assert main(["merge", *ab, "-o", str(out)]) == FAILED
    assert "overwrite it" in capsys.readouterr().err
    assert main(["merge", *ab, "-o", str(out), "--overwrite"]) == DONE


def test_dry_run_writes_nothing(ab: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["merge", *ab, "-o", str(tmp_path / "out.safetensors"), "--dry-run"]) == DONE
    assert "nothing was written" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_a_recipe_is_the_base_of_the_options(ab: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, again, other = (tmp_path / f"{name}.safetensors" for name in ("first", "again", "other"))
    spec = tmp_path / "spec.txt"
    spec.write_text("OUT05:attn2:1  # first\nIN07:ff:0.25\n", encoding="utf-8")
    options = ["--alpha", "0.3", "--blocks", "GRAD_V", "--elemental-file", str(spec), "--dtype", "bf16"]
    assert main(["merge", *ab, *options, "-o", str(first)]) == DONE
    assert main(["merge", "--recipe", str(first), "-o", str(again)]) == DONE
    assert again.read_bytes() == first.read_bytes()
    assert main(["merge", "--recipe", str(first), "--dtype", "fp32", "--elemental", "", "-o", str(other)]) == DONE
    assert load_file(other)[OUT05 + "0.in_layers.0.bias"].dtype.itemsize == 4
    capsys.readouterr()
    assert main(["plan", "--recipe", str(first), "--elemental", "IN07:ff:0.5", "--json"]) == DONE
    rules = [tensor["rule"] for tensor in json.loads(capsys.readouterr().out)["tensors"]]
    assert rules.count(0) == 4


@pytest.mark.parametrize("option", ["force", "drop_ema"])
def test_a_switch_of_a_recipe_can_be_switched_off(ab: list[str], tmp_path: Path, option: str) -> None:
    switch = option.replace("_", "-")

    def recipe(*words: str) -> MergeRecipe:
        return make_recipe(PLAN.read(parse_command(["plan", *words]).args).recipe)[0]

    first = recipe(*ab, f"--{switch}")
    file = tmp_path / "recipe.json"
    file.write_text(json.dumps(first.to_dict()), encoding="utf-8")
    assert getattr(recipe("--recipe", str(file)), option) is True
    assert getattr(recipe("--recipe", str(file), f"--no-{switch}"), option) is False
    assert getattr(recipe(*ab), option) is False


def test_users_own_presets(ab: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    user_presets_path().write_text("MINE: " + "0.125 " * 26)
    assert main(["plan", *ab, "--blocks", "mine", "--json"]) == DONE
    assert {tensor["alpha"] for tensor in json.loads(capsys.readouterr().out)["tensors"]} == {0.125}


def test_three_models(models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    abc = [str(path) for path in models.values()]
    out = str(tmp_path / "out.safetensors")
    mode = ["--mode", "sum-twice", "--alpha", "0.5", "--beta", "0.25", "--elemental", "OUT05::0.5:1"]
    assert main(["merge", *abc, *mode, "-o", out]) == DONE
    key = OUT05 + "0.in_layers.0.bias"
    assert load_file(out)[key].equal(load_file(abc[2])[key])
    capsys.readouterr()
    assert main(["merge", *abc, "-o", out, "--overwrite"]) == WRONG_USAGE
    assert "has no model C" in capsys.readouterr().err


def test_options_and_models_mix(ab: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", ab[0], "--alpha", "-1e-1", ab[1], "--blocks", "-0.1" + ",0" * 24, "--json"]) == DONE
    ratios = {tensor["alpha"] for tensor in json.loads(capsys.readouterr().out)["tensors"]}
    assert ratios == {-0.1, 0}
    with pytest.raises(SystemExit):
        main(["plan", *ab, ab[0], ab[1]])
    with pytest.raises(SystemExit):
        main(["plan", *ab, "--elementa", "IN00::1"])


def test_ratios_without_effect_are_remarked_on(ab: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    every = ["--blocks", "0.5 " * 26, "--alpha", "0.1"]
    assert main(["plan", *ab, *every]) == DONE
    assert "--alpha has no effect" in capsys.readouterr().err
    assert main(["plan", *ab, *every, "--strict"]) == WRONG_USAGE
    assert main(["plan", *ab, "--blocks", "0.5 " * 25, "--alpha", "0.1", "--strict"]) == DONE


def test_beta_may_come_from_block_weights_alone(models: dict[str, Path]) -> None:
    abc = [str(path) for path in models.values()]
    assert main(["plan", *abc, "--mode", "sum-twice", "--blocks-beta", "0.5 " * 26]) == DONE
    assert main(["plan", *abc, "--mode", "sum-twice", "--blocks-beta", "0.5 " * 25]) == WRONG_USAGE


def test_a_recipe_can_change_its_mode(
    models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    abc, out = [str(path) for path in models.values()], str(tmp_path / "out.safetensors")
    options = ["--mode", "sum-twice", "--beta", "0.5", "--blocks", "GRAD_V", "--elemental", "OUT05::0.5:1"]
    options += ["--blocks-beta", "GRAD_A"]
    assert main(["merge", *abc, *options, "-o", out]) == DONE
    capsys.readouterr()
    assert main(["plan", "--recipe", out, "--mode", "weight-sum", "--blocks", "none", "--json"]) == DONE
    captured = capsys.readouterr()
    assert {tensor["alpha"] for tensor in json.loads(captured.out)["tensors"]} == {0.5}
    for part in ("model C", "beta", "block weights of beta", "beta of its rules"):
        assert f"weight-sum has no use for the recipe's {part}." in captured.err


def test_block_weights_find_models_that_have_moved(ab: list[str], tmp_path: Path) -> None:
    first, again = tmp_path / "first.safetensors", tmp_path / "again.safetensors"
    here = [Path(shutil.copy(path, tmp_path)) for path in ab]
    assert main(["merge", *map(str, here), "-o", str(first)]) == DONE
    (tmp_path / "moved").mkdir()
    for path in here:
        path.rename(tmp_path / "moved" / path.name)
    models = ["--models", str(tmp_path / "moved")]
    assert main(["merge", "--recipe", str(first), *models, "--blocks", "GRAD_V", "-o", str(again)]) == DONE


def test_a_progress_bar_on_a_terminal_only(
    ab: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["-o", str(tmp_path / "out.safetensors"), "--overwrite"]
    assert main(["merge", *ab, *out]) == DONE
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert main(["merge", *ab, *out]) == DONE
    assert "merging" in capsys.readouterr().err


ODD = "odd\x1b[2J\r\x9b\u202e\x7f"


ODD_SHOWN = re.compile(r"odd\\(?:u00|x)1b\[2J\\(?:u000d|r)\\(?:u00|x)9b\\u202e\\(?:u00|x)7f")
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]")


def shown(text: str) -> bool:
    """Tell whether a text has odd names in it, and nothing that a terminal obeys."""
    return bool(ODD_SHOWN.search(text)) and not CONTROL.search(text)


@pytest.mark.parametrize("on_terminal", [False, True])
def test_names_in_files_cannot_control_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *, on_terminal: bool
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: on_terminal, raising=False)
    block = "model.diffusion_model.output_blocks.5.1."
    a, b = (random_state(LAYOUTS["sd1"], seed) for seed in (1, 2))
    extra = {f"{block}{ODD}.weight": torch.ones(1)}
    paths = [
        str(save(tmp_path / f"{ODD}{n}.safetensors", s)) for n, s in (("a", {**a, **extra}), ("b", {**b, **extra}))
    ]
    assert main(["inspect", paths[0], "--elements"]) == DONE
    assert shown(capsys.readouterr().out)
    for command in (["inspect", paths[0], "--elements", "--json"], ["plan", *paths, "--json"]):
        assert main(command) == DONE
        text = capsys.readouterr().out
        assert shown(text)
        assert json.loads(text)
    assert main(["plan", *paths, "--elemental", "IN03::1"]) == DONE
    text = capsys.readouterr().out
    assert shown(re.sub(r"\x1b\[[07]m", "", text) if on_terminal else text)
    out = str(tmp_path / "out.safetensors")
    assert main(["merge", *paths, "--alpha", "0", "--elemental", ":odd:1", "--print-change", "-o", out]) == DONE
    assert shown(capsys.readouterr().out)


def test_errors_and_warnings_cannot_control_the_terminal(
    ab: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (["--debug"], []):
        assert main(["inspect", str(tmp_path / ODD), *words]) == FAILED
        assert shown(capsys.readouterr().err)
    user_presets_path().parent.mkdir(exist_ok=True)
    user_presets_path().write_text(f"{ODD}: {'9' * 5000}\n", encoding="utf-8")
    assert main(["plan", *ab, "--blocks", "GRAD_V"]) == DONE
    error = capsys.readouterr().err
    assert error.startswith("warning: ")
    assert not CONTROL.search(error)
    assert max(map(len, error.split())) < 1000
    (tmp_path / f"{ODD}.txt").write_text("")
    with pytest.raises(SystemExit):
        main(["plan", *ab, "--blocks", str(tmp_path / f"{ODD}.txt")])
    assert shown(capsys.readouterr().err)


def test_colours_on_a_terminal_only(
    ab: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert main(["plan", *ab, "--elemental", "OUT05:attn2:1"]) == DONE
    assert capsys.readouterr().out.count("\x1b[7m") == 4
    monkeypatch.setenv("NO_COLOR", "1")
    assert main(["plan", *ab, "--elemental", "OUT05:attn2:1"]) == DONE
    assert "\x1b" not in capsys.readouterr().out


def test_vae_of_b(ab: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    assert main(["merge", *ab, "--vae", "b", "-o", str(out)]) == DONE
    key = "first_stage_model.quant_conv.weight"
    assert load_file(out)[key].equal(load_file(ab[1])[key])


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["plan", "{a}", "{b}", "--elemental", "OUT12:attn:1"], WRONG_USAGE, "spec, line 1, column 1"),
        (["plan", "{a}", "{b}", "--elemental-file", "{tmp}/none.txt"], FAILED, "Cannot read the spec"),
        (["plan", "{a}", "{b}", "--blocks", "1,2,3"], WRONG_USAGE, "There are 3 block weights"),
        (["plan", "{a}", "{b}", "--blocks", "NOPE"], WRONG_USAGE, "no block weight preset"),
        (["plan", "{a}", "{b}", "--alpha", "nan"], WRONG_USAGE, "finite"),
        (["plan", "{a}", "{b}", "--beta", "1"], WRONG_USAGE, "has no beta"),
        (["plan", "{a}", "{b}", "--vae", "{tmp}/none.pt"], FAILED, "No such file"),
        (["plan", "--recipe", "{a}"], WRONG_USAGE, "has no recipe"),
        (["inspect", "{tmp}/none.safetensors"], FAILED, "No such file"),
    ],
)
def test_mistakes_get_a_message(
    ab: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, words: str
) -> None:
    assert main([argument.format(a=ab[0], b=ab[1], tmp=tmp_path) for argument in arguments]) == code
    message = capsys.readouterr().err
    assert words in message
    assert "Traceback" not in message


@pytest.mark.parametrize("arguments", ["", "plan", "plan {a}", "merge {a} {b}", "plan {a} {b} --alpha x"])
def test_wrong_usage(ab: list[str], capsys: pytest.CaptureFixture[str], arguments: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main([argument.format(a=ab[0], b=ab[1]) for argument in arguments.split()])
    assert caught.value.code == WRONG_USAGE
    name = f"elemental {arguments.split()[0]}" if arguments else "elemental"
    assert f"\n{name}: error: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ValueError("odd"), "Unexpected error (a bug): ValueError: odd\nPlease report it"),
        (MemoryError(), "error: Out of memory.\n"),
    ],
)
def test_errors_that_are_nobodys(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, words: str
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("elemental.cli.inspect.Checkpoint", fail)
    assert main(["inspect", "x"]) == FAILED
    assert capsys.readouterr().err.startswith(words)


def test_debug_shows_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(tmp_path / "none.safetensors"), "--debug"]) == FAILED
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command", ["inspect", "plan", "merge", "extract", "generate", "plot", "check", "effects", "ui", "demo"]
)
def test_help_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert f"example:\n  elemental {command}" in capsys.readouterr().out


@pytest.mark.parametrize("name", COMMANDS)
def test_options_are_read_once_and_frozen(name: str) -> None:
    command = COMMANDS[name]
    line = parse_command(shlex.split(command.example.replace("\\\n", " "))[1:])
    before = dict(vars(line.args))
    options = command.read(line.args)
    assert line.command == name
    assert vars(line.args) == before
    for part in (options, *vars(options).values()):
        if is_dataclass(part):
            with pytest.raises(FrozenInstanceError):
                setattr(part, fields(part)[0].name, None)


def test_the_bar_shows_steps_and_cells(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], base: Setting
) -> None:
    cell = Cell(0, 0, base.recipe, base.request)
    with ProgressBar() as bar:
        StepReport(bar)(1, 4, "sampling")
        run_watcher(bar, ()).on_cell(cell, None, Progress(1, 3, 2.0, 65.0))
        assert capsys.readouterr().err == ""
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
        for step in (1, 4, 1, 4):  # two images, one after the other
            StepReport(bar)(step, 4, "sampling")
        assert capsys.readouterr().err.count("sampling:   0%") == 2
        for done in (1, 2):
            run_watcher(bar, ()).on_cell(cell, None, Progress(done, 3, 2.0, 65.0))
            time.sleep(0.15)  # it is not drawn more often
        assert re.search(r"x00-y00 failed: 2/3 \|.*\|, 2.0 s each, 1:05 left", capsys.readouterr().err)


@pytest.mark.slow
def test_the_page_is_served_to_this_machine_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("diffusers")
    pytest.importorskip("gradio")
    from elemental.ui.request_guard import PageGuard

    served: dict[str, Any] = {}
    guards: list[Any] = []

    class Page:
        def queue(self, **_: Any) -> None: ...

        def launch(
            self,
            *,
            server_name: str,
            server_port: int | None,
            share: bool,
            app_kwargs: dict[str, Any],
            allowed_paths: list[str],  # noqa: ARG002 (serve wants to see that these names exist)
            inbrowser: bool,  # noqa: ARG002
            prevent_thread_lock: bool,  # noqa: ARG002
            quiet: bool,  # noqa: ARG002
        ) -> tuple[None, str, None]:
            served.update(server_name=server_name, server_port=server_port, share=share)
            guards.extend(app_kwargs["middleware"])
            return None, "http://x", None

        def block_thread(self) -> None: ...

    asked: list[str] = []
    monkeypatch.setattr("elemental.ui.tab.make_tab", lambda *_, **__: Page())
    monkeypatch.setattr("elemental.ui.gradio_compat._stop_without_guard", lambda _, url: asked.append(url))
    output = tmp_path / "images"
    assert main(["ui", "--models", str(tmp_path), "--port", "7999", "--output", str(output)]) == DONE
    (guard,) = guards
    assert (guard.cls, guard.kwargs["images"]) == (PageGuard, (output,))
    assert served == {"server_name": "127.0.0.1", "server_port": 7999, "share": False}
    assert asked == ["http://x"]
    assert main(["ui", "--models", str(tmp_path / "none")]) == FAILED
    assert "name the one that your checkpoints are in" in capsys.readouterr().err


def test_the_demo_keeps_its_hands_off_other_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("diffusers")
    (tmp_path / "a.safetensors").write_bytes(b"mine")
    assert main(["demo", "-o", str(tmp_path)]) == FAILED
    assert "name another folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]
    assert main(["demo", "-o", str(tmp_path / "a.safetensors" / "x")]) == FAILED


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "elemental", *arguments], capture_output=True, text=True, check=False)


def test_the_module_is_the_command() -> None:
    assert run("--version").stdout == f"elemental {__version__}\n"


def test_the_version_for_a_bug_report() -> None:
    done = run("--version", "--verbose")
    first, python, *packages, host = done.stdout.splitlines()
    assert (first, host, done.stderr, done.returncode) == (f"elemental {__version__}", "host: standalone", "", DONE)
    assert python.startswith("Python 3.")
    names = ["torch", "safetensors", "numpy", "diffusers", "transformers", "tokenizers", "gradio", "Pillow", "device"]
    assert [line.split()[0] for line in packages[: len(names)]] == names
    assert f"torch {version('torch')}" in packages
    assert not re.search(r"[/\\]", done.stdout)  # no path tells who the user is


def test_the_version_of_what_is_missing_or_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> int:
        raise OSError("/home/somebody/libcudart.so")

    monkeypatch.setattr("elemental.cli.version._PACKAGES", ("no-such-package",))
    monkeypatch.setattr(torch.cuda, "device_count", fail)
    assert main(["--verbose", "--version"]) == DONE
    printed = capsys.readouterr().out.splitlines()
    assert {"no-such-package not installed", "torch fails: OSError"} < set(printed)
    with pytest.raises(SystemExit):
        main(["--verbose"])


def test_a_closed_pipe_is_no_error(ab: list[str]) -> None:
    command = f'"{sys.executable}" -m elemental plan "{ab[0]}" "{ab[1]}" --json | head -n 1'
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("{\n", "", 0)


@pytest.mark.slow
def test_a_closed_pipe_does_not_stop_a_merge(ab: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    merge = f'"{sys.executable}" -m elemental merge "{ab[0]}" "{ab[1]}" -o "{out}" --elemental "::1" --print-change'
    done = subprocess.run(["bash", "-o", "pipefail", "-c", f"{merge} | head -n 1"], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert out.exists()


def test_names_that_the_terminal_cannot_show(ab: list[str], tmp_path: Path) -> None:
    path = shutil.copy(ab[0], tmp_path / "モデル.safetensors")
    command = [sys.executable, "-m", "elemental", "inspect", str(path)]
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252"}
    done = subprocess.run(command, capture_output=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_planning_loads_no_torch(ab: list[str]) -> None:
    code = (
        "import sys, elemental.cli.main as c; "
        f"c.main(['plan', {ab[0]!r}, {ab[1]!r}, '--blocks', 'GRAD_V', '--elemental', 'OUT05:attn2:1', '--json']); "
        "heavy = {'torch', 'gradio', 'diffusers', 'transformers', 'PIL'} & set(sys.modules); sys.exit(bool(heavy))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


@pytest.mark.slow
def test_generate_writes_nothing_but_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("diffusers")
    from .conftest import DRAWABLE

    a, b = (
        str(save(tmp_path / f"{name}.safetensors", random_state(DRAWABLE["sd1"], seed)))
        for seed, name in enumerate("ab")
    )
    out = tmp_path / "images"
    size = ["--width", "64", "--height", "64", "--steps", "2", "--prompt", "a cat", "-o", str(out)]
    assert main(["generate", a, *size, "--batch", "2"]) == DONE
    assert main(["generate", a, b, "--alpha", "0.5", "--elemental", "OUT05:attn2:1", *size, "--seed", "1"]) == DONE
    names = ["00000-0.png", "00001-1.png", "00002-1.png"]
    assert capsys.readouterr().out.split() == [str(out / name) for name in names]
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == sorted([*names, "a.safetensors", "b.safetensors"])
    plain, merged = (out / name for name in names[1:])
    assert plain.read_bytes() != merged.read_bytes()
    for wrong, code, message in (
        ([a, "--width", "100"], FAILED, "multiple of 8"),
        ([a, "--sampler", "Eular"], FAILED, 'no sampler "Eular"'),
        ([a, b, "--elemental", "OUT05:attn2"], WRONG_USAGE, "colon"),
        ([a, b, "--elemental", "OUT05:atn2:1", "--strict"], WRONG_USAGE, "attn2"),
        ([a, str(out / names[0])], FAILED, "is an image (PNG)"),
    ):
        assert main(["generate", *wrong[:1], *size, *wrong[1:]]) == code, wrong
        assert message in capsys.readouterr().err
    for wrong in ([], [a, "--elemental", "OUT05:attn2:1"], [a, "--vae", b]):  # one model alone is not merged
        with pytest.raises(SystemExit):
            main(["generate", *wrong, *size])
    assert len(list(out.iterdir())) == 3
