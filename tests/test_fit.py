"""Models that do not fit together: other layers, parts without partners, markers, EMA weights, one file given twice."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from elemental import read_recipe
from elemental.architectures.keys import shown_key
from elemental.cli.main import DONE, FAILED, WRONG_USAGE, main
from elemental.merge.plan import NOTHING_CHANGES, NOTHING_MERGED

from .conftest import save
from .merging import EMA, State, assert_merged, ema_of, only, same_bits, save_all, some_elements, u_net, whole

UNET = "model.diffusion_model."
Capture = pytest.CaptureFixture[str]


def without(state: State, pattern: str) -> State:
    return {key: tensor for key, tensor in state.items() if not re.search(pattern, key)}


def deeper(state: State) -> State:
    """Give each transformer another block."""
    more = {re.sub(r"transformer_blocks\.0\.", "transformer_blocks.10.", key): t for key, t in state.items()}
    return {**more, **state}


UNFIT: dict[str, tuple[str, Callable[[State], State], str]] = {
    "Segmind Vega": (
        "sdxl",
        lambda state: without(state, r"transformer_blocks\.[2-9]\.|middle_block\.[12]\."),
        "input_blocks.7.1 has 10 transformer blocks in A, 2 in B",
    ),
    "blocks of one layer": (
        "sdxl",
        lambda state: without(state, r"(input_blocks\.[257]|output_blocks\.[147])\."),
        "U-Net tensors of A have no partner in B",
    ),
    "no attention in the middle": ("sd1", lambda state: without(state, r"middle_block\.1\."), "middle_block.1 has 1"),
    "more transformers": ("sdxl", deeper, "U-Net tensors of B have no partner in A"),
    "one transformer more": (
        "sd2",
        lambda state: {**state, UNET + "input_blocks.1.1.transformer_blocks.1.norm1.weight": torch.zeros(8).half()},
        "1 of 687 U-Net tensors of B have no partner in A (input_blocks.1.1 has 1 transformer blocks in A, 2 in B)",
    ),
    "a tenth of the layers under other names": (
        "sd1",
        lambda state: {key.replace("norm2", "norm_2").replace("norm3", "norm_3"): t for key, t in state.items()},
        "64 of 686 U-Net tensors of A have no partner in B",
    ),
}


@pytest.fixture(scope="module")
def unfit(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[str, str]]:
    """Give a whole model and one that does not fit it."""

    def make(kind: str) -> tuple[str, str]:
        layout, change, _ = UNFIT[kind]
        parts = ("model.", "cond_stage_model.", "conditioner.")
        states = [only(whole(1, layout=layout), *parts), change(only(whole(2, layout=layout), *parts))]
        states[1] = {key: tensor.clone() for key, tensor in states[1].items()}
        a, b = save_all(tmp_path_factory.mktemp("unfit"), states)
        return str(a), str(b)

    return make


@pytest.mark.parametrize("kind", UNFIT)
def test_other_layers_are_refused_with_their_share(
    tmp_path: Path, kind: str, unfit: Callable[[str], tuple[str, str]], capsys: Capture
) -> None:
    a, b = unfit(kind)
    out = str(tmp_path / "out.safetensors")
    assert main(["merge", a, b, "-o", out]) == FAILED
    error = capsys.readouterr().err
    assert "Models A and B do not fit together" in error
    assert UNFIT[kind][2] in error
    assert "--force merges what has a partner" in error
    assert main(["merge", b, a, "-o", out]) == FAILED
    assert not Path(out).exists()


def test_what_is_taken_from_elsewhere_needs_no_fitting_unet(
    unfit: Callable[[str], tuple[str, str]], capsys: Capture
) -> None:
    a, b = unfit("Segmind Vega")
    assert main(["plan", a, b, "--alpha", "0", "--elemental", "TE::0.5"]) == DONE
    assert capsys.readouterr().err == ""
    assert main(["plan", a, b, "--alpha", "0", "--elemental", "IN02:0.emb:0.5"]) == FAILED


def test_force_merges_what_has_a_partner_and_is_in_the_recipe(
    tmp_path: Path, unfit: Callable[[str], tuple[str, str]], capsys: Capture
) -> None:
    a, b = unfit("no attention in the middle")
    out, again = tmp_path / "out.safetensors", tmp_path / "again.safetensors"
    assert main(["merge", a, b, "-o", str(out), "--force", "--alpha", "0.3"]) == DONE
    assert "A and B do not fit together: 26 of 686 U-Net" in capsys.readouterr().err
    assert_merged(load_file(out), [load_file(a), load_file(b)])
    assert read_recipe(out).force
    assert main(["merge", "--recipe", str(out), "-o", str(again)]) == DONE
    assert again.read_bytes() == out.read_bytes()


XL_L, XL_G = "conditioner.embedders.0.", "conditioner.embedders.1."
SHARES: dict[str, tuple[str, Callable[[State], State], str]] = {
    "CLIP-G under other names": (
        "sdxl",
        lambda state: {key.replace("transformer.resblocks", "blocks"): t for key, t in state.items()},
        r"384 of 389 tensors of CLIP-G have no partner in model B; they stay A's\.",
    ),
    "half of CLIP-L": (
        "sdxl",
        lambda state: without(state, r"embedders\.0\..*layers\.([6-9]|1[01])\."),
        r"96 of 196 tensors of CLIP-L have no partner in model B; they stay A's\.",
    ),
    "all of CLIP-L under other names": (
        "sdxl",
        lambda state: {key.replace("text_model.", "txt.") if XL_L in key else key: t for key, t in state.items()},
        r"The text encoder CLIP-L of B has other names for its tensors than A's; none of it is merged\.",
    ),
    "the last layer, which conversions of SD 2.x lack": (
        "sd2",
        lambda state: without(state, r"resblocks\.23\."),
        r"12 of 292 tensors of the text encoder have no partner in model B; they stay A's\.",
    ),
    "one bias": (
        "sd1",
        lambda state: without(state, r"output_blocks\.11\.0\.in_layers\.2\.bias"),
        rf"1 of 686 tensors of the U-Net has no partner in model B; it stays A's: {re.escape(UNET)}output_blocks\.11",
    ),
    "the attention of a VAE under other names": (
        "sd1",
        lambda state: {key.replace("mid.attn_1.q.", "mid.attn_1.to_q."): t for key, t in state.items()},
        r"4 of 248 tensors of the VAE have no partner in model B; they stay A's\.",
    ),
    "integers": (
        "sd1",
        lambda state: {key: t.long() if key.endswith("proj_out.bias") else t for key, t in state.items()},
        r"16 tensors of the U-Net, such as .*\.proj_out\.bias, are not of floats in model B, and not merged\.",
    ),
}


@pytest.mark.parametrize("kind", SHARES)
def test_parts_without_partners_are_told_of_by_share(tmp_path: Path, kind: str, capsys: Capture) -> None:
    layout, change, words = SHARES[kind]
    changed = {key: tensor.clone() for key, tensor in change(whole(2, layout=layout)).items()}
    a, b = map(str, save_all(tmp_path, [whole(1, layout=layout), changed]))
    assert main(["plan", a, b, "--alpha", "0.3"]) == DONE
    assert re.search(words, capsys.readouterr().err)
    assert main(["plan", a, b, "--alpha", "0", "--elemental", "OUT03:0.in_layers:0.5"]) == DONE
    assert "partner" not in capsys.readouterr().err


def test_what_a_lacks_is_told_of_by_share_too(tmp_path: Path, capsys: Capture) -> None:
    own, theirs = whole(1, layout="sdxl"), whole(2, layout="sdxl")
    lacking = without(own, r"embedders\.0\..*layers\.11\.")
    a, b = map(str, save_all(tmp_path, [lacking, theirs]))
    assert main(["plan", a, b]) == DONE
    assert "16 of 196 tensors of CLIP-L of model B have no partner in A; they are left out." in capsys.readouterr().err
    pruned = only(theirs, "model.")
    assert main(["plan", a, str(save(tmp_path / "pruned.safetensors", pruned))]) == DONE
    assert capsys.readouterr().err == ""


def test_tensors_that_no_image_depends_on_are_not_worth_a_warning(tmp_path: Path, capsys: Capture) -> None:
    changed = without(whole(2, layout="sd2"), r"logit_scale|text_projection")
    a, b = map(str, save_all(tmp_path, [whole(1, layout="sd2"), changed]))
    assert main(["plan", a, b]) == main(["plan", b, a]) == DONE
    assert capsys.readouterr().err == ""


MARKED = {
    "v-prediction": ["v_pred"],
    "zero-terminal-SNR": ["ztsnr"],
    "EDM v-prediction": ["edm_vpred.sigma_max", "edm_vpred.sigma_min"],
    "EDM with latents of another mean": ["edm_mean", "edm_std"],
    "flow_matching": ["flow_matching"],
}


@pytest.mark.parametrize("meaning", MARKED)
@pytest.mark.parametrize("owner", ["A", "B", "C"])
def test_each_marker_that_hosts_know_is_compared(tmp_path: Path, meaning: str, owner: str, capsys: Capture) -> None:
    states = [some_elements(u_net(seed)) for seed in (1, 2, 3)]
    states["ABC".index(owner)] |= {name: torch.zeros(0) for name in MARKED[meaning]}
    paths = map(str, save_all(tmp_path, states))
    assert main(["plan", *paths, "--mode", "add-difference"]) == DONE
    warnings = [line for line in capsys.readouterr().err.splitlines() if "marked" in line]
    assert len(warnings) == (2 if owner == "A" else 1)
    assert all(line.startswith(f"warning: {owner} is marked") and meaning in line for line in warnings)


def test_ema_weights_that_the_merge_leaves_stale(tmp_path: Path, capsys: Capture) -> None:
    states: list[State] = [{**u_net(1), **ema_of(u_net(1), 3)}, u_net(2)]
    a, b = map(str, save_all(tmp_path, states))
    out = str(tmp_path / "out.safetensors")
    assert main(["merge", a, b, "-o", out, "--alpha", "0.3"]) == DONE
    assert "EMA weights of A (model_ema.*, 686 tensors) are no average" in capsys.readouterr().err
    assert main(["merge", a, b, "-o", out, "--alpha", "0.3", "--drop-ema", "--overwrite"]) == DONE
    captured = capsys.readouterr()
    assert captured.err == ""
    assert "688 tensors: EMA weights of A, left out" in captured.out
    result = load_file(out)
    assert not only(result, EMA)
    assert_merged(result, [u_net(1), states[1]])
    assert read_recipe(out).drop_ema


@pytest.mark.parametrize(
    ("options", "is_stale"),
    [
        (["--alpha", "0.3"], False),  # averages of both models: merged alike
        (["--alpha", "0"], False),
        (["--blocks", "GRAD_V"], True),
        (["--alpha", "0.3", "--elemental", "BASE::0"], True),
        (["--alpha", "0", "--elemental", "OUT05:attn2:1"], True),
        (["--alpha", "0", "--elemental", ":model_ema:0.5"], True),
        (["--alpha", "0.3", "--elemental", "TE::0"], False),
    ],
)
def test_ema_weights_of_both(tmp_path: Path, options: Sequence[str], is_stale: bool, capsys: Capture) -> None:
    states = [{**u_net(seed), **ema_of(u_net(seed), seed)} for seed in (1, 2)]
    a, b = map(str, save_all(tmp_path, states))
    assert main(["plan", a, b, *options]) == DONE
    assert ("no average" in capsys.readouterr().err) is is_stale


def links(a: Path) -> dict[str, str]:
    """Give other paths of a file."""
    folder = a.parent / "folder"
    folder.mkdir()
    (folder / "inner").symlink_to(a.parent, target_is_directory=True)
    (folder / "soft.safetensors").symlink_to(a)
    os.link(a, folder / "hard.safetensors")
    return {
        "a symbolic link": str(folder / "soft.safetensors"),
        "a hard link": str(folder / "hard.safetensors"),
        "a linked folder": str(folder / "inner" / a.name),
        "dots": str(folder / ".." / a.name),
        "the same path": str(a),
    }


@pytest.mark.parametrize("kind", ["a symbolic link", "a hard link", "a linked folder", "dots", "the same path"])
def test_one_file_given_twice(tmp_path: Path, kind: str, capsys: Capture) -> None:
    a, b = save_all(tmp_path, [some_elements(u_net(seed)) for seed in (1, 2)])
    other = links(a)[kind]
    twice = "The same file is given for two of the models."
    assert main(["plan", str(a), other]) == DONE
    assert twice in capsys.readouterr().err
    assert main(["plan", str(a), str(b), other, "--mode", "add-difference"]) == DONE
    assert twice in capsys.readouterr().err
    assert main(["plan", str(a), str(b)]) == DONE
    assert twice not in capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [
        ["--alpha", "0"],
        ["--alpha", "0", "--elemental", "OUT05:atn2:0.5"],
        ["--blocks", ",".join(["0"] * 26)],
        ["--elemental", "::0"],
        ["--alpha", "0", "--elemental", "TE:position_ids:1"],
        ["--mode", "add-difference", "--alpha", "0"],
        ["--alpha", "0", "--dtype", "fp16"],
    ],
)
def test_a_merge_that_changes_nothing_is_refused(
    tmp_path: Path, models: dict[str, Path], options: Sequence[str], capsys: Capture
) -> None:
    paths = [str(models[name]) for name in ("abc" if "--mode" in options else "ab")]
    out = tmp_path / "out.safetensors"
    with pytest.raises(SystemExit) as caught:
        main(["merge", *paths, *options, "-o", str(out)])
    assert caught.value.code == WRONG_USAGE
    error = capsys.readouterr().err
    assert "nothing would change" in error
    assert "--allow-unchanged" in error
    assert not out.exists()
    assert main(["merge", *paths, *options, "-o", str(out), "--allow-unchanged"]) == DONE
    own = load_file(models["a"])
    assert all(same_bits(tensor, own[key]) for key, tensor in load_file(out).items())


@pytest.mark.parametrize("options", [["--dtype", "bf16"], ["--drop-ema"], ["--dry-run"]])
def test_what_still_changes_the_file_is_written(tmp_path: Path, options: Sequence[str], capsys: Capture) -> None:
    states = [{**some_elements(u_net(1)), **ema_of(some_elements(u_net(1)), 3)}, some_elements(u_net(2))]
    a, b = map(str, save_all(tmp_path, states))
    assert main(["merge", a, b, "--alpha", "0", *options, "-o", str(tmp_path / "out.safetensors")]) == DONE
    (warning,) = capsys.readouterr().err.splitlines()
    assert warning == f"warning: {(NOTHING_CHANGES if options == ['--dry-run'] else NOTHING_MERGED).message}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("options", [[], ["--dtype", "bf16"], ["--dtype", "fp32"]])
def test_damaged_position_ids_are_copied_and_told_of(
    tmp_path: Path, dtype: torch.dtype, options: Sequence[str], capsys: Capture
) -> None:
    key = "cond_stage_model.transformer.text_model.embeddings.position_ids"
    damaged = torch.arange(77).reshape(1, 77).to(dtype) - 0.5
    states = [{**some_elements(whole(1)), key: damaged}, {**some_elements(whole(2)), key: damaged * 2}]
    a, b = map(str, save_all(tmp_path, states))
    out = str(tmp_path / "out.safetensors")
    assert main(["merge", a, b, "-o", out, *options]) == DONE
    assert f"{key} of A holds floats" in capsys.readouterr().err
    assert same_bits(load_file(out)[key], damaged)
    whole_a = str(save(tmp_path / "whole.safetensors", some_elements(whole(1))))
    assert main(["plan", whole_a, b]) == DONE
    assert "holds floats" not in capsys.readouterr().err


HOSTILE = "aa\x1b[2J\nwarning: fine\u202e\ud800"


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        ("out.2.weight", "out.2.weight"),
        (HOSTILE, r"aa\x1b[2J\nwarning: fine\u202e\ud800"),
        ("a" * 121, "a" * 80 + "..." + "a" * 37),
        ("\n" * 10**6 + "end", r"\n" * 40 + "..." + r"\n" * 17 + "end"),
    ],
)
def test_keys_are_shown_in_a_line(key: str, shown: str) -> None:
    assert shown_key(key) == shown


@pytest.mark.parametrize("owner", ["A", "B"])
@pytest.mark.parametrize("prefix", ["", "x.", UNET, UNET + "input_blocks.1.0."])
def test_no_key_reaches_the_terminal_raw(tmp_path: Path, prefix: str, owner: str, capsys: Capture) -> None:
    states = [some_elements(whole(seed)) for seed in (1, 2)]
    odd = {prefix + HOSTILE[:-1]: torch.zeros(0), prefix + "b" * 900: torch.zeros(2)}
    states["AB".index(owner)] |= odd
    a, b = map(str, save_all(tmp_path, states))
    assert main(["plan", a, b, "--alpha", "0.3", "--elemental", "::0.5"]) == DONE
    assert main(["inspect", a]) == DONE
    assert main(["merge", a, b, "-o", str(tmp_path / "out.safetensors"), "--print-change", "--dry-run"]) == DONE
    printed = "".join(capsys.readouterr())
    assert not re.search(r"\x1b|\u202e|^warning: fine|b{200}", printed, re.MULTILINE)


def test_some_of_many_marks_are_named(tmp_path: Path, capsys: Capture) -> None:
    states = [some_elements(u_net(seed)) for seed in (1, 2)]
    states[1] |= {f"mark{number}": torch.zeros(0) for number in range(2000)}
    a, b = map(str, save_all(tmp_path, states))
    assert main(["plan", a, b]) == DONE
    (warning,) = capsys.readouterr().err.splitlines()
    assert warning == 'warning: B is marked with "mark0", "mark1", "mark10" and 1,997 more and A is not.'


def moved(*pairs: tuple[str, str]) -> Callable[[State], State]:
    def move(state: State) -> State:
        for old, new in pairs:
            state = {re.sub("^" + re.escape(old), new, key): tensor for key, tensor in state.items()}
        return state

    return move


BOTH_TEXTS, SOME_TEXT = "CLIP-G and CLIP-L", "the text encoder"
"""Text encoders that are missing: those of SDXL, and one of a model that is not known to have two."""


@pytest.mark.parametrize(
    ("move", "count", "usual", "other"),
    [
        (
            moved((XL_G + "model.transformer.resblocks.", "text_encoders.clip_g.transformer.text_model.layers.")),
            384,
            "CLIP-G",
            SOME_TEXT,
        ),
        (moved((XL_L, "conditioner.0."), (XL_G, "conditioner.1.")), 582, BOTH_TEXTS, SOME_TEXT),
        (moved((XL_L, "cond_stage_model.")), 196, "CLIP-L", SOME_TEXT),
        (moved((XL_L, "text_encoders.embedders.0.")), 196, "CLIP-L", SOME_TEXT),
        (moved(("conditioner.", "text_encoders.")), 582, BOTH_TEXTS, SOME_TEXT),
    ],
)
@pytest.mark.parametrize("owner", ["A", "B"])
def test_text_encoders_under_names_of_others_are_told_of(
    tmp_path: Path,
    move: Callable[[State], State],
    count: int,
    usual: str,
    other: str,
    owner: str,
    capsys: Capture,
) -> None:
    states = [without(whole(seed, layout="sdxl"), "position_ids|text_projection") for seed in (1, 2)]
    if count == 384:
        states = [without(state, r"embedders\.1\.model\.(?!transformer)") for state in states]
    states["AB".index(owner)] = {key: tensor.clone() for key, tensor in move(states["AB".index(owner)]).items()}
    a, b = map(str, save_all(tmp_path, states))
    assert main(["plan", a, b, "--alpha", "0.3"]) == DONE
    (line,) = capsys.readouterr().err.splitlines()
    found = re.findall(r"([\d,]+) tensors of ([\w -]+), such as (\S+), are only in model (\w)", line)
    assert line.startswith("warning: A text encoder has other names in B than in A: "), line
    assert {(letter, abs(int(number) - count) <= 2) for number, _, _, letter in found} == {("A", True), ("B", True)}
    assert {letter: parts for _, parts, _, letter in found} == {owner: other, "AB".replace(owner, ""): usual}


FIRST_STAGE, TEXT = "first_stage_model.", "cond_stage_model."


def integers(state: State) -> State:
    return {key: tensor.long() for key, tensor in state.items()}


def some_of_all(seed: int, layout: str = "sd1") -> State:
    """Give some tensors of each part, of OpenCLIP's text encoders, too."""
    state = whole(seed, layout=layout)
    return {**some_elements(state), **{key: tensor for key, tensor in state.items() if ".mlp.c_fc." in key}}


