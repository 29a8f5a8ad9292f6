"""A merge into a file: from a recipe to the complete ``.safetensors`` file, with its recipe and what lies beside it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..errors import CheckpointError, MergeError, Stopped
from ..recipe.chains import files_of
from ..recipe.recipe import MergeRecipe, VaeChoice
from ..recipe.spec_warnings import SpecWarning
from .files.beside import ConfigCopy, plan_config, vae_remarks
from .files.checkpoint import SAFETENSORS, Checkpoint
from .files.hashes import compute_sha256, legacy_hash, remember_place
from .files.lora_file import OpenLora
from .files.metadata import SourceFacts, gather_facts, left_out_fields, make_metadata, metadata_room
from .files.model_file import describe_change
from .files.model_locator import AS_RECORDED, ModelLocator, expand_home
from .files.open_models import OpenModels
from .files.writer import SafetensorsWriter, check_target, resolve_target
from .measuring import with_measured_numbers
from .models import Model, all_models, files_in
from .plan import FileRole, MergePlan, Role
from .progress import Controls

_CPU = "cpu"
_Inputs = tuple[tuple[Role, str], ...]


@dataclass(frozen=True)
class MergeResult:
    """The result of a merge to a file.

    Attributes:
        path: The file.
        plan: The plan of the merge.
        not_finite: Inputs that hold NaN or infinite numbers, by model and key; the result holds them too.
        notes: What else was written beside the file, and what of A's header was left out, in lines.
        beside: Warnings of files beside A or the result that decide how they draw; the plan has them, too.
    """

    path: Path
    plan: MergePlan
    not_finite: _Inputs = field(default=())
    notes: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()


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
    existing file stays unchanged. A ``.yaml`` beside model A, which says how it draws, is copied beside the output.

    Args:
        recipe: What to merge and how.
        output: The file to write, named .safetensors or .sft; a leading ``~/`` is the user's home folder.
        locator: Finds the models.
        device: Where to compute, as torch names it.
        overwrite: Whether to replace an existing file, and its ``.yaml``.
        with_hashes: Whether to write the models' SHA-256 into the file; those not cached are computed during the
            merge.
        controls: Progress and stop.
        on_plan: Called with the plan before any tensor is read; what it raises ends the merge.

    Raises:
        CheckpointError: A model is missing, damaged, has changed, or is none that can be merged.
        MergeError: The models do not fit together, or one is quantised; the output is named otherwise, is one of the
            models, exists already or cannot be written; another ``.yaml`` is beside it; a result is too large for its
            format; the device cannot be used, or memory runs out.
        RecipeError: Block weights are for another architecture; or the models have nothing that the mode could measure.
        Stopped: The caller asked for it, or the user pressed Ctrl-C when the file was already saved.
        KeyboardInterrupt: The user pressed Ctrl-C before that; what was there before stays.
        Exception: Whatever ``on_plan`` raises.
    """
    result = _Output(expand_home(output), overwrite=overwrite)
    controls = controls or Controls()
    try:
        with OpenModels(locator) as open_models:
            models, loras = open_models.open(recipe), open_models.loras(recipe)
            everything = all_models(models, loras)
            result.refuse(everything)
            base = models[Role.A].base.path
            config = plan_config(base, result.named, overwrite=overwrite)
            beside = vae_remarks(base, result.named, chosen=_chooses_vae(recipe))
            beside += [config.warning] if config.warning else []
            plan = open_models.planner(recipe).plan(recipe)
            plan = replace(plan, warnings=(*plan.warnings, *map(SpecWarning, beside)))
            on_plan(plan)
            measured = with_measured_numbers(recipe, open_models, controls=controls)
            if measured != recipe:
                models, loras = open_models.open(measured), open_models.loras(measured)
                plan = replace(open_models.planner(measured).plan(measured), warnings=plan.warnings)
            hashed = with_hashes and not _made_without_hashes(recipe)
            with _Hashing(everything, hashed=hashed, controls=controls) as hashing:
                not_finite = result.write(plan, models, hashing, config, loras=loras, device=device, controls=controls)
            notes = config.note, left_out_fields(models[Role.A].metadata)
            for file in files_in(everything):
                remember_place(file.path)
        return MergeResult(result.target, plan, not_finite, tuple(filter(None, notes)), tuple(beside))
    except KeyboardInterrupt as exc:
        if not result.is_saved():
            raise
        raise Stopped(f"Stopped; {result.target} was saved before that.") from exc


