"""Open the models of a recipe, each file once."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from ...recipe.recipe import MergeRecipe, ModelSource
from ..plan import Role
from .checkpoint import Checkpoint, VaeFile, read_signature
from .model_locator import locate_model


class Sources:
    """The files of one recipe after the other, each opened once; a context manager, which closes them.

    Args:
        folder: Where to look for models that are not where a recipe says, by their SHA-256.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self._folder = None if folder is None else Path(folder)
        self._open: dict[tuple[ModelSource, bool], Checkpoint] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Sources:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.clear()
        self._stack.close()

    def open(self, recipe: MergeRecipe) -> dict[Role, Checkpoint]:
        """Open the models of a recipe, those that are not open yet.

        Raises:
            CheckpointError: One is missing, damaged, has changed, or is none that can be merged.
        """
        return {Role(name): self.open_one(source, Role(name)) for name, source in recipe.sources.items()}

    def open_one(self, source: ModelSource, role: Role = Role.A) -> Checkpoint:
        """Open one model for its part in a merge, unless it is open.

        Raises:
            CheckpointError: It is missing, damaged, has changed, or is none that can be merged.
        """
        key = source, role is Role.VAE
        known = self._open.get(key)
        if known is None or read_signature(known.path) != known.signature:
            path = locate_model(source, self._folder)
            file = self._stack.enter_context(VaeFile(path) if role is Role.VAE else Checkpoint(path))
            if role is not Role.VAE:
                _ = file.architecture  # a stranger is refused by its own name
            self._open[key] = file
        return self._open[key]