def wrapped(parts: Sequence[str]) -> Callable[[State], State]:
    return moved(*((part, f"x_{part}") for part in parts))


@pytest.mark.parametrize("damaged", ["", "A", "B"], ids=["floats", "A of integers", "B of integers"])
@pytest.mark.parametrize(
    ("layout", "parts", "said"),
    [
        ("sd1", [TEXT], "The text encoder is"),
        ("sd1", [FIRST_STAGE], "The VAE is"),
        ("sd2", [TEXT, FIRST_STAGE], "The VAE and the text encoder are"),
        ("sdxl", [XL_L], "CLIP-L is"),
        ("sdxl", [XL_G, XL_L, FIRST_STAGE], "CLIP-G, CLIP-L and the VAE are"),
    ],
)
@pytest.mark.parametrize("owner", "ABC")
def test_parts_under_unknown_names_are_told_of(
    tmp_path: Path, owner: str, layout: str, parts: Sequence[str], said: str, damaged: str, capsys: Capture
) -> None:
    """Also where none of the rest can be merged, so that the result is model A."""
    states = [some_of_all(seed, layout) for seed in (1, 2, 3)]
    states["ABC".index(owner)] = wrapped(parts)(states["ABC".index(owner)])
    if damaged:
        states["AB".index(damaged)] = integers(states["AB".index(damaged)])
    states = [{key: tensor.clone() for key, tensor in state.items()} for state in states]
    paths = [*map(str, save_all(tmp_path, states))]
    mode = ["--mode", "add-difference"] if owner == "C" else []
    assert main(["plan", *(paths if mode else paths[:2]), *mode]) == DONE
    warnings = capsys.readouterr().err.splitlines()
    lines = [line for line in warnings if line.startswith(f"warning: {said} missing in model {owner}, of which ")]
    assert len(lines) == 1, warnings
    assert re.search(r"have unknown names, such as x_\S+; they are not merged\.", lines[0])
    assert main(["plan", *(paths if mode else paths[:2]), *mode, "--alpha", "0"]) == DONE
    assert "unknown names" not in capsys.readouterr().err


