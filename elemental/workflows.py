"""Whole jobs, from a recipe to a plan or a file: what the command line and the tab have in common."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import platformdirs

from .errors import CheckpointError, MergeError, Stopped
from .merge.checkpoint import SAFETENSORS, SUFFIXES, Checkpoint, VaeFile, read_signature
from .merge.controls import Controls
from .merge.hashes import compute_sha256, file_sha256, legacy_hash, remembered_sha256
from .merge.metadata import SourceFacts, make_metadata, metadata_room, recipe_from_json, recipe_from_metadata
from .merge.plan import MergePlan, Role, plan_tensors
from .merge.writer import SafetensorsWriter, check_target, resolve_target
from .spec.recipe import MergeRecipe, ModelSource
from .spec.weights import BUILT_IN_PRESETS, Presets, read_presets

CONFIG_VARIABLE = "ELEMENTAL_CONFIG"
"""Environment variable that names another folder for the user's own presets."""


@dataclass(frozen=True)
class MergeResult:
    """What a merge to a file did.

    Attributes:
        path: The file.
        plan: What was computed.
        not_finite: Inputs that hold NaN or infinite numbers, by model and key; the result holds them too.
    """

    path: Path
    plan: MergePlan
    not_finite: tuple[tuple[Role, str], ...] = field(default=())


def model_source(path: str | Path) -> ModelSource:
    """Name a file as a model of a recipe, by its absolute path; the user's home folder is written ``~``."""
    absolute = Path.cwd() / _expand_home(path)
    home = Path.home()
    if absolute.is_relative_to(home) and home != Path(home.anchor):
        return ModelSource(f"~/{absolute.relative_to(home).as_posix()}")
    return ModelSource(str(absolute))


def _expand_home(path: str | Path) -> Path:
    """Put the user's home for a leading ``~/``; a name that merely starts with a tilde is left as it is."""
    return Path(path).expanduser() if re.match(r"~[/\\]", str(path)) else Path(path)


def read_recipe(path: str | Path) -> MergeRecipe:
    """Read the recipe of a merged ``.safetensors`` file, or of a JSON file.

    Raises:
        CheckpointError: The file cannot be read.
        RecipeError: It holds no recipe.
    """
    file = Path(path)
    if file.suffix.lower() in SAFETENSORS:
        with Checkpoint(file) as checkpoint:
            return recipe_from_metadata(checkpoint.metadata, name=str(file))
    try:
        return recipe_from_json(file.read_text(encoding="utf-8-sig"), name=str(file))
    except (OSError, UnicodeDecodeError) as exc:
        raise CheckpointError(f"Cannot read the recipe in {file}: {exc}.") from exc


def user_presets_path() -> Path:
    """Give the file in which users keep their own block weight presets; it may not exist."""
    folder = os.environ.get(CONFIG_VARIABLE) or platformdirs.user_config_path("elemental", appauthor=False)
    return Path(folder) / "presets.txt"


def load_presets() -> Presets:
    """Read the block weight presets that come with the package, and the user's own over them.

    Raises:
        RecipeError: A line of the user's file cannot be read.
    """
    own = user_presets_path()
    return read_presets(BUILT_IN_PRESETS, *([own] if own.is_file() else []))


def plan_merge(recipe: MergeRecipe, *, models_folder: str | Path | None = None) -> MergePlan:
    """Work out what a recipe would do to each tensor.

    Reads no more than the files' headers, unless the recipe has the models' hashes and these are not remembered: then
    the files are read whole, to be sure of them.

    Args:
        recipe: What to merge and how.
        models_folder: Where to look for models that are not where the recipe says, by their SHA-256.

    Raises:
        CheckpointError: A model is missing, damaged, has changed, or is none that can be merged.
        MergeError: The models do not fit together.
    """
    with _open_models(recipe, models_folder) as models:
        return plan_tensors(recipe, {role: model.tensors for role, model in models.items()})


def merge_to_file(
    recipe: MergeRecipe,
    output: str | Path,
    *,
    models_folder: str | Path | None = None,
    device: str = "cpu",
    overwrite: bool = False,
    with_hashes: bool = True,
    controls: Controls | None = None,
    on_plan: Callable[[MergePlan], None] = lambda _: None,
) -> MergeResult:
    """Merge checkpoints into a ``.safetensors`` file that carries its recipe.

    The output is written beside its target and renamed when it is whole; whatever goes wrong, a file that was
    there before stays as it was.

    Args:
        recipe: What to merge and how.
        output: The file to make.
        models_folder: Where to look for models that are not where the recipe says, by their SHA-256.
        device: Where to compute, as torch names it.
        overwrite: Whether to replace an existing file.
        with_hashes: Whether to write the models' SHA-256 into the file; those not remembered are computed
            meanwhile.
        controls: Progress and stop.
        on_plan: Called with the plan before any tensor is read; what it raises ends the merge.

    Raises:
        CheckpointError: A model is missing, damaged, has changed, or is none that can be merged.
        MergeError: The models do not fit together, or the output cannot be written.
        Stopped: The caller asked for it.
    """
    controls = controls or Controls()
    target = resolve_target(_expand_home(output))
    if target.suffix.lower() not in SAFETENSORS:
        raise MergeError(f"{target}: the result is a .safetensors file; name it so.")
    check_target(target, overwrite=overwrite)
    with _open_models(recipe, models_folder) as models:
        for role, model in models.items():
            if target.exists() and target.samefile(model.path):
                raise MergeError(f"{target} is {role.spoken} itself; give the result another name.")
        plan = plan_tensors(recipe, {role: model.tensors for role, model in models.items()})
        on_plan(plan)

        from .merge.execute import FileSink, execute  # loads torch, which what can be refused does not wait for

        with _Hashing(models, wanted=with_hashes and not _made_without_hashes(recipe), controls=controls) as hashing:
            infos = {tensor.name.key: tensor.info for tensor in plan.tensors}
            room = metadata_room(plan, hashing.expected())
            with SafetensorsWriter(target, infos, room=room, overwrite=overwrite) as writer:
                findings = execute(plan, models, FileSink(writer), device=device, controls=controls)
                controls.stage("hashing")
                facts = hashing.finish()
                _check_unchanged(models)
                controls.stage("flushing")
                writer.commit(make_metadata(plan, facts))
    return MergeResult(target, plan, findings.not_finite)


