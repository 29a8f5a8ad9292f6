"""LoRAs in the form: read and written, found in the host's list, and told of where they are not; without a page."""

from __future__ import annotations

import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from elemental import LoraSource, ModelSource, RecipeError, merge_to_file, model_source
from elemental.cli.argument_parser import COMMANDS
from elemental.cli.recipe_options import make_recipe
from elemental.hosts.base import LoraRef
from elemental.hosts.lora_files import list_loras
from elemental.hosts.standalone.host import StandaloneHost
from elemental.images.image_request import ImageRequest
from elemental.merge.files.hashes import file_sha256
from elemental.merge.files.metadata import recipe_to_share
from elemental.recipe.recipe import recipe_from_dict
from elemental.session.command_line import command_of, recipe_of
from elemental.session.form import MergeForm, form_from_dict
from elemental.session.found_forms import read_form_file
from elemental.session.listed_models import missing_models
from elemental.session.loras import add_lora, read_loras, write_loras
from elemental.session.page_values import whole_merge
from elemental.session.run_plans import PlotForm, plan_plot
from elemental.session.save_names import suggest_name
from elemental.session.session import Session, session_of
from elemental.workflows import identify_models

from .conftest import save
from .fake_host import FakeHost
from .lora_files import lora, with_name
from .plotting import load

FORM = MergeForm("a.safetensors", "b.safetensors", alpha=0.3, loras="style:0.8\nsub/detail:-0.5:0.25")


def layer(name: str) -> str:
    return f"lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_{name}"


@pytest.fixture
def loras(tmp_path: Path) -> Path:
    """Give a folder of LoRAs, two of which have one name."""
    folder = tmp_path / "loras"
    for place, name in (("style", "q"), ("detail", "k"), ("sub/detail", "v")):
        path = folder / f"{place}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        save(path, with_name(layer(name), lora((8, 8))))
    return folder


@pytest.fixture
def session(models: dict[str, Path], loras: Path, tmp_path: Path) -> Session:
    folder = tmp_path / "models"
    folder.mkdir()
    for name in "ab":
        shutil.copy(models[name], folder)
    assert loras.is_dir()
    return session_of(FakeHost(load, output=tmp_path / "out", models=folder))


def touch(folder: Path, *places: str) -> None:
    for place in places:
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def test_loras_are_listed_by_the_shortest_name_of_their_own(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    touch(one, "b.safetensors", "x/c.safetensors", "A.pt", "x/a.ckpt", "d.pt", "d.safetensors", "e.sft", "note.txt")
    touch(one, ".hidden/f.pt", ".g.pt", "v1.5.safetensors")
    touch(two, "e.sft", "y/z/h.bin")
    (one / "x" / "loop").symlink_to(one, target_is_directory=True)
    listed = list_loras([one, two, tmp_path / "none"])
    assert [(lora.name, lora.path.relative_to(tmp_path).as_posix()) for lora in listed] == [
        (str(one / "e.sft"), "one/e.sft"),
        (str(two / "e.sft"), "two/e.sft"),
        ("A", "one/A.pt"),
        ("b", "one/b.safetensors"),
        ("c", "one/x/c.safetensors"),
        ("d.pt", "one/d.pt"),
        ("d.safetensors", "one/d.safetensors"),
        ("h", "two/y/z/h.bin"),
        ("v1.5", "one/v1.5.safetensors"),
        ("x/a", "one/x/a.ckpt"),
    ]


def test_a_name_that_ends_like_a_ratio_keeps_its_ending(tmp_path: Path) -> None:
    listed = [LoraRef("style:2.pt", tmp_path / "style:2.pt", "style:2.pt")]
    (source,) = read_loras(write_loras([LoraSource(model_source(tmp_path / "style:2.pt"))], listed), listed)
    assert (source.file.name, source.ratio) == ("style:2.pt", 1)


@pytest.mark.parametrize(
    ("line", "place", "ratios"),
    [
        ("style", "style", (1, None)),
        ("  style : .5 ", "style", (0.5, None)),
        ("style:0.8:0", "style", (0.8, 0)),
        ("style.safetensors:-1", "style", (-1, None)),
        ("style:\N{MINUS SIGN}1", "style", (-1, None)),
        ("detail:1", "detail", (1, None)),
        ("sub/detail:1", "sub/detail", (1, None)),
        ("sub\\detail.safetensors:1", "sub/detail", (1, None)),
        ("FOLDER/sub/detail.safetensors", "sub/detail", (1, None)),
        ("FOLDER/sub/detail:0.1", "sub/detail", (0.1, None)),
    ],
)
def test_a_line_is_a_lora(loras: Path, line: str, place: str, ratios: tuple[float, float | None]) -> None:
    (read,) = read_loras(f"\n{line.replace('FOLDER', str(loras))}\n", list_loras([loras]))
    assert read == LoraSource(model_source(loras / f"{place}.safetensors"), *ratios)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("styel:1", 'No LoRA named "styel"; did you mean "style"?'),
        ("other", 'No LoRA named "other". Refresh the list or choose one. Write one LoRA a line: NAME:RATIO'),
        ("style:much", '"much" is no ratio of the LoRA style. Write one LoRA a line'),
        ("style:0.8, detail:1", '"0.8, detail" is no ratio of the LoRA style. Write one LoRA a line'),
        ("x:" + "1" * 100_000 + "x", "is no LoRA: the line has 100,003 letters. Write one LoRA a line"),
        ("style\n" * 100, "There are 101 lines of LoRAs, where 100 are the most."),
        ("style.safetensors:0,8", '"0,8" is no ratio of the LoRA style.safetensors'),
    ],
)
def test_what_is_no_lora_is_told(session: Session, line: str, words: str) -> None:
    form = replace(FORM, loras=f"style:1\n{line}")
    with pytest.raises(RecipeError) as caught:
        session.recipe(form)
    assert words in str(caught.value)
    assert 'class="elemental-report error"' in session.previewer.look(form).report


