"""Hints name what was meant, or what there is: never a rule that sets other elements."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from itertools import product
from pathlib import Path

import pytest

from elemental import MergeRecipe, ModelSource
from elemental.architectures.blocks import SD1, SDXL
from elemental.architectures.keys import KeyName
from elemental.cli import main as cli
from elemental.demo.layout import tensor_shapes
from elemental.errors import RecipeError, SpecError
from elemental.hosts.base import CheckpointRef
from elemental.images.image_request import ImageRequest
from elemental.merge.files.tensor_info import TensorInfo
from elemental.merge.plan import Role
from elemental.merge.planner import Planner
from elemental.recipe.block_hints import extended_name
from elemental.recipe.recipe import recipe_from_dict
from elemental.recipe.rule_matching import RuleMatcher
from elemental.recipe.spec_parser import parse_rules, parse_targets
from elemental.runs.axes.values import axis_from_dict, parse_axis
from elemental.runs.element_check import check_from_dict, parse_check
from elemental.session.form import MergeForm
from elemental.session.merge_preview import Previewer
from elemental.session.run_plans import CheckForm, PlotForm, describe_estimate, plan_check, plan_plot
from elemental.session.session import session_of

from .conftest import LAYOUTS
from .fake_host import FakeHost
from .test_axes import BASE, CONTEXT

LAYOUT = {"sd1": SD1, "sdxl": SDXL}


@cache
def planner(layout: str) -> Planner:
    infos = {key: TensorInfo("F16", shape) for key, shape in tensor_shapes(LAYOUTS[layout]).items()}
    recipe = MergeRecipe(ModelSource("a"), ModelSource("b"), alpha=0)
    return Planner(recipe, {Role.A: infos, Role.B: infos})


@cache
def matcher(layout: str) -> RuleMatcher:
    return RuleMatcher(planner(layout).names)


def keys(layout: str, wanted: Callable[[KeyName], bool]) -> int:
    return sum(1 << index for index, name in enumerate(matcher(layout).names) if wanted(name))


def message(spec: str, layout: str = "sd1") -> str:
    """Give the first line that is said of a spec, an error or a warning; empty if nothing is."""
    try:
        rules = parse_rules(spec)
    except SpecError as exc:
        return str(exc).splitlines()[0]
    warnings = planner(layout).plan(MergeRecipe(ModelSource("a"), ModelSource("b"), alpha=0, rules=rules)).warnings
    return next((warning.message for warning in warnings if warning.rule is not None), "")


def suggested(said: str) -> list[str]:
    """List what stands in quotes after the mistake itself."""
    return re.findall(r'"([^"]+)"', said.partition("; ")[2])


# What was written, and the rule that was meant.
WRONG = [
    ("! OUT04:attn:1", "NOT OUT04:attn:1"),
    ("~OUT04:attn:1", "NOT OUT04:attn:1"),
    ("-OUT04:attn:1", "NOT OUT04:attn:1"),
    ("EXCEPT OUT04:attn:1", "NOT OUT04:attn:1"),
    ("OUT05:!attn:0.2", "OUT05:NOT attn:0.2"),
    ("OUT05:-attn:0.2", "OUT05:NOT attn:0.2"),
    ("OUT*:attn2:0.5", "OUT00-OUT11:attn2:0.5"),
    ("IN0*:attn2:0.5", "IN00-IN09:attn2:0.5"),
    ("OUT1?:attn2:0.5", "OUT10-OUT11:attn2:0.5"),
    ("M*::0.5", "M00::0.5"),
    ("input:attn2:0.5", "IN00-IN11:attn2:0.5"),
    ("OUTPUT_BLOCKS::0.5", "OUT00-OUT11::0.5"),
    ("unet::0.5", "IN00-OUT11::0.5"),
    ("clip::0.5", "TE::0.5"),
    ("*::0.5", "::0.5"),
    ("OUT05:*:0.5", "OUT05::0.5"),
    ("0UT05::0.5", "OUT05::0.5"),
    ("INO5::0.5", "IN05::0.5"),
    ("IN_5::0.5", "IN05::0.5"),
    ("IN 05::0.5", "IN05::0.5"),
    ("OTU05::0.5", "OUT05::0.5"),
    ("middle::0.5", "M00::0.5"),
    ("IN00-11::0.5", "IN00-IN11::0.5"),
    ("IN00~IN03::0.5", "IN00-IN03::0.5"),
    ("IN00\u301cIN03::0.5", "IN00-IN03::0.5"),
    ("IN00..IN03::0.5", "IN00-IN03::0.5"),
    ("IN00-M00-OUT11::0.5", "IN00-OUT11::0.5"),
    ("IN00/IN03::0.5", "IN00 IN03::0.5"),
    ("IN00;IN03::0.5", "IN00 IN03::0.5"),
    ("IN00, IN01, IN02:ff:0.2", "IN00 IN01 IN02:ff:0.2"),
    ("NOT OUT03, OUT04:attn, ff:0.5", "NOT OUT03 OUT04:attn ff:0.5"),
    ("OUT05:ff.net.0, ff.net.2:0.5", "OUT05:ff.net.0 ff.net.2:0.5"),
    ("OUT05:attn1|attn2:0.5", "OUT05:attn1 attn2:0.5"),
    ("OUT05:attn1;ff:0.5", "OUT05:attn1 ff:0.5"),
    ("OUT05:attn2*:0.5", "OUT05:attn2:0.5"),
    ("OUT05:*.attn2.*:0.5", "OUT05:.attn2.:0.5"),
    ("OUT05:1.transformer_blocks.*.attn1.to_k:0.5", "OUT05:attn1.to_k:0.5"),
    ("OUT05:%attn2%:0.5", "OUT05:attn2:0.5"),
    ("OUT05:'attn2':0.5", "OUT05:attn2:0.5"),
    ("OUT05:[attn2]:0.5", "OUT05:attn2:0.5"),
    ("ff.net:0.8", ":ff.net:0.8"),
    ("attn2::0.8", ":attn2:0.8"),
    ("attn2:OUT05:0.8", "OUT05:attn2:0.8"),
    ("OUT05 attn2:0.8", "OUT05:attn2:0.8"),
    ("OUT05 attn2 0.8", "OUT05:attn2:0.8"),
    ("OUT05=0.8", "OUT05::0.8"),
    ("OUT05:attn2=0.8", "OUT05:attn2:0.8"),
    ("NOT IN03:0.8", "NOT IN03::0.8"),
    ("model.diffusion_model.output_blocks.5.1:0.5", ":model.diffusion_model.output_blocks.5.1:0.5"),
    ("input_blocks.4.1.norm::0.5", ":model.diffusion_model.input_blocks.4.1.norm:0.5"),
    ("middle_block:attn2:0.5", "M00:attn2:0.5"),
    ("time_embed::0.5", "IN00:time_embed:0.5"),
    ("first_stage_model.decoder:0.5", ":first_stage_model.decoder:0.5"),
    ("\u041eUT05:attn2:0.5", "OUT05:attn2:0.5"),
    # read, but in no checkpoint of this kind
    ("OUT05:Attn2.To_K:0.5", "OUT05:attn2.to_k:0.5"),
    (":input_blocks.4.1.norm:0.5", ":model.diffusion_model.input_blocks.4.1.norm:0.5"),
    ("IN04:input_blocks.4.0:0.5", ":model.diffusion_model.input_blocks.4.0.:0.5"),
    (":diffusion_model.middle_block.1.proj_in:0.5", "M00:1.proj_in:0.5"),
    ("OUT05:\u0430ttn2:0.5", "OUT05:attn2:0.5"),
    ("OUT05:atn:0.5", "OUT05:attn:0.5"),
    ("OUT05:projin:0.5", "OUT05:proj_in:0.5"),
]


def selections(said: str, written: str) -> list[int]:
    """Give the tensors of each rule that a message suggests, whole, or a side of one in the place of the wrong one."""
    blocks, _, rest = written.partition(":")
    elements, _, ratio = rest.partition(":")
    found = []
    for text in suggested(said):
        places = (text, f"{text}:{ratio}", f"{text}:{elements}:{ratio}", f"{blocks}:{text}:{ratio}")
        for whole in places if ratio else (text,):
            try:
                (rule,) = parse_rules(whole).rules
            except (SpecError, ValueError):
                continue
            found.append(matcher("sd1").matching(rule))
            break
    return found


@pytest.mark.parametrize(("written", "meant"), WRONG)
def test_what_is_suggested_selects_what_was_meant(written: str, meant: str) -> None:
    said = message(written)
    assert said, "nothing is said"
    (rule,) = parse_rules(meant).rules
    wanted = matcher("sd1").matching(rule)
    assert wanted
    plain = re.sub(r' \(SDXL: "[^"]*"\)', "", said)
    if "write ALL" in plain:
        assert meant.replace(":", "").strip().startswith(("0.5", "OUT050.5"))
        return
    assert suggested(plain), said
    selected = selections(plain, written)
    assert selected or suggested(plain) == ["NOT"], said
    assert set(selected) <= {wanted}, said


@pytest.mark.parametrize(
    ("written", "listed"),
    [
        ("OUT12:attn2:0.5", "OUT00-OUT11"),
        ("IN12::0.5", "IN00-IN11"),
        ("M01::0.5", "M00"),
        ("TE2::0.5", "TE and VAE"),
        ("OUT99::0.5", "OUT00-OUT11"),
        ("down_blocks.1.attentions.0::0.5", "elemental inspect"),
        (":down_blocks.1.attentions.0.transformer_blocks.0.attn2:0.5", "elemental inspect"),
        ("OUT05:attn3:0.5", "there are attn1, attn2"),
        ("OUT05:norm7:0.5", "there are norm1, norm2, norm3"),
        ("OUT05:to_x:0.5", '"to_q", "to_k" or "to_v"'),
        ("OUT05:ff.net.7:0.5", "there are ff.net.0, ff.net.2"),
        ("OUT05:transformer_blocks.3:0.5", "there are transformer_blocks.0"),
        ("OUT05:ALL ff:0.5", "ALL stands alone"),
        ("OUT05:NOT all:0.5", "ALL stands alone"),
    ],
)
def test_nothing_is_suggested_where_it_is_not_certain(written: str, listed: str) -> None:
    try:
        said = message(written)
        parse_rules(written)
    except SpecError as exc:
        said = str(exc)
    assert listed in said
    if "to_x" not in written:
        assert "did you mean" not in said


def supermergers_name(key: str) -> str:
    """Give supermerger's extended name of an SDXL key, by its own description: side, block, layer, transformer."""
    found = re.match(
        r"model\.diffusion_model\.(input|middle|output)_block(?:s\.(\d))?\.(\d)\.(?:transformer_blocks\.(\d))?", key
    )
    if found is None:
        return ""
    side, number, layer, transformer = found.groups(default="")
    return f"MID{layer}0{transformer}" if side == "middle" else f"{side[:-3].upper()}{number}{layer}{transformer}"


