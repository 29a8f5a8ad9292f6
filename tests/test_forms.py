"""Presets, block weights and ranges in the forms in which they go round: read, or named with what is to be written."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from elemental import model_source
from elemental.architectures.blocks import SD1, SDXL
from elemental.cli import main as cli
from elemental.errors import ElementalError, RecipeError
from elemental.hosts.base import CheckpointRef
from elemental.recipe.block_weights import parse_block_weights
from elemental.recipe.presets import BUILT_IN_PRESETS, choose_block_weights, read_presets
from elemental.runs.axes.catalogue import AXES
from elemental.runs.axes.ranges import expand_range
from elemental.runs.axes.values import axis_from_dict, parse_axis
from elemental.session.form import MergeForm
from elemental.session.merge_preview import Previewer
from elemental.workflows import CONFIG_VARIABLE

from .conftest import LAYOUTS, random_state, save
from .test_axes import CONTEXT

Plan = Callable[..., tuple[int, str, str]]

NUMBERS = ",".join(["0.3"] * 26)
OTHERS = ",".join(["0.4"] * 26)
HEADING = "preset_name\tpreset_weights"


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("sdxl")
    return [str(save(folder / f"{n}.safetensors", random_state(LAYOUTS["sdxl"], s))) for s, n in enumerate("ab", 1)]


@pytest.fixture
def plan(models: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> Plan:
    """Give ``elemental plan`` on two SD 1.x models, or on those that are given: exit code, output, messages."""

    def run(*options: object, of: list[str] | None = None) -> tuple[int, str, str]:
        try:
            code = cli.main(["plan", *(of or [str(models["a"]), str(models["b"])]), *map(str, options)])
        except SystemExit as exc:
            code = int(exc.code or 0)
        seen = capsys.readouterr()
        return code, seen.out, seen.err

    return run


def own_presets(content: str | bytes) -> None:
    folder = Path(os.environ[CONFIG_VARIABLE])
    folder.mkdir(exist_ok=True)
    (folder / "presets.txt").write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.mark.parametrize(
    "content",
    [
        f"{HEADING}\r\nMINE :\t{NUMBERS}\r\n",
        "MINE\t" + "0.3\t" * 26,
        f"MINE\uff1a{NUMBERS}".encode(),
        f"{HEADING}\nMINE\t{NUMBERS}\n".encode("utf-16"),
        f"\ufeff{HEADING}\nMINE\t{NUMBERS}\n",
        f"夏の朝\t{NUMBERS}\nMINE\t{NUMBERS}\n".encode("cp932"),
        f"ALLR\t{','.join('R' * 26)}\nMINE\t[{NUMBERS},]\n",
        f"MINE\t{NUMBERS}\nMINE\t{NUMBERS}\n",
        f"MINE = {NUMBERS} # one's own",
        f'"MINE"\t"{NUMBERS}"',
        f"NONE: {','.join('0' * 17)}\n: {NUMBERS}\nMINE: {NUMBERS}",
    ],
)
def test_preset_files_of_other_tools(plan: Plan, content: str | bytes) -> None:
    own_presets(content)
    code, out, error = plan("--blocks", "mine")
    assert code == cli.DONE, error
    assert "alpha: by block: 0.3,0.3" in out
    assert plan("--blocks", NUMBERS)[::2] == (cli.DONE, "")


@pytest.mark.parametrize(
    ("content", "name", "words"),
    [
        (f"MINE\t{NUMBERS}\nMINE\t{OTHERS}\n", "MINE", "line 2: MINE is given in line 1 with other numbers"),
        (f"ALLR\t{','.join('R' * 26)}\n", "ALLR", "R, U and X are supermerger's random ratios"),
        ("LORA: " + ",".join("1" * 17), "lora", "line 1: There are 17 block weights"),
        (f"OLD {NUMBERS}", "old", "line 1: A preset is written NAME: numbers"),
        (f"PERCENT: {','.join(['30%'] * 26)}", "percent", "30% is written 0.3"),
        (f"SEMI: {NUMBERS.replace(',', ';')}", "semi", 'not by ";"'),
        ("GRAD_V: 1,2", "GRAD_V", "presets.txt, line 1"),  # not the one that came with the program
    ],
)
def test_a_wrong_line_is_an_error_for_its_name_and_a_warning_beside_others(
    plan: Plan, content: str, name: str, words: str
) -> None:
    own_presets(content)
    code, _, error = plan("--blocks", name)
    assert code == cli.WRONG_USAGE
    assert words in error
    code, _, error = plan("--blocks", "GRAD_A")
    assert (code, error.startswith("warning: This preset is left out: ")) == (cli.DONE, True)
    assert plan("--blocks", NUMBERS)[::2] == (cli.DONE, "")


@pytest.mark.parametrize("line", ["A" + ":" * 100_000, "A" + "\t:" * 50_000, "A" + " " * 100_000 + "x"])
def test_a_long_line_of_separators_is_read_in_time(tmp_path: Path, line: str) -> None:
    path = tmp_path / "presets.txt"
    path.write_text(f"{line}\nMINE: {NUMBERS}")
    start = time.perf_counter()
    presets = read_presets(path)
    assert time.perf_counter() - start < 2
    assert (list(presets), list(presets.mistakes)) == (["MINE"], ["A"])


def test_a_file_too_large_for_presets_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "presets.txt"
    with path.open("wb") as file:
        file.truncate(11_000_000)
    with pytest.raises(RecipeError, match="too large"):
        read_presets(path)


def test_all_names_that_tools_share_have_the_published_numbers() -> None:
    presets = read_presets(BUILT_IN_PRESETS)
    sd1 = {name for name, lines in presets.items() if any(len(weights.unet) == 25 for weights in lines)}
    assert len(sd1) == 38
    assert not presets.mistakes
    steps = [n / 24 for n in range(25)]
    for name, count in (("SMOOTHSTEP*3", 3), ("SMOOTHSTEP*2", 2), ("SMOOTHSTEP*4", 4)):  # a smooth step, repeated
        ramp = [count * (3 * x**2 - 2 * x**3) for x in steps]
        folded = [1 - abs((value % 2) - 1) for value in ramp]
        assert choose_block_weights(name, presets, SD1).unet == pytest.approx(folded, abs=1e-9)
        reverse = choose_block_weights(f"R_{name}", presets, SD1).unet
        assert reverse == pytest.approx([1 - value for value in folded], abs=1e-9)
    assert choose_block_weights("ring08_soft", presets, SD1).unet[5:10] == (0.5, 1, 1, 1, 0.5)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("SMOOTHSTEPx3", "SMOOTHSTEP*3"),
        ("REVERSE_SMOOTHSTEP", "REVERSE-SMOOTHSTEP"),
        ("R_SMOOTHSTEP", "REVERSE-SMOOTHSTEP"),
        ("WRAP8", "WRAP08"),
        ("gradv", "GRAD_V"),
        ("RING10_4", ""),
        ("FLAT_50", ""),
        ("OUT13", ""),
        ("SMOOTHSTEP*5", ""),
    ],
)
def test_a_preset_is_suggested_only_if_no_other_can_be_meant(name: str, meant: str) -> None:
    with pytest.raises(RecipeError) as caught:
        choose_block_weights(name, read_presets(BUILT_IN_PRESETS), SD1)
    first = str(caught.value).splitlines()[0]
    assert first.endswith(f'; did you mean "{meant}"?' if meant else f'"{name}"')


@pytest.mark.parametrize(
    "text",
    [
        f"({NUMBERS})",
        f"[[{NUMBERS}]],",
        ", ".join(["'0.3'"] * 26),
        f"\u201c{NUMBERS}\u201d",
        f"\ufeff{NUMBERS}\u200b",
        NUMBERS.replace(",", "\u3001"),
        "\uff10\uff0e\uff13 " * 26,
        NUMBERS.replace(",", ",\n") + ",\n",
        f"MINE\t{NUMBERS}",
        f"MINE: [{NUMBERS}]",
        f"`{NUMBERS}`",
    ],
)
def test_block_weights_as_copied(plan: Plan, models: dict[str, Path], text: str) -> None:
    code, out, error = plan("--blocks", text)
    assert (code, error) == (cli.DONE, "")
    assert f"alpha: by block: {NUMBERS}\n" in out
    if not text.startswith("MINE"):  # the tab's field holds numbers alone
        refs = [CheckpointRef(name, path) for name, path in models.items()]
        assert "differ from A" in Previewer(lambda: refs).look(MergeForm("a", "b", blocks=text)).report


def test_a_minus_sign_is_a_minus_in_weights_and_in_specs(plan: Plan) -> None:
    minus = NUMBERS.replace("0.3", "\u22120.3")
    assert "by block: -0.3,-0.3" in plan("--blocks", minus)[1]
    assert "rule 1: IN03-IN05:attn2:-0.3" in plan("--elemental", "IN03\u2013IN05\uff1aattn2\uff1a\u22120.3")[1]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (NUMBERS.replace(",", ";"), 'not by ";"'),
        (NUMBERS.replace("0.3", "30%"), "30% is written 0.3"),
        (NUMBERS.replace("0.3", "3/10"), "3/10 is written 0.3"),
        (NUMBERS.replace("0.3", "0_3"), "write 0.3"),
        (",".join("R" * 26), "supermerger's random ratios"),
        (NUMBERS + ",,", "nothing between two commas"),
        ("0.3,0.3", "There are 2 block weights"),
        (",".join(["0.3"] * 20), r"for SDXL, but these checkpoints are SD 1.x"),
    ],
)
def test_block_weights_that_are_named(plan: Plan, text: str, words: str) -> None:
    code, _, error = plan("--blocks", text)
    assert code == cli.WRONG_USAGE
    assert words in error


LEFT_OUT = "IN09-IN11 and OUT09-OUT11 are left out"


@pytest.mark.parametrize(
    "options",
    [
        ["--blocks", "OUT07"],
        ["--blocks", "smoothstep*2"],
        ["--blocks", "MINE"],
        ["--blocks", f"[{NUMBERS}]"],
        ["--recipe"],
    ],
)
def test_26_weights_on_sdxl(plan: Plan, sdxl: list[str], tmp_path: Path, options: list[str]) -> None:
    own_presets(f"MINE\t{NUMBERS}")
    if options == ["--recipe"]:
        models = {role: {"path": path} for role, path in zip("ab", sdxl, strict=True)}
        recipe = {"version": 1, "mode": "weight-sum", "alpha": 0.5, "block_alpha": NUMBERS, "models": models}
        (tmp_path / "r.json").write_text(json.dumps(recipe))
        options = ["--recipe", str(tmp_path / "r.json")]
    code, _, error = plan(*options, of=sdxl)
    assert code == cli.DONE
    assert LEFT_OUT in error
    assert error.count("warning") == 1
    assert plan(*options, "--strict", of=sdxl)[0] == cli.WRONG_USAGE


def test_weights_on_sdxl_are_those_of_the_blocks_that_it_has(sdxl: list[str], plan: Plan) -> None:
    numbers = [n / 100 for n in range(26)]
    code, out, _ = plan("--blocks", ",".join(map(str, numbers)), "--json", of=sdxl)
    assert code == cli.DONE
    by_block = {tensor["block"]: tensor["alpha"] for tensor in json.loads(out)["tensors"]}
    wanted = dict(zip(SD1.blocks, numbers, strict=True))
    assert by_block == {block: wanted[block] for block in SDXL.blocks}
    assert plan("--blocks", "GRAD_V", of=sdxl)[2] == ""  # has a line of its own
    refs = [CheckpointRef(name, Path(path)) for name, path in zip("ab", sdxl, strict=True)]
    assert LEFT_OUT in Previewer(lambda: refs).look(MergeForm("a", "b", blocks=NUMBERS)).report


@pytest.mark.parametrize(
    ("axis", "text", "wanted"),
    [
        ("alpha", "0.1-0.5(+0.1)", [0.1, 0.2, 0.3, 0.4, 0.5]),
        ("alpha", "1-0(-0.25)", [1, 0.75, 0.5, 0.25, 0]),
        ("alpha", "-1 - 1 (+ 0.5)", [-1, -0.5, 0, 0.5, 1]),
        ("alpha", "-1--0.5(0.25)", [-1, -0.75, -0.5]),
        ("alpha", "0-1(+0.3)", [0, 0.3, 0.6, 0.9]),
        ("alpha", "0-0.002(+0.0005)", [0, 0.0005, 0.001, 0.0015, 0.002]),
        ("beta", ".2-.8 [4], 1", [0.2, 0.4, 0.6, 0.8, 1]),
        ("alpha", "0\u20131\uff08\uff0b0.5\uff09", [0, 0.5, 1]),
        ("cfg", "3-9(+3)", [3, 6, 9]),
        ("cfg", "5-5", [5]),
        ("seed", "7, 10-13", [7, 10, 11, 12, 13]),
        ("seed", "4-1(-1)", [4, 3, 2, 1]),
        ("steps", "10-30 [3]", [10, 20, 30]),
        ("steps", "10-11 [3]", [10, 10, 11]),  # cut to whole numbers, as the WebUI does
    ],
)
def test_ranges_of_the_webui(axis: str, text: str, wanted: list[float]) -> None:
    values = parse_axis("x", axis, text, CONTEXT)
    assert [value.meaning for value in values.values] == wanted
    again = axis_from_dict("x", values.to_dict(), CONTEXT)
    assert again == values
    assert again.values[0].label == f"{axis} {re.sub(r'[.]0$', '', str(wanted[0]))}"


@pytest.mark.parametrize(
    ("axis", "text", "words"),
    [
        ("alpha", "0-1(-0.25)", r"0-1\(\+0\.25\)"),
        ("alpha", "1-0", r"1-0\(-1\)"),
        ("alpha", "0-1(+0)", "never reaches its end"),
        ("alpha", "0-0.5", r"0-0\.5\(\+0\.1\)"),
        ("alpha", "0-1[0]", "no values"),
        ("alpha", "50%", r"50% is written 0\.5"),
        ("alpha", "0_5", r"write 0\.5"),
        ("steps", "20-30(+2.5)", '"22.5" is no whole number'),
        ("seed", "1-4000000000", "4,000,000,000 values"),
        ("seed", "1.5", "no whole number"),
        ("cfg", "abc", "no finite number"),
        ("alpha-beta", "0.5", "no pair"),
        ("mbw-alpha", "GRAD_X", "no block weight preset"),
        ("mode", "sum", "no mode"),
        ("sampler", "Eular", "no sampler"),
        ("pinpoint-blocks", "IN*", "IN00-IN11"),
        ("pinpoint-element", "ALL:attn3", 'No block has elements with "attn3"'),
        ("elemental", "OUT12::1", "unknown block"),
        ("alpha", ",", "hold nothing"),
    ],
)
def test_a_wrong_value_is_wrong_usage_on_every_axis(axis: str, text: str, words: str) -> None:
    with pytest.raises(ElementalError, match=words) as caught:
        parse_axis("x", axis, text, CONTEXT)
    code = cli._explain(caught.value, [])[1]
    assert code == cli.WRONG_USAGE


def test_supermergers_names_of_modes() -> None:
    axis = parse_axis("x", "mode", "Weight sum, Add difference, sum Twice", CONTEXT)
    assert [value.text for value in axis.values] == ["weight-sum", "add-difference", "sum-twice"]


@pytest.mark.parametrize("name", ["alpha", "beta", "cfg", "seed", "steps"])
def test_help_names_ranges(name: str) -> None:
    assert "range" in AXES[name].form


def test_no_range_is_read_into_a_number() -> None:
    for text in ("1e-1", "-1", "0.5", "-0.5", "1e-1-2", "1-2-3", "1-", "x-1"):
        assert expand_range(text, whole=False) is None


@pytest.mark.parametrize("ratio", ["0.0005", "0.00012345678", "1e-05", "0.1234567"])
def test_small_and_long_ratios_are_not_rounded(plan: Plan, models: dict[str, Path], ratio: str) -> None:
    assert f"alpha: {ratio}\n" in plan("--alpha", ratio)[1]
    assert parse_axis("x", "alpha", ratio, CONTEXT).values[0].label == f"alpha {ratio}"
    from elemental import MergeRecipe
    from elemental.merge.files.metadata import name_recipe

    recipe = MergeRecipe(model_source(models["a"]), model_source(models["b"]), alpha=float(ratio))
    assert f"alpha {ratio}" in name_recipe(recipe)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--alpha", "0_5"], "if a decimal point was meant, write 0.5"),
        (["--beta", "50%"], "50% is written 0.5"),
        (["--alpha", "0,5"], "write 0.5"),
        (["--alpha", "nan"], "finite"),
        (["--alpha", "half"], '"half" is not a number'),
        (["--alpha", "1/2"], "1/2 is written 0.5"),
        (["--alpha", f"{'9' * 400}/1"], "is not a number"),
        (["--alpha", f"{'9' * 5000}/1"], "is not a number"),
        (["--alpha", f"{'9' * 100_000}/1"], "is not a number"),
        (["--alpha", f"{'9' * 400}%"], "is not a number"),
        (["--blocks", f"{'9' * 5000}/1,1"], "is not a finite number"),
    ],
)
def test_numbers_of_options_are_read_as_those_of_specs(plan: Plan, options: list[str], words: str) -> None:
    code, _, error = plan(*options)
    assert code == cli.WRONG_USAGE
    assert words in " ".join(error.split())


def test_full_width_numbers_and_capitals_of_options(plan: Plan) -> None:
    code, out, error = plan("--alpha", "\uff10.\uff15", "--vae", "A", "--blocks", "NONE")
    assert (code, error) == (cli.DONE, "")
    assert "alpha: 0.5\n" in out
    assert "248 tensors: VAE taken from model A." in out


def test_a_file_given_as_text_is_named(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine").write_text("OUT05::1")
    for name in ("mine", "rules.txt"):
        code, _, error = plan("--elemental", name)
        assert code == cli.WRONG_USAGE
        assert f"--elemental-file {name}" in error
    code, _, error = plan("--blocks", "weights.txt")
    assert code == cli.WRONG_USAGE
    assert "presets.txt" in error
    assert replace(MergeForm(), blocks="weights.txt") != MergeForm()


def test_weights_that_are_written_are_read_back() -> None:
    weights = parse_block_weights(",".join(str(n / 7) for n in range(26)))
    assert choose_block_weights(",".join(map(repr, (weights.base or 0.0, *weights.unet))), {}, SD1) == weights