def test_parts_under_unknown_names_are_told_of_where_the_vae_alone_is_taken(tmp_path: Path, capsys: Capture) -> None:
    states = [wrapped([TEXT])(integers(some_of_all(1))), some_of_all(2)]
    a, b = map(str, save_all(tmp_path, [{key: t.clone() for key, t in state.items()} for state in states]))
    vae = str(save(tmp_path / "vae.safetensors", only(some_of_all(3), FIRST_STAGE)))
    assert main(["plan", a, b, "--vae", vae]) == DONE
    assert "The text encoder is missing in model A, of which " in capsys.readouterr().err


def test_pruned_text_encoders_are_not_worth_a_warning(tmp_path: Path, capsys: Capture) -> None:
    """One model without its text encoder, the other one without its VAE; or CLIP-L alone."""
    xl = [whole(seed, layout="sdxl") for seed in (1, 2)]
    for own, theirs in (
        (without(xl[0], "^first_stage"), without(xl[1], "^conditioner")),
        (xl[0], without(xl[1], r"embedders\.1\.")),
        (without(xl[0], r"embedders\.0\."), xl[1]),
    ):
        a, b = map(str, save_all(tmp_path, [own, theirs]))
        assert main(["plan", a, b]) == DONE
        assert capsys.readouterr().err == ""


