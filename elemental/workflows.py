"""Whole jobs, from a recipe to a plan, a file or images, for the command line and the tab."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

from .errors import CheckpointError, HostError, MergeError, RecipeError, Stopped
from .merge.files.checkpoint import SAFETENSORS, SUFFIXES, Checkpoint, is_there, read_signature
from .merge.files.hashes import compute_sha256, legacy_hash, remembered_sha256
from .merge.files.metadata import (
    LABEL_FIELD,
    RECIPE_FIELD,
    RECIPE_NAME,
    SourceFacts,
    make_metadata,
    metadata_room,
    name_recipe,
    recipe_as_json,
    recipe_from_json,
    recipe_from_metadata,
    with_hashes,
)
from .merge.files.model_locator import AS_RECORDED, ModelLocator, expand_home, model_source
from .merge.files.open_models import OpenModels
from .merge.files.writer import SafetensorsWriter, check_target, resolve_target
from .merge.plan import MergePlan, Role
from .merge.progress import Controls, Stopwatch
from .recipe.block_weights import BUILT_IN_PRESETS, Presets, read_presets
from .recipe.recipe import MergeRecipe, ModelSource
from .recipe.text_files import read_text

if TYPE_CHECKING:
    from .hosts.base import Host, LiveModel
    from .images.image_request import GeneratedImage, ImageRequest
    from .merge.live_merge import LiveMerge

CONFIG_VARIABLE = "ELEMENTAL_CONFIG"
"""Environment variable that sets another folder for the user's presets."""


@dataclass(frozen=True)
class MergeResult:
    """The result of a merge to a file.

    Attributes:
        path: The file.
        plan: The plan of the merge.
        not_finite: Inputs that hold NaN or infinite numbers, by model and key; the result holds them too.
    """

    path: Path
    plan: MergePlan
    not_finite: tuple[tuple[Role, str], ...] = field(default=())


def read_recipe(path: str | Path) -> MergeRecipe:
    """Read the recipe of a merged ``.safetensors`` file, of an image, or of a JSON file.

    Raises:
        CheckpointError: The file, if it is no ``.png``, cannot be read.
        ImageError: A ``.png`` is not there, or cannot be read as an image.
        RecipeError: It holds no recipe, or one that does not fit together or is of a later version.
        SpecError: The recipe's rules cannot be read, or set beta in a mode that has none.
    """
    file = Path(path)
    if file.suffix.lower() == ".png":
        from .images.files import INFOTEXT_FIELD, read_texts
        from .images.infotext import find_value

        texts = read_texts(file)
        in_infotext = find_value(texts.get(INFOTEXT_FIELD, ""), RECIPE_NAME)
        # images that the WebUI saves have the recipe only in the infotext
        return recipe_from_metadata({**({RECIPE_FIELD: in_infotext} if in_infotext else {}), **texts}, name=str(file))
    if file.suffix.lower() in SUFFIXES:
        with Checkpoint(file) as checkpoint:
            return recipe_from_metadata(checkpoint.metadata, name=str(file))
    try:
        return recipe_from_json(read_text(file), name=str(file))
    except (OSError, UnicodeError) as exc:
        raise CheckpointError(f"Cannot read the recipe in {file}: {exc}.") from exc


def user_presets_path() -> Path:
    """Give the file of the user's block weight presets; it may not exist."""
    folder = os.environ.get(CONFIG_VARIABLE) or platformdirs.user_config_path("elemental", appauthor=False)
    return Path(folder) / "presets.txt"


def load_presets() -> Presets:
    """Read the built-in block weight presets and the user's, which replace built-in ones of the same name.

    Raises:
        RecipeError: The user's file, or a line of it, cannot be read, or gives a name twice for one length.
    """
    user_presets = user_presets_path()
    try:
        has_presets = user_presets.is_file()
    except OSError as exc:
        raise RecipeError(f"Cannot read the presets in {user_presets}: {exc.strerror or exc}.") from exc
    return read_presets(BUILT_IN_PRESETS, *([user_presets] if has_presets else []))


def identify_models(recipe: MergeRecipe, *, locator: ModelLocator = AS_RECORDED) -> MergeRecipe:
    """Add the sizes of its models to a recipe, and their hashes where cached.

    Args:
        recipe: What to merge.
        locator: Finds the models.

    Raises:
        CheckpointError: A model is missing, cannot be read or has changed, or there is no such folder.
    """
    facts = {}
    for role, source in recipe.sources.items():
        path = locator.locate(source)
        facts[Role(role)] = SourceFacts(remembered_sha256(path), read_signature(path).size, "", {})
    return with_hashes(recipe, facts)


def plan_merge(recipe: MergeRecipe, *, locator: ModelLocator = AS_RECORDED) -> MergePlan:
    """Plan a recipe.

    Only the headers of the files are read, unless the recipe has hashes that are not cached: then the files are read
    completely to check them.

    Args:
        recipe: What to merge and how.
        locator: Finds the models.

    Raises:
        CheckpointError: A model is missing, damaged, has changed, or is none that can be merged.
        MergeError: The models do not fit together, or one is quantised.
        RecipeError: Block weights are for another architecture.
    """
    with OpenModels(locator) as open_models:
        return open_models.planner(recipe).plan(recipe)


