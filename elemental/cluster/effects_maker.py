"""Makes the images and backward passes of an estimate of effects on many workers."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import HostError
from ..images.image_request import GeneratedImage
from ..runs.effect_estimate import EffectOrder
from ..runs.effect_maker import Drawing, EffectInbox, EffectMaker, Prepared, Unit
from .crew import Crew, TaskInbox
from .effects_worker import EffectMade, EffectTask
from .worker import Outcome


class ClusterEffects(EffectMaker):
    """Makes the units of an estimate on workers, each of which keeps to few images: the way to one costs an image.

    Args:
        crew: The workers.
    """

    def __init__(self, crew: Crew) -> None:
        self._crew = crew

    def prepare(self, order: EffectOrder, inbox: EffectInbox) -> Prepared:
        """Make the image of each request; workers that would have none make one too, and have the model then.

        Raises:
            ElementalError: As :class:`EffectMaker` says; or a unit cost workers, or all of them are gone.
            Stopped: The inbox's controls asked for it.
        """
        self._order = order
        wanted = range(max(len(order.requests), self._crew.count))
        units = _Units(inbox)
        self._do([Drawing(index % len(order.requests)) for index in wanted], units)
        assert units.prepared is not None  # there is an image, or an error was raised
        return units.prepared

    def make(self, units: Sequence[Unit], inbox: EffectInbox) -> None:
        """Make units in any order; what can be made is made before an error is raised.

        Raises:
            ElementalError: A unit cannot be made, or cost workers, or all workers are gone.
            Stopped: The inbox's controls asked for it; what is being made is lost.
        """
        self._do(units, _Units(inbox))

    def _do(self, units: Sequence[Unit], inbox: _Units) -> None:
        tasks = [EffectTask(self._order, unit) for unit in sorted(units, key=lambda unit: unit.request)]
        self._crew.do(tasks, inbox)
        if inbox.error is not None:
            raise inbox.error


class _Units(TaskInbox[EffectTask]):
    """Gives units to the inbox of an estimate, each once.

    Attributes:
        prepared: What the first worker with an image knows.
        error: The first error. After one of a worker, which others are likely to meet, nothing more is begun.
    """

    def __init__(self, inbox: EffectInbox) -> None:
        self._inbox = inbox
        self._taken: set[Unit] = set()
        self.prepared: Prepared | None = None
        self.error: Exception | None = None

    def should_stop(self) -> bool:
        return self._inbox.controls.should_stop()

    def begin(self, task: EffectTask) -> None:
        self._inbox.begin(task.unit)

    def give_up(self, task: EffectTask, error: HostError) -> None:
        self.error = self.error or HostError(f"{task.name.capitalize()}: {error}")

    def take(self, task: EffectTask, outcome: Outcome, device: str | None) -> None:  # noqa: ARG002
        made = outcome.made
        if not isinstance(made, EffectMade):
            self.error, self.ended = self.error or outcome.error, True
            return
        if made.prepared is not None and self.prepared is None:
            self.prepared = made.prepared
            for note in made.notes:  # others would say the same
                self._inbox.note(note)
        if task.unit in self._taken:
            return
        self._taken.add(task.unit)
        if isinstance(task.unit, Drawing):
            assert isinstance(made.made, GeneratedImage)
            self._inbox.take_image(task.unit, made.made)
        else:
            assert not isinstance(made.made, GeneratedImage)
            self._inbox.take_pass(task.unit, made.made)