@contextmanager
def _open_models(recipe: MergeRecipe, models_folder: str | Path | None) -> Iterator[dict[Role, Checkpoint]]:
    folder = None if models_folder is None else Path(models_folder)
    with ExitStack() as stack:
        models: dict[Role, Checkpoint] = {}
        for name, source in recipe.sources.items():
            role = Role(name)
            path = locate_model(source, folder)
            models[role] = stack.enter_context(VaeFile(path) if role is Role.VAE else Checkpoint(path))
            if role is not Role.VAE:
                _ = models[role].architecture  # a stranger is refused by its own name
        yield models


def locate_model(source: ModelSource, models_folder: Path | None = None) -> Path:
    """Find a model where its recipe says, or by its hash; a file that is not the recipe's is never taken.

    Args:
        source: The model; one without hash and size is taken as it is.
        models_folder: Where to look, at any depth, if the file is not where it was.

    Raises:
        CheckpointError: It has changed, or is nowhere to be found.
    """
    path = _expand_home(source.path)
    if _is_recorded(path, source):
        return path
    for candidate in _files_below(models_folder) if source.sha256 else ():
        with suppress(CheckpointError):  # one that cannot be read is not the one
            if _is_recorded(candidate, source):
                return candidate
    state = "has changed since the recipe was made" if path.is_file() else "is not there any more"
    if source.sha256 is None:
        raise CheckpointError(f"{path} {state}, and the recipe has no SHA-256 to find it by.")
    searched = f"No file in {models_folder} has" if models_folder else "--models DIR looks in a folder for a file with"
    raise CheckpointError(f"{path} {state}.\n{searched} its SHA-256 {source.sha256}.")


def _is_recorded(path: Path, source: ModelSource) -> bool:
    """Tell whether a file has the size and the hash that a recipe recorded, as far as it did."""
    if source.size is None and source.sha256 is None:
        return True
    if not path.is_file() or (source.size is not None and read_signature(path).size != source.size):
        return False
    return source.sha256 is None or file_sha256(path) == source.sha256


def _made_without_hashes(recipe: MergeRecipe) -> bool:
    """Tell a recipe of a file made without hashes, which are then left out when it is repeated, too."""
    return any(source.size is not None and source.sha256 is None for source in recipe.sources.values())


def _files_below(folder: Path | None) -> Iterator[Path]:
    if folder is None:
        return
    if not folder.is_dir():
        raise CheckpointError(f"The models folder {folder} does not exist.")
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES and path.is_file():
            yield path


def _check_unchanged(models: Mapping[Role, Checkpoint]) -> None:
    for model in models.values():
        if read_signature(model.path) != model.signature:
            raise CheckpointError(f"{model.path} changed while it was merged.")


class _Hashing:
    """Computes the models' hashes that are not remembered, while the merge runs."""

    def __init__(self, models: Mapping[Role, Checkpoint], *, wanted: bool, controls: Controls) -> None:
        self._models = models
        self._wanted = wanted
        self._controls = controls
        self._ended = threading.Event()
        self._known = {role: remembered_sha256(model.path) for role, model in models.items()} if wanted else {}
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="hash")
        self._pending: dict[Role, Future[str]] = {}
        self._legacy = {role: legacy_hash(model.path) for role, model in models.items()}

    def __enter__(self) -> _Hashing:
        for role, sha256 in self._known.items():
            if sha256 is None:
                path = self._models[role].path
                self._pending[role] = self._pool.submit(compute_sha256, path, check_stop=self._check_stop)
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._pool.shutdown()

    def expected(self) -> dict[Role, SourceFacts]:
        """Give what is known at once, with a stand-in for each hash still to come."""
        return self._facts({role: self._known[role] or "0" * 64 for role in self._known})

    def finish(self) -> dict[Role, SourceFacts]:
        """Wait for the hashes and give everything."""
        found = {role: pending.result() for role, pending in self._pending.items()}
        return self._facts({**self._known, **found})

    def _facts(self, hashes: Mapping[Role, str | None]) -> dict[Role, SourceFacts]:
        return {
            role: SourceFacts(hashes.get(role), model.signature.size, self._legacy[role], model.metadata)
            for role, model in self._models.items()
        }

    def _check_stop(self) -> None:
        if self._ended.is_set() or self._controls.should_stop():
            raise Stopped
