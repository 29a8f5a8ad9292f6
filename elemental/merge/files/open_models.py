"""Open the models of recipes, each file once, and plan with them.

A file that is open stays the one that is read, whatever happens at its path.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from contextlib import ExitStack, suppress
from itertools import combinations
from types import TracebackType

from ...architectures.keys import FIRST_CONV
from ...errors import CheckpointError
from ...recipe.recipe import MergeRecipe, ModelSource
from ..model_fit import FileFacts, refuse_quantised
from ..part_copies import describe_copies
from ..plan import Role
from ..planner import Planner, planning_key
from .beside import predicts_v, read_config
from .checkpoint import Checkpoint, VaeFile
from .model_locator import AS_RECORDED, ModelLocator, describe_doubt


class OpenModels:
    """The files of one or more recipes, each opened once; a context manager that closes them.

    Args:
        locator: Finds the models.
    """

    def __init__(self, locator: ModelLocator = AS_RECORDED) -> None:
        self._locator = locator
        self._open: dict[tuple[ModelSource, bool], Checkpoint] = {}
        self._planners: dict[Hashable, tuple[dict[Role, Checkpoint], Planner]] = {}
        self._stack = ExitStack()

    def __enter__(self) -> OpenModels:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._planners.clear()
        self._open.clear()
        self._stack.close()

    def open(self, recipe: MergeRecipe) -> dict[Role, Checkpoint]:
        """Open the models of a recipe that are not open yet, and give all of them.

        Raises:
            CheckpointError: A model is missing, damaged, has changed, or cannot be merged.
        """
        return {Role(name): self.open_one(source, Role(name)) for name, source in recipe.sources.items()}

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
        """Give the planner of a recipe; recipes of the same models, mode, VAE and number format share one.

        Raises:
            CheckpointError: A model is missing, damaged, has changed, or cannot be merged.
            MergeError: The models do not fit together, or one is quantised.
        """
        models, key = self.open(recipe), planning_key(recipe)
        if key not in self._planners or self._planners[key][0] != models:
            self._planners[key] = models, _make_planner(recipe, models)
        return self._planners[key][1]


def _check_architecture(file: Checkpoint, role: Role) -> None:
    try:
        _ = file.architecture
    except CheckpointError:
        if any(key.startswith(FIRST_CONV.removesuffix("weight")) for key in file.tensors):  # packed, maybe
            refuse_quantised({role: file.tensors}, FileFacts({role: file.metadata}))
        raise


def _make_planner(recipe: MergeRecipe, models: Mapping[Role, Checkpoint]) -> Planner:
    """Make the planner of a recipe from its open models.

    Raises:
        CheckpointError: A model is of an architecture that cannot be merged.
        MergeError: The models do not fit together, or one is quantised.
    """
    headers = {role: model.metadata for role, model in models.items()}
    renamings = {role: model.renamings for role, model in models.items() if model.renamings}
    v_configs = tuple(role for role, model in models.items() if role is not Role.VAE and _has_v_config(model))
    doubts = [text for model in models.values() for text in model.warnings]
    doubts += [describe_copies(model.file_keys, role) for role, model in models.items()]
    doubts += [describe_doubt(recipe.sources[role.value], model.path, role.spoken) for role, model in models.items()]
    facts = FileFacts(headers, tuple(_same_files(models)), renamings, v_configs, tuple(filter(None, doubts)))
    return Planner(recipe, {role: model.tensors for role, model in models.items()}, facts)


def _has_v_config(model: Checkpoint) -> bool:
    with suppress(CheckpointError):  # that of A is refused when the result is written; others need not be readable
        return predicts_v(read_config(model.path) or b"")
    return False


def _same_files(models: Mapping[Role, Checkpoint]) -> Iterator[Role]:
    """Find the models whose file is that of another one, through links or by another spelling of its path."""
    for (_, one), (role, other) in combinations(models.items(), 2):
        with suppress(OSError):  # a file that is gone is refused when it is read
            if one.path.samefile(other.path):
                yield role
