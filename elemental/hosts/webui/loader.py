"""How AUTOMATIC1111's WebUI loads checkpoints, without changing its settings."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from modules import devices, sd_models, shared

from ...errors import HostError
from .checkpoints import (
    is_file_of,
    override_checkpoint,
    ref_of,
    secure_settings,
    selected_checkpoint,
)
from .errors import describe_error
from .load_count import count_loads
from .loading import LoadGate, put_gates
from .parts import LoadingHost

_log = logging.getLogger(__name__)


class WebUILoader:
    """Loads by ``sd_models.reload_model_weights``, and keeps a model by overriding the setting that names one."""

    def model(self) -> Any:
        """Give the WebUI's model; None if none is loaded."""
        return sd_models.model_data.sd_model

    def in_memory(self) -> Sequence[Any]:
        """Give all models that the WebUI may use again."""
        return [sd_models.model_data.sd_model, *sd_models.model_data.loaded_sd_models]

    def is_loaded(self, info: Any) -> bool:
        """Tell whether the WebUI's model is this checkpoint."""
        loaded = info_of(self.model())
        return loaded is not None and is_file_of(loaded, ref_of(info).path)

    def load(self, info: Any, *, force: bool) -> None:
        """Have the WebUI load a checkpoint into its live model; its settings do not change.

        Raises:
            HostError: It cannot be loaded; the checkpoint before it is then loaded again if possible.
        """
        _wait_for_start()
        before = info_of(self.model())
        if force:
            sd_models.checkpoints_loaded.pop(info, None)
        try:
            _load(info, force)
        except Exception as exc:  # loading a model can raise nearly anything
            _load_again(before)
            raise HostError(f"The WebUI could not load {info.name}: {describe_error(exc)}") from exc
        if not self.is_loaded(info):
            raise HostError(f"The WebUI did not load {info.name}; its console says why.")

    def opened(self, info: Any) -> None:
        """Take the checkpoint out of the WebUI's cache, which may share memory with the model."""
        sd_models.checkpoints_loaded.pop(info, None)

    def guard(self, host: LoadingHost) -> None:
        """Put gates before the settings that make the WebUI load a checkpoint, if there are none yet."""

        def make_gate(option: str, then: Callable[[], None] | None) -> LoadGate:
            return LoadGate(
                then, queue=host.queue, calls=host.end_merges, needed_checkpoint=host.needed_checkpoint, option=option
            )

        put_gates(make_gate)

    def loaded(self, module: Any) -> None:
        """Note that the WebUI reports a load."""
        count_loads(module).note_host()

    def settle(self) -> None:
        """Do nothing: the gates let choices through as soon as the queue is free."""

    def release(self) -> None:
        """Do nothing: nothing is held beyond a request."""

    def job(self) -> AbstractContextManager[None]:
        """Do nothing: the gates wait for the queue."""
        return nullcontext()

    def keep(self, p: Any, info: Any) -> None:
        """Override the setting that names a checkpoint, if it names another one."""
        chosen = selected_checkpoint()
        if chosen is None or not is_file_of(chosen, ref_of(info).path):
            override_checkpoint(p, info)
            secure_settings(p)

    def refusal(self, p: Any) -> str | None:  # noqa: ARG002
        """Give None: nothing but the name of a checkpoint replaces the model."""
        return None

    def end_kept(self, module: Any, info: Any, *, chosen: bool) -> bool:  # noqa: ARG002
        """Load the checkpoint again, if the WebUI would use the kept merge in its place."""
        if chosen or shared.opts.sd_checkpoints_limit > 1:
            self.load(info, force=True)
        return False

    def drop(self, module: Any) -> bool:
        """Have the WebUI not use a model again that it has set aside."""
        models = sd_models.model_data.loaded_sd_models
        if all(model is not module for model in models):
            return False
        sd_models.model_data.loaded_sd_models = [model for model in models if model is not module]
        return True


def info_of(module: Any) -> Any:
    """Give the info of the checkpoint that a model was loaded from; None if there is none."""
    return getattr(module, "sd_checkpoint_info", None)


def _load(info: Any, force: bool) -> None:
    with sd_models.SkipWritingToConfig():
        sd_models.reload_model_weights(info=info, forced_reload=force)


def _load_again(info: Any) -> None:
    """Give the WebUI a working model after a failed load, which leaves it with an incomplete one."""
    devices.torch_gc()
    if info is None:
        return
    try:
        _load(info, force=True)
    except Exception as exc:  # the user is told of the first error
        _log.warning("The WebUI could not load %s again: %s", info.name, describe_error(exc))


def _wait_for_start() -> None:
    """Wait until the WebUI has loaded its first model, which it does in a separate thread."""
    with sd_models.model_data.lock:
        pass