def test_every_extended_name_of_supermerger_is_translated_into_what_it_selects() -> None:
    by_name: dict[str, int] = {}
    for index, tensor in enumerate(matcher("sdxl").names):
        by_name[supermergers_name(tensor.key)] = by_name.get(supermergers_name(tensor.key), 0) | 1 << index
    seen = 0
    for name in map("".join, product(("IN", "OUT", "MID"), "0123456789", "012", ["", *"0123456789"])):
        translated = extended_name(name)
        if translated:
            (rule,) = parse_rules(f"{translated}:1").rules
            selected = matcher("sdxl").matching(rule)
            assert selected in (0, by_name.get(name, 0)), name
            seen += bool(selected)
        else:
            assert name not in by_name, name
    assert seen == len([name for name in by_name if name]) > 90
    said = message("IN10::0.5", "sdxl")  # a block of SD 1.x, and a name of supermerger's
    assert "SDXL has BASE, IN00-IN08" in said
    assert '":model.diffusion_model.input_blocks.1.0."' in said


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("OUT05:ALL:0.2", "OUT05::0.2"),
        ("all:attn2:0.2", ":attn2:0.2"),
        ("ALL:ALL:0.2", "::0.2"),
        ("NOT OUT05:all:0.2", "NOT OUT05::0.2"),
        (
            "\uff2f\uff35\uff34\uff10\uff15\uff1a\uff41\uff54\uff54\uff4e\uff12\uff1a\uff10\uff0e\uff15",
            "OUT05:attn2:0.5",
        ),
        ("IN00\u2013IN03\uff1aattn2\uff1a\u22120.5\uff0cIN04::1", "IN00-IN03:attn2:-0.5\nIN04::1"),
        ("\ufeffOUT05:\u200battn2:0.5\u3001IN00::1", "OUT05:attn2:0.5\nIN00::1"),
        ("OUT05:attn2:0.5\uff03 \u6ce8\u91c8\uff1a\uff0c", "OUT05:attn2:0.5"),
        ("OUT05\u2236attn2\u22360\u30025", "OUT05:attn2:0.5"),
    ],
)
def test_what_has_one_meaning_is_read(written: str, canonical: str) -> None:
    assert "\n".join(map(str, parse_rules(written).rules)) == canonical


