"""Models' files that change while their merge is live: each button ends right or in words, and the model is as said."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor

from elemental import CheckpointError, HostError, MergeMode, MergeRecipe, VaeChoice, merge_to_file, model_source
from elemental.hosts.base import CheckpointRef
from elemental.images.image_request import ImageRequest
from elemental.merge.files.checkpoint import Checkpoint
from elemental.merge.files.hashes import file_sha256
from elemental.merge.files.metadata import RECIPE_FIELD
from elemental.merge.files.writer import SafetensorsWriter
from elemental.merge.live_sinks import LiveSink
from elemental.runs.axes.base import Setting
from elemental.session import merge_jobs
from elemental.session.form import MergeForm
from elemental.session.history import History
from elemental.session.job_board import JobBoard
from elemental.session.jobs import Job, JobState, JobView
from elemental.session.merge_preview import Previewer
from elemental.session.merged_model import LiveState, MergedModel
from elemental.session.session import Session

from .conftest import save
from .fake_host import FakeHost
from .merging import State, only, some_elements, whole
from .plotting import plot, run
from .webui_standin_fixtures import make_rig

REQUEST = ImageRequest("a cat", seed=3, steps=1, width=64, height=64)
ROLES = ("a", "b", "c", "vae")
IN_PLACE = ("overwritten", "shortened", "touched")


def load(path: Path) -> Mapping[str, Sequence[Tensor]]:
    """Give tensors in memory of their own; load_file maps them, so that they would change with the file."""
    Checkpoint(path).close()  # which raises what hosts raise
    return {key: (tensor.clone(),) for key, tensor in load_file(path).items() if tensor.is_floating_point()}


def overwrite(path: Path, other: bytes) -> None:
    path.write_bytes(other)


def rename(path: Path, _other: bytes) -> None:
    path.rename(path.with_suffix(".moved"))


def replace_by_rename(path: Path, other: bytes) -> None:
    beside = path.with_suffix(".new")
    beside.write_bytes(other)
    beside.replace(path)


def shorten(path: Path, _other: bytes) -> None:
    os.truncate(path, path.stat().st_size // 2)


def delete(path: Path, _other: bytes) -> None:
    path.unlink()


def touch(path: Path, _other: bytes) -> None:
    os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns + 10**9))


CHANGES: dict[str, Callable[[Path, bytes], None]] = {
    "overwritten": overwrite,
    "renamed": rename,
    "replaced": replace_by_rename,
    "shortened": shorten,
    "deleted": delete,
    "touched": touch,
}
if sys.platform == "win32":  # where an open file is neither renamed nor deleted
    CHANGES = {name: change for name, change in CHANGES.items() if name in IN_PLACE}


def recipe_of(paths: Mapping[str, Path]) -> MergeRecipe:
    a, b, c, vae = (model_source(paths[role]) for role in ROLES)
    return MergeRecipe(a, b, c, mode=MergeMode.ADD_DIFFERENCE, alpha=0.5, vae=VaeChoice.FILE, vae_file=vae)


@dataclass
class Scene:
    """A host with models a, b, c and vae, and what they hold."""

    host: Any
    folder: Path
    states: Mapping[str, State]
    other: Mapping[str, bytes]
    opts: Any = None  # the WebUI's settings, where it is one

    def __post_init__(self) -> None:
        parts = History(self.folder / "history.jsonl"), Previewer(self.host.checkpoints), MergeForm()
        self.session = Session(self.host, MergedModel(self.host), JobBoard(), *parts)
        self.model = self.session.model
        self.recipe = recipe_of({role: self.path(role) for role in ROLES})

    def path(self, role: str) -> Path:
        return self.folder / f"{role}.safetensors"

    def choose(self, name: str) -> None:
        """Choose a checkpoint as the user does."""
        if self.opts is not None:
            self.opts.choose("sd_model_checkpoint", f"{name}.safetensors")
        self.host.open_model(CheckpointRef(name, self.path(name)))

    def merge(self) -> None:
        """Merge with model A as the user's checkpoint, and with all hashes known."""
        self.host.open_model(CheckpointRef("a", self.path("a")))
        for role in ROLES:
            file_sha256(self.path(role))
        self.model.merge(self.recipe)
        self.merged = self.held()

    def change(self, role: str, change: str) -> None:
        CHANGES[change](self.path(role), self.other[role])
        with suppress(CheckpointError):  # whatever is there now is hashed, too
            file_sha256(self.path(role))

    def held(self) -> State:
        tensors = self.host._live.tensors()
        return {key: torch.cat([part.detach().reshape(-1) for part in parts]) for key, parts in tensors.items()}

    def assert_holds(self, wanted: State) -> None:
        assert self.host._live is not None
        for key, values in self.held().items():
            assert torch.equal(values, wanted[key].reshape(-1).to(values.dtype)), key

    def close(self) -> None:
        """Drop the merge, if there is one; it may not be possible to take it out."""
        active = self.model._active
        if active is not None:
            active.merge.give_up()
            active.stack.close()

    def original(self) -> State:
        return dict(self.states["a"])

    def now(self) -> State:
        return {key: tensor for key, (tensor,) in load(self.path("a")).items()}