def merge_to_file(
    recipe: MergeRecipe,
    output: str | Path,
    *,
    locator: ModelLocator = AS_RECORDED,
    device: str = "cpu",
    overwrite: bool = False,
    with_hashes: bool = True,
    controls: Controls | None = None,
    on_plan: Callable[[MergePlan], None] = lambda _: None,
) -> MergeResult:
    """Merge checkpoints into a ``.safetensors`` file that contains its recipe.

    The output is written to a temporary file beside the target, and renamed when it is complete. If anything fails, an
    existing file stays unchanged.

    Args:
        recipe: What to merge and how.
        output: The file to write, named .safetensors or .sft; a leading ``~/`` is the user's home folder.
        locator: Finds the models.
        device: Where to compute, as torch names it.
        overwrite: Whether to replace an existing file.
        with_hashes: Whether to write the models' SHA-256 into the file; those not cached are computed during the
            merge.
        controls: Progress and stop.
        on_plan: Called with the plan before any tensor is read; what it raises ends the merge.

    Raises:
        CheckpointError: A model is missing, damaged, has changed, or is none that can be merged.
        MergeError: The models do not fit together, or one is quantised; the output is named otherwise, is one of the
            models, exists already or cannot be written; a result is too large for its format; the device cannot be
            used, or memory runs out.
        RecipeError: Block weights are for another architecture.
        Stopped: The caller asked for it, or the user pressed Ctrl-C when the file was already saved.
        KeyboardInterrupt: The user pressed Ctrl-C before that; what was there before stays.
        Exception: Whatever ``on_plan`` raises.
    """
    controls = controls or Controls()
    target = resolve_target(expand_home(output))
    if target.suffix.lower() not in SAFETENSORS:
        raise MergeError(f"{target}: the name of the result must end in .safetensors.")
    check_target(target, overwrite=overwrite)
    writer: SafetensorsWriter | None = None
    try:
        with OpenModels(locator) as open_models:
            models = open_models.open(recipe)
            _refuse_models(target, models)
            plan = open_models.planner(recipe).plan(recipe)
            on_plan(plan)

            from .merge.execute import FileSink, execute

            hashed = with_hashes and not _made_without_hashes(recipe)
            with _Hashing(models, hashed=hashed, controls=controls) as hashing:
                spelled = models[Role.A].file_keys  # a tensor that A lacks has its usual name
                infos = {spelled.get(tensor.name.key, tensor.name.key): tensor.info for tensor in plan.tensors}
                room = metadata_room(plan, hashing.expected())
                with SafetensorsWriter(target, infos, room=room, overwrite=overwrite) as writer:
                    findings = execute(plan, models, FileSink(writer, spelled), device=device, controls=controls)
                    controls.stage("hashing")
                    facts = hashing.finish()
                    _check_unchanged(models)
                    controls.stage("flushing")
                    writer.commit(make_metadata(plan, facts))
        return MergeResult(target, plan, findings.not_finite)
    except KeyboardInterrupt as exc:
        if writer is None or not writer.saved:
            raise
        raise Stopped(f"Stopped; {target} was saved before that.") from exc


@contextmanager
def live_merge(live: LiveModel, models: OpenModels | ModelLocator = AS_RECORDED) -> Iterator[LiveMerge]:
    """Merge recipes into a live model; when the ``with`` block ends it is restored, unless the merge was kept.

    Args:
        live: The model, as ``Host.open_model`` gives it.
        models: Finds the models of the recipes; or has them open already, and stays so.

    Yields:
        What makes the model equal to a recipe: :meth:`~.merge.live_merge.LiveMerge.apply`.

    Raises:
        CheckpointError: The file that the model was loaded from cannot be read any more, or is none that can be merged.
        HostError: Another merge is using the model, or on leaving, the model could not be restored.
    """
    from .merge.live_merge import LiveMerge

    with ExitStack() as stack:
        opened = models if isinstance(models, OpenModels) else stack.enter_context(OpenModels(models))
        original = live.checkpoint
        file = opened.open_one(model_source(original.path)) if original and is_there(original.path) else None
        merge = stack.enter_context(LiveMerge(live, opened, original=file))
        try:
            yield merge
        finally:
            merge.give_back()  # an interrupt in the first moment of __exit__ would be its last


