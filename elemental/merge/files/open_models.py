"""Open the models of recipes, each file once, and plan with them.

A file that is open stays the one that is read, whatever happens at its path.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from itertools import combinations
from types import TracebackType
from typing import TYPE_CHECKING

from ...architectures.keys import FIRST_CONV
from ...errors import CheckpointError, MergeError, RecipeError, SpecError
from ...recipe.chains import describe_place
from ...recipe.recipe import MergeRecipe, ModelSource
from ..model_fit import FileFacts, refuse_quantised
from ..models import Model, with_loras
from ..part_copies import describe_copies
from ..plan import FileRole, Role, sources_of
from ..planner import Planner, planning_key
from .beside import predicts_v, read_config
from .checkpoint import Checkpoint, VaeFile
from .model_locator import AS_RECORDED, ModelLocator, describe_doubt

if TYPE_CHECKING:
    from ..chained_model import ChainedModel
    from .lora_file import LoraFile, OpenLora


class OpenModels:
    """The files of one or more recipes, each opened once; a context manager that closes them.

    Args:
        locator: Finds the models.

    Attributes:
        measured: Numbers of modes that were measured in the models; see :mod:`..measuring`.
    """

    def __init__(self, locator: ModelLocator = AS_RECORDED) -> None:
        self._locator = locator
        self._open: dict[tuple[ModelSource, bool], Checkpoint] = {}
        self._lora_files: dict[ModelSource, LoraFile] = {}
        self._chained: dict[tuple[ModelSource, bool], ChainedModel] = {}
        self._planners: dict[Hashable, tuple[dict[FileRole, Model], Planner]] = {}
        self._stack = ExitStack()
        self.measured: dict[Hashable, Mapping[str, float]] = {}

    def __enter__(self) -> OpenModels:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._planners.clear()
        self._open.clear()
        self._lora_files.clear()
        self._chained.clear()
        self._stack.close()

    def open(self, recipe: MergeRecipe) -> dict[Role, Model]:
        """Open the models of a recipe that are not open yet, and give all of them.

        Raises:
            CheckpointError: A model is missing, damaged, has changed, or cannot be merged.
            MergeError: A model is quantised, or those of a recipe in the place of a model do not fit together.
            RecipeError: Block weights of such a recipe are for another architecture.
        """
        return {Role(name): self.open_any(source, Role(name)) for name, source in recipe.sources.items()}

    def open_any(self, source: ModelSource, role: Role) -> Model:
        """Open a model for its part in a merge, be it a file or a recipe.

        Raises:
            CheckpointError: A model is missing, damaged, has changed, or cannot be merged.
            MergeError: A model is quantised, or those of the recipe do not fit together.
            RecipeError: Block weights of the recipe are for another architecture.
        """
        if source.recipe is None:
            return self.open_one(source, role)
        try:
            return self._open_chained(source, source.recipe, role)
        except SpecError as exc:
            raise SpecError(f"{describe_place(role.spoken, source)}: {exc}", exc.problems) from exc
        except (CheckpointError, MergeError, RecipeError) as exc:
            raise type(exc)(f"{describe_place(role.spoken, source)}: {exc}") from exc

    def _open_chained(self, source: ModelSource, recipe: MergeRecipe, role: Role) -> ChainedModel:
        """Plan a recipe in the place of a model, unless its models are the ones that it was planned with."""
        from ..chained_model import ChainedModel  # as for LoRAs

        models, key = self.open(recipe), (source, role is Role.VAE)
        chained = self._chained.get(key)
        loras = self.loras(recipe)
        if chained is None or chained.models != models or chained.loras != loras:
            plan = self.planner(recipe).plan(recipe)
            chained = ChainedModel(source.name, plan, models, loras=loras, vae_alone=role is Role.VAE)
            self._chained[key] = chained
        return chained

    def open_loras(self, recipe: MergeRecipe) -> tuple[LoraFile, ...]:
        """Open the LoRAs of a recipe that are not open yet, and give all of them, in its order.

        Raises:
            CheckpointError: A LoRA is missing, damaged, has changed, is none, or of a format that cannot be merged.
        """
        return tuple(self._open_lora(lora.file) for lora in recipe.loras)

    def _open_lora(self, source: ModelSource) -> LoraFile:
        # here, since most merges have none, and importing what reads them takes a while
        from .lora_file import LoraFile

        file = self._lora_files.get(source)
        if file is None:
            file = LoraFile(self._locator.locate(source))
            self._stack.enter_context(file)
            _ = file.layers  # what is no LoRA is refused here
            self._lora_files[source] = file
        elif file.has_changed():
            raise CheckpointError(f"{file.path} has changed on disk since it was opened: merge again.")
        return file

    def open_one(self, source: ModelSource, role: Role = Role.A) -> Checkpoint:
        """Open a model for its part in a merge, unless it is open already.

        Raises:
            CheckpointError: The model is missing, damaged, has changed, or cannot be merged.
            MergeError: It is quantised, its first layer too.
        """
        key = source, role is Role.VAE
        file = self._open.get(key)
        if file is None:
            path = self._locator.locate(source)
            file = self._stack.enter_context(VaeFile(path) if role is Role.VAE else Checkpoint(path))
            if role is not Role.VAE:
                _check_architecture(file, role)  # an error about it names the file here, and only its role later
            self._open[key] = file
        elif file.has_changed():
            raise CheckpointError(f"{file.path} has changed on disk since it was opened: merge again.")
        return file

    def planner(self, recipe: MergeRecipe) -> Planner:
        """Give the planner of a recipe; recipes of the same files, mode, VAE and number format share one.

        Raises:
            CheckpointError: A model is missing, damaged, has changed, or cannot be merged.
            MergeError: The models do not fit together, or one is quantised.
        """
        models, loras, key = self.open(recipe), self.open_loras(recipe), planning_key(recipe)
        opened = with_loras(models, loras)
        if key not in self._planners or self._planners[key][0] != opened:
            self._planners[key] = opened, _make_planner(recipe, models, loras)
        return self._planners[key][1]

    def loras(self, recipe: MergeRecipe) -> tuple[OpenLora, ...]:
        """Give the LoRAs of a recipe, and what of them has a place in its model A.

        Raises:
            CheckpointError: As :meth:`planner` does.
            MergeError: As there.
        """
        if not recipe.loras:
            return ()
        from .lora_file import OpenLora

        pairs = zip(self.open_loras(recipe), self.planner(recipe).loras, strict=True)
        return tuple(OpenLora(file, fit) for file, fit in pairs)


def _check_architecture(file: Checkpoint, role: Role) -> None:
    try:
        _ = file.architecture
    except CheckpointError:
        if any(key.startswith(FIRST_CONV.removesuffix("weight")) for key in file.tensors):  # packed, maybe
            refuse_quantised({role: file.tensors}, FileFacts({role: file.metadata}))
        raise


def _make_planner(recipe: MergeRecipe, models: Mapping[Role, Model], loras: Sequence[LoraFile]) -> Planner:
    """Make the planner of a recipe from its open models.

    Raises:
        CheckpointError: A model is of an architecture that cannot be merged.
        MergeError: The models do not fit together, or one is quantised.
    """
    headers = {role: model.metadata for role, model in models.items()}
    renamings = {role: model.renamings for role, model in models.items() if model.renamings}
    v_configs = tuple(role for role, model in models.items() if role is not Role.VAE and _has_v_config(model))
    doubts = [text for model in (*models.values(), *loras) for text in model.warnings]
    files = {role: model for role, model in models.items() if isinstance(model, Checkpoint)}  # a chain told its own
    doubts += [describe_copies(model.file_keys, role) for role, model in files.items()]
    named = sources_of(recipe)
    doubts += [describe_doubt(named[role], file.path, role.spoken) for role, file in with_loras(files, loras).items()]
    facts = FileFacts(
        headers,
        tuple(_same_files(files)),
        renamings,
        v_configs,
        tuple(filter(None, doubts)),
        [(lora.name, lora.layers) for lora in loras],
    )
    return Planner(recipe, {role: model.tensors for role, model in models.items()}, facts)


def _has_v_config(model: Model) -> bool:
    with suppress(CheckpointError):  # that of A is refused when the result is written; others need not be readable
        return predicts_v(read_config(model.base.path) or b"")
    return False


def _same_files(models: Mapping[Role, Checkpoint]) -> Iterator[Role]:
    """Find the models whose file is that of another one, through links or by another spelling of its path."""
    for (_, one), (role, other) in combinations(models.items(), 2):
        with suppress(OSError):  # a file that is gone is refused when it is read
            if one.path.samefile(other.path):
                yield role