def ended(job: Job) -> JobView:
    view = job.view
    while not view.ended:
        view = job.wait(view.version, 30)
    assert "bug" not in view.text
    return view


@cache
def small_states() -> dict[str, State]:
    states = {role: some_elements(whole(seed)) for seed, role in enumerate(ROLES, 1)}
    return {**states, "vae": only(states["vae"], "first_stage_model.")}


@cache
def other_bytes() -> dict[str, bytes]:
    """Give another file of the same size for each."""
    return {role: to_bytes(others(state)) for role, state in small_states().items()}


def others(state: State) -> State:
    return {key: value.flip(0) * 2 if value.is_floating_point() else value for key, value in state.items()}


@pytest.fixture(params=["fake", pytest.param("webui", marks=pytest.mark.slow)])
def scene(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    states, other = small_states(), other_bytes()
    source, folder = tmp_path / "source", tmp_path / "models"
    source.mkdir()
    paths = {role: save(source / f"{role}.safetensors", state) for role, state in states.items()}
    if request.param == "fake":
        source.rename(folder)
        found = Scene(FakeHost(load, output=tmp_path / "out", models=folder), folder, states, other)
        yield found
        found.close()
        return
    with make_rig(tmp_path, monkeypatch, paths) as rig:
        monkeypatch.setattr(type(rig.host), "output_folder", lambda _: tmp_path / "out")
        found = Scene(rig.host, folder, states, other, rig.webui.opts)
        yield found
        found.close()


@pytest.fixture
def standalone(tmp_path: Path, drawable: Mapping[str, Path]) -> Iterator[Scene]:
    pytest.importorskip("diffusers")
    from elemental.hosts.standalone.host import StandaloneHost

    folder = tmp_path / "models"
    folder.mkdir()
    for role in ROLES:
        shutil.copy(drawable["c" if role == "vae" else role], folder / f"{role}.safetensors")
    states, other = drawable_states(tuple(drawable[role] for role in "abcc"))
    found = Scene(StandaloneHost(output=tmp_path / "out", models=folder), folder, states, other)
    yield found
    found.close()


@cache
def drawable_states(paths: Sequence[Path]) -> tuple[Mapping[str, State], Mapping[str, bytes]]:
    states = {role: load_file(path) for role, path in zip(ROLES, paths, strict=True)}
    return states, {role: to_bytes(others(state)) for role, state in states.items()}


def check_restore(scene: Scene, role: str, change: str) -> None:
    view = ended(merge_jobs.restore(scene.session))
    if role != "a" or change not in IN_PLACE:
        assert (view.state, view.text) == (JobState.DONE, "Model a.safetensors restored.")
        scene.assert_holds(scene.original())
    elif change == "shortened":
        assert view.state is JobState.FAILED
        assert str(scene.path("a")) in view.text
        assert "The merge stays in the live model" in view.text
        assert scene.model.live().kind is LiveState.ACTIVE
        scene.assert_holds(scene.merged)
        return
    else:
        assert view.state is JobState.DONE
        assert f"{scene.path('a')} has changed on disk since it was loaded: it was loaded anew" in view.text
        scene.assert_holds(scene.now())
    assert scene.model.live().kind is LiveState.FILE


def check_save(scene: Scene, role: str, change: str) -> None:
    view = ended(merge_jobs.save(scene.session, MergeForm(), "out", overwrite=False))
    reason = "is not there any more" if change in ("renamed", "deleted") else "has changed on disk"
    assert view.state is JobState.FAILED
    assert view.text == f"{scene.path(role)} {reason} since it was merged; merge again."
    assert not scene.path("out").exists()
    assert scene.model.live().kind is LiveState.ACTIVE
    scene.assert_holds(scene.merged)


def check_generate(scene: Scene, first: Any) -> None:
    (image,) = scene.model.images(REQUEST)
    assert image.image.tobytes() == first.image.tobytes()
    assert image.fields[RECIPE_FIELD] == first.fields[RECIPE_FIELD]  # the hashes are those of what was merged
    assert scene.model.live().kind is LiveState.ACTIVE
    scene.assert_holds(scene.merged)


def check_plot(scene: Scene, role: str, change: str) -> None:
    plotted = plot(scene.host, Setting(scene.recipe, REQUEST), ("alpha", "0.2, 0.8"))
    seen: list[bool] = []

    def on_cell(_cell: object, image: object, _progress: object) -> None:
        seen.append(image is not None)
        if len(seen) == 1:
            scene.change(role, change)

    def make() -> None:
        with scene.model.suspended():
            result = run(scene.host, plotted, scene.folder.parent / "plot", on_cell)
            assert str(scene.path(role)) in next(iter(result.failed.values()))

    with pytest.raises(HostError) as raised:
        make()
    assert seen == [True, False]
    assert str(scene.path(role)) in str(raised.value)
    assert "the merge was not put back" in str(raised.value)
    if role == "a" and change == "shortened":
        assert "No model is loaded" in str(raised.value)
        assert scene.model.live().kind is LiveState.NOTHING
        return
    assert scene.model.live().kind is LiveState.FILE
    scene.assert_holds(scene.now() if role == "a" and change in IN_PLACE else scene.original())


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("moment", ["Restore", "Save", "Generate", "next cell"])
def test_a_file_changes_while_its_merge_is_live(scene: Scene, moment: str, change: str, role: str) -> None:
    check_moment(scene, moment, change, role)


@pytest.mark.parametrize(
    ("role", "change"), [*(("a", name) for name in CHANGES), ("b", "overwritten"), ("vae", "deleted")]
)
@pytest.mark.parametrize("moment", ["Restore", "Save", "Generate", "next cell"])
def test_on_the_standalone_host(standalone: Scene, moment: str, change: str, role: str) -> None:
    check_moment(standalone, moment, change, role)


def check_moment(scene: Scene, moment: str, change: str, role: str) -> None:
    scene.merge()
    if moment == "next cell":
        check_plot(scene, role, change)
        return
    (first,) = scene.model.images(REQUEST) if moment == "Generate" else (None,)
    scene.change(role, change)
    if moment == "Restore":
        check_restore(scene, role, change)
    elif moment == "Save":
        check_save(scene, role, change)
    else:
        check_generate(scene, first)


@pytest.mark.parametrize("change", [name for name in CHANGES if name in ("renamed", "deleted", "shortened")])
def test_the_checkpoint_from_before_the_merge_cannot_be_loaded(scene: Scene, change: str) -> None:
    """On the WebUI, whose list still names it, too."""
    before = scene.folder / "before.safetensors"
    save(before, {key: value.clone() for key, value in scene.states["b"].items()})
    scene.host.refresh()
    scene.choose("before")
    scene.model.merge(scene.recipe)
    CHANGES[change](before, b"")
    view = ended(merge_jobs.restore(scene.session))
    assert view.state is JobState.DONE
    assert str(before) in view.text
    assert view.text.endswith("Model a.safetensors stays loaded instead.")
    assert scene.model.live().kind is LiveState.FILE
    scene.assert_holds(scene.original())
    assert ended(merge_jobs.restore(scene.session)).text == "Model a.safetensors restored."  # not for ever


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("role", ["a", "b"])
def test_the_next_merge_is_of_the_files_that_are_there(scene: Scene, role: str, change: str) -> None:
    scene.merge()
    scene.change(role, change)
    again = replace(scene.recipe, alpha=0.25)
    if not scene.path(role).exists() or change == "shortened":
        with pytest.raises(CheckpointError, match=role):
            scene.model.merge(again)
        assert scene.model.live().recipe == scene.recipe  # the merge that was there stays
        scene.assert_holds(scene.merged)
        return
    scene.model.merge(again)
    scene.assert_holds(load_file(merge_to_file(again, scene.folder / "out.safetensors").path))


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
@pytest.mark.parametrize("role", ROLES)
def test_a_file_is_cut_short_while_it_is_merged_to_a_file(
    role: str, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = {}
    for name, state in small_states().items():
        paths[name] = tmp_path / f"{name}{suffix}"
        save(paths[name], state) if suffix == ".safetensors" else torch.save(state, paths[name])
    write, target = SafetensorsWriter.write, tmp_path / "out.safetensors"
    target.write_bytes(b"as it was")

    def shorten_and_write(self: SafetensorsWriter, key: str, start: int, data: memoryview) -> None:
        shorten(paths[role], b"")
        write(self, key, start, data)

    monkeypatch.setattr(SafetensorsWriter, "write", shorten_and_write)
    with pytest.raises(CheckpointError, match=rf"{role}\{suffix} changed while it was read"):
        merge_to_file(recipe_of(paths), target, overwrite=True)
    assert target.read_bytes() == b"as it was"
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("role", ROLES)
def test_a_file_is_cut_short_while_it_is_merged_into_the_model(
    scene: Scene, role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.host.open_model(CheckpointRef("a", scene.path("a")))

    def shortening(job: Callable[..., Tensor | None]) -> Callable[..., Tensor | None]:
        def shorten_before(sink: LiveSink, *piece: Any) -> Tensor | None:
            shorten(scene.path(role), b"")
            return job(sink, *piece)

        return shorten_before

    with monkeypatch.context() as patch:
        for name in ("write", "room"):
            patch.setattr(LiveSink, name, shortening(getattr(LiveSink, name)))
        with pytest.raises((CheckpointError, HostError), match=rf"{role}\.safetensors changed while it was read"):
            scene.model.merge(scene.recipe)
    if role == "a":  # the checkpoint is lost, and no model is said to be loaded
        assert scene.model.live().kind is LiveState.NOTHING
        return
    assert scene.model.live().kind is LiveState.FILE
    scene.assert_holds(scene.original())
