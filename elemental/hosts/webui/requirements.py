"""What the port needs of the WebUI and its descendants; a host that lacks any of it is left alone."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping

_FORGE_LOADS_BY = "forge_model_reload"
"""Forge and its descendants load models by this function of ``sd_models``; the functions of the same names as the
WebUI's do nothing there, or are gone."""

Needs = Mapping[str, tuple[str, ...]]
"""Modules, those of the host without its prefix ``modules.``, and what is used of each."""

_SHARED: Needs = {
    "call_queue": ("queue_lock",),
    "devices": ("NansException", "torch_gc"),
    "processing": (
        "StableDiffusionProcessing.cached_c",
        "StableDiffusionProcessing.cached_uc",
        "StableDiffusionProcessingTxt2Img.cached_hr_c",
        "StableDiffusionProcessingTxt2Img.cached_hr_uc",
        "process_images",
    ),
    "script_callbacks": (
        "on_after_component",
        "on_cfg_denoiser",
        "on_infotext_pasted",
        "on_model_loaded",
        "on_ui_tabs",
    ),
    "scripts": ("AlwaysVisible", "Script", "scripts_txt2img"),
    "sd_models": (
        "checkpoint_aliases",
        "checkpoints_list",
        "get_closet_checkpoint_match",
        "list_models",
        "model_data.sd_model",
        "model_path",
    ),
    "sd_samplers": ("visible_sampler_names",),
    "sd_schedulers": ("schedulers",),
    "shared": ("cmd_opts", "opts.data", "opts.data_labels", "state"),
    "txt2img": ("txt2img_create_processing",),
}
_WEBUI: Needs = {
    "devices": ("autocast", "without_autocast"),
    "extra_networks": ("extra_network_registry", "lookup_extra_networks"),
    "sd_models": (
        "SkipWritingToConfig",
        "apply_token_merging",
        "checkpoints_loaded",
        "get_empty_cond",
        "model_data.loaded_sd_models",
        "model_data.lock",
        "reload_model_weights",
    ),
    "sd_unet": ("current_unet",),
    "sd_vae": ("get_base_vae", "loaded_vae_file"),
    "shared": ("cmd_opts.ckpt_dir", "opts.sd_checkpoints_limit"),
}
_FORGE: Needs = {
    "sd_models": ("model_data.forge_hash", "model_data.forge_loading_parameters"),
    "modules_forge.main_entry": ("refresh_model_loading_parameters",),
}


def loads_as_forge() -> bool:
    """Tell whether the host loads models as Forge and its descendants do."""
    return has("sd_models", _FORGE_LOADS_BY)


def why_unsupported() -> str | None:
    """Say why the extension cannot work in this host; None if it can.

    Nothing of the host is changed to find out.
    """
    is_forge = loads_as_forge()
    missing = list(
        dict.fromkeys(part for needs in (_SHARED, _FORGE if is_forge else _WEBUI) for part in _missing(needs))
    )
    if not missing:
        return None
    name = "Forge" if is_forge else "the WebUI"
    return (
        f"Elemental does not work in this version of {name}, which lacks {', '.join(missing)}. Nothing of it was "
        "changed. Version 1.10.1 of AUTOMATIC1111's WebUI, reForge, Forge and Forge Neo are supported. The command line"
        " and the standalone page (elemental ui) work with the same checkpoints."
    )


def has(module: str, part: str) -> bool:
    """Tell whether a module of the host has a part, such as "model_data.lock"."""
    try:
        owner: object = importlib.import_module(_full(module))
    except ImportError:
        return False
    for name in part.split("."):
        if not hasattr(owner, name):
            return False
        owner = getattr(owner, name)
    return True


def _missing(needs: Needs) -> Iterator[str]:
    return (f"{_full(module)}.{part}" for module, parts in needs.items() for part in parts if not has(module, part))


def _full(module: str) -> str:
    return module if module.startswith("modules_") else f"modules.{module}"
