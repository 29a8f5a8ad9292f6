"""Makes the images of a run on many workers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..errors import HostError
from ..images.image_request import GeneratedImage
from ..merge.files.metadata import RECIPE_FIELD, recipe_as_json
from ..merge.files.open_models import OpenModels
from ..merge.models import all_models
from ..merge.progress import Stopwatch
from ..recipe.recipe import MergeRecipe
from ..runs.cells import Cell, order_cells
from ..runs.estimate import refuse_changed
from ..runs.image_maker import ImageMaker, Inbox
from .cell_worker import CellImage
from .crew import Crew, TaskInbox
from .worker import Outcome


class ClusterMaker(ImageMaker):
    """Makes the images of cells on workers.

    Args:
        crew: The workers.
        open_models: The models as this machine sees them; the texts in images are made from these.
    """

    def __init__(self, crew: Crew, open_models: OpenModels) -> None:
        self._crew = crew
        self._open_models = open_models

    @property
    def at_once(self) -> int:
        """The number of workers."""
        return self._crew.count

    def make(self, cells: Sequence[Cell], inbox: Inbox) -> None:
        """Make the images of cells, in the order in which they are done.

        Raises:
            HostError: All workers are gone.
            Stopped: The inbox's controls asked for it; what is being made is lost.
        """
        self._crew.do(order_cells(cells), _Cells(inbox, self._open_models))


class _Cells(TaskInbox[Cell]):
    """Gives the images of cells to the inbox of a run."""

    def __init__(self, inbox: Inbox, open_models: OpenModels) -> None:
        self._inbox = inbox
        self._open_models = open_models

    def should_stop(self) -> bool:
        return self._inbox.controls.should_stop()

    def begin(self, task: Cell) -> None:
        self._inbox.begin(task)

    def give_up(self, task: Cell, error: HostError) -> None:
        self._inbox.fail(task, error)

    def take(self, task: Cell, outcome: Outcome, device: str | None) -> None:
        seconds = dict(outcome.seconds)
        loading = Stopwatch()
        loading.seconds = {"loading": seconds.pop("loading", 0.0)}
        self._inbox.watch.add(loading)
        try:
            made = outcome.made
            if not isinstance(made, CellImage):
                raise HostError(str(outcome.error))
            refuse_changed(self._inbox.models)
            generated = self._with_known_hashes(made.generated, made.recipe)
        except Exception as exc:  # an error of one cell must not cost the others
            self._inbox.fail(task, exc, seconds)
        else:
            self._inbox.take(task, generated, seconds, device)

    def _with_known_hashes(self, generated: GeneratedImage, recipe: MergeRecipe) -> GeneratedImage:
        """Write the recipe in an image with the hashes that this machine knows: each node may know others."""
        models = all_models(self._open_models.open(recipe), self._open_models.loras(recipe))
        return replace(generated, fields={**generated.fields, RECIPE_FIELD: recipe_as_json(recipe, models)})