def make_images(
    host: Host,
    request: ImageRequest,
    model: ModelSource | MergeRecipe,
    *,
    locator: ModelLocator = AS_RECORDED,
    controls: Controls | None = None,
) -> Sequence[GeneratedImage]:
    """Make images from a model, or from a merge in memory; afterwards the host has the model, or A, loaded as it is.

    Args:
        host: What makes the images, such as ``elemental.hosts.standalone.host.StandaloneHost``; it loads the
            model, of a merge A.
        request: What to make, an ``elemental.images.image_request.ImageRequest``.
        model: A model as it is, or a merge.
        locator: Finds the models.
        controls: Progress and stop of the merge.

    Returns:
        As many as the request's batch, in the order of their seeds.

    Raises:
        CheckpointError: A model is missing, damaged, has changed, or is none that can be merged.
        MergeError: The models do not fit together, or cannot be merged into the live model.
        RecipeError: Block weights are for another architecture.
        HostError: The host fails, or the merge is not in the live model when the images are made.
        Stopped: The user asked for it.
    """
    from .hosts.base import CheckpointRef

    first = model.model_a if isinstance(model, MergeRecipe) else model
    path = locator.locate(first)
    live = host.open_model(CheckpointRef(path.stem, path))
    if isinstance(model, ModelSource):
        sha256 = remembered_sha256(path)
        return host.make_images(request, model={**({"Model hash": sha256[:10]} if sha256 else {}), "Model": path.stem})
    with live_merge(live, locator) as merge:
        return images_of_merge(host, request, merge, model, controls=controls)


def images_of_merge(
    host: Host,
    request: ImageRequest,
    merge: LiveMerge,
    recipe: MergeRecipe,
    *,
    controls: Controls | None = None,
    watch: Stopwatch | None = None,
) -> Sequence[GeneratedImage]:
    """Merge a recipe into a live model, and make images that contain the recipe.

    Args:
        host: What makes the images.
        request: What to make.
        merge: The live model.
        recipe: What to merge and how.
        controls: Progress and stop of the merge.
        watch: Counts the seconds of "merging" and "generating".

    Returns:
        As many as the request's batch, in the order of their seeds.

    Raises:
        CheckpointError: A model is missing, damaged, or has changed.
        MergeError: The models do not fit together, or not the live model.
        RecipeError: Block weights are for another architecture.
        HostError: The host fails, or put other numbers into the model before the images were made.
        Stopped: The user asked for it.
    """
    watch = watch or Stopwatch()
    with watch("merging"):
        merge.apply(recipe, controls=controls)
    text = recipe_as_json(recipe, merge.models)
    with watch("generating"):
        images = host.make_images(request, model={LABEL_FIELD: name_recipe(recipe)}, fields={RECIPE_FIELD: text})
    with watch("merging"):
        intact = merge.is_intact()
    if not intact:
        raise HostError("Something else was loaded before the images were made, and the merge is gone: merge again.")
    return images


def _made_without_hashes(recipe: MergeRecipe) -> bool:
    """Tell a recipe of a file made without hashes, which are then left out when it is repeated, too."""
    return any(source.size is not None and source.sha256 is None for source in recipe.sources.values())


def _refuse_models(target: Path, models: Mapping[Role, Checkpoint]) -> None:
    """Refuse to write over what is merged."""
    for role, model in models.items():
        try:
            same = target.exists() and target.samefile(model.path)
        except OSError as exc:
            raise MergeError(f"Cannot write {target}: {exc.filename}: {exc.strerror or exc}.") from exc
        if same:
            raise MergeError(f"{target} is {role.spoken} itself; give the result another name.")


def _check_unchanged(models: Mapping[Role, Checkpoint]) -> None:
    for model in models.values():
        if read_signature(model.path) != model.signature:
            raise CheckpointError(f"{model.path} changed while it was merged.")


class _Hashing:
    """Computes the models' hashes that are not cached, in a thread beside the merge."""

    def __init__(self, models: Mapping[Role, Checkpoint], *, hashed: bool, controls: Controls) -> None:
        self._models = models
        self._controls = controls
        self._ended = threading.Event()
        self._cached = {role: remembered_sha256(model.path) for role, model in models.items()} if hashed else {}
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="hash")
        self._pending: dict[Role, Future[str]] = {}
        self._legacy = {role: legacy_hash(model.path) for role, model in models.items()}

    def __enter__(self) -> _Hashing:
        for role, sha256 in self._cached.items():
            if sha256 is None:
                path = self._models[role].path
                self._pending[role] = self._pool.submit(compute_sha256, path, check_stop=self._check_stop)
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._pool.shutdown()

    def expected(self) -> dict[Role, SourceFacts]:
        """Give the facts at once, with a placeholder for each hash that is not computed yet."""
        return self._facts({role: self._cached[role] or "0" * 64 for role in self._cached})

    def finish(self) -> dict[Role, SourceFacts]:
        """Wait for the hashes, and give the facts."""
        computed = {role: pending.result() for role, pending in self._pending.items()}
        return self._facts({**self._cached, **computed})

    def _facts(self, hashes: Mapping[Role, str | None]) -> dict[Role, SourceFacts]:
        return {
            role: SourceFacts(hashes.get(role), model.signature.size, self._legacy[role], model.metadata)
            for role, model in self._models.items()
        }

    def _check_stop(self) -> None:
        if self._ended.is_set() or self._controls.should_stop():
            raise Stopped
