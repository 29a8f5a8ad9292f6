"""What the port needs of the WebUI; a host that lacks any of it, or loads models otherwise, is left alone."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

FORGE_MARK = "forge_model_reload"
"""Forge and its descendants load models by this function of ``sd_models``; the functions of the same names as the
WebUI's do nothing there, and a setting that is changed within a request would wait for that request."""

NEEDED = {
    "call_queue": ("queue_lock",),
    "devices": ("NansException", "autocast", "torch_gc", "without_autocast"),
    "extra_networks": ("extra_network_registry", "lookup_extra_networks"),
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
        "SkipWritingToConfig",
        "apply_token_merging",
        "checkpoint_aliases",
        "checkpoints_list",
        "checkpoints_loaded",
        "get_closet_checkpoint_match",
        "get_empty_cond",
        "list_models",
        "model_data.loaded_sd_models",
        "model_data.lock",
        "model_data.sd_model",
        "model_path",
        "reload_model_weights",
    ),
    "sd_samplers": ("visible_sampler_names",),
    "sd_schedulers": ("schedulers",),
    "sd_unet": ("current_unet",),
    "sd_vae": ("get_base_vae", "loaded_vae_file"),
    "shared": ("cmd_opts.ckpt_dir", "opts.data", "opts.data_labels", "opts.sd_checkpoints_limit", "state"),
    "txt2img": ("txt2img_create_processing",),
}
"""The modules of the WebUI, and what is used of each."""


def why_unsupported() -> str | None:
    """Say why the extension cannot work in this host; None if it can.

    Nothing of the host is changed to find out.
    """
    if _has("sd_models", FORGE_MARK):
        return (
            "Elemental does not work in Forge and Forge Neo yet, which load models in another way than the "
            "WebUI. Nothing of this host was changed. The command line and the standalone page (elemental ui) work "
            "with the same checkpoints."
        )
    missing = list(_missing())
    if missing:
        return (
            f"Elemental does not work in this version of the WebUI, which lacks {', '.join(missing)}. Nothing of it "
            "was changed. Version 1.10.1 of AUTOMATIC1111's WebUI is supported."
        )
    return None


def _missing() -> Iterator[str]:
    return (f"modules.{module}.{part}" for module, parts in NEEDED.items() for part in parts if not _has(module, part))


def _has(module: str, part: str) -> bool:
    """Tell whether a module of the WebUI has a part, such as "model_data.lock"."""
    try:
        owner: object = importlib.import_module(f"modules.{module}")
    except ImportError:
        return False
    for name in part.split("."):
        if not hasattr(owner, name):
            return False
        owner = getattr(owner, name)
    return True
