"""The WebUI's list of checkpoints, and loading one of them without changing the WebUI's settings.

The WebUI describes a checkpoint by an object of its class ``CheckpointInfo``; these objects are called ``info`` here.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from modules import devices, sd_models, shared

from ...errors import HostError
from ..base import CheckpointRef
from .errors import describe_error
from .loading import CHECKPOINT_OPTION

_log = logging.getLogger(__name__)


def ref_of(info: Any) -> CheckpointRef:
    """Give a checkpoint as the port has it; its title comes without the hash."""
    return CheckpointRef(info.name, Path(os.path.abspath(info.filename)))  # noqa: PTH100 - links are not resolved


def is_file_of(info: Any, path: Path) -> bool:
    """Tell whether a path is the file of a checkpoint; links are followed."""
    listed = ref_of(info).path
    return listed == path or listed.resolve() == path.resolve()


def find_checkpoint(path: Path) -> Any:
    """Give the info of a file; if the WebUI does not list the file, its list is refreshed first.

    Raises:
        HostError: The file is not among the WebUI's checkpoints.
    """
    info = _listed(path)
    if info is None:
        rescan()
        info = _listed(path)
    if info is None:
        raise HostError(
            f"{path} is not among the WebUI's checkpoints.\n"
            f"Put it into {shared.cmd_opts.ckpt_dir or sd_models.model_path} and refresh the list."
        )
    return info


def _listed(path: Path) -> Any:
    return next((info for info in list(sd_models.checkpoints_list.values()) if is_file_of(info, path)), None)


def rescan() -> None:
    """Have the WebUI list its checkpoints again.

    This would also select the checkpoint that is named on the WebUI's command line, so the user's choice is restored.
    """
    with _choice_restored():
        sd_models.list_models()


def selected_checkpoint() -> Any:
    """Give the info of the checkpoint that is selected in the WebUI's settings; None if it is not in the list."""
    return sd_models.checkpoint_aliases.get(shared.opts.data.get(CHECKPOINT_OPTION))


def override_alias(info: Any) -> str:
    """Give a name of a checkpoint that the WebUI understands but never writes into its settings itself.

    If the user selects a checkpoint whose name is in the settings already, the WebUI ignores it, even if the name is
    there for one image only.
    """
    choices = (info.title, getattr(info, "short_title", info.title))
    names = [f"{info.name} [{info.hash}]", *info.ids]
    aliases = (name for name in names if name not in choices and sd_models.checkpoint_aliases.get(name) is info)
    return str(next(aliases, info.title))


def override_checkpoint(request: Any, info: Any) -> None:
    """Have the WebUI make the images of a request with a checkpoint, whatever is selected in its settings.

    Args:
        request: The WebUI's request; its dictionary is replaced, because scripts share it among requests.
        info: The checkpoint.
    """
    request.override_settings = {**request.override_settings, CHECKPOINT_OPTION: override_alias(info)}


def secure_settings(request: Any) -> None:
    """Make sure that the settings that a request overrides are restored after it.

    The WebUI restores only those that are in its settings file; one that was never saved would stay overridden.
    """
    for option in request.override_settings:
        shared.opts.data.setdefault(option, shared.opts.get_default(option))


def load(info: Any, *, force: bool) -> None:
    """Have the WebUI load a checkpoint into its live model; its settings do not change.

    Args:
        info: The checkpoint.
        force: Whether to load it even if the WebUI considers it loaded.

    Raises:
        HostError: It cannot be loaded; the checkpoint before it is then loaded again if possible.
    """
    _wait_for_start()
    before = loaded_info()
    if force:
        sd_models.checkpoints_loaded.pop(info, None)
    try:
        _load(info, force)
    except Exception as exc:  # loading a model can raise nearly anything
        _load_again(before)
        raise HostError(f"The WebUI could not load {info.name}: {describe_error(exc)}") from exc
    now = loaded_info()
    if now is None or not is_file_of(now, ref_of(info).path):
        raise HostError(f"The WebUI did not load {info.name}; its console says why.")


def loaded_info() -> Any:
    """Give the info of the checkpoint that the live model was loaded from; None if no model is loaded."""
    return getattr(sd_models.model_data.sd_model, "sd_checkpoint_info", None)


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


@contextmanager
def _choice_restored() -> Iterator[None]:
    chosen = shared.opts.data.get(CHECKPOINT_OPTION)
    try:
        yield
    finally:
        if shared.opts.data.get(CHECKPOINT_OPTION) != chosen:
            shared.opts.data[CHECKPOINT_OPTION] = chosen