class _Output:
    """The file that is to be written.

    Args:
        named: Its path as the user wrote it: hosts find what lies beside this.
        overwrite: Whether it may replace a file.

    Attributes:
        named: The same.
        target: The file that this path leads to.

    Raises:
        MergeError: It is named otherwise, exists already, or cannot be written.
    """

    def __init__(self, named: Path, *, overwrite: bool) -> None:
        self.named = named
        self.target = resolve_target(named)
        self._overwrite = overwrite
        self._writer: SafetensorsWriter | None = None
        if self.target.suffix.lower() not in SAFETENSORS:
            raise MergeError(f"{self.target}: the name of the result must end in .safetensors.")
        check_target(self.target, overwrite=overwrite)

    def refuse(self, models: Mapping[FileRole, Model]) -> None:
        """Refuse to write over what is merged."""
        for role, model in models.items():
            if any(map(self._is_same, model.files)):
                itself = f"{role.spoken} itself" if isinstance(model, Checkpoint) else f"a model of {model.name}"
                raise MergeError(f"{self.target} is {itself}; give the result another name.")

    def _is_same(self, file: Checkpoint) -> bool:
        try:
            return self.target.exists() and self.target.samefile(file.path)
        except OSError as exc:
            raise MergeError(f"Cannot write {self.target}: {exc.filename}: {exc.strerror or exc}.") from exc

    def is_saved(self) -> bool:
        """Tell whether the file is there, complete."""
        return self._writer is not None and self._writer.saved

    def write(
        self,
        plan: MergePlan,
        models: Mapping[Role, Model],
        hashing: _Hashing,
        config: ConfigCopy,
        *,
        loras: Sequence[OpenLora],
        device: str,
        controls: Controls,
    ) -> _Inputs:
        """Compute the tensors and write them, with A's names for them; then the header, and what lies beside.

        Returns:
            The inputs that hold NaN or infinite numbers.
        """
        spelled = models[Role.A].file_keys  # a tensor that A lacks has its usual name
        infos = {spelled.get(tensor.name.key, tensor.name.key): tensor.info for tensor in plan.tensors}
        room = metadata_room(plan, hashing.expected())
        with SafetensorsWriter(self.target, infos, room=room, overwrite=self._overwrite) as writer:
            self._writer = writer
            findings = None
            if device == _CPU and "torch" not in sys.modules:
                from .without_torch import write_weight_sums  # numpy is not for everybody who lists commands

                findings = write_weight_sums(plan, models, writer, file_keys=spelled, controls=controls)
            if findings is None:
                from .execute import FileSink, execute

                sink = FileSink(writer, spelled)
                findings = execute(plan, models, sink, loras=loras, device=device, controls=controls)
            controls.stage("hashing")
            facts = hashing.finish()
            _check_unchanged(all_models(models, loras))
            controls.stage("flushing")
            with config.placed(is_saved=self.is_saved):
                writer.commit(make_metadata(plan, facts))
        return findings.not_finite


def _made_without_hashes(recipe: MergeRecipe) -> bool:
    """Tell a recipe of a file made without hashes, which are then left out when it is repeated, too."""
    files = [source for source in recipe.sources.values() if source.recipe is None]
    files = files or [source for _, source in files_of(recipe)]  # a recipe within may be saved before hashes are known
    return any(source.size is not None and source.sha256 is None for source in files)


def _chooses_vae(recipe: MergeRecipe) -> bool:
    """Tell whether a file is chosen for the VAE, also in a recipe that model A is."""
    inner = recipe.model_a.recipe
    return recipe.vae is VaeChoice.FILE or (inner is not None and _chooses_vae(inner))


def _check_unchanged(models: Mapping[FileRole, Model]) -> None:
    for file in files_in(models):
        if describe_change(file.path, file.identity):
            raise CheckpointError(f"{file.path} changed while it was merged.")


class _Hashing:
    """Computes the files' hashes that are not cached, in a thread beside the merge."""

    def __init__(self, models: Mapping[FileRole, Model], *, hashed: bool, controls: Controls) -> None:
        self._models = models
        self._controls = controls
        self._ended = threading.Event()
        files = files_in(models)
        self._cached = {file: file.remembered_sha256() for file in files} if hashed else {}
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="hash")
        self._pending: dict[Checkpoint, Future[str]] = {}
        self._legacy = {file: legacy_hash(file.path) for file in files}

    def __enter__(self) -> _Hashing:
        for file, sha256 in self._cached.items():
            if sha256 is None:
                self._pending[file] = self._pool.submit(compute_sha256, file.path, check_stop=self._check_stop)
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._pool.shutdown()

    def expected(self) -> dict[FileRole, SourceFacts]:
        """Give the facts at once, with a placeholder for each hash that is not computed yet."""
        return self._facts({file: self._cached[file] or "0" * 64 for file in self._cached})

    def finish(self) -> dict[FileRole, SourceFacts]:
        """Wait for the hashes, and give the facts."""
        computed = {file: pending.result() for file, pending in self._pending.items()}
        return self._facts({**self._cached, **computed})

    def _facts(self, hashes: Mapping[Checkpoint, str | None]) -> dict[FileRole, SourceFacts]:
        def of_file(file: Checkpoint) -> SourceFacts:
            return SourceFacts(hashes.get(file), file.signature.size, self._legacy[file], file.metadata)

        return gather_facts(self._models, of_file)

    def _check_stop(self) -> None:
        if self._ended.is_set() or self._controls.should_stop():
            raise Stopped
