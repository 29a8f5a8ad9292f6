"""The WebUI's list of checkpoints, and having it load one without its settings being touched."""

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
    """Give what the host knows of a checkpoint as the port has it; the title goes without the hash."""
    return CheckpointRef(info.name, Path(os.path.abspath(info.filename)))  # noqa: PTH100 - links stay as they are


def is_file_of(info: Any, path: Path) -> bool:
    """Tell whether a file is that of a checkpoint of the host, links followed."""
    own = ref_of(info).path
    return own == path or own.resolve() == path.resolve()


def find_checkpoint(path: Path) -> Any:
    """Give what the host knows of a file, if need be after it has looked for checkpoints anew.

    Raises:
        HostError: It does not know the file.
    """
    for attempt in ("as listed", "listed anew"):
        if attempt == "listed anew":
            rescan()
        found = next((info for info in list(sd_models.checkpoints_list.values()) if is_file_of(info, path)), None)
        if found is not None:
            return found
    raise HostError(
        f"{path} is not among the WebUI's checkpoints.\n"
        f"Put it into {shared.cmd_opts.ckpt_dir or sd_models.model_path} and refresh the list."
    )


def rescan() -> None:
    """Have the host look for checkpoints; one named on its command line would become the user's choice by that."""
    with _choice_kept():
        sd_models.list_models()


def selected_checkpoint() -> Any:
    """Give the checkpoint that the user has chosen in the host's settings; None if there is none of that name."""
    return sd_models.checkpoint_aliases.get(shared.opts.data.get(CHECKPOINT_OPTION))


def override_alias(info: Any) -> str:
    """Give a name of a checkpoint that the host understands, and that is in none of its lists of choices.

    The host passes over a choice that its settings hold already, if only for the time of one image.
    """
    choices = (info.title, getattr(info, "short_title", info.title))
    names = [f"{info.name} [{info.hash}]", *info.ids]
    found = [name for name in names if name not in choices and sd_models.checkpoint_aliases.get(name) is info]
    return str(found[0] if found else info.title)


def override_checkpoint(request: Any, info: Any) -> None:
    """Have the host make one request's images with a checkpoint, whatever its settings choose.

    Args:
        request: To the host; its dictionary is replaced, since scripts share it among requests.
        info: What the host knows of the checkpoint.
    """
    request.override_settings = {**request.override_settings, CHECKPOINT_OPTION: override_alias(info)}


def secure_settings(request: Any) -> None:
    """See to it that the settings which a request overrides are afterwards what they were.

    The host gives back only those that its settings file names; one that was never saved would stay overridden.
    """
    for option in request.override_settings:
        shared.opts.data.setdefault(option, shared.opts.get_default(option))


def load(info: Any, *, force: bool) -> None:
    """Have the host load a checkpoint into its live model; the settings still name the user's choice.

    Args:
        info: What the host knows of it.
        force: Whether to load it even if the host takes it for loaded.

    Raises:
        HostError: It cannot; the checkpoint before is then loaded again, if that can be done.
    """
    _wait_for_start()
    before = getattr(sd_models.model_data.sd_model, "sd_checkpoint_info", None)
    if force:
        sd_models.checkpoints_loaded.pop(info, None)
    try:
        _load(info, force)
    except Exception as exc:  # there is hardly an error that loading a model cannot end in
        _load_again(before)
        raise HostError(f"The WebUI could not load {info.name}: {describe_error(exc)}") from exc
    now = getattr(sd_models.model_data.sd_model, "sd_checkpoint_info", None)
    if now is None or not is_file_of(now, ref_of(info).path):
        raise HostError(f"The WebUI did not load {info.name}; its console says why.")


def _load(info: Any, force: bool) -> None:
    with sd_models.SkipWritingToConfig():
        sd_models.reload_model_weights(info=info, forced_reload=force)


def _load_again(info: Any) -> None:
    """Give the host a working model after a failure: it leaves one half taken apart."""
    devices.torch_gc()
    if info is None:
        return
    try:
        _load(info, force=True)
    except Exception as exc:  # the first error is the one to tell of
        _log.warning("The WebUI could not load %s again: %s", info.name, describe_error(exc))


def _wait_for_start() -> None:
    """Wait until the host has loaded its first model, which it does in a thread of its own."""
    with sd_models.model_data.lock:
        pass


@contextmanager
def _choice_kept() -> Iterator[None]:
    chosen = shared.opts.data.get(CHECKPOINT_OPTION)
    try:
        yield
    finally:
        if shared.opts.data.get(CHECKPOINT_OPTION) != chosen:
            shared.opts.data[CHECKPOINT_OPTION] = chosen
