"""How Forge and Forge Neo load checkpoints, and how a job keeps the model that it needs.

Before each image Forge compares ``model_data.forge_loading_parameters`` with what is loaded, and loads if they differ.
Its settings are only read by ``main_entry.refresh_model_loading_parameters``, which is called when the user picks
something, within requests that override settings, and whenever a page is opened. So while a job runs or a merge is in
the model, the parameters are held, and the settings are read later.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from modules import devices, sd_models
from modules_forge import main_entry

from ...errors import HostError
from ..webui.checkpoints import is_file_of, ref_of
from ..webui.errors import describe_error
from ..webui.loader import info_of
from ..webui.loading import CHECKPOINT_OPTION
from ..webui.parts import LoadingHost

_log = logging.getLogger(__name__)

_CHECKPOINT = "checkpoint_info"
_MODULES = "additional_modules"
_MODULES_OPTION = "forge_additional_modules"
_REFRESH = "refresh_model_loading_parameters"
_SAME_CHOICES = "Use same choices"

Wanted = Mapping[str, Any]
"""Forge's parameters of a load: the checkpoint, files beside it, the number format of the U-Net."""


class Refresh:
    """Stands in the place of Forge's function that reads the settings, and never waits in it.

    The function is called within requests that hold the queue, so waiting for the queue would never end.

    Args:
        then: Forge's function.
        loader: Says whether it may be called now.
    """

    def __init__(self, then: Callable[..., Any], loader: ForgeLoader) -> None:
        self.then = then
        self._loader = loader

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Read the settings now, or after what runs now."""
        if options.get("refresh") is False or not self._loader.put_off():
            return self.then(*args, **options)
        return None


class ForgeLoader:
    """Loads by ``sd_models.forge_model_reload``, and holds the parameters that a model was loaded with."""

    def __init__(self) -> None:
        self._host: LoadingHost | None = None
        self._loaded_with: Wanted = {}
        self._held: Wanted | None = None
        self._users: Wanted = {}  # what the user had chosen when the hold began
        self._in_job = False
        self._is_waiting = False

    def model(self) -> Any:
        """Give Forge's engine; None if none is loaded, in whose place Forge has another object."""
        engine = sd_models.model_data.sd_model
        return engine if info_of(engine) is not None else None

    def in_memory(self) -> Sequence[Any]:
        """Give the engine: Forge keeps no other."""
        return [self.model()]

    def additional_modules(self) -> Sequence[str]:
        """Give the files of VAE and text encoders that are loaded in place of the checkpoint's."""
        return list(self._loaded_with.get(_MODULES) or ())

    def is_loaded(self, info: Any) -> bool:
        """Tell whether the engine is this checkpoint, with the files beside it that the user has chosen."""
        loaded = info_of(self.model())
        if loaded is None or not is_file_of(loaded, ref_of(info).path):
            return False
        return str(sd_models.model_data.forge_hash) == str(self._wanted(loaded))

    def load(self, info: Any, *, force: bool) -> None:
        """Have Forge load a checkpoint; its settings do not change.

        Raises:
            HostError: It cannot be loaded; the checkpoint before it is then loaded again if possible.
        """
        is_none = self.model() is None
        before = {} if is_none else self._loaded_with
        if force or is_none:  # after a failed load Forge still believes in the one before
            sd_models.model_data.forge_hash = ""
        self._hold(self._wanted(info))
        try:
            sd_models.forge_model_reload()
        except Exception as exc:  # loading a model can raise nearly anything
            self._load_again(before)
            raise HostError(f"Forge could not load {info.name}: {describe_error(exc)}") from exc
        loaded = info_of(self.model())
        if loaded is None or not is_file_of(loaded, ref_of(info).path):
            raise HostError(f"Forge did not load {info.name}; its console says why.")

    def _load_again(self, before: Wanted) -> None:
        """Give Forge the model from before a failed load, which leaves it with none."""
        devices.torch_gc()
        sd_models.model_data.forge_hash = ""
        if not before:
            return
        self._hold(before)
        try:
            sd_models.forge_model_reload()
        except Exception as exc:  # the user is told of the first error
            sd_models.model_data.forge_hash = ""
            _log.warning("Forge could not load %s again: %s", before[_CHECKPOINT].name, describe_error(exc))

    def opened(self, info: Any) -> None:
        """Hold the parameters of a checkpoint that was loaded already, or a choice would be read at once."""
        if self._held is None:
            self._hold(self._wanted(info))

    def guard(self, host: LoadingHost) -> None:
        """Have Forge ask before it reads its settings; to be called before pages are built, which keep the function."""
        self._host = host
        if not isinstance(getattr(main_entry, _REFRESH), Refresh):
            setattr(main_entry, _REFRESH, Refresh(getattr(main_entry, _REFRESH), self))

    def loaded(self, module: Any) -> None:  # noqa: ARG002
        """Note what an engine is loaded with; Forge says so while the parameters are still the engine's."""
        self._loaded_with = dict(sd_models.model_data.forge_loading_parameters)

    def put_off(self) -> bool:
        """Tell whether the settings are read later, since a job or a merge needs the model as it is."""
        host = self._host
        if self._held is None or host is None:
            return False
        self._is_waiting = True
        if not host.queue.mine:
            with host.queue.at_once() as entered:
                if entered:
                    self.settle()
        return True

    def settle(self) -> None:
        """Read the settings if that was put off; what the user has chosen anew ends merges."""
        host = self._host
        if self._held is None or host is None or self._in_job:
            return
        if self._is_waiting:
            self._is_waiting = False
            self._read_settings()
            chosen = sd_models.model_data.forge_loading_parameters
            if str(chosen) != str(self._users):
                self._users = chosen
                host.end_merges()
                return
            sd_models.model_data.forge_loading_parameters = self._held
        if not host.has_merge():
            self.release()

    @contextmanager
    def job(self) -> Iterator[None]:
        """Hold what a job needs until its end; a merge that is then in the model goes on holding it."""
        self.settle()
        self._in_job = True
        try:
            yield
        finally:
            self._in_job = False
            self.settle()

    def release(self) -> None:
        """Let Forge have the user's choice again."""
        if self._held is None or self._in_job:
            return
        self._held = None
        sd_models.model_data.forge_loading_parameters = self._users
        if self._is_waiting:
            self._is_waiting = False
            self._read_settings()

    def keep(self, p: Any, info: Any) -> None:
        """Hold the parameters of the engine for a request.

        What the request overrides of them is what the engine has, or the request would have been refused.
        """
        p.override_settings = {
            name: value
            for name, value in p.override_settings.items()
            if name not in (CHECKPOINT_OPTION, _MODULES_OPTION)
        }
        is_known = str(self._loaded_with) == str(sd_models.model_data.forge_hash)
        self._hold(self._loaded_with if is_known else self._wanted(info))

    def refusal(self, p: Any) -> str | None:
        """Say why a request would load other files beside the checkpoint; None if it would not."""
        overridden = p.override_settings.get(_MODULES_OPTION)
        if overridden is not None and not self._are_loaded(overridden):
            return (
                "The override settings ask for another VAE or text encoder, which would replace the model; remove that "
                "setting in the txt2img tab."
            )
        second = getattr(p, "hr_additional_modules", None)
        is_same = second is None or _SAME_CHOICES in second or self._are_loaded(second)
        if getattr(p, "enable_hr", False) and not is_same:
            return (
                "Hires. fix with another VAE or text encoder would replace the model during an image; choose "
                f'"{_SAME_CHOICES}" in the txt2img tab.'
            )
        return None

    def _are_loaded(self, files: Sequence[str]) -> bool:
        return sorted(map(os.path.basename, files)) == sorted(map(os.path.basename, self.additional_modules()))

    def end_kept(self, module: Any, info: Any, *, chosen: bool) -> bool:  # noqa: ARG002
        """Have Forge load the checkpoint before the next image."""
        sd_models.model_data.forge_hash = ""
        return True

    def drop(self, module: Any) -> bool:  # noqa: ARG002
        """Do nothing: Forge sets no model aside."""
        return False

    def _wanted(self, info: Any) -> Wanted:
        """Give the parameters of a checkpoint with everything else as the user has chosen it."""
        if self._held is None and _CHECKPOINT not in sd_models.model_data.forge_loading_parameters:
            self._read_settings()  # Forge does so when it builds its pages
        users = sd_models.model_data.forge_loading_parameters if self._held is None else self._users
        return {**users, _CHECKPOINT: info}

    def _hold(self, wanted: Wanted) -> None:
        if self._held is None:
            self._users = sd_models.model_data.forge_loading_parameters
        self._held = sd_models.model_data.forge_loading_parameters = wanted

    def _read_settings(self) -> None:
        refresh = getattr(main_entry, _REFRESH)
        (refresh.then if isinstance(refresh, Refresh) else refresh)()