@pytest.mark.parametrize("rules", ["OUT05:ALL:0.2", "OUT05:NOT ALL:0.2", ":attn*:0.2", ":!attn:1", ":\uff41ttn:1"])
def test_what_0_1_0_recorded_keeps_its_meaning(rules: str) -> None:
    """There ALL, and characters that no name has, were parts like others."""
    models = {"a": {"path": "a"}, "b": {"path": "b"}}
    recipe = recipe_from_dict({"version": 1, "mode": "weight-sum", "alpha": 0, "rules": rules, "models": models})
    (rule,) = recipe.rules.rules
    assert str(rule) == rules
    assert recipe_from_dict(recipe.to_dict()) == recipe
    names = matcher("sd1").names
    part = rule.elements.parts[0]
    assert [rule.matches(name) for name in names] == [
        (name.block == "OUT05" or not rules.startswith("OUT05")) and (part in name.element) != rule.elements.inverted
        for name in names
    ]
    (value,) = axis_from_dict("x", {"type": "elemental", "groups": [[rules]]}, CONTEXT).values
    assert value.meaning == (rule,)
    left = rules.rpartition(":")[0]
    if "ALL" not in left:
        check = {"recipe": BASE.recipe.to_dict(), "request": BASE.request.to_dict(), "elements": [[left]], "ratio": 1}
        assert [str(target) for target in check_from_dict(check).targets] == [left]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("OUT05;OUT06", "targets are separated by commas"),
        ("OUT05:attn, ff", '"OUT05:ff"'),
        ("OUT05:attn*", '"attn" is enough'),
        ("IN*:attn2", '"IN00-IN11"'),
        ("OUT05:NOT ALL", "ALL stands alone"),
        ("!OUT05", '"NOT OUT05"'),
    ],
)
def test_targets_have_hints_too(text: str, words: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_targets(text)
    assert words in str(caught.value).splitlines()[0]


@pytest.mark.parametrize(
    ("text", "targets", "skipped"),
    [
        ("ALL:attn2", 16, "BASE, IN00, IN03, IN06, IN09, IN10, IN11, OUT00, OUT01, OUT02"),
        ("ALL:skip_connection", 14, "BASE, IN00, IN01"),
        ("all:label_emb time_embed", 1, "BASE, IN01"),
        ("ALL:first_stage_model.", 1, "IN00"),
        ("ALL:NOT weight bias", 1, "IN00, IN01"),
        ("ALL", 26, ""),
        ("OUT05:attn2", 1, ""),
    ],
)
def test_all_leaves_out_blocks_without_such_elements(text: str, targets: int, skipped: str) -> None:
    check = parse_check(BASE, text, 1, CONTEXT)
    assert len(check.targets) == targets
    assert bool(check.remarks) == bool(skipped)
    if skipped:
        assert f"leaves out blocks without such elements: {skipped}" in check.remarks[0]
    axis = parse_axis("y", "pinpoint-element", text, CONTEXT)
    assert len(axis.values) == targets
    assert axis.remarks == check.remarks
    assert check_from_dict(check.to_dict()) == check


def test_all_with_elements_that_are_nowhere() -> None:
    with pytest.raises(RecipeError, match='no block has elements with "attn3"'):
        parse_check(BASE, "ALL:attn3", 1, CONTEXT)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("OUT05:ALL:0.2", "1 rule sets 40 of 686 U-Net elements"),
        ("IN*:attn2:0.5", "IN00-IN11"),
        ("OUT03, OUT04:attn2:0.5", "OUT03 OUT04:attn2:0.5"),
        ("OUT05:ATTN2:0.5", "did you mean &quot;attn2&quot;"),
        ("OUT05\uff1aattn2\uff1a0.5", "1 rule sets 5 of 686"),
    ],
)
def test_the_tab_reads_and_names_the_same(models: dict[str, Path], spec: str, words: str) -> None:
    refs = [CheckpointRef(name, path) for name, path in models.items()]
    assert words in Previewer(lambda: refs).look(MergeForm("a", "b", alpha=0, spec=spec)).report


def test_the_commands_read_and_name_the_same(models: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    ab = [str(models["a"]), str(models["b"]), "--alpha", "0"]
    assert cli.main(["plan", *ab, "--elemental", "OUT05:ALL:0.2"]) == cli.DONE
    assert "40 of 1131 tensors change" in capsys.readouterr().out
    for spec, _ in WRONG[:8]:
        assert cli.main(["plan", *ab, f"--elemental={spec}"]) == cli.WRONG_USAGE
        assert message(spec) in capsys.readouterr().err


def test_the_tabs_plots_and_checks_say_what_is_left_out(models: dict[str, Path], fake: FakeHost) -> None:
    fake._models = models["a"].parent
    session = session_of(fake)
    form = MergeForm("a.safetensors", "b.safetensors", alpha=0)
    run, estimate = plan_check(session, form, CheckForm("ALL:attn2"), ImageRequest("x"))
    assert len(run.check.targets) == 16
    assert "leaves out blocks without such elements: BASE, IN00" in describe_estimate(estimate)
    plot, estimate = plan_plot(session, form, PlotForm("alpha", "0-1 [3]"), ImageRequest("x"))
    assert [value.meaning for value in plot.plot.x.values] == [0, 0.5, 1]
    assert estimate.cells == 3