@pytest.mark.parametrize(
    "typed", ["OUTSIDE/secret", "OUTSIDE/none", "FOLDER/../secret", "../secret", "~/secret", "x\0"]
)
def test_a_lora_that_the_host_does_not_list_tells_nothing(loras: Path, typed: str) -> None:
    """The answer is the same whether or not there is such a file."""
    touch(loras.parent, "secret", "secret.safetensors")
    typed = typed.replace("OUTSIDE", str(loras.parent)).replace("FOLDER", str(loras))
    with pytest.raises(RecipeError) as caught:
        read_loras(typed, list_loras([loras]))
    assert str(caught.value).startswith(f'No LoRA named "{typed}". Refresh the list or choose one.')


def test_names_that_several_loras_have_are_not_guessed(loras: Path) -> None:
    (loras / "detail.safetensors").rename(loras / "sub" / "detail.pt")
    with pytest.raises(RecipeError, match=r'"detail" could be any of sub/detail\.pt, sub/detail\.safetensors: write'):
        read_loras("detail:1", list_loras([loras]))


def test_a_form_and_its_recipe_have_the_same_loras(session: Session, loras: Path) -> None:
    recipe = session.recipe(FORM)
    assert recipe.loras == (
        LoraSource(model_source(loras / "style.safetensors"), 0.8),
        LoraSource(model_source(loras / "sub" / "detail.safetensors"), -0.5, 0.25),
    )
    assert session.form_of(recipe) == FORM
    assert session.recipe(session.form_of(recipe)) == recipe
    assert form_from_dict(FORM.to_dict()) == FORM
    plan = session.previewer.look(FORM)
    assert "LoRA style.safetensors: 1 of 1 layers, in 1 tensors." in plan.report
    assert "LoRA detail.safetensors: 1 of 1 layers, in 1 tensors." in plan.report


def test_loras_are_added_to_a_alone(session: Session) -> None:
    form = replace(FORM, model_b="", loras="style:0.8")
    recipe = session.recipe(form)
    assert recipe.only_changes_a
    assert "SD 1.x: 1 of 1,131 tensors differ from A." in session.previewer.look(form).report
    assert suggest_name(recipe, session.host.models_folder()) == "a-style-0.8"
    assert session.form_of(recipe) == replace(form, model_b="a.safetensors", alpha=0)
    with pytest.raises(RecipeError, match=r"Choose model B\."):
        session.recipe(replace(form, loras=" "))
    with pytest.raises(RecipeError, match="Choose model B and C"):
        session.recipe(replace(form, mode="sum-twice"))


def test_the_command_and_the_name_have_the_loras(session: Session, loras: Path) -> None:
    words = shlex.split(command_of(session, FORM))
    assert f"--lora={loras / 'style.safetensors'}:0.8" in words
    assert make_recipe(COMMANDS["merge"].read_text(shlex.join(words[2:])).recipe)[0] == session.recipe(FORM)
    shared = recipe_of(session, FORM)
    assert str(loras) not in shared
    assert [lora.file.path for lora in recipe_from_dict(json.loads(shared)).loras] == [
        "style.safetensors",
        "detail.safetensors",
    ]
    folder = session.host.models_folder()
    assert suggest_name(session.recipe(FORM), folder) == "a-b-0.3-2-loras"
    assert suggest_name(session.recipe(replace(FORM, loras="style")), folder) == "a-b-0.3-style-1"


def test_added_loras_are_whole_lines() -> None:
    assert add_lora("", "style") == "style:1"
    assert add_lora("detail:0.5\n\n", "style") == "detail:0.5\nstyle:1"


