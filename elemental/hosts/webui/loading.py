"""Whose turn it is in the WebUI, and what has to happen before it loads a checkpoint by its own means."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from modules import call_queue, shared

from ...errors import ElementalError

_log = logging.getLogger(__name__)

CHECKPOINT_OPTION = "sd_model_checkpoint"
LOADING_OPTIONS = (CHECKPOINT_OPTION, "fp8_storage", "cache_fp16_weight")
"""The settings that the host loads a checkpoint for when they change."""


class Turn:
    """The host's queue: one thread at a time has its turn, and may ask for it again meanwhile.

    The host's own lock blocks a thread that asks twice.
    """

    def __init__(self) -> None:
        self._owner: int | None = None

    @property
    def mine(self) -> bool:
        """Whether this thread has its turn."""
        return self._owner == threading.get_ident()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Wait for a turn, unless this thread has it."""
        if self.mine:
            yield
            return
        with call_queue.queue_lock, self.granted():
            yield

    @contextmanager
    def granted(self) -> Iterator[None]:
        """Take note that the host has given this thread its turn."""
        before, self._owner = self._owner, threading.get_ident()
        try:
            yield
        finally:
            self._owner = before


class LoadCalls:
    """What is called before the host loads a checkpoint."""

    def __init__(self) -> None:
        self._calls: list[Callable[[], None]] = []

    def add(self, call: Callable[[], None]) -> None:
        """Have something called, after what was added before."""
        self._calls.append(call)

    def __call__(self) -> None:
        """Call everything; an ElementalError is logged, since the host is about to load something else anyway."""
        for call in self._calls:
            try:
                call()
            except ElementalError as exc:
                _log.warning("Before another checkpoint is loaded: %s", exc)


class LoadGate:
    """Stands before what the host does when a setting changes that it loads a checkpoint for.

    The host reads its settings in mid-job, too: the user's new choice waits there until the job is done.

    Args:
        then: What the host does.
        turn: The queue.
        calls: What comes first.
        hold: Gives the checkpoint that a running job needs, by the host's name; None if there is no job.
        option: The name of the setting; only that of the checkpoint is a choice that can be held back.
    """

    def __init__(
        self,
        then: Callable[[], None] | None,
        *,
        turn: Turn,
        calls: Callable[[], None],
        hold: Callable[[], str | None],
        option: str,
    ) -> None:
        self._then = then
        self._turn = turn
        self._calls = calls
        self._hold = hold
        self._chooses = option == CHECKPOINT_OPTION

    def __call__(self) -> None:
        """Wait for a turn, call what comes first, and let the host go on."""
        chosen = shared.opts.data.get(CHECKPOINT_OPTION)
        held = self._hold() if self._chooses and not self._turn.mine else None
        if held is not None:
            shared.opts.data[CHECKPOINT_OPTION] = held
        with self._turn():
            if held is not None:
                shared.opts.data[CHECKPOINT_OPTION] = chosen
            self._calls()
        if self._then is not None:
            self._then()  # takes the host's lock itself


def put_gates(make: Callable[[str, Callable[[], None] | None], LoadGate]) -> None:
    """Put a gate before each setting that the host loads a checkpoint for; where there is one, it stays.

    Args:
        make: Makes the gate of a setting, before what the host does now.
    """
    for option in LOADING_OPTIONS:
        info = shared.opts.data_labels.get(option)
        if info is not None and not isinstance(info.onchange, LoadGate):
            info.onchange = make(option, info.onchange)