def test_counters_and_masks_are_not_worth_a_warning(tmp_path: Path, capsys: Capture) -> None:
    states = [{**u_net(seed), **ema_of(u_net(seed), seed)} for seed in (1, 2)]
    a, b = map(str, save_all(tmp_path, states))
    assert main(["plan", a, b, "--alpha", "0.3", "--strict"]) == DONE
    mask = {"cond_stage_model.model.attn_mask": torch.full((4, 4), float("-inf")).triu_(1)}
    states = [{**whole(1, layout="sd2"), **mask}, whole(2, layout="sd2")]
    a, b = map(str, save_all(tmp_path, states))
    assert main(["plan", a, b, "--strict"]) == main(["plan", b, a, "--strict"]) == DONE
    assert capsys.readouterr().err == ""


def test_other_architectures_are_named(tmp_path: Path, capsys: Capture) -> None:
    a, b = map(str, save_all(tmp_path, [u_net(1), u_net(2, layout="sdxl")]))
    assert main(["plan", a, b]) == FAILED
    assert "Models of different architectures cannot be merged: A is SD 1.x, B is SDXL." in capsys.readouterr().err


@pytest.mark.parametrize("owner", ["A", "B", "C"])
def test_a_configuration_that_tells_of_v_prediction_is_compared(tmp_path: Path, owner: str, capsys: Capture) -> None:
    paths = save_all(tmp_path, [some_elements(u_net(seed)) for seed in (1, 2, 3)])
    for path in paths:
        path.with_suffix(".yaml").write_text("model: {params: {}}\n")
    config = paths["ABC".index(owner)].with_suffix(".yaml")
    config.write_text('model:\n  params:\n    parameterization: "v"\n')
    words = ["plan", *map(str, paths), "--mode", "add-difference"]
    assert main(words) == DONE
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == (2 if owner == "A" else 1)
    assert all(f"warning: {owner} is marked as v-prediction (the .yaml beside it)" in line for line in lines)
    config.write_bytes(b"\0" * (1 << 21))
    assert main(words) == DONE
    assert capsys.readouterr().err == ""