def test_a_recipe_made_elsewhere_has_the_loras_that_are_listed(session: Session, loras: Path, tmp_path: Path) -> None:
    recipe = session.recipe(replace(FORM, loras="style:0.8"))
    path = loras / "style.safetensors"
    elsewhere = replace(recipe.loras[0], file=ModelSource("/old/style.safetensors", None, path.stat().st_size))
    file = tmp_path / "recipe.json"
    file.write_text(json.dumps(replace(recipe, loras=(elsewhere,)).to_dict()))
    found = read_form_file(session, file)
    assert found.values["loras"] == "style:0.8"
    assert not [remark for remark in found.remarks if "is in the list" in remark]
    path.write_bytes(path.read_bytes() + b" ")
    assert "LoRA 1: style.safetensors is another file here" in "".join(read_form_file(session, file).remarks)
    path.unlink()
    found = read_form_file(session, file)
    assert f'LoRA 1: no LoRA named "style.safetensors" is in the list; put the file into {loras}' in found.remarks[0]
    assert found.values["loras"] == "style.safetensors:0.8"
    with pytest.raises(RecipeError, match=r'No LoRA named "style\.safetensors"'):
        session.recipe(form_from_dict(found.values))


def test_a_saved_merge_fills_the_form_with_its_loras(session: Session, tmp_path: Path) -> None:
    path = tmp_path / "ab.safetensors"
    merge_to_file(session.recipe(FORM), path)
    found = read_form_file(session, path)
    assert form_from_dict(found.values) == FORM
    assert found.remarks == ()


def test_a_plot_varies_a_lora_of_the_form(session: Session) -> None:
    run, estimate = plan_plot(session, FORM, PlotForm("lora", "style:0.5, detail:0:1"), ImageRequest("a cat"))
    texts = [session.form_of(cell.recipe).loras for cell in run.plot.cells()]
    assert texts == ["style:0.5\nsub/detail:-0.5:0.25", "style:0.8\nsub/detail:0:1"]
    assert estimate.merges == 2


def test_a_recipe_in_the_place_of_a_model_finds_its_loras(session: Session, loras: Path) -> None:
    recipe = session.recipe(replace(FORM, loras="style:0.5"))
    data = json.loads(recipe_to_share(identify_models(recipe).to_dict()))
    (session.host.models_folder() / "soft.json").write_text(json.dumps(data))
    chosen = session.recipe(replace(FORM, model_b="soft.json [recipe]", loras="")).model_b.recipe
    assert chosen is not None
    assert [lora.file.path for lora in chosen.loras] == [model_source(loras / "style.safetensors").path]
    assert "tensors differ from A" in session.previewer.look(replace(FORM, model_b="soft.json [recipe]")).report


def test_which_of_two_files_a_recipe_means_is_not_guessed(session: Session, loras: Path, tmp_path: Path) -> None:
    path = loras / "sub" / "detail.safetensors"
    size = path.stat().st_size
    file = tmp_path / "recipe.json"
    for sha256, text, remark in (
        (None, "detail.safetensors:1", 'LoRA 1: several here could be "detail.safetensors", in different folders'),
        (file_sha256(path)[:10], "sub/detail:1", ""),
    ):
        source = ModelSource("detail.safetensors", sha256, size)
        file.write_text(json.dumps(replace(session.recipe(FORM), loras=(LoraSource(source),)).to_dict()))
        found = read_form_file(session, file)
        assert found.values["loras"] == text
        assert [said for said in found.remarks if said.startswith("LoRA")][:1] == (
            [f"{remark}; choose one."] if remark else []
        )


def test_a_lora_with_another_name_is_found_by_its_content(session: Session, loras: Path) -> None:
    path = loras / "style.safetensors"
    known = ModelSource("/old/style.safetensors", file_sha256(path), path.stat().st_size)
    recipe = replace(session.recipe(FORM), loras=(LoraSource(known, 0.5),))
    path.rename(loras / "renamed.safetensors")
    assert missing_models(session, recipe) == ["LoRA 1 is now called renamed; choose it."]


def test_a_merge_from_before_there_were_loras_has_none() -> None:
    before = {name: value for name, value in FORM.to_dict().items() if name != "loras"}
    assert whole_merge(before)["loras"] == ""
    assert whole_merge(FORM.to_dict()) == FORM.to_dict()
    assert whole_merge({"prompt": "x"}) == {"prompt": "x"}


@pytest.mark.parametrize("place", ["models/loras", "models/Lora", "loras", "Lora"])
def test_the_standalone_host_lists_loras_in_its_folder_or_beside_it(tmp_path: Path, place: str) -> None:
    models = tmp_path / "models"
    touch(models, "a.safetensors")
    host = StandaloneHost(models=models)
    assert (list(host.loras()), host.lora_folder()) == ([], models / "loras")
    touch(tmp_path / place, "sub/style.pt")
    host.refresh()
    assert [(lora.name, lora.path) for lora in host.loras()] == [("style", tmp_path / place / "sub" / "style.pt")]
    assert [ref.title for ref in host.checkpoints()] == ["a.safetensors"]
    assert host.lora_folder() == tmp_path / place
    assert (StandaloneHost().loras(), StandaloneHost().lora_folder()) == ([], None)
