"""What samples set in the page, and what of it can be copied."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from elemental.cli.argument_parser import COMMANDS
from elemental.cli.recipe_options import make_recipe
from elemental.errors import RecipeError
from elemental.recipe.recipe import recipe_from_dict
from elemental.runs.sample_file import Sample, find_samples
from elemental.session.command_line import command_of, recipe_of
from elemental.session.form import MergeForm, form_from_dict
from elemental.session.sample_values import describe_setting, sample_values
from elemental.session.session import Session, session_of

from .fake_host import FakeHost
from .plotting import load


@pytest.fixture
def session(models: Mapping[str, Path], tmp_path: Path) -> Session:
    return session_of(FakeHost(load, output=tmp_path, models=models["a"].parent))


@pytest.mark.parametrize("sample", find_samples().values(), ids=lambda sample: str(sample.number))
def test_each_sample_sets_what_it_needs(sample: Sample, session: Session) -> None:
    values = sample_values(sample)
    form = form_from_dict({**MergeForm("a.safetensors", "b.safetensors", spec="OUT03::1").to_dict(), **values})
    session.recipe(form)
    assert ("elements" in values) is (sample.elements is not None)
    assert "OUT03::1" not in form.spec  # of another merge
    if "--alpha 0" in sample.options:
        assert form.alpha == 0
    assert values.get("compare", False) is ("--compare" in sample.options)


def test_a_sample_on_rules_has_them() -> None:
    values = sample_values(find_samples()[2])
    assert (values["spec"], values["x_type"], values["y"]) == ("OUT00-OUT11:attn2:1", "add-elemental", "1, 2")
    assert describe_setting(values) == "alpha 0, block weights none, spec OUT00-OUT11:attn2:1"
    with pytest.raises(RecipeError, match="--steps"):
        sample_values(Sample(1, "x", options="--steps 3"))


@pytest.mark.parametrize(
    "form",
    [
        MergeForm(alpha=-0.1, spec="OUT03 OUT04:attn2:1\nNOT IN01::0.2", vae="b", dtype="fp16", drop_ema=True),
        MergeForm(model_c="c.safetensors", mode="triple-sum", beta=0.2, blocks=",".join(["-0.5"] * 26), force=True),
        MergeForm(blocks="GRAD_V"),
    ],
)
def test_the_command_makes_the_same_recipe(form: MergeForm, session: Session) -> None:
    form = replace(form, model_a="a.safetensors", model_b="b.safetensors")
    words = shlex.split(command_of(session, form, name="new one"))
    assert words[:2] == ["elemental", "merge"]
    assert words[-2:] == ["-o", "new one.safetensors"]
    options = COMMANDS["merge"].read_text(shlex.join(words[2:]))
    assert make_recipe(options.recipe)[0] == session.recipe(form)
    shared = recipe_of(session, form)
    assert str(session.host.models_folder()) not in shared
    assert recipe_from_dict(json.loads(shared)).rules == session.recipe(form).rules
