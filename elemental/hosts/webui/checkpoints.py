"""The WebUI's list of checkpoints, and naming one of them without changing the WebUI's settings.

The WebUI describes a checkpoint by an object of its class ``CheckpointInfo``; these objects are called ``info`` here.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from modules import sd_models, shared

from ...errors import HostError
from ..base import CheckpointRef
from .loading import CHECKPOINT_OPTION


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
            f"{path} is not among the WebUI's checkpoints.\nPut it into {models_folder()} and refresh the list."
        )
    return info


def models_folder() -> Path:
    """Give the WebUI's folder of checkpoints; where there can be several, the first."""
    options = shared.cmd_opts
    folders = [getattr(options, "ckpt_dir", None), *(getattr(options, "ckpt_dirs", None) or ()), sd_models.model_path]
    return Path(next(filter(None, folders))).absolute()


def lora_folders() -> list[Path]:
    """Give the folders of the Lora extension, the first of which is for new files; none where it is switched off.

    Its ``preload.py`` adds ``--lora-dir`` to the WebUI's options and, for the files of an older extension,
    ``--lyco-dir-backcompat``; Forge Neo has more of them in ``--lora-dirs``.
    """
    options = shared.cmd_opts
    named = [getattr(options, "lora_dir", None), *(getattr(options, "lora_dirs", None) or ())]
    older = [getattr(options, "lyco_dir_backcompat", None)]
    return [Path(folder).absolute() for folder in (*named, *older) if folder]


def _listed(path: Path) -> Any:
    return next((info for info in list(sd_models.checkpoints_list.values()) if is_file_of(info, path)), None)


def rescan() -> None:
    """Have the WebUI list its checkpoints again.

    If a checkpoint is named on the WebUI's command line, this would also select that one, so the user's choice is
    restored then. Nothing else is undone, because meanwhile the user and requests change the setting.
    """
    chosen = shared.opts.data.get(CHECKPOINT_OPTION)
    try:
        sd_models.list_models()
    finally:
        named = getattr(shared.cmd_opts, "ckpt", None)
        now = sd_models.checkpoint_aliases.get(shared.opts.data.get(CHECKPOINT_OPTION))
        if named and now is not None and is_file_of(now, Path(os.path.abspath(named))):  # noqa: PTH100 - as ref_of
            shared.opts.data[CHECKPOINT_OPTION] = chosen


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
