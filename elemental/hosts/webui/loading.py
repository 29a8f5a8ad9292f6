"""The WebUI's queue, and what happens before the WebUI itself loads a checkpoint."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from modules import call_queue, shared

from ...errors import ElementalError

_log = logging.getLogger(__name__)

CHECKPOINT_OPTION = "sd_model_checkpoint"
LOADING_OPTIONS = (CHECKPOINT_OPTION, "fp8_storage", "cache_fp16_weight", "sd_text_encoder")
"""The settings that make the WebUI load a checkpoint when they change; the last one is reForge's."""


class HostQueue:
    """The WebUI's queue, which one thread at a time may use; that thread may enter it again.

    The WebUI's own lock would block a thread that enters twice. Whoever enters lets the WebUI first load what its user
    has chosen: otherwise a merge that came between would be loaded over.
    """

    def __init__(self) -> None:
        self._owner: int | None = None
        self._reactions = 0
        self._reacted = threading.Condition()

    @property
    def mine(self) -> bool:
        """Whether this thread is in the queue."""
        return self._owner == threading.get_ident()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Wait for the queue, unless this thread is in it already."""
        if self.mine:
            yield
            return
        while True:
            with call_queue.queue_lock:
                if not self._reactions:
                    with self.entered():
                        yield
                    return
            with self._reacted:
                self._reacted.wait_for(lambda: not self._reactions)

    @contextmanager
    def reaction(self) -> Iterator[None]:
        """Keep others out of the queue while the WebUI reacts to a choice; begun in the queue, and ended outside."""
        with self._reacted:
            self._reactions += 1
        try:
            yield
        finally:
            with self._reacted:
                self._reactions -= 1
                self._reacted.notify_all()

    @contextmanager
    def at_once(self) -> Iterator[bool]:
        """Enter the queue if nobody is in it, without ever waiting, and tell whether that worked."""
        if not call_queue.queue_lock.acquire(blocking=False):
            yield False
            return
        try:
            with self.entered():
                yield True
        finally:
            call_queue.queue_lock.release()

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Note that this thread is in the queue, because the WebUI holds its lock for it."""
        before, self._owner = self._owner, threading.get_ident()
        try:
            yield
        finally:
            self._owner = before


class LoadCalls:
    """Functions to call before the WebUI loads a checkpoint."""

    def __init__(self) -> None:
        self._calls: list[Callable[[], None]] = []

    def add(self, call: Callable[[], None]) -> None:
        """Add a function, to be called after those before it."""
        self._calls.append(call)

    def __call__(self) -> None:
        """Call all of them; an ElementalError is logged, because the WebUI loads the checkpoint in any case."""
        for call in self._calls:
            try:
                call()
            except ElementalError as exc:
                _log.warning("Before another checkpoint is loaded: %s", exc)


class LoadGate:
    """Runs before the WebUI's reaction to a changed setting that makes it load a checkpoint.

    The WebUI reads its settings during jobs and images, too. So if the user chooses a checkpoint during one of our
    jobs, or while a merge is in the model, the setting names the checkpoint that is loaded until the queue is free.

    Args:
        then: The WebUI's reaction.
        queue: The WebUI's queue.
        calls: Called before the reaction.
        needed_checkpoint: Gives the WebUI's name of the checkpoint that must stay until then; None if none must.
        option: The name of the setting; only a choice of a checkpoint is held back.
    """

    def __init__(
        self,
        then: Callable[[], None] | None,
        *,
        queue: HostQueue,
        calls: Callable[[], None],
        needed_checkpoint: Callable[[], str | None],
        option: str,
    ) -> None:
        self._then = then
        self._queue = queue
        self._calls = calls
        self._needed_checkpoint = needed_checkpoint
        self._is_choice = option == CHECKPOINT_OPTION

    def __call__(self) -> None:
        """Wait for the queue, make the calls, and let the WebUI react."""
        chosen = shared.opts.data.get(CHECKPOINT_OPTION)
        needed = self._needed_checkpoint() if self._is_choice and not self._queue.mine else None
        if needed is not None:
            shared.opts.data[CHECKPOINT_OPTION] = needed
        with ExitStack() as stack:
            with self._queue():
                if needed is not None:
                    shared.opts.data[CHECKPOINT_OPTION] = chosen
                self._calls()
                stack.enter_context(self._queue.reaction())
            if self._then is not None:
                self._then()  # takes the WebUI's lock itself


def put_gates(make: Callable[[str, Callable[[], None] | None], LoadGate]) -> None:
    """Put a gate before each setting that makes the WebUI load a checkpoint; a gate that is there already stays.

    Args:
        make: Makes the gate of a setting from its name and the WebUI's reaction.
    """
    for option in LOADING_OPTIONS:
        info = shared.opts.data_labels.get(option)
        if info is not None and not isinstance(info.onchange, LoadGate):
            info.onchange = make(option, info.onchange)
