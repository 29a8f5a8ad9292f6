"""Which steps the checks have, and what they run."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tools.checks import (
    FEW_FAILURES,
    OLDER_GRADIO,
    ROOT,
    ChecksError,
    Options,
    Outcome,
    Step,
    again_command,
    choose_steps,
    list_steps,
    read_options,
    run,
    run_all,
)


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def names(*arguments: str) -> list[str]:
    options = read_options(arguments)
    return [step.name for step in choose_steps(list_steps(options), options)]


def test_older_gradio_is_tested_when_that_is_asked_for() -> None:
    assert names() == [name for name in names("--older-gradio") if name not in OLDER_GRADIO]
    assert names("--older-gradio")[-2:] == list(OLDER_GRADIO) == ["gradio3", "gradio4"]
    assert names("--only", "style", "gradio4") == ["style", "gradio4"]
    with pytest.raises(ChecksError, match="no step is called gradio5"):
        names("--only", "gradio5")


def commands(step: Step) -> Sequence[Sequence[str]]:
    return [command.split() if isinstance(command, str) else command for command in step.commands]


@pytest.mark.parametrize("name", OLDER_GRADIO)
def test_each_older_gradio_has_an_environment_with_the_readmes_torch(name: str) -> None:
    (step,) = (step for step in list_steps(Options()) if step.name == name)
    make, torch, install, test = commands(step)
    assert make[-1] == step.removed[0] == step.cleared[0] == f".venv-{name}"
    assert torch[-1].startswith("torch==")
    assert set(OLDER_GRADIO[name]) < set(install)
    assert all(Path(word).is_file() for word in test[7:])
    assert f"/{make[-1]}/" in Path(".gitignore").read_text().splitlines()


def test_what_ci_and_the_workflow_ask_for_are_steps() -> None:
    every = names("--older-gradio")
    assert "--older-gradio" in Path(".ci/run").read_text().splitlines()[-1].split()
    workflow = Path(".github/workflows/tests.yml").read_text()
    asked = re.findall(r"steps: ([a-z0-9 ]+)", workflow)
    assert {step for steps in asked for step in steps.split()} <= {*every}
    assert len(asked) == 6


@pytest.mark.parametrize("code", [0, 1])
def test_an_environment_is_deleted_after_its_step_unless_that_failed(tmp_path: Path, code: int) -> None:
    (folder := tmp_path / "environment").mkdir()
    step = Step("tab", "", [[sys.executable, "-c", f"raise SystemExit({code})"]], cleared=[str(folder)])
    assert run(step).passed is (code == 0)
    assert folder.exists() is (code == 1)


def step_of_tests(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> Step:
    (folder / "test_it.py").write_text(text)
    monkeypatch.chdir(folder)
    pytest_alone = [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly"]
    return Step("tests", "", [[*pytest_alone, "test_it.py"]], [*pytest_alone, *again_command("")[3:]])


FAILS_ONCE = """
from pathlib import Path
def test_late(): (was := Path("was")).exists() or was.touch() or 1 / 0
def test_other(): pass
"""


@pytest.mark.slow
def test_a_test_that_fails_once_is_run_again_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    step = step_of_tests(tmp_path, FAILS_ONCE, monkeypatch)
    assert run_all([step]) == 0
    assert "failed first, and passed when run again: test_it.py::test_late" in capfd.readouterr().out
    assert run(step) == Outcome(True)


@pytest.mark.parametrize("count", [1, FEW_FAILURES + 1])
@pytest.mark.slow
def test_what_fails_again_or_in_many_tests_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    tests = "".join(f"def test_{number}(): assert False\n" for number in range(count))
    assert run_all([step_of_tests(tmp_path, tests, monkeypatch)]) == 1


@pytest.mark.slow
def test_tests_that_cannot_be_collected_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_all([step_of_tests(tmp_path, "import nothing_of_this_name", monkeypatch)]) == 1