def test_v_prediction_told_in_two_ways_is_one(tmp_path: Path, capsys: Capture) -> None:
    states = [some_elements(u_net(1)), some_elements(u_net(2)) | {"v_pred": torch.zeros(0)}]
    a, b = save_all(tmp_path, states)
    a.with_suffix(".yaml").write_text("parameterization: v\n")
    assert main(["plan", str(a), str(b)]) == DONE
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("channels", "options", "told"),
    [
        ((9, 9, 4), ["--mode", "add-difference"], "A and B are inpainting (9 input channels) and C is not: of the"),
        ((9, 4, 9), ["--mode", "triple-sum", "--beta", "0.3"], "A and C are inpainting (9 input channels) and B is"),
        ((9, 4, 4), ["--mode", "add-difference"], ""),
        ((9, 9, 9), ["--mode", "add-difference"], ""),
        ((4, 4, 4), ["--mode", "add-difference"], ""),
        ((9, 9, 4), ["--mode", "add-difference", "--elemental", "IN00::0"], ""),
        ((9, 4), [], ""),
        ((9, 9), [], ""),
    ],
)
def test_mask_channels_that_are_not_merged_are_told_of(
    tmp_path: Path, channels: Sequence[int], options: Sequence[str], told: str, capsys: Capture
) -> None:
    states = [some_elements(u_net(seed, channels=count)) for seed, count in enumerate(channels, 1)]
    assert main(["plan", *map(str, save_all(tmp_path, states)), "--alpha", "0.3", *options]) == DONE
    error = capsys.readouterr().err
    assert error == "" if not told else told in error
