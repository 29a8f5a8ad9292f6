"""Who does which tasks: the order that one worker would use is cut into runs, and who is idle takes over."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import islice, pairwise
from typing import Generic, TypeVar

T = TypeVar("T")


class Shares(Generic[T]):
    """The tasks that are still to be begun, in one run of neighbours for each worker.

    Neighbours in the order differ in little, so a worker that keeps to its run writes few bytes between two images.

    Args:
        tasks: The tasks, in the order that one worker would use.
        workers: How many workers there are.
    """

    def __init__(self, tasks: Sequence[T], workers: int) -> None:
        cuts = [len(tasks) * number // workers for number in range(workers + 1)]
        self._runs = [deque(tasks[start:end]) for start, end in pairwise(cuts)]

    def __len__(self) -> int:
        """How many tasks are to be begun."""
        return sum(map(len, self._runs))

    def next(self, worker: int) -> T | None:
        """Give a worker the next task of its run, or one of a run that it takes over; None if all are begun.

        The later half of the longest run is taken over: its owner goes on with the half that is nearer to what it has.

        Args:
            worker: Its number, from 0.
        """
        if not self._runs[worker]:
            self._take_over(worker)
        run = self._runs[worker]
        return run.popleft() if run else None

    def give_back(self, worker: int, task: T) -> None:
        """Put a task back at the beginning of a worker's run, from where others can take it over."""
        self._runs[worker].appendleft(task)

    def _take_over(self, worker: int) -> None:
        longest = max(self._runs, key=len)
        kept = len(longest) // 2
        self._runs[worker] = deque(islice(longest, kept, None))
        while len(longest) > kept:
            longest.pop()
